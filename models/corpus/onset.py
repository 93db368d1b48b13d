"""The step at which an instability began."""

import numpy as np

from models.corpus import curves

SLOW = "lr_ramp", "lr_creep", "loss_scale_growth"
"""Faults that grow from nothing: their injection is not where it shows."""
BEFORE = 5
"""Steps before a checkpoint that was well at which an injection may lie all the same."""


def find(side: dict, rows: np.ndarray, good: int, bad: int, ref: curves.Reference) -> int:
    """Between the last good checkpoint of the probe and the first bad one, or before, where the training
    loss shows it before the probe does.

    An injection in between is the onset. Else the first step after the injection from which on the
    training loss stays above its best, by more than its noise and a tenth of the natural gain, until the
    bad checkpoint. Else the first step in between at which it leaves its own last 25 steps, else the
    last good checkpoint.
    """
    injected = side["onset"]
    slow = side["event"] in SLOW
    if good - BEFORE <= injected <= bad and not slow:
        return injected
    low = max(injected, 0)
    seen = _departure(rows, low, bad, side, ref)
    if seen is not None:
        return injected if seen <= injected + 3 and not slow else min(seen, bad)
    number, loss = rows["step"], curves.logged(rows)
    for i in np.flatnonzero((number >= max(low, good - BEFORE)) & (number <= bad)):
        before = loss[max(0, i - 25) : i]
        before = before[np.isfinite(before)]
        ahead = loss[i : i + 4]
        if not np.isfinite(loss[i]):
            return int(number[i])
        if len(before) < 5:
            continue
        middle = np.median(before)
        spread = 1.4826 * np.median(np.abs(before - middle)) + 1e-12
        out = ~(ahead <= middle + 4 * spread)
        if out[0] and out.sum() >= 3:
            return int(number[i])
    return int(max(good, injected))


def _departure(rows, low: int, bad: int, side: dict, ref: curves.Reference):
    """First step from which on four in five steps until `bad` stand out; None where there is none."""
    number, loss = rows["step"], curves.logged(rows)
    until = int(np.searchsorted(number, bad, "right"))
    first = int(np.searchsorted(number, low))
    if until - first < 3 or first < 10:
        first = max(first, min(10, until - 3), 0)
    if until - first < 3:
        return None
    flat, slow = curves.smooth(loss[:until], 2), curves.smooth(loss[:until], 8)
    with np.errstate(invalid="ignore"):
        rest = np.abs(flat - slow)[max(0, first - 60) : max(first, 20)]
    rest = rest[np.isfinite(rest)]
    noise = 1.4826 * float(np.median(rest)) if len(rest) else 0.0
    best = np.minimum.accumulate(np.where(np.isfinite(slow), slow, np.inf)[max(0, first - 25) :])
    best = best[min(first, 25) :]
    limit = best + max(4 * noise, 0.1 * ref.train_gain)
    if side["kind"] in ("gan", "rl"):  # whose loss rises and falls by nature
        limit = np.maximum(limit, ref.train_end + ref.train_top * ref.train_gain)
    out = ~(loss[first:until] <= limit)
    share = np.cumsum(out[::-1])[::-1] / np.arange(len(out), 0, -1)
    # A long run's end must not outvote a stretch, at its beginning, that was well again.
    ahead = np.convolve(np.pad(out.astype(float), (0, 24), mode="edge"), np.ones(25) / 25, "valid")
    well = np.flatnonzero(ahead < 0.3)
    since = np.arange(len(out)) > (well[-1] if len(well) else -1)
    held = np.flatnonzero(out & (share >= 0.8) & since & (np.arange(len(out), 0, -1) >= 3))
    return int(number[first + held[0]]) if len(held) else None
