"""Learning curves on unseen programs: over the number of programs learnt from, and over the share
of their runs."""

import zlib

import numpy as np

from models.training import bench, evaluate, fit

PROGRAMS = (3, 6, 12, 25, 50)
SHARES = (0.1, 0.25, 0.5)
DRAWS = 3
"""Draws of small sets of programs or runs; the figures are their mean."""


def _rank(text: str) -> int:
    return zlib.crc32(text.encode())


def _by_programs(b: bench.Bench, k: int, size: int, draw: int) -> np.ndarray:
    """Rows to learn from of so many programs outside of fold k."""
    names = sorted(
        {r.program for r, f in zip(b.runs, b.unseen) if f != k},
        key=lambda p: _rank(f"{draw}:{k}:{p}"),
    )[:size]
    return np.flatnonzero(np.isin(b.program, names) & (b.unseen[b.of_run] != k))


def _by_share(b: bench.Bench, k: int, share: float, draw: int) -> np.ndarray:
    """Rows of a share of the runs outside of fold k."""
    some = np.array([_rank(f"{draw}:{r.name}") % 1000 < 1000 * share for r in b.runs])
    return np.flatnonzero(some[b.of_run] & (b.unseen[b.of_run] != k))


def _figures(b: bench.Bench, chosen, draws: int) -> dict:
    """Mean over draws of the figures on unseen programs; chosen(fold, draw) → rows. Empty where a
    draw has runs of one kind only."""
    names = bench.shipped(b.library)
    tops, caught = [], []
    for draw in range(draws):
        margins = [None] * len(b.runs)
        for k in sorted(set(b.unseen)):
            rows = chosen(k, draw)
            if len(set(b.y[rows])) < 2:
                return {}  # too few runs to learn anything from
            fitted = b.fit(names, rows)
            for i, m in b.margins(fitted, np.flatnonzero(b.unseen == k)).items():
                margins[i] = m
        tops.append(np.array([fit.confirmed(m) for m in margins]))
        alarms = bench.alarms_at(b.runs, b.outcome, margins, b.unseen)
        caught.append(bench.caught_flags(b.outcome, alarms))
    o = b.outcome

    def auroc(c):
        bad, good = c[o.positive[c]], c[o.negative[c]]
        return float(np.mean([evaluate.auroc(t[bad], t[good]) for t in tops]))

    def share(c):
        return bench.mean(np.mean(caught, axis=0), c[o.positive[c]])

    everything = np.arange(len(b.runs))
    return dict(
        auroc=auroc(everything), auroc_interval=bench.interval(b.runs, auroc),
        caught=share(everything), caught_interval=bench.interval(b.runs, share),
    )  # fmt: skip


def over_programs(b: bench.Bench) -> list:
    """By number of programs; the last point is all outside of a fold."""
    most = min(len({r.program for r, f in zip(b.runs, b.unseen) if f != k}) for k in set(b.unseen))
    out = []
    for size in [n for n in PROGRAMS if n < most] + [most]:
        draws = DRAWS if size <= 12 else 1
        found = _figures(b, lambda k, d, n=size: _by_programs(b, k, n, d), draws)
        out += [dict(programs=size, draws=draws, **found)] if found else []
    return out


def over_runs(b: bench.Bench) -> list:
    """By share of the runs of all programs."""
    out = []
    for share in (*SHARES, 1.0):
        draws = DRAWS if share <= 0.1 else 1
        found = _figures(b, lambda k, d, s=share: _by_share(b, k, s, d), draws)
        out += [dict(share=share, draws=draws, **found)] if found else []
    return out
