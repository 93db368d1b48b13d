"""Distillation: a small convolutional network learns a larger one's softened answers and the labels
together; Adamax, the teacher trained once a process."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


@functools.lru_cache(None)
def _taught() -> torch.Tensor:
    """The teacher's answers to the training images."""
    torch.set_flush_denormal(True)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    x, y = datasets.fashion("train", 4000, 2)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(196, 96), nn.ReLU(), nn.Linear(96, 10))
    optimizer, g = torch.optim.Adam(teacher.parameters(), lr=2e-3), generator(4)
    for _ in range(400):
        index = torch.randint(len(x), (64,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(teacher(x[index]), y[index]).backward()
        optimizer.step()
    torch.set_rng_state(state)
    with torch.no_grad():
        return teacher(x)


def build(seed: int) -> Task:
    answers = _taught()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 10),
    )
    x, y = datasets.fashion("train", 4000, 2)
    train, held = (x[:3600], y[:3600], answers[:3600]), (x[3600:], y[3600:], answers[3600:])

    def loss(m, b):
        out, heat = m(b[0]), 4.0
        soft = F.kl_div(
            (out / heat).log_softmax(-1), (b[2] / heat).softmax(-1), reduction="batchmean"
        )
        return 0.7 * heat**2 * soft + 0.3 * F.cross_entropy(out, b[1])

    return Task(
        model=model,
        optimizer=torch.optim.Adamax(model.parameters(), lr=4e-3),
        draw=sampler(train, generator(seed + 1)),
        loss=loss,
        batch_size=32,
        probe=fixed(train, 512, 256),
        validation=fixed(held, 256, 256),
        accuracy=share_correct,
        targets=(1, 2),
        head=model[-1],
    )
