"""A daemon that keeps what it is sent in memory and misbehaves when told to."""
import threading

import msgpack
import zmq
from polling import wait_for
from seismo import _protocol as protocol


class FakeDaemon:
    """Follows PROTOCOL.md's rules for sessions and batches over one ROUTER socket.

    `rows` holds what is stored (dicts of the fields present), `hellos` and `byes` what was said.
    Behaviour a test may change at any time: `silent` (answer nothing), `forget` (do not know any
    peer until its next HELLO), `lose` (set of batch numbers to lose once), `answer` (function of
    a STEPS message that may return another answer), `verdicts` (texts for the next ACK).
    """

    def __init__(self, endpoint="tcp://127.0.0.1:*", **welcome):
        self.context = zmq.Context()
        self.welcome = {
            "max_rows": 1024,
            "max_bytes": 1 << 20,
            "max_unacked": 64,
            "probe_every": 10,
            **welcome,
        }
        self.silent = False
        self.lose = set()
        self.answer = None
        self.verdicts = []
        self.rows, self.hellos, self.byes, self.batches = [], [], [], []
        self.sessions = {}  # session: last batch
        self.due = {}  # session: the batch that is due while it has none
        self.peers = {}  # routing id: session
        self.fields = ()
        self.sizes = []  # rows of each stored batch
        self.received = []  # numbers of all batches that came, stored or not
        self._bind(endpoint)

    def _bind(self, endpoint):
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        wait_for(lambda: self._bound(endpoint), what=f"{endpoint} to be free")
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stop = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _bound(self, endpoint):
        """libzmq closes the socket of `down` in a thread of its own, perhaps later than this."""
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            return False
        return True

    def down(self):
        """Stop as if killed: sockets gone, what was stored stays."""
        self._stop = True
        self._thread.join()
        self.socket.close()
        self.peers.clear()

    def up(self):
        """Come back on the same endpoint."""
        self._bind(self.endpoint)

    def close(self):
        self.down()
        self.context.term()

    def forget(self):
        """Know no peer any more, as after a restart that the connection survived."""
        self.peers.clear()

    def _serve(self):
        while not self._stop:
            if self.socket.poll(10):
                peer, data = self.socket.recv_multipart()
                if not self.silent:
                    self._hear(peer, msgpack.unpackb(data))

    def say(self, peer, *message):
        self.socket.send_multipart([peer, msgpack.packb(list(message))])

    def _hear(self, peer, message):
        kind = message[0]
        if kind == protocol.HELLO:
            about = message[1]
            self.hellos.append(about)
            self.fields = about["fields"]
            self.peers[peer] = about["session"]
            last = self.sessions.setdefault(about["session"], 0)
            self.due[about["session"]] = about.get("next", 1)
            self.say(
                peer,
                protocol.WELCOME,
                {
                    "version": 1,
                    "run": about["run"],
                    "last_batch": last,
                    "last_step": None,
                    **self.welcome,
                },
            )
            return
        batch = message[1]
        self.received.append(batch)
        session = self.peers.get(peer)
        if session is None:
            self.say(peer, protocol.ERROR, "hello_required", "", "", batch)
            return
        if batch in self.lose:
            self.lose.discard(batch)
            return
        last = self.sessions[session] or self.due[session] - 1
        if batch > last + 1:
            self.say(peer, protocol.ERROR, "out_of_order", f"batch {batch} after {last}", "", batch)
            return
        answer = self.answer(message) if self.answer else None
        if answer is not None:
            self.say(peer, *answer)
            return
        if batch == last + 1:
            self.sessions[session] = batch
            if kind == protocol.BYE:
                self.byes.append(message[2:])
            else:
                self.batches.append(batch)
                self.sizes.append(len(message[2]))
                self.rows.extend(
                    {k: v for k, v in zip(self.fields, row) if v is not None} for row in message[2]
                )
        verdicts, self.verdicts = self.verdicts, []
        self.say(peer, protocol.ACK, self.sessions[session], None, verdicts)


def feed(run, start, stop):
    for step in range(start, stop):
        run.step(step, loss=1.0 / (step + 1))


def steps(daemon):
    """The steps of the rows that came, in their order."""
    return [row["step"] for row in daemon.rows]
