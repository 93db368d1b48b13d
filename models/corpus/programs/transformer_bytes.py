"""A byte-level causal transformer on fortunes in three languages; Lion, warm-up and a linear
decay."""

import torch
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.datasets import text_draw
from models.corpus.optimizers import Lion
from models.corpus.programs.transformer_prenorm import GPT
from models.corpus.task import Task, generator, warmup


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    text = datasets.text_bytes()
    model = GPT(256, 16, width=32, layers=2)
    return Task(
        model=model,
        optimizer=Lion(model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.1),
        draw=text_draw(text[:170000], 16, generator(seed + 1)),
        loss=lambda m, b: F.cross_entropy(m(b[0]).flatten(0, 1), b[1].flatten()),
        batch_size=8,
        probe=[text_draw(text[:170000], 16, generator(5))(64)],
        validation=[text_draw(text[170000:], 16, generator(6))(32)],
        vocabulary=256,
        head=model.head,
        schedule=warmup(30, lambda step: max(0.1, 1 - step / 450)),
    )
