"""Denoising diffusion of 8×8 digits: a convolutional network told the time, GroupNorm, AdamW,
clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, warmup


class Denoiser(nn.Module):
    """Three convolutions; the time shifts and scales the channels in the middle."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(
            width, width, 3, padding=1
        )
        self.norm, self.act = nn.GroupNorm(4, width), nn.SiLU()
        self.time = nn.Linear(8, 2 * width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        self.register_buffer("wave", 3.1416 * torch.tensor([0.5, 1.0, 2.0, 4.0]))

    def forward(self, x, time):
        phase = time[:, None] * self.wave
        scale, shift = self.time(torch.cat([phase.sin(), phase.cos()], -1))[:, :, None, None].chunk(
            2, 1
        )
        h = self.act(self.first(x))
        h = h + self.act(self.norm(self.second(h)) * (1 + scale) + shift)
        return self.head(h)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Denoiser()
    x, _ = datasets.digits()

    def noisy(low: int, high: int, g):
        def draw(n: int):
            clear = x[torch.randint(low, high, (n,), generator=g)]
            time, noise = torch.rand(n, generator=g), torch.randn(clear.shape, generator=g)
            keep = (time * 1.5).cos()[:, None, None, None]
            return keep * clear + (1 - keep**2).sqrt() * noise, noise, time

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01),
        draw=noisy(0, 1400, generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0], b[2]), b[1]),
        batch_size=32,
        probe=[noisy(0, 1400, generator(5))(256)],
        validation=[noisy(1400, 1797, generator(6))(128)],
        head=model.head,
        schedule=warmup(20),
        clip=1.0,
        kind="generative",
    )
