"""Linear least squares on the diabetes table, minibatch gradient descent: convex, its edge of
stability exact."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Linear(10, 1)
    x, y = datasets.table("diabetes")
    y = (y[:, None] - 152.0) / 77.0
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02),
        draw=sampler((x[:350], y[:350]), generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=32,
        probe=[(x[:350], y[:350])],
        validation=[(x[350:], y[350:])],
        head=model,
        kind="regression",
    )
