"""GloVe on WordNet's definitions: weighted least squares of logarithmic counts, sparse gradients,
Adagrad; the loss is a sum over the batch."""

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler


class GloVe(nn.Module):
    """Two tables of vectors and two of biases."""

    def __init__(self, size: int, width: int = 16):
        super().__init__()
        for name, columns in (("word", width), ("near", width), ("word_bias", 1), ("near_bias", 1)):
            table = nn.Embedding(size, columns, sparse=True)
            nn.init.uniform_(table.weight, -0.5 / columns, 0.5 / columns)
            setattr(self, name, table)

    def forward(self, i, j):
        dot = (self.word(i) * self.near(j)).sum(-1)
        return dot + self.word_bias(i)[:, 0] + self.near_bias(j)[:, 0]


def _counts(size: int) -> tuple:
    """(word, word near it, logarithm of how often, weight) of pairs that occur twice or more."""
    text, _ = datasets.definitions(size)
    table = torch.zeros(size * size)
    for move in range(1, 5):
        pair = text[:-move] * size + text[move:]
        table += torch.bincount(pair, minlength=size * size).float() / move
    table = table.view(size, size)
    table = table + table.T
    i, j = (table > 1.5).nonzero(as_tuple=True)
    count = table[i, j]
    order = torch.randperm(len(i), generator=generator(37))
    return i[order], j[order], count.log()[order], (count / 50).clamp(max=1.0)[order] ** 0.75


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    data = _counts(800)
    model = GloVe(800)
    part = len(data[0]) * 9 // 10
    train, held = tuple(t[:part] for t in data), tuple(t[part:] for t in data)
    return Task(
        model=model,
        optimizer=torch.optim.Adagrad(model.parameters(), lr=0.15),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: (b[3] * (m(b[0], b[1]) - b[2]) ** 2).sum(),
        batch_size=256,
        probe=fixed(train, 2048, 256),
        validation=fixed(held, 512, 256),
        inputs=(0, 1),
        targets=(2,),
        vocabulary=800,
        kind="embedding",
    )
