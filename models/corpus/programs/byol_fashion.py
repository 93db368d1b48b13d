"""Self-distillation (BYOL): an online network predicts a slow copy of itself on another view;
momentum SGD, BatchNorm. The loss is bounded by 4 and would be zero if everything collapsed to one
point."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, generator, views_apart, warmup


def _views(x: torch.Tensor, g: torch.Generator) -> tuple:
    """Two views: shifted, partly erased, noisy."""

    def view():
        moved = torch.roll(x, torch.randint(-1, 2, (2,), generator=g).tolist(), (-2, -1))
        keep = (torch.rand(x.shape, generator=g) > 0.25).float()
        return moved * keep + 0.3 * torch.randn(x.shape, generator=g)

    return view(), view()


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    online = nn.Sequential(
        nn.Flatten(),
        nn.Linear(49, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.BatchNorm1d(32),
    )
    slow = copy.deepcopy(online).requires_grad_(False)
    model = nn.ModuleDict(
        {
            "online": online,
            "predict": nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)),
        }
    )
    x, _ = datasets.fashion("train", 3000, 4)
    g = generator(seed + 1)

    def ahead(m, view):
        return m["predict"](m["online"](view))

    def loss(m, b):
        with torch.no_grad():
            wanted = slow(torch.cat([b[1], b[0]]))
        return 2 - 2 * F.cosine_similarity(ahead(m, torch.cat([b[0], b[1]])), wanted).mean()

    pairs = list(zip(slow.parameters(), online.parameters()))

    def follow(step: int) -> None:
        with torch.no_grad():
            for a, b in pairs:
                a.lerp_(b, 0.03)

    views = _views(x[:256], generator(5))

    def clean(m) -> float:
        """How much the views of an image differ, of how much images do."""
        apart = views_apart(*(m["online"].train()(v) for v in views))
        m.eval()
        return apart

    return Task(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=1e-4),
        draw=lambda n: _views(x[torch.randint(len(x), (n,), generator=g)], g),
        loss=loss,
        batch_size=64,
        probe=[views],
        inputs=(0, 1),
        targets=(),
        head=model["predict"][-1],
        clean=clean,
        after_step=follow,
        schedule=warmup(20),
        kind="contrastive",
    )
