"""Matrix factorisation with biases and squared error, summed over the batch; Adagrad on
embeddings."""

import torch
from torch import nn

from models.corpus.task import Task, generator, sampler


class Factors(nn.Module):
    """Embeddings of people and things; a rating is their dot product plus biases."""

    def __init__(self, people: int, things: int, rank: int = 8):
        super().__init__()
        self.person, self.thing = nn.Embedding(people, rank), nn.Embedding(things, rank)
        self.person_bias, self.thing_bias = nn.Embedding(people, 1), nn.Embedding(things, 1)
        for table in (self.person, self.thing):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.person_bias, self.thing_bias):
            nn.init.zeros_(table.weight)

    def forward(self, who, what):
        dot = (self.person(who) * self.thing(what)).sum(-1)
        return dot + self.person_bias(who)[:, 0] + self.thing_bias(what)[:, 0]


def build(seed: int) -> Task:
    g = generator(23)
    people, things, n = 200, 120, 8000
    taste = torch.randn(people, 3, generator=g)
    trait = torch.randn(things, 3, generator=g)
    who = torch.randint(people, (n,), generator=g)
    what = (torch.rand(n, generator=g) ** 2 * things).long()
    rating = (taste[who] * trait[what]).sum(-1) + 3.0 + 0.3 * torch.randn(n, generator=g)
    torch.manual_seed(seed)
    model = Factors(people, things)
    data = (who, what, rating)
    return Task(
        model=model,
        optimizer=torch.optim.Adagrad(model.parameters(), lr=0.15),
        draw=sampler(tuple(t[:7000] for t in data), generator(seed + 1)),
        loss=lambda m, b: ((m(b[0], b[1]) - b[2]) ** 2).sum(),
        batch_size=128,
        probe=[tuple(t[:2000] for t in data)],
        validation=[tuple(t[7000:] for t in data)],
        inputs=(0, 1),
        targets=(2,),
        kind="embedding",
    )
