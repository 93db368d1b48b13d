"""Other learners on the same rows: group-robust objectives, small causal convolutions, and a mean of
both, on programs held out whole.

All learn from one sample in the views that training knows, and from the same alarming rows of runs
that are well; each has thresholds of its own in every view, from other programs. Long runs are left
out, as wherever models are compared.
"""

import zlib

import numpy as np

from models.training import bench, data, evaluate, fit, robust, scorers, splits, views

ROWS = 8
"""Rows of a run and view that are learnt from, of each class."""
BASE = "trees, programs alike (shipped objective)"
TREES = {
    BASE: lambda library, part: fit.trees(library, part.x, part.y, part.weight),
    "trees, rows alike": robust.rows_alike,
    "trees, exponentiated program weights": lambda library, part: robust.restarted(
        library, part, robust.exponentiated
    ),
    "trees, worst quarter of programs doubled": lambda library, part: robust.restarted(
        library, part, robust.worst_quarter
    ),
}
NETS = {"convolution over features": False, "convolution over the streams": True}
"""Whether it sees the streams themselves."""
MEANS = {
    "mean of trees and convolution over features": (BASE, "convolution over features"),
    "mean of trees and both convolutions": (BASE, *NETS),
}
FEWEST = 5
"""Unstable runs that a program must have to be counted among the worst."""


def picked(library, runs: list, n: int):
    """Yields (number of the run, its rows, their features, labels, indices of those to learn from) of
    every sure run in five views: all fields, few, loss only, a random choice, and thinned. All
    learners judge all views, so they learn from all of them, alike."""
    for number, run in enumerate(runs):
        if run.ambiguous:
            continue
        rng = np.random.default_rng(zlib.crc32(run.name.encode()))
        every, average = int(rng.integers(2, 8)), bool(rng.random() < 0.5)
        seen = [views.masked(run.rows, mask) for mask in views.SHOWN.values()]
        if rng.random() < 0.5:
            seen[0] = views.masked(run.rows, views.ALL & ~views.FULL_PROBE)
        seen.append(views.masked(run.rows, views.random_mask(rng)))
        thin = views.thinned(run.rows, every, average)
        seen.append(views.masked(thin, int(rng.choice([views.ALL, views.random_mask(rng)]))))
        for rows in seen:
            if len(rows) < 20:
                continue
            x, y, index = data.chosen(library, run, rows, "all", rng, n)
            if len(index):
                yield number, rows, x, y, index


class Contest:
    """The rows that all learn from, and the runs that all are judged on."""

    def __init__(self, library, runs: list, folds: int = bench.FOLDS, n: int = ROWS):
        self.library = library
        self.runs = [r for r in runs if r.side["steps"] <= bench.LONG]
        self.outcome = bench.Outcome(self.runs)
        self.fold = splits.by_program(self.runs, folds)
        self.columns = scorers.seen_columns(library)
        self.rule, self.features, self.raw = {}, {}, {}
        for view, mask in views.SHOWN.items():
            rows = [views.masked(r.rows, mask) for r in self.runs]
            self.features[view] = [library.features_of(x) for x in rows]
            self.raw[view] = [scorers.streams(x) for x in rows]
            self.rule[view] = [evaluate.with_rule(np.zeros(len(x)), x) > 0 for x in rows]
        parts = []
        for number, rows, x, y, index in picked(library, self.runs, n):
            raw = scorers.streams(rows)
            parts.append((x[index], *self.pasts(x, raw, index), y[index], [number] * len(index)))
        x, near, raw, y, run = (np.concatenate(p) for p in zip(*parts))
        program = np.array([self.runs[i].program for i in run])
        self.sample = data.Sample(x, y, data.balance(y, program, run), program, run)
        self.past = {False: near, True: raw}
        self.hard = {}

    def pasts(self, x: np.ndarray, raw: np.ndarray, index: np.ndarray) -> tuple:
        """What the two convolutions see of some rows of a run."""
        return (
            scorers.histories(x[:, self.columns], index),
            scorers.histories(raw, index, scorers.STREAM_TAPS),
        )

    def alarming(self, k: int) -> tuple:
        """The rows outside of fold k that a first forest finds most alarming in runs that are well:
        (features, both pasts, runs)."""
        if k in self.hard:
            return self.hard[k]
        part = self.sample.only(self.fold[self.sample.run] != k)
        first = fit.trees(self.library, part.x, part.y, part.weight, fit.ROUNDS // 2)
        well = {}
        for i in np.flatnonzero(self.fold != k):
            if not self.runs[i].ambiguous:
                found = data.row_labels(self.runs[i], self.runs[i].rows["step"]) == 0
                if found.any():
                    well[i] = np.flatnonzero(found)
        parts = []
        for some in np.array_split(list(well), max(1, len(well) // 200)):
            cuts = np.cumsum([len(well[i]) for i in some])[:-1]
            for view, features in self.features.items():
                x = np.concatenate([features[i][well[i]] for i in some])
                margin = fit.margins(first, fit.shown(self.library, x))
                for i, m in zip(some, np.split(margin, cuts)):
                    index = well[i][np.argsort(-m, kind="stable")[: data.HARD]]
                    pasts = self.pasts(features[i], self.raw[view][i], index)
                    parts.append((features[i][index], *pasts, [i] * len(index)))
        self.hard[k] = tuple(np.concatenate(p) for p in zip(*parts))
        return self.hard[k]

    def taught(self, k: int, past=None) -> tuple:
        """(sample, histories) to learn from when fold k is held out."""
        known = self.fold[self.sample.run] != k
        x, near, raw, run = self.alarming(k)
        s = self.sample
        y = np.concatenate([s.y[known], np.zeros(len(run))])
        of_run = np.concatenate([s.run[known], run])
        program = np.array([self.runs[i].program for i in of_run])
        part = data.Sample(
            np.concatenate([s.x[known], x]), y, data.balance(y, program, of_run), program, of_run
        )
        if past is None:
            return part, None
        return part, np.concatenate([self.past[past][known], raw if past else near])

    def compete(self, name: str) -> dict:
        """Out of fold: margins of the sample's rows, and view → margins of each run; without the
        rule on what is not finite."""
        rows = np.full(len(self.sample.y), np.nan)
        by_view = {v: [None] * len(self.runs) for v in views.SHOWN}
        macs = 0
        for k in sorted(set(self.fold)):
            here = self.fold[self.sample.run] == k
            held = np.flatnonzero(self.fold == k)
            part, past = self.taught(k, NETS.get(name))
            if name in NETS:
                taps = scorers.STREAM_TAPS if NETS[name] else scorers.TAPS
                net = scorers.trained(past, part.y, part.weight, taps)
                rows[here] = net.of_histories(self.past[NETS[name]][here])
                macs = net.macs
                for view in by_view:
                    for i in held:
                        near = self.features[view][i][:, self.columns]
                        by_view[view][i] = net.margins(self.raw[view][i] if NETS[name] else near)
            else:
                booster = TREES[name](self.library, part)
                rows[here] = fit.margins(booster, fit.shown(self.library, self.sample.x[here]))
                for view, told in by_view.items():
                    x = np.concatenate([self.features[view][i] for i in held])
                    cuts = np.cumsum([len(self.features[view][i]) for i in held])[:-1]
                    margin = fit.margins(booster, fit.shown(self.library, x))
                    for i, m in zip(held, np.split(margin, cuts)):
                        told[i] = m
        return dict(rows=rows, runs=by_view, macs=macs)

    def mean(self, found: list) -> dict:
        """The mean of calibrated margins; a fold's calibration comes from the others."""
        by_view = {v: [np.zeros(len(r.rows)) for r in self.runs] for v in views.SHOWN}
        for k in sorted(set(self.fold)):
            known = np.flatnonzero(self.fold[self.sample.run] != k)
            for one in found:
                slope, level = evaluate.calibrate(self.sample, one["rows"], known)
                for view, told in by_view.items():
                    for i in np.flatnonzero(self.fold == k):
                        told[i] += (slope * one["runs"][view][i] + level) / len(found)
        return dict(runs=by_view, macs=sum(one["macs"] for one in found))

    def ruled(self, found: dict, view: str) -> list:
        """Margins as the detector would take them."""
        return [
            np.where(rule, np.float32(evaluate.SURE), m.astype(np.float32))
            for rule, m in zip(self.rule[view], found["runs"][view])
        ]

    def table(self, found: dict) -> dict:
        """Learner → view → figures, from learner → what compete() told of it."""
        found = dict(found)
        for name, of in MEANS.items():
            found[name] = self.mean([found[n] for n in of])
        out, base = {}, {}
        for name, one in found.items():
            out[name] = dict(macs=one["macs"], trees=fit.ROUNDS * (name in TREES or name in MEANS))
            for view in views.SHOWN:
                margins = self.ruled(one, view)
                out[name][view] = self.figures(margins, base.setdefault(view, margins))
        return out

    def figures(self, margins: list, base: list) -> dict:
        """Of one learner in one view; differences are from the shipped objective."""
        told = bench.figures(self.runs, self.outcome, margins, self.fold)
        del told["right"], told["precursors"], told["precursors_interval"]
        caught, other = (
            bench.caught_flags(
                self.outcome, bench.alarms_at(self.runs, self.outcome, m, self.fold)
            ).astype(float)
            for m in (margins, base)
        )
        fired = ~np.isnan(bench.alarms_at(self.runs, self.outcome, margins, self.fold))
        o = self.outcome

        def better(c):
            return bench.mean(caught - other, c[o.positive[c]])

        told["better"] = better(np.arange(len(self.runs)))
        told["better_interval"] = bench.interval(self.runs, better)
        for name in ("false_sure", "false_all"):
            among = o.sure if name == "false_sure" else o.healthy
            told[name + "_interval"] = bench.interval(
                self.runs, lambda c, a=among: bench.mean(fired, c[a[c]])
            )
        told.update(worst_programs(self.runs, o, margins, caught))
        return told


def worst_programs(runs: list, outcome, margins: list, caught: np.ndarray) -> dict:
    """Share caught and AUROC of the worst program and of the tenth of programs that are worst."""
    top = np.array([fit.confirmed(m) for m in margins])
    program = np.array([r.program for r in runs])
    shares, areas = {}, []
    for p in np.unique(program):
        bad = (program == p) & outcome.positive
        if bad.sum() >= FEWEST:
            shares[p] = float(caught[bad].mean())
            areas.append(evaluate.auroc(top[bad], top[(program == p) & outcome.negative]))
    if not shares:
        return dict(programs=0)
    worst = min(shares, key=shares.get)
    return dict(
        programs=len(shares), worst=worst, caught_worst=shares[worst],
        caught_tenth=float(np.quantile(list(shares.values()), 0.1)),
        auroc_worst=float(np.nanmin(areas)), auroc_tenth=float(np.nanquantile(areas, 0.1)),
    )  # fmt: skip
