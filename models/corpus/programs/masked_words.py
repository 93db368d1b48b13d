"""Masked language modelling of words in WordNet's definitions: tied embeddings, sinusoidal
positions, AdamW with clipping. Three quarters of the loss fall in the first steps, the rest is
slow."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.programs.transformer_prenorm import Layer
from models.corpus.task import Task, generator, warmup


class Bert(nn.Module):
    """Words and fixed positions, two layers, the word table again as read-out."""

    def __init__(self, words: int, length: int, width: int = 32):
        super().__init__()
        self.token = nn.Embedding(words + 1, width)
        nn.init.normal_(self.token.weight, std=0.1)
        wave = torch.arange(length)[:, None] / 100.0 ** (torch.arange(width // 2) / (width // 2))
        self.register_buffer("position", 0.1 * torch.cat([wave.sin(), wave.cos()], -1))
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, x):
        h = self.token(x) + self.position
        for layer in self.layers:
            h = layer(h, 0.0)
        return self.norm(h) @ self.token.weight[:-1].T + self.bias


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, words = datasets.definitions(400)
    model = Bert(words, 10)

    def masked(text, g):
        windows = text_draw(text, 10, g)

        def draw(n: int):
            x, _ = windows(n)
            return x, x, torch.rand(x.shape, generator=g) < 0.2

        return draw

    def loss(m, b):
        hidden = b[2]
        return F.cross_entropy(m(b[0].masked_fill(hidden, words))[hidden], b[1][hidden])

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05),
        draw=masked(text[:80000], generator(seed + 1)),
        loss=loss,
        batch_size=16,
        probe=[masked(text[:80000], generator(5))(128)],
        validation=[masked(text[80000:], generator(6))(64)],
        vocabulary=words,
        schedule=warmup(40),
        clip=1.0,
    )
