"""A vector-quantised autoencoder on digits: a code book with commitment loss, straight-through
gradients, Adam. Unused codes and code switches make the loss uneven."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler


class VQVAE(nn.Module):
    """Four code vectors an image out of a book of 24."""

    def __init__(self, width: int = 64, size: int = 8):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 4 * size)
        )
        self.book = nn.Embedding(24, size)
        nn.init.normal_(self.book.weight, std=0.3)
        self.outer = nn.Sequential(nn.Linear(4 * size, width), nn.ReLU(), nn.Linear(width, 64))

    def forward(self, x):
        z = self.inner(x).view(len(x), 4, -1)
        apart = torch.cdist(z.flatten(0, 1), self.book.weight)
        code = self.book(apart.argmin(-1)).view_as(z)
        commit = F.mse_loss(code, z.detach()) + 0.25 * F.mse_loss(z, code.detach())
        return self.outer((z + (code - z).detach()).flatten(1)), commit


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = VQVAE()
    x, _ = datasets.digits()

    def loss(m, b):
        out, commit = m(b[0])
        return F.mse_loss(out, b[0].flatten(1)) + commit

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        draw=sampler((x[:1400],), generator(seed + 1)),
        loss=loss,
        batch_size=32,
        probe=fixed((x[:1400],), 512, 512),
        validation=fixed((x[1400:],), 256, 256),
        targets=(),
        head=model.outer[-1],
        kind="generative",
    )
