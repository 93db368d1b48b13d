"""A causal transformer language model, pre-norm, AdamW with warm-up and clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator, warmup


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.drop = nn.Dropout(0.0)

    def forward(self, x, mask):
        n, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, w // self.heads).unbind(2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        a = (q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5 + mask).softmax(-1)
        x = x + self.drop(self.out((a @ v).transpose(1, 2).reshape(n, t, w)))
        return x + self.drop(self.feed(self.norm2(x)))


class GPT(nn.Module):
    """Token and position embeddings, layers, final norm, projection."""

    def __init__(self, symbols: int, length: int, width: int = 32, layers: int = 2):
        super().__init__()
        self.token, self.position = nn.Embedding(symbols, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)
        self.register_buffer("mask", torch.full((length, length), float("-inf")).triu(1))

    def forward(self, x):
        t = x.shape[1]
        h = self.token(x) + self.position.weight[:t]
        for layer in self.layers:
            h = layer(h, self.mask[:t, :t])
        return self.head(self.norm(h))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, symbols = datasets.text()
    model = GPT(symbols, 20)
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(
            model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1
        ),
        draw=text_draw(text[:80000], 20, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=12,
        probe=[text_draw(text[:80000], 20, generator(5))(64)],
        validation=[text_draw(text[80000:], 20, generator(6))(48)],
        vocabulary=symbols,
        head=model.head,
        schedule=warmup(30),
        clip=1.0,
    )
