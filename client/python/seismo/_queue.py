"""The queue from which a run's thread makes batches, and the way into it: in C (_speedups.c) where
that has been built, unless $SEISMO_PUREPYTHON is set, and else in Python."""

from __future__ import annotations

import collections
import functools
import os
from typing import Callable

from seismo._protocol import FIELDS

ROW_BYTES = 9 * len(FIELDS) + 3  # of a row as msgpack, at most


class PythonQueue:
    """Packed rows that wait for a place in a batch; of more than `limit` the oldest are dropped.

    until    rows in it from which on whoever adds one wakes the thread
    wake_fd  descriptor into which a byte is written for that; -1: there is no thread
    dropped  rows dropped so far
    taken    rows that came by `accelerated`: none

    All but the last may be written.
    """

    taken = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.until = 0
        self.wake_fd = -1
        self.dropped = 0
        self._rows: collections.deque[bytes] = collections.deque()
        # While the daemon is away rows take new memory, which the system gives page by page: every
        # twentieth step or so would wait for that. Taken and given back now, it stays with the
        # interpreter as long as some row is left in each of the blocks (256 kB, and 1 MB since
        # Python 3.10) it was taken in.
        self._reserve = [bytes(ROW_BYTES) for _ in range(limit)][::500]

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, row: bytes) -> bool:
        """Add one; whether it is the first for which another one had to go."""
        self._rows.append(row)
        if len(self._rows) <= self.limit:
            return False
        try:
            self._rows.popleft()
        except IndexError:
            return False  # the thread has just taken them all
        self.dropped += 1
        return self.dropped == 1

    def take(self, most: int) -> tuple[int, bytes]:
        """The oldest rows, at most so many: how many, and the rows one behind the other."""
        rows: list[bytes] = []
        while len(rows) < most:
            try:
                rows.append(self._rows.popleft())
            except IndexError:
                break  # that was all, or the training has dropped the oldest meanwhile
        return len(rows), b"".join(rows)


try:
    if os.environ.get("SEISMO_PUREPYTHON"):
        raise ImportError("not wanted")
    from seismo import _speedups

    if _speedups.INTERFACE != 1:
        raise ImportError("of another version")
except ImportError:
    Queue = PythonQueue

    def accelerated(function: Callable) -> Callable:
        """`function`, Run.step, itself."""
        return function

else:
    Queue = _speedups.Queue

    def accelerated(function: Callable) -> Callable:
        """`function`, Run.step, as a method that puts usual rows into the run's `_queue` in C, and
        calls it for all others."""
        return functools.update_wrapper(_speedups.Step(function), function)
