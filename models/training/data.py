"""Runs with their labels, and the rows that a model is trained on."""

import zlib
from dataclasses import dataclass

import numpy as np

from models.corpus import archive, labels
from models.training import views
from models.training.library import Library

BEFORE = 12
"""Rows so many steps before an onset belong to neither class: a gradual fault is under way."""
AFTER = 2
"""An onset must have had so many steps to show."""


@dataclass
class Run:
    """One recorded run."""

    name: str
    program: str
    rows: np.ndarray
    side: dict
    label: str
    ambiguous: bool
    onset: int
    """Step; −1 where there is none."""

    @property
    def begin(self) -> int:
        """The first step at which an alarm is no false one: the fault's injection, which may show
        long before the outcome does, or a few steps before the onset."""
        begin = self.onset - BEFORE
        return min(begin, self.side["onset"]) if self.side["fault"] else begin

    @property
    def positive(self) -> bool:
        """Surely unstable."""
        return self.label == "unstable" and not self.ambiguous

    @property
    def negative(self) -> bool:
        """Surely not unstable (healthy, stalled or mismatch)."""
        return self.label != "unstable" and not self.ambiguous

    @property
    def recovered(self) -> bool:
        """Healthy, but not surely: it had an excursion that it got over."""
        return self.label == "healthy" and self.ambiguous


def load(programs=None, folder=archive.TRACES) -> list:
    """All runs of the corpus, labelled."""
    runs = []
    for program in programs or archive.names(folder):
        found = labels.label_program(program, folder)
        packed = archive.members(program, folder)
        for side in archive.sides(program, folder):
            rows = archive.unpack(packed[side["run"]])[1]
            told = found[side["run"]]
            onset = -1 if told["onset"] is None else told["onset"]
            runs.append(
                Run(side["run"], program, rows, side, told["label"], told["ambiguous"], onset)
            )
    return runs


@dataclass
class Sample:
    """Rows to train on."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    program: np.ndarray
    run: np.ndarray


    def only(self, chosen: np.ndarray) -> "Sample":
        """The chosen rows, weighed anew."""
        y, program, run = self.y[chosen], self.program[chosen], self.run[chosen]
        return Sample(self.x[chosen], y, balance(y, program, run), program, run)


def row_labels(run: Run, steps: np.ndarray) -> np.ndarray:
    """1 after the onset, 0 where the run is well, NaN where neither is sure."""
    y = np.zeros(len(steps))
    if run.ambiguous and not run.recovered:
        y[:] = np.nan
    elif run.positive:
        y[steps >= run.begin] = np.nan
        y[steps >= run.onset + AFTER] = 1.0
    return y


def _picked(y: np.ndarray, steps: np.ndarray, onset: int, rng: np.random.Generator, n: int, head):
    """About n rows of each class. Those soon after an onset decide the delay and come first where all
    fields are sent; with few, they say too little to be taught as surely as what comes later."""
    shares = SHARES[head]
    chosen = []
    negative = np.flatnonzero(y == 0)
    if len(negative):
        chosen.append(rng.choice(negative, min(n, len(negative)), replace=False))
    soon = np.flatnonzero((y == 1) & (steps < onset + 30))
    late = np.flatnonzero((y == 1) & (steps >= onset + 30))
    if len(soon):
        chosen.append(rng.choice(soon, min(int(shares[0] * n), len(soon)), replace=False))
    if len(late):
        chosen.append(rng.choice(late, min(int(shares[1] * n), len(late)), replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, int)


def _alarming(x: np.ndarray, y: np.ndarray, column: int, n: int) -> np.ndarray:
    """The negative rows whose smoothed loss stands highest above its best: benign jumps set
    thresholds."""
    negative = np.flatnonzero(y == 0)
    order = np.argsort(-np.nan_to_num(x[negative, column], nan=-1.0), kind="stable")
    return negative[order[:n]]


HARD = 8
"""The most alarming rows of a run in a view that are taught a second time."""
RECOVERED = 6
"""So many times instead, where the run had an excursion that it got over."""


def hardest(runs: list, features: list, taught: np.ndarray, margins) -> Sample:
    """The rows of each of the runs `taught` that is well so far which `margins` finds most alarming."""
    parts = []
    for some in np.array_split(taught, max(1, len(taught) // 200)):
        well = [features[i][row_labels(runs[i], runs[i].rows["step"]) == 0] for i in some]
        told = np.split(margins(np.concatenate(well)), np.cumsum([len(x) for x in well])[:-1])
        for i, x, margin in zip(some, well, told):
            hard = x[np.argsort(-margin, kind="stable")[:HARD]]
            parts += [(hard, i)] * (RECOVERED if runs[i].recovered else 1)
    x = np.concatenate([p[0] for p in parts])
    run = np.concatenate([np.full(len(p[0]), p[1]) for p in parts])
    program = np.array([runs[i].program for i in run])
    return Sample(x, np.zeros(len(x)), np.ones(len(x)), program, run)


def joined(samples: list) -> Sample:
    """Several samples as one, weighed anew."""
    x = np.concatenate([s.x for s in samples])
    y = np.concatenate([s.y for s in samples])
    run = np.concatenate([s.run for s in samples])
    program = np.concatenate([s.program for s in samples])
    return Sample(x, y, balance(y, program, run), program, run)


FIRST, FURTHER = 36, {"loss": 8, "loss_grad_lr": 8, "all": 20}
"""About so many rows of each class are taught of the first way to see a run, and of the others."""
SHARES = {"loss": (0.2, 1.0), "loss_grad_lr": (0.2, 1.0), "all": (1.0, 0.5)}
"""Of unstable rows so many are from the first 30 steps after an onset, and from later ones."""


def seen(run: Run, head: str, rng: np.random.Generator) -> list:
    """The run as clients send it that call for a head: what the head is for, and thinned; the head
    of all fields also with random ones left out."""
    every, average = int(rng.integers(2, 8)), bool(rng.random() < 0.5)
    thin = views.thinned(run.rows, every, average)
    mask = views.SHOWN[head]
    if head != "all":
        return [views.masked(run.rows, mask), views.masked(thin, mask)]
    some = views.random_mask(rng)
    whole = views.ALL if rng.random() < 0.5 else views.ALL & ~views.FULL_PROBE
    return [
        views.masked(run.rows, whole),
        views.masked(run.rows, some),
        views.masked(thin, int(rng.choice([views.ALL, some]))),
    ]


def chosen(library: Library, run: Run, rows: np.ndarray, head: str, rng, n: int) -> tuple:
    """(features of the rows, their labels, indices of about n of each class to learn from, with the
    most alarming ones that are well)."""
    x = library.features_of(rows)
    y = row_labels(run, rows["step"])
    index = [_picked(y, rows["step"], run.onset, rng, n, head)]
    for name in ("loss_above_best_noise", "loss_z"):
        index.append(_alarming(x, y, library.features.index(name), n // 3))
    return x, y, np.unique(np.concatenate(index))


def sample(library: Library, runs: list, head: str) -> Sample:
    """Rows of every run, seen as a head will see them. Of doubtful runs only those are taught that
    were well but for an excursion, and only where all fields are sent: with few, an excursion looks
    like the start of a fault."""
    parts = []
    for number, run in enumerate(runs):
        if run.ambiguous and not (run.recovered and head == "all"):
            continue
        rng = np.random.default_rng(zlib.crc32((head + run.name).encode()))
        for i, rows in enumerate(seen(run, head, rng)):
            if len(rows) < 20:
                continue
            n = FURTHER[head] if i else FIRST
            x, y, index = chosen(library, run, rows, head, rng, n)
            if len(index):
                parts.append((x[index], y[index], np.full(len(index), number)))
    x = np.concatenate([p[0] for p in parts])
    y = np.concatenate([p[1] for p in parts])
    of_run = np.concatenate([p[2] for p in parts])
    program = np.array([runs[i].program for i in of_run])
    return Sample(x, y, balance(y, program, of_run), program, of_run)


def balance(y: np.ndarray, program: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Weights such that every program weighs the same in each class, and both classes together
    do."""
    weight = np.zeros(len(y))
    for p in np.unique(program):
        for value in (0.0, 1.0):
            here = (program == p) & (y == value)
            if here.any():
                _, which, count = np.unique(run[here], return_inverse=True, return_counts=True)
                # The root: a run with few sure rows counts less, but not in proportion.
                w = 1.0 / np.sqrt(count[which])
                # A program with hardly any unstable run must not shout with the few it has.
                share = min(1.0, len(count) / 6)
                weight[here] = share * w / w.sum()
    for value in (0.0, 1.0):
        weight[y == value] *= 0.5 * len(y) / max(weight[y == value].sum(), 1e-12)
    return weight
