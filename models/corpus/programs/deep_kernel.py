"""Gaussian processes on what a network makes of the sunspots' last years: the marginal likelihood of
small batches, near zero and below; Adam, a rate for the network and one for the kernel."""

import math

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


class DeepKernel(nn.Module):
    """Features of a network, under a kernel with a scale for each, and the noise's size."""

    def __init__(self, inputs: int, width: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 32), nn.Tanh(), nn.Linear(32, 16), nn.Tanh())
        self.head = nn.Linear(16, width)
        self.scale = nn.Parameter(torch.zeros(width))
        self.size, self.noise = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        """The covariance of what is observed at x."""
        h = self.head(self.body(x)) * (-self.scale).exp()
        apart = (h[:, None] - h).pow(2).sum(-1)
        noise = (2 * self.noise).exp() + 1e-3
        return (2 * self.size - 0.5 * apart).exp() + noise * torch.eye(len(x))


def _surprise(covariance: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of a Gaussian around zero, a value."""
    factor = torch.linalg.cholesky_ex(covariance)[0]
    whitened = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    half = 0.5 * whitened.pow(2).sum() + factor.diagonal().log().sum()
    return half / len(y) + 0.5 * math.log(2 * math.pi)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    spots = datasets.columns("sunspots")[:, 1]
    spots = (spots - spots.mean()) / spots.std()
    past = spots.unfold(0, 12, 1)[:-1].contiguous()
    now = spots[12:]
    order = torch.randperm(len(past), generator=generator(3))
    x, y = past[order], now[order]
    model = DeepKernel(12)
    kernel = [model.scale, model.size, model.noise]
    network = [*model.body.parameters(), *model.head.parameters()]
    groups = [{"params": network, "lr": 2e-3}, {"params": kernel, "lr": 0.02}]
    return Task(
        model=model,
        optimizer=torch.optim.Adam(groups),
        draw=sampler((x[:240], y[:240]), generator(seed + 1)),
        loss=lambda m, b: _surprise(m(b[0]), b[1]),
        batch_size=48,
        probe=[(x[:240], y[:240])],
        validation=[(x[240:], y[240:])],
        head=model.head,
        schedule=lambda step: 1.0 if step < 200 else 0.3,
        kind="regression",
    )
