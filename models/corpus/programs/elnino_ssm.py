"""Sea temperatures months ahead (statsmodels' elnino) by a diagonal linear state-space layer,
Nadam, batch 12."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class StateSpace(nn.Module):
    """A bank of decaying memories run over the series as one convolution, then a gated read-out."""

    def __init__(self, states: int = 24, length: int = 36):
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-2.5, 1.5, states))
        self.phase = nn.Parameter(torch.linspace(0.0, 1.5, states))
        self.into, self.gate = nn.Parameter(torch.randn(states) * 0.3), nn.Linear(states, states)
        self.head = nn.Linear(states, 1)
        self.register_buffer("age", torch.arange(length - 1, -1, -1).float())

    def forward(self, x):
        rate = F.softplus(self.decay)[:, None]
        kernel = (-rate * self.age).exp() * (self.phase[:, None] * self.age).cos()
        h = self.into * (x @ kernel.T)
        return self.head(h * self.gate(h).sigmoid())[:, 0]


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = StateSpace()
    months = datasets.columns("elnino")[:, 1:].reshape(-1)
    months = (months - months.mean()) / months.std()
    window = months.unfold(0, 39, 1)
    g = generator(seed + 1)

    def batch(rows: torch.Tensor):
        return rows[:, :36], rows[:, 38]

    return Task(
        model=model,
        optimizer=torch.optim.NAdam(model.parameters(), lr=3e-3),
        draw=lambda n: batch(window[torch.randint(500, (n,), generator=g)]),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=12,
        probe=[batch(window[:500])],
        validation=[batch(window[560:])],
        head=model.head,
        kind="regression",
    )
