"""A temporal convolutional network that forecasts seasonal series, RMSprop with momentum, Huber
loss."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv1d(1, 12, 3, dilation=1),
        nn.ReLU(),
        nn.Conv1d(12, 12, 3, dilation=2),
        nn.ReLU(),
        nn.Conv1d(12, 12, 3, dilation=4),
        nn.ReLU(),
        nn.Conv1d(12, 1, 1),
    )

    def series(g):
        def draw(n: int):
            t = torch.arange(33.0)
            period = 6 + 10 * torch.rand(n, 1, generator=g)
            phase = 6.2832 * torch.rand(n, 1, generator=g)
            slope = 0.03 * torch.randn(n, 1, generator=g)
            x = torch.sin(6.2832 * t / period + phase) + slope * t
            x = x + 0.1 * torch.randn(n, 33, generator=g)
            return x[:, None, :-1], x[:, None, 15:]

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9),
        draw=series(generator(seed + 1)),
        loss=lambda m, b: F.huber_loss(m(b[0]), b[1]),
        batch_size=32,
        probe=[series(generator(5))(256)],
        validation=[series(generator(6))(128)],
        head=model[-1],
        kind="regression",
    )
