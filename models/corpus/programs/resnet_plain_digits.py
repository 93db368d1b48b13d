"""A residual network without normalisation (second convolutions start at zero), Adam, batch 16."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


class Block(nn.Module):
    """A residual branch that starts as zero, so that depth needs no normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        self.relu = nn.ReLU()

    def forward(self, x):
        return x + self.second(self.relu(self.first(x)))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 10, 3, padding=1),
        Block(10),
        Block(10),
        nn.AvgPool2d(2),
        Block(10),
        nn.Flatten(),
        nn.Linear(160, 10),
    )
    x, y = datasets.digits()
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        draw=sampler((x[:1200], y[:1200]), generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=16,
        probe=fixed((x, y), 300, 150),
        validation=fixed((x[1200:], y[1200:]), 200, 200),
        accuracy=share_correct,
        head=model[-1],
    )
