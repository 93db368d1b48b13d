"""Hard negatives: what healthy runs do that looks alarming for a while."""

import math

import torch
from torch import nn

from models.corpus import task as tasks
from models.corpus.events import Event


class Plain(Event):
    """A natural run; only the seed differs."""


class Jitter(Event):
    """A natural run at a somewhat different learning rate."""

    def draw(self):
        self.factor = self.log_uniform(0.4, 1.4)

    def rate(self, step):
        return self.factor


class LrRestart(Event):
    """Cosine decay to a tenth, and back to the full rate at the onset."""

    def draw(self):
        self.late(0.3, 0.7)

    def rate(self, step):
        period = self.onset if step < self.onset else self.steps - self.onset
        at = step if step < self.onset else step - self.onset
        return 0.1 + 0.45 * (1 + math.cos(math.pi * at / period))


class LrChange(Event):
    """A step of the schedule: mostly down, sometimes a little up."""

    def draw(self):
        self.late()
        self.factor = self.log_uniform(0.03, 2.0)

    def rate(self, step):
        return self.factor if step >= self.onset else 1.0


class Switch(Event):
    """The data change to another distribution, which is learnt; sometimes back again later."""

    def draw(self):
        self.late(0.2, 0.5)
        stays = self.rng.random() < 0.7
        self.back = 10**9 if stays else int(self.rng.uniform(0.6, 0.8) * self.steps)
        self.drawn["back"] = None if stays else self.back

    def batch(self, step, batch):
        return tasks.switch(self.task, batch) if self.onset <= step < self.back else batch

    clean_batch = batch


class Outlier(Event):
    """A few wild batches among good ones, which the run gets over."""

    def draw(self):
        self.late()
        self.factor = self.log_uniform(2, 20)
        self.length = int(self.choice([1, 1, 1, 2, 3], "length"))
        self.again = self.choice([0, 0, int(0.1 * self.steps)], "again")

    def batch(self, step, batch):
        first = self.onset <= step < self.onset + self.length
        second = (
            self.again and self.onset + self.again <= step < self.onset + self.again + self.length
        )
        if not first and not second:
            return batch
        if tasks.has_float_inputs(self.task):
            return tasks.scale_inputs(self.task, batch, self.factor)
        return tasks.scramble(batch, self.task.inputs + self.task.targets, 1.0, self.g)


class BatchSize(Event):
    """Smaller or larger batches from the onset on."""

    def draw(self):
        self.late(0.0, 0.7)
        self.factor = self.log_uniform(0.15, 4)

    def batch_factor(self, step):
        return self.factor if step >= self.onset else 1.0


class Dropout(Event):
    """Dropout, or noise on the inputs where there is none, switched on at the onset."""

    def draw(self):
        self.late(0.1, 0.7)
        self.share = self.uniform(0.1, 0.5)

    def _layers(self):
        return [m for m in self.task.model.modules() if isinstance(m, nn.Dropout)]

    def before(self, step):
        if step == self.onset:
            for layer in self._layers():
                layer.p = self.share

    def batch(self, step, batch):
        if step < self.onset or self._layers():
            return batch
        return tasks.scramble(batch, self.task.inputs, self.share / 3, self.g)


class ReinitHead(Event):
    """The last layer starts anew at the onset."""

    def draw(self):
        self.late(0.2, 0.6)

    def before(self, step):
        if step == self.onset and self.task.head is not None:
            rng = torch.get_rng_state()
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.g)))
            self.task.head.reset_parameters()
            torch.set_rng_state(rng)


class Unfreeze(Event):
    """The first half of the parameters is frozen until the onset."""

    def draw(self):
        self.late(0.15, 0.6)

    def before(self, step):
        if step in (0, self.onset):
            parameters = list(self.task.model.parameters())
            for p in parameters[: len(parameters) // 2]:
                p.requires_grad_(step != 0 or self.onset == 0)
                if not p.requires_grad:
                    p.grad = None


class LossScale(Event):
    """The loss is weighted otherwise from the onset on; only mildly where no optimizer evens it
    out."""

    def draw(self):
        self.late()
        self.factor = self.log_uniform(0.1, 10) if self.adaptive() else self.log_uniform(0.3, 1.5)

    def loss(self, step, loss):
        return loss * self.factor if step >= self.onset else loss


class LostMoments(Event):
    """The job resumes from a checkpoint without its optimizer's buffers."""

    def draw(self):
        self.late()

    def before(self, step):
        if step != self.onset:
            return
        for state in self.task.optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value):
                    value.zero_()


class NoiseEnds(Event):
    """Noisy targets until the onset: a curriculum, or a data set that was cleaned."""

    def draw(self):
        self.late(0.2, 0.6)
        self.share = self.uniform(0.1, 0.5)

    def batch(self, step, batch):
        if step >= self.onset:
            return batch
        return tasks.scramble(batch, self.task.targets or self.task.inputs, self.share, self.g)


class HarderData(Event):
    """A curriculum: noisier inputs from the onset on."""

    def draw(self):
        self.late(0.2, 0.6)
        self.share = self.uniform(0.05, 0.25)

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        return tasks.scramble(batch, self.task.inputs, self.share, self.g)


class GuardedNan(Event):
    """One or two batches give NaN, and the step is skipped, as a loss scaler does."""

    skip_nonfinite = True

    def draw(self):
        self.late(0.1, 0.9)
        self.length = int(self.choice([1, 1, 2], "length"))

    def loss(self, step, loss):
        return loss * float("nan") if self.onset <= step < self.onset + self.length else loss


BENIGN = {
    "jitter": Jitter, "lr_restart": LrRestart, "lr_change": LrChange, "switch": Switch, "outlier":
    Outlier,
    "batch_size": BatchSize, "dropout": Dropout, "reinit_head": ReinitHead, "unfreeze": Unfreeze,
    "loss_scale": LossScale, "lost_moments": LostMoments, "noise_ends": NoiseEnds,
    "harder_data": HarderData, "guarded_nan": GuardedNan, "plain": Plain,
}  # fmt: skip

# The commonest alarming-looking events are drawn more often: they are what sets a threshold in use.
WEIGHTS = {
    name: 2.0 if name in ("jitter", "switch", "outlier", "reinit_head") else 1.0 for name in BENIGN
}
WEIGHTS["guarded_nan"] = 0.5
