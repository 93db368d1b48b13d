"""What the pieces of the study share: rows to learn from, sets of features, cross-validation, and
figures of whole runs with intervals over programs.

The study compares many models, so each is trained on fewer rows than the shipped one (`ROWS`), on
one view of a run, in five folds. It uses the shipped model's own trees and weights, and one level that
is held for two rows.
"""

import warnings
import zlib

import numpy as np

from models.training import data, evaluate, families, fit, splits, views

FOLDS = 5
ROWS = 10
"""Rows of a run that are learnt from: so many of those that are well, as many after an onset, and
half as many of the most alarming ones that are well."""
BUDGET = 0.01
PRECURSOR = 25
"""Steps before the onset of a gradual fault in which a precursor is looked for."""
LONG = 2000
"""Runs of more steps are long ones: they have figures of their own and are left out elsewhere."""


class Subset:
    """A library that knows some of the features only, for training on them."""

    def __init__(self, library, names):
        used = {library.features[i] for i in fit.columns(library)}
        self.index = [i for i, n in enumerate(library.features) if n in names]
        # What the shipped model leaves out has another name here, so that it is not left out.
        self.features = [n if n in used else f"{n} (left out)" for n in names_of(library, names)]
        self.groups = ["chosen"] * len(self.index)


def names_of(library, names) -> list:
    """The names in the library's order."""
    return [n for n in library.features if n in names]


def shipped(library) -> set:
    """Names of the features that the shipped model uses."""
    return {library.features[i] for i in fit.columns(library)}


def chosen_rows(library, run: data.Run, x: np.ndarray) -> tuple:
    """(indices, labels) of the rows of a run to learn from."""
    y = data.row_labels(run, run.rows["step"])
    rng = np.random.default_rng(zlib.crc32(run.name.encode()))
    well, after = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    some = [rng.choice(i, min(ROWS, len(i)), replace=False) for i in (well, after) if len(i)]
    for name in ("loss_above_best_noise", "loss_z"):
        height = np.nan_to_num(x[well, library.features.index(name)], nan=-1.0)
        some.append(well[np.argsort(-height, kind="stable")[: ROWS // 4]])
    index = np.unique(np.concatenate(some)) if some else np.empty(0, int)
    return index, y[index]


class Bench:
    """The runs, their features with all fields sent, and the rows to learn from."""

    def __init__(self, library, runs: list):
        self.library = library
        self.runs = [r for r in runs if r.side["steps"] <= LONG]
        self.features = [library.features_of(r.rows) for r in self.runs]
        self.index, y = [], []
        for r, x in zip(self.runs, self.features):
            sure = not r.ambiguous
            index, labels = chosen_rows(library, r, x) if sure else (np.empty(0, int), [])
            self.index.append(index)
            y.append(labels)
        self.y = np.concatenate(y)
        self.of_run = np.repeat(np.arange(len(self.runs)), [len(i) for i in self.index])
        self.program = np.array([self.runs[i].program for i in self.of_run])
        self.unseen = splits.by_program(self.runs, FOLDS)
        self.seen = splits.by_run(self.runs, FOLDS)
        self.rule = {
            view: [
                evaluate.with_rule(
                    np.zeros(len(r.rows), np.float32), views.masked(r.rows, views.SHOWN[view])
                )
                > 0
                for r in self.runs
            ]
            for view in ("all", "loss")
        }
        self.outcome = Outcome(self.runs)

    def varied(self, change) -> list:
        """Features of all runs after change(number of the run) → its rows."""
        return [self.library.features_of(change(i)) for i in range(len(self.runs))]

    def fit(self, names, rows: np.ndarray, features=None):
        """(subset, booster) trained on the named features of some of the rows to learn from."""
        subset = Subset(self.library, names)
        features = self.features if features is None else features
        x = np.concatenate(
            [features[i][index] for i, index in enumerate(self.index) if len(index)]
        )[np.ix_(rows, subset.index)]
        weight = data.balance(self.y[rows], self.program[rows], self.of_run[rows])
        return subset, fit.trees(subset, x, self.y[rows], weight)

    def margins(self, fitted, held, features=None, view: str = "all") -> dict:
        """Run → margins of its rows, raised where the rule on non-finite values holds."""
        subset, booster = fitted
        features = self.features if features is None else features
        if not len(held):
            return {}
        joined = np.concatenate([features[i][:, subset.index] for i in held])
        cuts = np.cumsum([len(features[i]) for i in held])[:-1]
        parts = np.split(fit.margins(booster, joined), cuts)
        return {
            i: np.where(self.rule[view][i], np.float32(evaluate.SURE), m)
            for i, m in zip(held, parts)
        }

    def cross(self, names, fold: np.ndarray, features=None, view: str = "all") -> list:
        """Margins of all runs, each by trees that did not learn from its fold."""
        out = [None] * len(self.runs)
        for k in sorted(set(fold)):
            rows = np.flatnonzero(fold[self.of_run] != k)
            fitted = self.fit(names, rows, features)
            held = np.flatnonzero(fold == k)
            for i, m in self.margins(fitted, held, features, view).items():
                out[i] = m
        return out

    def figures(self, margins: list, fold: np.ndarray, intervals: bool = True) -> dict:
        """What margins of all runs are worth, thresholds from the other folds."""
        return figures(self.runs, self.outcome, margins, fold, intervals)


class Outcome:
    """What is known of runs, as arrays."""

    def __init__(self, runs: list):
        self.positive = np.array([r.positive for r in runs])
        self.negative = np.array([r.negative for r in runs])
        self.healthy = np.array([r.label == "healthy" for r in runs])
        self.sure = self.healthy & np.array([not r.ambiguous for r in runs])
        self.onset = np.array([r.onset for r in runs])
        self.begin = np.array([r.begin for r in runs], float)
        self.injected = np.array(
            [r.side["onset"] if r.side["fault"] else r.onset for r in runs], float
        )
        self.manner = np.array([families.manner(r.side["event"]) for r in runs])


def first_alarm(steps: np.ndarray, margin: np.ndarray, level: float, confirm: int) -> float:
    """Step of the first row that completes an alarm; NaN without one."""
    over = fit.held(margin, confirm) >= level
    return float(steps[np.argmax(over) + confirm - 1]) if over.any() else np.nan


def level(tops: np.ndarray, budget: float = BUDGET) -> float:
    """The lowest margin that no more than such a share of healthy runs reaches."""
    ordered = np.sort(tops)[::-1]
    highest_false = ordered[min(int(budget * len(ordered)), len(ordered) - 1)]
    return float(np.nextafter(highest_false, tops.dtype.type(np.inf)))


def fairest(positive: np.ndarray, negative: np.ndarray) -> float:
    """The threshold with the best balanced accuracy."""
    both = np.unique(np.concatenate([positive, negative]))
    caught = 1 - np.searchsorted(np.sort(positive), both) / max(len(positive), 1)
    right = np.searchsorted(np.sort(negative), both) / max(len(negative), 1)
    return float(both[np.argmax(caught + right)])


def mean(flags: np.ndarray, among: np.ndarray):
    """Mean of flags[among], None where that is empty."""
    return float(flags[among].mean()) if len(among) else None


def interval(runs: list, figure) -> list:
    """95 % interval over programs; undefined resamples don't count."""

    def safe(c):
        value = figure(c)
        return np.nan if value is None else value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # none of the resamples defines it
        low, high = evaluate.interval(runs, safe)
    return None if np.isnan(low) else [low, high]


def alarms_at(
    runs, outcome, margins, fold, budget=BUDGET, confirm=None, among="sure"
) -> np.ndarray:
    """First alarm of every run, thresholds from the others' healthy runs."""
    confirm = confirm or fit.CONFIRM
    tops = np.array([fit.held(m, confirm).max() for m in margins])
    alarms = np.full(len(runs), np.nan)
    for k in sorted(set(fold)):
        at = level(tops[(fold != k) & getattr(outcome, among)], budget)
        for i in np.flatnonzero(fold == k):
            alarms[i] = first_alarm(runs[i].rows["step"], margins[i], at, confirm)
    return alarms


def caught_flags(outcome: Outcome, alarms: np.ndarray) -> np.ndarray:
    """Whether an alarm was given, and not too early."""
    return ~np.isnan(alarms) & ~(alarms < outcome.begin)


def precursors(runs: list, outcome: Outcome, margins: list) -> tuple:
    """(index, value) of the windows just before gradual onsets, and of windows in healthy runs."""
    found = {True: ([], []), False: ([], [])}
    for i, r in enumerate(runs):
        steps = r.rows["step"]
        gradual = outcome.positive[i] and outcome.manner[i] == "gradual"
        if gradual:
            end = r.onset
        elif outcome.sure[i]:
            share = 0.2 + 0.7 * (zlib.crc32(r.name.encode()) % 1000) / 1000
            end = int(steps[int(share * (len(steps) - 1))])
        else:
            continue
        here = (steps >= end - PRECURSOR) & (steps < end)
        if here.sum() >= 5:
            found[gradual][0].append(i)
            found[gradual][1].append(float(fit.held(margins[i][here], fit.CONFIRM).max()))
    return tuple((np.array(a, int), np.array(b)) for a, b in (found[True], found[False]))


def figures(runs, outcome, margins, fold, intervals=True) -> dict:
    """Figures of whole runs from the margins of their rows."""
    top = np.array([fit.confirmed(m) for m in margins])
    everything = np.arange(len(runs))
    right = np.zeros(len(runs), bool)
    for k in sorted(set(fold)):
        others, here = fold != k, fold == k
        at = fairest(top[others & outcome.positive], top[others & outcome.negative])
        right[here] = (top[here] >= at) == outcome.positive[here]
    alarms = {a: alarms_at(runs, outcome, margins, fold, among=a) for a in ("sure", "healthy")}
    caught = {a: caught_flags(outcome, x) for a, x in alarms.items()}
    fired = {a: ~np.isnan(x) for a, x in alarms.items()}
    early, calm = precursors(runs, outcome, margins)
    value = np.full(len(runs), np.nan)
    value[early[0]], value[calm[0]] = early[1], calm[1]
    is_early, is_calm = np.zeros((2, len(runs)), bool)
    is_early[early[0]], is_calm[calm[0]] = True, True

    def balanced(c):
        a, b = mean(right, c[outcome.positive[c]]), mean(right, c[outcome.negative[c]])
        return None if a is None or b is None else (a + b) / 2

    wanted = {
        "auroc": lambda c: evaluate.auroc(top[c[outcome.positive[c]]], top[c[outcome.negative[c]]]),
        "balanced_accuracy": balanced,
        "caught": lambda c: mean(caught["sure"], c[outcome.positive[c]]),
        "false_sure": lambda c: mean(fired["sure"], c[outcome.sure[c]]),
        "false_all": lambda c: mean(fired["sure"], c[outcome.healthy[c]]),
        "caught_budget_all": lambda c: mean(caught["healthy"], c[outcome.positive[c]]),
        "precursors": lambda c: evaluate.auroc(value[c[is_early[c]]], value[c[is_calm[c]]]),
    }
    out = {name: figure(everything) for name, figure in wanted.items()}
    if intervals:
        for name in ("auroc", "balanced_accuracy", "caught", "caught_budget_all", "precursors"):
            out[name + "_interval"] = interval(runs, wanted[name])
    out["right"] = right
    return out
