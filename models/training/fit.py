"""Trees, calibration, thresholds, and the model file they make."""

import json
import pathlib
import tempfile
from dataclasses import dataclass

import numpy as np
import xgboost

from models.training import data, views
from models.training.library import Library

TREES = dict(
    objective="binary:logistic", max_depth=3, eta=0.15, subsample=0.7, colsample_bytree=0.4,
    min_child_weight=20, reg_lambda=3.0, base_score=0.5, nthread=1, tree_method="hist", seed=1,
)  # fmt: skip
ROUNDS = 120
FAULT_TREES = dict(TREES, objective="multi:softprob", min_child_weight=5)
FAULT_ROUNDS = 25

CLASSES = [
    "learning_rate", "initialisation", "optimizer", "data", "numerics", "loss_or_architecture",
]  # fmt: skip
BUDGETS = (0.001, 0.01, 0.05)
DEFAULT = 0.01
DOUBTFUL = 0.014
"""So much more than a budget may be false of all healthy runs, those with an excursion among them."""
CONFIRM, EXIT_CONFIRM, WARMUP = 2, 20, 16
"""Rows in a row to enter a state where models are only compared, to leave it, and at the start."""
QUICK = {"loss": 2, "loss_grad_lr": 2, "all": 1}
"""Rows in a row for which a head's level must be held: one is enough where all fields are sent."""
LASTING = {"loss": 60, "loss_grad_lr": 60, "all": 30}
"""The same of a head's lower level."""
LEFT_OUT = ("lr",)
"""Feature groups no head uses: an injected learning rate gives itself away."""
ONLY_MISMATCH = ("validation",)
"""Feature groups that only the mismatch head uses; the others are taught with none of them."""


NAMES_LEFT_OUT = (
    "loss_nonfinite_share", "grad_nonfinite_share",
    "act_saturated", "act_saturated_change", "act_dead", "update_ratio", "descent_cosine",
    "descent_noise",
    "grad_spread", "ema_gradient_share", "lipschitz_step",
    "param_growth", "grad_against_first", "param_trend", "act_rms_against_first", "probe_ratio_mean",
    "secant_mean", "ema_secant", "loss_gain",
)  # fmt: skip
"""Non-finite values are called out by a rule, three rows in a row, and must not weigh on a run that
a loss scaler has guarded. The others are absolute levels that give the program away rather than its
state: leaving them out raised what is caught on programs held out."""

RISING = {
    "loss_z", "loss_jump", "loss_noise_growth", "loss_trend_short", "loss_now_above_best",
    "loss_above_best",
    "loss_above_best_noise", "loss_above_first", "loss_median_above_best", "grad_jump", "grad_z",
    "loss_above_initial", "loss_above_initial_share", "loss_half_lost_share",
}  # fmt: skip
"""Features that may only raise the score: a wilder loss is never taken for a safer run, however
much it resembles outliers that runs got over."""


def columns(library: Library) -> list:
    """Indices of the features that models use."""
    return [
        i
        for i, (name, group) in enumerate(zip(library.features, library.groups))
        if group not in LEFT_OUT and name not in NAMES_LEFT_OUT
    ]


def without_validation(library: Library, x: np.ndarray) -> np.ndarray:
    """A copy of rows of the models' columns that lacks what only the mismatch head may see."""
    x = x.copy()
    x[:, [library.groups[i] in ONLY_MISMATCH for i in columns(library)]] = np.nan
    return x


def shown(library: Library, x: np.ndarray) -> np.ndarray:
    """The same of rows of all features."""
    return without_validation(library, x[:, columns(library)])


def trees(
    library: Library, x: np.ndarray, y: np.ndarray, weight: np.ndarray, rounds: int = ROUNDS
) -> xgboost.Booster:
    """The instability head, from rows of all features."""
    signs = ",".join("1" if library.features[i] in RISING else "0" for i in columns(library))
    parameters = dict(TREES, monotone_constraints=f"({signs})")
    return xgboost.train(
        parameters, xgboost.DMatrix(shown(library, x), y, weight=weight), rounds
    )


def hardened(
    library: Library, runs: list, sample: data.Sample, features: list, taught: np.ndarray
) -> xgboost.Booster:
    """An instability head, taught twice: what sets a threshold is the most alarming rows of runs
    that are well, so a first, smaller forest looks for those and the second one is taught them too.

    `features`: those of each run's rows in the head's view; `taught`: whether a run may be learnt
    from.
    """
    known = taught[sample.run]
    part = sample.only(known)
    first = trees(library, part.x, part.y, part.weight, ROUNDS // 2)
    hard = data.hardest(
        runs, features, np.unique(part.run), lambda x: margins(first, x[:, columns(library)])
    )
    part = data.joined([part, hard])
    return trees(library, part.x, part.y, part.weight)


def margins(booster: xgboost.Booster, x: np.ndarray) -> np.ndarray:
    """Raw margins."""
    return booster.inplace_predict(x, predict_type="margin")


def platt(margin: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple:
    """(slope, intercept) of the logistic calibration on margins that the trees were not trained
    on."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(margin[:, None], y, sample_weight=weight)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def held(score: np.ndarray, rows: int) -> np.ndarray:
    """The score that each row and the ones before it reach together, `rows` of them."""
    if len(score) < rows:
        return np.full(1, -np.inf, np.float32)
    return np.lib.stride_tricks.sliding_window_view(score, rows).min(1)


def confirmed(score: np.ndarray, rows: int = CONFIRM) -> float:
    """The highest score that a run holds for as many rows as an alarm needs."""
    return float(held(score, rows).max()) if len(score) >= rows else 0.0


def thresholds(*scores: np.ndarray, sure: np.ndarray = None) -> list:
    """Budget → threshold, from the confirmed scores of healthy runs, `sure` ones (default: all) and
    others.

    Just above the score that so many of the sure ones reach, and no more than DOUBTFUL beyond that
    of all; a budget finer than one run in all is the highest score and half the way from there to 1.
    Where runs have several scores, held for different numbers of rows, each has a threshold, and
    those that reach any of them count.
    """
    sure = np.ones(len(scores[0]), bool) if sure is None else sure
    ordered = [np.sort(s)[::-1] for s in scores]
    out = [{} for _ in scores]
    for budget in BUDGETS:
        allowed, of_all = int(budget * sure.sum()), int((budget + DOUBTFUL) * len(sure))
        for rank in range(min(of_all, len(sure) - 1), -1, -1):
            values = [o[rank] + 1e-6 for o in ordered]
            if rank == 0 and allowed == 0:
                values = [o[0] + 0.5 * (1 - o[0]) for o in ordered]
            reached = np.any([s >= v for s, v in zip(scores, values)], axis=0)
            if reached[sure].sum() <= allowed and reached.sum() <= of_all:
                break
        for levels, value in zip(out, values):
            levels[f"{budget:g}"] = round(float(min(max(value, 0.05), 0.999)), 6)
    return out


def fault_sample(library: Library, runs: list) -> data.Sample:
    """Rows soon after the onset of unstable runs; y is the index of the injected fault's class."""
    wanted = np.flatnonzero([r.positive and bool(r.side["fault"]) for r in runs])
    some = [runs[i] for i in wanted]
    s = data.joined([data.sample(library, some, head) for head in views.HEADS])
    keep = s.y == 1
    classes = np.array([CLASSES.index(some[i].side["fault"]) for i in s.run[keep]], float)
    told = data.Sample(s.x[keep], classes, s.weight[keep], s.program[keep], wanted[s.run[keep]])
    return fault_part(told, np.ones(len(classes), bool))


def fault_part(sample: data.Sample, chosen: np.ndarray) -> data.Sample:
    """Some of its rows, weighed anew: rare classes more, but not in proportion."""
    y = sample.y[chosen]
    weight = np.ones(len(y))
    for c in range(len(CLASSES)):
        if (y == c).any():
            weight[y == c] = (1.0 / (y == c).sum()) ** 0.5
    weight *= len(weight) / weight.sum()
    return data.Sample(
        sample.x[chosen], y, weight, sample.program[chosen], sample.run[chosen]
    )


def fault_trees(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> xgboost.Booster:
    """The fault head."""
    parameters = dict(FAULT_TREES, num_class=len(CLASSES))
    return xgboost.train(parameters, xgboost.DMatrix(x, y, weight=weight), FAULT_ROUNDS)


def booster_json(booster: xgboost.Booster) -> dict:
    """As XGBoost saves it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "booster.json"
        booster.save_model(str(path))
        return json.loads(path.read_text())


def binary_head(booster: xgboost.Booster, calibration: tuple, budgets: dict) -> dict:
    """What each binary head of a model file has."""
    return {
        "booster": booster_json(booster),
        "calibration": {"slope": round(calibration[0], 9), "intercept": round(calibration[1], 9)},
        "budgets": budgets,
        "default_budget": f"{DEFAULT:g}",
    }


@dataclass
class Head:
    """An instability head as a model file has it."""

    booster: xgboost.Booster
    calibration: tuple
    levels: dict
    """Budget → level, for each number of rows in a row."""


def head_file(name: str, head: Head, budget: float) -> dict:
    """One of the instability heads, with the default budget chosen."""
    default, confirm, lasting = f"{budget:g}", QUICK[name], LASTING.get(name)
    quick = head.levels[confirm]
    warning = round(min(quick[f"{max(BUDGETS):g}"], quick[default]), 6)
    told = {
        "name": name,
        "needs": list(views.HEADS[name]),
        **binary_head(head.booster, head.calibration, quick),
        "default_budget": default,
        "warning": warning,
        "exit": round(0.6 * warning, 6),
        "confirm": confirm,
        "exit_confirm": EXIT_CONFIRM,
        "warmup": WARMUP,
    }
    if lasting in head.levels:
        held_for = head.levels[lasting]
        told["lasting"] = {"confirm": lasting, "budgets": held_for}
        told["exit"] = round(0.6 * min(warning, held_for[default]), 6)
    return told


def model_file(
    library: Library,
    alarms: dict,
    fault=None,
    sides=None,
    created: str = "",
    about=None,
    budget: float = DEFAULT,
) -> str:
    """The text of a model file (format 2); `alarms`: name → instability head."""
    heads = {
        "instability": [head_file(n, alarms[n], budget) for n in views.HEADS if n in alarms],
        **(sides or {}),
    }
    if fault is not None:
        heads["fault"] = {"booster": booster_json(fault), "classes": CLASSES}
    whole = {
        "format": 2,
        "name": "seismo",
        "created": created,
        "feature_version": library.version,
        "features": [library.features[i] for i in columns(library)],
        "heads": heads,
        "training": about or {},
    }
    return json.dumps(whole, separators=(",", ":")) + "\n"
