"""A Wasserstein GAN with clipped weights on points in rings: the critic's loss, RMSprop, five
critic steps a generator step. The loss falls far below zero and comes back as the generator
learns."""

import torch
from torch import nn

from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    critic = nn.Sequential(
        nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1)
    )
    maker = nn.Sequential(
        nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2)
    )
    maker_optimizer = torch.optim.RMSprop(maker.parameters(), lr=2e-3)
    g = generator(seed + 1)

    def real(n: int, g):
        angle = 6.2832 * torch.rand(n, generator=g)
        radius = 1.0 + torch.randint(2, (n,), generator=g) + 0.05 * torch.randn(n, generator=g)
        return torch.stack([radius * angle.cos() + 2.0, radius * angle.sin()], -1)

    def draw(n: int):
        with torch.no_grad():
            return real(n, g), maker(torch.randn(n, 4, generator=g))

    def make(step: int) -> None:
        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-0.15, 0.15)
        if step % 5 == 4:
            maker_optimizer.zero_grad()
            critic.requires_grad_(False)
            (-critic(maker(torch.randn(64, 4, generator=g)))).mean().backward()
            critic.requires_grad_(True)
            maker_optimizer.step()

    target, noise = real(256, generator(5)), torch.randn(256, 4, generator=generator(6))

    def clean(m) -> float:
        """Energy distance of the generated points from real ones."""
        with torch.no_grad():
            fake = maker(noise)
        across = torch.cdist(fake, target).mean()
        return float(
            2 * across - torch.cdist(fake, fake).mean() - torch.cdist(target, target).mean()
        )

    return Task(
        model=critic,
        optimizer=torch.optim.RMSprop(critic.parameters(), lr=2e-3),
        draw=draw,
        loss=lambda m, b: m(b[1]).mean() - m(b[0]).mean(),
        batch_size=64,
        probe=[draw(8)],
        inputs=(0, 1),
        targets=(),
        clean=clean,
        others=[maker_optimizer],
        after_step=make,
        kind="gan",
    )
