"""Greedy layer-wise training: every hundred steps a new layer with a new head is put on top and the
layers below are frozen, so that the loss jumps up and falls again. Adam."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler

STAGE = 100
SETTLED = 40
"""Steps after which a new head must be as good as the one before."""


class Tower(nn.Module):
    """Blocks with a head each; `stage` says how many of them there are yet."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(49 if i == 0 else width, width), nn.ReLU()) for i in range(3)
        )
        self.heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(3))
        self.register_buffer("stage", torch.tensor(0))
        self.register_buffer("age", torch.tensor(0))

    def forward(self, x, stage: int):
        h = x.flatten(1)
        for block in self.blocks[: stage + 1]:
            h = block(h)
        return self.heads[stage](h)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Tower()
    x, y = datasets.fashion("train", 6000, 4)
    held = datasets.fashion("t10k", 512, 4)

    def loss(m, b):
        return F.cross_entropy(m(b[0], int(m.stage)), b[1])

    def grow(step: int) -> None:
        """The next block after STAGE steps; those below learn no more."""
        model.age.add_(1)
        if (step + 1) % STAGE == 0 and step + 1 < 3 * STAGE:
            old = int(model.stage)
            for p in (*model.blocks[old].parameters(), *model.heads[old].parameters()):
                p.requires_grad_(False)
                p.grad = None
            model.stage.add_(1)
            model.age.zero_()

    def clean(m) -> float:
        """The loss of the head that learns; while it is new, of the best so far, which it need not
        beat at once."""
        last = int(m.stage)
        stages = range(last if int(m.age) >= SETTLED else 0, last + 1)
        return min(float(F.cross_entropy(m(x[:1024], k), y[:1024]).nan_to_num(1e6)) for k in stages)

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-3),
        draw=sampler((x, y), generator(seed + 1)),
        loss=loss,
        batch_size=32,
        probe=fixed((x, y), 256, 256),
        validation=fixed(held, 256, 256),
        accuracy=lambda m, b: float((m(b[0], int(m.stage)).argmax(-1) == b[1]).float().mean()),
        clean=clean,
        after_step=grow,
        phases=True,
    )
