"""More hard negatives: what jobs, schedules and objectives do on purpose."""

import copy
import math

import torch

from models.corpus import task as tasks
from models.corpus.events import Event


class Resumed(Event):
    """The job dies and goes on from its last checkpoint: steps are counted and logged again."""

    def draw(self):
        self.late(0.3, 0.8)
        self.back = int(self.log_uniform(3, 80, "back"))
        self.kept = None

    def before(self, step):
        if step == max(self.onset - self.back, 0):
            self.kept = copy.deepcopy((self.task.model.state_dict(), self._states()))
        if step == self.onset:
            self.task.model.load_state_dict(self.kept[0])
            for optimizer, state in zip(self._optimizers(), self.kept[1]):
                optimizer.load_state_dict(state)

    def _optimizers(self) -> list:
        return [self.task.optimizer] + self.task.others

    def _states(self) -> list:
        return [o.state_dict() for o in self._optimizers()]

    def number(self, step):
        return step if step < self.onset else step - min(self.back, self.onset)


class FreshOptimizer(Event):
    """The optimizer is made anew, its count of steps too: Adam's first steps are full ones again."""

    def draw(self):
        self.late()

    def prepare(self):
        self.kept = copy.deepcopy(self.task.optimizer.state_dict())

    def before(self, step):
        if step == self.onset:
            self.task.optimizer.load_state_dict(self.kept)


class AnnealedTerm(Event):
    """A further term of the loss, here a ridge, is faded in, or out, over some tens of steps."""

    def draw(self):
        self.late(0.1, 0.6)
        self.length = self.uniform(10, 100, "length")
        self.size = self.log_uniform(0.01, 0.3)
        self.out = bool(self.choice([0, 1], "out"))
        self.weight = None

    def loss(self, step, loss):
        term = sum(p.pow(2).sum() for p in self.task.model.parameters())
        if self.weight is None:
            self.weight = self.size * abs(float(loss.detach())) / (float(term.detach()) + 1e-9)
        share = min(max((step - self.onset) / self.length, 0.0), 1.0)
        return loss + self.weight * (1 - share if self.out else share) * term


class Kick(Event):
    """One step is too large: a single spike, which the run gets over."""

    def draw(self):
        self.late()
        self.factor = self.log_uniform(3, 20)

    def rate(self, step):
        return self.factor if step == self.onset else 1.0


class Gradual(Event):
    """Layers are unfrozen one group after another, from the last to the first."""

    def draw(self):
        self.onset = int(self.uniform(0.08, 0.25, "every") * self.steps)

    def before(self, step):
        if step % self.onset == 0:
            found = list(self.task.model.parameters())
            open_ = len(found) * (1 + step // self.onset) / 4
            for i, p in enumerate(reversed(found)):
                p.requires_grad_(i < max(open_, 1))
                if not p.requires_grad:
                    p.grad = None


class Averaged(Event):
    """At the onset the weights are replaced by the mean of the last steps': better at once."""

    def draw(self):
        self.late(0.4, 0.9)
        self.length = int(self.uniform(10, 60, "length"))
        self.total = None

    def before(self, step):
        if self.onset - self.length <= step < self.onset:
            now = [p.detach().clone() for p in self.task.model.parameters()]
            self.total = now if self.total is None else [a + b for a, b in zip(self.total, now)]
        if step == self.onset and self.total is not None:
            count = min(self.length, self.onset)
            with torch.no_grad():
                for p, total in zip(self.task.model.parameters(), self.total):
                    p.copy_(total / count)


class Cycles(Event):
    """Cosine restarts all along, several of them."""

    def draw(self):
        self.onset = int(self.uniform(0.12, 0.4, "period") * self.steps)

    def rate(self, step):
        return 0.05 + 0.475 * (1 + math.cos(math.pi * (step % self.onset) / self.onset))


class Unit(Event):
    """The loss in another unit from the start, which the optimizer evens out."""

    def draw(self):
        self.factor = self.log_uniform(1e-5, 1e5)

    def loss(self, step, loss):
        return loss * self.factor


BENIGN = {
    "resumed": Resumed,
    "fresh_optimizer": FreshOptimizer,
    "annealed_term": AnnealedTerm,
    "kick": Kick,
    "gradual": Gradual,
    "averaged": Averaged,
    "cycles": Cycles,
    "unit": Unit,
}


def applies(name: str, task: tasks.Task) -> bool:
    """Whether an event is benign for a program: only some optimizers do not mind a loss's unit."""
    adaptive = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)
    if name == "unit":
        return isinstance(task.optimizer, adaptive) and not task.clip
    if name == "annealed_term":  # whose gradients are dense
        return not any(getattr(m, "sparse", False) for m in task.model.modules())
    if name == "gradual":
        return not task.phases and all(p.requires_grad for p in task.model.parameters())
    return True
