"""Gradient descent on an ill-conditioned bowl whose gradients carry noise: the textbook's own
example."""

import torch
from torch import nn

from models.corpus.task import Task, generator


class Bowl(nn.Module):
    """Half the weighted square of the distance from a noisy centre."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.place = nn.Parameter(torch.randn(width, 1))
        self.register_buffer("sharpness", torch.logspace(-1.5, 0.2, width))

    def forward(self, centre):
        return 0.5 * (self.sharpness * (self.place[:, 0] - centre) ** 2).sum(-1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Bowl()

    def centres(g):
        def draw(n: int):
            return (0.3 * torch.randn(n, 16, generator=g),)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.08),
        draw=centres(generator(seed + 1)),
        loss=lambda m, b: m(b[0]).mean(),
        batch_size=16,
        probe=[centres(generator(5))(512)],
        validation=[centres(generator(6))(128)],
        targets=(),
        kind="regression",
    )
