"""Speech to letters: convolutions with BatchNorm over log-mel frames, CTC loss around 1e2, batch 4,
Adam."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


class Recogniser(nn.Module):
    """Three strided convolutions and a letter distribution for every 40 ms."""

    def __init__(self, width: int = 40):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(24, width, 5, 2, 2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, 2, 2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 5, 1, 2),
            nn.ReLU(),
            nn.Dropout(0.0),
        )
        self.head = nn.Conv1d(width, len(datasets.LETTERS) + 1, 1)

    def forward(self, x):
        return self.head(self.body(x.transpose(1, 2))).log_softmax(1)


def _padded() -> tuple:
    """All recordings as (frames, letters, count of frames, count of letters); 0 is CTC's blank."""
    found = [(x[:360], words) for x, words in datasets.speech() if len(x) <= 360]
    frames = torch.zeros(len(found), 360, 24)
    letters = torch.ones(len(found), 48, dtype=torch.int64)
    for i, (x, words) in enumerate(found):
        frames[i, : len(x)] = x
        letters[i, : len(words)] = torch.tensor([datasets.LETTERS.index(c) + 1 for c in words])
    counts = torch.tensor([[(len(x) + 3) // 4, len(words)] for x, words in found])
    return frames, letters, counts[:, 0], counts[:, 1]


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Recogniser()
    data = _padded()

    def loss(m, b):
        scores = m(b[0]).permute(2, 0, 1)
        each = F.ctc_loss(scores, b[1], b[2], b[3], reduction="none", zero_infinity=True)
        return each.mean()

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        draw=sampler(data, generator(seed + 1)),
        loss=loss,
        batch_size=4,
        probe=[data],
        targets=(1,),
        head=model.head,
        clip=100.0,
    )
