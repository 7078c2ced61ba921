"""GPT-2 by transformers: makes model folders and says what their models compute. Knows nothing of shardloop."""
import os

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model


def main(args, tensors):
    return {"make": make, "read": read, "generate": generate}[args["do"]](args, tensors)


def make(args, _):
    """Saves a model with random weights; returns logits, loss and every gradient."""
    torch.manual_seed(args.get("seed", 0))
    config = GPT2Config(**args["config"])
    config._attn_implementation = args.get("attention", "sdpa")
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # biases and norms away from 0 and 1, so that they matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * args.get("noise", 0.05))
    model.to(getattr(torch, args.get("dtype", "float32")))
    if args.get("bare"):
        bare = GPT2Model(config)
        bare.load_state_dict(model.transformer.state_dict())
        bare.to(model.dtype).save_pretrained(args["dir"])
    else:
        model.save_pretrained(args["dir"], max_shard_size=args.get("shard", "5GB"))
    return sorted(os.listdir(args["dir"])), compute(model, args)


def read(args, _):
    """Loads a folder; returns its config and what its model computes."""
    model = AutoModelForCausalLM.from_pretrained(args["dir"], **args.get("options", {})).eval()
    return model.config.to_dict(), compute(model, args)


def compute(model, args):
    ids = torch.tensor(args["ids"])
    given = {name: torch.tensor(args[name]) for name in ("attention_mask", "position_ids", "labels") if name in args}
    out = model(input_ids=ids, **given)
    result = {"logits": out.logits}
    if "labels" in args:
        model.zero_grad()
        out.loss.backward()
        result["loss"] = out.loss
        result |= {"grad." + name: p.grad for name, p in model.named_parameters()}
    return result


def generate(args, _):
    model = AutoModelForCausalLM.from_pretrained(args["dir"]).eval()
    rows = []
    for prompt in args["prompts"]:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                             max_new_tokens=args["max_new_tokens"], eos_token_id=args.get("eos"))
        rows.append(out[0, len(prompt):].tolist())
    return rows
