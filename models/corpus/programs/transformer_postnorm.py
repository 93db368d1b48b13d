"""A post-norm transformer encoder with masked tokens (a tiny BERT), Adam without clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator, warmup


class Encoder(nn.Module):
    """Post-norm layers, as in the original transformer."""

    def __init__(self, symbols: int, length: int, width: int = 32):
        super().__init__()
        self.token = nn.Embedding(symbols + 1, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.attend = nn.ModuleList(
            nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(2)
        )
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.head = nn.Linear(width, symbols)

    def forward(self, x):
        h = self.token(x) + self.position
        for i in range(2):
            h = self.norm[2 * i](h + self.attend[i](h, h, h, need_weights=False)[0])
            h = self.norm[2 * i + 1](h + self.feed[i](h))
        return self.head(h)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, symbols = datasets.text()
    model = Encoder(symbols, 16)
    g = generator(seed + 1)

    def masked(draw, g):
        def one(n: int):
            x, _ = draw(n)
            hidden = torch.rand(x.shape, generator=g) < 0.25
            return x, x, hidden

        return one

    def loss(m, b):
        shown = b[0].masked_fill(b[2], symbols)
        return F.cross_entropy(m(shown)[b[2]], b[1][b[2]])

    draw = text_draw(text[:80000], 16, g)
    held = text_draw(text[80000:], 16, generator(6))
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98)),
        draw=masked(draw, g),
        loss=loss,
        batch_size=24,
        probe=[masked(text_draw(text[:80000], 16, generator(5)), generator(7))(96)],
        validation=[masked(held, generator(8))(64)],
        vocabulary=symbols,
        head=model.head,
        schedule=warmup(40),
    )
