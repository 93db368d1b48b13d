"""Runs recorded a second time with a probe every 5 steps: how much the usual 10 lose.

The trajectories are the corpus's own, so the labels are taken from there; only rows differ.
"""

import dataclasses
import hashlib
import pathlib

from models.corpus import archive
from models.training import bench, sets

EVERY = 5
RATES = (5, 10, 20, 50)


def digest(folder: pathlib.Path) -> str:
    """Names what is recorded."""
    h = hashlib.sha256()
    for program in archive.names(folder):
        h.update((folder / f"{program}.zip").read_bytes())
    return h.hexdigest()[:8]


def load(folder: pathlib.Path, runs: list) -> list:
    """The recorded ones of the runs, with their finer rows."""
    packed = {}
    for program in archive.names(folder):
        packed.update(archive.members(program, folder))
    return [
        dataclasses.replace(r, rows=archive.unpack(packed[r.name])[1])
        for r in runs
        if r.name in packed
    ]


def rates(b: bench.Bench) -> dict:
    """Figures by steps between probes, all on these runs."""
    told = sets.probe_rates(b, EVERY, RATES)
    return {f"{label} ({len(b.runs)} runs probed every 5)": f for label, f in told.items()}
