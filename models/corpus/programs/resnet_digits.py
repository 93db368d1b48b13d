"""A residual network with BatchNorm on 8×8 digits, SGD with momentum and a step schedule."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


class Block(nn.Module):
    """conv–BN–ReLU–conv–BN with a skip."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.body(x))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        Block(12),
        nn.MaxPool2d(2),
        Block(12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )
    x, y = datasets.digits()
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9),
        draw=sampler((x[:1200], y[:1200]), generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed((x, y), 400, 200),
        validation=fixed((x[1200:], y[1200:]), 200, 200),
        accuracy=share_correct,
        head=model[-1],
        schedule=lambda step: 1.0 if step < 200 else 0.1,
    )
