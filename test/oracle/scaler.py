"""Mixed precision by torch.amp.GradScaler: float16 weights in the graph, float32 ones that the optimizer updates."""
import torch


def main(args, tensors):
    """tensors: "w1" (H, I), "w2" (O, H) in float32, "x.STEP" (B, I) and "y.STEP" (B, O). Returns scales and norms by step."""
    w1, w2 = (tensors[name].clone().requires_grad_() for name in ("w1", "w2"))
    optimizer = torch.optim.AdamW([w1, w2], lr=args["lr"], weight_decay=0.0, foreach=False)
    scaler = torch.amp.GradScaler(
        "cpu",
        init_scale=args["initial"],
        growth_factor=args["growth"],
        backoff_factor=args["backoff"],
        growth_interval=args["window"],
    )
    scales, losses = [], []
    for step in range(args["steps"]):
        hidden = torch.nn.functional.gelu(tensors[f"x.{step}"].half() @ w1.half().t())
        out = (hidden @ w2.half().t()).float()
        loss = (out - tensors[f"y.{step}"]).square().mean()
        scales.append(scaler.get_scale())
        losses.append(loss.item())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([w1, w2], args["clip"])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return {"scales": scales, "losses": losses}, {"w1": w1.detach(), "w2": w2.detach()}
