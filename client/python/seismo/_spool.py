"""The client spool: what a run has not had acknowledged, in a file, for the next process.

It survives the death of the process, not a power cut: nothing is synced. PROTOCOL.md describes the
file, which libseismo reads and writes too: records of length, CRC-32 and a message of the wire
protocol; HELLO first, STEPS and BYE before they are sent, ACK when they are acknowledged.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import zlib
from typing import Any, Sequence

import msgpack

from seismo import _wire
from seismo._protocol import ACK, BYE, HELLO, STEPS

MAX = 256 << 20  # bytes of a file; more rows wait in memory
COMPACT = 8 << 20  # bytes acknowledged at which they are taken away
FILES = 16  # jobs of one run, program and rank at the same time
RECORD = 64 << 10  # bytes of the largest message

_HEAD = struct.Struct("<II")
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_open: set[tuple[int, int]] = set()  # files of this process, which record locks do not tell apart
_open_lock = threading.Lock()


def _after_fork() -> None:
    """In a forked child: a thread that stayed behind may have the lock, and the files are not ours.
    """
    global _open_lock
    _open_lock = threading.Lock()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


class Unreadable(Exception):
    """The file cannot be read back any more."""


def _file_name(run: str, program: str, rank: int, number: int) -> str:
    name = run.encode("utf-8", "replace")
    readable = bytes(c if c in _PLAIN else ord("_") for c in name[:64]).decode()
    total = zlib.crc32(name + b"\0" + program.encode("utf-8", "replace") + struct.pack("<I", rank))
    return f"{readable}.{total:08x}.{number}.spool"


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


class Spool:
    """The file of one run. Opening raises OSError; so do `append` and `settle`.

    session   that of the file: of an earlier process, when it left something
    acked, last   highest batch acknowledged, and written
    unread    batches that `next` has still to give
    inherited_rows   rows that an earlier process left
    failed    nothing is written until everything is acknowledged

    Positions in the file are counted from the first byte ever written; `_base` is what has been
    taken away since.
    """

    def __init__(
        self,
        directory: str,
        run: str,
        program: str,
        rank: int,
        world: int,
        fields: Sequence[str],
        meta: str,
        session: bytes,
    ) -> None:
        self.session = session
        self.fields = list(fields)
        self.acked = self.last = self.unread = self.inherited_rows = 0
        self.failed = False
        self.max, self.compact_at = MAX, COMPACT
        self._about = (run, program, rank)
        self._fd = -1
        self._base = self._size = self._head = 0
        self._read_at = self._settled_at = self._inherited_until = 0
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with _open_lock:
            taken = any(
                self._try(os.path.join(directory, _file_name(run, program, rank, number)))
                for number in range(1, FILES + 1)
            )
        if not taken:
            raise OSError("jobs of the same name have all its files")
        try:
            if self._size == 0:
                self._put(_wire.hello(run, program, session, rank, world, fields, meta))
                self._head = self._size
                self._begin_anew()
        except OSError:
            self.close(False)
            raise

    # Opening.

    def _try(self, path: str) -> bool:
        """Take this file unless somebody has it, or it is another run's."""
        self.path = path
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in _open:
                return False  # opening it once more would cost that one its lock
        except FileNotFoundError:
            pass
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # dies with us, no child inherits it
            status = os.stat(path)
            current = _identity(fd) == (status.st_dev, status.st_ino)
        except OSError:
            current = False
        self._fd = fd
        if not current or not self._scan():
            os.close(fd)
            self._fd = -1
            return False
        _open.add(_identity(fd))
        os.ftruncate(fd, self._size)  # a torn record at the end
        return True

    def _scan(self) -> bool:
        """Read the whole file; whether it is ours, or empty."""
        at = 0
        batches = []  # number, rows, end of its record
        session = self.session
        self._size = 0
        while (message := self._get(at)) is not None:
            try:
                kind, what, rows = self._read(message, first=at == 0)
            except Exception:  # noqa: BLE001 -- msgpack alone raises half a dozen kinds
                if at == 0:
                    return False  # it is whole, but nothing that we write
                break
            at += _HEAD.size + len(message)
            if kind == HELLO:
                about = (what["run"], what["program"], what["rank"], what["fields"])
                if about != (*self._about, self.fields):
                    return False
                session = what["session"]
                self._head = self._settled_at = at
            elif kind in (STEPS, BYE):
                batches.append((what, rows, at))
            elif kind == ACK:
                self.acked = max(self.acked, what)
            self._size = at
        self.last = max([self.acked, *(number for number, _, _ in batches[-1:])])
        if self.last == 0:
            # Nobody knows how far the session had come: what was there was acknowledged, and its
            # process died before it had noted the number. So this one has a session of its own.
            self._size = 0
            return True
        self.session = session
        for number, rows, end in batches:
            if number > self.acked:
                self.unread += 1
                self.inherited_rows += rows
            else:
                self._settled_at = end
        self._read_at = self._settled_at
        self._inherited_until = self._size
        return True

    @staticmethod
    def _read(message: bytes, first: bool) -> tuple[int, Any, int]:
        """Kind, batch (of HELLO: what it holds) and number of rows; raises for what is not ours."""
        kind, what, *parts = msgpack.unpackb(message)
        if first != (kind == HELLO):
            raise ValueError("HELLO comes first, and only there")
        if kind != HELLO and type(what) is not int:
            raise ValueError("a batch has a number")
        if kind == HELLO and not (
            {"run", "program", "rank", "fields"} <= what.keys() and type(what["session"]) is bytes
        ):
            raise ValueError("HELLO lacks something")
        return kind, what, len(parts[0]) if kind == STEPS else 0

    def close(self, delete: bool) -> None:
        """`delete`: there is nothing left to carry on."""
        if self._fd < 0:
            return
        with _open_lock:
            _open.discard(_identity(self._fd))
            if delete:
                with contextlib.suppress(OSError):  # somebody has deleted it already
                    os.unlink(self.path)
            os.close(self._fd)
        self._fd = -1

    # Records.

    def _get(self, at: int) -> bytes | None:
        """The message of the record there; None at the end of what is whole."""
        head = os.pread(self._fd, _HEAD.size, at - self._base)
        if len(head) < _HEAD.size:
            return None
        length, total = _HEAD.unpack(head)
        if not 0 < length <= RECORD:
            return None
        message = os.pread(self._fd, length, at - self._base + _HEAD.size)
        if len(message) < length or zlib.crc32(message) != total:
            return None
        return message

    def _put(self, message: bytes) -> None:
        data = _HEAD.pack(len(message), zlib.crc32(message)) + message
        try:
            at = self._size - self._base
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written
        except OSError:
            os.ftruncate(self._fd, self._size - self._base)
            raise
        self._size = self._base + at

    # Use.

    @property
    def ready(self) -> bool:
        """Whether `append` may be tried: it has not failed, and there is room."""
        return not self.failed and self._size - self._base + _HEAD.size + RECORD <= self.max

    @property
    def bare(self) -> bool:
        """Whether there is nothing but the HELLO: the next process takes a session of its own."""
        return self._size - self._base == self._head

    def cut(self) -> None:
        """Take away everything but the HELLO."""
        os.ftruncate(self._fd, self._head)
        self._size = self._base + self._head
        self._begin_anew()

    def append(self, batch: int, message: bytes) -> None:
        """Keep a STEPS or BYE message of this number."""
        try:
            self._put(message)
        except OSError:
            self.failed = True
            raise
        self.last = batch
        self.unread += 1

    def next(self) -> tuple[int, int, bytes, tuple[str, str] | None, int]:
        """The next batch: number, how many rows, the rows encoded, farewell, and where its record
        ends.

        The farewell of an earlier process is void, as the job goes on; its number is not.
        """
        while True:
            try:
                message = self._get(self._read_at)
            except OSError:
                message = None
            if message is None:
                raise Unreadable(f"{self.path} cannot be read back")
            kind, number = self._kind_and_number(message)
            self._read_at += _HEAD.size + len(message)
            if kind not in (STEPS, BYE):
                continue
            self.unread -= 1
            if kind == STEPS:
                return number, *_wire.split_steps(message), None, self._read_at
            void = self._read_at <= self._inherited_until
            goodbye = None if void else tuple(msgpack.unpackb(message)[2:4])
            return number, 0, b"", goodbye, self._read_at

    @staticmethod
    def _kind_and_number(message: bytes) -> tuple[int, int]:
        unpacker = msgpack.Unpacker()
        unpacker.feed(message)
        unpacker.read_array_header()
        return unpacker.unpack(), unpacker.unpack()

    def skip(self) -> None:
        """Give up what was not read; counts as a failure to write."""
        self._read_at = self._size
        self.unread = 0
        self.failed = True

    def settle(self, batch: int, end: int, everything: bool) -> None:
        """Batches up to `batch`, whose records end at `end` (0: unknown), are acknowledged;
        `everything`: and none that was ever made is not."""
        if batch <= self.acked and not (everything and self.failed):
            return
        self._settled_at = max(self._settled_at, end)
        try:
            if everything:  # begin anew, also after a failure: perhaps there is room again
                self.cut()
                self.failed = False
            if self.failed:
                return
            self.acked = max(self.acked, batch)
            self.last = max(self.last, self.acked)
            self._put(msgpack.packb([ACK, self.acked, None, []]))
            if everything:
                self._read_at = self._size
            done = self._settled_at - self._base
            if done > self._head + self.compact_at and 2 * done > self._size - self._base:
                self._compact()
        except OSError:
            self.failed = True
            raise

    def _begin_anew(self) -> None:
        self._read_at = self._settled_at = self._inherited_until = self._size

    def _compact(self) -> None:
        """Write the file anew without what is acknowledged. The new one is locked before it has
        the name, so that nobody can take it."""
        path = f"{self.path}.new"
        fd = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with open(fd, "wb", closefd=False) as file:
                file.write(os.pread(self._fd, self._head, 0))
                at, end = self._settled_at - self._base, self._size - self._base
                while at < end:
                    part = os.pread(self._fd, min(1 << 20, end - at), at)
                    if not part:
                        raise OSError("the file is shorter than it was")
                    file.write(part)
                    at += len(part)
            with _open_lock:
                os.rename(path, self.path)
                _open.discard(_identity(self._fd))
                _open.add(_identity(fd))
                os.close(self._fd)
                self._fd = fd
        except OSError:
            os.close(fd)
            os.unlink(path)
            raise
        self._base = self._settled_at - self._head
