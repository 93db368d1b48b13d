"""Softmax regression on digits, SGD with momentum and weight decay: convex, but with noise of
minibatches."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler, share_correct


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = datasets.digits()
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4),
        draw=sampler((x[:1200], y[:1200]), generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=[(x[:1200], y[:1200])],
        validation=[(x[1200:], y[1200:])],
        accuracy=share_correct,
        head=model[-1],
    )
