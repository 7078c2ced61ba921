"""Python's side of bench/step.ts: a training run in one process by torch, transformers and peft. A way, then arguments
and commands as in training-process.ts; the way is eager or compiled, in bf16 with all weights in bf16, or autocast or autocast-compiled with
fp32 weights. Scaled-dot-product attention, fused AdamW, gradients clipped at 1, no dropout.
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

# Libraries print on stdout: answers go out by a descriptor of their own.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
way, folder, precision, what = sys.argv[1:5]
rows, length, threads = map(int, sys.argv[5:8])
torch.set_num_threads(threads)
is_autocast = way.startswith("autocast")
dtype = torch.bfloat16 if precision == "bf16" and not is_autocast else torch.float32
model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
model.train()
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
V = model.config.vocab_size
if what == "lora":
    from peft import PeftModel

    # With bf16 weights the adapter is bf16 too, as ours and as peft's option has it; else fp32.
    model = PeftModel.from_pretrained(
        model, os.path.join(folder, "adapter"), is_trainable=True, autocast_adapter_dtype=dtype == torch.float32
    )
ids = torch.tensor([[((row + 1) * 7919 + at * (row + 3)) % V for at in range(length)] for row in range(rows)])
targets = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast)
net = torch.compile(model) if way.endswith("compiled") else model
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01, fused=True)


def step():
    with autocast:
        logits = net(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits.float().view(-1, V), targets.view(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


loss = torch.tensor(float("nan"))
for line in sys.stdin:
    command, *rest = line.split()
    if command == "check":
        print(loss.item(), file=answers, flush=True)
    elif command == "memory":
        print(peak_memory(), file=answers, flush=True)
    else:
        count = int(rest[0])
        start = time.perf_counter_ns()
        for _ in range(count):
            loss = step()
        print((time.perf_counter_ns() - start) / count, file=answers, flush=True)
