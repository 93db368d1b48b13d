"""The detector's own C code over ctypes (models/batch.h): features, scores and verdicts exist
once."""

import ctypes
import json
import os
import pathlib
import subprocess

import numpy as np

from models.corpus import archive

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "models/libseismo_detector.so"


def find() -> pathlib.Path:
    """The shared library: that of the build folder $SEISMO_BUILD, else built in build-training."""
    named = os.environ.get("SEISMO_BUILD")
    if named:
        return pathlib.Path(named) / NAME
    build = ROOT / "build-training"
    if not (build / "build.ninja").exists():
        subprocess.run(
            ["meson", "setup", str(build), str(ROOT), "-Ddaemon=false", "-Dtests=false"],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    subprocess.run(["ninja", "-C", str(build), NAME], check=True, stdout=subprocess.DEVNULL)
    return build / NAME


class Library:
    """The loaded library."""

    def __init__(self, path: pathlib.Path):
        c = self.c = ctypes.CDLL(str(path))
        pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
        for name, result, arguments in (
            ("seismo_row_size", size, []),
            ("seismo_value_name", text, [ctypes.c_int]),
            ("seismo_features_n", ctypes.c_int, []),
            ("seismo_features_version", ctypes.c_uint, []),
            ("seismo_feature_name", text, [ctypes.c_int]),
            ("seismo_feature_group", text, [ctypes.c_int]),
            ("seismo_features_batch", None, [pointer, size, pointer]),
            ("seismo_model_load", pointer, [text, text]),
            ("seismo_model_free", None, [pointer]),
            ("seismo_model_scores", None, [pointer, ctypes.c_int, pointer, size, pointer, pointer]),
            (
                "seismo_detector_batch",
                pointer,
                [pointer, pointer, size, text, text] + 4 * [pointer],
            ),
            ("seismo_free", None, [pointer]),
        ):
            function = getattr(c, name)
            function.restype, function.argtypes = result, arguments
        names = [c.seismo_value_name(i).decode() for i in range(len(archive.VALUES))]
        if c.seismo_row_size() != archive.ROW.itemsize or names != archive.VALUES:
            raise RuntimeError(f"{path} has other step fields than the client: build it again")
        self.features = [c.seismo_feature_name(i).decode() for i in range(c.seismo_features_n())]
        self.groups = [c.seismo_feature_group(i).decode() for i in range(c.seismo_features_n())]
        self.version = int(c.seismo_features_version())

    def features_of(self, rows: np.ndarray) -> np.ndarray:
        """Features after each row of one run: rows × features, float32."""
        rows = np.ascontiguousarray(rows, archive.ROW)
        out = np.empty((len(rows), len(self.features)), np.float32)
        self.c.seismo_features_batch(rows.ctypes.data, len(rows), out.ctypes.data)
        return out


class Model:
    """A model file, loaded by the detector itself."""

    def __init__(self, library: Library, path: pathlib.Path):
        self.library = library
        message = ctypes.create_string_buffer(256)
        self.handle = library.c.seismo_model_load(str(path).encode(), message)
        if not self.handle:
            raise RuntimeError(message.value.decode())

    def close(self) -> None:
        """Free it."""
        if self.handle:
            self.library.c.seismo_model_free(self.handle)
            self.handle = None

    def scores(self, features: np.ndarray, head: int) -> tuple:
        """(margins, calibrated scores) of rows of all features by one of the instability heads."""
        features = np.ascontiguousarray(features, np.float32)
        margin, score = (np.empty(len(features), np.float32) for _ in range(2))
        self.library.c.seismo_model_scores(
            self.handle, head, features.ctypes.data, len(features), margin.ctypes.data,
            score.ctypes.data,
        )  # fmt: skip
        return margin, score

    def run(self, rows: np.ndarray, name: str = "run", program: str = "program") -> tuple:
        """(scores, verdicts) of a whole run by the online verdict code."""
        rows = np.ascontiguousarray(rows, archive.ROW)
        score = np.empty(len(rows), np.float32)
        text = self.library.c.seismo_detector_batch(
            self.handle, rows.ctypes.data, len(rows), name.encode(), program.encode(),
            score.ctypes.data, None, None, None,
        )  # fmt: skip
        try:
            verdicts = json.loads(ctypes.string_at(text).decode())
        finally:
            self.library.c.seismo_free(text)
        return score, verdicts

    def first_critical(self, rows: np.ndarray):
        """The first critical verdict of a run that says it is unstable, or None."""
        for verdict in self.run(rows)[1]:
            if verdict["state"] == "unstable" and verdict["severity"] == "critical":
                return verdict
        return None
