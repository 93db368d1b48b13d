"""The parity of three bits out of twelve: a plateau, then a sudden drop. SGD with weight decay,
logistic loss."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator

BITS, RELEVANT = 12, (2, 5, 9)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(BITS, 128), nn.ReLU(), nn.Linear(128, 1))

    def bits(g):
        def draw(n: int):
            x = 2.0 * torch.randint(2, (n, BITS), generator=g) - 1
            return x, x[:, RELEVANT].prod(1, keepdim=True)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=1e-3),
        draw=bits(generator(seed + 1)),
        loss=lambda m, b: F.softplus(-m(b[0]) * b[1]).mean(),
        batch_size=128,
        probe=[bits(generator(5))(1024)],
        validation=[bits(generator(6))(256)],
        accuracy=lambda m, b: float((m(b[0]).sign() == b[1]).float().mean()),
        head=model[-1],
    )
