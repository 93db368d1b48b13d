"""Meta-learning: weights from which one gradient step learns a new sine wave (MAML, second order),
eight tasks a batch, Adam. The logged loss is that after the inner step."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


class Waves(nn.Module):
    """Three layers whose weights can be given from outside, a set for every task."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, 1)]
        )

    def start(self, tasks: int) -> list:
        """The meta-learnt weights, for so many tasks side by side."""
        found = [t for layer in self.layers for t in (layer.weight, layer.bias)]
        # Frozen ones take part in the inner step, too.
        found = [t if t.requires_grad else t.detach().requires_grad_(True) for t in found]
        return [t.expand(tasks, *t.shape) for t in found]

    def forward(self, x, weights):
        for i in range(3):
            x = x @ weights[2 * i].transpose(1, 2) + weights[2 * i + 1][:, None]
            x = F.relu(x) if i < 2 else x
        return x


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Waves()

    def waves(g):
        def draw(n: int):
            """(places, values to learn from, places, values to be judged by), tasks × 10 × 1."""
            height = 0.5 + 2.0 * torch.rand(n, 1, 1, generator=g)
            phase = 3.1416 * torch.rand(n, 1, 1, generator=g)
            a, b = (10 * torch.rand(n, 10, 1, generator=g) - 5 for _ in range(2))
            return a, height * (a + phase).sin(), b, height * (b + phase).sin()

        return draw

    def loss(m, batch):
        with torch.enable_grad():
            weights = m.start(len(batch[0]))
            inner = ((m(batch[0], weights) - batch[1]) ** 2).mean((1, 2)).sum()
            slopes = torch.autograd.grad(inner, weights, create_graph=True)
        learnt = [w - 0.02 * s for w, s in zip(weights, slopes)]
        return ((m(batch[2], learnt) - batch[3]) ** 2).mean()

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=4e-3),
        draw=waves(generator(seed + 1)),
        loss=loss,
        batch_size=8,
        probe=[waves(generator(5))(128)],
        validation=[waves(generator(6))(64)],
        inputs=(0, 2),
        targets=(1, 3),
        head=model.layers[-1],
        clip=10.0,
        kind="regression",
    )
