"""A word-level GRU language model with tied embeddings and dropout: half a million parameters, a
slow one. Adam, clipping, the rate halved late."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.task import Task, generator


class Model(nn.Module):
    """Embedding, GRU, the embedding again."""

    def __init__(self, words: int, width: int = 128):
        super().__init__()
        self.token = nn.Embedding(words, width)
        nn.init.normal_(self.token.weight, std=0.1)
        self.gru, self.drop = nn.GRU(width, width, batch_first=True), nn.Dropout(0.1)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, x):
        h = self.drop(self.gru(self.drop(self.token(x)))[0])
        return h @ self.token.weight.T + self.bias


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, words = datasets.definitions(3000)
    model = Model(words)
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        draw=text_draw(text[:100000], 12, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=8,
        probe=[text_draw(text[:100000], 12, generator(5))(64)],
        validation=[text_draw(text[100000:], 12, generator(6))(32)],
        vocabulary=words,
        schedule=lambda step: 1.0 if step < 200 else 0.5,
        clip=0.5,
    )
