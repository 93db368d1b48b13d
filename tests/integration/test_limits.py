"""Limits of the real daemon: whoever comes to one is told which, and nobody else notices."""
import os
import resource
import signal
import socket
import time

import msgpack
import pytest
import seismo
import zmq
from conftest import wait_for
from peer import Peer
from seismo import _protocol as protocol


def limits(**values):
    return "[limits]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def refused(answer, code, name, value):
    """The answer is an ERROR with this code that names the limit and its value."""
    assert answer is not None and answer[0] == protocol.ERROR, answer
    assert answer[1] == code and f"[limits] {name} is {value}" in answer[2], answer
    assert answer[3], "every error says what to do"
    return True


def feed(run, first, last):
    for step in range(first, last):
        run.step(step, loss=1.0 / (1 + step))


def test_status_shows_every_limit(start_daemon):
    daemon = start_daemon(config=limits(peers=100, steps_per_second=5000, metadata_bytes=100))
    shown = daemon.json("status")["limits"]
    assert shown["peers"] == 100 and shown["steps_per_second"] == 5000
    printed = {}
    with open(os.path.join(os.path.dirname(__file__), "../../systemd/seismod.conf"),
              encoding="utf-8") as conf:
        section = conf.read().split("\n[limits]\n")[1].split("\n#[hook")[0]
        for line in section.splitlines():
            if line.startswith("#") and " = " in line and line[1] != " ":
                name, value = line[1:].split(" = ")
                printed[name] = int(value)
    assert set(shown) == set(printed) and len(shown) >= 12
    for name in set(shown) - {"peers", "steps_per_second", "metadata_bytes"}:
        assert shown[name] == printed[name], name


def test_peers(start_daemon):
    """The one too many is told so, also beyond what hears it is cut off, and gets in later."""
    daemon = start_daemon(config=limits(peers=2))
    first, second = Peer(daemon.ingest, run="a"), Peer(daemon.ingest, run="b")
    first.hello()
    second.hello()
    third = Peer(daemon.ingest, run="c")
    refused(third.hello(), "busy", "peers", 2)
    crowd = [Peer(daemon.ingest) for _ in range(100)]
    wait_for(lambda: "a connection is refused" in daemon.log(), what="a refused connection")
    assert daemon.json("status")["connections"] < 2 + 64 + 30
    assert first.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
    for peer in crowd:
        peer.close()
    first.send(protocol.BYE, 2, "finished", "")
    first.acked(2)
    first.close()
    wait_for(lambda: (third.hello() or [0])[0] == protocol.WELCOME, what="room for the third")
    second.close()
    third.close()


def test_runs(start_daemon):
    """A Python client whose run finds no room waits, loses nothing and gets in later."""
    daemon = start_daemon(config=limits(runs=1))
    first = Peer(daemon.ingest, run="first")
    first.hello()
    late = Peer(daemon.ingest, run="late")
    refused(late.hello(), "busy", "runs", 1)
    with seismo.Run("patient", "p", ingest=daemon.ingest) as run:
        feed(run, 0, 100)
        time.sleep(0.3)
        assert run.stats["acked_steps"] == 0
        first.send(protocol.BYE, 1, "finished", "")
        first.acked(1)
        wait_for(lambda: run.stats["acked_steps"] == 100, timeout=30, what="the patient client")
        assert run.stats["dropped_steps"] == run.stats["rejected_steps"] == 0
    first.close()
    late.close()


def test_runs_per_peer_and_address(start_daemon):
    daemon = start_daemon(config=limits(runs_per_peer=2, runs_per_address=3), tcp=True)
    peer = Peer(daemon.ingest)
    for number in range(2):
        assert peer.hello(run=f"r{number}", session=os.urandom(8))[0] == protocol.WELCOME
    refused(peer.hello(run="r2", session=os.urandom(8)), "busy", "runs_per_peer", 2)
    others = [Peer(daemon.ingest, run=f"o{number}") for number in range(3)]
    assert [other.hello()[0] for other in others[:2]] == [protocol.WELCOME] * 2
    refused(others[2].hello(), "busy", "runs_per_address", 3)
    for other in [peer, *others]:
        other.close()


def test_one_message(start_daemon):
    """Bytes, fields and metadata of one message; what is refused leaves no trace."""
    daemon = start_daemon(config=limits(message_bytes=16384, fields=3, metadata_bytes=20))
    peer = Peer(daemon.ingest, run="r")
    refused(peer.hello(meta='{"long": "' + "x" * 40 + '"}'), "too_big", "metadata_bytes", 20)
    refused(peer.hello(fields=["step", "loss", "lr", "grad_norm"]), "too_big", "fields", 3)
    welcome = peer.hello()
    assert welcome[0] == protocol.WELCOME and welcome[1]["max_bytes"] == 16384
    rows = [[step, 1.0] for step in range(1000)]
    long = msgpack.packb([protocol.STEPS, 1, rows], use_single_float=False)
    assert len(long) < 16384
    padded = msgpack.packb([protocol.STEPS, 1, [[step << 40, 1.0] for step in range(1000)]])
    assert len(padded) > 16384
    peer.raw(padded)
    answer = peer.answer()
    refused(answer, "too_big", "message_bytes", 16384)
    assert answer[4] == 1
    assert peer.steps(1, rows)[:2] == [protocol.ACK, 1]
    assert len(daemon.export("r")) == 1000
    peer.raw(b"\x93" * 40000)  # more than twice as long: the connection is closed
    other = Peer(daemon.ingest, run="o")
    assert other.hello()[0] == protocol.WELCOME
    assert [run["run"] for run in daemon.json("runs")["runs"]] in (["o", "r"], ["r", "o"])
    peer.close()
    other.close()


def test_steps_per_second_is_patience_not_an_error(start_daemon):
    """Real clients are slowed down and lose nothing; another one is not."""
    daemon = start_daemon(config=limits(steps_per_second=1000))
    quick = Peer(daemon.ingest, run="other")
    quick.hello()
    began = time.monotonic()
    with seismo.Run("fast", "p", ingest=daemon.ingest) as run:
        feed(run, 0, 3000)
        wait_for(lambda: run.stats["acked_steps"] >= 1000)
        assert quick.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
        wait_for(lambda: run.stats["acked_steps"] == 3000, timeout=60)
        assert time.monotonic() - began > 1.5
        assert run.stats["dropped_steps"] == run.stats["rejected_steps"] == 0
        assert run.stats["errors"] == 0
    assert [row["step"] for row in daemon.export("fast")] == list(range(3000))
    assert daemon.json("status")["refused"] == 0
    quick.close()


def test_window_and_silence(start_daemon):
    """Who ignores the window gets "busy", then silence, and its neighbour nothing of it."""
    daemon = start_daemon(config=limits(unacked=4) + "[store]\ncommit_interval = 1\n")
    good = Peer(daemon.ingest, run="good")
    assert good.hello()[1]["max_unacked"] == 4
    rude = Peer(daemon.ingest, run="rude")
    rude.hello()
    rude.steps(1, [[0, 1.0]])
    for batch in range(2, 12):
        rude.send(protocol.STEPS, batch, [[batch, 1.0]])
    answers = [rude.answer()]
    refused(next(a for a in answers if a[0] == protocol.ERROR), "busy", "unacked", 4)
    for _ in range(2000):
        rude.send(protocol.STEPS, 900, [[900, 1.0]])
        rude.raw(b"\xc1")
    errors = 0
    while (answer := rude.answer(timeout=2.0)) is not None:
        errors += answer[0] == protocol.ERROR
    assert errors < 40
    assert good.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
    rude.close()
    good.close()


@pytest.mark.parametrize("kind", ["Run", "replay"])
def test_clients_under_narrow_limits(start_daemon, tmp_path, kind):
    """The Python client and the C library (seismo replay) get everything through narrow limits."""
    daemon = start_daemon(config=limits(unacked=2, message_bytes=16384, peer_queued_bytes=262144,
                                        queued_bytes=1048576))
    if kind == "Run":
        with seismo.Run("narrow", "p", ingest=daemon.ingest) as run:
            feed(run, 0, 5000)
            wait_for(lambda: run.stats["acked_steps"] == 5000, timeout=60)
            assert run.stats["dropped_steps"] == run.stats["rejected_steps"] == 0
    else:
        path = tmp_path / "t.jsonl"
        with seismo.trace.Writer(path, run="narrow", program="p") as writer:
            for step in range(5000):
                writer.step(step, loss=1.0 / (1 + step))
        daemon.replay(path, "narrow")
    assert [row["step"] for row in daemon.export("narrow")] == list(range(5000))


def test_reload_changes_limits(start_daemon):
    daemon = start_daemon(config=limits(metadata_bytes=20))
    peer = Peer(daemon.ingest)
    long = '{"long": "' + "x" * 40 + '"}'
    refused(peer.hello(meta=long), "too_big", "metadata_bytes", 20)
    daemon.config.write_text(limits(metadata_bytes=100, peers=5))
    daemon.process.send_signal(1)
    wait_for(lambda: "reloaded" in daemon.log())
    assert "peers changes only when the daemon is started again" in daemon.log()
    assert peer.hello(meta=long)[0] == protocol.WELCOME
    shown = daemon.json("status")["limits"]
    assert shown["metadata_bytes"] == 100 and shown["peers"] == 8192
    peer.close()


def test_a_client_that_never_reads_keeps_nobody(daemon):
    """Its answers wait in bounded queues; the daemon's memory stays, and others are served."""
    deaf = Peer(daemon.ingest, run="deaf")
    deaf.socket.close()
    deaf.socket = deaf.context.socket(zmq.DEALER)
    deaf.socket.rcvhwm, deaf.socket.rcvbuf, deaf.socket.linger = 1, 4096, 0
    deaf.socket.connect(daemon.ingest)
    deaf.send(protocol.HELLO, {
        "version": 1, "run": "deaf", "program": "p", "session": b"d", "rank": 0, "world": 1,
        "fields": ["step", "loss"], "meta": "{}"})

    def resident():
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    wait_for(lambda: daemon.run_info("deaf"))
    sizes = []
    for batch in range(1, 12001):
        deaf.send(protocol.STEPS, 1, [[0, 1.0]])  # acknowledged again and again
        if batch in (6000, 12000):
            time.sleep(0.5)
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 20000, sizes
    good = Peer(daemon.ingest, run="good")
    good.hello()
    assert good.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
    good.close()
    deaf.close()


def allow_memory(daemon, size):
    """The daemon may have that much memory from its next look on, which it takes. Returns what it might
    have before."""
    reloads = daemon.log().count("configuration reloaded")
    hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_DATA)[1]
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_DATA, (size, hard))[0]
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.log().count("configuration reloaded") > reloads, what="the reload")
    return before


@pytest.mark.plain_only  # sanitizers want more address space than such a limit leaves
def test_memory_bounds_peers(start_daemon):
    """A limit of memory that comes while the daemon runs lets fewer in; nobody has to go."""
    daemon = start_daemon()
    assert daemon.json("status")["limits"]["peers"] == 8192
    assert "memory  " not in daemon.cli("status").stdout
    peers = [Peer(daemon.ingest, run=f"run-{i}") for i in range(8)]
    for peer in peers:
        assert peer.hello()[0] == protocol.WELCOME
    before = allow_memory(daemon, 110 << 20)
    status = daemon.json("status")
    fit = status["memory"]["peers"]
    assert status["memory"]["source"] == "RLIMIT_DATA" and status["memory"]["bytes"] == 110 << 20
    assert 1 <= fit < 8 and status["limits"]["peers"] == fit
    assert f"hold {fit} peers" in daemon.log() and f"hold {fit} clients" in daemon.cli("status").stdout
    for peer in peers:
        assert peer.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
    late = Peer(daemon.ingest, run="late")
    refused(late.hello(), "busy", "peers", fit)
    allow_memory(daemon, before)
    assert daemon.json("status")["memory"] is None
    wait_for(lambda: late.hello()[0] == protocol.WELCOME, what="a place")


def test_descriptors_bound_connections(start_daemon):
    """Where no descriptor was left, libzmq aborted the daemon."""
    daemon = start_daemon(config=limits(peers=5000), tcp=True)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (300, 300))
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "300 file descriptors" in daemon.log(), what="the new limit")
    fit = daemon.json("status")["limits"]
    assert 1 <= fit["peers"] < 108
    host, port = daemon.ingest.removeprefix("tcp://").split(":")
    strangers = [socket.create_connection((host, int(port))) for _ in range(400)]
    for _ in range(20):
        assert daemon.json("status")["limits"] == fit  # each time over the socket file
    for stranger in strangers:
        stranger.close()


@pytest.mark.plain_only  # sanitizers want more address space than such a limit leaves
def test_memory_and_what_is_configured(start_daemon):
    """What is configured stays, with a warning when it does not fit."""
    daemon = start_daemon(config=limits(peers=5000))
    allow_memory(daemon, 256 << 20)
    status = daemon.json("status")
    assert status["limits"]["peers"] == 5000 > status["memory"]["peers"] > 100
    assert status["limits"]["queued_bytes"] < 67108864
    assert f"[limits] peers is 5000, but 256 MB (RLIMIT_DATA) hold {status['memory']['peers']}" \
        in daemon.log()
