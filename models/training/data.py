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

UNTAUGHT = ("sign_flip",)
"""Faults that are judged but not taught: a negated loss falls ever faster, and so do good ones.
Taught as unstable, they make a healthy loss that leaves a plateau look alarming."""


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
    def positive(self) -> bool:
        """Surely unstable."""
        return self.label == "unstable" and not self.ambiguous

    @property
    def negative(self) -> bool:
        """Surely not unstable (healthy, stalled or mismatch)."""
        return self.label != "unstable" and not self.ambiguous


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


def row_labels(run: Run, steps: np.ndarray) -> np.ndarray:
    """1 after the onset, 0 where the run is well, NaN where neither is sure."""
    y = np.zeros(len(steps))
    if run.ambiguous:
        y[:] = np.nan
    elif run.positive:
        y[steps >= run.onset - BEFORE] = np.nan
        y[steps >= run.onset + AFTER] = 1.0
    return y


def _picked(y: np.ndarray, steps: np.ndarray, onset: int, rng: np.random.Generator, n: int):
    """About n rows of each class; those soon after an onset, which decide the delay, come first."""
    chosen = []
    negative = np.flatnonzero(y == 0)
    if len(negative):
        chosen.append(rng.choice(negative, min(n, len(negative)), replace=False))
    soon = np.flatnonzero((y == 1) & (steps < onset + 30))
    late = np.flatnonzero((y == 1) & (steps >= onset + 30))
    if len(soon):
        chosen.append(rng.choice(soon, min(n, len(soon)), replace=False))
    if len(late):
        chosen.append(rng.choice(late, min(n // 2, len(late)), replace=False))
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, int)


def _alarming(x: np.ndarray, y: np.ndarray, column: int, n: int) -> np.ndarray:
    """The negative rows whose smoothed loss stands highest above its best: benign jumps set
    thresholds."""
    negative = np.flatnonzero(y == 0)
    order = np.argsort(-np.nan_to_num(x[negative, column], nan=-1.0), kind="stable")
    return negative[order[:n]]


def sample(library: Library, runs: list, n: int = 36) -> Sample:
    """Rows of every run in five views: all fields, few, loss only, a random choice, and thinned."""
    columns = [library.features.index(f) for f in ("loss_above_best_noise", "loss_z")]
    parts = []
    for number, run in enumerate(runs):
        if run.ambiguous or run.side["event"] in UNTAUGHT:
            continue
        rng = np.random.default_rng(zlib.crc32(run.name.encode()))
        every, average = int(rng.integers(2, 8)), bool(rng.random() < 0.5)
        seen = [views.masked(run.rows, mask) for mask in views.SHOWN.values()]
        seen.append(views.masked(run.rows, views.random_mask(rng)))
        thin = views.thinned(run.rows, every, average)
        seen.append(views.masked(thin, int(rng.choice([views.ALL, views.random_mask(rng)]))))
        for rows in seen:
            if len(rows) < 20:
                continue
            x = library.features_of(rows)
            y = row_labels(run, rows["step"])
            index = _picked(y, rows["step"], run.onset, rng, n)
            hard = np.concatenate([_alarming(x, y, c, n // 3) for c in columns])
            index = np.unique(np.concatenate([index, hard]))
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
