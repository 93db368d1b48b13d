"""A convolutional denoising autoencoder on digits, Adagrad, losses around 1e-2."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 1, 4, 2, 1),
        nn.Sigmoid(),
    )
    x, _ = datasets.digits()
    x = (x * 6.017 + 4.884) / 16.0
    g = generator(seed + 1)

    def pick(low: int, high: int, g):
        def draw(n: int):
            clear = x[torch.randint(low, high, (n,), generator=g)]
            return clear + 0.2 * torch.randn(clear.shape, generator=g), clear

        return draw

    return Task(
        model=model,
        optimizer=torch.optim.Adagrad(model.parameters(), lr=0.03),
        draw=pick(0, 1400, g),
        loss=lambda m, b: F.mse_loss(m(b[0]), b[1]),
        batch_size=32,
        probe=[pick(0, 1400, generator(5))(256)],
        validation=[pick(1400, 1797, generator(6))(128)],
        head=model[6],
        kind="generative",
    )
