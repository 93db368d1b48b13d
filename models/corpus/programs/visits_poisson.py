"""Poisson regression of visits to the doctor (statsmodels' randhie): a network for the logarithm of
the rate, a likelihood that is negative, AMSGrad, clipping by a high bound."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(9, 24), nn.ELU(), nn.Linear(24, 24), nn.ELU(), nn.Linear(24, 1))
    table = datasets.columns("randhie")
    table = table[torch.randperm(len(table), generator=generator(41))[:6000]]
    x, y = (table[:, 1:] - table[:, 1:].mean(0)) / table[:, 1:].std(0), table[:, :1].clamp(max=30)
    train, held = (x[:5000], y[:5000]), (x[5000:], y[5000:])
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.poisson_nll_loss(m(b[0]), b[1]),
        batch_size=64,
        probe=fixed(train, 2048, 2048),
        validation=[held],
        head=model[-1],
        clip=20.0,
        kind="regression",
    )
