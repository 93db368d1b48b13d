"""A neural ordinary differential equation fitted to a spiral, integrated by the midpoint rule;
Adam, batch 16. Losses around 1e-2."""

import torch
from torch import nn

from models.corpus.task import Task, generator

STEP, STEPS = 0.1, 12


def _integrate(field, x: torch.Tensor) -> torch.Tensor:
    """The path from x by the midpoint rule, N × STEPS × 2."""
    path = []
    for _ in range(STEPS):
        middle = x + 0.5 * STEP * field(x)
        x = x + STEP * field(middle)
        path.append(x)
    return torch.stack(path, 1)


class Flow(nn.Module):
    """Paths along a learnt field."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.field = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x):
        return _integrate(self.field, x)


def _spiral(x: torch.Tensor) -> torch.Tensor:
    """The true field: turns, and is drawn to a circle."""
    radius = x.pow(2).sum(-1, keepdim=True)
    return 2.0 * torch.stack([-x[..., 1], x[..., 0]], -1) + x * (1 - radius)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Flow()

    def starts(g):
        def draw(n: int):
            x = torch.randn(n, 2, generator=g)
            return x, _integrate(_spiral, x) + 0.02 * torch.randn(n, STEPS, 2, generator=g)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        draw=starts(generator(seed + 1)),
        loss=lambda m, b: (m(b[0]) - b[1]).pow(2).mean(),
        batch_size=16,
        probe=[starts(generator(5))(128)],
        validation=[starts(generator(6))(64)],
        head=model.field[-1],
        kind="regression",
    )
