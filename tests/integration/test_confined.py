"""The daemon at work under its sandbox, which every other test here has on as well."""
import ctypes
import json
import pathlib
import signal
import sqlite3
import time

import pytest
import zmq
from conftest import wait_for, whole_lines
from peer import Peer
from seismo import _protocol as protocol

LANDLOCK_CREATE_RULESET = 444  # on every architecture


def has_landlock():
    """Whether this kernel can limit writing."""
    return ctypes.CDLL(None).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1) > 0


def threads(pid):
    """What the kernel says of each thread of a process."""
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        yield dict(line.split(":\t", 1) for line in path.read_text(encoding="ascii").splitlines()
                   if ":\t" in line)


def helper_of(daemon):
    pid = daemon.process.pid
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii"))


def config(log, level="info", hook="page"):
    return (f"[seismod]\nlog_level = {level}\n[hook {hook}]\n"
            f"command = /bin/sh -c 'cat >> {log}.{hook}'\n")


def diverge(daemon, run, endpoint=None):
    """A run that goes wrong, over whatever the endpoint is."""
    peer = Peer(endpoint or daemon.ingest, run=run)
    peer.hello()
    peer.steps(1, [[step, 1.0] for step in range(200)])
    peer.send(protocol.STEPS, 2, [[step, float("nan")] for step in range(200, 260)])
    peer.acked(2)
    peer.send(protocol.BYE, 3, "finished", "")
    peer.acked(3)
    peer.close()


@pytest.mark.plain_only
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "ipc"])
def test_everything_works(start_daemon, tmp_path, tcp):
    """Ingest, queries, events, alerts, reload, reading the database, idling and a restart."""
    log = tmp_path / "fired"
    daemon = start_daemon(config=config(log), tcp=tcp)
    assert daemon.json("status")["sandbox"] == {"files": has_landlock(), "calls": True}
    for status in threads(daemon.process.pid):
        assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", status["Name"]
    assert all(status["Seccomp"] == "0" for status in threads(helper_of(daemon)))

    context = zmq.Context()
    feed = context.socket(zmq.SUB)
    feed.connect(daemon.events)
    feed.subscribe(b"")
    page = log.with_suffix(".page")
    time.sleep(0.5)
    diverge(daemon, "one")
    assert feed.poll(10000)
    feed.close(linger=0)
    context.term()
    wait_for(lambda: whole_lines(page), what="the hook")

    for command in (["status"], ["runs"], ["show", "one"], ["verdicts", "one"],
                    ["explain", "one"], ["export", "one"], ["label", "one", "diverged"]):
        daemon.cli(*command)
    with sqlite3.connect(daemon.data / "seismo.db") as db, sqlite3.connect(":memory:") as copy:
        db.backup(copy)
        assert copy.execute("SELECT count(*) FROM runs").fetchone() == (1,)

    daemon.config.write_text(config(log, level="debug", hook="other"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "configuration reloaded" in daemon.log(), what="the reload")
    diverge(daemon, "two")
    wait_for(log.with_suffix(".other").exists, what="the new hook")
    assert json.loads(whole_lines(page)[0])["run"] == "one"

    idle = Peer(daemon.ingest, run="idle")
    idle.hello()
    if tcp:
        time.sleep(11)  # beyond LIMIT_PING_INTERVAL: each timer has fired
    idle.steps(1, [[step, 1.0] for step in range(50)])
    idle.close()
    daemon.stop()
    daemon.start()
    assert daemon.json("status")["runs"]["total"] == 3
    assert daemon.json("status")["sandbox"]["calls"]
    diverge(daemon, "three")


@pytest.mark.plain_only
def test_switched_off(start_daemon):
    """It says so, and is not confined."""
    daemon = start_daemon(config="[security]\nsandbox = off\n")
    assert daemon.json("status")["sandbox"] == {"files": False, "calls": False}
    assert "sandbox: switched off" in daemon.log()
    assert "sandbox    off" in daemon.cli("status").stdout
    assert all(status["Seccomp"] == "0" for status in threads(daemon.process.pid))


@pytest.mark.plain_only
def test_many_peers_come_and_go(start_daemon):
    """Threads, sockets and memory are taken and given back all the time."""
    daemon = start_daemon(tcp=True)
    for i in range(5):
        peers = [Peer(daemon.ingest, run=f"{i}-{j}") for j in range(20)]
        for peer in peers:
            peer.hello()
            peer.steps(1, [[step, 1.0] for step in range(20)])
        for peer in peers:
            peer.close()
    assert daemon.json("status")["runs"]["total"] == 100
