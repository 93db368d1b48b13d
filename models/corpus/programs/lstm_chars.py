"""A character LSTM on fortunes, Adam with gradient clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator
from models.corpus.datasets import text_draw


class CharLSTM(nn.Module):
    """Embedding, one LSTM layer, projection."""

    def __init__(self, symbols: int):
        super().__init__()
        self.embed = nn.Embedding(symbols, 24)
        self.lstm = nn.LSTM(24, 48, batch_first=True)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(48, symbols)

    def forward(self, x):
        return self.head(self.drop(self.lstm(self.embed(x))[0]))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, symbols = datasets.text()
    model = CharLSTM(symbols)
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        draw=text_draw(text[:80000], 20, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=16,
        probe=[text_draw(text[:80000], 20, generator(5))(64)],
        validation=[text_draw(text[80000:], 20, generator(6))(48)],
        vocabulary=symbols,
        head=model.head,
        clip=1.0,
    )
