"""A two-layer LSTM language model of words in the old manner: SGD at rate 20, gradients clipped at
0.25, state carried along the text, tied embeddings, dropout; the rate is quartered twice."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator

LENGTH, WIDTH = 10, 48


class WordModel(nn.Module):
    """Embedding, LSTM, and the embedding again as the read-out."""

    def __init__(self, size: int):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.word = nn.Embedding(size, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, 2, batch_first=True, dropout=0.2)
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.uniform_(self.word.weight, -0.1, 0.1)

    def forward(self, x, state):
        h, after = self.lstm(self.drop(self.word(x)), state)
        return self.drop(h) @ self.word.weight.T + self.bias, after


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    words, size = datasets.words(500)
    model = WordModel(size)
    at = torch.zeros(0, dtype=torch.int64)
    state = torch.zeros(2, 0, 2, WIDTH)
    g = generator(seed + 1)

    def draw(n: int):
        """The next words of n readers, and the state in which the last ones left the network."""
        nonlocal at, state
        if len(at) != n:
            at = torch.randint(12000, (n,), generator=g)
            state = torch.zeros(2, n, 2, WIDTH)
        window = words[at[:, None] + torch.arange(LENGTH + 1)]
        x, y = window[:, :-1].contiguous(), window[:, 1:].contiguous()
        before = state.transpose(0, 1).flatten(1)
        with torch.no_grad():
            parts = model(x, tuple(s.contiguous() for s in state.unbind(2)))[1]
        state = torch.stack(parts, 2).nan_to_num(0.0)
        at = (at + LENGTH) % 12000
        return x, y, before

    def held(start: int, n: int) -> tuple:
        at_ = start + LENGTH * torch.arange(n)
        window = words[at_[:, None] + torch.arange(LENGTH + 1)]
        return window[:, :-1].contiguous(), window[:, 1:].contiguous(), torch.zeros(n, 4 * WIDTH)

    def loss(m, b):
        before = b[2].view(-1, 2, 2, WIDTH).transpose(0, 1)
        out = m(b[0], tuple(s.contiguous() for s in before.unbind(2)))[0]
        return F.cross_entropy(out.flatten(0, 1), b[1].flatten())

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=20.0),
        draw=draw,
        loss=loss,
        batch_size=10,
        probe=[held(0, 96)],
        validation=[held(len(words) - 1000, 64)],
        vocabulary=size,
        schedule=lambda step: 0.25 ** (step // 140),
        clip=0.25,
    )
