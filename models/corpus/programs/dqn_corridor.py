"""Deep Q-learning in a windy grid: a replay buffer, a target network copied every 20 steps,
RMSprop."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator

SIDE = 6


def _move(place: torch.Tensor, action: torch.Tensor, g: torch.Generator) -> tuple:
    """(next place, reward, done): 0–3 are the directions, the goal is the far corner."""
    step = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[action]
    wind = (torch.rand(len(place), generator=g) < 0.1)[:, None] * torch.tensor([[0, -1]])
    after = (place + step + wind).clamp(0, SIDE - 1)
    done = (after == SIDE - 1).all(-1)
    return after, done.float() - 0.02, done


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2 * SIDE, 48), nn.ReLU(), nn.Linear(48, 4))
    target = copy.deepcopy(model)
    g = generator(seed + 1)

    def seen(place):
        return F.one_hot(place, SIDE).flatten(-2).float()

    start = torch.randint(SIDE, (600, 2), generator=g)
    taken = torch.randint(4, (600,), generator=g)
    buffer = [start, taken, *_move(start, taken, g)]
    here = torch.randint(SIDE, (8, 2), generator=g)

    def act(step: int) -> None:
        """Eight walkers take a step each; the buffer forgets the oldest."""
        nonlocal here
        with torch.no_grad():
            best = model(seen(here)).nan_to_num(0.0).argmax(-1)
        chance = torch.rand(8, generator=g) < max(0.1, 1 - step / 150)
        action = torch.where(chance, torch.randint(4, (8,), generator=g), best)
        result = _move(here, action, g)
        for i, new in enumerate((here, action, *result)):
            buffer[i] = torch.cat([buffer[i][8:], new])
        here = torch.where(result[2][:, None], torch.randint(SIDE, (8, 2), generator=g), result[0])
        if step % 20 == 19:
            target.load_state_dict(model.state_dict())

    def draw(n: int):
        index = torch.randint(len(buffer[0]), (n,), generator=g)
        place, action, after, reward, done = (part[index] for part in buffer)
        return seen(place), reward, action, seen(after), done.float()

    def loss(m, b):
        with torch.no_grad():
            wanted = b[1] + 0.95 * (1 - b[4]) * target(b[3]).max(-1).values
        return F.smooth_l1_loss(m(b[0]).gather(1, b[2][:, None])[:, 0], wanted)

    def clean(m) -> float:
        """Mean steps to the goal from every corner of the grid, at most 30."""
        fixed = generator(5)
        place = torch.randint(SIDE, (64, 2), generator=fixed)
        left, total = torch.ones(64), 0.0
        for _ in range(30):
            total += float(left.sum())
            place, _, done = _move(place, m(seen(place)).nan_to_num(0.0).argmax(-1), fixed)
            left = left * (~done).float()
        return total / 64

    return Task(
        model=model,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=2e-3),
        draw=draw,
        loss=loss,
        batch_size=32,
        probe=[draw(4)],
        head=model[-1],
        clean=clean,
        after_step=act,
        kind="rl",
    )
