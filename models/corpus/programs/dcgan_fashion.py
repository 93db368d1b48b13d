"""A convolutional GAN on small Fashion-MNIST images: the discriminator's stream, hinge loss, Adam,
β₁ 0.5."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    critic = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(12, 16, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(64, 1),
    )
    maker = nn.Sequential(
        nn.Linear(12, 16 * 4),
        nn.Unflatten(1, (16, 2, 2)),
        nn.ReLU(),
        nn.Upsample(size=4),
        nn.Conv2d(16, 12, 3, padding=1),
        nn.ReLU(),
        nn.Upsample(size=7),
        nn.Conv2d(12, 1, 3, padding=1),
    )
    maker_optimizer = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.5, 0.999))
    g = generator(seed + 1)
    x, _ = datasets.fashion("train", 3000, 4)

    def draw(n: int):
        with torch.no_grad():
            return x[torch.randint(len(x), (n,), generator=g)], maker(
                torch.randn(n, 12, generator=g)
            )

    def make(step: int) -> None:
        maker_optimizer.zero_grad()
        critic.requires_grad_(False)
        (-critic(maker(torch.randn(32, 12, generator=g)))).mean().backward()
        critic.requires_grad_(True)
        maker_optimizer.step()

    noise = torch.randn(256, 12, generator=generator(5))

    def clean(m) -> float:
        """Distance of the generated images' mean and spread from those of the real ones."""
        with torch.no_grad():
            fake = maker(noise).flatten(1)
        real = x[:512].flatten(1)
        return float((fake.mean(0) - real.mean(0)).norm() + (fake.std(0) - real.std(0)).norm())

    return Task(
        model=critic,
        optimizer=torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999)),
        draw=draw,
        loss=lambda m, b: F.relu(1 - m(b[0])).mean() + F.relu(1 + m(b[1])).mean(),
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
