"""Super-resolution of patches of photographs, twice the size by pixel shuffling, on top of plain
enlarging. Charbonnier loss around 1e-2, batch 4, Adam on one cycle."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class SuperResolution(nn.Module):
    """Convolutions on the small image; what they find is added to the enlarged one."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest") + self.body(x)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = SuperResolution()
    names = ("camera", "coins", "moon", "page")
    train = torch.stack([datasets.photograph(n, 128) for n in names])
    held = datasets.photograph("text", 128)[None]

    def patches(images, g):
        def draw(n: int):
            at = torch.cat(
                [
                    torch.randint(len(images), (n, 1), generator=g),
                    torch.randint(104, (n, 2), generator=g),
                ],
                1,
            ).tolist()
            large = torch.stack([images[k : k + 1, i : i + 24, j : j + 24] for k, i, j in at])
            return F.avg_pool2d(large, 2), large

        return draw

    def cycle(step: int) -> float:
        return min((step + 1) / 80, max(1.0 - (step - 80) / 320, 0.02))

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=4e-3),
        draw=patches(train, generator(seed + 1)),
        loss=lambda m, b: ((m(b[0]) - b[1]) ** 2 + 1e-6).sqrt().mean(),
        batch_size=4,
        probe=[patches(train, generator(5))(64)],
        validation=[patches(held, generator(6))(32)],
        head=model.body[4],
        schedule=cycle,
        kind="generative",
    )
