"""A SIREN that learns a photograph from coordinates: sine units, Adam, losses down to 1e-3."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


class Sine(nn.Module):
    """A linear layer and sin(w0·x), initialised as the paper asks."""

    def __init__(self, inside: int, outside: int, w0: float, first: bool = False):
        super().__init__()
        self.w0, self.linear = w0, nn.Linear(inside, outside)
        bound = 1 / inside if first else math.sqrt(6 / inside) / w0
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(self.w0 * self.linear(x))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        Sine(2, 40, 15.0, True), Sine(40, 40, 15.0), Sine(40, 40, 15.0), nn.Linear(40, 1)
    )
    image = datasets.photograph("camera", 48)
    axis = torch.linspace(-1, 1, 48)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    value = image.reshape(-1, 1)
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        draw=sampler((place, value), generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=256,
        probe=[(place, value)],
        head=model[-1],
        kind="regression",
    )
