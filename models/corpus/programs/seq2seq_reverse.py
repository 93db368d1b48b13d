"""A GRU encoder–decoder that writes short strings backwards, Adam, teacher forcing, clipping."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


class Seq2Seq(nn.Module):
    """GRU cells unrolled in Python: the decoder sees the previous target symbol."""

    def __init__(self, symbols: int, width: int = 48):
        super().__init__()
        self.embed = nn.Embedding(symbols + 1, 16)
        self.reader, self.writer = nn.GRUCell(16, width), nn.GRUCell(16, width)
        self.head = nn.Linear(width, symbols)
        self.start = symbols

    def forward(self, x, y):
        h = torch.zeros(len(x), self.reader.hidden_size)
        for e in self.embed(x).unbind(1):
            h = self.reader(e, h)
        first = torch.full_like(y[:, :1], self.start)
        out = []
        for e in self.embed(torch.cat([first, y[:, :-1]], 1)).unbind(1):
            h = self.writer(e, h)
            out.append(h)
        return self.head(torch.stack(out, 1))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    symbols, length = 10, 5
    model = Seq2Seq(symbols)

    def strings(g):
        def draw(n: int):
            x = torch.randint(symbols, (n, length), generator=g)
            return x, x.flip(1)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        draw=strings(generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(*b).flatten(0, 1), b[1].flatten()),
        batch_size=32,
        probe=[strings(generator(5))(256)],
        validation=[strings(generator(6))(128)],
        vocabulary=symbols,
        head=model.head,
        clip=5.0,
    )
