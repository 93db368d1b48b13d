"""A siamese network: are two clothes of the same kind? One convolutional tower for both, their
features side by side, binary cross-entropy; momentum SGD, its rate halved every 100 steps."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class Siamese(nn.Module):
    """A tower for each picture, the same one, and a comparison of what they see."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 48),
        )
        self.compare = nn.Sequential(nn.Linear(96, 48), nn.ReLU())
        self.head = nn.Linear(48, 1)

    def forward(self, pairs):
        seen = self.tower(pairs.flatten(0, 1)).view(len(pairs), 2, -1)
        apart = torch.cat([(seen[:, 0] - seen[:, 1]).abs(), seen[:, 0] * seen[:, 1]], -1)
        return self.head(self.compare(apart))[:, 0]


def _pairs(images, kinds, g):
    """Draw pairs, half of them of the same kind, and which those are."""
    members = [(kinds == k).nonzero()[:, 0] for k in range(10)]

    def draw(n: int):
        first = torch.randint(len(images), (n,), generator=g)
        second = torch.randint(len(images), (n,), generator=g)
        same = torch.rand(n, generator=g) < 0.5
        for i in same.nonzero()[:, 0].tolist():
            others = members[int(kinds[first[i]])]
            second[i] = others[int(torch.randint(len(others), (), generator=g))]
        alike = (kinds[first] == kinds[second]).float()
        return torch.stack([images[first], images[second]], 1), alike

    return draw


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Siamese()
    train = datasets.fashion("train", 3000, 2)
    held = datasets.fashion("t10k", 512, 2)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4),
        draw=_pairs(*train, generator(seed + 1)),
        loss=lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]),
        batch_size=24,
        probe=[_pairs(*train, generator(5))(384)],
        validation=[_pairs(*held, generator(6))(192)],
        accuracy=lambda m, b: float(((m(b[0]) > 0) == (b[1] > 0.5)).float().mean()),
        head=model.head,
        schedule=lambda step: 0.5 ** (step // 100),
    )
