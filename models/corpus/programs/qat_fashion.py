"""Quantisation-aware training: weights of four bits and activations of five, straight-through
gradients, and plain SGD with momentum. The fake quantiser makes the loss rough."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


def _rounded(x: torch.Tensor, levels: int) -> torch.Tensor:
    """x on a grid of so many levels each way; the gradient passes as if nothing were rounded."""
    scale = x.detach().abs().amax().clamp(min=1e-8) / levels
    return x + ((x / scale).round() * scale - x).detach()


class Quantised(nn.Linear):
    """A linear layer with rounded weights and inputs."""

    def forward(self, x):
        return F.linear(_rounded(x, 15), _rounded(self.weight, 7), self.bias)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(), Quantised(196, 64), nn.ReLU(), Quantised(64, 32), nn.ReLU(), Quantised(32, 10)
    )
    train = datasets.fashion("train", 6000, 2)
    held = datasets.fashion("t10k", 1024, 2)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed(train, 512, 256),
        validation=fixed(held, 256, 256),
        accuracy=share_correct,
        head=model[-1],
        schedule=lambda step: 0.3 if step >= 240 else 1.0,
    )
