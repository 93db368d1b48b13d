"""Faults of stored state and of numbers: checkpoints, bits, loss scales, delayed gradients."""

import copy

import torch

from models.corpus.events import Event


class StaleCheckpoint(Event):
    """Weights of long ago, all or half of the layers', while the optimizer goes on as before."""

    fault = "numerics"

    def draw(self):
        self.late(0.3, 0.9)
        self.age = self.uniform(0.3, 1.0)
        self.partial = bool(self.choice([0, 1], "partial"))
        self.kept = None

    def before(self, step):
        if step == int(self.onset * (1 - self.age)):
            self.kept = copy.deepcopy(self.task.model.state_dict())
        if step == self.onset:
            names = list(self.kept)[:: 2 if self.partial else 1]
            self.task.model.load_state_dict({n: self.kept[n] for n in names}, strict=False)


class BitFlip(Event):
    """One bit of one weight, mostly of its exponent; sometimes one of an optimizer's buffer."""

    fault = "numerics"

    def draw(self):
        self.late()
        self.bit = int(self.uniform(22, 31, "bit"))
        self.buffer = bool(self.choice([0, 0, 1], "buffer"))

    def before(self, step):
        if step != self.onset:
            return
        found = [p.detach() for p in self.weights()]
        if self.buffer:
            states = (v for s in self.task.optimizer.state.values() for v in s.values())
            found = [v for v in states if torch.is_tensor(v) and v.dim() > 0] or found
        flat = found[int(self.rng.integers(len(found)))].view(-1)
        at = int(self.rng.integers(len(flat)))
        flat[at] = (flat[at : at + 1].view(torch.int32) ^ (1 << self.bit)).view(torch.float32)[0]


class LossScaleGrowth(Event):
    """Half-precision gradients under a loss scale that doubles and never backs off."""

    fault = "numerics"

    def draw(self):
        self.late(0.0, 0.5)
        self.start = self.log_uniform(1e2, 1e5, "start")
        self.every = self.log_uniform(3, 25, "every")
        self.skip_nonfinite = bool(self.choice([0, 1], "skips"))

    def gradients(self, step):
        if step >= self.onset:
            scale = self.start * 2 ** int((step - self.onset) / self.every)
            for g in self.gradients_list():
                g.copy_((g * scale).half().float() / scale)


class DelayedGradients(Event):
    """Gradients are applied some steps late, as by workers that are out of step."""

    fault = "optimizer"

    def draw(self):
        self.late(0.0, 0.6)
        self.delay = int(self.log_uniform(2, 25))
        self.queue = []

    def gradients(self, step):
        if step < self.onset:
            return
        now = self.gradients_list()
        self.queue.append([g.clone() for g in now])
        old = self.queue.pop(0) if len(self.queue) > self.delay else self.queue[0]
        for g, late in zip(now, old):
            if g.shape == late.shape:
                g.copy_(late)


class Undivided(Event):
    """Accumulated gradients are not divided by the number of micro-batches, and not clipped."""

    fault = "optimizer"

    def draw(self):
        self.late(0.0, 0.6)
        self.factor = self.log_uniform(4, 200)

    def gradients(self, step):
        if step >= self.onset:
            self.task.clip = None
            for g in self.gradients_list():
                g.mul_(self.factor)


class LrCreep(Event):
    """A rate that grows by about a percent every step, from the first on: a schedule upside down."""

    fault = "learning_rate"

    def draw(self):
        self.growth = self.log_uniform(0.006, 0.04)

    def rate(self, step):
        return min((1 + self.growth) ** step, 1e4)


FAULTS = {
    "stale_checkpoint": StaleCheckpoint,
    "bit_flip": BitFlip,
    "loss_scale_growth": LossScaleGrowth,
    "delayed_gradients": DelayedGradients,
    "undivided": Undivided,
    "lr_creep": LrCreep,
}
