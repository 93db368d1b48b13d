"""Training jobs made of recorded traces, and what a daemon must have stored of them.

A job is what a training process hands over, in order: rows (dicts of step fields) whose steps go
back wherever it resumes from a checkpoint. The rows of a second attempt at a step differ from those
of the first, so that a stale row that is left behind shows.
"""
import json
import math
import pathlib
import random
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "client" / "python"), str(ROOT / "tests" / "lib")]

from models.corpus import archive  # noqa: E402

VALUES = archive.VALUES
FIELDS = ["step", *VALUES]
_library: list = []


def number(value) -> float:
    """The value of a trace's key: a number, or the text of one that is not finite."""
    return float(value)


def bits(row: dict) -> tuple:
    """What is stored of a row, comparable: its step and the bits of each measurement."""
    return (row["step"], *(
        None if row.get(name) is None
        else "nan" if math.isnan(number(row[name])) else struct.pack("<f", number(row[name]))
        for name in VALUES))


def library() -> list:
    """Recorded runs, as lists of rows: healthy ones and broken ones of all kinds of programs."""
    if not _library:
        programs = archive.names()
        for i, program in enumerate(programs):
            packed = archive.members(program)
            for k in (i % 7, 20 + i % 11, 35 + i % 13):
                data = packed.get(f"{program}-{k:04d}")
                if data is not None:
                    _library.append(archive.row_objects(archive.unpack(data)[1]))
    return _library


def row_of(seed: int, step: int, attempt: int = 0) -> dict:
    """The row of a step of the job `seed`, of one attempt: recorded runs one after the other."""
    runs = library()
    run = runs[(seed * 31 + step // 300 * 17 + attempt * 7) % len(runs)]
    return {**run[step % len(run)], "step": step}


class Job:
    """Rows to hand over: `resumes` times the job goes back by up to `back` steps and on from there."""

    def __init__(self, name: str, seed: int, steps: int, resumes: int = 0, back: int = 300):
        self.name, self.program, self.seed = name, f"{name}.py", seed
        draw = random.Random(seed)
        at = sorted(draw.randrange(1, steps) for _ in range(resumes))
        self.rows, step, attempt = [], 0, 0
        for end in [*at, steps]:
            while step < end:
                self.rows.append(row_of(seed, step, attempt))
                step += 1
            if end != steps:
                step = max(0, step - draw.randrange(1, back))
                attempt += 1

    def write(self, path: pathlib.Path, rows=None) -> pathlib.Path:
        """As a trace file."""
        with open(path, "w", encoding="utf-8") as file:
            print(json.dumps({"run": self.name, "program": self.program}), file=file)
            for row in self.rows if rows is None else rows:
                print(json.dumps(row), file=file)
        return path


def history(rows) -> list:
    """What is left of rows in the order given when each one that goes back takes back the later."""
    kept: list = []
    for row in rows:
        while kept and kept[-1]["step"] >= row["step"]:
            kept.pop()
        kept.append(row)
    return kept


def same_rows(stored: list, expected: list, what: str) -> None:
    """Fails when the stored rows are not exactly the expected ones, in order."""
    for i, (one, other) in enumerate(zip(stored, expected)):
        assert bits(one) == bits(other), (
            f"{what}: row {i} stored is step {one['step']}, expected step {other['step']}"
            + ("" if one["step"] != other["step"] else f", another content: {one} / {other}"))
    assert len(stored) == len(expected), f"{what}: {len(stored)} rows stored, not {len(expected)}"
