"""Skip-gram with negative sampling on the fortunes' words: plain SGD, loss summed over the
batch."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class SkipGram(nn.Module):
    """Two embedding tables; forward gives the loss of each pair with its negatives."""

    def __init__(self, size: int, width: int = 24):
        super().__init__()
        self.centre, self.context = nn.Embedding(size, width), nn.Embedding(size, width)
        nn.init.uniform_(self.centre.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, word, near, far):
        c = self.centre(word)
        good = (c * self.context(near)).sum(-1)
        bad = torch.einsum("nw,nkw->nk", c, self.context(far))
        return F.softplus(-good) + F.softplus(bad).sum(-1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text, size = datasets.words()
    model = SkipGram(size)

    def pairs(g):
        def draw(n: int):
            at = torch.randint(3, len(text) - 3, (n,), generator=g)
            move = torch.randint(1, 4, (n,), generator=g) * (
                1 - 2 * torch.randint(2, (n,), generator=g)
            )
            return text[at], text[at + move], torch.randint(size, (n, 4), generator=g)

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
        draw=pairs(generator(seed + 1)),
        loss=lambda m, b: m(*b).sum(),
        batch_size=128,
        probe=[pairs(generator(5))(2048)],
        validation=[pairs(generator(6))(512)],
        inputs=(0, 2),
        targets=(1,),
        vocabulary=size,
        kind="embedding",
    )
