"""A model folder by transformers, and the losses of training it there as `shardloop finetune --method full` does."""
import json

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main(args, tensors):
    return globals()[args["do"]](args)


def make(args):
    torch.manual_seed(3)
    config = GPT2Config(**args["config"])
    GPT2LMHeadModel(config).save_pretrained(args["dir"])
    return None


def train(args):
    """All records in every step: bytes as tokens, loss on the response and the end token, padding at the end."""
    torch.manual_seed(1)
    model = GPT2LMHeadModel.from_pretrained(args["dir"], dtype=torch.float32)
    with open(args["data"]) as file:
        records = json.load(file)
    rows = []
    for record in records:
        prompt = list((record["prompt"] + "\n").encode())
        response = list(record["response"].encode()) + [256]
        rows.append((prompt + response, [-100] * len(prompt) + response))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows])
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": args["weightDecay"]}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args["lr"])
    losses, norms = [], []
    for _ in range(args["steps"]):
        loss = model(ids, labels=labels).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), args["clip"]).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"losses": losses, "norms": norms}
