"""SimCLR-like contrastive learning on digits: two noisy views, normalised temperature loss,
momentum SGD."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
    )
    x, _ = datasets.digits()

    def views(low: int, high: int, g):
        def draw(n: int):
            base = x[torch.randint(low, high, (n,), generator=g)]

            def view():
                moved = torch.roll(base, int(torch.randint(-1, 2, (1,), generator=g)), -1)
                keep = (torch.rand(base.shape, generator=g) > 0.2).float()
                return moved * keep + 0.3 * torch.randn(base.shape, generator=g)

            return view(), view()

        return draw

    def loss(m, b):
        n = len(b[0])
        z = F.normalize(m(torch.cat(b[:2])), dim=-1)
        likeness = z @ z.T / 0.2 - 1e4 * torch.eye(2 * n)
        return F.cross_entropy(likeness, (torch.arange(2 * n) + n) % (2 * n))

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        draw=views(0, 1400, generator(seed + 1)),
        loss=loss,
        batch_size=48,
        probe=[views(0, 1400, generator(5))(48) for _ in range(3)],
        validation=[views(1400, 1797, generator(6))(48)],
        inputs=(0, 1),
        targets=(),
        head=model[-1],
        kind="contrastive",
    )
