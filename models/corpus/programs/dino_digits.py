"""Self-distillation with a centred, sharpened teacher (DINO) on digits; AdamW, clipping. The
teacher's outputs move with the student, so the loss rises and falls while the features get
better."""

import copy

import torch
from torch import nn

from models.corpus import datasets
from models.corpus.task import Task, generator, views_apart


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 64),
        nn.LayerNorm(64),
        nn.GELU(),
        nn.Linear(64, 32),
        nn.GELU(),
        nn.Linear(32, 24),
    )
    teacher = copy.deepcopy(model).requires_grad_(False)
    centre = torch.zeros(24)
    x, _ = datasets.digits()
    g = generator(seed + 1)

    def draw(n: int, g=g):
        base = x[torch.randint(1400, (n,), generator=g)]

        def view(erased: float):
            moved = torch.roll(base, int(torch.randint(-1, 2, (1,), generator=g)), -1)
            return moved * (torch.rand(base.shape, generator=g) > erased).float()

        return view(0.4), view(0.1)

    def loss(m, b):
        with torch.no_grad():
            wanted = ((teacher(b[1]) - centre) / 0.06).softmax(-1)
        return -(wanted * (m(b[0]) / 0.1).log_softmax(-1)).sum(-1).mean()

    pairs = list(zip(teacher.parameters(), model.parameters()))

    def follow(step: int) -> None:
        with torch.no_grad():
            for a, b in pairs:
                a.lerp_(b, 0.02)
            out = teacher(draw(32)[1]).mean(0)
            centre.lerp_(out.nan_to_num(0.0), 0.1)

    views = draw(256, generator(5))

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.04),
        draw=draw,
        loss=loss,
        batch_size=48,
        probe=[views],
        inputs=(0, 1),
        targets=(),
        head=model[-1],
        clean=lambda m: views_apart(m(views[0]), m(views[1])),
        after_step=follow,
        clip=3.0,
        kind="contrastive",
    )
