"""What may happen in a run: the interface shared by faults and by benign events.

An event draws its own severity and onset from the run's generator when it is made, and leaves them
in `drawn` for the side record. The recorder calls its hooks at fixed places of every step.
"""

import math

import numpy as np
import torch

from models.corpus import task as tasks


class Event:
    """Nothing happens; every hook may be overridden."""

    fault = None
    """Class of the fault head, None for benign events."""

    def __init__(self, rng: np.random.Generator, task: tasks.Task, steps: int, harsh: bool = False):
        self.rng, self.task, self.steps, self.harsh = rng, task, steps, harsh
        self.g = tasks.generator(int(rng.integers(2**31)))
        self.onset = 0
        self.drawn = {}
        self.draw()

    def draw(self) -> None:
        """Draw onset and severity."""

    def prepare(self) -> None:
        """Before the first step: change the model or the optimizer's settings."""

    def before(self, step: int) -> None:
        """At the start of a step."""

    def number(self, step: int) -> int:
        """What a step is called in the log; going back supersedes what was logged from there."""
        return step

    def rate(self, step: int) -> float:
        """Factor on the learning rate."""
        return 1.0

    def batch_factor(self, step: int) -> float:
        """Factor on the batch size."""
        return 1.0

    def batch(self, step: int, batch: tasks.Batch) -> tasks.Batch:
        """What the model gets to see instead of the batch."""
        return batch

    def clean_batch(self, step: int, batch: tasks.Batch) -> tasks.Batch:
        """The clean probe's batch: transformed only where that is the task itself at this step."""
        return batch

    def loss(self, step: int, loss: torch.Tensor) -> torch.Tensor:
        """What is minimised and logged instead of the loss."""
        return loss

    def gradients(self, step: int) -> None:
        """Between the backward pass and clipping."""

    def zero_grad(self, step: int) -> bool:
        """Whether the gradients are cleared before this step."""
        return True

    skip_nonfinite = False
    """Whether a step with a non-finite gradient is left out, as a loss scaler does."""

    # -- drawing

    def late(self, low: float = 0.2, high: float = 0.8) -> None:
        """Draw an onset within the run."""
        self.onset = int(self.rng.uniform(low, high) * self.steps)

    def log_uniform(self, low: float, high: float, name: str = "severity") -> float:
        """Draw a number whose logarithm is uniform, and remember it; harsh severities are the upper
        half."""
        if self.harsh and name == "severity":
            low = math.sqrt(low * high)
        value = float(math.exp(self.rng.uniform(math.log(low), math.log(high))))
        self.drawn[name] = value
        return value

    def uniform(self, low: float, high: float, name: str = "severity") -> float:
        """Draw a number and remember it."""
        self.drawn[name] = value = float(self.rng.uniform(low, high))
        return value

    def choice(self, options: list, name: str):
        """Draw one of several and remember it."""
        self.drawn[name] = value = options[int(self.rng.integers(len(options)))]
        return value

    # -- helpers

    def adaptive(self) -> bool:
        """Whether the optimizer divides by the gradient's size, so that it bears more."""
        return not isinstance(self.task.optimizer, torch.optim.SGD)

    def weights(self) -> list:
        """Parameters that are matrices or larger."""
        return [p for p in self.task.model.parameters() if p.dim() > 1]

    def gradients_list(self) -> list:
        """The gradients that there are; of sparse ones the values, to be changed in place."""
        found = []
        for p in self.task.model.parameters():
            if p.grad is not None and p.grad.is_sparse:
                p.grad = p.grad.coalesce()
                found.append(p.grad._values())
            elif p.grad is not None:
                found.append(p.grad)
        return found
