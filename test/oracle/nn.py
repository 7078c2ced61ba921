"""The layers and losses of torch.nn, run forward and backward on given parameters, inputs and output gradients."""
import torch
import torch.nn.functional as F
from torch import nn


def self_attention(tensors, options):
    """Four projections around scaled_dot_product_attention, keys and values repeated by hand."""
    p = {name[2:]: t for name, t in tensors.items() if name.startswith("p.")}
    heads, groups = options["heads"], options["kvHeads"]

    def forward(x, mask=None):
        def project(name, count):
            y = F.linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))
            return y.unflatten(-1, (count, -1)).transpose(1, 2)

        q, k, v = project("query", heads), project("key", groups), project("value", groups)
        y = attend(q, k, v, {"causal": options["causal"]}, mask)
        return F.linear(y.transpose(1, 2).flatten(2), p["output.weight"], p.get("output.bias"))

    return forward


def attend(q, k, v, options, mask=None):
    """softmax(scale q k^T + mask) v, written out; a row without keys gives zeros."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * options.get("scale", q.shape[-1] ** -0.5)
    if mask is not None:
        mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if options.get("causal"):
        t, s = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(t, s, dtype=torch.bool).tril(s - t), -torch.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v


def build(kind, options, tensors):
    weight = tensors.get("p.weight")
    if kind == "Linear":
        return nn.Linear(weight.shape[1], weight.shape[0], bias=options.get("bias", True), dtype=weight.dtype)
    if kind == "Embedding":
        return nn.Embedding(*weight.shape, dtype=weight.dtype)
    if kind == "LayerNorm":
        return nn.LayerNorm(weight.shape[0], eps=options.get("eps", 1e-5), bias=options.get("bias", True), dtype=weight.dtype)
    if kind == "RMSNorm":
        return nn.RMSNorm(weight.shape[0], eps=options.get("eps", 1e-6), dtype=weight.dtype)
    if kind == "gelu":
        return nn.GELU(approximate=options.get("approximate", "none"))
    if kind == "silu":
        return nn.SiLU()
    if kind == "Dropout":
        return nn.Dropout(options["p"])
    if kind == "crossEntropy":
        def loss(logits, labels):
            half = logits.dtype in (torch.bfloat16, torch.float16)
            value = F.cross_entropy(
                (logits.float() if half else logits).flatten(0, -2), labels.flatten(), reduction=options.get("reduction", "mean"),
                ignore_index=options.get("ignoreIndex", -100), label_smoothing=options.get("labelSmoothing", 0.0))
            return value.view(labels.shape) if options.get("reduction") == "none" else value
        return loss
    if kind == "mse":
        return lambda x, y: F.mse_loss(x, y, reduction=options.get("reduction", "mean"))
    if kind == "attention":
        return lambda q, k, v, mask=None: attend(q, k, v, options, mask)
    if kind == "SelfAttention":
        return self_attention(tensors, options)
    raise KeyError(kind)


def main(args, tensors):
    inputs = [tensors[f"x.{i}"] for i in range(args["inputs"])]
    for name, t in tensors.items():
        if t.is_floating_point() and name[0] in "xp" and name not in args["constant"]:
            t.requires_grad_()
    module = build(args["kind"], args["options"], tensors)
    own = {name[2:]: t for name, t in tensors.items() if name.startswith("p.")}
    if isinstance(module, nn.Module) and own:
        for name in own:
            setattr(module, name, nn.Parameter(own[name].detach()))
        own = dict(module.named_parameters())
    if "seed" in args:
        torch.manual_seed(args["seed"])
    y = module(*inputs)
    y.backward(tensors["gradient"] if "gradient" in tensors else torch.ones_like(y))
    out = {"y": y}
    for i, x in enumerate(inputs):
        if x.grad is not None:
            out[f"x.{i}"] = x.grad
    for name, p in own.items():
        out[f"p.{name}"] = p.grad
    return None, out
