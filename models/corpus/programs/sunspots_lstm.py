"""Sunspots of the coming years from those before, in their own unit, errors summed over the batch:
losses around 1e5. LSTM, Adagrad with a high rate, clipping."""

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator


class Forecast(nn.Module):
    """An LSTM over twenty years; the last state gives the next three."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return 100 * self.head(self.lstm(x[..., None] / 100)[0][:, -1])


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Forecast()
    window = datasets.columns("sunspots")[:, 1].unfold(0, 23, 1)
    g = generator(seed + 1)

    def batch(rows: torch.Tensor):
        return rows[:, :20], rows[:, 20:]

    return Task(
        model=model,
        optimizer=torch.optim.Adagrad(model.parameters(), lr=0.04),
        draw=lambda n: batch(window[torch.randint(240, (n,), generator=g)]),
        loss=lambda m, b: ((m(b[0]) - b[1]) ** 2).sum(),
        batch_size=16,
        probe=[batch(window[:240])],
        validation=[batch(window[260:])],
        head=model.head,
        clip=2e4,
        kind="regression",
    )
