"""Python's side of bench/optimizer.ts: clip, torch's fused update, and the cast into the half-precision parameters, over the
same list of sizes. Arguments: threads, then the sizes. Reads `name iterations`, answers ns an iteration."""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
SIZES = [int(size) for size in sys.argv[2:]]
torch.manual_seed(1)


def tensors(make):
    return [make(size) for size in SIZES]


def prepare(kind):
    """Masters and what a step of this kind needs beside them; made when it is first run."""
    masters = tensors(torch.randn)
    if "bf16" not in kind:
        for master in masters:
            master.grad = torch.randn_like(master)
        return masters, None
    halves = [master.bfloat16() for master in masters]
    for half in halves:
        half.grad = torch.randn(half.numel()).bfloat16()
    return masters, halves


def clipped(params):
    torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)


def adamw(masters, halves, state):
    clipped(halves or masters)
    if halves:
        gradients = [half.grad.float() for half in halves]
    else:
        gradients = [master.grad for master in masters]
    if not state:
        state.update(m=[torch.zeros_like(p) for p in masters], v=[torch.zeros_like(p) for p in masters])
        state.update(steps=[torch.zeros(()) for _ in masters])
    torch._foreach_add_(state["steps"], 1)
    torch._fused_adamw_(
        masters, gradients, state["m"], state["v"], [], state["steps"],
        lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    if halves:
        torch._foreach_copy_(halves, masters)


def sgd(masters, halves, state):
    clipped(masters)
    if not state:
        state.update(buffers=[torch.zeros_like(p) for p in masters], first=True)
    torch._fused_sgd_(
        masters, [p.grad for p in masters], state["buffers"], weight_decay=0.01, momentum=0.9, lr=1e-3, dampening=0.0,
        nesterov=False, maximize=False, is_first_step=state["first"],
    )  # fmt: skip
    state["first"] = False


WORK = {"adamw fp32": adamw, "adamw bf16": adamw, "sgd fp32": sgd}
ready = {}
for line in sys.stdin:
    name, count = line.rsplit(" ", 1)
    if name not in ready:
        ready[name] = (*prepare(name), {})
    with torch.no_grad():
        start = time.perf_counter_ns()
        for _ in range(int(count)):
            WORK[name](*ready[name])
        print((time.perf_counter_ns() - start) / int(count), flush=True)
