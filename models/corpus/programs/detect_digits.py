"""Detection: digits on a canvas, a 3×3 grid of cells that each say whether a digit's centre is
there, where, how large and which. Four loss terms, summed over the image; sign-SGD with
momentum."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.optimizers import Signum
from models.corpus.task import Task, generator

GRID, CELL = 3, 8


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 14, 1),
    )
    digits, classes = datasets.digits()

    def scenes(low: int, high: int, g):
        def draw(n: int):
            """(canvas, there and box: 4 numbers a cell, class a cell)"""
            canvas = -0.8 + 0.1 * torch.randn(n, 1, GRID * CELL, GRID * CELL, generator=g)
            box, kind = torch.zeros(n, 4, GRID, GRID), torch.zeros(n, GRID, GRID, dtype=torch.int64)
            for k in range(n):
                for cell in torch.randperm(GRID**2, generator=g)[:3].tolist():
                    which = int(torch.randint(low, high, (1,), generator=g))
                    size = int(torch.randint(6, 9, (1,), generator=g))
                    y, x = torch.randint(CELL - size + 1, (2,), generator=g).tolist()
                    row, column = divmod(cell, GRID)
                    top, left = row * CELL + y, column * CELL + x
                    small = F.interpolate(digits[which][None], size=(size, size))[0]
                    canvas[k, :, top : top + size, left : left + size] = small
                    box[k, :, row, column] = torch.tensor([1.0, y / 2, x / 2, size - 7.0])
                    kind[k, row, column] = classes[which]
            return canvas, box, kind

        return draw

    def loss(m, b):
        out, there = m(b[0]), b[1][:, 0]
        found = F.binary_cross_entropy_with_logits(out[:, 0], there, reduction="none")
        place = F.smooth_l1_loss(out[:, 1:4], b[1][:, 1:4], reduction="none").sum(1)
        kind = F.cross_entropy(out[:, 4:], b[2], reduction="none")
        return (found + there * (place + kind)).sum((1, 2)).mean()

    return Task(
        model=model,
        optimizer=Signum(model.parameters(), lr=1e-3, momentum=0.9),
        draw=scenes(0, 1400, generator(seed + 1)),
        loss=loss,
        batch_size=8,
        probe=[scenes(0, 1400, generator(5))(96)],
        validation=[scenes(1400, 1797, generator(6))(48)],
        targets=(1, 2),
        head=model[-1],
    )
