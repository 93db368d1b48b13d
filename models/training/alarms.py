"""Figures of alarms at fixed budgets: by event and kind of program, what waiting buys, long runs."""

import numpy as np

from models.training import bench, evaluate, families, fit

CONFIRMS = (1, 2, 5, 10, 20)
FORESEEN = 5
"""An alarm so many steps before the onset foresees it."""
PER = 10_000


class Tally:
    """Figures of alarms among any of the runs."""

    def __init__(self, runs: list, alarms: np.ndarray, outcome: bench.Outcome):
        self.runs, self.alarms, self.o = runs, alarms, outcome
        self.caught = bench.caught_flags(outcome, alarms)
        self.fired = ~np.isnan(alarms)
        self.delay = alarms - outcome.onset

    def share(self, flags: np.ndarray, among: np.ndarray, c: np.ndarray):
        """Mean of flags over those of c that are among."""
        return bench.mean(flags, c[among[c]])

    def balanced(self, c: np.ndarray):
        """Balanced accuracy of sure runs."""
        a = self.share(self.caught, self.o.positive, c)
        b = self.share(self.fired, self.o.negative, c)
        return None if a is None or b is None else (a + 1 - b) / 2

    def delays(self, c: np.ndarray, q: float):
        """Quantile of the steps from onset to alarm among runs caught."""
        steps = self.delay[c[self.caught[c] & self.o.positive[c]]]
        return float(np.quantile(steps, q)) if len(steps) else None

    def figures(self, c: np.ndarray, intervals: bool = False) -> dict:
        """All of them."""
        stalled = self.o.negative & ~self.o.healthy
        wanted = {
            "caught": lambda c: self.share(self.caught, self.o.positive, c),
            "too_early": lambda c: self.share(self.fired & ~self.caught, self.o.positive, c),
            "false_sure": lambda c: self.share(self.fired, self.o.sure, c),
            "false_all": lambda c: self.share(self.fired, self.o.healthy, c),
            "false_stalled": lambda c: self.share(self.fired, stalled, c),
            "balanced_accuracy": self.balanced,
            "delay_median": lambda c: self.delays(c, 0.5),
            "delay_90": lambda c: self.delays(c, 0.9),
        }
        out = {name: figure(c) for name, figure in wanted.items()}
        out["unstable"] = int(self.o.positive[c].sum())
        out["healthy"] = int(self.o.sure[c].sum())
        if intervals:
            for name in ("caught", "false_sure", "false_all", "balanced_accuracy", "delay_median"):
                out[name + "_interval"] = bench.interval(self.runs, wanted[name])
        return out

    def foreseen(self, c: np.ndarray) -> dict:
        """Of gradual faults that began FORESEEN steps or more before their onset: how many gave an
        alarm in between that early."""
        could = self.o.positive & (self.o.manner == "gradual")
        could &= self.o.injected <= self.o.onset - FORESEEN
        early = self.alarms >= self.o.begin
        early &= self.alarms <= self.o.onset - FORESEEN
        return dict(
            runs=int(could[c].sum()),
            share=self.share(early, could, c),
            interval=bench.interval(self.runs, lambda c: self.share(early, could, c)),
        )


def by_group(told: dict, key: np.ndarray, everything: np.ndarray) -> dict:
    """Group → view → figures."""
    out = {}
    for group in sorted(set(key)):
        here = everything[key == group]
        out[group] = {v: t.figures(here) for v, t in told.items()}
    return out


def _budget(b: float) -> str:
    return f"{b:g}"


def figures(runs: list, found: dict) -> dict:
    """Everything about alarms but waiting and long runs; long runs are left out."""
    outcome, margins = bench.Outcome(runs), found["unseen"]["margins"]
    short = np.flatnonzero([r.side["steps"] <= bench.LONG for r in runs])
    some = [runs[i] for i in short]
    small = bench.Outcome(some)
    everything = np.arange(len(some))
    out = {"views": {}, "foreseen": {}, "manner": {}}
    at_default = {}
    for view, by_budget in found["unseen"]["alarms"].items():
        for budget, alarms in by_budget.items():
            t = Tally(some, alarms[short], small)
            other = Tally(some, found["seen"]["alarms"][view][budget][short], small)
            told = t.figures(everything, intervals=True)
            told["balanced_accuracy_seen"] = other.balanced(everything)
            told["gap_interval"] = bench.interval(
                some, lambda c, a=other, z=t: _minus(a.balanced(c), z.balanced(c))
            )
            out["views"].setdefault(view, {})[budget] = told
            out["foreseen"].setdefault(view, {})[budget] = t.foreseen(everything)
            if budget == _budget(fit.DEFAULT):
                at_default[view] = t
    keys = {
        "by_event": [r.side["event"] for r in some],
        "by_fault": [r.side["fault"] or "none" for r in some],
        "by_kind": [r.side["kind"] for r in some],
        "by_family": [families.family(r.program) for r in some],
        "by_program": [r.program for r in some],
        "manner": list(small.manner),
    }
    for name, key in keys.items():
        out[name] = by_group(at_default, np.array(key), everything)
    out["auroc"] = {view: _auroc(some, small, m, short) for view, m in margins.items()}
    out["long"] = {
        budget: long_runs(runs, outcome, alarms)
        for budget, alarms in found["unseen"]["alarms"]["all"].items()
    }
    return out


def _auroc(runs: list, outcome: bench.Outcome, margins: list, short: np.ndarray) -> dict:
    """AUROC of whole runs by the highest margin that they hold for as many rows as an alarm."""
    top = np.array([fit.confirmed(margins[i]) for i in short])

    def figure(c):
        return evaluate.auroc(top[c[outcome.positive[c]]], top[c[outcome.negative[c]]])

    return dict(
        auroc=figure(np.arange(len(runs))), auroc_interval=bench.interval(runs, figure)
    )


def _minus(a, b):
    return None if a is None or b is None else a - b


def long_runs(runs: list, outcome: bench.Outcome, alarms: np.ndarray) -> dict:
    """False alarms per 10,000 healthy steps: a run counts until its first alarm or its onset."""
    long = np.array([r.side["steps"] > bench.LONG for r in runs])
    well = outcome.sure | outcome.positive
    out = {}
    for name, group in (("long", long & well), ("short", ~long & well)):
        index = np.flatnonzero(group)
        end = np.array([r.rows["step"][-1] for r in runs], float)
        until = np.where(outcome.positive, outcome.begin, end)
        until = np.clip(until, 0, None)
        false = (alarms < until) & group
        steps = np.where(false, alarms, until)

        def rate(c, false=false, steps=steps, group=group):
            c = c[group[c]]
            return PER * false[c].sum() / steps[c].sum() if len(c) and steps[c].sum() else None

        out[name] = dict(
            runs=len(index), steps=float(steps[index].sum()), false=int(false.sum()),
            per_10000=rate(np.arange(len(runs))), interval=bench.interval(runs, rate),
        )  # fmt: skip
    late = np.flatnonzero(long & outcome.positive)
    caught = bench.caught_flags(outcome, alarms)
    delays = (alarms - outcome.onset)[late][caught[late]]
    out["late_faults"] = dict(
        runs=len(late), caught=bench.mean(caught, late),
        delay_median=float(np.median(delays)) if len(delays) else None,
    )  # fmt: skip
    return out


def waiting(runs: list, found: dict) -> dict:
    """View → rows in a row above the threshold → figures, each with thresholds of its own at the
    default budget. From margins, not by the verdict code, which gives the same alarms."""
    short = np.flatnonzero([r.side["steps"] <= bench.LONG for r in runs])
    some = [runs[i] for i in short]
    outcome = bench.Outcome(some)
    fold = found["unseen"]["fold"][short]
    everything = np.arange(len(some))
    out = {}
    for view in found["unseen"]["margins"]:
        margins = [found["unseen"]["margins"][view][i] for i in short]
        for confirm in CONFIRMS:
            alarms = bench.alarms_at(some, outcome, margins, fold, fit.DEFAULT, confirm)
            t = Tally(some, alarms, outcome)
            told = t.figures(everything, intervals=True)
            told["foreseen"] = t.foreseen(everything)
            for manner in ("shock", "gradual"):
                of = everything[outcome.manner == manner]
                told[manner] = {k: t.figures(of)[k] for k in ("caught", "delay_median")}
            out.setdefault(view, {})[str(confirm)] = told
    return out
