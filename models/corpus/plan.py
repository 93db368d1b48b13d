"""What happens in a run, drawn from nothing but the program's name and the run's number."""

import zlib
from dataclasses import asdict, dataclass, field

import numpy as np

from models.corpus import catalogue, programs, task as tasks

REFERENCES = 8
"""The first runs of every program are natural ones: labels measure all others against them."""

STEPS = 300
FAULTY = 0.47
"""Share of faults among the other runs, so that more than half of all runs are healthy by
intent."""
HARSH = 46
"""From this number on runs are faulty and severe: of the others' faults only a third turns
unstable."""


LONG = 1000
"""Runs from this number on are long: the first one healthy by intent, the second, of two programs in
three, with a fault that comes late."""
LONG_STEPS = 4000


@dataclass
class Plan:
    """One run, to the last detail."""

    program: str
    number: int
    seed: int
    steps: int = STEPS
    event: str = "plain"
    faulty: bool = False
    event_seed: int = 0
    harsh: bool = False
    every: int = 1
    """Log every n-th step only."""
    average: int = 1
    """Log the mean loss of the last n steps."""
    accumulate: int = 1
    """Micro-batches a step."""
    validate: int = 0
    """Steps between validations; 0: none."""
    drawn: dict = field(default_factory=dict)
    """Severities that the event drew."""

    @property
    def run(self) -> str:
        """Name of the run."""
        return f"{self.program}-{self.number:04d}"

    def scheduled(self, step: int) -> int:
        """The step of the program's schedule, which a long run stretches over its length."""
        return step * STEPS // self.steps if self.number >= LONG else step

    def record(self) -> dict:
        """As a plain object for the side file."""
        return dict(asdict(self), run=self.run)


def is_reference(number: int) -> bool:
    """Whether a run is one of the natural ones that labels measure against."""
    return number < REFERENCES


def numbers(program: str, runs: int) -> list:
    """The runs that a corpus of so many runs a program has: those, and the program's long ones."""
    late = zlib.crc32(program.encode()) % 3 > 0
    return [*range(runs), LONG, *([LONG + 1] if late else [])]


def _drawn(weights: dict, task: tasks.Task, rng: np.random.Generator) -> str:
    names = [n for n in weights if catalogue.applies(n, task)]
    share = np.array([weights[n] for n in names])
    return names[int(rng.choice(len(names), p=share / share.sum()))]


def plan(program: str, number: int, task: tasks.Task) -> Plan:
    """The plan of run `number`; the task only says which faults mean anything for it."""
    rng = np.random.default_rng([zlib.crc32(program.encode()), number])
    p = Plan(program, number, int(rng.integers(2**31)), event_seed=int(rng.integers(2**31)))
    if is_reference(number):
        return p
    if number >= LONG:
        p.steps, p.faulty = LONG_STEPS, number > LONG
        p.harsh = p.faulty
        p.event = _drawn(catalogue.long_weights(p.faulty), task, rng)
        return p
    later = number >= catalogue.GENERATION_2
    p.harsh = number >= HARSH and not later
    p.faulty = bool(rng.random() < FAULTY) or p.harsh
    if later:
        p.harsh = p.faulty and bool(rng.random() < 0.5)
    p.event = _drawn(catalogue.weights(number, p.faulty), task, rng)
    p.steps = int(rng.integers(250, 361))
    if rng.random() < 0.4:
        p.validate = int(rng.integers(20, 80))
    manner = rng.random()
    if manner < 0.06:
        p.every = int(rng.integers(2, 11))
        p.steps *= 2
    elif manner < 0.12:
        p.average = int(rng.integers(3, 21))
    elif manner < 0.18:
        p.accumulate = int(rng.integers(2, 5))
    return p


def replan(program: str, number: int) -> Plan:
    """The plan of a run for whoever has no task at hand."""
    return plan(program, number, programs.build(program, 0))
