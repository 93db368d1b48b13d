"""Self-training with few labels: what the network is sure of in a picture is what it must say of a
distorted one. Ten labels a class, the other term enters as it grows sure; Nesterov SGD, cosine."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator

LABELLED, SURE = 100, 0.8


class Net(nn.Module):
    """Two convolutions and two layers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(384, 48),
            nn.ReLU(),
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        return self.head(self.body(x))


def _distorted(x: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Moved by a pixel, a patch wiped out, noisy."""
    i, j, p, q = torch.randint(3, (4,), generator=g).tolist()
    moved = F.pad(x, (1, 1, 1, 1), value=-0.81)[:, :, i : i + 8, j : j + 8].clone()
    moved[:, :, 2 * p : 2 * p + 3, 2 * q : 2 * q + 3] = -0.81
    return moved + 0.3 * torch.randn(x.shape, generator=g)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Net()
    x, y = datasets.digits()
    g = generator(seed + 1)

    def draw(n: int):
        """Labelled pictures and their classes; three times as many without, plain and distorted."""
        few = torch.randint(LABELLED, (n,), generator=g)
        many = torch.randint(LABELLED, 1400, (3 * n,), generator=g)
        plain = x[many].view(n, 3, 8, 8)
        return x[few], y[few], plain, _distorted(x[many], g).view(n, 3, 8, 8)

    def loss(m, b):
        if not b[2].numel():  # the probe's
            return F.cross_entropy(m(b[0]), b[1])
        out = m(torch.cat([b[0], *(part.reshape(-1, 1, 8, 8) for part in b[2:])]))
        labelled, plain, distorted = out.split([len(b[0]), 3 * len(b[0]), 3 * len(b[0])])
        chance, guess = plain.detach().softmax(-1).max(-1)
        said = F.cross_entropy(distorted, guess, reduction="none")
        return F.cross_entropy(labelled, b[1]) + (said * (chance > SURE)).mean()

    none = torch.zeros(len(x), 0)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        draw=draw,
        loss=loss,
        batch_size=12,
        probe=fixed((x, y, none, none), 512),
        validation=[(x[1400:], y[1400:], none[1400:], none[1400:])],
        accuracy=lambda m, b: float((m(b[0]).argmax(-1) == b[1]).float().mean()),
        inputs=(0, 2, 3),
        head=model.head,
        schedule=lambda step: math.cos(7 * math.pi * min(step / 320, 1.0) / 16),
    )
