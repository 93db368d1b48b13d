"""A student learns a smaller teacher's noiseless outputs: losses fall to 1e-6 and below, where Adam
at a constant rate now and then jumps up by orders of magnitude and comes back."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    teacher = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).requires_grad_(False)
    fixed = generator(43)
    for p in teacher.parameters():
        p.copy_(0.1 * torch.randn(p.shape, generator=fixed))
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        model[2].weight.mul_(0.1)
        model[2].bias.mul_(0.1)

    def pairs(g):
        def draw(n: int):
            x = torch.randn(n, 6, generator=g)
            return x, teacher(x)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3, betas=(0.9, 0.98)),
        draw=pairs(generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=64,
        probe=[pairs(generator(5))(512)],
        validation=[pairs(generator(6))(128)],
        head=model[-1],
        kind="regression",
    )
