"""A normalising flow (affine couplings) of narrow rings: negative log-likelihood, which falls below
zero."""

import torch
from torch import nn

from models.corpus.task import Task, generator


class Flow(nn.Module):
    """Affine coupling layers on two dimensions; forward gives the negative log-likelihood a
    point."""

    def __init__(self, layers: int = 4):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 2)) for _ in range(layers)
        )

    def forward(self, x):
        a, b = x[:, :1], x[:, 1:]
        logdet = 0.0
        for net in self.nets:
            shift, scale = net(a).chunk(2, -1)
            scale = 3.0 * torch.tanh(scale / 3.0)
            a, b = (b - shift) * torch.exp(scale), a
            logdet = logdet + scale[:, 0]
        return 0.5 * (a**2 + b**2).sum(-1) + 1.8379 - logdet


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Flow()

    def points(g):
        def draw(n: int):
            x = torch.randn(n, generator=g) * 0.2
            y = 0.1 * torch.sin(8 * x) + 0.03 * torch.randn(n, generator=g)
            return (torch.stack([x, y], -1),)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        draw=points(generator(seed + 1)),
        loss=lambda m, b: m(b[0]).mean(),
        batch_size=64,
        probe=[points(generator(5))(1024)],
        validation=[points(generator(6))(256)],
        targets=(),
        clip=5.0,
        kind="generative",
    )
