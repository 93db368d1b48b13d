"""A graph network on WordNet's nouns: what is meant, an act, an animal, an artifact? Letters of the
word, two rounds of averaging over neighbours, full graph, RMSprop."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class Sage(nn.Module):
    """A word's own state and the mean of those above and below it."""

    def __init__(self, edges: torch.Tensor, n: int, width: int = 24):
        super().__init__()
        both = torch.cat([edges, edges.flip(0)], 1)
        self.register_buffer("source", both[0])
        self.register_buffer("target", both[1])
        self.register_buffer(
            "degree", torch.bincount(both[1], minlength=n).clamp(min=1).float()[:, None]
        )
        self.letter = nn.EmbeddingBag(len(datasets.LETTERS), width, mode="mean", padding_idx=0)
        self.first, self.second = nn.Linear(2 * width, width), nn.Linear(2 * width, 12)
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.1)

    def _near(self, h: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(h).index_add(0, self.target, h[self.source])
        return torch.cat([h, total / self.degree], -1)

    def forward(self, words):
        h = self.act(self.first(self._near(self.letter(words))))
        return self.second(self._near(self.drop(h)))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    words, classes, edges = datasets.noun_graph(160)
    model = Sage(edges, len(words))
    order = torch.randperm(len(words), generator=generator(29))
    train, held = order[:1000], order[1000:]
    g = generator(seed + 1)

    def batch(nodes: torch.Tensor):
        return words, classes[nodes], nodes

    return Task(
        model=model,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=5e-3, alpha=0.95),
        draw=lambda n: batch(train[torch.randint(len(train), (n,), generator=g)]),
        loss=lambda m, b: F.cross_entropy(m(b[0])[b[2]], b[1]),
        batch_size=256,
        probe=[batch(train)],
        validation=[batch(held)],
        accuracy=lambda m, b: float((m(b[0])[b[2]].argmax(-1) == b[1]).float().mean()),
        head=model.second,
    )
