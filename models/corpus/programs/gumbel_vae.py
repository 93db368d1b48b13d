"""A variational autoencoder whose code is categorical: Gumbel-softmax at a temperature that falls,
binary cross-entropy summed over pixels and batch, loss around 5e3; RMSprop."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler

GROUPS, KINDS = 6, 8


class Categorical(nn.Module):
    """Groups of one-hot codes between two perceptrons."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Flatten(), nn.Linear(196, 64), nn.ReLU(), nn.Linear(64, GROUPS * KINDS)
        )
        self.outer = nn.Sequential(nn.Linear(GROUPS * KINDS, 64), nn.ReLU(), nn.Linear(64, 196))
        self.register_buffer("heat", torch.tensor(1.0))

    def forward(self, x):
        logits = self.inner(x).view(-1, GROUPS, KINDS)
        noise = -torch.empty_like(logits).exponential_().log()
        code = ((logits + noise) / self.heat).softmax(-1)
        return self.outer(code.flatten(1)), logits.log_softmax(-1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Categorical()
    x, held = (
        (datasets.fashion(part, n, 2)[0] * 0.353 + 0.286).clamp(0, 1)
        for part, n in (("train", 6000), ("t10k", 512))
    )

    def loss(m, b):
        out, log = m(b[0])
        ink = b[0].flatten(1).clamp(0, 1)
        error = F.binary_cross_entropy_with_logits(out, ink, reduction="sum")
        return error + (log.exp() * (log + math.log(KINDS))).sum()

    return Task(
        model=model,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=2e-3),
        draw=sampler((x,), generator(seed + 1)),
        loss=loss,
        batch_size=64,
        probe=fixed((x,), 256, 256),
        validation=fixed((held,), 192, 192),
        targets=(),
        head=model.outer[-1],
        after_step=lambda step: model.heat.fill_(max(0.5, math.exp(-0.002 * step))),
        kind="generative",
    )
