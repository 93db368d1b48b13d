"""The detector over ctypes, as the training uses it: layout of rows, features and whole runs."""

import ctypes
import json
import os
from pathlib import Path

import numpy as np
import pytest

LIBRARY = Path(os.environ["SEISMO_BUILD"]) / "models" / "libseismo_detector.so"

pytestmark = pytest.mark.plain_only


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(LIBRARY))
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    for name in ("value_name", "feature_name", "feature_group", "state_name", "severity_name"):
        getattr(lib, f"seismo_{name}").restype = text
    lib.seismo_row_size.restype = size
    lib.seismo_features_batch.argtypes = [pointer, size, pointer]
    lib.seismo_features_batch.restype = None
    lib.seismo_model_load.argtypes = [text, text]
    lib.seismo_model_load.restype = pointer
    lib.seismo_model_free.argtypes = [pointer]
    lib.seismo_model_describe.argtypes = [pointer]
    lib.seismo_model_describe.restype = pointer
    lib.seismo_model_heads.argtypes = [pointer]
    lib.seismo_model_scores.argtypes = [pointer, ctypes.c_int, pointer, size, pointer, pointer]
    lib.seismo_detector_batch.argtypes = [pointer, pointer, size, text, text] + 4 * [pointer]
    lib.seismo_detector_batch.restype = pointer
    lib.seismo_free.argtypes = [pointer]
    return lib


def names(function, n: int) -> list[str]:
    assert function(n) is None and function(-1) is None
    return [function(i).decode() for i in range(n)]


def take_json(library: ctypes.CDLL, pointer: int):
    assert pointer
    document = json.loads(ctypes.string_at(pointer))
    library.seismo_free(pointer)
    return document


def run(library: ctypes.CDLL, losses: np.ndarray) -> np.ndarray:
    values = names(library.seismo_value_name, library.seismo_values_n())
    row = np.dtype(
        {
            "names": ["step", "time", "present", "value"],
            "formats": ["<i8", "<f8", "<u4", ("<f4", (len(values),))],
            "offsets": [0, 8, 16, 20],
            "itemsize": 120,
        }
    )
    assert library.seismo_row_size() == row.itemsize
    rows = np.zeros(len(losses), row)
    rows["step"] = np.arange(len(losses))
    rows["time"] = np.nan
    rows["present"] = 1 << values.index("loss")
    rows["value"][:, values.index("loss")] = losses
    return rows


def test_a_run_over_ctypes(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    losses = 1 + np.exp(-np.arange(300) / 50) + 0.05 * rng.normal(size=300)
    losses[250:] = np.nan
    rows = run(library, losses)
    n, columns = len(rows), library.seismo_features_n()
    features = np.empty((n, columns), np.float32)
    library.seismo_features_batch(rows.ctypes.data, n, features.ctypes.data)
    groups = np.array(names(library.seismo_feature_group, columns))
    assert np.isnan(features[:, groups != "loss"]).all()
    assert not np.isnan(features[20:250, groups == "loss"]).any()

    errmsg = ctypes.create_string_buffer(256)
    model = library.seismo_model_load(None, errmsg)
    assert model, errmsg.value.decode()
    about = take_json(library, library.seismo_model_describe(model))
    assert set(about["features"]) <= set(names(library.seismo_feature_name, columns))

    score, margin, online = (np.empty(n, np.float32) for _ in range(3))
    state, severity = np.empty(n, np.uint8), np.empty(n, np.uint8)
    library.seismo_model_scores(
        model, 0, features.ctypes.data, n, margin.ctypes.data, score.ctypes.data
    )
    verdicts = take_json(
        library,
        library.seismo_detector_batch(
            model,
            rows.ctypes.data,
            n,
            b"run",
            b"program.py",
            online.ctypes.data,
            state.ctypes.data,
            severity.ctypes.data,
            None,
        ),
    )
    assert len(about["heads"]["instability"]) == library.seismo_model_heads(model)
    library.seismo_model_free(model)

    assert np.array_equal(score[:252], online[:252])
    assert (online[252:] == 1).all()
    head = about["heads"]["instability"][0]["calibration"]
    expected = 1 / (1 + np.exp(-(head["slope"] * margin.astype(float) + head["intercept"])))
    assert np.allclose(score, expected, atol=1e-6)
    critical = [v for v in verdicts if v["severity"] == "critical"]
    # Critical by rule at the third such row; the model may be sure a row earlier.
    assert [v["step"] for v in critical] in ([251], [252])
    assert critical[0]["state"] == "unstable" == library.seismo_state_name(int(state[-1])).decode()
    assert critical[0]["run"] == "run" and critical[0]["program"] == "program.py"
    assert critical[0]["fault"]["class"] == "numerics"
    assert library.seismo_severity_name(int(severity[-1])) == b"critical"


def test_a_missing_model_is_told(library: ctypes.CDLL) -> None:
    errmsg = ctypes.create_string_buffer(256)
    assert not library.seismo_model_load(b"/nonexistent/model.json", errmsg)
    assert "/nonexistent/model.json" in errmsg.value.decode()
