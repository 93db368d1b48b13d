"""Proximal policy optimisation of a pendulum's torque: clipped ratios, a clipped value loss,
entropy, generalised and normalised advantages, four epochs of four minibatches a rollout; Adam."""

import math

import torch
from torch import nn

from models.corpus.task import Task, generator

WALKERS, HORIZON = 16, 16


class Agent(nn.Module):
    """A Gaussian policy with a free spread, and a value network of its own."""

    def __init__(self):
        super().__init__()
        self.critic = _tower(1, 1.0)
        self.actor = _tower(1, 0.01)
        self.spread = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.actor(x)[:, 0], self.spread.clamp(-5, 2), self.critic(x)[:, 0]


def _tower(outputs: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(3, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, outputs)]
    for layer, size in zip(layers[::2], (math.sqrt(2), math.sqrt(2), gain)):
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def seen(state: torch.Tensor) -> torch.Tensor:
    """What an agent sees of (angle, speed)."""
    return torch.stack([state[:, 0].cos(), state[:, 0].sin(), state[:, 1] / 4], -1)


def swing(state: torch.Tensor, torque: torch.Tensor) -> tuple:
    """(next state, reward): the upright pendulum has angle 0; the torque can lift it."""
    angle, speed = state.unbind(-1)
    torque = torque.clamp(-2, 2)
    off = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    reward = -(off**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = (speed + 0.1 * (5 * angle.sin() + 6 * torque)).clamp(-8, 8)
    return torch.stack([angle + 0.1 * speed, speed], -1), reward


def start(n: int, g: torch.Generator) -> torch.Tensor:
    """n pendulums at any angle, slowly moving."""
    state = torch.empty(n, 2).uniform_(-1, 1, generator=g)
    return state * torch.tensor([math.pi, 1.0])


def cost(policy, horizon: int = 40) -> float:
    """Mean cost of a step from fixed starts; the policy maps what is seen to a torque."""
    state, total = start(64, generator(5)), 0.0
    for _ in range(horizon):
        state, reward = swing(state, policy(seen(state)).nan_to_num(0.0))
        total -= float(reward.mean())
    return total / horizon


def _log_chance(mean, spread, action):
    return -0.5 * ((action - mean) / spread.exp()) ** 2 - spread - 0.5 * math.log(2 * math.pi)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Agent()
    g = generator(seed + 1)
    state = start(WALKERS, g)
    left, rollout = [], ()

    def roll() -> tuple:
        """(seen, actions, log-chances, advantages, returns, values) of a rollout."""
        nonlocal state
        steps = []
        with torch.no_grad():
            for _ in range(HORIZON):
                x = seen(state)
                mean, spread, value = (p.nan_to_num(0.0) for p in model(x))
                action = mean + spread.exp() * torch.randn(WALKERS, generator=g)
                after, reward = swing(state, action)
                steps.append((x, action, _log_chance(mean, spread, action), value, reward / 8))
                fresh = torch.rand(WALKERS, generator=g) < 0.02
                state = torch.where(fresh[:, None], start(WALKERS, g), after)
            following = model(seen(state))[2].nan_to_num(0.0)
            gain, gains = torch.zeros(WALKERS), []
            for *_, value, reward in reversed(steps):
                gain = reward + 0.9 * following - value + 0.9 * 0.95 * gain
                gains.append(gain)
                following = value
        x, action, log, value, _ = (torch.cat(p) for p in zip(*steps))
        gains = torch.cat(gains[::-1])
        return x, action, log, gains, gains + value, value

    def draw(n: int):
        """The next minibatch of the rollout, which serves for four epochs."""
        nonlocal left, rollout
        if not left:
            rollout = roll()
            orders = [torch.randperm(WALKERS * HORIZON, generator=g) for _ in range(4)]
            left = [part for order in orders for part in order.split(n)]
        index = left.pop(0)
        return tuple(p[index] for p in rollout)

    def loss(m, b):
        x, action, log, gain, wanted, value_then = b
        mean, spread, value = m(x)
        gain = (gain - gain.mean()) / (gain.std(unbiased=False) + 1e-8)
        ratio = (_log_chance(mean, spread, action) - log).exp()
        policy = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
        near = value_then + (value - value_then).clamp(-0.2, 0.2)
        error = 0.5 * torch.max((value - wanted) ** 2, (near - wanted) ** 2).mean()
        return policy + 0.5 * error - 0.01 * (spread + 0.5 * math.log(2 * math.pi * math.e)).sum()

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3, eps=1e-5),
        draw=draw,
        loss=loss,
        batch_size=64,
        probe=[draw(64)],
        targets=(4,),
        head=model.critic[-1],
        clean=lambda m: cost(lambda x: m(x)[0]),
        schedule=lambda step: max(0.1, 1 - step / 400),
        clip=0.5,
        kind="rl",
    )
