"""Faults of data and of evaluation: order, repetition, leakage, augmentation, statistics."""

import torch
from torch import nn

from models.corpus import task as tasks
from models.corpus.events import Event


def _values(target: torch.Tensor) -> torch.Tensor:
    """One number an example: its target, or the mean of it, in units of its spread."""
    value = target.float().reshape(len(target), -1).mean(1)
    return (value - value.mean()) / (value.std() + 1e-6) if len(value) > 1 else value * 0


class SortedData(Event):
    """Examples come sorted by their target from the onset on, as from an unshuffled table."""

    fault = "data"

    def draw(self):
        self.late(0.0, 0.6)
        self.period = self.log_uniform(8, 120)

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        size = len(batch[0])
        more = [batch] + [self.task.draw(size) for _ in range(7)]
        pool = tuple(torch.cat(parts) for parts in zip(*more))
        order = _values(pool[self.task.targets[0]]).argsort()
        phase = (step - self.onset) / self.period % 1.0
        start = int(phase * (len(order) - size))
        return tuple(t[order[start : start + size]] for t in pool)


class Repeated(Event):
    """Only a few batches are drawn, and come round again and again: they are learnt by heart."""

    fault = "data"

    def draw(self):
        self.late(0.0, 0.3)
        self.count = int(self.log_uniform(1, 12, "batches"))
        self.kept = []

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        if len(self.kept) < self.count:
            self.kept.append(batch)
        return self.kept[step % len(self.kept)]


class Leakage(Event):
    """The training inputs hold the answer, which those to be judged do not."""

    fault = "data"

    def draw(self):
        self.size = self.log_uniform(0.5, 20)

    def batch(self, step, batch):
        answer = _values(batch[self.task.targets[0]])
        for i in self.task.inputs:
            x = batch[i]
            if x.is_floating_point() and x.dim() > 1 and len(x) == len(answer):
                flat = x.reshape(len(x), -1).clone()
                flat[:, : max(1, flat.shape[1] // 30)] += self.size * answer[:, None]
                batch = batch[:i] + (flat.reshape(x.shape),) + batch[i + 1 :]
        return batch


class BadAugmentation(Event):
    """A share of the inputs loses its order: columns or positions are shuffled, anew every time."""

    fault = "data"

    def draw(self):
        self.late(0.0, 0.6)
        self.share = self.uniform(0.2, 1.0)

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        for i in self.task.inputs:
            x = batch[i]
            if x.dim() > 1:
                flat = x.reshape(len(x), -1)
                mixed = flat[:, torch.randperm(flat.shape[1], generator=self.g)]
                hit = torch.rand(len(x), 1, generator=self.g) < self.share
                batch = (
                    batch[:i] + (torch.where(hit, mixed, flat).reshape(x.shape),) + batch[i + 1 :]
                )
        return batch


class EvalStatistics(Event):
    """BatchNorm's running statistics are damaged or never follow: only evaluation suffers."""

    fault = "data"

    def draw(self):
        self.late(0.0, 0.7)
        self.way = self.choice(["stopped", "scaled"], "way")
        self.factor = self.log_uniform(2, 50)

    def before(self, step):
        if step < self.onset:
            return
        for layer in self.task.model.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.momentum = 0.0
                if step == self.onset and self.way == "stopped":
                    layer.reset_running_stats()
                elif step == self.onset:
                    layer.running_var.mul_(self.factor**2)


FAULTS = {
    "sorted_data": SortedData,
    "repeated": Repeated,
    "leakage": Leakage,
    "bad_augmentation": BadAugmentation,
    "eval_statistics": EvalStatistics,
}


def applies(name: str, task: tasks.Task) -> bool:
    """Whether a fault means anything for a program."""
    batch = (task.probe or task.validation)[0]
    if name == "sorted_data":
        return bool(task.targets) and all(len(t) == len(batch[0]) for t in batch)
    if name == "leakage":
        return bool(task.targets) and tasks.has_float_inputs(task)
    if name == "bad_augmentation":
        return any(batch[i].dim() > 1 for i in task.inputs)
    if name == "eval_statistics":
        return any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in task.model.modules())
    return True
