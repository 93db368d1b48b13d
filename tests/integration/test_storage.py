"""A disk that fills up, a database that is damaged: nothing acknowledged is lost, everybody is told, and
the daemon goes on by itself."""
import contextlib
import json
import os
import sqlite3
import subprocess

import pytest
from conftest import ROOT, SEISMOD, wait_for, whole_lines
from peer import Peer
from seismo import _protocol as protocol

HOOK = """#!/bin/sh
cat >> "$1"
"""


def hook_config(tmp_path):
    """Configuration with a hook that writes what it hears to a file, and that file."""
    script = tmp_path / "hook"
    script.write_text(HOOK)
    script.chmod(0o755)
    heard = tmp_path / "heard.jsonl"
    return f"[hook note]\ncommand = {script} {heard}\n", heard


def storage_alerts(heard):
    alerts = [json.loads(line) for line in whole_lines(heard)]
    return [alert for alert in alerts if alert["condition"] == "storage"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", "size=16m,mode=777", "none", str(disk)],
                   check=True)
    yield disk
    subprocess.run([*as_root, "umount", "-l", str(disk)], check=False)


def fill(disk):
    """Leaves no room on the disk; returns the file to delete."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while f.write(b"x" * 65536):
            pass
    return filler


def test_full_disk_stops_acknowledging_and_goes_on(start_daemon, small_disk, tmp_path):
    """Twice: the disk fills, acknowledgements stop, status, log and hook say so; there is room again,
    and all goes on by itself. Every step is there once."""
    config, heard = hook_config(tmp_path)
    daemon = start_daemon(start=False, config=config)
    daemon.data = small_disk / "data"
    daemon.start()
    peer = Peer(daemon.ingest, run="full")
    peer.hello()
    peer.steps(1, [[0, 1.0]])
    batch, step = 1, 0
    for fillings in range(1, 3):
        filler = fill(small_disk)
        for _ in range(1000):
            batch += 1
            peer.send(protocol.STEPS, batch, [[step + i + 1, 1.0] for i in range(500)])
            step += 500
            answer = peer.answer(timeout=2.0)
            if answer is None:
                break
            assert answer[0] == protocol.ACK
        assert answer is None, "the disk never filled"
        storage = daemon.json("status")["storage"]
        assert storage["ok"] is False and "free space" in storage["error"] and storage["since"]
        assert "failing" in daemon.cli("status").stdout
        assert daemon.log().count("cannot write, steps are held back") == fillings
        entered = wait_for(lambda n=fillings: storage_alerts(heard)[2 * n - 2:], what="the alert")
        assert entered[0]["event"] == "entered" and entered[0]["severity"] == "critical"
        assert "free space" in entered[0]["reasons"][0]["text"] and entered[0]["alert"] < 0
        filler.unlink()
        assert peer.acked(batch, timeout=30)[2] == step
        assert wait_for(lambda: daemon.json("status")["storage"]["ok"], what="recovery")
        assert daemon.log().count("writing again") == fillings
        resolved = wait_for(lambda n=fillings: storage_alerts(heard)[2 * n - 1:], what="its end")
        assert [alert["event"] for alert in resolved] == ["resolved"]
    assert [row["step"] for row in daemon.export("full")] == list(range(step + 1))
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM alerts").fetchone() == (0,)
    peer.close()
    daemon.stop()


def test_start_on_a_full_disk_is_refused_until_there_is_room(start_daemon, small_disk):
    """With a text that says so, and without touching the database; the unit starts it again and again."""
    daemon = start_daemon(start=False)
    daemon.data = small_disk / "data"
    daemon.start()
    peer = Peer(daemon.ingest, run="r")
    peer.hello()
    peer.steps(1, [[i, 1.0] for i in range(100)])
    peer.close()
    daemon.kill()
    (daemon.data / "seismo.db-shm").unlink()
    filler = fill(small_disk)
    done = subprocess.run([str(SEISMOD), "--data", str(daemon.data), "--ingest", daemon.ingest,
                           "--query", daemon.query, "--events", daemon.events],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "No space left" in done.stderr or "free space" in done.stderr, done.stderr
    assert aside(daemon) == []
    filler.unlink()
    daemon.start()
    assert [row["step"] for row in daemon.export("r")] == list(range(100))
    assert "StartLimitIntervalSec=0" in (ROOT / "systemd" / "seismod.service.in").read_text()
    daemon.stop()


def damage(database):
    """Overwrites pages in the middle; header and size stay."""
    with open(database, "r+b") as f:
        f.seek(2 * 4096)
        f.write(os.urandom(6 * 4096))


def aside(daemon):
    return [path for path in daemon.data.glob("seismo.db.damaged-*")
            if not path.name.endswith(("-wal", "-shm"))]


def test_damaged_database_is_set_aside_at_the_start(start_daemon, tmp_path):
    """The daemon starts with an empty one, says where the old one lies, and tells the hook; nothing of
    the old one is lost."""
    config, heard = hook_config(tmp_path)
    daemon = start_daemon(config=config)
    peer = Peer(daemon.ingest, run="before")
    peer.hello()
    peer.steps(1, [[i, 1.0] for i in range(100)])
    daemon.stop()
    damage(daemon.data / "seismo.db")
    before = (daemon.data / "seismo.db").read_bytes()
    daemon.start()
    [kept] = aside(daemon)
    assert kept.read_bytes() == before
    assert "set aside as " + kept.name in daemon.log() and "nothing was deleted" in daemon.log()
    assert daemon.json("status")["storage"]["set_aside"] == kept.name
    assert kept.name in daemon.cli("status").stdout
    alerts = wait_for(lambda: storage_alerts(heard)[1:] and storage_alerts(heard), what="the alerts")
    assert [alert["event"] for alert in alerts] == ["entered", "resolved"]
    assert kept.name in alerts[0]["reasons"][0]["text"]
    assert daemon.json("runs")["runs"] == []
    # The client is asked for HELLO, learns that nothing is stored, and begins anew.
    assert peer.steps(2, [[100, 1.0]])[1] == "hello_required"
    assert peer.hello()[1]["last_batch"] == 0
    assert peer.steps(1, [[0, 1.0]])[:2] == [protocol.ACK, 1]
    daemon.stop()
    daemon.start()
    assert aside(daemon) == [kept] and len(daemon.export("before")) == 1
    peer.close()


def test_damage_while_running_stops_the_daemon_and_the_next_start_goes_on(start_daemon):
    """As the service manager would start it again. Nothing is acknowledged in between."""
    daemon = start_daemon()
    peer = Peer(daemon.ingest, run="run")
    peer.hello()
    peer.steps(1, [[i, 1.0] for i in range(100)])
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        # What is read next must come from the file: this makes the daemon's cache stale.
        db.execute("PRAGMA user_version = 1")
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    damage(daemon.data / "seismo.db")
    peer.send(protocol.STEPS, 2, [[i, 1.0] for i in range(100, 200)])
    assert daemon.process.wait(30) == 1
    daemon.process.stdout.close()
    assert "start again: it is set aside then" in daemon.log()
    assert peer.answer(timeout=0.2) is None
    daemon.start()
    assert len(aside(daemon)) == 1
    assert peer.hello()[1]["last_batch"] == 0
    peer.close()


@pytest.mark.parametrize("trouble", ["newer", "foreign", "directory", "locked"])
def test_what_is_not_damaged_is_never_set_aside(start_daemon, trouble):
    """The start is refused with a text that says what to do, and the file stays as it is."""
    daemon = start_daemon()
    peer = Peer(daemon.ingest)
    peer.hello()
    peer.steps(1, [[0, 1.0]])
    peer.close()
    daemon.stop()
    path = daemon.data / "seismo.db"
    holder = sqlite3.connect(path, isolation_level=None)
    words = {"newer": "install the newer seismod that wrote it",
             "foreign": "database of another program",
             "directory": "must exist and be writable",
             "locked": "another program holds a write lock"}[trouble]
    if trouble == "newer":
        holder.execute("PRAGMA user_version = 99")
    elif trouble == "foreign":
        holder.execute("PRAGMA application_id = 7")
    elif trouble == "locked":
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
    if trouble != "locked":
        holder.close()
    if trouble == "directory":
        path.rename(daemon.data / "kept")
        path.mkdir()
    done = subprocess.run([str(SEISMOD), "--data", str(daemon.data), "--ingest", daemon.ingest,
                           "--query", daemon.query, "--events", daemon.events],
                          capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert str(path) in done.stderr
    assert aside(daemon) == []
    holder.close()
    if trouble == "directory":
        path.rmdir()
        (daemon.data / "kept").rename(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (1,)
