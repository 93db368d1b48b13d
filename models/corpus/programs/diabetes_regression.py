"""Regression of raw diabetes scores: squared error in the target's own unit, so losses around
1e4."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1)
    )
    x, y = datasets.table("diabetes")
    y = y[:, None]
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        draw=sampler((x[:350], y[:350]), generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=32,
        probe=[(x[:350], y[:350])],
        validation=[(x[350:], y[350:])],
        head=model[-1],
    )
