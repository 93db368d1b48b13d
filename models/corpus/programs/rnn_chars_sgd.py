"""A plain tanh RNN on fortunes without clipping, SGD with momentum and a decaying rate."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator


class CharRNN(nn.Module):
    """Embedding, a tanh recurrence unrolled in Python, projection."""

    def __init__(self, symbols: int, width: int = 40):
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.recur = nn.Linear(width, width)
        self.act = nn.Tanh()
        self.head = nn.Linear(width, symbols)

    def forward(self, x):
        e = self.embed(x)
        h = torch.zeros_like(e[:, 0])
        states = []
        for t in range(x.shape[1]):
            h = self.act(e[:, t] + self.recur(h))
            states.append(h)
        return self.head(torch.stack(states, 1))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, symbols = datasets.text()
    model = CharRNN(symbols)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.8),
        draw=text_draw(text[:80000], 12, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=24,
        probe=[text_draw(text[:80000], 12, generator(5))(96)],
        validation=[text_draw(text[80000:], 12, generator(6))(64)],
        vocabulary=symbols,
        head=model.head,
        schedule=lambda step: 1.0 / (1.0 + step / 200),
    )
