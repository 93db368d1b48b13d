"""Figures on programs held out whole, alarms by the online verdict code, intervals over
programs."""

import pathlib
import tempfile
import zlib

import numpy as np

from models.training import baselines, data, fit, views
from models.training.library import Library, Model

FOLDS = 5
RESAMPLES = 200
PRIOR = 0.15
"""Share of unstable runs that a score is calibrated for: about the corpus's."""


def folds(names: list, n: int = FOLDS) -> dict:
    """Name → fold: shuffled by a hash, dealt out evenly."""
    order = sorted(set(names), key=lambda p: zlib.crc32(("fold:" + p).encode()))
    return {p: i % n for i, p in enumerate(order)}


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive's score is above a negative's."""
    if not len(positive) or not len(negative):
        return float("nan")
    both = np.concatenate([positive, negative])
    order = np.argsort(both, kind="stable")
    rank = np.empty(len(both))
    rank[order] = np.arange(1, len(both) + 1)
    _, which = np.unique(both, return_inverse=True)
    rank = (np.bincount(which, rank) / np.bincount(which))[which]
    n = len(positive)
    return float((rank[:n].sum() - n * (n + 1) / 2) / (n * len(negative)))


_WATCHED = [views.FIELDS[f] for f in ("loss", "update_norm", "param_norm")]
_LOSS, _GRADIENT = views.FIELDS["loss"], views.FIELDS["grad_norm"]
NONFINITE_ROWS = 3
NAN_MEAN_ROWS = 64
"""For so many rows a NaN loss beside finite gradients is taken for a mean over steps."""
SURE = 20.0
"""Margin of what is not finite for so many rows in a row: the detector calls that out by a rule."""


def with_rule(margin: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Margins, raised where the detector's rule on non-finite values holds."""
    bad = np.zeros(len(rows), bool)
    value = rows["value"]
    # A loss that is NaN beside a finite gradient is a mean over steps of which one was skipped.
    mean = np.isnan(value[:, _LOSS]) & np.isfinite(value[:, _GRADIENT])
    mean &= rows["present"] >> _GRADIENT & 1 == 1
    index = np.arange(len(rows))
    mean &= index - np.maximum.accumulate(np.where(mean, -1, index)) <= NAN_MEAN_ROWS
    for i in _WATCHED:
        wild = (rows["present"] >> i & 1 == 1) & ~np.isfinite(value[:, i])
        bad |= wild & ~mean if i == _LOSS else wild
    held = bad.copy()
    for back in range(1, NONFINITE_ROWS):
        held[back:] &= bad[:-back]
        held[:back] = False
    return np.where(held, np.float32(SURE), margin)


def cross_scores(
    library: Library, runs: list, samples: dict, fold: np.ndarray, seen: dict
) -> dict:
    """Out-of-fold, by head, each in its own view: boosters of each fold, margins of the sample's
    rows, margins of each run."""
    columns = fit.columns(library)
    out = dict(boosters={}, rows={}, runs={})
    for head, features in seen.items():
        sample = samples[head]
        boosters, row_margin = {}, np.full(len(sample.y), np.nan)
        of_run = [None] * len(runs)
        of_row = fold[sample.run]
        for k in sorted(set(fold)):
            train = of_row != k
            boosters[k] = fit.hardened(library, runs, sample, features, fold != k)
            if (~train).any():
                row_margin[~train] = fit.margins(boosters[k], sample.x[~train][:, columns])
            held = [i for i in range(len(runs)) if fold[i] == k]
            joined = np.concatenate([features[i][:, columns] for i in held])
            margin = fit.margins(boosters[k], joined)
            cuts = np.cumsum([len(features[i]) for i in held])[:-1]
            for i, part in zip(held, np.split(margin, cuts)):
                of_run[i] = with_rule(part, views.masked(runs[i].rows, views.SHOWN[head]))
        out["boosters"][head], out["rows"][head], out["runs"][head] = boosters, row_margin, of_run
    return out


def calibrate(sample: data.Sample, row_margin: np.ndarray, among: np.ndarray) -> tuple:
    """Platt's two numbers from the out-of-fold margins of the rows `among`: programs weigh the
    same, and unstable rows as much as PRIOR says."""
    y = sample.y[among]
    weight = sample.weight[among] * np.where(y == 1, PRIOR, 1 - PRIOR)
    return fit.platt(row_margin[among], y, weight)


def score(margin: np.ndarray, calibration: tuple) -> np.ndarray:
    """Calibrated score."""
    return 1 / (1 + np.exp(-np.clip(calibration[0] * margin + calibration[1], -60, 60)))


def head_of(name: str, booster, runs: list, cross: dict, sample: data.Sample, among) -> fit.Head:
    """A booster with its calibration and, for each of the numbers of rows that a level must be held
    for, its levels: from the out-of-fold margins of healthy runs `among`."""
    known = np.zeros(len(runs), bool)
    known[among] = True
    calibration = calibrate(sample, cross["rows"][name], np.flatnonzero(known[sample.run]))
    confirms = [fit.QUICK[name]] + ([fit.LASTING[name]] if name in fit.LASTING else [])
    healthy = [i for i in among if runs[i].label == "healthy"]
    scores = [score(cross["runs"][name][i], calibration) for i in healthy]
    found = fit.thresholds(
        *(np.array([fit.confirmed(s, n) for s in scores]) for n in confirms),
        sure=np.array([not runs[i].ambiguous for i in healthy]),
    )
    return fit.Head(booster, calibration, dict(zip(confirms, found)))


def online(
    library: Library, runs: list, seen_rows: dict, cross: dict, samples: dict, fold
) -> dict:
    """View → budget → alarm step (or None) of every run, through the detector's verdict code, each
    by a model and thresholds that know nothing of its fold."""
    alarms = {view: {f"{b:g}": [None] * len(runs) for b in fit.BUDGETS} for view in seen_rows}
    faults = [None] * len(runs)
    fault_rows = fit.fault_sample(library, runs)
    with tempfile.TemporaryDirectory() as folder:
        for k in sorted(set(fold)):
            others = [i for i in range(len(runs)) if fold[i] != k]
            heads = {
                name: head_of(name, boosters[k], runs, cross, samples[name], others)
                for name, boosters in cross["boosters"].items()
            }
            rows = fit.fault_part(fault_rows, fold[fault_rows.run] != k)
            fault = fit.fault_trees(fit.shown(library, rows.x), rows.y, rows.weight)
            for budget in fit.BUDGETS:
                path = pathlib.Path(folder) / "model.json"
                path.write_text(
                    fit.model_file(library, heads, fault, created="folds", budget=budget)
                )
                model = Model(library, path)
                for i in np.flatnonzero(fold == k):
                    for view, rows in seen_rows.items():
                        first = model.first_critical(rows[i])
                        if first is None:
                            continue
                        alarms[view][f"{budget:g}"][i] = first["step"]
                        if view == "all" and budget == fit.DEFAULT:
                            faults[i] = first["fault"]
                model.close()
    return dict(alarms=alarms, faults=faults)


def tally(runs: list, alarms: list, chosen: np.ndarray) -> dict:
    """Caught, false and late among the chosen runs."""
    caught = delay = None
    positive = [i for i in chosen if runs[i].positive]
    delays, early = [], 0
    for i in positive:
        if alarms[i] is None:
            continue
        if alarms[i] < runs[i].begin:
            early += 1
        else:
            delays.append(alarms[i] - runs[i].onset)

    def share(wanted) -> float:
        group = [i for i in chosen if wanted(runs[i])]
        return float(np.mean([alarms[i] is not None for i in group])) if group else float("nan")

    if positive:
        caught = len(delays) / len(positive)
    if delays:
        delay = [float(np.quantile(delays, q)) for q in (0.5, 0.9)]
    false = share(lambda r: r.label == "healthy" and not r.ambiguous)
    return dict(
        caught=caught,
        too_early=early / len(positive) if positive else None,
        delay_median=delay[0] if delay else None,
        delay_90=delay[1] if delay else None,
        false_healthy=false,
        false_all_healthy=share(lambda r: r.label == "healthy"),
        false_stalled=share(lambda r: r.label in ("stalled", "mismatch") and not r.ambiguous),
        balanced_accuracy=(caught + 1 - share(lambda r: r.negative)) / 2 if positive else None,
    )


def run_auroc(runs: list, top: list, chosen: np.ndarray) -> float:
    """AUROC of whole runs by their highest confirmed margins `top`."""
    positive = np.array([top[i] for i in chosen if runs[i].positive])
    negative = np.array([top[i] for i in chosen if runs[i].negative])
    return auroc(positive, negative)


def interval(runs: list, figure, resamples: int = RESAMPLES) -> list:
    """95 % interval of figure(indices) under a bootstrap over programs."""
    rng = np.random.default_rng(1)
    names = sorted({r.program for r in runs})
    of = {p: np.array([i for i, r in enumerate(runs) if r.program == p]) for p in names}
    values = []
    for _ in range(resamples):
        drawn = rng.choice(names, len(names))
        values.append(figure(np.concatenate([of[p] for p in drawn])))
    values = np.array([v for v in values if v is not None], float)
    return [round(float(np.nanquantile(values, q)), 4) for q in (0.025, 0.975)]


def baseline_table(runs: list) -> dict:
    """Every rule on the same runs, all fields given."""
    everything = np.arange(len(runs))
    with np.errstate(all="ignore"):
        fired = {name: [rule(r.rows) for r in runs] for name, rule in baselines.RULES.items()}
    return {name: tally(runs, alarms, everything) for name, alarms in fired.items()}


def fault_figures(runs: list, faults: list) -> dict:
    """How well the first critical verdict names the injected fault's class."""
    right, named, confusion = [], 0, {}
    for run, fault in zip(runs, faults):
        if not fault or not run.positive or not run.side["fault"]:
            continue
        told, true = fault["class"], run.side["fault"]
        confusion.setdefault(true, {}).setdefault(told, 0)
        confusion[true][told] += 1
        if told != "unknown":
            named += 1
            right.append(told == true)
    total = sum(sum(c.values()) for c in confusion.values())
    recall = [c.get(true, 0) / sum(c.values()) for true, c in confusion.items()]
    return dict(
        alarms=total,
        named=named / total if total else None,
        right_of_named=float(np.mean(right)) if right else None,
        mean_recall=float(np.mean(recall)) if recall else None,
        chance=1 / len(fit.CLASSES),
        confusion=confusion,
    )
