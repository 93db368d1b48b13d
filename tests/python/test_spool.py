"""The client spool: what a process leaves behind is carried on, exactly once, whatever happens."""
import json
import logging
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

import msgpack
import pytest
import seismo
from conftest import ROOT, wait_for
from fake import steps
from seismo import _protocol as protocol, _spool
from seismo._protocol import FIELDS

TRAINER = pathlib.Path(os.environ["SEISMO_BUILD"]) / "tests" / "fault" / "fault_trainer"
NOWHERE = "ipc:///nonexistent/seismo.sock"
CHILD = """
import os, signal, sys, time
import seismo
endpoint, spool, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
run = seismo.Run("r", "p", ingest=endpoint, spool=spool)
for step in range(first, last):
    run.step(step, loss=float(step))
while run.stats["spooled_steps"] + run.stats["acked_steps"] < run.stats["steps"]:
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


def die_after(endpoint, spool, first, last, child=CHILD):
    """A process that hands over these steps, waits until they are safe, and is killed."""
    done = subprocess.run(
        [sys.executable, "-c", child, endpoint, str(spool), str(first), str(last)], timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")}, check=False)
    assert done.returncode == -signal.SIGKILL


def files(spool):
    return sorted(os.listdir(spool))


def open_spool(path, **changes):
    about = {"run": "r", "program": "p", "rank": 0, "world": 1, "fields": FIELDS, "meta": "{}",
             "session": os.urandom(16), **changes}
    return _spool.Spool(str(path), **about)


def test_the_next_process_carries_on(daemon, tmp_path):
    spool = tmp_path / "new"
    die_after(NOWHERE, spool, 0, 300)
    die_after(NOWHERE, spool, 300, 500)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=spool) as run:
        for step in range(500, 600):
            run.step(step, loss=float(step))
        wait_for(lambda: run.stats["acked_steps"] == 600, what="600 acknowledged steps")
        stats = run.stats
        assert (stats["steps"], stats["spooled_steps"], stats["errors"]) == (600, 0, 0)
    assert steps(daemon) == list(range(600))
    assert len({about["session"] for about in daemon.hellos}) == 1
    assert len(daemon.byes) == 1
    assert files(spool) == []


def test_what_is_left_goes_without_a_step_of_the_new_process(daemon, tmp_path):
    die_after(NOWHERE, tmp_path, 0, 100)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        wait_for(lambda: run.stats["acked_steps"] == 100, what="100 acknowledged steps")
    assert steps(daemon) == list(range(100))


def test_a_process_that_dies_in_mid_stream(daemon, tmp_path):
    """What was acknowledged is not sent again, what was not is."""
    for k in range(5):
        die_after(daemon.endpoint, tmp_path, 100 * k, 100 * k + 100)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        run.step(500, loss=0.0)
    assert steps(daemon) == list(range(501))


def test_a_process_that_dies_before_it_has_noted_that_all_is_acknowledged(daemon, tmp_path):
    """The file is cut down to its HELLO by then: the next process must not use numbers again that
    the daemon has had, or its rows would be taken for old ones."""
    killed = CHILD.replace("import seismo\n", """import seismo
from seismo import _spool
put = _spool.Spool._put
def die(self, message):
    if message[1] == _spool.ACK and self.bare and run.stats["acked_steps"] == 100:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, message)
_spool.Spool._put = die
""").replace("< run.stats", "<= run.stats")
    for k in range(2):
        die_after(daemon.endpoint, tmp_path, 100 * k, 100 * k + 100, killed)
    die_after(daemon.endpoint, tmp_path, 200, 300)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        run.step(300, loss=0.0)
    assert steps(daemon) == list(range(301))
    assert len({about["session"] for about in daemon.hellos}) == 3


def test_what_goes_past_a_full_disk_takes_no_number_from_the_next_process(daemon, tmp_path):
    """Batches that the file could not take went to the daemon from memory, which is never done with
    them; the process is killed, and there is room again."""
    script = """
import resource, signal, sys, time
import seismo
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
run = seismo.Run("r", "p", ingest=sys.argv[1], spool=sys.argv[2])
for step in range(10**9):
    run.step(step, loss=0.0)
    time.sleep(0.0005)
"""
    daemon.answer = lambda message: time.sleep(0.05)
    child = subprocess.Popen(
        [sys.executable, "-c", script, daemon.endpoint, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")})
    wait_for(lambda: len(daemon.rows) > 2000, what="2,000 rows")
    child.kill()
    child.wait()
    daemon.answer = None
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        for step in range(10**6, 10**6 + 300):
            run.step(step, loss=0.0)
    # What the first process had sent may come later than its successor's.
    first = [step for step in steps(daemon) if step < 10**6]
    assert first == list(range(len(first)))
    assert [step for step in steps(daemon) if step >= 10**6] == list(range(10**6, 10**6 + 300))


def test_the_environment_names_the_spool(daemon, tmp_path, monkeypatch):
    monkeypatch.setenv("SEISMO_SPOOL", str(tmp_path))
    run = seismo.Run("r", "p", ingest=NOWHERE)
    run.step(0, loss=1.0)
    wait_for(lambda: run.stats["spooled_steps"] == 1, what="the spool")
    assert len(files(tmp_path)) == 1
    run.close(timeout=0.1)
    assert len(files(tmp_path)) == 1
    monkeypatch.delenv("SEISMO_SPOOL")
    run = seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path)
    wait_for(lambda: run.stats["acked_steps"] == 1, what="the step")
    assert not daemon.byes  # the farewell is void, as the job goes on
    assert run.close()
    assert len(daemon.byes) == 1 and files(tmp_path) == []


def test_a_longer_outage_than_memory_holds(daemon, tmp_path, monkeypatch):
    from seismo import _link

    monkeypatch.setattr(_link, "LIMIT", 2000)
    run = seismo.Run("r", "p", ingest=NOWHERE, spool=tmp_path)
    for step in range(20000):
        run.step(step, loss=1.0)
        if step % 1000 == 999:
            wait_for(lambda s=step: run.stats["spooled_steps"] >= s - 900, what="the spool")
    assert run.stats["dropped_steps"] == 0
    run.close(timeout=0.1)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        wait_for(lambda: run.stats["acked_steps"] == 20000, what="all steps")
    assert steps(daemon) == list(range(20000))


def test_two_jobs_of_one_name_have_a_file_each(daemon, tmp_path):
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as one, \
            seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as two:
        for run in (one, two):
            run.step(0, loss=1.0)
            wait_for(lambda r=run: r.stats["acked_steps"] == 1, what="the step")
        assert [name.split(".")[-2] for name in files(tmp_path)] == ["1", "2"]
        die_after(NOWHERE, tmp_path, 5, 6)  # another process
        assert [name.split(".")[-2] for name in files(tmp_path)] == ["1", "2", "3"]
    assert len(files(tmp_path)) == 1
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path):
        pass  # takes the first free one, not that of the dead process
    assert len(files(tmp_path)) == 1


def test_an_unwritable_spool_is_done_without(daemon, tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("")
    with caplog.at_level(logging.WARNING, "seismo"):
        with seismo.Run("r", "p", ingest=daemon.endpoint, spool=path / "dir") as run:
            run.step(0, loss=1.0)
            wait_for(lambda: run.stats["acked_steps"] == 1, what="the step")
            assert run.stats["errors"] == 1
    assert [r.getMessage() for r in caplog.records if "no spool in" in r.getMessage()]
    assert steps(daemon) == [0]


def test_a_full_disk_is_survived(daemon, tmp_path):
    """Told once, nothing lost, and used again once there is room and nothing waits."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, old[1]))
    try:
        daemon.silent = True
        run = seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path)
        for step in range(2000):
            run.step(step, loss=1.0)
        wait_for(lambda: run.stats["errors"] == 1, what="the error")
        daemon.silent = False
        wait_for(lambda: run.stats["acked_steps"] == 2000, what="all steps")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    daemon.silent = True
    for step in range(2000, 4000):
        run.step(step, loss=1.0)
    wait_for(lambda: run.stats["spooled_steps"] > 1500, what="the spool")
    daemon.silent = False
    assert run.close(timeout=30)
    assert steps(daemon) == list(range(4000))


def store_without_acknowledgement(daemon, rows):
    """The daemon stores so many rows, dies before it could say so, and comes back."""
    say = daemon.say
    daemon.say = lambda peer, *said: said[0] == protocol.WELCOME and say(peer, *said)
    daemon.silent = False
    daemon.down()
    daemon.up()
    wait_for(lambda: len(daemon.rows) == rows, what=f"{rows} rows")
    daemon.down()
    daemon.say = say
    daemon.up()


def test_a_welcome_that_settles_all_that_is_under_way(daemon, tmp_path):
    """More is in the file: the daemon is not to be taken for one that has lost its data."""
    daemon.silent = True
    run = seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path)
    for step in range(64 * 100):
        run.step(step, loss=1.0)
    wait_for(lambda: run.stats["spooled_steps"] == 64 * 100, what="the spool")
    store_without_acknowledgement(daemon, 64 * 64)
    assert run.close(timeout=10)
    assert steps(daemon) == list(range(64 * 100))
    assert len({about["session"] for about in daemon.hellos}) == 1


@pytest.fixture
def full_disk():
    """Files cannot grow beyond 20 kB."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def more_than_the_disk_holds(daemon, tmp_path):
    """A run of 2,000 rows of which nothing is acknowledged."""
    daemon.silent = True
    run = seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path)
    for step in range(2000):
        run.step(step, loss=1.0)
    wait_for(lambda: run.stats["errors"], what="the error")
    return run


def test_a_welcome_that_settles_all_but_what_the_file_refused(daemon, tmp_path, full_disk):
    run = more_than_the_disk_holds(daemon, tmp_path)
    store_without_acknowledgement(daemon, run.stats["spooled_steps"])
    assert run.close(timeout=10)
    assert steps(daemon) == list(range(2000))
    assert len({about["session"] for about in daemon.hellos}) == 1


def test_what_the_file_refused_waits_as_other_rows_do(daemon, tmp_path, full_disk):
    run = more_than_the_disk_holds(daemon, tmp_path)
    assert run.stats["queued_steps"] == 2000
    run.close(timeout=0)


def test_a_file_that_somebody_deleted_holds_up_nothing(daemon, tmp_path):
    run = seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path / "s")
    run.step(0, loss=1.0)
    wait_for(lambda: run.stats["acked_steps"] == 1, what="the step")
    shutil.rmtree(tmp_path / "s")
    begun = time.monotonic()
    assert run.close()
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("record", [
    [protocol.HELLO, {"version": 2}], [protocol.HELLO, 5], [protocol.STEPS, 1, []], [99], 7,
    [protocol.HELLO, {"run": "r", "program": "p", "rank": 0, "fields": list(FIELDS),
                      "session": None}]])
def test_a_whole_file_of_another_kind_is_left_alone(daemon, tmp_path, record):
    message = msgpack.packb(record)
    whole = struct.pack("<II", len(message), zlib.crc32(message)) + message
    path = tmp_path / _spool._file_name("r", "p", 0, 1)
    path.write_bytes(whole)
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path) as run:
        run.step(0, loss=1.0)
        wait_for(lambda: run.stats["acked_steps"] == 1, what="the step")
        assert run.stats["errors"] == 0 and len(files(tmp_path)) == 2
    assert path.read_bytes() == whole


def test_a_batch_without_a_number_ends_the_file(tmp_path):
    spool = open_spool(tmp_path)
    for message in ([protocol.STEPS, 1, []], [protocol.STEPS, "2", []]):
        spool.append(1, msgpack.packb(message))
    spool.close(delete=False)
    spool = open_spool(tmp_path)
    assert (spool.last, spool.unread) == (1, 1)
    spool.close(delete=True)


def test_a_child_has_a_spool_whatever_its_parent_was_opening(daemon, tmp_path):
    """A thread of the parent is about to read a file as the child is forked."""
    code = """
import os, seismo, signal, sys, threading, time
from seismo import _spool
mine = _spool.Spool(sys.argv[1], "child", "p", 0, 1, _spool_fields, "{}", os.urandom(16))
locked, go = threading.Event(), threading.Event()
def hold():
    with _spool._open_lock:
        locked.set()
        go.wait()
threading.Thread(target=hold).start()
locked.wait()
if os.fork() == 0:
    signal.alarm(5)
    assert not _spool._open
    run = seismo.Run("child", "p", spool=sys.argv[1])
    for step in range(100):
        run.step(step, loss=1.0)
    ok = run.close() and run._link._spool.path != mine.path
    os._exit(7 if ok else 8)
_, status = os.wait()
go.set()
os._exit(os.waitstatus_to_exitcode(status))
""".replace("_spool_fields", "seismo._protocol.FIELDS")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=20, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python"),
                               "SEISMO_INGEST": daemon.endpoint})
    assert done.returncode == 7
    assert steps(daemon) == list(range(100))


def test_a_torn_file_is_cut(tmp_path):
    """Whole records count, up to the first one that is cut or has a wrong byte."""
    spool = open_spool(tmp_path)
    for number in range(1, 9):
        spool.append(number, b"\x93\x02" + bytes([number]) + b"\x91\x92\x01\x02")
    spool.close(delete=False)
    name, = files(tmp_path)
    whole = (tmp_path / name).read_bytes()
    found = set()
    for at in [*range(0, len(whole), 5), len(whole)]:
        for flip in (False, True):
            if flip and at == len(whole):
                continue
            torn = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:] if flip else whole[:at]
            (tmp_path / name).write_bytes(torn)
            spool = open_spool(tmp_path)
            found.add(spool.unread)
            assert spool.last == spool.unread == spool.inherited_rows
            assert [spool.next()[0] for _ in range(spool.unread)] == list(range(1, spool.last + 1))
            spool.append(spool.last + 1, b"\x93\x02" + bytes([spool.last + 1]) + b"\x90")
            count = spool.last
            spool.close(delete=False)
            spool = open_spool(tmp_path)
            assert spool.unread == count
            spool.close(delete=False)
    assert found == set(range(9))


def test_the_file_shrinks_while_something_is_always_under_way(tmp_path):
    spool = open_spool(tmp_path)
    spool.compact_at = 2000
    ends = {}
    for number in range(1, 2000):
        spool.append(number, b"\x93\x02\xcd" + number.to_bytes(2, "big") + b"\x91\x92\x01\x02")
        read, *_, end = spool.next()
        ends[number] = end
        assert read == number
        if number > 5:
            spool.settle(number - 5, ends[number - 5], False)
        assert os.path.getsize(spool.path) < 10000
    spool.close(delete=False)
    spool = open_spool(tmp_path)
    assert (spool.acked, spool.last, spool.unread) == (1994, 1999, 5)
    assert [spool.next()[0] for _ in range(5)] == [1995, 1996, 1997, 1998, 1999]
    spool.close(delete=True)


def test_the_file_is_bounded(tmp_path):
    spool = open_spool(tmp_path)
    spool.max = 100000
    while spool.ready:
        spool.append(spool.last + 1, b"\x93\x02\xcd" + (spool.last + 1).to_bytes(2, "big") + b"\x90")
    assert os.path.getsize(spool.path) <= 100000
    spool.close(delete=True)


def test_c_and_python_read_each_other(daemon, tmp_path):
    """A job may go on in the other language: the file is the same."""
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(json.dumps(row) + "\n" for row in [
        {"run": "r", "program": "p"}, *({"step": s, "loss": float(s)} for s in range(600))]))
    spool = tmp_path / "spool"
    process = subprocess.Popen([str(TRAINER), str(trace), NOWHERE, "r", "p", "200", "0",
                                str(spool)], stdout=subprocess.PIPE, text=True)
    safe = 0
    while safe < 100:
        words = process.stdout.readline().split()
        safe = int(words[words.index("safe") + 1])
    process.kill()
    process.wait()
    process.stdout.close()
    opened = _spool.Spool(str(spool), "r", "p", 0, 1, FIELDS, "{}", os.urandom(16))
    left = opened.inherited_rows
    opened.close(delete=False)
    assert left >= safe
    die_after(NOWHERE, spool, left, left + 50)  # Python goes on …
    done = subprocess.run([str(TRAINER), str(trace), daemon.endpoint, "r", "p", "100000",
                           str(left + 50), str(spool)], stdout=subprocess.PIPE, text=True,
                          timeout=60, check=True)  # … and C again, to the end
    assert done.stdout.splitlines()[-1] == "closed 1"
    assert steps(daemon) == list(range(600))
    assert [row["loss"] for row in daemon.rows] == [float(step) for step in range(600)]
    assert files(spool) == []


def test_whoever_dies_each_row_comes_once(daemon, tmp_path):
    """Many processes in turn, killed at random moments, and a daemon that comes and goes."""
    seed = int(os.environ.get("SEISMO_TEST_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"SEISMO_TEST_SEED={seed}")
    draw = random.Random(seed)
    code = CHILD.replace('os.kill(os.getpid(), signal.SIGKILL)', 'time.sleep(60)').replace(
        "run.step(step, loss=float(step))", "run.step(step, loss=float(step)); time.sleep(0.001)\n"
        "    safe = run.stats['spooled_steps'] + run.stats['acked_steps'] - inherited\n"
        "    os.pwrite(1, b'%12d' % safe, 0)").replace(
        "for step", "inherited = run.stats['steps']\nfor step", 1)
    code = code.replace("inherited = run", "while run._link._spool is None:\n"
                        "    time.sleep(0.01)\ninherited = run")
    first, expected = 0, []
    for _ in range(6):
        out = tmp_path / "safe"
        with open(out, "w+b") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", code, daemon.endpoint, str(tmp_path / "s"), str(first),
                 str(first + 100000)], stdout=file,
                env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")})
            wait_for(lambda: out.read_bytes().strip(), timeout=60, what="the first step")
            time.sleep(draw.uniform(0.0, 0.5))
            daemon.silent = draw.random() < 0.5
            time.sleep(draw.uniform(0.0, 0.5))
            process.kill()
            process.wait()
        safe = int(out.read_bytes())
        out.unlink()
        expected.append((first, first + safe))
        first += 100000
    daemon.silent = False
    with seismo.Run("r", "p", ingest=daemon.endpoint, spool=tmp_path / "s") as run:
        run.step(first, loss=0.0)  # perhaps nothing else is left to send
        wait_for(lambda: run.stats["steps"] > 0 and run.stats["queued_steps"] == 0,
                 timeout=60, what="the rest")
    stored = steps(daemon)
    assert stored.pop() == first
    assert stored == sorted(set(stored))
    for start, end in expected:
        got = [step for step in stored if start <= step < start + 100000]
        assert got == list(range(start, start + len(got)))
        assert len(got) >= end - start
    shutil.rmtree(tmp_path / "s")
