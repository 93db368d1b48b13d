"""A small U-Net that removes noise from patches of photographs; L1 loss, Adam with a high β₁."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class UNet(nn.Module):
    """Down, bottom, up, with one skip."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.bottom = nn.Sequential(
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
        )
        self.up = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        a = self.down(x)
        return self.head(self.up(torch.cat([a, self.bottom(a)], 1)))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = UNet()
    train, held = datasets.photograph("camera", 96), datasets.photograph("coins", 96)

    def patches(image, g):
        def draw(n: int):
            at = torch.randint(96 - 16, (n, 2), generator=g).tolist()
            clear = torch.stack([image[None, i : i + 16, j : j + 16] for i, j in at])
            return clear + 0.4 * torch.randn(clear.shape, generator=g), clear

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.95, 0.999)),
        draw=patches(train, generator(seed + 1)),
        loss=lambda m, b: F.l1_loss(m(b[0]), b[1]),
        batch_size=8,
        probe=[patches(train, generator(5))(64)],
        validation=[patches(held, generator(6))(32)],
        head=model.head,
        kind="generative",
    )
