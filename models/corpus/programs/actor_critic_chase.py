"""Actor–critic with bootstrapped advantages: a chaser after a moving target in the plane; Adam,
clipping. The loss mixes policy, value and entropy terms and rises before it falls."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus.task import Task, generator

DIRECTIONS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


class ActorCritic(nn.Module):
    """A shared body with two heads."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.policy, self.value = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x):
        h = self.body(x)
        return self.policy(h), self.value(h)[:, 0]


def _move(offset: torch.Tensor, action: torch.Tensor, g: torch.Generator) -> tuple:
    """(offset to the target after the move, reward)."""
    after = offset - 0.3 * DIRECTIONS[action] + 0.1 * torch.randn(offset.shape, generator=g)
    return after.clamp(-2, 2), -after.norm(dim=-1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = ActorCritic()
    g = generator(seed + 1)
    offset = torch.empty(16, 2).uniform_(-2, 2, generator=g)

    def draw(n: int):
        """n parallel chasers take four steps; (states, actions, rewards, states after)."""
        nonlocal offset
        if len(offset) != n:
            offset = torch.empty(n, 2).uniform_(-2, 2, generator=g)
        parts = []
        with torch.no_grad():
            for _ in range(4):
                chance = model(offset)[0].softmax(-1).nan_to_num(0.25) + 1e-6
                action = torch.multinomial(chance, 1, generator=g)[:, 0]
                after, reward = _move(offset, action, g)
                parts.append((offset, action, reward, after))
                fresh = torch.rand(n, generator=g) < 0.05
                new = torch.empty(n, 2).uniform_(-2, 2, generator=g)
                offset = torch.where(fresh[:, None], new, after)
        return tuple(torch.cat(p) for p in zip(*parts))

    def loss(m, b):
        logits, value = m(b[0])
        with torch.no_grad():
            wanted = b[2] + 0.9 * m(b[3])[1]
        gain = wanted - value
        log = logits.log_softmax(-1)
        policy = -(log.gather(1, b[1][:, None])[:, 0] * gain.detach()).mean()
        entropy = -(log.exp() * log).sum(-1).mean()
        return policy + 0.5 * F.mse_loss(value, wanted) - 0.01 * entropy

    def clean(m) -> float:
        """Mean distance from the target over fixed chases."""
        fixed = generator(5)
        at = torch.empty(64, 2).uniform_(-2, 2, generator=fixed)
        total = 0.0
        for _ in range(15):
            at, reward = _move(at, m(at)[0].nan_to_num(0.0).argmax(-1), fixed)
            total -= float(reward.mean())
        return total / 15

    return Task(
        model=model,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        draw=draw,
        loss=loss,
        batch_size=16,
        probe=[draw(4)],
        targets=(2,),
        head=model.policy,
        clean=clean,
        clip=2.0,
        kind="rl",
        probed=False,  # recorded when the client could not yet repeat a loss with a no_grad in it
    )
