"""Ten steps of DDP and of fully_shard over several processes, from a folder that shardloop trains too."""
import json
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from transformers import GPT2Config, GPT2LMHeadModel


def main(args, tensors):
    if args["do"] == "make":
        torch.manual_seed(3)
        GPT2LMHeadModel(GPT2Config(**args["config"])).save_pretrained(args["dir"])
        return None
    with tempfile.TemporaryDirectory() as folder:
        logs = [open(os.path.join(folder, f"{rank}.err"), "w+") for rank in range(args["size"])]
        command = [sys.executable, __file__]
        ranks = [
            subprocess.Popen([*command, str(rank), json.dumps(args), folder], stderr=log)
            for rank, log in enumerate(logs)
        ]
        codes = [rank.wait() for rank in ranks]
        if any(codes):
            said = "\n".join(open(log.name).read() for log in logs)
            raise RuntimeError(f"the ranks ended with {codes}:\n{said}")
        result = torch.load(os.path.join(folder, "result.pt"))
    return result["losses"], result["weights"]


def rank_main(rank, args, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    size = args["size"]
    store = dist.FileStore(os.path.join(folder, "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    dtype = getattr(torch, args["dtype"])
    model = GPT2LMHeadModel.from_pretrained(args["dir"], dtype=dtype).train()
    rows = torch.tensor(args["rows"])
    if args["way"] == "ddp":
        net = torch.nn.parallel.DistributedDataParallel(model)
        if args.get("hook") == "bf16":
            net.register_comm_hook(None, default_hooks.bf16_compress_hook)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (size,))
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh)
        net = fully_shard(model, mesh=mesh)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": args["weightDecay"]}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args["lr"], foreach=False)
    own = rows[rank::size]
    losses = []
    for _ in range(args["steps"]):
        logits = net(own).logits[:, :-1]
        # Both average gradients over the ranks; the loss is this rank's share of the mean over all rows.
        loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), own[:, 1:].reshape(-1), reduction="sum")
        loss = loss * size / (rows.size(0) * (rows.size(1) - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args["clip"])
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / size)
    weights = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        weights[name] = value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
    if rank == 0:
        torch.save({"losses": losses, "weights": weights}, os.path.join(folder, "result.pt"))
    # A connection that is closed with bytes unread is reset, and takes the last ones from ranks that still read.
    store.add("done", 1)
    while store.add("done", 0) < size:
        time.sleep(0.01)
    dist.destroy_process_group()


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
