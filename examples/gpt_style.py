"""A nanoGPT-style loop with gradient accumulation, plus five lines of Relight. `relight run examples/gpt_style.py`"""

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import relight  # relight

parser = argparse.ArgumentParser(description="Train a small GPT on the text of this file")
parser.add_argument("--max-iters", type=int, default=2000)
parser.add_argument("--eval-interval", type=int, default=100)
parser.add_argument("--eval-iters", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=12)
parser.add_argument("--block-size", type=int, default=64)
parser.add_argument("--gradient-accumulation-steps", type=int, default=4)
parser.add_argument("--n-layer", type=int, default=4)
parser.add_argument("--n-head", type=int, default=4)
parser.add_argument("--n-embd", type=int, default=128)
parser.add_argument("--dropout", type=float, default=0.1)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--min-lr", type=float, default=1e-4)
parser.add_argument("--warmup-iters", type=int, default=100)
parser.add_argument("--grad-clip", type=float, default=1.0)
args = parser.parse_args()

run = relight.init(config=vars(args), seed=1337, best="loss")  # relight
device = "cuda" if torch.cuda.is_available() else "cpu"
data = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
split = int(0.9 * len(data))


def get_batch(part):
    source = data[:split] if part == "train" else data[split:]
    ix = torch.randint(len(source) - args.block_size, (args.batch_size,))
    x = torch.stack([source[i : i + args.block_size] for i in ix])
    y = torch.stack([source[i + 1 : i + 1 + args.block_size] for i in ix])
    return x.to(device), y.to(device)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(args.n_embd), nn.LayerNorm(args.n_embd)
        self.c_attn = nn.Linear(args.n_embd, 3 * args.n_embd)
        self.c_proj = nn.Linear(args.n_embd, args.n_embd)
        self.mlp = nn.Sequential(
            nn.Linear(args.n_embd, 4 * args.n_embd), nn.GELU(), nn.Linear(4 * args.n_embd, args.n_embd)
        )
        self.drop = nn.Dropout(args.dropout)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, args.n_head, c // args.n_head).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(c, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.c_proj(y.transpose(1, 2).reshape(b, t, c)))
        return x + self.drop(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, args.n_embd), nn.Embedding(args.block_size, args.n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(args.n_layer)))
        self.ln_f = nn.LayerNorm(args.n_embd)
        self.lm_head = nn.Linear(args.n_embd, 256, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx, targets):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        logits = self.lm_head(self.ln_f(self.blocks(x)))
        return F.cross_entropy(logits.view(-1, 256), targets.view(-1))


def get_lr(it):
    if it < args.warmup_iters:
        return args.learning_rate * (it + 1) / (args.warmup_iters + 1)
    ratio = (it - args.warmup_iters) / max(1, args.max_iters - args.warmup_iters)
    return args.min_lr + 0.5 * (1 + math.cos(math.pi * ratio)) * (args.learning_rate - args.min_lr)


@torch.no_grad()
def estimate_loss(part):
    model.eval()
    losses = [model(*get_batch(part)).item() for _ in range(args.eval_iters)]
    model.train()
    return sum(losses) / len(losses)


model = GPT().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
run.track(model=model, optimizer=optimizer)  # relight

for iter_num in run.steps(args.max_iters):
    lr = get_lr(iter_num)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr
    if iter_num % args.eval_interval == 0:
        val_loss = estimate_loss("val")
        print(f"iter {iter_num}: val loss {val_loss:.4f}")
        run.evaluated(loss=val_loss)  # relight
    for _ in range(args.gradient_accumulation_steps):
        loss = model(*get_batch("train")) / args.gradient_accumulation_steps
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    run.step(loss=loss * args.gradient_accumulation_steps, lr=lr)  # relight
