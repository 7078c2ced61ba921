"""LoRA by peft: loads adapters, makes adapters, and says what the adapted models compute."""
import json
import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def main(args, tensors):
    base = AutoModelForCausalLM.from_pretrained(args["base"])
    if args["do"] == "make":
        torch.manual_seed(args.get("seed", 0))
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **args["lora"]))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.2)
        model.save_pretrained(args["dir"])
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
    else:
        model = PeftModel.from_pretrained(base, args["dir"])
        trained = [name for name, _ in model.named_parameters() if "lora_" in name]
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor(args["ids"])).logits
    with open(os.path.join(args["dir"], "adapter_config.json")) as file:
        config = json.load(file)
    return {"trained": trained, "config": config}, {"logits": logits}
