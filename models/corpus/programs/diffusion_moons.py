"""A denoising diffusion model of two moons: noise prediction at random times, AdamW."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


class Denoiser(nn.Module):
    """Predicts the noise from the noisy point and Fourier features of the time."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )
        self.register_buffer("wave", torch.tensor([1.0, 2.0, 4.0, 8.0]))

    def forward(self, x, time):
        phase = time[:, None] * self.wave * 3.1416
        return self.net(torch.cat([x, phase.sin(), phase.cos()], -1))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Denoiser()

    def noisy(g):
        def draw(n: int):
            angle = torch.rand(n, generator=g) * 3.1416
            upper = torch.rand(n, generator=g) < 0.5
            x = torch.where(upper, angle.cos(), 1 - angle.cos())
            y = torch.where(upper, angle.sin(), 0.5 - angle.sin())
            point = torch.stack([x - 0.5, y - 0.25], -1)
            time, noise = torch.rand(n, generator=g), torch.randn(n, 2, generator=g)
            keep = (time * 1.5708).cos()[:, None]
            return keep * point + (1 - keep**2).sqrt() * noise, noise, time

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        draw=noisy(generator(seed + 1)),
        loss=lambda m, b: F.mse_loss(m(b[0], b[2]), b[1]),
        batch_size=128,
        probe=[noisy(generator(5))(1024)],
        validation=[noisy(generator(6))(256)],
        head=model.net[-1],
        kind="generative",
    )
