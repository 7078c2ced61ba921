"""Python's side of bench/start-up.ts: the same by torch and transformers, imports included."""
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.set_num_threads(2)
what, folder = sys.argv[1:3]
if what == "token":
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([[464, 2068, 7586]])
    model.generation_config.eos_token_id = None
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False, pad_token_id=0)
else:
    model = GPT2LMHeadModel(GPT2Config(n_layer=6, n_head=6, n_embd=384, vocab_size=256, n_positions=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 256, (1, 256))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
print("done", flush=True)
