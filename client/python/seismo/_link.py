"""The way to the daemon: a bounded queue, and a thread that owns the socket.

The training thread only puts a row into the queue and, when the thread sleeps for long or very many
rows wait, writes one byte into a pipe. Everything else happens in the thread: rows become numbered
batches, a batch is kept until the daemon has acknowledged it as durable, and is sent again when the
daemon asks for it or is heard of anew. PROTOCOL.md has the rules.
"""

from __future__ import annotations

import collections
import json
import math
import os
import threading
import time
from typing import Any, Callable, Mapping

import zmq
from zmq.utils.monitor import parse_monitor_message

from seismo import _exit, _keys, _wire
from seismo._log import Once
from seismo._protocol import ACK, ERROR, FIELDS, MAX_MESSAGE, MAX_TEXT, MAX_UNACKED, WELCOME
from seismo._queue import ROW_BYTES, Queue
from seismo._spool import Spool, Unreadable
from seismo._worker import NEVER, Worker

LIMIT = 65536  # rows that may wait for a place in a batch
BATCH_ROWS = 64
BATCH_AGE = 0.1  # s from one batch to the next one that is not full
WAKE_ROWS = 1024  # that wake the thread before that; waking it costs the training a system call

HELLO_AGAIN = 5.0  # s without an acknowledgement, or an answer to HELLO
BUSY = 0.2  # s before trying again what the daemon had no room for
ONCE = 1.0  # s in which going back, or greeting, on the daemon's word is done once
IDLE = 60.0  # s after which the thread looks around for no reason
REFUSED = 60.0  # s before a HELLO that was refused is repeated
KEYS_AGAIN = 5.0  # s before trying again a daemon that the keys did not fit
UNHEARD = 1.0  # s that `close` waits for a daemon that never answered


class Batch:
    """Rows under a number, encoded; `goodbye` instead of rows for the one that ends the session."""

    __slots__ = ("number", "count", "rows", "goodbye", "sent", "end")

    def __init__(
        self,
        number: int,
        count: int,
        rows: bytes,
        goodbye: tuple[str, str] | None = None,
        end: int = 0,
    ) -> None:
        self.number = number
        self.count = count
        self.rows = rows
        self.goodbye = goodbye
        self.sent = False
        self.end = end  # of its record in the spool; 0: it is in memory only

    def encode(self, number: int | None = None) -> bytes:
        """The message, under another number if one is given."""
        number = self.number if number is None else number
        if self.goodbye is not None:
            return _wire.bye(number, *self.goodbye)
        return _wire.steps_of(number, self.count, self.rows)


class Link(Worker):
    """One run's session with the daemon. The thread starts with the first row, or, as what an
    earlier process left may have to be sent, at once when there is a spool.

    With a spool a row goes from the queue into a batch in its file, and the batches follow one
    another from there; only while the file cannot be written they are made from the queue.
    """

    def __init__(
        self,
        run: str,
        program: str,
        ingest: str,
        rank: int,
        world: int,
        meta: Mapping[str, Any],
        report: Once,
        spool: str | None = None,
        server_key_file: str | os.PathLike | None = None,
        key_file: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(Queue(LIMIT), report)
        self.verdict: dict | None = None
        self.callbacks: list[Callable[[dict], Any]] = []
        self.probe_every: int | None = None

        self._about = (
            run,
            program,
            rank,
            world,
            json.dumps(meta, allow_nan=False, ensure_ascii=False),
        )
        self._ingest = ingest
        self._key_files = (server_key_file, key_file)
        self._shown: str | None = None  # the run's name as the daemon calls it
        self._acked = 0
        self._rejected = 0
        self._inherited = 0
        self._spooled = 0

        self._closing: tuple[str, str] | None = None
        self._delivered = False

        # The thread's own.
        self._context: zmq.Context | None = None
        self._session = os.urandom(16)
        self._window: collections.deque[Batch] = collections.deque()  # not acknowledged
        self._next = 1  # number of the next batch
        self._welcomed = False
        self._ever_welcomed = False
        self._anew = False  # the session was begun in another one's place, and is not welcomed yet
        self._greeted = False  # HELLO has been said in this session
        self._refused = False
        self._parting = False  # the goodbye has its number
        self._shaken = False  # there is a connection, and its handshake is done
        self._blocked = False  # the socket took no more
        self._max_unacked = MAX_UNACKED
        self._batch_rows = BATCH_ROWS
        self._hello_due = 0.0
        self._hello_at = -math.inf
        self._batch_at = 0.0
        self._progress_at = 0.0  # the daemon acknowledged, or was given something after a pause
        self._went_back_at = -math.inf
        self._paused_until = -math.inf
        self._has_keys = False
        self._connect_at = math.inf  # libzmq has given up, and is told to try again then

        self._spool_path = spool
        self._spool: Spool | None = None
        self._spool_shift = 0  # of a batch's number against that in the file
        self._pending: Batch | None = None  # made for the spool, which did not take it
        self._settled = 0  # highest number acknowledged
        if spool:
            self._start()

    # Called from the training.

    def put(self, row: list) -> None:
        """Take one row: the values of all fields in canonical order."""
        queue = self.queue
        if self._dead:
            queue.dropped += 1
            return
        # Bytes are nothing to Python's garbage collector, which would go through tens of thousands
        # of lists again and again, in the training's time.
        if queue.put(_wire.row(row)):
            self._report(
                "dropped",
                "seismo: more than %d rows wait for the daemon at %s; the oldest are now dropped",
                queue.limit,
                self._ingest,
            )
        if not self._started:
            self._start()
        elif len(queue) >= queue.until:
            self._wake()

    def stats(self) -> dict[str, Any]:
        """Counters, in rows.

        The link's thread goes on counting meanwhile: what is acknowledged is read first, what was
        inherited last, so that no row is ever taken for safe that is not.
        """
        acked, spooled, inherited = self._acked, self._spooled, self._inherited
        pending = self._pending
        return {
            "acked": acked,
            "dropped": self.queue.dropped,
            "rejected": self._rejected,
            "queued": len(self.queue)
            + spooled
            + (pending.count if pending is not None else 0)
            + sum(batch.count for batch in tuple(self._window) if batch.end == 0),
            "connected": self._welcomed,
            "run": self._shown,
            "taken": inherited + self.queue.taken,
            "spooled": spooled,
        }

    def close(self, outcome: str, text: str, timeout: float, wait: bool = True) -> bool:
        """Say goodbye after the last row; returns whether all was acknowledged within `timeout` s.

        With `wait` False the thread does that alone, until the end of the program at the latest.
        """
        self._deadline = time.monotonic() + max(0.0, timeout)
        self._closing = (outcome, text)
        if not (self._started or self._starting or self.queue or self._spool_path):
            return True  # there was nothing to say
        self._wake()
        # Within a callback the thread would wait for itself, and a signal handler that has come
        # into the thread's start for what comes after it.
        if not wait or self._starting or self._thread is threading.current_thread():
            _exit.leaving.add(self)
            if self._done.is_set():
                _exit.leaving.discard(self)
            return False
        self.wait()
        if self.queue.dropped:
            self._report(
                "dropped in all",
                "seismo: %d rows were dropped, %d acknowledged",
                self.queue.dropped,
                self._acked,
            )
        return self._delivered

    # The thread.

    def _work(self, wake_fd: int) -> None:
        try:
            self._context = zmq.Context()
            socket = self._context.socket(zmq.DEALER)
            monitor = self._connect(socket)
            if self._spool_path:
                self._open_spool(self._spool_path)
            self._loop(socket, monitor, wake_fd)
        except BaseException as error:  # noqa: BLE001
            self._report(
                "link",
                "seismo: run %s is not streamed to %s: %s",
                self._about[0],
                self._ingest,
                _exit.text_of(error) or repr(error),
            )

    def _leave(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)  # with every socket, whoever else still refers to one
        self._welcomed = False
        self._delivered = self._parting and self._is_settled() and not self._rejected
        if self._spool is not None:
            self._spool.close(delete=self._parting and self._is_settled())

    def _connect(self, socket: zmq.Socket) -> zmq.Socket:
        """Returns the socket's monitor, which hears of every connection from the first one on."""
        socket.setsockopt(zmq.LINGER, 0)
        # Queue nothing towards a daemon that is not there: what is kept is kept here.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 30000)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        socket.setsockopt(zmq.IPV6, 1)
        keys = _keys.find(self._ingest, *self._key_files)
        if keys is not None:
            keys.apply(socket)
            self._has_keys = True
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | _keys.EVENTS)
        socket.connect(self._ingest)
        return monitor

    def _loop(self, socket: zmq.Socket, monitor: zmq.Socket, wake_fd: int) -> None:
        poller = zmq.Poller()
        poller.register(wake_fd, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        started = time.monotonic()
        while True:
            now = time.monotonic()
            self._pump(socket, now)
            if self._closing is not None:
                if not self._ever_welcomed:
                    self._deadline = min(self._deadline, max(now, started + UNHEARD))
                if self._refused or now >= self._deadline or self._parting and self._is_settled():
                    return
            poller.register(socket, zmq.POLLIN | (zmq.POLLOUT if self._blocked else 0))
            ready = dict(poller.poll(self._rest(now)))
            self.queue.until = NEVER
            if wake_fd in ready:
                os.read(wake_fd, 4096)
            if ready.get(socket, 0) & zmq.POLLIN:
                self._receive(socket)
            if monitor in ready:
                while monitor.poll(0):
                    self._notice(socket, parse_monitor_message(monitor.recv_multipart()))
            if time.monotonic() >= self._connect_at:
                self._connect_at = math.inf
                socket.disconnect(self._ingest)
                socket.connect(self._ingest)

    def _notice(self, socket: zmq.Socket, event: Mapping[str, Any]) -> None:
        """Something happened to the connection."""
        if event["event"] == zmq.EVENT_DISCONNECTED:
            # What was under way is lost, and a new connection is a new peer to the daemon. Nothing
            # is said until there is one: libzmq may still take it for the connection that is gone.
            self._shaken = self._welcomed = False
            return
        if event["event"] == _keys.HANDSHAKE_DONE:
            # While it sends, libzmq looks no more than about once a millisecond whether connections
            # have come or gone; asked for its events it looks always.
            socket.getsockopt(zmq.EVENTS)
            self._shaken = True
            self._greet_again(time.monotonic())
        words = _keys.trouble(self._has_keys, self._ingest, event["event"], event["value"])
        if words is None:
            return
        self._report(f"keys {event['event']}", "seismo: %s", words)
        if event["event"] != _keys.HANDSHAKE_BROKEN:
            self._connect_at = time.monotonic() + KEYS_AGAIN

    def _rest(self, now: float) -> int:
        """Milliseconds to wait for messages and rows; sets what number of rows shall end it."""
        until = [now + IDLE, self._connect_at]
        waiting = bool(self.queue or self._window)
        wake_at = NEVER
        if not self._welcomed:
            if waiting and self._shaken and not self._blocked:
                until.append(self._hello_due)
            elif not waiting:
                wake_at = 1
            if waiting and self._spool is not None and self._spool.ready:
                wake_at = self._wait_for_rows(now, until)
        else:
            if self._window:
                until.append(max(self._progress_at, self._paused_until) + HELLO_AGAIN)
            if now < self._paused_until:
                until.append(self._paused_until)
            elif self._takes_rows():
                wake_at = self._wait_for_rows(now, until)
        if self._closing is not None:
            until.append(self._deadline)
        elif self._blocked:
            until.append(now + HELLO_AGAIN)
        self.queue.until = wake_at
        if len(self.queue) >= wake_at:
            return 0  # came between the last look and now
        return max(0, math.ceil((min(until) - now) * 1000))

    def _wait_for_rows(self, now: float, until: list[float]) -> int:
        """How many rows shall end the rest. After a batch the next rows are taken when it is time
        for them, without being told of the first; only after a pause is the thread woken for one.
        """
        due = self._batch_at + BATCH_AGE
        if not self.queue and now >= due:
            return 1
        until.append(due)
        return WAKE_ROWS

    def _takes_rows(self) -> bool:
        """Whether rows can leave the queue."""
        if self._spool is not None and self._spool.ready:
            return self._pending is None
        return (
            self._bypasses_spool() and len(self._window) < self._max_unacked and not self._blocked
        )

    # What is said.

    def _pump(self, socket: zmq.Socket, now: float) -> None:
        """Say everything that can be said now."""
        if self._spool is not None:
            self._spool_rows(now)
            self._cut_spool()
            self._load(now)
        self._blocked = False
        if self._welcomed:
            stuck = max(self._progress_at, self._paused_until) + HELLO_AGAIN
            if self._window and now >= stuck:
                self._greet_again(now)
        if not self._welcomed:
            said = self.queue or self._window or self._ever_welcomed
            if self._shaken and said and now >= self._hello_due:
                self._greet(socket, now)
            return
        if now < self._paused_until:
            return
        if self._bypasses_spool():
            self._fill_window(now)
        for batch in self._window:
            if not batch.sent:
                if not self._send(socket, batch.encode()):
                    return
                batch.sent = True

    def _greet_again(self, when: float) -> None:
        self._welcomed = False
        self._hello_due = when

    def _greet(self, socket: zmq.Socket, now: float) -> None:
        run, program, rank, world, meta = self._about
        hello = _wire.hello(
            run, program, self._session, rank, world, FIELDS, meta, next=self._first()
        )
        if self._send(socket, hello):
            self._greeted = True
            self._hello_at = now
            self._hello_due = now + HELLO_AGAIN

    def _first(self) -> int:
        """The number of the first batch that is not acknowledged, or else of the next one; what is
        still in the file, and what it did not take, have their numbers already."""
        if self._window:
            return self._window[0].number
        unread = self._spool.unread if self._spool is not None else 0
        return self._next - unread - (self._pending is not None)

    def _send(self, socket: zmq.Socket, message: bytes) -> bool:
        try:
            socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self._blocked = True
            return False
        return True

    def _take_rows(self, now: float) -> tuple[int, bytes]:
        """Rows for a batch, when it is time for one."""
        full = len(self.queue) >= self._batch_rows
        if not full and self._closing is None and now < self._batch_at + BATCH_AGE:
            return 0, b""
        count, rows = self.queue.take(self._batch_rows)
        if count:
            self._batch_at = now
        return count, rows

    def _fill_window(self, now: float) -> None:
        """Make batches of the rows that wait, as far as the daemon lets some be under way."""
        while len(self._window) < self._max_unacked:
            count, rows = self._take_rows(now)
            goodbye = None if count else self._goodbye()
            if not count and goodbye is None:
                return
            if not self._window:
                self._progress_at = now
            self._window.append(Batch(self._next, count, rows, goodbye))
            self._next += 1

    def _goodbye(self) -> tuple[str, str] | None:
        """The farewell, once, when it is time for it."""
        if self._closing is None or self.queue or self._parting:
            return None
        self._parting = True
        outcome, text = self._closing
        if self.queue.dropped:
            text = f"{text} ({self.queue.dropped} rows dropped by the client)".strip()
        text = (
            text.replace("\0", "").encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore")
        )
        return outcome, text

    # By way of the spool.

    def _open_spool(self, path: str) -> None:
        run, program, rank, world, meta = self._about
        try:
            spool = Spool(path, run, program, rank, world, FIELDS, meta, self._session)
        except OSError as error:
            self._report(
                "spool", "seismo: no spool in %s: %s; run %s goes on without one", path, error, run
            )
            return
        self._session = spool.session
        self._next = spool.last + 1
        self._settled = spool.acked
        self._inherited = spool.inherited_rows
        self._spooled = spool.inherited_rows
        self._spool = spool

    def _is_settled(self) -> bool:
        """Nothing is left that is not acknowledged, but for what is in the queue."""
        unread = self._spool.unread if self._spool is not None else 0
        return not self._window and self._pending is None and not unread

    def _bypasses_spool(self) -> bool:
        spool = self._spool
        return spool is None or spool.failed and self._pending is None and spool.bare

    def _spool_rows(self, now: float) -> None:
        """Rows from the queue into the file, whatever the daemon does."""
        while self._spool.ready and self._pending is None:
            count, rows = self._take_rows(now)
            goodbye = None if count else self._goodbye()
            if not count and goodbye is None:
                return
            batch = Batch(self._next, count, rows, goodbye)
            self._next += 1
            local = batch.number - self._spool_shift
            try:
                self._spool.append(local, batch.encode(local))
                self._spooled += count
            except OSError as error:
                self._note_spool(error)
                self._pending = batch

    def _cut_spool(self) -> None:
        """A batch that the file did not take goes when all that the file has is acknowledged and taken
        away: the next process would use its number again."""
        spool = self._spool
        if not spool.failed or spool.bare or spool.unread or any(b.end for b in self._window):
            return
        try:
            spool.cut()
        except OSError as error:
            self._note_spool(error)

    def _load(self, now: float) -> None:
        """Batches from the file into the window; behind them the one that the file did not take."""
        while len(self._window) < self._max_unacked:
            if self._spool.unread:
                try:
                    number, *rest = self._spool.next()
                except Unreadable as error:
                    self._lose_unread(error)
                    continue
                batch = Batch(number + self._spool_shift, *rest)
            elif self._pending is not None and self._spool.bare:
                batch, self._pending = self._pending, None
            else:
                return
            if batch.number <= self._settled:
                self._count_acked(batch)
                continue
            if not self._window:
                self._progress_at = now
            self._window.append(batch)

    def _lose_unread(self, error: Unreadable) -> None:
        """What is in the file and not in the window is lost; its numbers go to what comes next."""
        lost = self._spooled - sum(batch.count for batch in self._window if batch.end)
        self._spooled -= lost
        self.queue.dropped += lost
        self._report("spool", "seismo: %s; %d rows are lost", error, lost)
        self._spool.skip()
        self._next = (self._window[-1].number if self._window else self._settled) + 1
        if self._pending is not None:
            self._pending.number = self._next
            self._next += 1

    def _note_spool(self, error: OSError) -> None:
        self._report(
            "spool", "seismo: spool %s: %s; rows are kept in memory", self._spool.path, error
        )

    # What is heard.

    def _receive(self, socket: zmq.Socket) -> None:
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            now = time.monotonic()
            try:
                if len(frames) != 1:
                    raise _wire.Malformed(f"a message of {len(frames)} frames")
                kind, message = _wire.decode(frames[0])
            except _wire.Malformed as error:
                self._report(
                    "message",
                    "seismo: the daemon at %s says something odd: %s",
                    self._ingest,
                    error,
                )
                continue
            if kind == WELCOME:
                self._hear_welcome(message, now)
            elif kind == ACK:
                self._hear_ack(message, now)
            elif kind == ERROR:
                self._hear_error(message, now)

    def _hear_welcome(self, message: dict[str, Any], now: float) -> None:
        if self._welcomed or not self._greeted:
            return  # the answer to a HELLO that was repeated; what it says may be long past
        if self._anew and message["last_batch"] > 0:
            return  # nothing of this session can be stored: it is about the one before
        self._shown = message["run"]
        self.probe_every = message["probe_every"]
        self._max_unacked = min(MAX_UNACKED, message["max_unacked"])
        self._batch_rows = max(
            1, min(BATCH_ROWS, message["max_rows"], message["max_bytes"] // ROW_BYTES)
        )
        first = self._first()
        if message["last_batch"] + 1 < first:
            # The daemon has lost what it had acknowledged (another database): a new session, in
            # which what is left counts from 1.
            self._session = os.urandom(16)
            self._settled = 0
            self._anew = True
            self._greeted = False
            self._renumber(1 - first)
            self._greet_again(now)
            return
        self._release(message["last_batch"])
        self._next = max(self._next, message["last_batch"] + 1)
        self._welcomed = self._ever_welcomed = True
        self._anew = False
        self._refused = False
        self._went_back_at = -math.inf
        self._go_back(now)

    def _renumber(self, shift: int) -> None:
        for batch in self._window:
            batch.number += shift
        if self._pending is not None:
            self._pending.number += shift
        self._next += shift
        self._spool_shift += shift

    def _release(self, batch: int) -> None:
        """Everything up to this batch is durable."""
        end = 0
        self._settled = max(self._settled, batch)
        while self._window and self._window[0].number <= batch:
            done = self._window.popleft()
            self._count_acked(done)
            end = done.end or end
        if self._spool is not None:
            try:
                self._spool.settle(self._settled - self._spool_shift, end, self._is_settled())
            except OSError as error:
                self._note_spool(error)

    def _count_acked(self, batch: Batch) -> None:
        """In this order, so that stats() counts no row twice."""
        if batch.end:
            self._spooled -= batch.count
        self._acked += batch.count

    def _go_back(self, now: float) -> None:
        """Send again from the first batch that is not acknowledged.

        Of a row of batches each is answered by an error once one of them is missing: only the
        first of those answers counts, the others speak of what was sent before.
        """
        if now < self._went_back_at + ONCE:
            return
        self._went_back_at = now
        self._progress_at = now
        for batch in self._window:
            batch.sent = False

    def _hear_ack(self, message: dict[str, Any], now: float) -> None:
        if not self._anew:  # else it counts the batches of the session before
            self._release(message["batch"])
        self._progress_at = now
        for text in message["verdicts"]:
            try:
                verdict = json.loads(text)
            except ValueError as error:
                self._report("verdict", "seismo: a verdict is no JSON: %s", error)
                continue
            self.verdict = verdict
            for callback in tuple(self.callbacks):
                try:
                    callback(verdict)
                except BaseException as error:  # noqa: BLE001 -- sys.exit() ends no thread of ours
                    self._report(
                        "callback", "seismo: on_verdict's %r: %r", callback, error, exc_info=True
                    )

    def _hear_error(self, message: dict[str, Any], now: float) -> None:
        code, ref = message["code"], message["ref"]
        said = f"{message['text']}; {message['hint']}" if message["hint"] else message["text"]
        if code == "hello_required":  # restarted, or a connection that it takes for a new one
            self._greet_again(max(now, self._hello_at + ONCE))
            return
        if code == "out_of_order":
            self._go_back(now)
            return
        self._report(
            f"error {code}", "seismo: the daemon at %s answers %s: %s", self._ingest, code, said
        )
        if code == "denied":  # for now: what is here is kept, and offered again
            self._refused = True
            self._greet_again(now + REFUSED)
        elif code == "busy":
            self._paused_until = now + BUSY
            self._went_back_at = -math.inf
            self._go_back(now)
        elif not self._welcomed and ref is None:
            self._refused = True
            self._hello_due = now + REFUSED
        else:
            self._give_up(ref, now)

    def _give_up(self, ref: int | None, now: float) -> None:
        """A batch is refused for good: its number is still due, so it goes again without rows."""
        for batch in self._window:
            if batch.number == ref:
                if batch.goodbye is not None:
                    self._window.remove(batch)  # the last one; there is nothing to wait for
                    return
                self._rejected += batch.count
                if batch.end:
                    self._spooled -= batch.count
                batch.count, batch.rows = 0, b""
                self._went_back_at = -math.inf
                self._go_back(now)
                return
