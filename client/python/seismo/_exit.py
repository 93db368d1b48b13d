"""The end of the program: runs that were forgotten are closed, and what says goodbye without
anybody waiting for it is waited for."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import Any

open_runs: weakref.WeakSet[Any] = weakref.WeakSet()
leaving: set[Any] = set()  # links that were closed without waiting; their threads take them out
_watcher = 0  # process in which the end is watched


def text_of(value: object) -> str:
    """Its text, also of an exception that has none to give; of None there is none."""
    try:
        return "" if value is None else str(value)
    except Exception:  # noqa: BLE001
        return "(it has no text)"


def outcome(
    kind: type[BaseException] | None, error: BaseException | None
) -> tuple[str, float, str]:
    """Arguments of `Run.close` for a block or program left by this exception."""
    if kind is None:
        return "finished", 5.0, ""
    if issubclass(kind, SystemExit) and getattr(error, "code", 1) in (None, 0):
        return "finished", 5.0, ""
    text = f"{kind.__name__}: {text_of(error)}"
    return ("aborted" if issubclass(kind, KeyboardInterrupt) else "failed"), 5.0, text


def watch(run: Any) -> None:
    """Close this run at the end of the program, unless it is collected before that."""
    global _watcher
    open_runs.add(run)
    if _watcher == os.getpid():
        return
    _watcher = os.getpid()
    atexit.register(_end_of_program)
    # A child of multiprocessing mostly ends without Python's exit functions, but with its own.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _end_of_child, exitpriority=0)


def _end_of_program() -> None:
    """The interpreter notes an uncaught exception in sys.last_type before this is called. At an
    interactive prompt that only tells of some earlier command, so there it says nothing."""
    kind = None if hasattr(sys, "ps1") else getattr(sys, "last_type", None)
    _close_all(kind, getattr(sys, "last_value", None))


def _end_of_child() -> None:
    _close_all(*sys.exc_info()[:2])  # it is still under way here


def _close_all(kind: type[BaseException] | None, error: BaseException | None) -> None:
    for run in list(open_runs):
        run.close(*outcome(kind, error))
    for link in list(leaving):
        link.wait()


def _after_fork() -> None:
    """In a forked child: the thread, the socket and the file belong to the parent."""
    leaving.clear()
    for run in list(open_runs):
        run._disabled = True
        run._queue = None
        run._lock = threading.RLock()  # another thread may have had it


os.register_at_fork(after_in_child=_after_fork)
