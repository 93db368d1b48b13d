"""A tabular network on the breast-cancer table, RMSprop, binary cross-entropy, batch 16."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, sampler


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(30, 32),
        nn.LayerNorm(32),
        nn.SiLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 16),
        nn.SiLU(),
        nn.Linear(16, 1),
    )
    x, y = datasets.table("breast_cancer")
    y = y.to(torch.float32)[:, None]
    return Task(
        model=model,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=5e-4),
        draw=sampler((x[:400], y[:400]), generator(seed + 1)),
        loss=lambda m, b: F.binary_cross_entropy_with_logits(m(b[0]), b[1]),
        batch_size=16,
        probe=[(x[:400], y[:400])],
        validation=[(x[400:], y[400:])],
        accuracy=lambda m, b: float(((m(b[0]) > 0).float() == b[1]).float().mean()),
        head=model[-1],
    )
