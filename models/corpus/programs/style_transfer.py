"""Neural style transfer: the pixels of a picture are what is trained, after the features of one
photograph and the correlations of another's in a frozen network; weighted terms of 1e4 to 1e6,
Adam."""

import functools

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator

SIDE = 40


@functools.lru_cache(None)
def _layers() -> list:
    """Three convolutions that learnt to name clothes, once a process from a seed of their own."""
    torch.set_flush_denormal(True)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    layers = [nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3, stride=2), nn.Conv2d(16, 24, 3)]
    head = nn.Linear(24, 10)
    x, y = datasets.fashion("train", 3000, 2)
    g = generator(2)
    parameters = [p for m in (*layers, head) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=5e-3)
    for _ in range(150):
        index = torch.randint(len(x), (32,), generator=g)
        optimizer.zero_grad()
        seen = _features(layers, x[index])[-1].mean((2, 3))
        F.cross_entropy(head(seen), y[index]).backward()
        optimizer.step()
    torch.set_rng_state(state)
    return [layer.requires_grad_(False) for layer in layers]


def _features(layers: list, x: torch.Tensor) -> list:
    found = []
    for layer in layers:
        x = layer(x).relu()
        found.append(x)
    return found


def _gram(features: torch.Tensor) -> torch.Tensor:
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[-1]


class Picture(nn.Module):
    """The picture itself."""

    def __init__(self):
        super().__init__()
        self.pixels = nn.Parameter(0.15 * torch.randn(1, 1, SIDE, SIDE))

    def forward(self, shift):
        """The picture as each of the augmented photographs of a batch is moved."""
        return torch.cat([self.pixels.roll(s, (2, 3)) for s in shift.tolist()])


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Picture()
    layers = _layers()
    content = 1.5 * datasets.photograph("camera", SIDE)[None, None]
    style = 1.5 * datasets.photograph("brick", 4 * SIDE)

    def views(g):
        def draw(n: int):
            """The photograph, moved by some pixels, noisy, and as many pieces of the other one."""
            shift = torch.randint(-3, 4, (n, 2), generator=g)
            moved = torch.cat([content.roll(s, (2, 3)) for s in shift.tolist()])
            places = torch.randint(3 * SIDE, (n, 2), generator=g).tolist()
            pieces = torch.stack([style[None, i : i + SIDE, j : j + SIDE] for i, j in places])
            return moved + 0.1 * torch.randn(moved.shape, generator=g), pieces, shift

        return draw

    def loss(m, b):
        picture = m(b[2])
        mine, theirs, styled = (_features(layers, x) for x in (picture, b[0], b[1]))
        total = 1e4 * F.mse_loss(mine[1], theirs[1])
        for one, other in zip(mine, styled):
            total = total + 2e4 * (_gram(one) - _gram(other).mean(0)).pow(2).mean()
        rough = picture.diff(dim=2).pow(2).mean() + picture.diff(dim=3).pow(2).mean()
        return total + 1e3 * rough

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.03),
        draw=views(generator(seed + 1)),
        loss=loss,
        batch_size=2,
        probe=[views(generator(5))(12)],
        inputs=(0, 1),
        targets=(1,),
        kind="generative",
    )
