"""An energy model of points in rings: contrastive divergence with a few Langevin steps, Adam. The
loss is the difference of two energies and wanders around zero."""

import torch
from torch import nn

from models.corpus.task import Task, generator


def _rings(n: int, g: torch.Generator) -> torch.Tensor:
    angle = 6.2832 * torch.rand(n, generator=g)
    radius = 1.0 + torch.randint(2, (n,), generator=g) + 0.1 * torch.randn(n, generator=g)
    return torch.stack([radius * angle.cos() + 1.2, radius * angle.sin() - 0.8], -1)


def _langevin(energy, x: torch.Tensor, steps: int, g: torch.Generator) -> torch.Tensor:
    """Follow the energy downhill with noise."""
    with torch.enable_grad():
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            slope = torch.autograd.grad(energy(x).sum(), x)[0].clamp(-10, 10)
            x = x - 0.05 * slope + 0.1 * torch.randn(x.shape, generator=g)
    return x.detach().nan_to_num(0.0).clamp(-5, 5)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1)
    )
    g = generator(seed + 1)
    kept = torch.empty(512, 2).uniform_(-4, 4, generator=g)

    def draw(n: int):
        """Real points, and some of the kept samples moved on; one in twenty starts anew."""
        index = torch.randint(512, (n,), generator=g)
        fresh = torch.empty(n, 2).uniform_(-4, 4, generator=g)
        start = torch.where(torch.rand(n, 1, generator=g) < 0.05, fresh, kept[index])
        kept[index] = fake = _langevin(model, start, 6, g)
        return _rings(n, g), fake

    def loss(m, b):
        real, fake = m(b[0]), m(b[1])
        return real.mean() - fake.mean() + 0.05 * (real**2 + fake**2).mean()

    target = _rings(256, generator(5))

    def clean(m) -> float:
        """Energy distance of samples drawn afresh from real points."""
        fixed = generator(6)
        fake = _langevin(m, torch.empty(256, 2).uniform_(-4, 4, generator=fixed), 60, fixed)
        across = torch.cdist(fake, target).mean()
        return float(
            2 * across - torch.cdist(fake, fake).mean() - torch.cdist(target, target).mean()
        )

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1.5e-3, betas=(0.5, 0.99)),
        draw=draw,
        loss=loss,
        batch_size=64,
        probe=[draw(8)],
        inputs=(0, 1),
        targets=(),
        head=model[-1],
        clean=clean,
        kind="gan",
    )
