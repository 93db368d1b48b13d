"""A thread that begins with the first row, and sleeps until a byte comes through its pipe.

It is begun and woken from the training, where a signal handler may come in anywhere, and do the
same: nothing here waits for what such a handler may have interrupted.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time

from seismo import _exit
from seismo._log import Once
from seismo._queue import Queue

NEVER = sys.maxsize  # rows
START_AGAIN = 1.0  # s after which a thread that could not be had is tried again


def _open_pipe() -> tuple[int, int]:
    pipe = os.pipe()
    for end in pipe:
        os.set_blocking(end, False)
    return pipe


class Worker:
    """`_work` is what the thread does, `_leave` how it ends, whatever happened."""

    def __init__(self, queue: Queue, report: Once) -> None:
        self.queue = queue
        self._report = report
        self._lock = threading.RLock()  # the pipe, and the thread's start
        self._pipe: tuple[int, int] | None = None
        self._starting = self._started = False
        self._start_at = -math.inf
        self._vacant = [True]  # who takes it out is the thread
        self._thread: threading.Thread | None = None
        self._dead = False  # there is no thread any more to take rows
        self._deadline = math.inf
        self._done = threading.Event()

    def _work(self, wake_fd: int) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError

    def wait(self) -> None:
        """Until the thread has ended, or should have."""
        self._start(at_once=True)
        if not self._started:
            self._give_up_start()
        left = max(0.0, self._deadline - time.monotonic()) + 0.5
        if self._done.wait(min(left, threading.TIMEOUT_MAX)) and self._thread is not None:
            # What is left is its end, unless that waits for what a signal handler interrupts here.
            self._thread.join(0.1)

    def _start(self, at_once: bool = False) -> None:
        """Begin the thread, or try again later when there is none to be had.

        A signal handler that comes in passes the lock, but not the flag: threading has a lock of
        its own. One that comes in just before, or raises after the thread has begun, leads to a
        second thread, which ends at once.
        """
        with self._lock:
            if self._starting or self._started or self._dead:
                return
            if not at_once and time.monotonic() < self._start_at:
                return
            try:
                self._starting = True
                if self._pipe is None:
                    self.queue.until = NEVER
                    self._pipe = _open_pipe()
                threading.Thread(target=self._main, name="seismo", daemon=True).start()
                self.queue.wake_fd = self._pipe[1]
                self._started = True
            except Exception as error:  # noqa: BLE001
                self._start_at = time.monotonic() + START_AGAIN
                self._report("thread", "seismo: the run's thread cannot begin yet: %s", error)
            finally:
                self._starting = False

    def _give_up_start(self) -> None:
        """No thread could be had, and none is wanted any more."""
        try:
            self._vacant.pop()
        except IndexError:
            return  # there is one after all
        self._end()

    def _wake(self) -> None:
        with self._lock:
            if self._pipe is not None:
                self.queue.until = NEVER
                try:
                    os.write(self._pipe[1], b"\0")
                except OSError:
                    pass  # full: the thread will wake up anyway

    def _main(self) -> None:
        try:
            self._vacant.pop()
        except IndexError:
            self._wake()  # the other one: whoever began this took it for asleep
            return
        self._thread = threading.current_thread()
        try:
            self._work(self._pipe[0])
        finally:
            self._dead = True
            self.queue.wake_fd = -1
            try:
                self._leave()
            finally:
                self._end()

    def _end(self) -> None:
        """Without the lock at first: whoever has it may wait for this, in a signal handler."""
        self._dead = True
        self._done.set()
        _exit.leaving.discard(self)
        with self._lock:
            self.queue.wake_fd = -1
            pipe, self._pipe = self._pipe, None
        for end in pipe or ():
            os.close(end)
