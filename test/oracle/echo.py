"""Sends back what it got: the oracle's own check that both ends of the pipe read tensors alike."""
import torch


def main(args, tensors):
    if args.get("fail"):
        raise ValueError("asked to fail")
    back = dict(tensors)
    back["made"] = torch.tensor([[1.5, -2.0, float("nan")]], dtype=torch.bfloat16)
    back["scalar"] = torch.tensor(7, dtype=torch.int64)
    return {"args": args, "sums": {k: str(v.to(torch.complex128).sum().item()) for k, v in tensors.items()}}, back
