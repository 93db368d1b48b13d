"""A GAN on digits: the discriminator's stream, its generator trained between the steps. Adam, β₁
0.5."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    critic = nn.Sequential(
        nn.Linear(64, 64),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.0),
        nn.Linear(64, 32),
        nn.LeakyReLU(0.2),
        nn.Linear(32, 1),
    )
    maker = nn.Sequential(
        nn.Linear(8, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 64), nn.Tanh()
    )
    maker_optimizer = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.5, 0.999))
    g = generator(seed + 1)
    x, _ = datasets.digits()
    x = (x.flatten(1) / x.abs().max())[:1500]

    def draw(n: int):
        real = x[torch.randint(len(x), (n,), generator=g)]
        with torch.no_grad():
            fake = maker(torch.randn(n, 8, generator=g))
        return real, fake

    def loss(m, b):
        real, fake = m(b[0]), m(b[1])
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def make(step: int) -> None:
        maker_optimizer.zero_grad()
        critic.requires_grad_(False)
        F.softplus(-critic(maker(torch.randn(32, 8, generator=g)))).mean().backward()
        critic.requires_grad_(True)
        maker_optimizer.step()

    noise = torch.randn(256, 8, generator=generator(5))

    def clean(m) -> float:
        """Distance of the generated digits' mean and spread from those of the real ones."""
        with torch.no_grad():
            fake = maker(noise)
        moments = (fake.mean(0) - x.mean(0)).norm() + (torch.cov(fake.T) - torch.cov(x.T)).norm()
        return float(moments)

    return Task(
        model=critic,
        optimizer=torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999)),
        draw=draw,
        loss=loss,
        batch_size=32,
        probe=[draw(8)],
        inputs=(0, 1),
        targets=(),
        head=critic[-1],
        clean=clean,
        others=[maker_optimizer],
        after_step=make,
        kind="gan",
    )
