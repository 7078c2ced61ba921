"""What DeepSpeed makes of a config: its parsed values, or why it refuses it; and the learning rates of its schedulers."""
import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")


class Ranks:
    """Stands in for the group of ranks."""

    def __init__(self, world):
        self.get_data_parallel_world_size = lambda: world


def main(args, tensors):
    from deepspeed.runtime import config as module

    module.dist.get_rank = lambda: 0
    try:
        parsed = module.DeepSpeedConfig(args["config"], mpu=Ranks(args["world"]))
    except Exception as error:  # pydantic's and DeepSpeed's own, assertions among them
        return {"refused": f"{type(error).__name__}: {error}"}
    fp16, zero = parsed.float16_config, parsed.zero_config
    values = {
        "train": parsed.train_batch_size,
        "micro": parsed.train_micro_batch_size_per_gpu,
        "accum": parsed.gradient_accumulation_steps,
        "precision": "fp16" if fp16.enabled else "bf16" if parsed.bfloat16_config.enabled else "fp32",
        "loss_scale": fp16.loss_scale,
        "initial_scale": 2**fp16.initial_scale_power,
        "window": fp16.loss_scale_window,
        "hysteresis": fp16.hysteresis,
        "min_scale": fp16.min_loss_scale,
        "stage": int(zero.stage),
        "bucket": int(zero.reduce_bucket_size),
        "shard_ranks": zero.zero_hpz_partition_size,
        "clip": parsed.gradient_clipping,
        "log_steps": parsed.steps_per_print,
        "optimizer": parsed.optimizer_name,
        "optimizer_params": parsed.optimizer_params,
        "scheduler": parsed.scheduler_name,
        "rates": rates(parsed, args.get("steps", 0)),
    }
    return {"values": values}


def rates(parsed, steps):
    """The learning rate of each of the first updates."""
    if parsed.scheduler_name is None:
        return []
    import torch
    from deepspeed.runtime import lr_schedules

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=parsed.optimizer_params["lr"])
    scheduler = getattr(lr_schedules, parsed.scheduler_name)(optimizer, **parsed.scheduler_params)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    return found
