"""Point clouds of clothes: a PointNet that turns the points by a matrix of its own, pools what it
sees of each, and names the piece; Adam, a step schedule, a penalty on matrices that don't rotate."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, share_correct


def _each(inside: int, outside: int) -> nn.Sequential:
    """The same layer for each point."""
    return nn.Sequential(nn.Conv1d(inside, outside, 1), nn.BatchNorm1d(outside), nn.ReLU())


class PointNet(nn.Module):
    """Points N×3×P; forward gives the log-chances of the classes and the matrices."""

    def __init__(self):
        super().__init__()
        self.look = nn.Sequential(_each(3, 16), _each(16, 32))
        self.turn = nn.Linear(32, 9)
        self.see = nn.Sequential(_each(3, 24), _each(24, 64))
        self.judge = nn.Sequential(
            nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1)
        )
        self.head = nn.Linear(48, 10)
        nn.init.zeros_(self.turn.weight)
        self.turn.bias.data = torch.eye(3).flatten()

    def matrices(self, x):
        return self.turn(self.look(x).amax(-1)).view(-1, 3, 3)

    def forward(self, x):
        turned = self.matrices(x)
        return self.head(self.judge(self.see(turned @ x).amax(-1))).log_softmax(-1), turned


def _clouds(images, kinds, g, points: int = 32):
    """Draw points of an image where it is bright: places, at a random scale, and brightness."""
    bright = (images * 0.353 + 0.286).clamp(min=0).flatten(1) + 1e-4
    side = images.shape[-1]

    def draw(n: int):
        index = torch.randint(len(images), (n,), generator=g)
        chosen = torch.multinomial(bright[index], points, replacement=True, generator=g)
        place = torch.stack([chosen // side, chosen % side], 1) / (side / 2) - 1
        place = place + torch.empty(place.shape).uniform_(-1 / side, 1 / side, generator=g)
        size = torch.empty(n, 1, 1).uniform_(0.9, 1.1, generator=g)
        return torch.cat([place * size, bright[index].gather(1, chosen)[:, None]], 1), kinds[index]

    return draw


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = PointNet()
    train, held = datasets.fashion("train", 4000), datasets.fashion("t10k", 512)

    def loss(m, b):
        log, turned = m(b[0])
        askew = torch.eye(3) - turned @ turned.transpose(1, 2)
        return F.nll_loss(log, b[1]) + 0.01 * askew.pow(2).sum((1, 2)).mean()

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=4e-3),
        draw=_clouds(*train, generator(seed + 1)),
        loss=loss,
        batch_size=20,
        probe=[_clouds(*train, generator(5))(256)],
        validation=[_clouds(*held, generator(6))(160)],
        accuracy=lambda m, b: share_correct(lambda x: m(x)[0], b),
        head=model.head,
        schedule=lambda step: 0.5 ** (step // 100),
    )
