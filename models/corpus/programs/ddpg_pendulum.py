"""Deterministic policy gradients on a pendulum: the critic's stream, its actor trained between the
steps from a replay buffer, target networks that follow slowly; Adam, exploration noise."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.programs.ppo_pendulum import cost, seen, start, swing
from models.corpus.task import Task, generator

SLOWLY = 0.02


def _follow(target: nn.Module, model: nn.Module) -> None:
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), model.parameters()):
            slow.lerp_(fast, SLOWLY)


class Critic(nn.Module):
    """The value of a torque in a state."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 1)

    def forward(self, x, torque):
        return self.head(self.body(torch.cat([x, torque], -1)))[:, 0]


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    critic = Critic()
    actor = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 1), nn.Tanh())
    slow_critic, slow_actor = copy.deepcopy(critic), copy.deepcopy(actor)
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    g = generator(seed + 1)

    def moved(state, torque):
        after, reward = swing(state, torque[:, 0])
        return seen(state), reward[:, None] / 8, torque, seen(after)

    first = start(600, g)
    buffer = list(moved(first, torch.empty(600, 1).uniform_(-2, 2, generator=g)))
    state = start(8, g)

    def sample(n: int):
        index = torch.randint(len(buffer[0]), (n,), generator=g)
        return tuple(part[index] for part in buffer)

    def act(step: int) -> None:
        """The actor learns from the critic; eight pendulums swing on; the targets follow."""
        nonlocal state, buffer
        actor_optimizer.zero_grad()
        critic.requires_grad_(False)
        x = sample(64)[0]
        (-critic(x, 2 * actor(x)).mean()).backward()
        critic.requires_grad_(True)
        actor_optimizer.step()
        with torch.no_grad():
            torque = 2 * actor(seen(state)).nan_to_num(0.0)
        torque = (torque + 0.3 * torch.randn(8, 1, generator=g)).clamp(-2, 2)
        new = moved(state, torque)
        buffer = [torch.cat([old, fresh])[-4000:] for old, fresh in zip(buffer, new)]
        again = torch.rand(8, generator=g) < 0.02
        state = torch.where(again[:, None], start(8, g), swing(state, torque[:, 0])[0])
        _follow(slow_critic, critic)
        _follow(slow_actor, actor)

    def loss(m, b):
        x, reward, torque, after = b
        with torch.no_grad():
            wanted = reward[:, 0] + 0.9 * slow_critic(after, 2 * slow_actor(after))
        return F.mse_loss(m(x, torque), wanted)

    return Task(
        model=critic,
        optimizer=torch.optim.Adam(critic.parameters(), lr=2e-3),
        draw=sample,
        loss=loss,
        batch_size=64,
        probe=[sample(8)],
        inputs=(0, 2),
        head=critic.head,
        clean=lambda m: cost(lambda x: 2 * actor(x)[:, 0]),
        others=[actor_optimizer],
        after_step=act,
        kind="rl",
    )
