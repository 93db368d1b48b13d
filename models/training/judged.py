"""Alarms as an operator would get them: the online verdict code on programs held out whole."""

import numpy as np

from models.training import data, evaluate, splits, views


def judged(library, runs: list) -> dict:
    """Alarms and margins of all runs by models of other programs, and alarms by models that know
    the program: all that the figures below need."""
    samples = {head: data.sample(library, runs, head) for head in views.HEADS}
    rows = {v: [views.masked(r.rows, mask) for r in runs] for v, mask in views.SHOWN.items()}
    features = {v: [library.features_of(x) for x in seen] for v, seen in rows.items()}
    out = {}
    for way, fold in (
        ("unseen", splits.by_program(runs, evaluate.FOLDS)),
        ("seen", splits.by_run(runs, evaluate.FOLDS)),
    ):
        cross = evaluate.cross_scores(library, runs, samples, fold, features)
        found = evaluate.online(library, runs, rows, cross, samples, fold)
        out[way] = dict(alarms=_steps(found["alarms"]), faults=found["faults"], fold=fold)
        if way == "unseen":
            out[way]["margins"] = cross["runs"]
            sample = samples["all"]
            out[way]["calibration"] = evaluate.calibrate(
                sample, cross["rows"]["all"], np.arange(len(sample.y))
            )
    return out


def _steps(alarms: dict) -> dict:
    """View → budget → steps as an array, NaN for none."""
    return {
        view: {b: np.array([np.nan if a is None else a for a in steps], float)
               for b, steps in told.items()}
        for view, told in alarms.items()
    }  # fmt: skip
