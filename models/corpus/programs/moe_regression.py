"""A mixture of experts on a piecewise function, with a load-balancing term; AdamW, loss around
1e-4."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


class Experts(nn.Module):
    """Four experts and a softmax gate."""

    def __init__(self, inside: int = 4, experts: int = 4, width: int = 16):
        super().__init__()
        self.gate = nn.Linear(inside, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(inside, width), nn.Tanh(), nn.Linear(width, 1))
            for _ in range(experts)
        )

    def forward(self, x):
        share = self.gate(x).softmax(-1)
        return (torch.cat([e(x) for e in self.experts], -1) * share).sum(-1, keepdim=True), share


def build(seed: int) -> Task:
    world = generator(29)
    slopes, centres = torch.randn(3, 4, generator=world), torch.randn(3, 4, generator=world)
    torch.manual_seed(seed)
    model = Experts()

    def points(g):
        def draw(n: int):
            x = torch.randn(n, 4, generator=g)
            nearest = torch.cdist(x, centres).argmin(-1)
            y = torch.tanh((x * slopes[nearest]).sum(-1, keepdim=True))
            return x, 0.02 * (y + 0.05 * torch.randn(n, 1, generator=g))

        return draw

    def loss(m, b):
        out, share = m(b[0])
        return F.mse_loss(out, b[1]) + 1e-5 * ((share.mean(0) - 0.25) ** 2).sum()

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3),
        draw=points(generator(seed + 1)),
        loss=loss,
        batch_size=64,
        probe=[points(generator(5))(1024)],
        validation=[points(generator(6))(256)],
        kind="regression",
    )
