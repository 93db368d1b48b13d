"""Segmentation: which pixels of a photograph are covered by clothes? A U-Net with BatchNorm, Dice
loss between 0 and 1, Nesterov SGD with cosine restarts every 100 steps."""

import math

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator


def _block(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


class UNet(nn.Module):
    """Two levels down and up, with skips."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.one, self.two = _block(1, width), _block(width, 2 * width)
        self.bottom, self.back = _block(2 * width, 2 * width), _block(4 * width, width)
        self.end, self.head = _block(2 * width, width), nn.Conv2d(width, 1, 1)
        self.down, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    def forward(self, x):
        a = self.one(x)
        b = self.two(self.down(a))
        c = self.back(torch.cat([b, self.up(self.bottom(self.down(b)))], 1))
        return self.head(self.end(torch.cat([a, self.up(c)], 1)))


def _dice(score: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    chance = score.sigmoid()
    both = (chance * mask).sum((1, 2, 3))
    return (1 - (2 * both + 1) / (chance.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)).mean()


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = UNet()
    photo = datasets.photograph("camera", 96)

    def scenes(images, g):
        def draw(n: int):
            thing = images[torch.randint(len(images), (n,), generator=g)] * 0.353 + 0.286
            places = torch.randint(76, (n, 2), generator=g).tolist()
            back = torch.stack([photo[None, i : i + 20, j : j + 20] for i, j in places])
            scene, mask = back.clone(), torch.zeros_like(back)
            for k, (i, j) in enumerate(torch.randint(7, (n, 2), generator=g).tolist()):
                covered = (thing[k] > 0.1).float()
                scene[k, :, i : i + 14, j : j + 14] *= 1 - covered
                scene[k, :, i : i + 14, j : j + 14] += covered * (2 * thing[k] - 1)
                mask[k, :, i : i + 14, j : j + 14] = covered
            return scene + 0.1 * torch.randn(scene.shape, generator=g), mask

        return draw

    train, _ = datasets.fashion("train", 3000, 2)
    held, _ = datasets.fashion("t10k", 512, 2)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, nesterov=True),
        draw=scenes(train, generator(seed + 1)),
        loss=lambda m, b: _dice(m(b[0]), b[1]),
        batch_size=8,
        probe=[scenes(train, generator(5))(96)],
        validation=[scenes(held, generator(6))(48)],
        head=model.head,
        schedule=lambda step: 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step % 100) / 100)),
    )
