"""Speech-like self-supervision: a GRU predicts the frame three frames on, L1 loss, AdamW,
clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator

AHEAD = 3


class Predictor(nn.Module):
    """A GRU over log-mel frames and a linear read-out with a skip."""

    def __init__(self, width: int = 40):
        super().__init__()
        self.gru = nn.GRU(24, width, batch_first=True)
        self.head = nn.Linear(width, 24)

    def forward(self, x):
        return self.head(self.gru(x)[0])


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Predictor()
    recordings = [frames for frames, _ in datasets.speech()]

    def windows(frames, g, length: int = 14):
        def draw(n: int):
            start = torch.randint(len(frames) - length - AHEAD, (n,), generator=g)
            window = frames[start[:, None] + torch.arange(length + AHEAD)]
            return window[:, :-AHEAD], window[:, AHEAD:]

        return draw

    train, held = torch.cat(recordings[:9]), recordings[9]
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01),
        draw=windows(train, generator(seed + 1)),
        loss=lambda m, b: F.l1_loss(m(b[0]), b[1]),
        batch_size=8,
        probe=[windows(train, generator(5))(256)],
        validation=[windows(held, generator(6))(64)],
        head=model.head,
        clip=1.0,
        kind="regression",
    )
