"""A factorisation machine on a survey's categories (statsmodels' fair): sparse gradients,
SparseAdam, batch 64, binary cross-entropy that can fall by a fifth only."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


class Machine(nn.Module):
    """Weights of single categories and products of their factors, all of them rows of tables."""

    def __init__(self, size: int, rank: int = 8):
        super().__init__()
        self.factor = nn.Embedding(size, rank, sparse=True)
        self.single = nn.Embedding(size, 1, sparse=True)
        nn.init.normal_(self.factor.weight, std=0.05)
        nn.init.zeros_(self.single.weight)

    def forward(self, x):
        v = self.factor(x)
        pairs = 0.5 * (v.sum(1) ** 2 - (v**2).sum(1)).sum(-1)
        return self.single(x)[..., 0].sum(-1) + pairs


def _categories() -> tuple:
    """(rank of every answer among all, N×8; whether there was an affair), shuffled once."""
    table = datasets.columns("fair")
    table = table[torch.randperm(len(table), generator=generator(31))]
    parts, size = [], 0
    for column in table[:, :8].T:
        values, rank = column.unique(return_inverse=True)
        parts.append(rank + size)
        size += len(values)
    return torch.stack(parts, 1), (table[:, 8] > 0).float(), size


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    x, y, size = _categories()
    model = Machine(size)
    return Task(
        model=model,
        optimizer=torch.optim.SparseAdam(list(model.parameters()), lr=0.02),
        draw=sampler((x[:5000], y[:5000]), generator(seed + 1)),
        loss=lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]),
        batch_size=64,
        probe=[(x[:2000], y[:2000])],
        validation=[(x[5000:], y[5000:])],
        accuracy=lambda m, b: float(((m(b[0]) > 0).float() == b[1]).float().mean()),
        vocabulary=size,
        kind="embedding",
    )
