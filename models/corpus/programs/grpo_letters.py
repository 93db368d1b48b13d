"""Policy optimisation of a letter model against a reward, with group-relative advantages and a
penalty for leaving the reference (GRPO): the loss hovers around zero while the reward rises. AdamW
with clipping."""

import copy

import torch
from torch import nn

from models.corpus.task import Task, generator

LETTERS, LENGTH, GROUP = 12, 8, 8


class Policy(nn.Module):
    """The next letter from the sum of the last two."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.last, self.before = nn.Embedding(LETTERS + 1, width), nn.Embedding(LETTERS + 1, width)
        self.body = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, LETTERS)

    def forward(self, last, before):
        return self.head(self.body(self.last(last) + self.before(before))).log_softmax(-1)


def _previous(text: torch.Tensor) -> tuple:
    """The letter before every letter, and the one before that; LETTERS stands for the beginning."""
    start = torch.full((len(text), 2), LETTERS)
    padded = torch.cat([start, text], 1)
    return padded[:, 1:-1], padded[:, :-2]


def _write(policy, n: int, g: torch.Generator) -> torch.Tensor:
    text = torch.full((n, 2), LETTERS)
    for _ in range(LENGTH):
        chance = policy(text[:, -1], text[:, -2]).exp().nan_to_num(0.0) + 1e-6
        text = torch.cat([text, torch.multinomial(chance, 1, generator=g)], 1)
    return text[:, 2:]


def _reward(text: torch.Tensor) -> torch.Tensor:
    """How often an even letter is followed by its successor."""
    return ((text[:, :-1] % 2 == 0) & (text[:, 1:] == text[:, :-1] + 1)).float().sum(1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Policy()
    reference = copy.deepcopy(model).requires_grad_(False)
    g = generator(seed + 1)

    def draw(n: int):
        with torch.no_grad():
            text = _write(model, n * GROUP, g)
        gain = _reward(text).view(n, GROUP)
        gain = (gain - gain.mean(1, keepdim=True)) / (gain.std(1, keepdim=True) + 0.3)
        return text, gain.flatten()

    def loss(m, b):
        last, before = _previous(b[0])
        log, old = m(last, before), reference(last, before)
        chosen = log.gather(-1, b[0][..., None])[..., 0]
        leave = (log.exp() * (log - old)).sum(-1).mean()
        return -(b[1][:, None] * chosen).mean() + 0.2 * leave

    def clean(m) -> float:
        """Minus the mean reward of fixed draws."""
        return -float(_reward(_write(m, 256, generator(5))).mean())

    return Task(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0),
        draw=draw,
        loss=loss,
        batch_size=8,
        probe=[draw(4)],
        vocabulary=LETTERS,
        head=model.head,
        clean=clean,
        clip=1.0,
        kind="rl",
    )
