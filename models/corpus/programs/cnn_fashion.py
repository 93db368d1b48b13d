"""A small convolutional network without normalisation on Fashion-MNIST, Adam."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(144, 10),
    )
    train = datasets.fashion("train", 6000, 2)
    test = datasets.fashion("t10k", 1024, 2)
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed(train, 384, 192),
        validation=fixed(test, 192, 192),
        accuracy=share_correct,
        head=model[-1],
    )
