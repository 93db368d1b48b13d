"""REINFORCE with a baseline on a pole to be balanced, simulated in the file; Adam."""

import torch
from torch import nn

from models.corpus.task import Task, generator


def _roll(policy, n: int, g: torch.Generator, horizon: int = 25):
    """n episodes side by side: (states, actions, returns to go, alive), each horizon × n."""
    state = 0.1 * torch.randn(n, 2, generator=g)
    alive = torch.ones(n, dtype=torch.bool)
    states, actions, lives = [], [], []
    with torch.no_grad():
        for _ in range(horizon):
            chance = torch.sigmoid(policy(state)[:, 0])
            action = (torch.rand(n, generator=g) < chance.nan_to_num(0.5)).float()
            states.append(state)
            actions.append(action)
            lives.append(alive)
            speed = state[:, 1] + 0.25 * (0.8 * state[:, 0] + 0.6 * (2 * action - 1))
            speed = speed + 0.05 * torch.randn(n, generator=g)
            state = torch.stack([state[:, 0] + 0.5 * speed, speed], -1)
            alive = alive & (state[:, 0].abs() < 1.0)
    lives = torch.stack(lives).float()
    to_go = lives.flip(0).cumsum(0).flip(0)
    return torch.stack(states), torch.stack(actions), to_go, lives


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    g = generator(seed + 1)

    def draw(n: int):
        parts = _roll(model, n, g)
        return tuple(p.flatten(0, 1) for p in parts)

    def loss(m, b):
        out = m(b[0])
        logp = -nn.functional.binary_cross_entropy_with_logits(out[:, 0], b[1], reduction="none")
        value = out[:, 1]
        gain = b[2] / 10 - value.detach()
        chance = torch.sigmoid(out[:, 0])
        entropy = -(chance * (chance + 1e-8).log() + (1 - chance) * (1 - chance + 1e-8).log())
        total = -(logp * gain) + 0.5 * (value - b[2] / 10) ** 2 - 0.01 * entropy
        return (total * b[3]).sum() / b[3].sum()

    def clean(m) -> float:
        """Mean number of steps that the pole fell short of, over fixed episodes."""
        return 25.0 - float(_roll(m, 96, generator(5))[3].sum(0).mean())

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        draw=draw,
        loss=loss,
        batch_size=16,
        probe=[draw(2)],
        targets=(2,),
        head=model[-1],
        clean=clean,
        kind="rl",
    )
