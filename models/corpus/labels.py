"""Labels by outcome: what became of a run, against the natural runs of its own program.

The rules, in words, stand in README.md. Levels are measured on the clean probe: 1 is an untrained
model, 0 where natural runs end.
"""

import math
from dataclasses import dataclass

import numpy as np

from models.corpus import archive, plan as plans

LOSS = archive.VALUES.index("loss")
SUSTAINED = 2
"""Checkpoints of 17: a tenth of the run."""
ABRUPT_MARGIN = 5
RESCALED = "loss_scale", "sum_reduction", "loss_power", "sign_flip", "annealed_term", "unit"
"""Events after which the logged loss is not in the unit of the natural runs' loss."""


@dataclass
class Reference:
    """What natural runs of a program do."""

    start: float
    end: float
    noise: float
    gain: float
    tolerance: float
    """In levels: how far from the natural end is still natural."""
    train_start: float
    train_end: float
    train_gain: float
    spike: float
    """The largest excess of a natural run's training loss over its running median, but for one in
    500."""


def _curve(side: dict) -> np.ndarray:
    return np.array([float(x) for _, x in side["clean"]])


def _train(rows: np.ndarray) -> np.ndarray:
    return rows["value"][:, LOSS].astype(float)


def _excess(loss: np.ndarray, width: int = 12) -> np.ndarray:
    """Loss above its running median of the steps before and after."""
    padded = np.pad(loss, width, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * width + 1)
    with np.errstate(invalid="ignore"):
        return loss - np.nanmedian(np.where(np.isfinite(windows), windows, np.nan), axis=1)


def reference(runs: list) -> Reference:
    """From the (side, rows) of a program's natural runs."""
    curves = np.array([_curve(side) for side, _ in runs])
    ends = curves[:, -3:].mean(1)
    start, end = float(np.median(curves[:, 0])), float(np.median(ends))
    spread = 1.4826 * float(np.median(np.abs(ends - end)))
    half = curves[:, curves.shape[1] // 2 :]
    jitter = 1.4826 * float(np.median(np.abs(np.diff(half, 2, axis=1)))) / math.sqrt(6)
    noise = max(spread, jitter, 1e-9)
    gain = max(start - end, 4 * noise)
    losses = [_train(rows) for _, rows in runs]
    first = float(np.median([np.median(x[:5]) for x in losses]))
    last = float(np.median([np.median(x[-20:]) for x in losses]))
    excess = np.concatenate([_excess(x)[len(x) // 6 :] for x in losses])
    train_noise = float(np.median([1.4826 * np.median(np.abs(np.diff(x))) for x in losses]))
    train_gain = max(first - last, 4 * train_noise, 1e-9)
    spike = max(float(np.quantile(excess, 0.998)), 0.3 * train_gain)
    return Reference(
        start, end, noise, gain, max(0.1, 3 * noise / gain), first, last, train_gain, spike
    )


def _longest(flags: np.ndarray) -> int:
    best = now = 0
    for f in flags:
        now = now + 1 if f else 0
        best = max(best, now)
    return best


def label(side: dict, rows: np.ndarray, ref: Reference) -> dict:
    """{"label", "why", "onset" (a step, of unstable runs), "ambiguous"} of one run."""
    steps = [s for s, _ in side["clean"]]
    level = (_curve(side) - ref.end) / ref.gain
    loss = _train(rows)
    why, where = [], []
    switches = _new_tasks(side)
    broken = ~np.isfinite(level)
    if broken[-1] or not np.isfinite(loss[-1]):
        first = int(np.argmax(broken)) if broken.any() else len(level) - 1
        return _unstable(["non-finite to the end"], first, side, rows, steps, ref, certain=True)

    # The best level so far; a switch of the distribution, which the probe follows, starts it anew.
    best, seen = np.empty(len(level)), math.inf
    base = max(1.0, level[0])
    floor = np.full(len(level), base)
    for k, (step, x) in enumerate(zip(steps, level)):
        if k and any(steps[k - 1] <= s < step for s in switches):
            seen = math.inf
            base = max(base, x)
        seen = min(seen, x)
        best[k], floor[k] = seen, base
    won = np.maximum(1.0 - best, 0.25)
    lost = level - best > 0.5 * won + ref.tolerance / 2
    above = (level > floor + max(0.15, ref.tolerance)) & (level > best + ref.tolerance)
    blown = level > floor + 4.0
    recovered = level[-1] - best[-1] <= max(0.25 * won[-1], ref.tolerance)
    late = loss[len(loss) // 6 :]
    spikes = np.abs(_excess(late)) > 2 * ref.spike
    noisy = side["kind"] in ("gan", "rl")
    spiky = (
        side["every"] == 1 and not noisy and not _rescaled(side) and float(np.mean(spikes)) > 0.05
    )
    if side["kind"] == "gan":  # its probe measures a balance of two players, which comes and goes
        lost = lost & above

    if _longest(lost) >= SUSTAINED:
        why.append("gain lost")
        where.append(int(np.argmax(lost)))
    if _longest(above) >= SUSTAINED:
        why.append("above the start")
        where.append(int(np.argmax(above)))
    if blown.any():
        why.append("blown up")
        where.append(int(np.argmax(blown)))
    behind = level[-1] > 2 * ref.tolerance + 0.05
    if why and not recovered:
        at = min(where)
        if _trained_well(loss, ref) and not _rescaled(side):
            if noisy:  # their loss says nothing about how well they do
                return dict(label="unstable", why=why, onset=None, ambiguous=True)
            return dict(
                label="mismatch", why=why, onset=None, ambiguous=_longest(lost) < 2 * SUSTAINED
            )
        # A loss that stands one single checkpoint from the end may as well be a passing excursion.
        return _unstable(
            why, at, side, rows, steps, ref, certain=_longest(lost | above | blown) >= 2
        )
    if spiky and behind and not why:
        first = int(rows["step"][len(loss) // 6 + int(np.argmax(spikes))])
        at = next(k for k, s in enumerate(steps) if s > first)
        return _unstable(
            ["repeated spikes"], at, side, rows, steps, ref, certain=float(np.mean(spikes)) > 0.1
        )
    if lost[-1] or above[-1]:
        return dict(label="unstable", why=["lost at the very end"], onset=None, ambiguous=True)
    # What an operator did on purpose may shake a run for a moment; after a fault the same is
    # ambiguous.
    passing = bool((lost | above).any()) and side["fault"] is not None
    # The probe says well, the log says far worse than untrained: a fault that neither of both
    # denies.
    outside = loss > ref.train_start + ref.train_gain
    unit = side["event"] == "sum_reduction"  # logged in another unit from the first step on
    strange = side["fault"] is not None and not unit and float(np.mean(outside)) > 0.05
    ambiguous = bool(why) or spiky or passing or strange
    if behind:
        return dict(
            label="stalled", why=why or ["worse at the end"], onset=None, ambiguous=ambiguous
        )
    return dict(label="healthy", why=why, onset=None, ambiguous=ambiguous)


def _new_tasks(side: dict) -> list:
    """Steps at which the run was given something new to learn, so that its best level starts
    anew."""
    if side["event"] == "switch":
        return [s for s in (side["onset"], side["drawn"].get("back")) if s is not None]
    return [side["onset"]] if side["event"] == "reinit_head" else []


def _rescaled(side: dict) -> bool:
    """Whether the logged loss is not in the unit of the natural runs' loss."""
    return side["event"] in RESCALED


def _trained_well(loss: np.ndarray, ref: Reference) -> bool:
    """Whether the training loss ended where natural runs' does, or below."""
    return float(np.median(loss[-20:])) <= ref.train_end + 0.25 * ref.train_gain


def _unstable(why, at, side, rows, steps, ref, certain) -> dict:
    onset = find_onset(side, rows, steps[max(at - 1, 0)], steps[at])
    return dict(label="unstable", why=why, onset=onset, ambiguous=not certain)


def find_onset(side: dict, rows: np.ndarray, good: int, bad: int) -> int:
    """The step at which it began, between the last good checkpoint and the first bad one.

    An injection in between is the onset. Else the first step at which the training loss leaves its
    own recent range for good (or is not finite), else the last good checkpoint.
    """
    injected = side["onset"] if side["fault"] else 0
    if good - ABRUPT_MARGIN <= injected <= bad and side["event"] != "lr_ramp":
        return injected
    low = max(injected, good - ABRUPT_MARGIN, 0)
    number = rows["step"]
    loss = _train(rows)
    for i in np.flatnonzero((number >= low) & (number <= bad)):
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


def label_program(program: str, folder=archive.TRACES) -> dict:
    """Run name → label of a program's recorded runs."""
    packed = archive.members(program, folder)
    sides = archive.sides(program, folder)
    runs = [(s, archive.unpack(packed[s["run"]])[1]) for s in sides]
    ref = reference([r for r in runs if plans.is_reference(r[0]["number"])])
    return {side["run"]: label(side, rows, ref) for side, rows in runs}
