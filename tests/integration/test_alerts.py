"""Alert hooks: once when a state is entered, once when it resolves, only for committed verdicts."""
import json
import math
import os
import pathlib
import signal
import sqlite3
import stat
import time

import pytest
from conftest import wait_for, whole_lines
from peer import Peer
from seismo import _protocol as protocol

HOOK = """#!/bin/sh
read -r document
printf '%s\\n' "$document" >> {log}
printf '%s %s\\n' "$SEISMO_EVENT" "$SEISMO_ALERT_ID" >> {log}.env
"""


def install_hook(directory, script):
    path = directory / "hook.sh"
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def hooked(start_daemon, tmp_path):
    """A daemon with one hook; .fired() lists the documents the hook has got."""
    log = tmp_path / "fired"
    hook = install_hook(tmp_path, HOOK.format(log=log))
    daemon = start_daemon(config=f"[hook page]\ncommand = {hook}\nseverity = critical\ntimeout = 10\n")
    daemon.fired = lambda: [json.loads(line) for line in whole_lines(log)]
    return daemon


def healthy(step):
    return 0.3 + 2.0 * math.exp(-step / 60) + 0.05 * math.sin(step * 12.9898)


def diverge(peer):
    """200 healthy steps, then NaN that stays."""
    peer.hello()
    peer.steps(1, [[step, healthy(step)] for step in range(200)])
    peer.send(protocol.STEPS, 2, [[step, float("nan")] for step in range(200, 260)])
    return peer.acked(2)


def result_of_alert(daemon):
    """What is noted of the only alert's hook; None until it has ended."""
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        ((result,),) = db.execute("SELECT result FROM alerts").fetchall()
    return result


def delivered(daemon, n):
    """The event of each alert, and whether it is noted as delivered, once that is so for `n`: a hook
    has been run before it is."""
    def look():
        with sqlite3.connect(daemon.data / "seismo.db") as db:
            rows = db.execute("SELECT event, delivered IS NOT NULL FROM alerts ORDER BY id").fetchall()
        return rows if sum(done for _, done in rows) >= n else None

    return wait_for(look, what="the note of the delivery")


def test_entered_once_and_resolved_once(hooked):
    """Sixty bad steps are one alert; the recovery is one more."""
    peer = Peer(hooked.ingest, run="sick")
    ack = diverge(peer)
    assert [json.loads(text)["severity"] for text in ack[3]].count("critical") == 1
    wait_for(hooked.fired, what="the hook")
    peer.send(protocol.STEPS, 3, [[step, healthy(step)] for step in range(260, 460)])
    peer.acked(3)
    wait_for(lambda: len(hooked.fired()) >= 2, what="the resolution")
    time.sleep(0.5)
    fired = hooked.fired()
    assert [document["event"] for document in fired] == ["entered", "resolved"]
    assert fired[0]["state"] == "unstable" and fired[0]["run"] == "sick"
    assert fired[0]["reasons"] and fired[0]["alert"] != fired[1]["alert"]
    assert delivered(hooked, 2) == [("entered", 1), ("resolved", 1)]
    peer.close()


def test_not_again_after_restart(hooked):
    """A delivered alert is not fired again by a restarted daemon."""
    peer = Peer(hooked.ingest, run="sick")
    diverge(peer)
    wait_for(hooked.fired, what="the hook")
    delivered(hooked, 1)
    hooked.kill()
    hooked.start()
    peer.hello()
    peer.send(protocol.STEPS, 3, [[step, float("nan")] for step in range(260, 300)])
    peer.acked(3)
    time.sleep(1.0)
    assert len(hooked.fired()) == 1
    peer.close()


def test_undelivered_alert_fires_after_restart(start_daemon, tmp_path):
    """The daemon dies while the hook runs: the alert is fired at the next start, with its id."""
    log = tmp_path / "fired"
    hook = install_hook(tmp_path, "#!/bin/sh\nsleep 30\n")
    daemon = start_daemon(config=f"[hook page]\ncommand = {hook}\ntimeout = 60\n")
    peer = Peer(daemon.ingest, run="sick")
    diverge(peer)
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        (alert,) = db.execute("SELECT id FROM alerts WHERE event = 'entered'").fetchone()
    daemon.kill()
    install_hook(tmp_path, HOOK.format(log=log))
    daemon.start()
    wait_for(lambda: whole_lines(log), what="the hook")
    assert json.loads(whole_lines(log)[0])["alert"] == alert
    peer.close()


def test_slow_hook_does_not_hold_up_ingest(start_daemon, tmp_path):
    """Steps are acknowledged while a hook runs, for as long as it likes."""
    begun, go = tmp_path / "begun", tmp_path / "go"
    hook = install_hook(tmp_path, f"#!/bin/sh\ntouch {begun}\nwhile ! [ -e {go} ]; do sleep 0.1; done\n")
    daemon = start_daemon(config=f"[hook page]\ncommand = {hook}\ntimeout = 600\n")
    peer = Peer(daemon.ingest, run="sick")
    diverge(peer)
    wait_for(begun.exists, what="the hook")
    for batch in range(3, 23):
        peer.send(protocol.STEPS, batch, [[400 + batch, float("nan")]])
        peer.acked(batch)
    assert result_of_alert(daemon) is None
    go.touch()
    assert wait_for(lambda: result_of_alert(daemon), what="the hook's end") == "exit 0"
    peer.close()


def test_a_hook_that_hangs_is_killed_after_its_time_out(start_daemon, tmp_path):
    hook = install_hook(tmp_path, "#!/bin/sh\nexec sleep 600\n")
    daemon = start_daemon(config=f"[hook page]\ncommand = {hook}\ntimeout = 1\n")
    peer = Peer(daemon.ingest, run="sick")
    diverge(peer)
    result = wait_for(lambda: result_of_alert(daemon), timeout=30, what="the time-out")
    assert result == "timeout"
    peer.close()


def test_healthy_run_fires_nothing(hooked):
    peer = Peer(hooked.ingest, run="well")
    peer.hello()
    peer.steps(1, [[step, healthy(step)] for step in range(600)])
    peer.send(protocol.BYE, 2, "finished", "")
    peer.acked(2)
    time.sleep(0.5)
    assert hooked.fired() == []
    peer.close()


def child_of(pid, name):
    """The only child of a process; None while there is none."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    if not children:
        return None
    (pid,) = children
    wait_for(lambda: pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="ascii") == f"{name}\n",
             what=name)
    return int(pid)


def keeper_of(daemon):
    """The process that starts the one that runs the hooks."""
    return child_of(daemon.process.pid, "seismod-keeper")


def helper_of(daemon):
    """The process that runs the hooks."""
    return wait_for(lambda: child_of(keeper_of(daemon), "seismod-hooks"), what="the helper")


def ended(pid):
    """Gone, or a zombie that init has not collected."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return True
    return stat.rpartition(") ")[2].startswith("Z")


def test_helper_is_killed_in_a_hook(start_daemon, tmp_path):
    """Another one runs the hook again, under the same id, without a restart of the daemon."""
    log, once = tmp_path / "fired", tmp_path / "once"
    hook = install_hook(tmp_path, f"#!/bin/sh\necho $SEISMO_ALERT_ID >> {log}\n"
                                  f"[ -e {once} ] || {{ touch {once}; exec sleep 600; }}\n")
    daemon = start_daemon(config=f"[hook page]\ncommand = {hook}\n")
    peer = Peer(daemon.ingest, run="sick")
    diverge(peer)
    wait_for(once.exists, what="the hook")
    for deaths in range(1, 4):
        os.kill(helper_of(daemon), signal.SIGKILL)
        wait_for(lambda: daemon.log().count("another hook helper") == deaths, what="another helper")
    wait_for(lambda: daemon.json("status")["alerts"] == {"ok": True, "waiting": 0, "more": False},
             what="the alert")
    assert set(log.read_text().split()) == {"1"} and len(log.read_text().split()) >= 2
    peer.close()


def test_more_alerts_than_fit_in_memory(start_daemon):
    """Those beyond wait in the database, and each fires once. Most are for a hook that was taken out of
    the configuration, which is quickly done."""
    daemon = start_daemon(config="[hook page]\ncommand = /bin/true\n")
    peer = Peer(daemon.ingest, run="sick")
    diverge(peer)
    wait_for(lambda: daemon.json("status")["alerts"]["waiting"] == 0, what="the first alert")
    daemon.stop()
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        columns = [row[1] for row in db.execute("PRAGMA table_info(alerts)") if row[1] != "id"]
        names = ", ".join(columns)
        values = ", ".join({"attempts": "0", "delivered": "NULL", "result": "NULL"}.get(c, c)
                           for c in columns)
        insert = f"INSERT INTO alerts({names}) SELECT {values} FROM alerts WHERE id = 1"
        db.executemany(insert, [()] * 2600)
        db.execute("UPDATE alerts SET hook = 'gone' WHERE id > 1 AND id % 100")
    daemon.start()
    wait_for(lambda: "wait in the outbox" in daemon.log(), what="the overflow")

    def results():
        with sqlite3.connect(daemon.data / "seismo.db") as db:
            return set(db.execute("SELECT hook, delivered IS NOT NULL, attempts, result, count(*) "
                                  "FROM alerts GROUP BY 1, 2, 3, 4"))

    all_told = {("page", 1, 1, "exit 0", 27), ("gone", 0, 1, "no such hook, gave up", 2574)}
    wait_for(lambda: results() == all_told, timeout=120, what="all alerts")
    wait_for(lambda: not daemon.json("status")["alerts"]["more"], what="the end")
    peer.close()


def test_keeper_is_killed(hooked):
    """The daemon says so, stores the alerts and fires them when it is started again."""
    wait_for(lambda: hooked.json("status")["alerts"] == {"ok": True, "waiting": 0, "more": False},
             what="the helper")
    helper_of(hooked)
    os.kill(keeper_of(hooked), signal.SIGKILL)
    wait_for(lambda: not hooked.json("status")["alerts"]["ok"], what="the loss in the status")
    assert "hook helper" in hooked.log() and "hook helper is gone" in hooked.cli("status").stdout
    peer = Peer(hooked.ingest, run="sick")
    diverge(peer)
    wait_for(lambda: hooked.json("status")["alerts"]["waiting"] == 1, what="the alert")
    assert hooked.fired() == []
    hooked.stop()
    hooked.start()
    wait_for(hooked.fired, what="the hook")
    assert hooked.json("status")["alerts"]["ok"]
    peer.close()


def test_helper_ends_with_the_daemon(hooked):
    processes = helper_of(hooked), keeper_of(hooked)
    hooked.kill()
    wait_for(lambda: all(map(ended, processes)), what="the end of the helper")
    hooked.start()
    processes = helper_of(hooked), keeper_of(hooked)
    hooked.stop()
    wait_for(lambda: all(map(ended, processes)), what="the end of the helper")


@pytest.mark.plain_only  # sanitizers have memory of their own
def test_helper_does_not_keep_what_loading_the_model_took(daemon):
    """Some 10 MB, which the two processes would hold from the fork on to the end, in a small cgroup too."""
    for pid in keeper_of(daemon), helper_of(daemon):
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        (anonymous,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:"))
        assert anonymous < 4096, status
