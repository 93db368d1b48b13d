"""The heads beside instability: `stalled`, and `mismatch` of training and validation.

Both are judged on rows of their own, as models/detector.c does: a stall on every eighth row, because
it shows over hundreds of them, and a mismatch on rows with a validation loss. Neither is an alarm.
"""

from dataclasses import dataclass

import numpy as np
import xgboost

from models.training import data, evaluate, fit, views
from models.training.library import Library

ROUNDS = 40
ROWS = 12
"""Rows of a run that are taught."""


@dataclass(frozen=True)
class Side:
    """One head."""

    label: str
    shown: tuple
    """Masks of the views that it is taught and judged in."""
    confirm: int
    exit_confirm: int

    def judged(self, rows: np.ndarray) -> np.ndarray:
        """Indices of the rows that the detector judges."""
        if self.label == "mismatch":
            return np.flatnonzero(rows["present"] >> views.FIELDS["val_loss"] & 1)
        finite = np.isfinite(rows["value"][:, views.FIELDS["loss"]])
        return np.flatnonzero(finite & (np.cumsum(finite) % 8 == 0))

    def score(self, margin: np.ndarray) -> float:
        """The highest margin that judged rows of a run hold for as long as it takes."""
        return float(fit.held(margin, self.confirm).max())


SIDES = {
    "stalled": Side("stalled", tuple(views.SHOWN.values()), 8, 8),
    "mismatch": Side("mismatch", (views.ALL, views.of("loss", "val_loss", "val_acc")), 2, 3),
}


@dataclass
class Rows:
    """What a head is taught, and what it is judged on."""

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    run: np.ndarray
    judged: list
    """(index of the run, features of its judged rows)."""


def _rows(library: Library, side: Side, runs: list) -> Rows:
    taught, judged = [], []
    used = fit.columns(library)
    for i, run in enumerate(runs):
        if run.ambiguous or run.label not in ("healthy", side.label):
            continue
        for mask in side.shown:
            rows = views.masked(run.rows, mask)
            at = side.judged(rows)
            if len(at) < side.confirm:
                continue
            x = library.features_of(rows)[at][:, used]
            judged.append((i, x))
            # How long it takes to show is not known: the second half of such a run surely shows it.
            known = x[len(x) // 2 :] if run.label == side.label else x
            pick = np.unique(np.linspace(0, len(known) - 1, ROWS).astype(int))
            taught.append((known[pick], run.label == side.label, i))
    x = np.concatenate([t[0] for t in taught])
    y = np.concatenate([np.full(len(t[0]), float(t[1])) for t in taught])
    run = np.concatenate([np.full(len(t[0]), t[2]) for t in taught])
    program = np.array([runs[i].program for i in run])
    return Rows(x, y, data.balance(y, program, run), run, judged)


def _trees(side: Side, library: Library, x: np.ndarray, y: np.ndarray, weight: np.ndarray):
    if side.label != "mismatch":
        x = fit.without_validation(library, x)
    return xgboost.train(fit.TREES, xgboost.DMatrix(x, y, weight=weight), ROUNDS)


def taught(name: str, runs: list, fold: np.ndarray) -> bool:
    """Whether there are such runs in more than one fold, and one that is healthy in each."""
    side = SIDES[name]
    counted = [r for r in zip(runs, fold) if len(side.judged(r[0].rows)) >= side.confirm]
    bad = {k for r, k in counted if r.label == side.label and not r.ambiguous}
    good = {k for r, k in counted if r.label == "healthy" and not r.ambiguous}
    return len(bad) > 1 and good == set(fold)


def head(library: Library, name: str, runs: list, fold: np.ndarray) -> tuple:
    """(the head of a model file, its figures on programs held out)."""
    side = SIDES[name]
    rows = _rows(library, side, runs)
    margin = np.full(len(rows.y), np.nan)
    tops = {}
    for k in sorted(set(fold)):
        train = fold[rows.run] != k
        trees = _trees(side, library, rows.x[train], rows.y[train], rows.weight[train])
        margin[~train] = fit.margins(trees, rows.x[~train])
        for i, x in rows.judged:
            if fold[i] == k:
                tops.setdefault(i, []).append(side.score(fit.margins(trees, x)))
    calibration = fit.platt(margin, rows.y, rows.weight)
    (budgets,) = fit.thresholds(
        np.array([s for i, v in tops.items() if runs[i].label == "healthy"
                  for s in evaluate.score(np.array(v), calibration)])
    )  # fmt: skip
    found = _figures(side, runs, fold, tops, calibration)
    whole = _trees(side, library, rows.x, rows.y, rows.weight)
    threshold = budgets[f"{fit.DEFAULT:g}"]
    return (
        {
            **fit.binary_head(whole, calibration, budgets),
            "exit": round(0.6 * min(budgets.values()), 6),
            "confirm": side.confirm,
            "exit_confirm": side.exit_confirm,
        },
        dict(found, threshold=threshold),
    )  # fmt: skip


def _figures(side: Side, runs: list, fold: np.ndarray, tops: dict, calibration: tuple) -> dict:
    """Run level, all fields; thresholds from other folds only."""
    names = np.array(sorted(tops))
    top = np.array([tops[i][0] for i in names])
    bad = np.array([runs[i].label == side.label for i in names])
    hit = np.zeros(len(names), bool)
    for k in set(fold):
        here = fold[names] == k
        (levels,) = fit.thresholds(evaluate.score(top[~here & ~bad], calibration))
        hit[here] = evaluate.score(top[here], calibration) >= levels[f"{fit.DEFAULT:g}"]
    some = [runs[i] for i in names]
    return dict(
        runs=int(bad.sum()),
        healthy=int((~bad).sum()),
        auroc=evaluate.auroc(top[bad], top[~bad]),
        auroc_interval=evaluate.interval(
            some, lambda c: evaluate.auroc(top[c[bad[c]]], top[c[~bad[c]]])
        ),
        found=float(hit[bad].mean()),
        false_healthy=float(hit[~bad].mean()),
    )
