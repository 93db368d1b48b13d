"""A physics-informed network for the viscous Burgers equation: residual, initial and boundary
terms, second derivatives, Adam with a slowly falling rate."""

import math

import torch
from torch import nn

from models.corpus.task import Task, generator

VISCOSITY = 0.05


def _residual(m, point: torch.Tensor) -> torch.Tensor:
    """u_t + u u_x − ν u_xx at points (x, t), with gradients even where none are wanted."""
    with torch.enable_grad():
        point = point.clone().requires_grad_(True)
        u = m(point)
        first = torch.autograd.grad(u.sum(), point, create_graph=True)[0]
        second = torch.autograd.grad(first[:, 0].sum(), point, create_graph=True)[0][:, 0]
        return first[:, 1] + u[:, 0] * first[:, 0] - VISCOSITY * second


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
    )

    def points(g):
        def draw(n: int):
            inside = torch.rand(n, 2, generator=g) * torch.tensor([2.0, 1.0]) - torch.tensor(
                [1.0, 0.0]
            )
            start = torch.rand(n, 2, generator=g) * torch.tensor([2.0, 0.0]) - torch.tensor(
                [1.0, 0.0]
            )
            wall = torch.rand(n, 2, generator=g)
            wall[:, 0] = (wall[:, 0] > 0.5) * 2.0 - 1.0
            return inside, start, wall, -(math.pi * start[:, :1]).sin()

        return draw

    def loss(m, b):
        wave = (m(b[1]) - b[3]).pow(2).mean() + m(b[2]).pow(2).mean()
        return _residual(m, b[0]).pow(2).mean() + 5 * wave

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=8e-3),
        draw=points(generator(seed + 1)),
        loss=loss,
        batch_size=64,
        probe=[points(generator(5))(256)],
        validation=[points(generator(6))(128)],
        inputs=(0, 1, 2),
        targets=(3,),
        head=model[-1],
        schedule=lambda step: 0.995**step,
        kind="regression",
    )
