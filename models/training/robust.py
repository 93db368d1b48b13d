"""Trees whose objective minds the programs that they judge worst, beside the shipped weights, by which
every program counts the same.

The shape of the trees is the shipped model's; only the weights of the rows differ. Programs are
judged by the loss of their own rows that are learnt from, never by those of programs held out.
"""

import numpy as np

from models.training import data, fit

RESTARTS = 3
"""The trees are grown anew so many times; programs are weighed by the ones before."""
RATE = 0.5
"""A program whose loss is once more than the mean gains so much in the logarithm of its weight."""
MOST = 6.0
"""No program weighs more than so many times what it does in the shipped objective, or less than
this part of it."""


def reweighed(part: data.Sample, factor: dict) -> np.ndarray:
    """The sample's weights times a factor for each program; both classes still weigh the same."""
    weight = part.weight * np.array([factor[p] for p in part.program])
    for value in (0.0, 1.0):
        here = part.y == value
        weight[here] *= 0.5 * len(part.y) / max(weight[here].sum(), 1e-12)
    return weight


def losses(part: data.Sample, margin: np.ndarray) -> dict:
    """Program → mean over its classes of the weighted logarithmic loss."""
    loss = np.logaddexp(0, np.where(part.y == 1, -margin, margin))
    out = {}
    for p in np.unique(part.program):
        of_class = []
        for value in (0.0, 1.0):
            here = (part.program == p) & (part.y == value)
            if here.any():
                of_class.append(np.average(loss[here], weights=part.weight[here]))
        out[p] = float(np.mean(of_class))
    return out


def exponentiated(factor: dict, loss: dict) -> dict:
    """Group-robust weights: each program's grows exponentially with its loss."""
    mean = np.mean(list(loss.values()))
    raised = {p: w * np.exp(RATE * (loss[p] / mean - 1)) for p, w in factor.items()}
    scale = np.mean(list(raised.values()))
    return {p: float(np.clip(w / scale, 1 / MOST, MOST)) for p, w in raised.items()}


def worst_quarter(factor: dict, loss: dict) -> dict:
    """The quarter of the programs with the highest loss weighs twice what it did."""
    level = np.quantile(list(loss.values()), 0.75)
    return {p: min(w * (2 if loss[p] >= level else 1), MOST) for p, w in factor.items()}


def rows_alike(library, part: data.Sample):
    """Trees for which a row is a row: programs with more unstable runs weigh more."""
    weight = np.ones(len(part.y))
    for value in (0.0, 1.0):
        weight[part.y == value] = 0.5 * len(part.y) / max((part.y == value).sum(), 1)
    return fit.trees(library, part.x, part.y, weight)


def restarted(library, part: data.Sample, change, restarts: int = RESTARTS):
    """Trees grown anew after each change(weights of programs, their losses) of the weights."""
    factor = {p: 1.0 for p in np.unique(part.program)}
    for _ in range(restarts):
        weight = reweighed(part, factor)
        # Half the trees tell which programs are hard; the last ones judge.
        half = fit.trees(library, part.x, part.y, weight, fit.ROUNDS // 2)
        factor = change(factor, losses(part, fit.margins(half, fit.shown(library, part.x))))
    return fit.trees(library, part.x, part.y, reweighed(part, factor))
