"""The rules that people use today, on the same runs: each says the first step at which it fires, or
None.

Written from their published descriptions. Steps and values are those of a trace; a rule that needs
the gradient norm stays silent without it.
"""

import collections
import math
import statistics

import numpy as np

from models.training import views

LOSS, NORM = views.FIELDS["loss"], views.FIELDS["grad_norm"]


def _columns(rows: np.ndarray) -> tuple:
    loss = rows["value"][:, LOSS].astype(float)
    norm = rows["value"][:, NORM].astype(float)
    norm[rows["present"] >> NORM & 1 == 0] = math.nan
    there = rows["present"] >> NORM & 1 == 1
    return rows["step"], loss, norm, there


def nonfinite(rows: np.ndarray):
    """Lightning's check_finite: NaN or infinity in loss or gradient norm."""
    steps, loss, norm, there = _columns(rows)
    bad = ~np.isfinite(loss) | (there & ~np.isfinite(norm))
    return int(steps[np.argmax(bad)]) if bad.any() else None


def megatron_spike(rows: np.ndarray):
    """Megatron: ten times the highest of the first 100 finite losses."""
    steps, loss, _, _ = _columns(rows)
    highest, seen = -math.inf, 0
    for step, x in zip(steps, loss):
        if not math.isfinite(x):
            return int(step)
        if seen < 100:
            highest, seen = max(highest, x), seen + 1
        elif x >= 10 * highest:
            return int(step)
    return None


def foundry_loss_spike(rows: np.ndarray):
    """llm-foundry KillLossSpike: more than four steps in a row at twice the mean of the last 100;
    also, from step 200 on, half of the window above 10."""
    steps, loss, _, _ = _columns(rows)
    window, count = collections.deque(maxlen=100), 0
    for n, (step, x) in enumerate(zip(steps, loss)):
        if len(window) == 100:
            count = count + 1 if x >= 2 * statistics.fmean(window) else 0
            if count > 4:
                return int(step)
            if n >= 200 and sum(v > 10 for v in window) >= 50:
                return int(step)
        if math.isfinite(x):
            window.append(x)
    return None


def lightning_spike(rows: np.ndarray):
    """Lightning SpikeDetection: not finite, or three times the mean of the last ten accepted
    losses."""
    steps, loss, _, _ = _columns(rows)
    window, last = collections.deque(maxlen=10), None
    for step, x in zip(steps, loss):
        if not math.isfinite(x):
            return int(step)
        if last is not None and x > last and x >= 3 * statistics.fmean(window):
            return int(step)
        window.append(x)
        last = x
    return None


def olmo_skip_step(rows: np.ndarray):
    """OLMo-core: six standard deviations off the mean of the last 128 values of loss or gradient
    norm."""
    steps, loss, norm, there = _columns(rows)
    windows = [collections.deque(maxlen=128) for _ in range(2)]
    for step, x, g, known in zip(steps, loss, norm, there):
        for window, value in zip(windows, (x, g)):
            if window is windows[1] and not known:
                continue
            if len(window) >= 64:
                mean = sum(window) / len(window)
                spread = math.sqrt(sum((v - mean) ** 2 for v in window) / (len(window) - 1))
                if spread > 0 and not abs(value - mean) <= 6 * spread:
                    return int(step)
            if math.isfinite(value):
                window.append(value)
    return None


def zclip(rows: np.ndarray):
    """ZClip: the gradient norm's z above 2.5, running mean and variance with 0.97 after 25
    steps."""
    steps, _, norm, there = _columns(rows)
    start, mean, var = [], 0.0, 0.0
    for step, g, known in zip(steps, norm, there):
        if not known:
            continue
        if not math.isfinite(g):
            return int(step)
        if len(start) < 25:
            start.append(g)
            if len(start) == 25:
                mean, var = statistics.fmean(start), statistics.pvariance(start)
            continue
        z = (g - mean) / (math.sqrt(var) + 1e-6)
        if z > 2.5:
            return int(step)
        mean, var = 0.97 * mean + 0.03 * g, 0.97 * var + 0.03 * (g - mean) ** 2
    return None


def trainpulse(rows: np.ndarray):
    """trainpulse: loss above five times the mean of the last 50, or a gradient norm above 100 or
    below 1e-7."""
    steps, loss, norm, there = _columns(rows)
    window = collections.deque(maxlen=50)
    for step, x, g, known in zip(steps, loss, norm, there):
        if not math.isfinite(x):
            return int(step)
        if len(window) >= 10 and x > 5 * statistics.fmean(window):
            return int(step)
        if known and not 1e-7 <= g <= 100:
            return int(step)
        window.append(x)
    return None


def rlwatch(rows: np.ndarray):
    """rlwatch: the gradient norm's z above 4.5 of mean and deviation of the first 100, frozen."""
    steps, _, norm, there = _columns(rows)
    start, mean, spread = [], 0.0, 0.0
    for step, g, known in zip(steps, norm, there):
        if not known:
            continue
        if len(start) < 100:
            if math.isfinite(g):
                start.append(g)
            if len(start) == 100:
                mean, spread = statistics.fmean(start), statistics.pstdev(start)
        elif not g <= mean + 4.5 * spread:
            return int(step)
    return None


RULES = {
    "non-finite check": nonfinite,
    "Megatron spiky loss": megatron_spike,
    "llm-foundry KillLossSpike": foundry_loss_spike,
    "Lightning SpikeDetection": lightning_spike,
    "OLMo-core skip step": olmo_skip_step,
    "ZClip": zclip,
    "trainpulse": trainpulse,
    "rlwatch critical": rlwatch,
}
