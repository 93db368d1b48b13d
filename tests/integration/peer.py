"""A client of the wire by hand: says exactly what a test wants said."""
import os

import msgpack
import zmq
from seismo import _protocol as protocol

FIELDS = ["step", "loss"]


class Peer:
    """A DEALER that sends messages as given and returns decoded answers."""

    def __init__(self, endpoint, run="peer", program="peer.py", session=None, keys=None,
                 routing_id=None):
        """`keys`: the server's public key, the peer's public and secret one."""
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        if keys is not None:
            (self.socket.curve_serverkey, self.socket.curve_publickey,
             self.socket.curve_secretkey) = keys
        if routing_id is not None:
            self.socket.routing_id = routing_id
        self.socket.connect(endpoint)
        self.run, self.program = run, program
        self.session = session or os.urandom(16)

    def close(self):
        self.socket.close()
        self.context.term()

    def raw(self, data):
        self.socket.send(data)

    def send(self, *message):
        self.raw(msgpack.packb(list(message)))

    def answer(self, timeout=10.0, skip=(protocol.PING,)):
        """The next message that is not in `skip`, or None after `timeout` seconds."""
        while self.socket.poll(int(timeout * 1000)):
            message = msgpack.unpackb(self.socket.recv())
            if message[0] not in skip:
                return message
        return None

    def hello(self, **changes):
        self.send(protocol.HELLO, {
            "version": protocol.PROTOCOL_VERSION, "run": self.run, "program": self.program,
            "session": self.session, "rank": 0, "world": 1, "fields": FIELDS, "meta": "{}",
            **changes})
        return self.answer()

    def steps(self, batch, rows):
        self.send(protocol.STEPS, batch, rows)
        return self.answer()

    def acked(self, batch, timeout=10.0):
        """Answers up to the ACK of `batch`; fails on ERROR."""
        while True:
            message = self.answer(timeout)
            assert message is not None, f"no ACK of batch {batch}"
            assert message[0] == protocol.ACK, message
            if message[1] >= batch:
                return message
