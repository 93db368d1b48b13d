"""Recorded traces: one JSON object a line, plain or gzip.

The first line is a header (`run`, `program`, and what else is known of `framework`, `optimizer`,
`batch_size`, `n_params`, `params`, `seed`), every further line one step with the step fields. A
missing field is an absent key; non-finite numbers are the strings "nan", "inf" and "-inf". Numbers
are written as the float32 that a daemon would have stored, so that scoring the file offline sees
the same bits as scoring the run live. `step` and `time` keep their full precision.
"""

from __future__ import annotations

import gzip
import json
import math
import operator
import os
import struct
import threading
import unicodedata
import zlib
from typing import Any, Iterator, Mapping

from seismo._protocol import FIELDS, MAX_NAME

_FLOAT = struct.Struct("<f")
_BUFFER = 1 << 16  # bytes gathered before a write
_VALUE0 = 2  # position of the first float32 field; step and time come before it


def number_text(value: float) -> str:
    """JSON text of a number as float32: nine digits give its bits back exactly.

    A finite number beyond float32's range becomes infinite, as a C conversion makes it.
    """
    try:
        value = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError:
        value = math.copysign(math.inf, value)
    if value - value == 0.0:
        return f"{value:.9g}"
    return f'"{value}"'  # 'nan', 'inf' or '-inf'


class Writer:
    """Writes a trace file; gzip when the path ends in `.gz`. An existing file is replaced.

    Raises OSError when the file cannot be opened or written and ValueError for a bad header or
    row: this is a plain file writer. `seismo.Run(trace=…)` catches and counts those errors.

    What is written is only ever a whole number of lines, so a killed job leaves a readable file
    (its last rows, at most 64 kB of text, are missing; call `flush` to bound that). Threads may
    share it, and so may a signal handler: its row goes with the next ones.
    """

    def __init__(self, path: str | os.PathLike, *, run: str, program: str, **header: Any) -> None:
        for name, text in (("run", run), ("program", program)):
            if not isinstance(text, str) or not 0 < len(text.encode()) <= MAX_NAME:
                raise ValueError(f"{name} must be a text of 1 to {MAX_NAME} bytes, not {text!r}")
            if any(unicodedata.category(c) == "Cc" for c in text):
                raise ValueError(f"{name} must be free of control characters, it is {text!r}")
        self.path = os.fspath(path)
        head = {"run": run, "program": program}
        head.update((key, value) for key, value in header.items() if value is not None)
        self._lines = [json.dumps(head, default=str, allow_nan=False)]
        self._bytes = len(self._lines[0])
        # The file is unbuffered and the buffer is ours: a forked child that exits in the usual way
        # would otherwise write the parent's buffer a second time.
        self._file = open(self.path, "wb", buffering=0)
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if self.path.endswith(".gz") else None
        self._lock = threading.RLock()  # the file, the compressor and their order
        self._busy = False  # with them; a signal handler comes in past the lock
        self._ended = False
        self.rows = 0
        self._drain()

    def step(self, step: int, **fields: float | None) -> None:
        """Write one row; a field that is None is left out, an unknown one raises ValueError."""
        for name in fields:
            if name not in FIELDS:
                raise ValueError(
                    f"{name!r} is not a step field; the fields are {', '.join(FIELDS)}"
                )
        row = [fields.get(name) for name in FIELDS]
        row[0] = int(operator.index(step))  # before Python 3.10 the index of True is True
        if row[0] < 0:
            raise ValueError(f"step must not be negative, it is {step}")
        self.write(row)

    def write(self, row: list) -> None:
        """Write one row given as the values of all fields in canonical order, None = absent."""
        parts = [f'{{"step":{row[0]}']
        if row[1] is not None and math.isfinite(row[1]):
            parts.append(f'"time":{float(row[1])!r}')
        for name, value in zip(FIELDS[_VALUE0:], row[_VALUE0:]):
            if value is not None:
                parts.append(f'"{name}":{number_text(value)}')
        line = ",".join(parts) + "}"
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line)
            self.rows += 1
            if self._bytes >= _BUFFER:
                self._drain()

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        with self._lock:
            self._drain(zlib.Z_SYNC_FLUSH)

    def close(self) -> None:
        """Write the rest and close the file; closing twice is harmless."""
        with self._lock:
            if not self._file.closed:
                self._ended = True
                self._drain()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _drain(self, flush: int = zlib.Z_NO_FLUSH) -> None:
        """Write the lines there are, and the end when it has come, if only just now."""
        if self._busy:
            return
        try:
            self._busy = True
            self._write(flush)
            if self._ended:
                self._write(zlib.Z_FINISH)
        finally:
            self._busy = False
            if self._ended:
                self._file.close()

    def _write(self, flush: int) -> None:
        lines, self._lines, self._bytes = self._lines, [], 0
        data = "".join(line + "\n" for line in lines).encode()
        if self._gzip:
            data = self._gzip.compress(data) + self._gzip.flush(flush)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: (row[name] if name == "step" else float(row[name]))
        for name in FIELDS
        if row.get(name) is not None
    }


def read(path: str | os.PathLike) -> Iterator[dict]:
    """Yield the header, then every row as a dict of numbers; keys that are no field are ignored.

    Raises ValueError naming file and line for a line that is no JSON object, has no `step`, or
    holds something that is no number, and OSError or EOFError for a file cut short.
    """
    name = os.fspath(path)
    with (gzip.open if name.endswith(".gz") else open)(name, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if number == 1:
                    yield dict(row)
                    continue
                row["step"] = operator.index(row["step"])
                yield _numbers(row)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"{name}:{number}: not a line of a trace: {error!r}") from None
