"""Python's side of bench/dispatch.ts: the same small op in a loop. Reads `name iterations`, answers ns an iteration."""
import sys
import time

import torch

torch.set_num_threads(1)
a, b = torch.tensor([1.0]), torch.tensor([2.0])
g = torch.tensor([1.0], requires_grad=True)


def add(n):
    for _ in range(n):
        torch.add(a, b)


def plus(n):
    for _ in range(n):
        a + b


def gradient(n):
    for _ in range(n):
        g + b


WORK = {"torch.add(a, b)": add, "a + b": plus, "a + b, with gradient": gradient}
for line in sys.stdin:
    name, count = line.rsplit(" ", 1)
    start = time.perf_counter_ns()
    WORK[name](int(count))
    print((time.perf_counter_ns() - start) / int(count), flush=True)
