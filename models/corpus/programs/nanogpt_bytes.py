"""A byte-level GPT of two million parameters as it is trained at large: AdamW with β₂ 0.95, weight
decay on matrices only, warm-up and cosine, clipping at 1, tied embeddings."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator, warmup

LENGTH = 24


class Block(nn.Module):
    """Causal attention and a feed-forward of four widths, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width, bias=False)
        self.attended = nn.Linear(width, width, bias=False)
        self.before_feed = nn.LayerNorm(width)
        self.feed, self.fed = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x):
        n, t, width = x.shape
        parts = self.attention(self.before_attention(x)).split(width, -1)
        q, k, v = (p.view(n, t, self.heads, -1).transpose(1, 2) for p in parts)
        score = q @ k.transpose(2, 3) / math.sqrt(width / self.heads)
        ahead = torch.ones(t, t, dtype=torch.bool).triu(1)
        mixed = score.masked_fill(ahead, -math.inf).softmax(-1) @ v
        x = x + self.attended(mixed.transpose(1, 2).reshape(n, t, width))
        return x + self.fed(F.gelu(self.feed(self.before_feed(x))))


class ByteGPT(nn.Module):
    """Blocks between an embedding of bytes and the same table as the read-out."""

    def __init__(self, width: int = 208, heads: int = 4, blocks: int = 4):
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        for name, p in self.named_parameters():
            if p.dim() > 1:  # what is added to the residual stream starts smaller
                ends = name.endswith(("attended.weight", "fed.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * blocks) if ends else 0.02)

    def forward(self, x):
        h = self.token(x) + self.place.weight[: x.shape[1]]
        return self.norm(self.blocks(h)) @ self.token.weight.T


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text = datasets.text_bytes()
    model = ByteGPT()
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    cosine = lambda step: 0.1 + 0.45 * (1 + math.cos(math.pi * min(step / 400, 1.0)))  # noqa: E731
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
        draw=text_draw(text[:170000], LENGTH, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=6,
        probe=[text_draw(text[:170000], LENGTH, generator(5))(40)],
        validation=[text_draw(text[170000:], LENGTH, generator(6))(24)],
        vocabulary=256,
        schedule=warmup(25, cosine),
        clip=1.0,
    )
