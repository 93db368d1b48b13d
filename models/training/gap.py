"""How much better a model looks on programs that it has seen: three tasks, cross-validated within
programs (runs split) and across them (programs held out whole)."""

import zlib

import numpy as np
import xgboost

from models.training import bench, data, fit, splits

MISMATCH_ROWS = 6
"""Rows learnt from a run, of its second half: by then a mismatch is there."""


def sets_compared(library) -> dict:
    """Features as the seed study took them (all), and those that are shipped."""
    return {"all features": set(library.features), "shipped features": bench.shipped(library)}


def _recalls(right: np.ndarray, truth: np.ndarray, among: np.ndarray):
    """Balanced accuracy: mean over the classes that occur of the share told rightly."""
    truth, right = truth[among], right[among]
    classes = np.unique(truth)
    if len(classes) < 2:
        return None
    return float(np.mean([right[truth == c].mean() for c in classes]))


def _told(runs: list, truth: np.ndarray, rights: dict) -> dict:
    """The figures of a task from what each way of splitting got right."""
    everything = np.arange(len(runs))
    out = {}
    for way, right in rights.items():
        out[way] = _recalls(right, truth, everything)
        out[way + "_interval"] = bench.interval(runs, lambda c, r=right: _recalls(r, truth, c))

    def gap(c):
        values = [_recalls(rights[w], truth, c) for w in ("seen", "unseen")]
        return None if None in values else values[0] - values[1]

    out["gap"] = gap(everything)
    out["gap_interval"] = bench.interval(runs, gap)
    _, counts = np.unique(truth, return_counts=True)
    return dict(runs=len(runs), rarest_class=int(counts.min()), **out)


def _fold_of(b_runs: list, way: str) -> np.ndarray:
    split = splits.by_run if way == "seen" else splits.by_program
    return split(b_runs, bench.FOLDS)


def instability(b: bench.Bench, names: set) -> dict:
    """Surely unstable runs against those that surely are not."""
    known = np.flatnonzero(b.outcome.positive | b.outcome.negative)
    rights = {}
    for way in ("seen", "unseen"):
        fold = getattr(b, way)
        rights[way] = b.figures(b.cross(names, fold), fold, intervals=False)["right"][known]
    runs = [b.runs[i] for i in known]
    return _told(runs, b.outcome.positive[known].astype(int), rights)


def fault_typing(b: bench.Bench, names: set) -> dict:
    """The kind of fault of unstable runs, from the rows soon after their onset."""
    wanted = [r for r in b.runs if r.positive and r.side["fault"]]
    rows = fit.fault_sample(b.library, wanted)
    columns = [i for i, n in enumerate(b.library.features) if n in names]
    truth = np.array([fit.CLASSES.index(r.side["fault"]) for r in wanted])
    taught = np.isin(np.arange(len(wanted)), rows.run)
    rights = {}
    for way in ("seen", "unseen"):
        fold = _fold_of(wanted, way)
        right = np.zeros(len(wanted), bool)
        for k in sorted(set(fold)):
            train = fold[rows.run] != k
            if not train.any():
                continue
            trees = fit.fault_trees(
                rows.x[np.ix_(train, columns)], rows.y[train], rows.weight[train]
            )
            told = trees.predict(xgboost.DMatrix(rows.x[np.ix_(~train, columns)]))
            for i in np.flatnonzero(fold == k):
                mine = told[rows.run[~train] == i]
                right[i] = len(mine) > 0 and mine.mean(0).argmax() == truth[i]
        rights[way] = right[taught]
    return _told([r for r, t in zip(wanted, taught) if t], truth[taught], rights)


def mismatch(b: bench.Bench, names: set, validated: bool = False) -> dict:
    """Runs that train as well as natural ones while the clean probe is worse, among sure ones;
    `validated`: only those that logged a validation."""
    names = set(names) | {
        n for n, g in zip(b.library.features, b.library.groups) if g == "validation"
    }
    columns = [i for i, n in enumerate(b.library.features) if n in names]
    known = [
        i for i, r in enumerate(b.runs) if not r.ambiguous and (r.side["validate"] or not validated)
    ]
    runs = [b.runs[i] for i in known]
    truth = np.array([r.label == "mismatch" for r in runs]).astype(int)
    if truth.sum() < 2:
        return dict(runs=len(runs), rarest_class=int(truth.sum()))
    x, of = [], []
    for j, i in enumerate(known):
        late = np.arange(len(b.features[i]) // 2, len(b.features[i]))
        rng = np.random.default_rng(zlib.crc32(b.runs[i].name.encode()))
        some = np.sort(rng.choice(late, min(MISMATCH_ROWS, len(late)), replace=False))
        x.append(b.features[i][np.ix_(some, columns)])
        of += [j] * len(some)
    x, of = np.concatenate(x), np.array(of)
    y = truth[of].astype(float)
    program = np.array([runs[j].program for j in of])
    rights = {}
    for way in ("seen", "unseen"):
        fold = _fold_of(runs, way)
        score = np.zeros(len(runs))
        for k in sorted(set(fold)):
            train = fold[of] != k
            weight = data.balance(y[train], program[train], of[train])
            trees = xgboost.train(
                fit.TREES, xgboost.DMatrix(x[train], y[train], weight=weight), fit.ROUNDS
            )
            told = fit.margins(trees, x[~train])
            total = np.bincount(of[~train], told, len(runs))
            count = np.bincount(of[~train], minlength=len(runs))
            score[fold == k] = (total / np.maximum(count, 1))[fold == k]
        right = np.zeros(len(runs), bool)
        for k in sorted(set(fold)):
            others = fold != k
            at = bench.fairest(score[others & (truth == 1)], score[others & (truth == 0)])
            right[fold == k] = (score[fold == k] >= at) == truth[fold == k]
        rights[way] = right
    return _told(runs, truth, rights)


def seed_study(b: bench.Bench) -> dict:
    """The three tasks with both choices of features."""
    out = {}
    for label, names in sets_compared(b.library).items():
        out[label] = {
            "instability": instability(b, names),
            "fault typing": fault_typing(b, names),
            "mismatch": mismatch(b, names),
            "mismatch, validation logged": mismatch(b, names, validated=True),
        }
    return out
