"""A vision transformer on digits: 2×2 patches, a class token, AdamW, warm-up, cosine."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.programs.transformer_prenorm import Layer
from models.corpus.task import Task, fixed, generator, sampler, share_correct, warmup


class ViT(nn.Module):
    """Patches, positions, two pre-norm layers, the class token read out."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        h = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(h), -1, -1), h], 1) + self.position
        for layer in self.layers:
            h = layer(h, 0.0)
        return self.head(self.norm(h[:, 0]))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = ViT()
    x, y = datasets.digits()
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05),
        draw=sampler((x[:1200], y[:1200]), generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=16,
        probe=fixed((x, y), 256, 128),
        validation=fixed((x[1200:], y[1200:]), 128, 128),
        accuracy=share_correct,
        head=model.head,
        schedule=warmup(
            25, lambda s: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(s / 400, 1.0)))
        ),
    )
