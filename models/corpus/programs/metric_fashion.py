"""Metric learning on Fashion-MNIST with a triplet margin loss, which is zero for many batches
late."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 48), nn.LeakyReLU(0.1), nn.Linear(48, 12))

    def triplets(images, classes, g):
        by_class = [images[classes == c] for c in range(10)]

        def pick(c):
            return torch.stack(
                [by_class[k][torch.randint(len(by_class[k]), (), generator=g)] for k in c]
            )

        def draw(n: int):
            c = torch.randint(10, (n,), generator=g)
            d = (c + torch.randint(1, 10, (n,), generator=g)) % 10
            return pick(c.tolist()), pick(c.tolist()), pick(d.tolist())

        return draw

    train = datasets.fashion("train", 3000, 4)
    test = datasets.fashion("t10k", 1024, 4)
    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        draw=triplets(*train, generator(seed + 1)),
        loss=lambda m, b: F.triplet_margin_loss(m(b[0]), m(b[1]), m(b[2]), margin=1.0),
        batch_size=24,
        probe=[triplets(*train, generator(5))(256)],
        validation=[triplets(*test, generator(6))(128)],
        inputs=(0, 1, 2),
        targets=(2,),
        head=model[-1],
        kind="contrastive",
    )
