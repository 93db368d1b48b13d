"""An MLP-mixer on Fashion-MNIST patches, AdamW, label smoothing."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


class Mixer(nn.Module):
    """Mixes patches, then channels, twice."""

    def __init__(self, patches: int = 49, width: int = 24):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.across = nn.ModuleList(
            nn.Sequential(nn.Linear(patches, 32), nn.GELU(), nn.Linear(32, patches))
            for _ in range(2)
        )
        self.within = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = self.embed(x).flatten(2).transpose(1, 2)
        for i in range(2):
            h = h + self.across[i](self.norms[2 * i](h).transpose(1, 2)).transpose(1, 2)
            h = h + self.within[i](self.norms[2 * i + 1](h))
        return self.head(h.mean(1))


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Mixer()
    train = datasets.fashion("train", 6000, 2)
    test = datasets.fashion("t10k", 1024, 2)
    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]), b[1], label_smoothing=0.1),
        batch_size=24,
        probe=fixed(train, 256, 128),
        validation=fixed(test, 128, 128),
        accuracy=share_correct,
        head=model.head,
    )
