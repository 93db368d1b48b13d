"""Regression with its own uncertainty: mean and variance by maximum likelihood, which goes below
zero and breaks when a variance collapses. RAdam on the diabetes table, batch 24."""

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.05), nn.Linear(32, 2))
    x, y = datasets.table("diabetes")
    y = 0.3 * (y[:, None] - y.mean()) / y.std()

    def loss(m, b):
        mean, logvar = m(b[0]).chunk(2, 1)
        logvar = logvar.clamp(-8, 8)
        return 0.5 * (logvar + (b[1] - mean) ** 2 * (-logvar).exp()).mean()

    return Task(
        model=model,
        optimizer=torch.optim.RAdam(model.parameters(), lr=3e-3),
        draw=sampler((x[:350], y[:350]), generator(seed + 1)),
        loss=loss,
        batch_size=24,
        probe=[(x[:350], y[:350])],
        validation=[(x[350:], y[350:])],
        head=model[-1],
        kind="regression",
    )
