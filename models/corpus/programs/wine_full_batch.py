"""A tanh perceptron on the wine table, full batch, plain gradient descent."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, share_correct


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(13, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)
    )
    x, y = datasets.table("wine")
    g = generator(seed + 1)

    def draw(n: int):
        if n >= 140:
            return x[:140], y[:140]
        index = torch.randperm(140, generator=g)[:n]
        return x[index], y[index]

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.15),
        draw=draw,
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=140,
        probe=[(x[:140], y[:140])],
        validation=[(x[140:], y[140:])],
        accuracy=share_correct,
        head=model[-1],
    )
