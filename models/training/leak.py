"""How well a program can be named from the features of its runs that are well.

Two classifiers of the same kind (extremely randomised trees), cross-validated by runs: one sees
single rows, the other a whole run (median and spread of every feature). Chance is one over the
number of programs.
"""

import zlib

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier

from models.training import bench, sets, splits

ROWS = 3
"""Rows a run, after its first tenth."""
FOLDS = 3
MISSING = -1000.0
TREES = dict(n_estimators=40, min_samples_leaf=2, max_leaf_nodes=1500, random_state=1, n_jobs=1)
BINS = 24


def _tables(b: bench.Bench) -> tuple:
    """(rows, their run), (summaries of runs), programs as numbers, the runs taken."""
    taken = [i for i in range(len(b.runs)) if b.outcome.negative[i]]
    rows, of, whole = [], [], []
    for j, i in enumerate(taken):
        x = b.features[i]
        rng = np.random.default_rng(zlib.crc32(("leak:" + b.runs[i].name).encode()))
        later = np.arange(len(x) // 10, len(x))
        rows.append(x[np.sort(rng.choice(later, min(ROWS, len(later)), replace=False))])
        of += [j] * len(rows[-1])
        with np.errstate(all="ignore"):
            low, middle, high = _quartiles(x[later])
        whole.append(np.concatenate([middle, high - low]))
    names = sorted({r.program for r in b.runs})
    program = np.array([names.index(b.runs[i].program) for i in taken])
    return np.concatenate(rows), np.array(of), np.array(whole), program, [b.runs[i] for i in taken]


def _quartiles(x: np.ndarray) -> np.ndarray:
    """Quartiles of every column without its NaN; NaN where all are."""
    ordered = np.sort(x, axis=0)
    n = np.isfinite(ordered).sum(0)
    at = (np.array([[0.25], [0.5], [0.75]]) * np.maximum(n - 1, 0)).astype(int)
    found = np.take_along_axis(ordered, at, axis=0)
    return np.where(n > 0, found, np.nan)


def _named(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Whether each row is named rightly by a classifier that did not see its run."""
    x = np.nan_to_num(x, nan=MISSING)
    right = np.zeros(len(y), bool)
    for k in sorted(set(fold)):
        train = fold != k
        trees = ExtraTreesClassifier(**TREES).fit(x[train], y[train])
        right[~train] = trees.predict(x[~train]) == y[~train]
    return right


def choices(library) -> dict:
    """Set → names: every group before and after the choice of features."""
    used = bench.shipped(library)
    groups = {}
    for name, group in zip(library.features, library.groups):
        groups.setdefault(sets.kind_of(name, group), set()).add(name)
    curvature = set().union(*(groups.get(k, set()) for k in (*sets.CURVATURES, sets.FORWARD)))
    told = {
        "loss": groups["loss"],
        "loss and gradient": groups["loss"] | groups["gradient"],
        "curvature": curvature,
        "optimizer": groups["optimizer"],
        "activation": groups["activation"],
        "all": set(library.features),
    }
    return {k: (names, names & used) for k, names in told.items()}


def named(b: bench.Bench) -> dict:
    """Accuracy with intervals, by set, from single rows and from whole runs."""
    rows, of, whole, program, runs = _tables(b)
    fold = splits.by_run(runs, FOLDS)
    out = {"chance": 1 / len(set(program)), "sets": {}}
    width = len(b.library.features)
    for label, both in choices(b.library).items():
        told = out["sets"][label] = {}
        for when, names in zip(("before", "after"), both):
            columns = [i for i, n in enumerate(b.library.features) if n in names]
            if when == "after" and both[0] == both[1]:
                told[when] = told["before"]
                continue
            by_row = np.bincount(of, _named(rows[:, columns], program[of], fold[of]), len(runs))
            by_row /= np.bincount(of, minlength=len(runs))
            wide = columns + [c + width for c in columns]
            by_run = _named(whole[:, wide], program, fold).astype(float)
            told[when] = dict(
                features=len(columns),
                row=float(by_row.mean()), run=float(by_run.mean()),
                row_interval=bench.interval(runs, lambda c, x=by_row: x[c].mean()),
                run_interval=bench.interval(runs, lambda c, x=by_run: x[c].mean()),
            )  # fmt: skip
    out["features"] = single(b.library, rows, program[of], fold[of])
    return out


def single(library, rows: np.ndarray, y: np.ndarray, fold: np.ndarray) -> dict:
    """Feature → accuracy from that feature's single value: the likeliest program of its bin."""
    out = {}
    for c, name in enumerate(library.features):
        x = rows[:, c]
        known = x[np.isfinite(x)]
        edges = np.unique(np.quantile(known, np.arange(1, BINS) / BINS) if len(known) else known)
        place = np.where(np.isnan(x), len(edges) + 1, np.searchsorted(edges, x))
        right = 0
        for k in sorted(set(fold)):
            table = np.zeros((len(edges) + 2, y.max() + 1))
            np.add.at(table, (place[fold != k], y[fold != k]), 1)
            right += (table.argmax(1)[place[fold == k]] == y[fold == k]).sum()
        out[name] = float(right / len(y))
    return dict(sorted(out.items(), key=lambda item: -item[1]))
