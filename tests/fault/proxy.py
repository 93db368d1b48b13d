"""A bad network: stands between clients and a daemon and loses, doubles, reorders and delays messages.

Clients connect to `endpoint`; each gets a connection of its own to the daemon, so that the daemon
sees as many peers. Runs in a thread of its own.
"""
import heapq
import itertools
import threading
import time

import zmq


class Proxy:
    """`lose`, `double`, `late` are shares of the messages, in both directions; a late one comes up to
    `delay` seconds later, and so behind others."""

    def __init__(self, endpoint, daemon, draw, lose=0.0, double=0.0, late=0.0, delay=0.3):
        self.endpoint, self.daemon, self.draw = endpoint, daemon, draw
        self.lose, self.double, self.late, self.delay = lose, double, late, delay
        self.counts = {"passed": 0, "lost": 0, "doubled": 0, "delayed": 0}
        self._stop = threading.Event()
        self._ready = threading.Event()
        self.error = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self):
        self._stop.set()
        self._thread.join()
        assert self.error is None, self.error

    def _main(self):
        context = zmq.Context()
        try:
            self._serve(context)
        except Exception as error:  # noqa: BLE001 -- told by close()
            self.error = error
        finally:
            context.destroy(linger=0)

    def _serve(self, context):
        front = context.socket(zmq.ROUTER)
        front.bind(self.endpoint)
        self._ready.set()
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        backs: dict = {}  # client: socket to the daemon
        clients: dict = {}  # socket to the daemon: client
        held: list = []  # when, number, client or None, socket, message
        number = itertools.count()
        while not self._stop.is_set():
            wait = max(0.0, held[0][0] - time.monotonic()) if held else 0.05
            ready = dict(poller.poll(min(wait, 0.05) * 1000))
            now = time.monotonic()
            for socket in ready:
                while True:
                    try:
                        parts = socket.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    if socket is front:
                        client, message = parts
                        if client not in backs:
                            back = context.socket(zmq.DEALER)
                            back.linger = 0
                            back.connect(self.daemon)
                            backs[client], clients[back] = back, client
                            poller.register(back, zmq.POLLIN)
                        to = (None, backs[client], message)
                    else:
                        to = (clients[socket], front, parts[0])
                    for when in self._fate(now):
                        heapq.heappush(held, (when, next(number), *to))
            while held and held[0][0] <= now:
                _, _, client, socket, message = heapq.heappop(held)
                socket.send_multipart([message] if client is None else [client, message],
                                      zmq.NOBLOCK)

    def _fate(self, now) -> list:
        """When the message is to be passed on: never, once or twice."""
        if self.draw.random() < self.lose:
            self.counts["lost"] += 1
            return []
        self.counts["passed"] += 1
        times = [now]
        if self.draw.random() < self.double:
            self.counts["doubled"] += 1
            times.append(now + self.draw.uniform(0, self.delay))
        if self.draw.random() < self.late:
            self.counts["delayed"] += 1
            times[0] += self.draw.uniform(0, self.delay)
        return times
