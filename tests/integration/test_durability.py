"""Acknowledged means durable, exactly once; resumed jobs supersede what came later."""
import math
import sqlite3

import pytest
import seismo
from conftest import wait_for
from peer import Peer
from seismo import _protocol as protocol


def loss(step):
    """A training loss with its noise: deterministic, so that a repeated step is the same."""
    return 0.3 + 2.0 * math.exp(-step / 60) + 0.05 * math.sin(step * 12.9898)


def rows(first, last):
    return [[step, loss(step)] for step in range(first, last)]


def stored(daemon, run):
    return [(row["step"], row["loss"]) for row in daemon.export(run)]


def test_acknowledged_steps_survive_kill(daemon):
    """Everything acknowledged before kill -9 is there afterwards, once."""
    peer = Peer(daemon.ingest)
    assert peer.hello()[0] == protocol.WELCOME
    for batch in range(1, 21):
        peer.send(protocol.STEPS, batch, rows(batch * 10, batch * 10 + 10))
    peer.acked(20)
    daemon.kill()
    daemon.start()
    assert [step for step, _ in stored(daemon, "peer")] == list(range(10, 210))
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    peer.close()


def test_retransmission_is_idempotent(daemon):
    """The same batch sent again is acknowledged again and stored once, also by a new connection."""
    peer = Peer(daemon.ingest)
    peer.hello()
    assert peer.steps(1, rows(0, 10))[:2] == [protocol.ACK, 1]
    assert peer.steps(1, rows(0, 10))[:2] == [protocol.ACK, 1]
    again = Peer(daemon.ingest, session=peer.session)
    welcome = again.hello()
    assert welcome[0] == protocol.WELCOME
    assert (welcome[1]["last_batch"], welcome[1]["last_step"]) == (1, 9)
    assert again.steps(1, rows(0, 10))[:2] == [protocol.ACK, 1]
    assert again.steps(2, rows(10, 20))[:2] == [protocol.ACK, 2]
    assert stored(daemon, "peer") == stored(daemon, "peer")
    assert [step for step, _ in stored(daemon, "peer")] == list(range(20))
    peer.close()
    again.close()


def test_unknown_peer_is_asked_for_hello(daemon):
    """After a restart the daemon knows no peer: it says so, and a new HELLO goes on where it was."""
    peer = Peer(daemon.ingest)
    peer.hello()
    peer.steps(1, rows(0, 5))
    daemon.kill()
    daemon.start()
    answer = peer.steps(2, rows(5, 10))
    assert answer[:2] == [protocol.ERROR, "hello_required"]
    assert peer.hello()[1]["last_batch"] == 1
    assert peer.steps(2, rows(5, 10))[:2] == [protocol.ACK, 2]
    assert [step for step, _ in stored(daemon, "peer")] == list(range(10))
    peer.close()


def test_resumed_job_supersedes(daemon):
    """A job that comes back from its checkpoint leaves one history: as if it had never failed."""
    first = Peer(daemon.ingest, run="resumed")
    first.hello()
    for batch in range(8):
        assert first.steps(batch + 1, rows(batch * 100, batch * 100 + 100))[0] == protocol.ACK
    first.close()
    second = Peer(daemon.ingest, run="resumed")
    welcome = wait_for(second.hello, what="WELCOME")
    assert welcome[1]["run"] == "resumed" and welcome[1]["last_step"] == 799
    for batch, start in enumerate(range(333, 900, 63), 1):
        assert second.steps(batch, rows(start, start + 63))[0] == protocol.ACK
    straight = Peer(daemon.ingest, run="straight")
    straight.hello()
    straight.steps(1, rows(0, 900))
    assert stored(daemon, "resumed") == stored(daemon, "straight")
    resumed, direct = daemon.run_info("resumed"), daemon.run_info("straight")
    assert resumed["score"] == direct["score"] and resumed["steps"] == direct["steps"] == 900
    second.close()
    straight.close()


def test_two_jobs_with_one_name_are_told_apart(daemon):
    """While the first one still runs, a second job of that name is a run of its own."""
    first, second = Peer(daemon.ingest, run="twin"), Peer(daemon.ingest, run="twin")
    assert first.hello()[1]["run"] == "twin"
    first.steps(1, rows(0, 20))
    assert second.hello()[1]["run"] == "twin#2"
    second.steps(1, rows(0, 10))
    assert len(stored(daemon, "twin")) == 20 and len(stored(daemon, "twin#2")) == 10
    first.close()
    second.close()


def test_ranks_are_runs_of_their_own(daemon):
    peers = [Peer(daemon.ingest, run="ddp") for _ in range(3)]
    names = [peer.hello(rank=rank, world=3)[1]["run"] for rank, peer in enumerate(peers)]
    assert names == ["ddp", "ddp@1", "ddp@2"]
    for rank, peer in enumerate(peers):
        peer.steps(1, rows(0, 5 + rank))
    assert [len(stored(daemon, name)) for name in names] == [5, 6, 7]
    for peer in peers:
        peer.close()


def test_client_survives_daemon_restarts(daemon):
    """seismo.Run delivers every step exactly once over three kills of the daemon."""
    with seismo.Run("survivor", "p.py", ingest=daemon.ingest) as run:
        for step in range(2000):
            run.step(step, loss=loss(step))
            if step in (300, 301, 1500):
                wait_for(lambda: run.stats["acked_steps"] > 100, what="acknowledgements")
                daemon.kill()
                daemon.start()
        wait_for(lambda: run.stats["acked_steps"] == 2000, timeout=60, what="the last ACK")
        assert run.stats["dropped_steps"] == 0
    assert [step for step, _ in stored(daemon, "survivor")] == list(range(2000))


@pytest.mark.plain_only  # it waits, for ten seconds
def test_dead_peer_ends_its_run(start_daemon):
    """A job that vanishes without BYE does not stay in progress."""
    daemon = start_daemon(config="[runs]\nlost_after = 1\n")
    peer = Peer(daemon.ingest, run="vanished")
    peer.hello()
    peer.steps(1, rows(0, 30))
    peer.close()
    info = wait_for(lambda: (lambda r: r if r["state"] == "ended" else None)(
        daemon.run_info("vanished")), timeout=40, what="the end of the run")
    assert info["outcome"] == "lost"
    daemon.kill()
    daemon.start()
    assert daemon.run_info("vanished")["state"] == "ended"


def test_tables_are_readable_while_the_daemon_runs(daemon):
    """The sqlite3 shell's user sees runs, verdicts, alerts and series with the documented columns."""
    peer = Peer(daemon.ingest, run="tables")
    peer.hello()
    peer.steps(1, rows(0, 50))
    with sqlite3.connect(f"file:{daemon.data}/seismo.db?mode=ro", uri=True) as db:
        assert db.execute("SELECT run, program, step FROM runs").fetchall() == [
            ("tables", "peer.py", 49)]
        points = db.execute("SELECT step, loss, grad_norm, curvature, score FROM series "
                            "WHERE run = 'tables' ORDER BY step").fetchall()
        assert len(points) >= 32 and points[0][2] is None
        db.execute("SELECT run, program, step, time, state, severity, score, threshold, fault, "
                   "reasons FROM verdicts").fetchall()
        db.execute("SELECT verdict, run, event, state, hook, delivered FROM alerts").fetchall()
    peer.close()
