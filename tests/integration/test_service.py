"""seismod as a service: start, reload, stop, readiness, and the events feed."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest
import zmq
from conftest import EXAMPLE, SEISMOD, wait_for
from peer import Peer
from seismo import _protocol as protocol


def test_no_arguments_at_all(tmp_path):
    """Defaults: loopback TCP, a socket and a database below $XDG_STATE_HOME."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen([str(SEISMOD)], env=env, stdout=subprocess.PIPE, text=True)
    try:
        ready = process.stdout.readline()
        assert protocol.DEFAULT_INGEST in ready
        peer = Peer(protocol.DEFAULT_INGEST)
        assert peer.hello()[0] == protocol.WELCOME
        peer.close()
        assert (tmp_path / "seismo" / "seismo.db").exists()
        assert os.stat(tmp_path / "seismo").st_mode & 0o077 == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        process.stdout.close()


def test_sigterm_drains(daemon):
    """What was received before SIGTERM is committed, and the exit code is 0."""
    peer = Peer(daemon.ingest)
    peer.hello()
    for batch in range(1, 51):
        peer.send(protocol.STEPS, batch, [[batch, 1.0]])
    peer.acked(1)
    daemon.stop()
    acked = 1
    while (message := peer.answer(timeout=0.5)) is not None:
        if message[0] == protocol.ACK:
            acked = message[1]
    daemon.start()
    assert len(daemon.export("peer")) >= acked
    peer.close()


def test_second_daemon_on_the_same_data_refuses(daemon):
    done = subprocess.run([str(SEISMOD), "--data", str(daemon.data), "--ingest",
                           f"ipc://{daemon.directory}/other.sock"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and str(daemon.process.pid) in done.stderr


def test_sighup_reloads_and_keeps_the_old_on_error(daemon):
    peer = Peer(daemon.ingest)
    peer.hello()
    daemon.config.write_text("[seismod]\nlog_level = debug\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "reload" in daemon.log(), what="the reload")
    daemon.config.write_text("[seismod]\nnonsense = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "nonsense" in daemon.log(), what="the refusal")
    assert peer.steps(1, [[0, 1.0]])[0] == protocol.ACK
    peer.close()


def test_notify_socket(tmp_path):
    """READY=1 comes once the sockets are bound, WATCHDOG=1 while the loop turns, STOPPING=1 at the end."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(20)
        env = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        process = subprocess.Popen(
            [str(SEISMOD), "--data", str(tmp_path / "data"), "--ingest", f"ipc://{tmp_path}/in"],
            env=env, stdout=subprocess.DEVNULL)
        seen = ""
        while "READY=1" not in seen or seen.count("WATCHDOG=1") < 3:
            seen += notify.recv(4096).decode() + "\n"
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in seen:
            seen += notify.recv(4096).decode() + "\n"
        assert process.wait(20) == 0


def test_events_feed(daemon):
    """A subscriber hears of runs and of committed verdicts."""
    context = zmq.Context()
    feed = context.socket(zmq.SUB)
    feed.linger = 0
    feed.connect(daemon.events)
    feed.subscribe(b"")
    early = []  # nothing else tells when the subscription has come
    while not early or not feed.poll(100):
        assert len(early) < 100
        early.append(Peer(daemon.ingest, run=f"early{len(early)}"))
        early[-1].hello()
    peer = Peer(daemon.ingest, run="loud")
    peer.hello()
    peer.send(protocol.STEPS, 1, [[step, float("nan")] for step in range(50)])
    peer.acked(1)
    opened, critical = False, False
    while not (opened and critical):
        assert feed.poll(20000), (opened, critical)
        topic, body = feed.recv_multipart()
        topic, body = topic.decode(), json.loads(body)
        opened |= (topic, body.get("event")) == ("run/loud", "opened")
        critical |= topic == "verdict/loud" and body["severity"] == "critical" and body["id"] > 0
    for one in (peer, *early):
        one.close()
    feed.close()
    context.term()


@pytest.mark.plain_only
def test_idle_daemon_is_small(daemon):
    """At most 15 MB resident, shared libraries included."""
    time.sleep(1)
    with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert resident <= 15 * 1024, f"{resident} kB"


def test_c_program_of_twenty_lines(daemon):
    """The C example trains, streams and gets its run into the daemon."""
    done = subprocess.run([str(EXAMPLE)], env={**os.environ, "SEISMO_INGEST": daemon.ingest,
                                               "SEISMO_RUN": "from-c"},
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    info = daemon.run_info("from-c")
    assert info["state"] == "ended" and info["outcome"] == "finished" and info["steps"] > 50
    assert info["alarm_step"] is None
