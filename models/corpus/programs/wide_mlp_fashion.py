"""A wide perceptron with LayerNorm on full Fashion-MNIST images: a million parameters, a slow one.
AdamW, large weight decay, linear decay of the rate."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct, warmup


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 800),
        nn.LayerNorm(800),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(800, 480),
        nn.LayerNorm(480),
        nn.GELU(),
        nn.Dropout(0.1),
        nn.Linear(480, 10),
    )
    train = datasets.fashion("train", 6000)
    held = datasets.fashion("t10k", 512)
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        batch_size=32,
        probe=fixed(train, 384, 192),
        validation=fixed(held, 192, 192),
        accuracy=share_correct,
        head=model[-1],
        schedule=warmup(15, lambda step: max(1 - step / 400, 0.05)),
    )
