"""Full-batch L-BFGS without a line search on a small network for digits, with a ridge term."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.optimizers import LBFGS
from models.corpus.task import Task, generator, share_correct


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    x, y = datasets.digits()
    g = generator(seed + 1)

    def draw(n: int):
        if n >= 400:
            return x[:400], y[:400]
        index = torch.randperm(400, generator=g)[:n]
        return x[index], y[index]

    def loss(m, b):
        ridge = sum(p.pow(2).sum() for p in m.parameters())
        return F.cross_entropy(m(b[0]), b[1]) + 1e-3 * ridge

    return Task(
        model=model,
        optimizer=LBFGS(model.parameters(), lr=0.1, history_size=8),
        draw=draw,
        loss=loss,
        batch_size=400,
        probe=[(x[:400], y[:400])],
        validation=[(x[400:800], y[400:800])],
        accuracy=share_correct,
        head=model[-1],
    )
