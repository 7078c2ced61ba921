"""Python's side of bench/generation.ts: a process that generates. A way, then arguments and commands as in
generation-process.ts; the way is `generate` (transformers as it comes), `static` (the same with a static cache), `compiled` (the same with
the forward compiled by torch.compile) or `loop` (the architecture written out over torch, with a static cache).
"""
import os
import sys
import time

import torch
import torch.nn.functional as F
from peak_memory import peak_memory
from transformers import GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
way, folder, precision = sys.argv[1:4]
threads, rows, prompt, fresh = map(int, sys.argv[4:8])
torch.set_num_threads(threads)
dtype = torch.bfloat16 if precision == "bf16" else torch.float32
model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
V = model.config.vocab_size
ids = torch.tensor([[((r + 1) * 7919 + at * (r + 3)) % V for at in range(prompt)] for r in range(rows)])
model.generation_config.eos_token_id = None
options = {"max_new_tokens": fresh, "min_new_tokens": fresh, "do_sample": False, "pad_token_id": 0}
options["attention_mask"] = torch.ones_like(ids)
if way in ("static", "compiled"):
    options["cache_implementation"] = "static"
if way == "compiled":
    model.forward = torch.compile(model.forward, fullgraph=False)


def run():
    return model.generate(ids, **options)[:, prompt:]


if way == "loop":
    config = model.config
    H, C = config.n_head, config.n_embd
    D = C // H
    layers = [
        (
            b.ln_1, b.ln_2,
            b.attn.c_attn.weight, b.attn.c_attn.bias, b.attn.c_proj.weight, b.attn.c_proj.bias,
            b.mlp.c_fc.weight, b.mlp.c_fc.bias, b.mlp.c_proj.weight, b.mlp.c_proj.bias,
        )
        for b in model.transformer.h
    ]
    wte, wpe, ln_f = model.transformer.wte.weight, model.transformer.wpe.weight, model.transformer.ln_f
    length = prompt + fresh
    keys = torch.zeros(len(layers), rows, H, length, D, dtype=dtype)
    values = torch.zeros_like(keys)
    positions = torch.arange(length)

    def norm(x, layer):
        return F.layer_norm(x, (C,), layer.weight, layer.bias, layer.eps)

    def forward(tokens, past):
        T = tokens.shape[1]
        x = F.embedding(tokens, wte) + wpe[positions[past : past + T]]
        for i, (ln_1, ln_2, aw, ab, pw, pb, fw, fb, ow, ob) in enumerate(layers):
            qkv = torch.addmm(ab, norm(x, ln_1).view(-1, C), aw).view(rows, T, 3, H, D)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            keys[i, :, :, past : past + T] = k
            values[i, :, :, past : past + T] = v
            y = F.scaled_dot_product_attention(
                q, keys[i, :, :, : past + T], values[i, :, :, : past + T], is_causal=T > 1
            )
            x = x + torch.addmm(pb, y.transpose(1, 2).reshape(-1, C), pw).view(rows, T, C)
            h = F.gelu(torch.addmm(fb, norm(x, ln_2).view(-1, C), fw), approximate="tanh")
            x = x + torch.addmm(ob, h, ow).view(rows, T, C)
        return F.linear(norm(x[:, -1], ln_f), wte).argmax(-1, keepdim=True)

    def run():
        out = [forward(ids, 0)]
        for past in range(prompt, prompt + fresh - 1):
            out.append(forward(out[-1], past))
        return torch.cat(out, 1)


tokens = None
with torch.inference_mode():
    for line in sys.stdin:
        command, *rest = line.split()
        if command == "memory":
            print(peak_memory(), file=answers, flush=True)
        elif command == "check":
            total = 7
            for token in tokens.flatten().tolist():
                total = (total * 31 + token) % 2147483647
            print(total, file=answers, flush=True)
        else:
            start = time.perf_counter_ns()
            for _ in range(int(rest[0])):
                tokens = run()
            print((time.perf_counter_ns() - start) / int(rest[0]), file=answers, flush=True)
