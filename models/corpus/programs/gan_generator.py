"""A DCGAN on small Fashion-MNIST images seen from the other side: the generator's stream,
BatchNorm, Adam. Its loss says how well it fools a discriminator that learns along, so it rises and
falls."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    maker = nn.Sequential(
        nn.Linear(12, 24 * 4),
        nn.Unflatten(1, (24, 2, 2)),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Upsample(size=4),
        nn.Conv2d(24, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Upsample(size=7),
        nn.Conv2d(12, 1, 3, padding=1),
    )
    critic = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(12, 16, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64, 1),
    )
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
    g = generator(seed + 1)
    x, _ = datasets.fashion("train", 3000, 4)

    def judge(step: int) -> None:
        """One step of the discriminator."""
        real = x[torch.randint(len(x), (32,), generator=g)]
        with torch.no_grad():
            fake = maker(torch.randn(32, 12, generator=g))
        critic_optimizer.zero_grad()
        (F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()).backward()
        critic_optimizer.step()

    def loss(m, b):
        critic.requires_grad_(False)
        value = F.softplus(-critic(m(b[0]))).mean()
        critic.requires_grad_(True)
        return value

    noise = torch.randn(256, 12, generator=generator(5))
    target = x[:256].flatten(1)

    def clean(m) -> float:
        """Energy distance of the generated images from real ones, normalised as in training."""
        fake = m.train()(noise).flatten(1)
        across = torch.cdist(fake, target).mean()
        return float(
            2 * across - torch.cdist(fake, fake).mean() - torch.cdist(target, target).mean()
        )

    return Task(
        model=maker,
        optimizer=torch.optim.Adam(maker.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        draw=lambda n: (torch.randn(n, 12, generator=g),),
        loss=loss,
        batch_size=32,
        probe=[(noise,)],
        targets=(),
        head=maker[-1],
        clean=clean,
        others=[critic_optimizer],
        after_step=judge,
        kind="gan",
    )
