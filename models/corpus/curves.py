"""What labels measure on: the clean probe and the logged loss of a run, in levels of its program's natural
runs, where 1 is an untrained model and 0 the end of natural training."""

import math
from dataclasses import dataclass

import numpy as np

from models.corpus import archive

LOSS, VAL_LOSS = (archive.VALUES.index(name) for name in ("loss", "val_loss"))


def curve(side: dict) -> np.ndarray:
    """The clean probe."""
    return np.array([float(x) for _, x in side["clean"]])


def checkpoints(side: dict) -> np.ndarray:
    """The steps of the clean probe."""
    return np.array([step for step, _ in side["clean"]])


def logged(rows: np.ndarray) -> np.ndarray:
    """The training loss as the run logged it."""
    return rows["value"][:, LOSS].astype(float)


def validation(rows: np.ndarray) -> tuple:
    """(steps, losses) of the run's own validation."""
    there = rows["present"] >> VAL_LOSS & 1 == 1
    return rows["step"][there], rows["value"][there, VAL_LOSS].astype(float)


def smooth(x: np.ndarray, width: int) -> np.ndarray:
    """Running median, 2·width + 1 wide, of the values that are finite."""
    padded = np.pad(x, width, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1)
    if np.isfinite(x).all():
        return np.median(windows, axis=1)
    windows = np.where(np.isfinite(windows), windows, np.nan)
    gone = np.isnan(windows).all(axis=1)
    out = np.full(len(x), math.inf)
    if not gone.all():
        out[~gone] = np.nanmedian(windows[~gone], axis=1)
    return out


def excess(loss: np.ndarray, width: int = 12) -> np.ndarray:
    """Loss above its running median of the steps before and after."""
    with np.errstate(invalid="ignore"):
        return loss - smooth(loss, width)


@dataclass
class Reference:
    """What natural runs of a program do."""

    start: float
    end: float
    noise: float
    gain: float
    tolerance: float
    """In levels: how far from the natural end is still natural."""
    wander: float
    """In levels: how far above its best the probe of a natural run stands, but for one in ten."""
    train_start: float
    train_end: float
    train_gain: float
    train_top: float
    """In levels: where the smoothed training loss of natural runs stands at most, 1 or more."""
    spike: float
    """The largest excess of a natural run's training loss over its running median, but for one in
    500."""
    validated: float = math.nan
    """In levels: the median of where the validation of healthy runs ends."""
    validated_most: float = math.nan
    """The same, at worst."""

    def levels(self, side: dict) -> np.ndarray:
        """The clean probe."""
        return (curve(side) - self.end) / self.gain

    def trained(self, loss: np.ndarray) -> np.ndarray:
        """The logged loss, or the validation's."""
        return (loss - self.train_end) / self.train_gain


def width(rows: np.ndarray) -> int:
    """Half the rows that a training loss is smoothed over: a tenth of the run in all, 12 at most."""
    return min(max(len(rows) // 20, 2), 12)


def reference(runs: list) -> Reference:
    """From the (side, rows) of a program's natural runs."""
    curves = np.array([curve(side) for side, _ in runs])
    ends = curves[:, -3:].mean(1)
    start, end = float(np.median(curves[:, 0])), float(np.median(ends))
    spread = 1.4826 * float(np.median(np.abs(ends - end)))
    half = curves[:, curves.shape[1] // 2 :]
    jitter = 1.4826 * float(np.median(np.abs(np.diff(half, 2, axis=1)))) / math.sqrt(6)
    noise = max(spread, jitter, 1e-9)
    gain = max(start - end, 4 * noise)
    above = (curves - np.minimum.accumulate(curves, axis=1)) / gain
    losses = [logged(rows) for _, rows in runs]
    first = float(np.median([np.median(x[:5]) for x in losses]))
    last = float(np.median([np.median(x[-20:]) for x in losses]))
    over = np.concatenate([excess(x)[len(x) // 6 :] for x in losses])
    train_noise = float(np.median([1.4826 * np.median(np.abs(np.diff(x))) for x in losses]))
    train_gain = max(first - last, 4 * train_noise, 1e-9)
    top = max(float(smooth(x, width(x)).max()) for x in losses)
    return Reference(
        start,
        end,
        noise,
        gain,
        max(0.1, 3 * noise / gain),
        float(np.quantile(above, 0.9)),
        first,
        last,
        train_gain,
        max(1.0, (top - last) / train_gain),
        max(float(np.quantile(over, 0.998)), 0.3 * train_gain),
    )
