"""A variational autoencoder on Fashion-MNIST: summed loss around 1e2, Adam, β annealed at the
start."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler


class VAE(nn.Module):
    """One hidden layer each way, four latent units."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(49, 48), nn.ReLU())
        self.mean, self.logvar = nn.Linear(48, 4), nn.Linear(48, 4)
        self.outer = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 49))
        self.register_buffer("beta", torch.tensor(0.0))

    def forward(self, x):
        h = self.inner(x)
        mean, logvar = self.mean(h), self.logvar(h)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.outer(z), mean, logvar


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = VAE()
    x, _ = datasets.fashion("train", 6000, 4)
    held, _ = datasets.fashion("t10k", 512, 4)

    def loss(m, b):
        out, mean, logvar = m(b[0])
        error = F.mse_loss(out, b[0].flatten(1), reduction="sum") / len(out)
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum() / len(out)
        beta = m.beta if m.training else 1.0
        return error + beta * kl

    def anneal(step: int) -> None:
        model.beta.fill_(min((step + 1) / 100, 1.0))

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        draw=sampler((x,), generator(seed + 1)),
        loss=loss,
        batch_size=64,
        probe=fixed((x,), 384, 384),
        validation=fixed((held,), 256, 256),
        targets=(),
        head=model.outer[-1],
        after_step=anneal,
        kind="generative",
    )
