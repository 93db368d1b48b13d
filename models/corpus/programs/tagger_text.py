"""A bidirectional GRU that counts the vowels near every letter (sequence labelling), Adadelta."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator


class Tagger(nn.Module):
    """Embedding, GRU both ways, a tag for every letter: how many vowels are in its window."""

    def __init__(self, symbols: int):
        super().__init__()
        self.embed = nn.Embedding(symbols, 16)
        self.gru = nn.GRU(16, 20, batch_first=True, bidirectional=True)
        self.head = nn.Linear(40, 4)

    def forward(self, x):
        return self.head(self.gru(self.embed(x))[0])


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, symbols = datasets.text()
    vowels = torch.zeros(symbols)
    vowels[[1, 5, 9, 15, 21]] = 1.0
    model = Tagger(symbols)

    def tagged(draw):
        def one(n: int):
            x, _ = draw(n)
            near = F.avg_pool1d(vowels[x][:, None], 3, 1, 1)[:, 0] * 3
            return x, near.round().long().clamp(0, 3)

        return one

    return Task(
        model=model,
        optimizer=torch.optim.Adadelta(model.parameters(), lr=1.0),
        draw=tagged(text_draw(text[:80000], 14, generator(seed + 1))),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=16,
        probe=[tagged(text_draw(text[:80000], 14, generator(5)))(96)],
        validation=[tagged(text_draw(text[80000:], 14, generator(6)))(64)],
        head=model.head,
    )
