"""The collectives of torch.distributed over Gloo, one forked world a call: main({size, cases}) runs every case on every
rank and returns the results as hexadecimal bytes, by rank and case. Inputs are made as collectives.test.ts makes them."""
import json
import multiprocessing
import os
import tempfile

import torch
import torch.distributed as dist

OPS = {"sum": dist.ReduceOp.SUM, "avg": dist.ReduceOp.AVG, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX,
       "product": dist.ReduceOp.PRODUCT}


def raw(seed, count):
    state, data = (seed * 2654435761 + 12345) & 0xFFFFFFFF, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        data.append((state >> 16) & 255)
    return data


def numbers(seed, shape, dtype):
    count = torch.Size(shape).numel()
    data = raw(seed, count)
    if dtype == "bool":
        return torch.tensor([b & 1 for b in data], dtype=torch.uint8).ne(0).reshape(shape)
    scale = (lambda b: b / 50) if dtype == "uint8" else (lambda b: (b - 128) / 10)
    return torch.tensor([scale(b) for b in data], dtype=torch.float64).to(getattr(torch, dtype)).reshape(shape)


def bits(seed, shape, case):
    """Any dtype moves as the bytes that it is; our side sends the dtype itself."""
    mask = 1 if case["dtype"] == "bool" else 255
    data = [b & mask for b in raw(seed, torch.Size(shape).numel() * case["width"])]
    return torch.tensor(data, dtype=torch.uint8).reshape(*shape, case["width"])


def hexadecimal(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex()


def run_case(case, index, rank, size):
    op, root, shape, dtype = case["op"], case.get("root", 0), case["shape"], case["dtype"]
    seed = index * 64
    if "reduce" in op:
        how, average = OPS[case["reduceOp"]], False
        if case["reduceOp"] == "avg" and op == "reduce":
            how, average = dist.ReduceOp.SUM, True  # Gloo has no average here: by definition
        if op == "all_reduce":
            mine = numbers(seed + rank, shape, dtype)
            dist.all_reduce(mine, how)
            return [mine]
        if op == "all_reduce_lists":
            lists = [numbers(seed + 8 * i + rank, s, dtype) for i, s in enumerate([shape, [7], [2, 1]])]
            dist.all_reduce_coalesced(lists, how)
            return lists
        if op == "reduce":
            mine = numbers(seed + rank, shape, dtype)
            dist.reduce(mine, root, how)
            return [mine / size if average else mine] if rank == root else []
        whole = numbers(seed + rank, [shape[0] * size, *shape[1:]], dtype)
        part = torch.empty(shape, dtype=whole.dtype)
        dist.reduce_scatter_tensor(part, whole, how)
        return [part]
    width = case["width"]
    mine = bits(seed + rank, shape, case)
    whole_shape = [shape[0] * size, *shape[1:]]
    if op == "broadcast":
        dist.broadcast(mine, root)
        return [mine]
    if op == "all_gather":
        whole = torch.empty(*whole_shape, width, dtype=torch.uint8)
        dist.all_gather_into_tensor(whole, mine)
        return [whole]
    if op == "all_gather_uneven":  # Gloo gathers equal parts only: padded, then cut
        mine = bits(seed + rank, [rank + 1, *shape[1:]], case)
        longest = torch.zeros(size, *shape[1:], width, dtype=torch.uint8)
        longest[:rank + 1] = mine
        parts = [torch.empty_like(longest) for _ in range(size)]
        dist.all_gather(parts, longest)
        return [part[:r + 1] for r, part in enumerate(parts)]
    if op == "all_to_all":
        whole, out = bits(seed + rank, whole_shape, case), torch.empty(*whole_shape, width, dtype=torch.uint8)
        dist.all_to_all_single(out, whole)
        return [out]
    if op == "all_to_all_uneven":  # rank a sends (a + 2b) % 3 rows to rank b
        gives, takes = [(rank + 2 * b) % 3 for b in range(size)], [(a + 2 * rank) % 3 for a in range(size)]
        given = bits(seed + rank, [sum(gives), *shape[1:]], case)
        out = torch.empty(sum(takes), *shape[1:], width, dtype=torch.uint8)
        dist.all_to_all_single(out, given, takes, gives)
        return [out]
    if op == "gather":
        parts = [torch.empty_like(mine) for _ in range(size)] if rank == root else None
        dist.gather(mine, parts, root)
        return parts or []
    if op == "scatter":
        whole = bits(seed + rank, whole_shape, case)
        dist.scatter(mine, list(whole.chunk(size)) if rank == root else None, root)
        return [mine]
    assert op == "ring"  # every rank sends to the next
    got = torch.empty_like(mine)
    works = [dist.isend(mine, (rank + 1) % size, tag=5), dist.irecv(got, (rank - 1) % size, tag=5)]
    for work in works:
        work.wait()
    return [got]


def rank_main(rank, size, cases, folder):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    results = []
    for index, case in enumerate(cases):
        try:
            results.append([hexadecimal(t) for t in run_case(case, index, rank, size)])
        except Exception as error:
            raise RuntimeError(f"case {index}: {case}") from error
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(results, file)
    dist.destroy_process_group()


def main(args, tensors):
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=rank_main, args=(r, args["size"], args["cases"], folder))
                 for r in range(args["size"])]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(100)
            assert process.exitcode == 0, f"a rank ended with {process.exitcode}"
        return [json.load(open(f"{folder}/{r}.json")) for r in range(args["size"])]
