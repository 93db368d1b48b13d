"""One archive a program: a zip of packed traces, and beside it one line a run of what only labels
may see.

A packed trace is a line of JSON (the header of a trace file), then, compressed by xz: the steps,
the presence masks and the present values field by field, their bytes transposed. Values are rounded
to few bits of mantissa (`BITS`), because more digits are noise and don't compress. `unpack PROGRAM
DIR` writes ordinary trace files, which `seismo score` reads.
"""

import json
import lzma
import os
import pathlib
import zipfile

import numpy as np

from seismo._protocol import FIELDS

TRACES = pathlib.Path(__file__).parent / "traces"
VALUES = list(FIELDS[2:])
ROW = np.dtype(
    {
        "names": ["step", "time", "present", "value"],
        "formats": ["<i8", "<f8", "<u4", ("<f4", (len(VALUES),))],
        "offsets": [0, 8, 16, 20],
        "itemsize": 24 + 4 * len(VALUES),
    }
)
"""`struct seismo_row` of proto/row.h."""

BITS = {
    "loss": 22,
    "probe_loss": 22,
    "val_loss": 16,
    "param_norm": 18,
    "lr": 20,
    "grad_nonfinite": 22,
}
"""Bits of mantissa kept (float32 has 23): nearly all for losses, whose differences are curvature,
and for what moves slowly; 12, an error below 1.3e-4, for everything else."""


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """float32 rounded to so many bits of mantissa; non-finite values stay what they are."""
    drop = 23 - bits
    raw = np.ascontiguousarray(x, "<f4").view("<u4")
    cut = ((raw + np.uint32(1 << drop >> 1)) >> np.uint32(drop)) << np.uint32(drop)
    return np.where(np.isfinite(x), cut, raw).astype("<u4").view("<f4")


def rows_from_json(objects: list) -> np.ndarray:
    """Rows from the objects of a trace file, rounded, without their clock."""
    rows = np.zeros(len(objects), ROW)
    rows["time"] = np.nan
    rows["step"] = [o["step"] for o in objects]
    for i, name in enumerate(VALUES):
        there = np.array([name in o for o in objects], bool)
        values = np.array([float(o.get(name, 0.0)) for o in objects], np.float32)
        rows["present"] |= there.astype(np.uint32) << np.uint32(i)
        rows["value"][:, i] = rounded(values, BITS.get(name, 12))
    return rows


def _transposed(x: np.ndarray) -> bytes:
    return np.ascontiguousarray(x).view(np.uint8).reshape(len(x), x.itemsize).T.tobytes()


def pack(header: dict, rows: np.ndarray) -> bytes:
    """A packed trace."""
    body = [
        _transposed(np.diff(rows["step"], prepend=0).astype("<i8")),
        _transposed(rows["present"]),
    ]
    for i in range(len(VALUES)):
        body.append(_transposed(rows["value"][rows["present"] >> i & 1 == 1, i]))
    head = dict(header, rows=len(rows))
    return json.dumps(head).encode() + b"\n" + lzma.compress(b"".join(body), preset=9)


def unpack(data: bytes) -> tuple:
    """(header, rows) of a packed trace."""
    line, body = data.split(b"\n", 1)
    header = json.loads(line)
    n = header.pop("rows")
    raw = np.frombuffer(lzma.decompress(body), np.uint8)
    at = 0

    def take(count: int, kind: str) -> np.ndarray:
        nonlocal at
        size = np.dtype(kind).itemsize
        part = raw[at : at + count * size].reshape(size, count).T
        at += count * size
        return np.ascontiguousarray(part).view(kind)[:, 0]

    rows = np.zeros(n, ROW)
    rows["time"] = np.nan
    rows["step"] = np.cumsum(take(n, "<i8"))
    rows["present"] = take(n, "<u4")
    for i in range(len(VALUES)):
        there = rows["present"] >> i & 1 == 1
        rows["value"][there, i] = take(int(there.sum()), "<f4")
    return header, rows


def row_objects(rows: np.ndarray) -> list:
    """The rows as objects of a trace file."""
    out = []
    for row in rows:
        o = {"step": int(row["step"])}
        for i, name in enumerate(VALUES):
            if row["present"] >> i & 1:
                x = float(row["value"][i])
                o[name] = float(f"{x:.9g}") if np.isfinite(x) else str(x)
        out.append(o)
    return out


def names(folder: pathlib.Path = TRACES) -> list:
    """Programs that have an archive."""
    return sorted(p.stem for p in folder.glob("*.zip"))


def sides(program: str, folder: pathlib.Path = TRACES) -> list:
    """Side records of a program's runs, in order of their numbers."""
    path = folder / f"{program}.runs.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def members(program: str, folder: pathlib.Path = TRACES) -> dict:
    """Run name → packed trace; empty where there is no archive yet."""
    path = folder / f"{program}.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as z:
        return {n: z.read(n) for n in z.namelist()}


def write(program: str, packed: dict, records: list, folder: pathlib.Path = TRACES) -> None:
    """Write archive and side file anew, in the order of the runs, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{program}.zip.part"
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as z:
        for name in sorted(packed):
            z.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), packed[name])
    os.replace(temporary, folder / f"{program}.zip")
    lines = [
        json.dumps(r, separators=(",", ":")) for r in sorted(records, key=lambda r: r["number"])
    ]
    temporary = folder / f".{program}.runs.part"
    temporary.write_text("\n".join(lines) + "\n")
    os.replace(temporary, folder / f"{program}.runs.jsonl")
