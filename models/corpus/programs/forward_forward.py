"""Forward-forward learning on digits: no gradient passes between layers, each tells true from false
labels by its own activity. Losses of three layers are added; SGD with momentum."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


class Layers(nn.Module):
    """Normalised input, linear, ReLU; the goodness of a layer is its mean square."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(74, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.act = nn.ReLU()

    def forward(self, x) -> list:
        goodness = []
        for layer in self.layers:
            h = x.detach()
            x = self.act(layer(h / (h.pow(2).mean(1, keepdim=True) + 1e-4).sqrt()))
            goodness.append(x.pow(2).mean(1))
        return goodness


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Layers()
    x, y = datasets.digits()
    flat = x.flatten(1)

    def labelled(low: int, high: int, g):
        def draw(n: int):
            """(image and true label, image and another label)"""
            index = torch.randint(low, high, (n,), generator=g)
            wrong = (y[index] + torch.randint(1, 10, (n,), generator=g)) % 10
            pair = [torch.cat([flat[index], 3.0 * F.one_hot(k, 10)], 1) for k in (y[index], wrong)]
            return pair[0], pair[1]

        return draw

    def loss(m, b):
        return sum(
            F.softplus(1 - t).mean() + F.softplus(f - 1).mean() for t, f in zip(m(b[0]), m(b[1]))
        )

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9),
        draw=labelled(0, 1400, generator(seed + 1)),
        loss=loss,
        batch_size=64,
        probe=[labelled(0, 1400, generator(5))(512)],
        validation=[labelled(1400, 1797, generator(6))(256)],
        inputs=(0, 1),
        targets=(),
        head=model.layers[-1],
    )
