"""LoRA: low-rank additions to a frozen transformer that was trained on other text and now learns
fortunes. Only the additions are trained; AdamW, constant rate, no clipping."""

import copy
import functools

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.programs.transformer_prenorm import GPT
from models.corpus.task import Task, generator


class Adapted(nn.Module):
    """A frozen linear layer plus the product of two thin matrices, the second zero at first."""

    def __init__(self, base: nn.Linear, rank: int = 4):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + 2.0 * self.up(self.down(x))


@functools.lru_cache(None)
def _pretrained() -> GPT:
    """The base model, trained once a process from a seed of its own."""
    torch.set_flush_denormal(True)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    text, symbols = datasets.text()
    model = GPT(symbols, 16)
    # The base knows a text in which every letter stands for another one.
    draw = text_draw((symbols - 1 - text)[:60000], 16, generator(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(250):
        x, y = draw(16)
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    torch.set_rng_state(state)
    return model


def build(seed: int) -> Task:
    model = copy.deepcopy(_pretrained()).requires_grad_(False)
    torch.manual_seed(seed)
    for layer in model.layers:
        layer.qkv, layer.out = Adapted(layer.qkv), Adapted(layer.out)
        layer.feed[0], layer.feed[2] = Adapted(layer.feed[0]), Adapted(layer.feed[2])
    model.head = Adapted(model.head, 8)
    text, symbols = datasets.text()
    return Task(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=4e-3),
        draw=text_draw(text[:80000], 16, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=8,
        probe=[text_draw(text[:80000], 16, generator(5))(64)],
        validation=[text_draw(text[80000:], 16, generator(6))(48)],
        vocabulary=symbols,
    )
