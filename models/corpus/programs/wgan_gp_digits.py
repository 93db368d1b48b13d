"""A Wasserstein GAN with gradient penalty on digits: the critic's stream, Adam with β₁ 0, two
critic steps a generator step."""

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator


def _penalty(critic, mixed: torch.Tensor) -> torch.Tensor:
    """How far the critic's slope is from one; it needs gradients even where none are wanted."""
    with torch.enable_grad():
        point = mixed.clone().requires_grad_(True)
        slope = torch.autograd.grad(critic(point).sum(), point, create_graph=True)[0]
        return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    critic = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 48),
        nn.LeakyReLU(0.2),
        nn.Linear(48, 48),
        nn.LeakyReLU(0.2),
        nn.Linear(48, 1),
    )
    maker = nn.Sequential(
        nn.Linear(8, 48),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Linear(48, 64),
        nn.Tanh(),
        nn.Unflatten(1, (1, 8, 8)),
    )
    maker_optimizer = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.0, 0.9))
    g = generator(seed + 1)
    x, _ = datasets.digits()

    def draw(n: int):
        real = x[torch.randint(1400, (n,), generator=g)]
        with torch.no_grad():
            fake = maker(torch.randn(n, 8, generator=g))
        share = torch.rand(n, 1, 1, 1, generator=g)
        return real, fake, share * real + (1 - share) * fake

    def loss(m, b):
        return m(b[1]).mean() - m(b[0]).mean() + 5.0 * _penalty(m, b[2])

    def make(step: int) -> None:
        if step % 2 == 1:
            maker_optimizer.zero_grad()
            critic.requires_grad_(False)
            (-critic(maker(torch.randn(32, 8, generator=g)))).mean().backward()
            critic.requires_grad_(True)
            maker_optimizer.step()

    noise = torch.randn(256, 8, generator=generator(5))
    target = x[:256].flatten(1)

    def clean(m) -> float:
        """Energy distance of the generated digits from real ones."""
        with torch.no_grad():
            fake = maker(noise).flatten(1)
        across = torch.cdist(fake, target).mean()
        return float(
            2 * across - torch.cdist(fake, fake).mean() - torch.cdist(target, target).mean()
        )

    return Task(
        model=critic,
        optimizer=torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9)),
        draw=draw,
        loss=loss,
        batch_size=32,
        probe=[draw(8)],
        inputs=(0, 1, 2),
        targets=(),
        head=critic[-1],
        clean=clean,
        others=[maker_optimizer],
        after_step=make,
        kind="gan",
    )
