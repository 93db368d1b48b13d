"""All rules that people use today: those of baselines.py, and further ones as far as the recorded
fields allow. Each says the first step at which it fires, or None.

Of the published rules these need what no step field says and are left out: first-to-last-layer
gradient ratios (AUTOTRAINER), and tensors by name (SageMaker Debugger).
"""

import numpy as np

from models.training import alarms, baselines, bench, views

LOSS, NORM = views.FIELDS["loss"], views.FIELDS["grad_norm"]


def _field(rows: np.ndarray, name: str) -> tuple:
    """(steps, values) of the rows that have a field."""
    i = views.FIELDS[name]
    there = rows["present"] >> i & 1 == 1
    return rows["step"][there], rows["value"][there, i].astype(float)


def _first(steps: np.ndarray, flags: np.ndarray):
    return int(steps[np.argmax(flags)]) if flags.any() else None


def rlwatch_warning(rows: np.ndarray):
    """rlwatch: the gradient norm's z above 3 of mean and deviation of the first 100, frozen."""
    steps, g = _field(rows, "grad_norm")
    start = g[:100][np.isfinite(g[:100])]
    if len(start) < 2 or len(g) <= 100:
        return None
    return _first(steps[100:], ~(g[100:] <= start.mean() + 3 * start.std()))


def debugger_not_decreasing(rows: np.ndarray):
    """SageMaker LossNotDecreasing: at every tenth step, less than 0.1 % below the loss ten steps
    back."""
    steps, x = _field(rows, "loss")
    x, steps = x[::10], steps[::10]
    with np.errstate(all="ignore"):
        return _first(steps[1:], ~(x[1:] < x[:-1] - 0.001 * np.abs(x[:-1])))


def debugger_vanishing(rows: np.ndarray):
    """SageMaker VanishingGradient, by the largest element instead of the mean: below 1e-7."""
    steps, g = _field(rows, "grad_max_abs")
    return _first(steps, g < 1e-7)


def debugger_overfit(rows: np.ndarray):
    """SageMaker Overfit: (validation − training loss) / training loss above 0.1."""
    steps, val = _field(rows, "val_loss")
    if not len(steps):
        return None
    train = rows["value"][np.isin(rows["step"], steps), LOSS].astype(float)
    with np.errstate(all="ignore"):
        return _first(steps, (val - train) / np.abs(train) > 0.1)


def debugger_dead_relu(rows: np.ndarray):
    """SageMaker DeadRelu, by the share of exact zeros: more than half."""
    steps, dead = _field(rows, "act_dead")
    return _first(steps, dead > 0.5)


def autotrainer_explode(rows: np.ndarray):
    """AUTOTRAINER: the loss is not a number, or 1000 and more."""
    steps, x = _field(rows, "loss")
    return _first(steps, ~(x < 1e3))


def autotrainer_dying_relu(rows: np.ndarray):
    """AUTOTRAINER dying ReLU, by zeros of activations instead of gradients: 70 % and more."""
    steps, dead = _field(rows, "act_dead")
    return _first(steps, dead >= 0.7)


def autotrainer_unstable(rows: np.ndarray):
    """AUTOTRAINER: accuracy swings by 0.03 and more from one validation to the next in a fifth of
    them (of at least five)."""
    steps, acc = _field(rows, "val_acc")
    swings = np.cumsum(np.abs(np.diff(acc)) >= 0.03)
    n = np.arange(1, len(swings) + 1)
    return _first(steps[1:], (swings / n >= 0.2) & (n >= 5)) if len(swings) else None


def losslint(rows: np.ndarray):
    """losslint, after the fact: ten times the local median, or the last tenth's median above 1.25
    times the first tenth's. Tells at the end, so it says the last step."""
    steps, x = _field(rows, "loss")
    if len(x) < 30:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, 12, mode="edge"), 25)
    tenth = len(x) // 10
    with np.errstate(all="ignore"):
        spike = x > 10 * np.median(windows, axis=1)
        diverged = ~(np.median(x[-tenth:]) <= 1.25 * np.median(x[:tenth]))
    return int(steps[-1]) if diverged or spike.any() else None


MORE = {
    "rlwatch warning": rlwatch_warning,
    "SageMaker LossNotDecreasing": debugger_not_decreasing,
    "SageMaker VanishingGradient": debugger_vanishing,
    "SageMaker Overfit": debugger_overfit,
    "SageMaker DeadRelu": debugger_dead_relu,
    "AUTOTRAINER explode": autotrainer_explode,
    "AUTOTRAINER dying ReLU": autotrainer_dying_relu,
    "AUTOTRAINER unstable accuracy": autotrainer_unstable,
    "losslint (after the fact)": losslint,
}


def table(runs: list) -> dict:
    """Rule → figures, long runs left out."""
    some = [r for r in runs if r.side["steps"] <= bench.LONG]
    outcome, everything = bench.Outcome(some), np.arange(len(some))
    out = {}
    with np.errstate(all="ignore"):
        for name, rule in {**baselines.RULES, **MORE}.items():
            fired = [rule(r.rows) for r in some]
            steps = np.array([np.nan if a is None else a for a in fired], float)
            out[name] = alarms.Tally(some, steps, outcome).figures(everything, intervals=True)
    return out
