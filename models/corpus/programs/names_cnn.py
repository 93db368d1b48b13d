"""Names, words or abbreviations: convolutions over letters and max-pooling, momentum SGD on one
cycle."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


class LetterNet(nn.Module):
    """Two convolutions and the largest answer over the word."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.embed = nn.Embedding(len(datasets.LETTERS), 16)
        self.body = nn.Sequential(
            nn.Conv1d(16, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.drop, self.head = nn.Dropout(0.0), nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.drop(self.body(self.embed(x).transpose(1, 2)).amax(-1)))


def _cycle(step: int) -> float:
    """Up for 100 steps, down to nearly nothing at 360."""
    if step < 100:
        return 0.1 + 0.9 * step / 100
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min((step - 100) / 260, 1.0)))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = LetterNet()
    x, y = datasets.word_kinds()
    train, held = (x[:7000], y[:7000]), (x[7000:], y[7000:])
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.07, momentum=0.9, weight_decay=1e-4),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed(train, 512, 256),
        validation=fixed(held, 512, 256),
        accuracy=share_correct,
        head=model.head,
        schedule=_cycle,
    )
