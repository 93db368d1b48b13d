"""A graph convolutional network that finds communities in a random graph, full batch, Adam, weight
decay."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator


class GCN(nn.Module):
    """Two rounds of normalised neighbour averaging."""

    def __init__(self, adjacency: torch.Tensor, inside: int, classes: int):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.first, self.act, self.drop = nn.Linear(inside, 32), nn.ReLU(), nn.Dropout(0.3)
        self.second = nn.Linear(32, classes)

    def forward(self, x):
        h = self.drop(self.act(self.adjacency @ self.first(x)))
        return self.adjacency @ self.second(h)


def build(seed: int) -> Task:
    g = generator(17)
    n, classes = 240, 4
    community = torch.arange(n) % classes
    same = community[:, None] == community[None, :]
    edge = (torch.rand(n, n, generator=g) < torch.where(same, 0.10, 0.03)).triu(1)
    a = (edge | edge.T).float() + torch.eye(n)
    a = a / a.sum(1, keepdim=True).sqrt() / a.sum(0, keepdim=True).sqrt()
    x = F.one_hot(community, classes).float() @ torch.randn(classes, 16, generator=g)
    x = x + 3.0 * torch.randn(n, 16, generator=g)
    torch.manual_seed(seed)
    model = GCN(a, 16, classes)
    shown = torch.arange(n)
    draws = generator(seed + 1)

    def draw(size: int):
        if size >= 160:
            keep = shown[:160]
        else:
            keep = torch.randperm(160, generator=draws)[:size]
        return x.clone(), community[keep], keep

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4),
        draw=draw,
        loss=lambda m, b: F.cross_entropy(m(b[0])[b[2]], b[1]),
        batch_size=160,
        probe=[(x, community[:160], shown[:160])],
        validation=[(x, community[160:], shown[160:])],
        accuracy=lambda m, b: float((m(b[0])[b[2]].argmax(-1) == b[1]).float().mean()),
        head=model.second,
    )
