"""Python's side of bench/collectives.ts: torch.distributed over Gloo. Arguments: rank, size, a file for the store. Reads
`operation bytes iterations`, runs as many unmeasured and then measured, and answers with the nanoseconds of one."""
import os
import sys
import time

import torch
import torch.distributed as dist

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
rank, size = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=size)


def all_reduce(whole, shard, n):
    for _ in range(n):
        dist.all_reduce(whole)


def all_gather(whole, shard, n):
    for _ in range(n):
        dist.all_gather_into_tensor(whole, shard)


def reduce_scatter(whole, shard, n):
    for _ in range(n):
        dist.reduce_scatter_tensor(shard, whole)


WORK = {"all_reduce": all_reduce, "all_gather": all_gather, "reduce_scatter": reduce_scatter}
for line in sys.stdin:
    name, count, iterations = line.split()
    tensors = torch.ones(int(count) // 4), torch.ones(int(count) // 4 // size)
    WORK[name](*tensors, int(iterations))
    dist.barrier()
    start = time.perf_counter_ns()
    WORK[name](*tensors, int(iterations))
    print((time.perf_counter_ns() - start) / int(iterations), flush=True)
