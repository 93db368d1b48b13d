"""Folds: of whole programs, and of runs for comparison."""

import zlib

import numpy as np

from models.training import evaluate


def by_run(runs: list, n: int) -> np.ndarray:
    """Folds that split runs, not programs: programs are seen."""
    return np.array([zlib.crc32(("run:" + r.name).encode()) % n for r in runs])


def by_program(runs: list, n: int) -> np.ndarray:
    """Folds of whole programs: programs are unseen."""
    dealt = evaluate.folds([r.program for r in runs], n)
    return np.array([dealt[r.program] for r in runs])
