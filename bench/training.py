"""Python's side of bench/zero.ts: one rank of a training run by torch's own ways. Arguments and commands as in
training-process.ts; the way is ddp, zero1 (DDP with ZeroRedundancyOptimizer), fsdp2 (fully_shard), or deepspeed1..3 where
DeepSpeed is installed. Gradients are clipped at 1; AdamW is the fused one where the way takes it.
"""
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from peak_memory import peak_memory
from transformers import GPT2LMHeadModel
from transformers.utils import logging

logging.disable_progress_bar()

# Libraries print on stdout: answers go out by a descriptor of their own.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
way, folder, precision, what = sys.argv[1:5]
assert what == "all", what
rows, length, threads, rank, size, port = map(int, sys.argv[5:11])
torch.set_num_threads(threads)
store = dist.TCPStore("127.0.0.1", port, size, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
dtype = torch.bfloat16 if precision == "bf16" else torch.float32
model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
model.train()
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
V = model.config.vocab_size
ids = torch.tensor(
    [[((rank * rows + r + 1) * 7919 + at * (rank * rows + r + 3)) % V for at in range(length)] for r in range(rows)]
)
targets = torch.cat([ids[:, 1:], ids[:, -1:]], dim=1)
autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16" and way in ("ddp", "zero1"))


def loss_of(net):
    with autocast:
        logits = net(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits.float().view(-1, V), targets.view(-1))


if way.startswith("deepspeed"):
    # It looks for its launcher's variables even where the group is there already.
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    import deepspeed

    stage = int(way[-1])
    config = {
        "train_micro_batch_size_per_gpu": rows,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": precision == "bf16"},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01, "torch_adam": True}},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)

    def step():
        loss = loss_of(engine)
        engine.backward(loss)
        engine.step()
        return loss

else:
    options = {"lr": 1e-3, "weight_decay": 0.01, "fused": True}
    if way == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh("cpu", (size,))
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype) if precision == "bf16" else MixedPrecisionPolicy()
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        net = model
        optimizer = torch.optim.AdamW(model.parameters(), **options)
    else:
        net = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        if way == "zero1":
            from torch.distributed.optim import ZeroRedundancyOptimizer

            optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, **options)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), **options)

    def step():
        loss = loss_of(net)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss


loss = torch.tensor(float("nan"))
for line in sys.stdin:
    command, *rest = line.split()
    if command == "check":
        total = loss.detach().float().clone()
        dist.all_reduce(total)
        print(total.item() / size, file=answers, flush=True)
    elif command == "memory":
        print(peak_memory(), file=answers, flush=True)
    else:
        count = int(rest[0])
        dist.barrier()
        start = time.perf_counter_ns()
        for _ in range(count):
            loss = step()
        print((time.perf_counter_ns() - start) / count, file=answers, flush=True)
