"""The trees as libxgboost scores them and as models/forest.c does: the same bits."""

import ctypes
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xgboost

ROWS = 10_000
COLUMNS = 20
LIBRARY = Path(os.environ["SEISMO_BUILD"]) / "models" / "libseismo_detector.so"

pytestmark = pytest.mark.plain_only


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(LIBRARY))
    lib.seismo_forest_load.restype = ctypes.c_void_p
    lib.seismo_forest_load.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p]
    lib.seismo_forest_free.argtypes = [ctypes.c_void_p]
    lib.seismo_forest_groups.argtypes = [ctypes.c_void_p]
    lib.seismo_forest_predict.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    return lib


def table(rng: np.random.Generator, n: int) -> np.ndarray:
    """Columns of very different magnitudes, some discrete, a quarter of the cells missing."""
    x = rng.normal(size=(n, COLUMNS)) * 10.0 ** rng.integers(-6, 6, COLUMNS)
    x[:, ::4] = rng.integers(-3, 4, (n, len(range(0, COLUMNS, 4))))
    x[rng.random(x.shape) < 0.25] = np.nan
    x[rng.random(n) < 0.01] = np.nan
    return x.astype(np.float32)


def train(seed: int, depth: int, classes: int, **parameters: float) -> xgboost.Booster:
    rng = np.random.default_rng(seed)
    x = table(rng, 3000)
    signal = np.nan_to_num(x[:, 0]) + np.nan_to_num(np.sign(x[:, 1])) + np.isnan(x[:, 2])
    noisy = signal + rng.normal(size=len(x))
    if classes:
        y = np.digitize(noisy, np.quantile(noisy, np.arange(1, classes) / classes))
        parameters |= {"objective": "multi:softprob", "num_class": classes}
    else:
        y = noisy > 0.5
        parameters |= {"objective": "binary:logistic"}
    parameters |= {"max_depth": depth, "seed": seed, "nthread": 1, "subsample": 0.8}
    return xgboost.train(parameters, xgboost.DMatrix(x, y.astype(int)), 29)


CASES = {
    "stumps": (1, 0, {}),
    "shallow": (3, 0, {"eta": 1.0}),
    "base score": (5, 0, {"base_score": 0.03}),
    "deep": (8, 0, {"min_child_weight": 0}),
    "pruned": (6, 0, {"gamma": 3.0, "tree_method": "exact"}),
    "single leaves": (4, 0, {"min_child_weight": 1e6}),
    "histogram": (4, 0, {"tree_method": "hist", "grow_policy": "lossguide", "max_leaves": 13}),
    "two classes": (2, 2, {}),
    "seven classes": (4, 7, {"base_score": 0.25}),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_same_bits_as_libxgboost(library: ctypes.CDLL, case: str, tmp_path: Path) -> None:
    depth, classes, parameters = CASES[case]
    booster = train(len(case), depth, classes, **parameters)
    path = tmp_path / "booster.json"
    booster.save_model(path)
    errmsg = ctypes.create_string_buffer(256)
    forest = library.seismo_forest_load(path.read_bytes(), COLUMNS, errmsg)
    assert forest, errmsg.value.decode()
    groups = library.seismo_forest_groups(forest)
    assert groups == max(classes, 1)

    x = table(np.random.default_rng(99), ROWS)
    margin = np.empty((ROWS, groups), np.float32)
    probability = np.empty_like(margin)
    parts = np.empty((ROWS, groups, COLUMNS + 1))
    library.seismo_forest_predict(
        forest,
        x.ctypes.data,
        ROWS,
        COLUMNS,
        margin.ctypes.data,
        probability.ctypes.data,
        parts.ctypes.data,
    )
    library.seismo_forest_free(forest)

    data = xgboost.DMatrix(x)
    expected = booster.predict(data, output_margin=True).reshape(ROWS, groups)
    assert np.array_equal(margin.view(np.uint32), expected.view(np.uint32))
    expected = booster.predict(data).reshape(ROWS, groups)
    assert np.array_equal(probability.view(np.uint32), expected.view(np.uint32))

    scale = 1e-5 * (1 + np.abs(margin))
    assert np.all(np.abs(parts.sum(axis=2) - margin) < scale)
    for row in range(0, ROWS, 501):
        direct = recompute(json.loads(path.read_text()), x[row], groups)
        assert np.allclose(parts[row], direct, rtol=1e-6, atol=1e-7)
    if case != "single leaves":
        assert np.abs(parts[:, :, :-1]).max() > 0.01
        assert len(np.unique(margin)) > 5


def recompute(saved: dict, x: np.ndarray, groups: int) -> np.ndarray:
    """Path attribution written down a second time, recursively, from the file."""
    learner = saved["learner"]
    model = learner["gradient_booster"]["model"]
    base = float(learner["learner_model_param"]["base_score"])
    ret = np.zeros((groups, len(x) + 1))
    ret[:, -1] = np.log(base / (1 - base)) if groups == 1 else base
    for tree, group in zip(model["trees"], model["tree_info"]):
        left, right = tree["left_children"], tree["right_children"]
        cover = [float(np.float32(c)) for c in tree["sum_hessian"]]

        def mean(node: int) -> float:
            if left[node] < 0:
                return float(np.float32(tree["split_conditions"][node]))
            low, high = left[node], right[node]
            total = cover[low] + cover[high]
            return (cover[low] * mean(low) + cover[high] * mean(high)) / total

        node = 0
        ret[group, -1] += mean(0)
        while left[node] >= 0:
            column = tree["split_indices"][node]
            if np.isnan(x[column]):
                goes_left = tree["default_left"][node]
            else:
                goes_left = x[column] < np.float32(tree["split_conditions"][node])
            child = left[node] if goes_left else right[node]
            ret[group, column] += mean(child) - mean(node)
            node = child
    return ret


def spoil(path: str, value: object):
    """A change of one place in a booster, `path` in dots, for the refusals below."""

    def change(booster: dict) -> None:
        *parents, last = path.split(".")
        at = booster
        for key in parents:
            at = at[int(key) if isinstance(at, list) else key]
        at[int(last) if isinstance(at, list) else last] = value

    return change


TREE = "learner.gradient_booster.model.trees.1."
HOSTILE = {
    "child outside": (spoil(TREE + "left_children.0", 999), "tree 1: node 0: left child"),
    "cycle": (spoil(TREE + "left_children.1", 0), "tree 1: node 1: left child"),
    "self": (spoil(TREE + "right_children.0", 0), "tree 1: node 0: right child"),
    "one child": (spoil(TREE + "right_children.1", -1), "tree 1: node 1: right child"),
    "stolen child": (spoil(TREE + "left_children.1", 5), "parent"),
    "huge child": (spoil(TREE + "left_children.0", 2**62), "left child"),
    "wrong parent": (spoil(TREE + "parents.1", 2), "tree 1: node 1: parent"),
    "feature": (spoil(TREE + "split_indices.0", COLUMNS), "tree 1: node 0: feature"),
    "infinite threshold": (spoil(TREE + "split_conditions.0", 1e39), "finite"),
    "text leaf": (spoil(TREE + "split_conditions.6", "1"), "tree 1: node 6"),
    "negative cover": (spoil(TREE + "sum_hessian.2", -1.0), "cover"),
    "categorical": (spoil(TREE + "split_type.0", 1), "categorical"),
    "default": (spoil(TREE + "default_left.0", 2), "default_left"),
    "short list": (spoil(TREE + "parents", [0]), "parents"),
    "node count": (spoil(TREE + "tree_param.num_nodes", "8"), "left_children"),
    "node count text": (spoil(TREE + "tree_param.num_nodes", "many"), "num_nodes"),
    "node count huge": (spoil(TREE + "tree_param.num_nodes", "1e12"), "num_nodes"),
    "leaf vector": (spoil(TREE + "tree_param.size_leaf_vector", "3"), "size_leaf_vector"),
    "no tree": (spoil("learner.gradient_booster.model.trees.1", None), "tree 1"),
    "too few trees": (spoil("learner.gradient_booster.model.trees", []), "num_trees"),
    "group": (spoil("learner.gradient_booster.model.tree_info.0", 1), "tree_info"),
    "dart": (spoil("learner.gradient_booster.name", "dart"), "gbtree"),
    "objective": (spoil("learner.objective.name", "reg:linear"), "objective"),
    "base score": (spoil("learner.learner_model_param.base_score", "1.5E0"), "base_score"),
    "columns": (spoil("learner.learner_model_param.num_feature", "7"), "columns"),
    "version": (spoil("version", [2, 0, 0]), "1.x"),
    "nothing": (lambda booster: booster.clear(), "1.x"),
}


@pytest.mark.parametrize("case", HOSTILE, ids=lambda name: name.replace(" ", "-"))
def test_hostile_booster_is_refused(library: ctypes.CDLL, case: str, tmp_path: Path) -> None:
    path = tmp_path / "booster.json"
    train(1, 2, 0).save_model(path)
    booster = json.loads(path.read_text())
    errmsg = ctypes.create_string_buffer(256)
    change, told = HOSTILE[case]
    change(booster)
    assert not library.seismo_forest_load(json.dumps(booster).encode(), COLUMNS, errmsg)
    assert told in errmsg.value.decode()


def test_too_deep_a_tree_is_refused(library: ctypes.CDLL, tmp_path: Path) -> None:
    """A list of 17 splits: its depth, not its size, is what is wrong with it."""
    path = tmp_path / "booster.json"
    train(1, 2, 0).save_model(path)
    booster = json.loads(path.read_text())
    n, errmsg = 35, ctypes.create_string_buffer(256)
    tree = booster["learner"]["gradient_booster"]["model"]["trees"][0]
    split = [node % 2 == 0 and node < n - 1 for node in range(n)]
    tree["left_children"] = [node + 1 if split[node] else -1 for node in range(n)]
    tree["right_children"] = [node + 2 if split[node] else -1 for node in range(n)]
    tree["parents"] = [2**31 - 1] + [(node - 1) // 2 * 2 for node in range(1, n)]
    for name in ("split_indices", "default_left", "split_type"):
        tree[name] = [0] * n
    for name in ("split_conditions", "sum_hessian"):
        tree[name] = [1.0] * n
    tree["tree_param"]["num_nodes"] = str(n)
    assert not library.seismo_forest_load(json.dumps(booster).encode(), COLUMNS, errmsg)
    assert "deeper than 16" in errmsg.value.decode()
