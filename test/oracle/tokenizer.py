"""Token ids, decodings and vocabularies by Python's transformers, for folders that TypeScript wrote or that are made here."""
import json
import os

from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


def main(args, tensors):
    return globals()[args["do"]](args)


def train(args):
    """Trains a tokenizer on the texts and saves it as a Hugging Face folder."""
    kind, special = args["kind"], ["<|endoftext|>", "<|pad|>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=3000, special_tokens=special + ["<unk>"], unk_token="<unk>")
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special, initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(args["texts"], trainer)
    os.makedirs(args["dir"], exist_ok=True)
    if kind == "vocab-and-merges":
        tokenizer.model.save(args["dir"])
        with open(os.path.join(args["dir"], "tokenizer_config.json"), "w") as file:
            json.dump({"tokenizer_class": "GPT2Tokenizer"}, file)
        return
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>",
        **({"unk_token": "<unk>"} if kind == "unigram" else {}))
    wrapped.save_pretrained(args["dir"])


def encode(args):
    """Ids of every text, their decodings with and without special tokens, and what the special tokens are."""
    kind = GPT2Tokenizer if args.get("slow") else AutoTokenizer
    tokenizer = kind.from_pretrained(args["dir"])
    ids = [tokenizer(text)["input_ids"] for text in args["texts"]]
    return {
        "ids": ids,
        "decoded": [tokenizer.decode(one) for one in ids],
        "skipped": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "size": max(tokenizer.get_vocab().values()) + 1,
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    }


def chat(args):
    """Rendered text, ids and assistant mask of conversations under a template."""
    tokenizer = AutoTokenizer.from_pretrained(args["dir"])
    result = []
    for messages in args["conversations"]:
        options = {"chat_template": args["template"], "tools": args.get("tools")}
        entry = {
            "text": tokenizer.apply_chat_template(messages, tokenize=False, **options),
            "prompt": tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False, **options),
        }
        mask = "generation %}" in args["template"]
        full = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=mask, **options)
        entry["ids"] = full["input_ids"]
        entry["mask"] = full["assistant_masks"] if mask else None
        result.append(entry)
    return result
