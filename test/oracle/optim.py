"""Runs Python's optimizers over given parameters and gradients; Lion, which torch lacks, is written out from its paper."""
import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = (beta1 * m + (1 - beta1) * p.grad).sign()
                p.sub_(lr * (update + group["weight_decay"] * p))
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


KINDS = {
    "AdamW": torch.optim.AdamW,
    "SGD": torch.optim.SGD,
    "Adafactor": torch.optim.Adafactor,
    "Lion": Lion,
    "Muon": torch.optim.Muon,
}


def main(args, tensors):
    """tensors: "p.NAME" and "g.STEP.NAME"; a gradient that is not given is None in that step."""
    params = {name[2:]: t.requires_grad_() for name, t in tensors.items() if name.startswith("p.")}
    groups = [{**group["settings"], "params": [params[name] for name in group["names"]]} for group in args["groups"]]
    optimizer = KINDS[args["kind"]](groups, **args["settings"])
    norms = []
    for step in range(args["steps"]):
        for name, p in params.items():
            gradient = tensors.get(f"g.{step}.{name}")
            p.grad = None if gradient is None else gradient.clone()
        if args["clip"] is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(params.values(), args["clip"]).item())
        for group, factor in zip(optimizer.param_groups, args["factors"][step]):
            group["lr"] = factor
        optimizer.step()
    return norms, {name: p.detach() for name, p in params.items()}
