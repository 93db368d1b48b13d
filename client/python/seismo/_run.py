"""`Run`: one training run as its training loop sees it."""

from __future__ import annotations

import json
import operator
import os
import re
import sys
import threading
import time
from typing import Any, Callable, Mapping

from seismo import _exit, trace as _trace
from seismo._log import Once
from seismo._protocol import DEFAULT_INGEST, FIELDS, MAX_META, MAX_NAME, MAX_TIME, OUTCOMES
from seismo._queue import accelerated

_INDEX = {name: position for position, name in enumerate(FIELDS)}
_N_FIELDS = len(FIELDS)
_STEP, _TIME, _LOSS = _INDEX["step"], _INDEX["time"], _INDEX["loss"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _shorten(text: str, limit: int) -> str:
    """`text` without control characters, cut to at most `limit` bytes of UTF-8."""
    text = _CONTROL.sub("?", text)
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _default_program() -> str:
    return os.path.basename(sys.argv[0] if sys.argv else "") or "python"


def _metadata(meta: Mapping[str, Any], report: Once) -> dict[str, Any]:
    """What of `meta` is JSON and fits into a HELLO; keys that do not are left out and reported."""
    kept: dict[str, Any] = {}
    size = 2
    for key, value in meta.items():
        if value is None:
            continue
        try:
            item = _json_item(key, value)
            encoded = len(json.dumps(item, ensure_ascii=False).encode())
        except Exception as error:  # noqa: BLE001
            report("meta", "seismo: metadata %r is left out: %s", key, error)
            continue
        if size + encoded > MAX_META:
            report("meta", "seismo: metadata %r is left out: over %d bytes in all", key, MAX_META)
            continue
        size += encoded
        kept.update(item)
    return kept


def _json_item(key: Any, value: Any) -> dict[str, Any]:
    """The pair as JSON that any reader takes: no NaN, NUL, half characters or huge integers."""
    try:
        text = json.dumps({str(key): value}, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError):
        text = json.dumps({str(key): str(value)}, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode().replace("\\u0000", "?")
    return json.loads(text, parse_int=lambda n: int(n) if abs(int(n)) < 1 << 63 else float(n))


class Run:
    """Streams the statistics of one training run to the daemon and, if asked, into a trace file.

    run      name of the run; default `$SEISMO_RUN`, else the program's name and the time. 1 to 128
             bytes. The daemon adds "#2" when another job already uses the name.
    program  what is being trained; default the script's file name
    ingest   the daemon's endpoint; default `$SEISMO_INGEST`, else tcp://127.0.0.1:7747. False or ""
             (also "off" in the environment) streams to no daemon: no socket and no thread.
    rank, world   position among the processes of one job; ranks above 0 are runs of their own
    meta     mapping with anything worth keeping (hyper-parameters, host, …): up to 8 kB of JSON
    spool    directory for what the daemon has not acknowledged; default `$SEISMO_SPOOL`, else none.
             See below
    server_key_file, key_file   for a daemon on another machine that asks for keys: files of its
             public key and of your own secret one; default `$SEISMO_SERVER_KEY_FILE` and
             `$SEISMO_KEY_FILE`. Not used for ipc endpoints.
    trace    path of a trace file to write as well (`.gz` compresses; an existing file is replaced)

    Nothing here blocks or raises, whatever the daemon does: rows wait in memory, 65,536 at most;
    past that the oldest are dropped, counted and reported. The 16 MB for them are taken when the Run
    is made, so that hardly a step has to wait for memory. Errors are logged once a kind (logger
    "seismo") and counted in `stats`. A forked child's copy is switched off; a process that is to
    stream makes its own Run. Rows go into the trace file from the calling thread, through a 64 kB
    buffer.

    With `spool` the background thread keeps rows in a file there as well, at the latest 0.1 s after
    `step`, until the daemon has acknowledged them. What a process that dies leaves there is sent by
    the next one that makes a Run of the same name, program and rank with the same spool, in the same
    session, so that the daemon stores it exactly once. It survives the death of the process, not a
    power cut (nothing is synced). A file holds 256 MB, about a million rows; beyond, rows wait in
    memory. It is deleted when the run is closed and all is acknowledged. Processes never share a
    file. When it cannot be written that is logged once and counted, and the run goes on in memory.
    """

    def __init__(
        self,
        run: str | None = None,
        program: str | None = None,
        *,
        ingest: str | bool | None = None,
        server_key_file: str | os.PathLike | None = None,
        key_file: str | os.PathLike | None = None,
        rank: int = 0,
        world: int = 1,
        meta: Mapping[str, Any] | None = None,
        trace: str | os.PathLike | None = None,
        spool: str | os.PathLike | None = None,
    ) -> None:
        self._report = Once()
        self._lock = threading.RLock()  # a signal handler may close what is being closed
        self._closed = False
        self._disabled = False
        self._lost = False  # a trace or stream that was wanted is not there
        self._rows = 0
        self._refused = 0
        self._trace: _trace.Writer | None = None
        self._link: Any = None
        self._queue: Any = None  # the link's, while `step` may put rows into it in C
        self.program = self._name(program or _default_program(), "program")
        self.run = self._name(
            run
            or os.environ.get("SEISMO_RUN")
            or f"{self.program}-{time.strftime('%Y%m%d-%H%M%S')}",
            "run",
        )
        self.rank, self.world = self._place(rank, world)
        self.meta = _metadata(meta or {}, self._report)
        self._open_trace(trace)
        self._open_link(ingest, spool, server_key_file, key_file)
        if self._link is not None and self._trace is None:
            self._queue = self._link.queue
        _exit.watch(self)

    # What the training loop calls.

    @accelerated
    def step(self, step: int, **fields: Any) -> None:
        """Hand over the statistics of one optimizer step.

        step     optimizer step, an integer >= 0; one not above the last says that the job resumed
                 from a checkpoint, and the later rows are superseded
        fields   by the names of the interface (`loss` is required); a number, anything float()
                 takes, or None for "not measured". NaN and infinities are data. `time` (seconds
                 since the epoch) is stamped here unless it is given.

        Costs a few microseconds and never raises: a row without a usable step or loss is refused,
        an unknown field or a value that is no number is left out; both are logged once and counted.
        """
        if self._closed or self._disabled:
            self._refused += 1
            self._report(
                "closed",
                "seismo: run %s is closed (or belongs to the parent process); its rows are ignored",
                self.run,
            )
            return
        try:
            row = self._row(step, fields)
        except Exception as error:  # noqa: BLE001
            self._refused += 1
            self._report("row", "seismo: a row of run %s is refused: %s", self.run, error)
            return
        self._rows += 1
        if self._link is not None:
            try:
                self._link.put(row)
            except Exception as error:  # noqa: BLE001
                self._link.queue.dropped += 1
                self._report("put", "seismo: a row of run %s is dropped: %s", self.run, error)
        if self._trace is not None:
            try:
                self._trace.write(row)
            except Exception as error:  # noqa: BLE001
                self._lose_trace(error)

    @property
    def verdict(self) -> dict | None:
        """The latest verdict heard from the daemon (the document of `seismo verdicts --json`)."""
        return self._link.verdict if self._link is not None else None

    def on_verdict(self, callback: Callable[[dict], Any]) -> Callable[[dict], Any]:
        """Call `callback(verdict)` for every verdict that arrives from now on.

        It runs in the background thread; what it raises is logged once and counted. Returns the
        callback, so that it can serve as a decorator.
        """
        if self._link is not None:
            self._link.callbacks.append(callback)
        return callback

    @property
    def probe_every(self) -> int | None:
        """How often the daemon would like curvature probes, in steps; None until it has said so."""
        return self._link.probe_every if self._link is not None else None

    @property
    def stats(self) -> dict[str, Any]:
        """Counters since the start.

        steps            rows taken, and found in the spool
        refused_steps    rows not taken: no usable step or loss, or the run was closed
        acked_steps      rows that the daemon has acknowledged, and so has on disk
        dropped_steps    rows dropped because more than 65,536 waited
        rejected_steps   rows that the daemon refused as malformed
        queued_steps     rows not acknowledged yet
        spooled_steps    those of them that are in the spool's file
        errors           troubles of any kind; each kind was logged once
        connected        whether the daemon has greeted this session and not gone since
        run              the run's name as the daemon shows it
        """
        counts = self._link.stats() if self._link is not None else {}
        return {
            "steps": self._rows + counts.get("taken", 0),
            "refused_steps": self._refused,
            "acked_steps": counts.get("acked", 0),
            "dropped_steps": counts.get("dropped", 0),
            "rejected_steps": counts.get("rejected", 0),
            "queued_steps": counts.get("queued", 0),
            "spooled_steps": counts.get("spooled", 0),
            "errors": self._report.total,
            "connected": counts.get("connected", False),
            "run": counts.get("run") or self.run,
        }

    def close(self, outcome: str = "finished", timeout: float = 5.0, text: object = "") -> bool:
        """End the run: write the trace out, send what is left, say goodbye.

        outcome   "finished", "failed" or "aborted"
        timeout   seconds to wait at most until the daemon has acknowledged everything; a daemon
                  that was never heard of is given one second
        text      a line for the record, for instance the exception

        Returns whether everything reached its place. Closing twice is harmless.
        """
        return self._close(outcome, timeout, text)

    def _close(self, outcome: str, timeout: float, text: object, wait: bool = True) -> bool:
        if self._disabled:
            return self._closed
        with self._lock:
            if self._closed:
                return True
            self._closed = True
            self._queue = None
        _exit.open_runs.discard(self)
        if outcome not in OUTCOMES:
            self._report(
                "outcome", "seismo: outcome %r is none of %s; 'finished' is sent", outcome, OUTCOMES
            )
            outcome = "finished"
        if self._trace is not None:
            try:
                self._trace.close()
            except Exception as error:  # noqa: BLE001
                self._lose_trace(error)
        if self._link is None:
            return not self._lost
        return self._link.close(outcome, _exit.text_of(text), _seconds(timeout), wait)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        self.close(*_exit.outcome(kind, error))

    def __del__(self) -> None:
        # Forgotten before the program's end: say goodbye from the background, which is waited for
        # only then.
        if hasattr(self, "_queue"):
            self._close("finished", 5.0, "", wait=False)

    # How it is done.

    def _name(self, name: Any, what: str) -> str:
        text = _shorten(str(name), MAX_NAME)
        if text != name:
            self._report(
                what,
                "seismo: the %s's name %r becomes %r: at most %d bytes, no control characters",
                what,
                name,
                text,
                MAX_NAME,
            )
        return text

    def _place(self, rank: Any, world: Any) -> tuple[int, int]:
        try:
            rank, world = int(operator.index(rank)), int(operator.index(world))
        except TypeError:
            rank, world = -1, 0
        if not 0 <= rank < world < 1 << 31:
            self._report(
                "rank", "seismo: rank must be below world and not negative; taken as 0 of 1"
            )
            return 0, 1
        return rank, world

    def _open_trace(self, path: str | os.PathLike | None) -> None:
        if not path:
            return
        try:
            self._trace = _trace.Writer(path, run=self.run, program=self.program, **self.meta)
        except Exception as error:  # noqa: BLE001
            self._lose_trace(error)

    def _lose_trace(self, error: Exception) -> None:
        self._trace = None
        self._lost = True
        self._report("trace", "seismo: no trace is written from here on: %s", error)

    def _open_link(
        self,
        ingest: str | bool | None,
        spool: str | os.PathLike | None,
        *key_files: str | os.PathLike | None,
    ) -> None:
        if ingest is None or ingest is True:
            ingest = os.environ.get("SEISMO_INGEST") or DEFAULT_INGEST
            if ingest == "off":
                return
        if not ingest:
            return
        try:
            from seismo._link import Link  # pyzmq and msgpack are needed only to stream

            self._link = Link(
                self.run,
                self.program,
                str(ingest),
                self.rank,
                self.world,
                self.meta,
                self._report,
                os.fspath(spool) if spool else os.environ.get("SEISMO_SPOOL"),
                *key_files,
            )
        except Exception as error:  # noqa: BLE001
            self._lost = True
            self._report(
                "link", "seismo: run %s is not streamed to %s: %s", self.run, ingest, error
            )

    def _row(self, step: Any, fields: dict[str, Any]) -> list:
        """The row as the values of all fields in canonical order; raises for a row to refuse."""
        row: list = [None] * _N_FIELDS
        # Before Python 3.10 the index of True is True, which goes as no integer.
        row[_STEP] = step if type(step) is int else int(operator.index(step))
        if not 0 <= row[_STEP] < 1 << 63:
            raise ValueError(f"step must be an integer from 0 to 2^63 - 1, it is {step}")
        row[_TIME] = time.time()
        for name, value in fields.items():
            if type(value) is not float:
                if value is None:
                    continue
                try:
                    value = float(value)
                except Exception as error:  # noqa: BLE001
                    self._report(
                        f"value of {name}", "seismo: %s is left out of a row: %s", name, error
                    )
                    continue
            position = _INDEX.get(name)
            if position is None:
                self._report(
                    f"field {name}",
                    "seismo: %r is not a step field and is left out; the fields are %s",
                    name,
                    ", ".join(FIELDS),
                )
                continue
            row[position] = value
        if row[_LOSS] is None:
            raise ValueError(f"step {step} has no loss")
        if not abs(row[_TIME]) <= MAX_TIME:
            row[_TIME] = None  # a clock that the daemon would not take says nothing
        return row


def _seconds(timeout: Any) -> float:
    """As a thread can wait."""
    try:
        return min(max(0.0, float(timeout)), threading.TIMEOUT_MAX / 2)
    except (TypeError, ValueError):
        return 5.0
