"""`seismo check` finds what is wrong in a database and nothing in one that is right, also while the daemon
writes; `seismo backup` copies one moment of it."""
import contextlib
import json
import math
import shutil
import sqlite3
import threading

import pytest
from conftest import Daemon, run_cli, wait_for
from peer import Peer
from seismo import _protocol as protocol


def loss(step):
    return 0.3 + 2.0 * math.exp(-step / 60) + 0.05 * math.sin(step * 12.9898)


def rows(first, last, nan_from=1 << 60):
    return [[step, loss(step) if step < nan_from else math.nan] for step in range(first, last)]


def feed(peer, first, last, batch=1, size=70, **options):
    """Rows in batches; returns the number of the next batch."""
    for at in range(first, last, size):
        assert peer.steps(batch, rows(at, min(at + size, last), **options))[0] == protocol.ACK
        batch += 1
    return batch


def fill(daemon):
    """Runs of all kinds: finished, gone bad with an alert, resumed from a checkpoint, still going on."""
    ended = Peer(daemon.ingest, run="ended")
    ended.hello()
    ended.send(protocol.BYE, feed(ended, 0, 700), "finished", "")
    ended.acked(11)
    ended.close()
    bad = Peer(daemon.ingest, run="bad")
    bad.hello()
    feed(bad, 0, 620, nan_from=610)
    bad.close()
    first = Peer(daemon.ingest, run="resumed")
    first.hello()
    feed(first, 0, 600, nan_from=590)
    first.close()
    second = Peer(daemon.ingest, run="resumed")
    wait_for(second.hello, what="WELCOME")
    feed(second, 333, 800)
    second.close()
    going = Peer(daemon.ingest, run="going on")
    going.hello()
    feed(going, 0, 300, size=7)
    return going


def test_budgets(start_daemon):
    """Steps are scored again under the budget that the daemon had, and a change of it is no damage."""
    thresholds = set()
    for number, budget in enumerate(("0.05", "0.001")):
        daemon = start_daemon(config=f"[seismod]\nbudget = {budget}\n")
        peer = Peer(daemon.ingest, run="bad")
        peer.hello()
        feed(peer, 0, 620, nan_from=610)
        daemon.stop()
        peer.close()
        code, found = check(daemon.data)
        assert code == 0 and found["unscored"] == 0 and found["verdicts"] > 0, found
        for factor in (0.5, 2):
            with sqlite3.connect(daemon.data / "seismo.db") as db:
                db.execute("UPDATE verdicts SET threshold = threshold * ?", (factor,))
            assert check(daemon.data)[0] == (1 if factor == 0.5 else 0)
        daemon.config.write_text(f"[seismod]\nbudget = {'0.01' if number else '0.001'}\n")
        daemon.start()
        peer = Peer(daemon.ingest, run="bad")
        wait_for(lambda: peer.hello()[0] == protocol.WELCOME, what="WELCOME")
        feed(peer, 620, 1200)
        daemon.stop()
        peer.close()
        code, found = check(daemon.data)
        assert code == 0 and found["unscored"] == 0 and found["steps"] == 1200, found
        with sqlite3.connect(daemon.data / "seismo.db") as db:
            thresholds |= {row[0] for row in db.execute("SELECT threshold FROM verdicts WHERE step < 620")}
    assert len(thresholds - {None}) >= 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data directory that a daemon has left behind after a crash, log and all."""
    directory = tmp_path_factory.mktemp("whole")
    daemon = Daemon(directory, config="[hook none]\ncommand = /bin/true\n")
    peer = fill(daemon)
    daemon.kill()
    peer.close()
    return daemon.data


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "data", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "data"


def check(path):
    """Exit code and document of `seismo check --json`."""
    done = run_cli("check", path, "--json", check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def execute(path, sql, *values):
    with contextlib.closing(sqlite3.connect(path / "seismo.db")) as db:
        assert db.execute(sql, values).rowcount > 0
        db.commit()


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_sound_database(copy):
    """With the log of a crash, after it, and as a backup in a directory that nobody may write."""
    code, report = check(copy)
    assert code == 0 and report["sound"] and report["problems"] == []
    assert report["runs"] == 4 and report["steps"] == 700 + 620 + 800 + 300
    assert report["verdicts"] >= 5 and report["points"] > 2000 and report["unscored"] == 0
    backup = copy / "backup.db"
    run_cli("backup", backup, "--database", copy)
    assert check(backup) == (0, {**report, "path": str(backup)})
    before = files(copy)
    assert "sound" in run_cli("check", copy / "seismo.db").stdout
    after = files(copy)
    assert {**after, "seismo.db-shm": None} == {**before, "seismo.db-shm": None}


def test_check_leaves_nothing_beside_a_backup(copy, tmp_path):
    alone = tmp_path / "alone"
    alone.mkdir()
    run_cli("backup", alone / "b.db", "--database", copy)
    assert check(alone / "b.db")[0] == 0
    assert [path.name for path in alone.iterdir()] == ["b.db"]


def flip(path, table, column, where, at):
    """Changes one byte of a blob."""
    with contextlib.closing(sqlite3.connect(path / "seismo.db")) as db:
        rowid, blob = db.execute(f"SELECT rowid, {column} FROM {table} WHERE {where} LIMIT 1").fetchone()
        blob = bytearray(blob)
        blob[at] ^= 0x10
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (bytes(blob), rowid))
        db.commit()


ENDED = "run_id = (SELECT id FROM runs WHERE run = 'ended')"
BAD = "run_id = (SELECT id FROM runs WHERE run = 'bad')"

DAMAGE = {
    "presence mask": (lambda p: flip(p, "chunks", "rows", ENDED, 19), "ended", "presence mask"),
    "loss in a chunk": (lambda p: flip(p, "chunks", "rows", ENDED, 32 * 40 + 31), "ended", "the detector gives"),
    "score in a chunk": (lambda p: flip(p, "chunks", "rows", ENDED, 32 * 40 + 21), "ended",
                         "step 40: the score stored"),
    "score in the tail": (lambda p: flip(p, "tail", "rows", ENDED, 21), "ended", "the score stored"),
    "snapshot": (lambda p: flip(p, "chunks", "snapshot", ENDED + " AND first_step > 0", 200), "ended",
                 "state before step 256 is damaged"),
    "snapshot of another run": (
        lambda p: execute(p, f"UPDATE chunks SET snapshot = (SELECT snapshot FROM chunks WHERE {BAD} AND "
                          f"first_step = 0) WHERE {ENDED} AND first_step > 0"), "ended",
        "is not what its steps give"),
    "rows cut short": (lambda p: execute(p, f"UPDATE chunks SET rows = substr(rows, 1, 3000) WHERE {BAD}"),
                       "bad", "cut short"),
    "chunk deleted": (lambda p: execute(p, f"DELETE FROM chunks WHERE {ENDED} AND first_step = 256"),
                      "ended", "444 steps stored and says 700"),
    "tail row deleted": (lambda p: execute(p, "DELETE FROM tail WHERE id IN (SELECT id FROM tail WHERE "
                                           f"{ENDED} ORDER BY id LIMIT 1)"), "ended", "missing"),
    "last tail row deleted": (
        lambda p: execute(p, f"DELETE FROM tail WHERE id = (SELECT max(id) FROM tail WHERE {ENDED})"),
        "ended", "steps stored and says 700"),
    "first step of a chunk": (lambda p: execute(p, f"UPDATE chunks SET first_step = 250 WHERE {ENDED} AND "
                                                "first_step = 256"), "ended", "begins at step 250"),
    "tail state deleted": (lambda p: execute(p, f"DELETE FROM tail_state WHERE {ENDED}"), "ended",
                           "before the tail is missing"),
    "score of a verdict": (lambda p: execute(p, f"UPDATE verdicts SET score = score * 0.99 WHERE {BAD} AND "
                                             "state = 'unstable'"), "bad", "stored are score"),
    "verdict deleted": (lambda p: execute(p, f"DELETE FROM verdicts WHERE {ENDED} AND state = 'healthy'"),
                        "ended", "the verdict healthy"),
    "verdict added": (
        lambda p: execute(p, "INSERT INTO verdicts SELECT 999, run_id, run, program, step + 1, time, recorded, "
                          "state, severity, score, threshold, fault, fault_distribution, reasons, 0 FROM "
                          f"verdicts WHERE {ENDED} AND state = 'healthy'"), "ended",
        "not one that its steps give"),
    "verdict superseded": (lambda p: execute(p, f"UPDATE verdicts SET superseded = 1 WHERE {BAD} AND state = "
                                             "'unstable'"), "bad", "the verdict unstable"),
    "point of the series": (lambda p: execute(p, f"UPDATE series_points SET loss = 1 WHERE {ENDED} AND "
                                              "step = 300"), "ended", "first at step 300"),
    "point deleted": (lambda p: execute(p, f"DELETE FROM series_points WHERE {ENDED} AND step = 300"),
                      "ended", "first at step 300"),
    "steps of a run": (lambda p: execute(p, "UPDATE runs SET steps = 701 WHERE run = 'ended'"), "ended",
                       "700 steps stored and says 701"),
    "alarm of a run": (lambda p: execute(p, "UPDATE runs SET alarm_step = NULL WHERE run = 'bad'"), "bad",
                       "alarm step"),
    "highest score": (lambda p: execute(p, "UPDATE runs SET max_score = 2 WHERE run = 'ended'"), "ended",
                      "highest score"),
    "run deleted": (lambda p: execute(p, "DELETE FROM runs WHERE run = 'ended'"), None, "belongs to nothing"),
    "reasons": (lambda p: execute(p, f"UPDATE verdicts SET reasons = '[' WHERE {BAD}"), None,
                "JSON is damaged"),
}


def test_log_of_an_empty_database_is_kept(copy):
    """SQLite deletes it, also for a reader."""
    (copy / "seismo.db").write_bytes(b"")
    log = (copy / "seismo.db-wal").read_bytes()
    for command in (["check", copy], ["backup", copy / "b", "--database", copy]):
        done = run_cli(*command, check=False)
        assert done.returncode == 1 and "is empty" in done.stderr
        assert log and (copy / "seismo.db-wal").read_bytes() == log


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found(copy, kind):
    """One thing is changed; it is named, and the other runs have nothing wrong with them."""
    damage, run, words = DAMAGE[kind]
    damage(copy)
    code, report = check(copy)
    assert code == 1 and not report["sound"], report
    assert any(words in problem["text"] for problem in report["problems"]), report["problems"]
    assert {problem["run"] for problem in report["problems"]} == {run}
    assert run_cli("check", copy, check=False).returncode == 1


def test_damaged_pages_are_found(copy):
    with contextlib.closing(sqlite3.connect(copy / "seismo.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        size = db.execute("PRAGMA page_count").fetchone()[0]
    path = copy / "seismo.db"
    for page in range(size // 3, size // 3 + 4):
        with open(path, "r+b") as f:
            f.seek(page * 4096)
            f.write(b"\xa5" * 4096)
    code, report = check(copy)
    assert code == 1 and any("SQLite" in problem["text"] for problem in report["problems"])
    done = run_cli("backup", copy / "b", "--database", copy, check=False)
    assert done.returncode == 1 and "damaged" in done.stderr
    assert [p.name for p in copy.iterdir() if p.name.startswith("b")] == []


def test_what_is_no_database(tmp_path, copy):
    nothing = tmp_path / "nothing.db"
    for command in (["check", nothing], ["backup", tmp_path / "x", "--database", nothing]):
        done = run_cli(*command, check=False)
        assert done.returncode == 4 and "nothing.db" in done.stderr
        text = tmp_path / "text"
        text.write_text("no database at all, and long enough not to be taken for one" * 20)
        done = run_cli(command[0], text if command[0] == "check" else tmp_path / "y",
                       *([] if command[0] == "check" else ["--database", text]), check=False)
        assert done.returncode == 1 and "not a database" in done.stderr
    execute_pragma(copy, "user_version = 2")
    done = run_cli("check", copy, check=False)
    assert done.returncode == 1 and "install the newer seismo" in done.stderr
    execute_pragma(copy, "application_id = 5")
    assert "no database of seismod" in run_cli("check", copy, check=False).stderr


def execute_pragma(path, pragma):
    with contextlib.closing(sqlite3.connect(path / "seismo.db")) as db:
        db.execute(f"PRAGMA {pragma}")
        db.commit()


def test_backup_does_not_overwrite(copy, tmp_path):
    target = tmp_path / "there.db"
    target.write_text("mine")
    done = run_cli("backup", target, "--database", copy, check=False)
    assert done.returncode == 2 and "--force" in done.stderr and target.read_text() == "mine"
    run_cli("backup", "--force", target, "--database", copy)
    assert check(target)[0] == 0
    assert target.stat().st_mode & 0o777 == 0o600
    done = run_cli("backup", tmp_path / "no" / "such" / "b.db", "--database", copy, check=False)
    assert done.returncode == 1 and "No such file" in done.stderr


def test_backup_does_not_take_the_place_of_its_database(daemon, tmp_path):
    """A daemon that goes on writing into the file that was renamed over writes into nothing."""
    peer = Peer(daemon.ingest, run="a")
    peer.hello()
    feed(peer, 0, 200)
    database = daemon.data / "seismo.db"
    before = database.stat().st_ino
    link, hard = tmp_path / "link.db", tmp_path / "hard.db"
    link.symlink_to(database)
    hard.hardlink_to(database)
    own = [database, daemon.data / "." / "seismo.db", link, hard]
    own += [daemon.data / f"seismo.db-{part}" for part in ("wal", "shm", "journal")]
    for target in own:
        done = daemon.cli("backup", "--force", target, check=False)
        assert (done.returncode, done.stdout) == (2, "") and "another name" in done.stderr, target
    assert database.stat().st_ino == before
    assert not list(daemon.data.glob("*.partial-*"))
    daemon.cli("backup", daemon.data / "seismo.db.copy")
    assert run_cli("check", daemon.data / "seismo.db.copy").returncode == 0


def test_check_and_backup_while_the_daemon_writes(daemon, tmp_path):
    """Each backup holds what was acknowledged before it began, as one moment; each check is clean; and
    ingest goes on meanwhile."""
    acked, stop = [0], threading.Event()

    def stream():
        peer = Peer(daemon.ingest, run="stream")
        peer.hello()
        batch = 0
        while not stop.is_set():
            batch += 1
            first = (batch - 1) * 50
            assert peer.steps(batch, rows(first, first + 50))[0] == protocol.ACK
            acked[0] = first + 50
        peer.close()

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        wait_for(lambda: acked[0] > 500, what="steps")
        for i in range(5):
            before = acked[0]
            path = tmp_path / f"b{i}.db"
            done = json.loads(daemon.cli("backup", path, "--json").stdout)
            assert done["file"] == str(path) and done["bytes"] == path.stat().st_size
            code, report = check(path)
            assert code == 0, report["problems"]
            assert before <= report["steps"] <= acked[0] + 50
            assert report["steps"] % 50 == 0
            live = daemon.cli("check", "--json", check=False)
            assert live.returncode == 0, live.stdout
        wait_for(lambda n=acked[0]: acked[0] > n + 500, what="more steps")
    finally:
        stop.set()
        thread.join()


def test_restored_backup_goes_on(start_daemon, tmp_path):
    """As the manual says: the copy in place of the database. The run goes on where the copy was made."""
    daemon = start_daemon()
    peer = Peer(daemon.ingest, run="r")
    peer.hello()
    feed(peer, 0, 300)
    daemon.cli("backup", tmp_path / "b.db")
    feed(peer, 300, 400, batch=6)
    peer.close()
    daemon.stop()
    shutil.rmtree(daemon.data)
    daemon.data.mkdir()
    shutil.copy(tmp_path / "b.db", daemon.data / "seismo.db")
    daemon.start()
    peer = Peer(daemon.ingest, run="r")
    welcome = peer.hello()
    assert welcome[1]["run"] == "r" and welcome[1]["last_step"] == 299
    feed(peer, 300, 500)
    assert [row["step"] for row in daemon.export("r")] == list(range(500))
    assert daemon.cli("check").returncode == 0
    peer.close()
