"""French words into English ones, letter by letter: GRU encoder, GRU decoder with attention, label
smoothing, Adam with clipping. About 35 k parameters."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler

SYMBOLS = len(datasets.LETTERS)


class Translator(nn.Module):
    """The decoder sees the previous letter and looks back at the encoder's states."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.source, self.target = nn.Embedding(SYMBOLS, 32), nn.Embedding(SYMBOLS, 32)
        self.encoder = nn.GRU(32, width, batch_first=True)
        self.decoder = nn.GRU(32, width, batch_first=True)
        self.query = nn.Linear(width, width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh())
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, french, english):
        states, last = self.encoder(self.source(french))
        h, _ = self.decoder(self.target(F.pad(english[:, :-1], (1, 0))), last)
        look = (self.query(h) @ states.transpose(1, 2) / 7).softmax(-1)
        return self.head(self.mix(torch.cat([h, look @ states], -1)))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Translator()
    french, english = datasets.translations(10)
    train, held = (french[:4800], english[:4800]), (french[4800:], english[4800:])

    def loss(m, b):
        scores = m(b[0], b[1]).flatten(0, 1)
        return F.cross_entropy(scores, b[1].flatten(), label_smoothing=0.05)

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        draw=sampler(train, generator(seed + 1)),
        loss=loss,
        batch_size=16,
        probe=fixed(train, 256, 256),
        validation=fixed(held, 256, 256),
        vocabulary=SYMBOLS,
        head=model.head,
        clip=1.0,
    )
