"""The precursor head: whether a gradual fault is under way before its run is unstable. It gives a
warning, never an alarm.

It is taught rows of the last steps before the onset of gradual faults against rows of runs that are
well, in the views of clients that call for the head of all fields, and judged as models/detector.c
does: on every fourth row with a finite loss, where that head is in charge.
"""

import zlib

import numpy as np
import xgboost

from models.training import bench, data, evaluate, families, fit, views
from models.training.library import Library

NAME = "precursor"
TREES = dict(fit.TREES, max_depth=4)
ROUNDS = 100
BEFORE, SETTLED = 40, 3
"""Rows of so many steps before an onset are taught, from so many after the fault's injection on."""
ROWS = 24
"""Rows of each class that are taught of a run as it is; half as many of each of its other views."""
EVERY, CONFIRM, EXIT_CONFIRM = 4, 4, 16
"""Rows from one judged row to the next; judged rows in a row to enter and to leave."""
FORESEEN = 5
"""A warning so many steps before the onset foresees it."""


def row_labels(run: data.Run, steps: np.ndarray) -> np.ndarray:
    """1 shortly before the onset of a gradual fault, 0 where the run is well, NaN elsewhere."""
    y = np.where(data.row_labels(run, steps) == 0, 0.0, np.nan)
    if gradual(run):
        since = max(run.onset - BEFORE, run.side["onset"] + SETTLED)
        y[(steps >= since) & (steps < run.onset)] = 1.0
    return y


def gradual(run: data.Run) -> bool:
    """Whether an injected gradual fault made the run unstable."""
    return run.positive and families.manner(run.side["event"]) == "gradual"


def judged(rows: np.ndarray) -> np.ndarray:
    """Indices of the rows that the detector judges."""
    finite = np.isfinite(rows["value"][:, views.FIELDS["loss"]])
    return np.flatnonzero(finite & (np.cumsum(finite) % EVERY == 0))


def sample(library: Library, runs: list) -> data.Sample:
    """Rows of every sure run in the views of the head of all fields."""
    parts = []
    for number, run in enumerate(runs):
        if run.ambiguous:
            continue
        rng = np.random.default_rng(zlib.crc32((NAME + run.name).encode()))
        for i, rows in enumerate(data.seen(run, "all", rng)):
            y = row_labels(run, rows["step"])
            n = ROWS // 2 if i else ROWS
            index = [np.flatnonzero(y == value) for value in (0.0, 1.0)]
            index = np.concatenate([rng.choice(j, min(n, len(j)), replace=False) for j in index])
            if len(index):
                x = library.features_of(rows)
                parts.append((x[index], y[index], np.full(len(index), number)))
    x, y, of_run = (np.concatenate(p) for p in zip(*parts))
    program = np.array([runs[i].program for i in of_run])
    return data.Sample(x, y, data.balance(y, program, of_run), program, of_run)


def _grown(library: Library, part: data.Sample, rounds: int) -> xgboost.Booster:
    x = fit.shown(library, part.x)
    return xgboost.train(TREES, xgboost.DMatrix(x, part.y, weight=part.weight), rounds)


def trees(
    library: Library, runs: list, whole: data.Sample, features: list, known: np.ndarray
) -> xgboost.Booster:
    """The head's trees, taught twice like those of an instability head (`fit.hardened`)."""
    part = whole.only(known[whole.run])
    first = _grown(library, part, ROUNDS // 2)
    used = fit.columns(library)
    sure = np.flatnonzero(known & np.array([not r.ambiguous for r in runs]))
    hard = data.hardest(runs, features, sure, lambda x: fit.margins(first, x[:, used]))
    return _grown(library, data.joined([part, hard]), ROUNDS)


def taught(runs: list, fold: np.ndarray) -> bool:
    """Whether every fold has gradual faults to foresee."""
    return {k for r, k in zip(runs, fold) if gradual(r) and could(r)} == set(fold)


def could(run: data.Run) -> bool:
    """Whether the fault began early enough to be foreseen."""
    return run.side["onset"] <= run.onset - FORESEEN


def head(library: Library, runs: list, features: list, fold: np.ndarray) -> tuple:
    """(the head of a model file, its figures on programs held out); `features`: those of each run's
    rows with all fields."""
    whole, used = sample(library, runs), fit.columns(library)
    margin = np.full(len(whole.y), np.nan)
    steps, held = [None] * len(runs), [None] * len(runs)
    for k in sorted(set(fold)):
        booster = trees(library, runs, whole, features, fold != k)
        here = fold[whole.run] == k
        margin[here] = fit.margins(booster, whole.x[here][:, used])
        for i in np.flatnonzero(fold == k):
            at = judged(runs[i].rows)
            at = at if len(at) >= CONFIRM else np.empty(0, int)
            steps[i] = runs[i].rows["step"][at][CONFIRM - 1 :]
            told = fit.margins(booster, features[i][at][:, used]) if len(at) else at
            held[i] = fit.held(told, CONFIRM) if len(at) else np.empty(0)
    calibration = fit.platt(margin, whole.y, whole.weight)
    held = [evaluate.score(h, calibration) for h in held]
    tops = np.array([h.max() if len(h) else 0.0 for h in held])
    sure = np.array([r.label == "healthy" and not r.ambiguous for r in runs])
    (budgets,) = fit.thresholds(tops[sure])
    booster = trees(library, runs, whole, features, np.ones(len(runs), bool))
    told = {
        **fit.binary_head(booster, calibration, budgets),
        "exit": round(0.6 * min(budgets.values()), 6),
        "confirm": CONFIRM,
        "exit_confirm": EXIT_CONFIRM,
    }
    return told, figures(runs, fold, tops, steps, held, sure)


def figures(runs: list, fold: np.ndarray, tops, steps: list, held: list, sure) -> dict:
    """Budget → gradual faults foreseen and healthy runs warned of, levels from the other folds. Long
    runs are left out, as in the figures of alarms."""
    short = np.array([r.side["steps"] <= bench.LONG for r in runs])
    early = short & np.array([gradual(r) and could(r) for r in runs])
    rate = early & np.array([r.side["event"] in ("lr_ramp", "lr_creep") for r in runs])
    healthy = short & np.array([r.label == "healthy" for r in runs])
    out = {"runs": int(early.sum()), "of_the_learning_rate": int(rate.sum())}
    for budget in fit.BUDGETS:
        key = f"{budget:g}"
        warned = np.full(len(runs), np.nan)
        for k in set(fold):
            (levels,) = fit.thresholds(tops[sure & (fold != k)])
            for i in np.flatnonzero((fold == k) & (tops >= levels[key])):
                warned[i] = steps[i][np.argmax(held[i] >= levels[key])]
        seen = np.array([r.begin <= w <= r.onset - FORESEEN for r, w in zip(runs, warned)])
        fired = ~np.isnan(warned)

        def share(flags, among, c):
            c = c[among[c]]
            return float(flags[c].mean()) if len(c) else None

        everything = np.arange(len(runs))
        out[key] = dict(
            foreseen=share(seen, early, everything),
            foreseen_interval=evaluate.interval(runs, lambda c, s=seen: share(s, early, c)),
            of_the_learning_rate=share(seen, rate, everything),
            of_others=share(seen, early & ~rate, everything),
            false_sure=share(fired, sure & short, everything),
            false_all=share(fired, healthy, everything),
        )
    return out
