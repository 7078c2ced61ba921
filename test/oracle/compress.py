"""Packed gradients as their definitions have them: what the owner of a shard adds up, rank by rank and piece by piece."""
import math

import torch


def int8(piece, _owed):
    """Blocks of 256 with a scale each."""
    sent = torch.zeros_like(piece)
    for block, out in zip(piece.split(256), sent.split(256)):
        scale = block.abs().max() / 127
        if scale > 0:
            out.copy_((block / scale).round().clamp(-127, 127).to(torch.int8).float() * scale)
    return sent


def topk(ratio):
    def pack(piece, owed):
        """The largest elements; the rest is owed and joins the next gradient."""
        owed += piece
        places = owed.abs().sort(descending=True).indices[: math.ceil(ratio * piece.numel())]
        sent = torch.zeros_like(piece)
        sent[places] = owed[places]
        owed[places] = 0
        return sent

    return pack


def main(args, tensors):
    """tensors: "g.STEP.RANK" (n); args: ranks, shard (elements), piece (elements). Returns p after lr 1 SGD from zero."""
    pack = int8 if args["kind"] == "int8" else topk(args["ratio"])
    ranks, shard, piece = args["ranks"], args["shard"], args["piece"]
    n = tensors["g.0.0"].numel()
    p = torch.zeros(ranks * shard)
    owed = torch.zeros(ranks, ranks * shard)
    for step in range(args["steps"]):
        for rank in range(ranks):
            g = torch.nn.functional.pad(tensors[f"g.{step}.{rank}"], (0, ranks * shard - n))
            for start in range(0, ranks * shard, shard):
                for a in range(start, start + shard, piece):
                    b = min(a + piece, start + shard)
                    p[a:b] -= pack(g[a:b], owed[rank, a:b])
    return None, {"p": p[:n].clone()}
