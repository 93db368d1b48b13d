"""Trees, calibration, thresholds, and the model file they make."""

import json
import pathlib
import tempfile

import numpy as np
import xgboost

from models.training import data
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
CONFIRM, EXIT_CONFIRM, WARMUP = 2, 20, 16
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
    library: Library, runs: list, sample: data.Sample, seen: dict, taught: np.ndarray
) -> xgboost.Booster:
    """The instability head, taught twice: what sets a threshold is the most alarming rows of runs
    that are well, so a first, smaller forest looks for those and the second one is taught them too.

    `seen`: view → features of each run's rows; `taught`: whether a run may be learnt from.
    """
    known = taught[sample.run]
    part = sample.only(known)
    first = trees(library, part.x, part.y, part.weight, ROUNDS // 2)
    hard = [
        data.hardest(runs, features, taught, lambda x: margins(first, x[:, columns(library)]))
        for features in seen.values()
    ]
    part = data.joined([part, *hard])
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


def confirmed(score: np.ndarray) -> float:
    """The highest score that a run holds for as many rows as an alarm needs."""
    return float(held(score, CONFIRM).max()) if len(score) >= CONFIRM else 0.0


def thresholds(scores: np.ndarray) -> dict:
    """Budget → threshold, from the confirmed scores of healthy runs.

    Just above the score that so many of them reach; a budget finer than one run in all is the
    highest score and half the way from there to 1.
    """
    ordered = np.sort(scores)[::-1]
    out = {}
    for budget in BUDGETS:
        allowed = int(budget * len(ordered))
        if allowed == 0:
            value = ordered[0] + 0.5 * (1 - ordered[0])
        else:
            value = ordered[allowed] + 1e-6
        out[f"{budget:g}"] = round(float(min(max(value, 0.05), 0.999)), 6)
    return out


def fault_sample(library: Library, runs: list) -> data.Sample:
    """Rows soon after the onset of unstable runs; y is the index of the injected fault's class."""
    wanted = [r for r in runs if r.positive and r.side["fault"]]
    s = data.sample(library, wanted, 20)
    keep = s.y == 1
    classes = np.array([CLASSES.index(wanted[i].side["fault"]) for i in s.run[keep]], float)
    weight = np.ones(len(classes))
    for c in range(len(CLASSES)):
        if (classes == c).any():
            weight[classes == c] = (1.0 / (classes == c).sum()) ** 0.5
    weight *= len(weight) / weight.sum()
    return data.Sample(s.x[keep], classes, weight, s.program[keep], s.run[keep])


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


def model_file(
    library: Library,
    booster,
    calibration: tuple,
    budgets: dict,
    fault=None,
    sides=None,
    created: str = "",
    about=None,
) -> str:
    """The text of a model file (format 1)."""
    threshold = budgets[f"{DEFAULT:g}"]
    warning = round(min(budgets[f"{max(BUDGETS):g}"], threshold), 6)
    head = {
        **binary_head(booster, calibration, budgets),
        "warning": warning,
        "exit": round(0.6 * warning, 6),
        "confirm": CONFIRM,
        "exit_confirm": EXIT_CONFIRM,
        "warmup": WARMUP,
    }
    heads = {"instability": head, **(sides or {})}
    if fault is not None:
        heads["fault"] = {"booster": booster_json(fault), "classes": CLASSES}
    whole = {
        "format": 1,
        "name": "seismo",
        "created": created,
        "feature_version": library.version,
        "features": [library.features[i] for i in columns(library)],
        "heads": heads,
        "training": about or {},
    }
    return json.dumps(whole, separators=(",", ":")) + "\n"
