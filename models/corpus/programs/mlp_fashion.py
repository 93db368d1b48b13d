"""A two-layer perceptron on Fashion-MNIST, SGD with momentum: the first network of every course."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(196, 64),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    train = datasets.fashion("train", 6000, 2)
    test = datasets.fashion("t10k", 1024, 2)
    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=64,
        probe=fixed(train, 512, 256),
        validation=fixed(test, 256, 256),
        accuracy=share_correct,
        head=model[-1],
    )
