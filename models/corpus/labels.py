"""Labels by outcome: what became of a run, against the natural runs of its own program.

The rules, in words, stand in README.md. Levels are measured on the clean probe: 1 is an untrained
model, 0 where natural runs end.
"""

import json
import math
import pathlib

import numpy as np

from models.corpus import archive, curves, onset, plan as plans
from models.corpus.curves import Reference, reference

OVERRIDES = pathlib.Path(__file__).with_name("overrides.json")
"""Run → what the rules say wrongly of it, with the reason."""

SUSTAINED = 2
"""Checkpoints of 17: a tenth of the run."""
BLOWN = 4.0
"""Levels above the start that are no excursion any more."""
RESCALED = (
    "loss_scale", "sum_reduction", "loss_power", "sign_flip", "annealed_term", "unit", "batch_size",
    "stuck_loader", "repeated", "leakage",
)  # fmt: skip
"""Events after which the logged loss says nothing beside natural runs' loss: another unit, or another
task."""
UNITS = "loss_scale", "sum_reduction", "loss_power", "sign_flip", "annealed_term", "unit", "batch_size"
"""Of these those after which it is in another unit."""
BY_DATA = (
    "label_noise", "target_scale", "corrupted_batches", "unnormalised", "sorted_data", "bad_augmentation",
    "repeated", "leakage", "stuck_loader",
)  # fmt: skip
"""Faults of the batches: the logged loss may be high on them while the model is well."""
TASKS = "switch", "reinit_head"
"""Benign events that give a run something new to learn."""


def _longest(flags: np.ndarray) -> int:
    best = now = 0
    for f in flags:
        now = now + 1 if f else 0
        best = max(best, now)
    return best


class _Probe:
    """The clean probe of a run: where it is lost, and whether it was won back."""

    def __init__(self, side: dict, ref: Reference):
        self.steps = curves.checkpoints(side)
        self.level = ref.levels(side)
        self.broken = ~np.isfinite(self.level)
        level = np.where(self.broken, math.inf, self.level)
        noisy = side["kind"] in ("gan", "rl")
        if noisy:  # one checkpoint says little
            padded = np.pad(level, 1, mode="edge")
            level = np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)
        # The best level so far; a switch of the data, which the probe follows, starts it anew.
        n, seen, base = len(level), math.inf, max(1.0, self.level[0])
        best, floor = np.empty(n), np.empty(n)
        switches = _new_tasks(side)
        for k, x in enumerate(level):
            if k and any(self.steps[k - 1] <= s < self.steps[k] for s in switches):
                seen = math.inf
                base = max(base, x)
            seen = min(seen, x)
            best[k], floor[k] = seen, base
        height = np.clip(floor, 1.0, 2.5)
        self.best, self.won = best, np.maximum(height - best, 0.25)
        self.learnt = height - best >= 0.25
        with np.errstate(invalid="ignore"):
            drop = level - best
        after = self.steps >= side["onset"]
        self.lost = (drop > np.maximum(0.5 * self.won + ref.tolerance / 2, ref.wander)) & self.learnt
        self.above = (level > floor + max(0.15, ref.tolerance)) & (drop > ref.tolerance)
        self.blown = level > floor + BLOWN
        if side["kind"] == "gan":  # its probe measures a balance of two players, which comes and goes
            self.lost = self.lost & self.above
        self.lost, self.above, self.blown = self.lost & after, self.above & after, self.blown & after
        self.nearly = (drop > 0.35 * self.won + ref.tolerance / 2) & self.learnt & after
        self.bad = self.lost | self.above | self.blown | self.broken
        self.well = drop <= np.maximum(0.25 * self.won, ref.tolerance)
        # What never came down again to what an untrained model does is not won back.
        self.recovered = bool(self.well[-1]) and not (self.blown.any() and level[-1] > 0.75)
        self.end = self.level[-1]
        self.middle = float(np.median(self.level[-3:]))
        self.regained = drop[-1]

    def why(self) -> list:
        """Which excursions are longer than passing."""
        found = []
        if _longest(self.lost) >= SUSTAINED:
            found.append("gain lost")
        if _longest(self.above) >= SUSTAINED:
            found.append("above the start")
        if self.blown.any():
            found.append("blown up")
        return found

    def around(self, step: int) -> tuple:
        """The checkpoints before and after a step."""
        bad = int(np.searchsorted(self.steps, step, "right").clip(1, len(self.steps) - 1))
        return bad - 1, bad

    def between(self, bad=None) -> tuple:
        """The last good checkpoint and the first bad one of what counts: the first excursion that
        lasted, else the last one."""
        bad = self.bad if bad is None else bad
        n = len(bad)
        episodes, k = [], 0
        while k < n:
            if not bad[k]:
                k += 1
                continue
            stop = k
            while stop < n and not (self.well[stop] and not bad[stop]):
                stop += 1
            episodes.append((k, stop))
            k = stop
        if not episodes:
            return n - 2, n - 1
        lasting = [
            (a, b)
            for a, b in episodes
            if bad[a:b].sum() >= SUSTAINED or (self.blown | self.broken)[a:b].any() or b == n
        ]
        first = (lasting or episodes[-1:])[0][0]
        good = np.flatnonzero(self.well[:first])
        return (int(good[-1]) if len(good) else max(first - 1, 0)), first


class _Training:
    """The logged loss of a run, smoothed, in levels."""

    def __init__(self, side: dict, rows: np.ndarray, ref: Reference):
        self.number, loss = rows["step"], curves.logged(rows)
        self.raw = ref.trained(loss)
        self.level = ref.trained(curves.smooth(loss, curves.width(rows)))
        self.own = max(float(self.raw[0]), ref.train_top)
        # A GAN's loss and that of reinforcement learning may rise by as much as they ever do.
        noisy = side["kind"] in ("gan", "rl")
        self.outside = self.own + max(1.0, self.own / 2)
        self.blown = self.own + (10 * max(1.0, ref.train_top) if noisy else BLOWN)
        tail = self.raw[-max(8, len(rows) // 20) :]
        tail = tail[np.isfinite(tail)]
        self.end = float(np.median(tail)) if len(tail) else math.inf
        best = np.minimum.accumulate(np.where(np.isfinite(self.level), self.level, math.inf))
        with np.errstate(invalid="ignore"):
            drop = self.level - best
        won = np.maximum(1.0 - best, 0.25)
        after = self.number >= side["onset"]
        self.lost = (drop > 0.5 * won + 0.05) & after
        # Where natural losses fall by decades, a tenfold one is seen, whatever part of the gain it is.
        self.decades = ref.train_end > 0 and ref.train_start > 20 * ref.train_end
        if self.decades:
            with np.errstate(invalid="ignore", divide="ignore"):
                fold = (self.level * ref.train_gain + ref.train_end) / (
                    np.maximum(best, 0.0) * ref.train_gain + ref.train_end
                )
            self.lost_decades = (fold > math.sqrt(ref.train_start / ref.train_end)) & after
        else:
            self.lost_decades = np.zeros(len(rows), bool)

    def first(self, level: float) -> int:
        """The first step at which the logged loss stands above a level."""
        return int(self.number[int(np.argmax(self.raw > level))])

    def at_the_end(self, flags: np.ndarray) -> bool:
        """Whether something holds for the last five rows or more, to the end."""
        return bool(flags[-5:].all())

    def since(self, step: int) -> np.ndarray:
        """The smoothed levels from a step on."""
        return self.level[self.number >= step]


def label(side: dict, rows: np.ndarray, ref: Reference) -> dict:
    """{"label", "why", "onset" (a step, of surely unstable runs), "ambiguous", "validation"} of one
    run."""
    told = _label(side, rows, ref)
    told["validation"] = _validated(rows, ref)
    sure = told["label"] in ("healthy", "stalled") and not told["ambiguous"]
    if told["validation"] == "worse" and side["fault"] and sure:
        units = side["event"] in UNITS  # which leaves the probe of training data to say how that went
        if told["label"] == "healthy" if units else _Training(side, rows, ref).end <= 0.25:
            told.update(label="mismatch", why=["validation worse"])
    return told


def _label(side: dict, rows: np.ndarray, ref: Reference) -> dict:
    probe, training = _Probe(side, ref), _Training(side, rows, ref)
    fault, noisy = side["fault"] is not None, side["kind"] in ("gan", "rl")
    rescaled = side["event"] in RESCALED
    why = probe.why()
    good, bad = probe.between()

    def unstable(reasons, certain):
        at = onset.find(side, rows, int(probe.steps[good]), int(probe.steps[bad]), ref)
        since = training.since(at)
        before = training.level[training.number < at][-10:]
        # What begins after the last row, or moves the logged loss by nothing, is in no signal.
        certain = certain and len(since) > 0
        if not noisy and not rescaled and len(before) and len(since):
            certain = certain and not since.max() - np.median(before) < 0.15
        return dict(
            label="unstable", why=reasons, onset=at if certain else None, ambiguous=not certain
        )

    def other(kind, reasons=(), ambiguous=False):
        return dict(label=kind, why=list(reasons), onset=None, ambiguous=bool(ambiguous))

    if probe.broken[-1] or not np.isfinite(curves.logged(rows)[-1]):
        return unstable(["non-finite to the end"], True)

    visible = not rescaled and (
        training.at_the_end(training.lost) or bool((training.raw[-2:] > training.blown).all())
    )
    dead = float(np.min(probe.level)) > 0.75
    twice = np.minimum(training.raw[:-1], training.raw[1:]).max(initial=-math.inf)
    risen = 4 * training.own - 4 * BLOWN  # where it starts far up, a batch may be as far up again
    if fault and not rescaled and not noisy and dead and twice > max(training.blown, risen):
        seen = probe.around(training.first(max(training.blown, risen)))
        if not probe.bad.any() or seen[1] < bad:
            good, bad = seen
        return unstable(["blown up before anything was learnt"], True)
    if why and not probe.recovered:
        if side["event"] == "switch" and not noisy:  # a task that is not learnt anew
            return other("stalled", why, True)
        since = training.since(int(probe.steps[good]))
        as_natural = len(since) and np.median(since) <= 0.25 and since.max() - since[0] < 0.3
        if probe.blown.any() and training.end < -BLOWN:  # an objective without a bottom
            as_natural = False
        if as_natural and not rescaled or side["event"] in RESCALED and side["event"] not in UNITS:
            if noisy:  # their loss says nothing about how well they do
                return unstable(why, fault and bool(probe.blown[-SUSTAINED:].all()))
            return other("mismatch", why, _longest(probe.bad) < 2 * SUSTAINED)
        # A loss that stands one single checkpoint from the end may as well be a passing excursion.
        slow = noisy and not probe.learnt.any() and not probe.blown.any()
        slow = slow and training.end <= training.blown
        sure = (_longest(probe.bad) >= SUSTAINED or visible) and not slow
        # Probes of their own don't follow a switch of the data.
        return unstable(why, sure and side["event"] != "switch")
    if probe.end > probe.middle and (noisy or training.end < 0.5 * probe.end):
        probe.end = probe.middle  # a single bad checkpoint that the logged loss knows nothing of
    behind = probe.end > 2 * ref.tolerance + 0.05
    if fault and not rescaled and not noisy and dead and twice > max(training.own + 1, risen):
        return other("stalled", ["never learnt"], True)
    if fault and training.end > training.blown and side["event"] not in UNITS + BY_DATA:
        good, bad = probe.around(training.first(training.blown))
        if probe.nearly[:bad].any():
            good, bad = probe.between(probe.nearly)
        return unstable(["training loss blown up"], True)
    lost = training.lost[-max(5, len(rows) // 10) :].all() and probe.nearly[-SUSTAINED:].all()
    if fault and lost and not noisy and not rescaled and side["event"] not in BY_DATA:
        good, bad = probe.between(probe.nearly)
        return unstable(["gain lost in the log"], True)
    share = _spikes(side, rows, ref)
    spiky = side["every"] == 1 and not noisy and not rescaled and share > 0.05
    if spiky and behind and not why and fault:
        late = rows["step"][len(rows) // 6 :]
        good, bad = probe.around(int(late[int(np.argmax(_spiked(rows, ref)))]))
        return unstable(["repeated spikes"], share > 0.1)
    if (probe.lost | probe.above)[-1] and not probe.well[-1] and side["event"] != "switch":
        if fault and side["event"] in RESCALED and side["event"] not in UNITS:
            return other("mismatch", ["lost at the very end"], True)
        return unstable(["lost at the very end"], visible and fault)

    ambiguous = bool(why) and side["event"] not in ("plain", "jitter")
    if fault:
        # What an operator did on purpose may shake a run for a moment; after a fault the same is
        # ambiguous.
        ambiguous |= bool(probe.bad.any()) or bool(probe.nearly[-1]) or spiky
        # A loss scaler that leaves out every step from some time on: nothing is logged or learnt.
        ambiguous |= bool(rows["step"][-1] < 0.8 * probe.steps[-1])
        # The log says far worse than the probe: a fault that neither of both denies.
        if side["event"] != "sum_reduction":
            ambiguous |= float(np.mean(training.level > training.outside)) > 0.05
        if not rescaled:
            ambiguous |= training.end > training.own and not noisy
            if probe.end > ref.tolerance and not noisy:
                ambiguous |= training.at_the_end(training.lost)
            ambiguous |= training.at_the_end(training.lost_decades) and not noisy
    gap = probe.end - training.end if training.end <= 0.2 else 0.0
    long = side["number"] >= plans.LONG
    if not noisy and side["event"] not in UNITS and (fault or long):
        worse = behind or (probe.end > ref.tolerance + 0.1 and gap > 0.5 + ref.tolerance)
        if worse and gap > 0.2 + ref.tolerance:
            return other("mismatch", ["worse at the end than the training loss"], probe.bad.any())
    if not behind:
        return other("healthy", why, ambiguous)
    if not fault:
        if side["event"] in TASKS:
            if _relearnt(probe, side):
                return other("healthy", ["still learning"], False)
            return other("stalled", ["not learnt again"], True)
        # It lost something of what it had: more than a slow run, less than a ruined one.
        ambiguous |= side["onset"] > 0 and probe.regained > 0.25
    return other("stalled", why or ["worse at the end"], ambiguous)


def _new_tasks(side: dict) -> list:
    """Steps at which the run was given something new to learn, so that its best level starts
    anew."""
    if side["event"] == "switch":
        return [s for s in (side["onset"], side["drawn"].get("back")) if s is not None]
    return [side["onset"]] if side["event"] == "reinit_head" else []


def _relearnt(probe: _Probe, side: dict) -> bool:
    """Whether more than half of what the last new task cost has been learnt since."""
    since = probe.level[probe.steps > _new_tasks(side)[-1]]
    return len(since) > 0 and float(since.max()) > 2 * probe.end


def _spiked(rows: np.ndarray, ref: Reference) -> np.ndarray:
    """Which rows, but for the first sixth, are spikes; high above the natural end a loss is noisier."""
    loss = curves.logged(rows)
    scale = np.maximum(1.0, 2 * ref.trained(curves.smooth(loss, curves.width(rows))))
    with np.errstate(invalid="ignore"):
        found = (np.abs(curves.excess(loss)) > 2 * ref.spike * scale) & (scale < 2 * BLOWN)
    return found[len(loss) // 6 :]


def _spikes(side: dict, rows: np.ndarray, ref: Reference) -> float:
    """Share of spikes since the event."""
    return float(np.mean(_spiked(rows, ref))) if side["event"] != "plain" else 0.0


def _validated(rows: np.ndarray, ref: Reference):
    """What the run's own validation says at its end: "well", "worse", or None without one."""
    losses = curves.validation(rows)[1]
    if len(losses) < 2 or not math.isfinite(ref.validated):
        return None
    end = ref.trained(losses[-2:].min())
    margin = max(0.3, ref.validated_most - ref.validated)
    return "worse" if not end <= ref.validated_most + margin else "well"


def _with_validation(ref: Reference, runs: list) -> None:
    """Learn from the benign runs where validation ends in this program."""
    ends = []
    for side, rows in runs:
        losses = curves.validation(rows)[1]
        usual = side["fault"] is None and side["event"] not in TASKS and side["number"] < plans.LONG
        if usual and len(losses) >= 2 and np.isfinite(losses).all():
            ends.append(ref.trained(np.median(losses[-3:])))
    if len(ends) >= 3:
        ref.validated = float(np.median(ends))
        ref.validated_most = float(np.quantile(ends, 0.9))


def overrides() -> dict:
    """Run → the fields of its label that are set by hand, and why."""
    return json.loads(OVERRIDES.read_text())


def label_runs(program: str, folder=archive.TRACES) -> tuple:
    """([(side, rows, label)], reference) of a program's recorded runs."""
    packed = archive.members(program, folder)
    runs = [(s, archive.unpack(packed[s["run"]])[1]) for s in archive.sides(program, folder)]
    ref = reference([r for r in runs if plans.is_reference(r[0]["number"])])
    _with_validation(ref, runs)
    by_hand = overrides()
    labelled = []
    for side, rows in runs:
        told = label(side, rows, ref)
        if side["run"] in by_hand:
            told.update(by_hand[side["run"]], overridden=True)
        labelled.append((side, rows, told))
    return labelled, ref


def label_program(program: str, folder=archive.TRACES) -> dict:
    """Run name → label of a program's recorded runs."""
    return {side["run"]: told for side, _, told in label_runs(program, folder)[0]}
