"""A client of the wire by hand that keeps its own books: what it sent, what was acknowledged."""
import os

import msgpack
import zmq

from jobs import FIELDS, history
from seismo import _protocol as protocol

AGAIN = 5.0  # s without an answer before saying HELLO again, as in the real clients


class RawPeer:
    """Streams a job at `rate` rows a second, in batches of random sizes; misbehaves as `draw` says.

    It sends batches twice, vanishes and comes back in the same session, and dies: a new session
    then resumes from a checkpoint, which is a step not above the first one that is not acknowledged.
    `histories` holds for each name that the daemon gave it the rows acknowledged in order, and
    `doubtful` those that were under way when it died.
    """

    def __init__(self, endpoint, job, draw, rate=200.0, mischief=0.0, context=None,
                 again=AGAIN):
        self.endpoint, self.job, self.draw, self.rate = endpoint, job, draw, rate
        self.mischief = mischief  # incidents a second
        self.again = again
        self.context = context or zmq.Context.instance()
        self.socket = None
        self.acked: dict = {}  # shown name: rows acknowledged, in the order sent
        self.doubtful: dict = {}
        self.shown = None
        self.at = 0  # next row of the job
        self.allowed = 0.0
        self.last = None
        self.finished = False
        self.deaths = self.vanishings = self.doubles = 0
        self.dead_until = 0.0
        self._new_session()

    def _new_session(self):
        self.session = os.urandom(16)
        self.window: list = []  # [number, rows or None for BYE, sent]
        self.next = 1
        self.welcomed = False
        self.said_bye = False
        self.hello_at = -1e9
        self.progress_at = 0.0

    def close(self):
        if self.socket is not None:
            self.socket.close(linger=0)
            self.socket = None
        self.welcomed = False

    def _connect(self):
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        self.socket.connect(self.endpoint)

    def _send(self, *message) -> bool:
        try:
            self.socket.send(msgpack.packb(message), zmq.NOBLOCK)
            return True
        except zmq.Again:
            return False

    def poll(self, now):
        """Does what is due; call it often."""
        if self.finished or now < self.dead_until:
            return
        if self.socket is None:
            self._connect()
        elapsed, self.last = now - (self.last or now), now
        self.allowed = min(self.allowed + elapsed * self.rate, 4000.0)
        self._receive(now)
        if self.finished:
            return
        if self.mischief and self.draw.random() < elapsed * self.mischief:
            self._misbehave(now)
            if self.socket is None:
                return
        stuck = self.window and now - self.progress_at > self.again
        if (not self.welcomed or stuck) and now - self.hello_at > self.again:
            self.welcomed = False
            if self._send(protocol.HELLO, {
                    "version": 1, "run": self.job.name, "program": self.job.program,
                    "session": self.session, "fields": FIELDS, "meta": "{}",
                    "next": self.window[0][0] if self.window else self.next}):
                self.hello_at = now
        if self.welcomed:
            self._fill(now)
            self._flush()

    def _fill(self, now):
        while len(self.window) < 48 and self.at < len(self.job.rows):
            n = min(self.draw.randrange(1, 48), len(self.job.rows) - self.at)
            if self.allowed < n:
                break
            self.allowed -= n
            self._add(self.job.rows[self.at:self.at + n], now)
            self.at += n
        if self.at == len(self.job.rows) and not self.said_bye:
            self.said_bye = True
            self._add(None, now)

    def _add(self, rows, now):
        if not self.window:
            self.progress_at = now
        self.window.append([self.next, rows, False])
        self.next += 1

    def _flush(self):
        for entry in self.window:
            if not entry[2] and not self._post(entry):
                return

    def _post(self, entry) -> bool:
        number, rows, _ = entry
        if rows is None:
            sent = self._send(protocol.BYE, number, "finished", "")
        else:
            sent = self._send(protocol.STEPS, number,
                              [[row.get(f) if not isinstance(row.get(f), str) else float(row[f])
                                for f in FIELDS] for row in rows])
        entry[2] = entry[2] or sent
        return sent

    def _misbehave(self, now):
        kind = self.draw.randrange(4)
        if kind == 0 and self.welcomed and self.window:
            self.doubles += 1
            self._post(self.draw.choice(self.window[:8]))
        elif kind == 1:
            self.vanishings += 1
            self.close()
            self.hello_at = -1e9
        elif kind == 2 and not self.said_bye and self.shown == self.job.name:
            # A second run beside the first one never dies: the next session might go on with either.
            self._die(now)

    def _die(self, now):
        """As a job that is killed: what was not acknowledged is lost, and done again."""
        self.deaths += 1
        under_way = [row for _, rows, _ in self.window for row in rows or []]
        self.doubtful[self.shown] = under_way
        self.close()
        # Back to a checkpoint: a place in the rows whose step is not above what is in doubt.
        self.at -= len(under_way)
        first = self.job.rows[self.at]["step"] if self.at < len(self.job.rows) else 1 << 62
        lowest = min([row["step"] for row in under_way], default=first)
        back = self.draw.randrange(0, 200)
        while self.at > 0 and (back > 0 or self.job.rows[self.at]["step"] > lowest):
            self.at -= 1
            back -= 1
        self._new_session()
        self.dead_until = now + 0.3  # until the daemon cannot mistake it for a second job

    def _receive(self, now):
        while self.socket is not None:
            try:
                message = msgpack.unpackb(self.socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            kind = message[0]
            if kind == protocol.WELCOME:
                self._welcome(message[1], now)
            elif kind == protocol.ACK:
                self._release(message[1], now)
            elif kind == protocol.ERROR:
                self._error(message[1], message[4], now)

    def _welcome(self, about, now):
        if self.welcomed:
            return  # doubled, or the answer to a HELLO that was repeated
        self.shown = about["run"]
        self.acked.setdefault(self.shown, [])
        self._release(about["last_batch"], now)
        assert not self.window or about["last_batch"] + 1 == self.window[0][0] \
            or about["last_batch"] == 0, f"{self.shown}: acknowledged batches are gone: {about}"
        self.welcomed = True
        self.progress_at = now
        for entry in self.window:
            entry[2] = False

    def _release(self, batch, now):
        while self.window and self.window[0][0] <= batch:
            _, rows, _ = self.window.pop(0)
            self.progress_at = now
            if rows is None:
                self.finished = True
                self.close()
                return
            self.acked[self.shown].extend(rows)
            if rows:  # what was in doubt before is now superseded or beside the point
                self.doubtful.pop(self.shown, None)

    def _error(self, code, ref, now):
        assert code in ("hello_required", "out_of_order", "busy"), (self.job.name, code, ref)
        if code == "hello_required":
            self.welcomed = False
            self.hello_at = min(self.hello_at, now - self.again)
        else:
            for entry in self.window:
                entry[2] = False

    def expected(self) -> dict:
        """What must be stored under each name, and what may follow it."""
        return {name: (history(rows), self.doubtful.get(name, []))
                for name, rows in self.acked.items()}
