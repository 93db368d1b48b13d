"""The runs that a model of other programs judges worst: alarms on healthy runs with the highest
score, and unstable runs that it is surest are well."""

import pathlib

import numpy as np

from models.training import bench, evaluate, fit

N = 20


def listed(runs: list, found: dict, n: int = N) -> dict:
    """The false alarms and the misses, the worst first; the view with all fields, default budget."""
    told = found["unseen"]
    outcome = bench.Outcome(runs)
    alarms = told["alarms"]["all"][f"{fit.DEFAULT:g}"]
    score = [evaluate.score(m, told["calibration"]) for m in told["margins"]["all"]]
    caught = bench.caught_flags(outcome, alarms)
    false, misses = [], []
    for i, r in enumerate(runs):
        about = dict(run=r.name, event=r.side["event"], label=r.label)
        if outcome.sure[i] and not np.isnan(alarms[i]):
            at = int(np.argmax(score[i]))
            about.update(step=int(alarms[i]), top_step=int(r.rows["step"][at]))
            false.append(dict(about, score=float(score[i][at])))
        elif outcome.positive[i] and not caught[i]:
            after = r.rows["step"] >= r.onset
            top = fit.confirmed(score[i][after]) if after.any() else 0.0
            about.update(step=int(r.onset), too_early=bool(not np.isnan(alarms[i])))
            misses.append(dict(about, score=float(top)))
    return dict(
        false_alarms=sorted(false, key=lambda w: (-w["score"], w["run"]))[:n],
        misses=sorted(misses, key=lambda w: (w["score"], w["run"]))[:n],
        false_in_all=len(false), misses_in_all=len(misses),
    )  # fmt: skip


def series(runs: list, found: dict, worst: dict) -> dict:
    """Run → (steps, losses, scores of the view with all fields) of the listed runs."""
    wanted = {w["run"] for kind in ("false_alarms", "misses") for w in worst[kind]}
    out = {}
    for r, m in zip(runs, found["unseen"]["margins"]["all"]):
        if r.name in wanted:
            score = evaluate.score(m, found["unseen"]["calibration"])
            out[r.name] = (r.rows["step"], r.rows["value"][:, 0].astype(float), score, r.side)
    return out


def sheets(folder: pathlib.Path, worst: dict, told: dict) -> None:
    """One plot a run, for whoever looks at them: loss, clean probe and score over steps."""
    from models.training import figures

    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("false_alarms", "misses"):
        for rank, w in enumerate(worst[kind]):
            path = folder / f"{kind}-{rank + 1:02d}-{w['run']}.png"
            figures.sheet(path, w, *told[w["run"]])
