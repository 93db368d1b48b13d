"""What a training program is to the recorder: the task, and generic ways to handle its batches.

A batch is a tuple of tensors whose first dimension counts examples. `inputs` and `targets` name the
positions of what the model is shown and of what it should answer, so that a fault or a benign event
can touch one of them without knowing the program.
"""

from dataclasses import dataclass, field
from typing import Callable, Optional, Tuple

import torch
from torch import nn

Batch = Tuple[torch.Tensor, ...]


@dataclass
class Task:
    """A training program at step 0."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    draw: Callable[[int], Batch]
    """Draw a batch of n examples; all randomness comes from the task's own generator."""
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    """The scalar training loss of a batch; the model is passed so that the probe can use a copy."""
    batch_size: int
    probe: list = field(default_factory=list)
    """Fixed batches of the clean probe, which only labels see."""
    validation: list = field(default_factory=list)
    """Fixed held-out batches of the validation that the run itself logs; empty: it logs none."""
    accuracy: Optional[Callable[[nn.Module, Batch], float]] = None
    inputs: Tuple[int, ...] = (0,)
    targets: Tuple[int, ...] = (1,)
    vocabulary: int = 0
    """Number of symbols where inputs are integers: the distribution switch renames them."""
    schedule: Callable[[int], float] = lambda step: 1.0
    """Factor on the base learning rate at a step."""
    clip: Optional[float] = None
    """Maximal gradient norm, or None."""
    head: Optional[nn.Module] = None
    """The layer that a fine-tuner would re-initialise."""
    clean: Optional[Callable[[nn.Module], float]] = None
    """A probe of its own, where the loss on fixed batches says nothing (GAN, RL)."""
    others: list = field(default_factory=list)
    """Further optimizers, whose learning rate goes with the first (a GAN's generator)."""
    after_step: Optional[Callable[[int], None]] = None
    """What the program does between steps (a GAN's generator step)."""
    phases: bool = False
    """Whether the program freezes its layers itself, so that nobody else should."""
    kind: str = "supervised"
    probed: bool = True
    """Whether the same-batch probe is recorded."""


def generator(seed: int) -> torch.Generator:
    """A generator of its own, so that a change in one part leaves the draws of another alone."""
    g = torch.Generator()
    g.manual_seed(seed)
    return g


def sampler(tensors: Batch, g: torch.Generator) -> Callable[[int], Batch]:
    """Draw with replacement from tensors of equal length."""
    n = len(tensors[0])

    def draw(size: int) -> Batch:
        index = torch.randint(n, (size,), generator=g)
        return tuple(t[index] for t in tensors)

    return draw


def fixed(tensors: Batch, n: int, batch: int = 128) -> list:
    """The first n examples as a list of batches."""
    return [tuple(t[i : min(i + batch, n)] for t in tensors) for i in range(0, n, batch)]


def warmup(steps: int, then: Callable[[int], float] = lambda step: 1.0) -> Callable[[int], float]:
    """Linear warm-up over `steps`, then another schedule."""
    return lambda step: (step + 1) / steps if step < steps else then(step)


def share_correct(model: nn.Module, batch: Batch) -> float:
    """Accuracy of a classifier whose batch is (x, class)."""
    return float((model(batch[0]).argmax(-1) == batch[1]).float().mean())


def views_apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """How far two views of an example are apart, of how far examples are: low, but not by
    collapse."""
    first, second = (nn.functional.normalize(v, dim=-1) for v in (first, second))
    return float((first - second).pow(2).sum(-1).mean() / (torch.cdist(first, first) ** 2).mean())


def _float_positions(task: Task, batch: Batch) -> list:
    return [i for i in task.inputs if batch[i].is_floating_point()]


def _replace(batch: Batch, position: int, value: torch.Tensor) -> Batch:
    return batch[:position] + (value,) + batch[position + 1 :]


def scale_inputs(task: Task, batch: Batch, factor: float, offset: float = 0.0) -> Batch:
    """Inputs on another scale; integer inputs have none and stay."""
    for i in _float_positions(task, batch):
        batch = _replace(batch, i, batch[i] * factor + offset)
    return batch


def has_float_inputs(task: Task) -> bool:
    """Whether the inputs can be scaled."""
    return bool(_float_positions(task, (task.probe or task.validation)[0])) if task.probe else False


def scramble(batch: Batch, positions: Tuple[int, ...], share: float, g: torch.Generator) -> Batch:
    """Replace a share of the entries (rows of float tensors) by those of other examples."""
    for i in positions:
        x = batch[i]
        flat = x.reshape(-1) if not x.is_floating_point() else x.reshape(len(x), -1)
        n = len(flat)
        chosen = torch.rand(n, generator=g) < share
        other = flat[torch.randperm(n, generator=g)]
        mask = chosen if flat.dim() == 1 else chosen[:, None]
        batch = _replace(batch, i, torch.where(mask, other, flat).reshape(x.shape))
    return batch


def switch(task: Task, batch: Batch) -> Batch:
    """The other distribution of the task: as hard as the first, and learnt from anew.

    Float inputs are mirrored in every dimension, symbols are renamed in inputs and targets alike.
    """
    for i in dict.fromkeys(task.inputs + task.targets):
        x = batch[i]
        if x.is_floating_point():
            if i in task.inputs and x.dim() > 1:
                batch = _replace(batch, i, x.flip(list(range(1, x.dim()))))
        elif task.vocabulary:
            batch = _replace(batch, i, task.vocabulary - 1 - x)
    return batch
