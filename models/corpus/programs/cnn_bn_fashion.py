"""A strided convolutional network with BatchNorm, Nesterov SGD, cosine schedule, weight decay."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


def _block(inside: int, outside: int, stride: int) -> list:
    return [
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    ]


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *_block(1, 8, 1),
        *_block(8, 16, 2),
        *_block(16, 24, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(24, 10),
    )
    train = datasets.fashion("train", 6000, 2)
    test = datasets.fashion("t10k", 1024, 2)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        ),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed(train, 384, 192),
        validation=fixed(test, 192, 192),
        accuracy=share_correct,
        head=model[-1],
        schedule=lambda step: 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / 400, 1.0))),
    )
