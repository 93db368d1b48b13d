"""seismo.Run against a daemon that answers, loses, forgets, refuses, or is not there."""
import json
import logging
import math
import operator
import threading
import time

import pytest
import seismo
import zmq
from conftest import script, wait_for
from fake import FakeDaemon, feed, steps
from seismo import _keys, _link, _protocol as protocol, trace
from seismo._log import Once

NOWHERE = "tcp://127.0.0.1:9"


@pytest.fixture
def quick(monkeypatch):
    """Time-outs of the link, short enough for a test."""
    monkeypatch.setattr(_link, "HELLO_AGAIN", 0.3)
    monkeypatch.setattr(_link, "ONCE", 0.1)


def acked(run, n):
    wait_for(lambda: run.stats["acked_steps"] == n, what=f"{n} acknowledged steps")


def closed(run, timeout):
    """What `run.close` returns, though its own time-out is longer than a test is patient."""
    answers = []
    threading.Thread(target=lambda: answers.append(run.close(timeout=timeout)), daemon=True).start()
    wait_for(lambda: answers, what="the end of close")
    return answers[0]


def test_a_run_from_hello_to_bye(daemon):
    with seismo.Run(
        "gpt2-a",
        "train.py",
        ingest=daemon.endpoint,
        rank=1,
        world=4,
        meta={"optimizer": "Adam", "seed": 3},
    ) as run:
        run.step(0, loss=2.5, lr=0.1, grad_norm=math.inf, time=12.5)
        run.step(1, loss=float("nan"), val_acc=None)
        acked(run, 2)
        assert run.stats["connected"] and run.probe_every == 10
    assert len(daemon.hellos) == 1
    hello = daemon.hellos[0]
    assert (hello["version"], hello["run"], hello["program"]) == (1, "gpt2-a", "train.py")
    assert (hello["rank"], hello["world"], len(hello["session"])) == (1, 4, 16)
    assert tuple(hello["fields"]) == protocol.FIELDS
    assert json.loads(hello["meta"]) == {"optimizer": "Adam", "seed": 3}
    assert daemon.rows[0] == {
        "step": 0,
        "loss": 2.5,
        "lr": 0.1,
        "grad_norm": math.inf,
        "time": 12.5,
    }
    assert math.isnan(daemon.rows[1]["loss"]) and abs(daemon.rows[1]["time"] - time.time()) < 60
    assert daemon.byes == [["finished", ""]]
    assert run.stats["errors"] == 0 and run.stats["queued_steps"] == 0


def test_a_clock_that_the_daemon_would_not_take(daemon):
    """It says nothing, and costs no row."""
    with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
        for step, said in enumerate((1e15, -1e15, 1.1e15, -1e300, math.inf, math.nan, 2**60)):
            run.step(step, loss=1.0, time=said)
        acked(run, 7)
    assert [row.get("time") for row in daemon.rows] == [1e15, -1e15] + [None] * 5


def test_defaults_come_from_the_environment(daemon, monkeypatch):
    monkeypatch.setenv("SEISMO_INGEST", daemon.endpoint)
    monkeypatch.setenv("SEISMO_RUN", "named-outside")
    run = seismo.Run()
    run.step(0, loss=1.0)
    assert run.close()
    assert daemon.hellos[0]["run"] == "named-outside"
    monkeypatch.delenv("SEISMO_RUN")
    other = seismo.Run(program="p.py", ingest=daemon.endpoint)
    assert other.run.startswith("p.py-20")
    monkeypatch.setenv("SEISMO_INGEST", "off")
    silent = seismo.Run("a", "p")
    silent.step(0, loss=1.0)
    assert silent._link is None and silent.close()


@pytest.mark.parametrize("ingest", [False, ""])
def test_trace_only_needs_no_thread(tmp_path, ingest):
    before = threading.active_count()
    with seismo.Run("a", "p", ingest=ingest, trace=tmp_path / "t.jsonl", meta={"seed": 1}) as run:
        feed(run, 0, 3)
        assert threading.active_count() == before
    header, *rows = trace.read(tmp_path / "t.jsonl")
    assert header == {"run": "a", "program": "p", "seed": 1}
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert run.stats["steps"] == 3


def test_trace_and_stream_at_once(daemon, tmp_path):
    with seismo.Run("a", "p", ingest=daemon.endpoint, trace=tmp_path / "t.gz") as run:
        feed(run, 0, 200)
    assert steps(daemon) == [row["step"] for row in list(trace.read(tmp_path / "t.gz"))[1:]]


def test_batches_of_64_and_a_lone_row_at_once(daemon, monkeypatch):
    monkeypatch.setattr(_link, "BATCH_AGE", 100.0)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    run._link._batch_at = -math.inf
    run.step(0, loss=1.0)
    acked(run, 1)
    run._link._batch_at = -math.inf
    run._link._wake()
    wait_for(lambda: run._link.queue.until == 1, what="an idle line")
    run.step(1, loss=1.0)
    acked(run, 2)
    monkeypatch.setattr(_link, "BATCH_AGE", 1.0)
    run._link._wake()
    feed(run, 2, 2002)
    acked(run, 2002)
    assert max(daemon.sizes) == 64
    assert len(daemon.sizes) < 60
    # Two rows close together: the second one waits for company, but not longer than that.
    time.sleep(1.1)
    sizes = len(daemon.sizes)
    run.step(2002, loss=1.0)
    wait_for(lambda: len(daemon.sizes) == sizes + 1)
    feed(run, 2003, 2010)
    acked(run, 2010)
    assert daemon.sizes[sizes:] == [1, 7]
    run.close()


def test_limits_of_the_daemon_are_kept():
    daemon = FakeDaemon(max_rows=5, max_unacked=2)
    with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
        feed(run, 0, 100)
    assert steps(daemon) == list(range(100)) and max(daemon.sizes) == 5
    daemon.close()


def test_no_more_than_max_unacked_under_way(quick):
    daemon = FakeDaemon(max_unacked=3)
    daemon.answer = lambda message: (protocol.PING,)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 1000)
    wait_for(lambda: len(daemon.received) >= 3)
    time.sleep(0.1)
    assert set(daemon.received) == {1, 2, 3}
    daemon.answer = None
    assert run.close(timeout=10)
    assert steps(daemon) == list(range(1000))
    daemon.close()


@pytest.mark.parametrize("lost", [{1}, {2, 5}, {3, 4, 5, 6, 7, 8}, {40}])
def test_lost_batches_are_sent_again(daemon, quick, lost):
    daemon.lose = set(lost)
    with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
        feed(run, 0, 2500)
        acked(run, 2500)
    assert steps(daemon) == list(range(2500))
    assert daemon.batches == list(range(1, len(daemon.batches) + 1))
    assert daemon.byes == [["finished", ""]]


def test_a_lost_acknowledgement_stores_nothing_twice(daemon, quick):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 64)
    acked(run, 64)
    real, daemon.say = daemon.say, lambda *message: None  # stores, but cannot speak
    feed(run, 64, 200)
    wait_for(lambda: len(daemon.rows) == 200 and len(daemon.hellos) > 1)
    daemon.say = real
    assert run.close(timeout=10)
    assert steps(daemon) == list(range(200))
    assert len({hello["session"] for hello in daemon.hellos}) == 1


def test_hello_again_when_the_daemon_does_not_know_us(daemon):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 10)
    acked(run, 10)
    daemon.forget()
    feed(run, 10, 20)
    acked(run, 20)
    run.close()
    assert steps(daemon) == list(range(20))
    assert len(daemon.hellos) == 2 and daemon.hellos[0]["session"] == daemon.hellos[1]["session"]


def test_daemon_killed_and_back(daemon):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    for i in range(4):
        feed(run, i * 500, i * 500 + 250)
        if i % 2:
            wait_for(lambda: run.stats["acked_steps"] > 300 * i)
        daemon.down()
        feed(run, i * 500 + 250, i * 500 + 500)
        time.sleep(0.05)
        daemon.up()
    acked(run, 2000)
    run.close()
    assert steps(daemon) == list(range(2000))


def test_what_was_under_way_at_a_kill_is_sent_again_at_once(daemon, monkeypatch):
    """No further row has to come, and no time-out to pass: the new connection is enough."""
    monkeypatch.setattr(_link, "HELLO_AGAIN", 1000.0)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 10)
    acked(run, 10)
    daemon.silent = True
    feed(run, 10, 20)
    wait_for(lambda: run._link._window)
    time.sleep(0.05)
    daemon.down()
    daemon.silent = False
    daemon.up()
    acked(run, 20)
    run.close()
    assert steps(daemon) == list(range(20))


def test_nothing_is_said_between_two_connections(daemon, monkeypatch):
    """libzmq might send it along the one that is gone, and nothing would tell."""
    events = []
    notice, send = _link.Link._notice, _link.Link._send

    def noticed(link, socket, event):
        events.append(event["event"])
        notice(link, socket, event)

    def sent(link, socket, message):
        events.append("said")
        return send(link, socket, message)

    monkeypatch.setattr(_link.Link, "_notice", noticed)
    monkeypatch.setattr(_link.Link, "_send", sent)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 10)
    acked(run, 10)
    daemon.silent = True
    feed(run, 10, 20)
    wait_for(lambda: run._link._window)
    daemon.down()
    wait_for(lambda: zmq.EVENT_DISCONNECTED in events)
    feed(run, 20, 30)
    daemon.silent = False
    daemon.up()
    acked(run, 30)
    run.close()
    gone = events.index(zmq.EVENT_DISCONNECTED)
    back = events.index(_keys.HANDSHAKE_DONE, gone)
    assert "said" in events[:gone] and "said" not in events[gone:back]
    assert len(daemon.hellos) == 2


def test_nothing_is_queued_for_an_absent_daemon(daemon, monkeypatch):
    monkeypatch.setattr(_link, "HELLO_AGAIN", 0.05)
    daemon.down()
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 10)
    time.sleep(1)
    daemon.up()
    acked(run, 10)
    run.close()
    assert len(daemon.hellos) == 1 and steps(daemon) == list(range(10))


def test_a_daemon_with_another_database(daemon, quick):
    """What it had acknowledged is gone; what was not yet goes under a new session from 1."""
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 100)
    acked(run, 100)
    daemon.sessions.clear()
    daemon.forget()
    daemon.rows.clear()
    feed(run, 100, 150)
    acked(run, 150)
    assert run.close()
    assert steps(daemon) == list(range(100, 150))
    assert len({hello["session"] for hello in daemon.hellos}) == 2


def test_what_is_said_of_the_session_before_is_not_of_the_new_one(daemon, quick):
    """After another session took its place: to a HELLO that was repeated, or with a verdict."""
    say = daemon.say

    def say_more(peer, kind, *message):
        """The answer to the new session's HELLO comes after what was under way."""
        if kind == protocol.WELCOME and len({hello["session"] for hello in daemon.hellos}) == 2:
            say(peer, protocol.ACK, 1, None, [])
            say(peer, kind, {**message[0], "last_batch": 1})
        say(peer, kind, *message)

    daemon.say = say_more
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 100)
    acked(run, 100)
    daemon.sessions.clear()
    daemon.forget()
    daemon.rows.clear()
    feed(run, 100, 150)
    acked(run, 150)
    assert run.close()
    assert steps(daemon) == list(range(100, 150))


def test_an_answer_that_comes_twice_is_not_the_new_sessions(daemon, quick, monkeypatch):
    """Of two answers in one look the first begins a session, whose HELLO has yet to be said."""
    say, receive = daemon.say, _link.Link._receive

    def say_twice(peer, *message):
        for _ in range(1 + (message[0] == protocol.WELCOME)):
            say(peer, *message)

    def look_late(link, socket):
        time.sleep(0.02)
        receive(link, socket)

    monkeypatch.setattr(_link.Link, "_receive", look_late)
    daemon.say = say_twice
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    for step in range(0, 256, 64):
        feed(run, step, step + 64)
        acked(run, step + 64)
    daemon.sessions.clear()
    daemon.forget()
    daemon.rows.clear()
    feed(run, 256, 256 + 640)
    assert run.close()
    assert steps(daemon) == list(range(256, 256 + 640))


def test_a_batch_that_is_refused(daemon, caplog):
    """Its number is still due: it goes again without rows, which are counted as rejected."""

    def answer(message):
        if message[1] == 2 and message[2]:
            return (protocol.ERROR, "malformed", "row 3", "mend the client", 2)
        return None

    daemon.answer = answer
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 640)
    wait_for(lambda: len(daemon.rows) == 576)
    assert not run.close(), "not everything reached its place"
    assert run.stats["rejected_steps"] == 64 and run.stats["acked_steps"] == 576
    assert daemon.sizes[1] == 0 and daemon.byes
    assert caplog.text.count("malformed: row 3; mend the client") == 1


def test_busy_is_tried_again(daemon):
    refusals = [1, 1, 1]

    def answer(message):
        return (protocol.ERROR, "busy", "", "", message[1]) if refusals and refusals.pop() else None

    daemon.answer = answer
    with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
        feed(run, 0, 300)
        acked(run, 300)
    assert steps(daemon) == list(range(300)) and run.stats["rejected_steps"] == 0


def test_a_refused_hello_is_told_once_and_costs_nothing(daemon, caplog, monkeypatch):
    monkeypatch.setattr(_link, "UNHEARD", 1000.0)
    daemon._hear = lambda peer, message: daemon.say(
        peer, protocol.ERROR, "version", "version 1 is not spoken here", "update the client", None
    )
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 10)
    wait_for(lambda: run.stats["errors"] == 1)
    feed(run, 10, 20)
    assert not closed(run, timeout=1000)
    assert caplog.text.count("version 1 is not spoken here; update the client") == 1


def test_odd_messages_from_the_daemon_are_survived(daemon):
    def answer(message):
        peer = next(iter(daemon.peers))
        daemon.socket.send_multipart([peer, b"\xc1"])
        daemon.socket.send_multipart([peer, b"two", b"frames"])
        daemon.say(peer, protocol.ACK, "one", None, [])
        daemon.say(peer, 99)
        daemon.say(peer, protocol.PING)
        daemon.say(peer, protocol.ERROR, "nonsense", "", "", 12345)
        return None

    daemon.answer = answer
    with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
        feed(run, 0, 10)
        acked(run, 10)
    assert steps(daemon) == list(range(10))


def test_verdicts_reach_callbacks(daemon, caplog):
    heard, threads = [], set()
    run = seismo.Run("a", "p", ingest=daemon.endpoint)

    @run.on_verdict
    def bad(verdict):
        raise KeyError("mine")

    @run.on_verdict
    def good(verdict):
        threads.add(threading.current_thread().name)
        heard.append(verdict["step"])

    assert run.verdict is None
    daemon.verdicts = [
        '{"step": 3, "state": "unstable"}',
        "{no json",
        '{"step": 4, "state": "healthy"}',
    ]
    feed(run, 0, 5)
    wait_for(lambda: heard == [3, 4])
    assert run.verdict == {"step": 4, "state": "healthy"}
    assert threads == {"seismo"}
    assert caplog.text.count("KeyError('mine')") >= 1
    assert run.close(), "a callback's failure is not the run's"
    assert run.stats["errors"] == 3


def test_close_from_a_callback(daemon):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    run.on_verdict(lambda verdict: run.close("aborted", text="the verdict said so"))
    daemon.verdicts = ['{"state": "unstable"}']
    run.step(0, loss=1.0)
    wait_for(lambda: daemon.byes == [["aborted", "the verdict said so"]])
    run._link._thread.join(5)
    assert not run._link._thread.is_alive()


# Never in the way of training.


@pytest.mark.parametrize("state", ["absent", "silent"])
def test_nobody_is_woken_without_a_daemon(daemon, state, monkeypatch):
    """Steps go on, memory stays bounded, drops are counted, and neither does the training make a
    system call nor the thread want the interpreter's lock, but at the start."""
    if state == "silent":
        daemon.silent = True
    monkeypatch.setattr(_link, "HELLO_AGAIN", 1000.0)
    looks, wakes = [], []
    pump, wake = _link.Link._pump, _link.Link._wake
    monkeypatch.setattr(_link.Link, "_pump", lambda *args: (looks.append(1), pump(*args)))
    monkeypatch.setattr(_link.Link, "_wake", lambda *args: (wakes.append(1), wake(*args)))
    run = seismo.Run("a", "p", ingest=daemon.endpoint if state == "silent" else NOWHERE)
    feed(run, 0, _link.LIMIT + 20000)
    time.sleep(1)
    assert len(looks) < 8 and len(wakes) < 3, (len(looks), len(wakes))
    stats = run.stats
    assert stats["queued_steps"] == _link.LIMIT and stats["dropped_steps"] == 20000
    assert not stats["connected"]
    assert not closed(run, timeout=2.0)


FAULTS = """
import resource
import sys
from seismo import _link
from seismo._log import Once
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
link = _link.Link("r", "p", "ipc:///tmp/seismo-nobody-listens-here", 0, 1, {}, Once())
link._start = lambda: None
row = [0, 0.5, 0.5] + [0.5] * 10 + [None] * (len(_link.FIELDS) - 13)
before = faults()
for _ in range(_link.LIMIT + 100):
    link.put(row)
print(faults() - before, link.stats()["queued"], link.stats()["dropped"], file=sys.stderr)
"""


def test_a_step_waits_for_no_page_fault():
    """Rows that wait fill memory that was taken before: 2,500 pages, or few new ones."""
    code, errors = script(FAULTS)
    assert code == 0, errors
    faults, queued, dropped = map(int, errors.splitlines()[-1].split())
    assert (queued, dropped) == (_link.LIMIT, 100)
    assert faults < 500


def test_the_oldest_rows_are_dropped_and_the_daemon_is_told(daemon, monkeypatch, caplog):
    monkeypatch.setattr(_link, "LIMIT", 100)
    daemon.silent = True
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 250)
    assert caplog.text.count("the oldest are now dropped") == 1
    monkeypatch.setattr(_link, "HELLO_AGAIN", 0.1)
    run._link._hello_due = 0.0
    run._link._wake()
    daemon.silent = False
    assert run.close(timeout=20)
    assert steps(daemon) == list(range(150, 250))
    assert daemon.byes == [["finished", "(150 rows dropped by the client)"]]
    assert "150 rows were dropped, 100 acknowledged" in caplog.text


def test_a_bad_endpoint_is_told_once(caplog):
    run = seismo.Run("a", "p", ingest="carrier pigeon")
    feed(run, 0, 5)
    wait_for(lambda: run.stats["errors"] == 1)
    feed(run, 5, 10)
    assert not run.close()
    assert caplog.text.count("is not streamed to carrier pigeon") == 1
    assert run.stats["dropped_steps"] + run.stats["queued_steps"] == 10


def test_a_run_without_a_link_has_not_reached_its_place(daemon, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("no link today")

    monkeypatch.setattr(_link, "Link", broken)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 5)
    assert not run.close()
    assert "no link today" in caplog.text


def test_bad_rows_never_raise(tmp_path, caplog):
    class Odd:
        def __float__(self):
            raise RuntimeError("no number today")

    with seismo.Run("a", "p", ingest=False, trace=tmp_path / "t") as run:
        run.step(-1, loss=1.0)
        run.step("x", loss=1.0)
        run.step(1.5, loss=1.0)
        run.step(2**63, loss=1.0)
        run.step(5)
        run.step(6, loss=None)
        run.step(7, loss="much")
        run.step(8, loss=1.0, gradnorm=3.0)
        run.step(9, loss=1, lr=Odd(), time=math.nan)
    rows = list(trace.read(tmp_path / "t"))[1:]
    assert [row["step"] for row in rows] == [8, 9] and set(rows[1]) == {"step", "loss"}
    assert run.stats["refused_steps"] == 7 and run.stats["steps"] == 2
    assert caplog.text.count("'gradnorm' is not a step field") == 1
    assert "no number today" in caplog.text
    run.step(10, loss=1.0)
    assert run.stats["refused_steps"] == 8


def test_names_without_end_are_few_kinds_of_trouble(caplog):
    run = seismo.Run("a", "p", ingest=False)
    for step in range(1000):
        run.step(step, loss=1.0, **{f"x{step}": 1.0})
    assert run.stats["errors"] == 1000
    assert len(run._report.counts) == len(caplog.messages) == 65
    assert "'x64'" in caplog.messages[-1] and "only counted" in caplog.messages[-1]
    run._lose_trace(OSError("full"))
    assert not run.close()


def test_a_truth_value_is_an_integer(daemon, tmp_path, monkeypatch):
    """Where the index of True is True, as in Python 3.9, it would go as what no daemon takes."""
    monkeypatch.setattr(operator, "index", lambda value: value)
    with seismo.Run("a", "p", ingest=daemon.endpoint, trace=tmp_path / "t", world=True) as run:
        run.step(False, loss=1.0)
        run.step(True, loss=True)
        acked(run, 2)
    assert [type(step) for step in steps(daemon)] == [int, int]
    assert type(daemon.hellos[0]["world"]) is int
    with trace.Writer(tmp_path / "u", run="a", program="p") as writer:
        writer.step(True, loss=1.0)
    for name in ("t", "u"):
        assert list(trace.read(tmp_path / name))[-1] == {"step": 1, "loss": 1.0, **(
            {"time": daemon.rows[1]["time"]} if name == "t" else {})}


def test_odd_names_and_metadata(tmp_path):
    meta = {
        "ok": 1,
        "nul": "a\0b",
        "half": "\ud800",
        "big": 2**80,
        "nan": math.nan,
        5: object,
        "long": "x" * 9000,
        "none": None,
    }
    run = seismo.Run(
        "a\nb" + "ü" * 100, "p", ingest=False, rank=7, world=3, meta=meta, trace=tmp_path / "t"
    )
    assert run.run.startswith("a?bü") and len(run.run.encode()) <= 128
    assert (run.rank, run.world) == (0, 1)
    assert run.meta["ok"] == 1 and run.meta["nul"] == "a?b" and run.meta["half"] == "?"
    assert run.meta["big"] == float(2**80) and run.meta["nan"] == "nan" and "5" in run.meta
    assert "long" not in run.meta and "none" not in run.meta
    run.close()
    assert next(iter(trace.read(tmp_path / "t")))["ok"] == 1


def test_a_trace_that_cannot_be_written_is_told_once(tmp_path, caplog):
    run = seismo.Run("a", "p", ingest=False, trace=tmp_path / "none" / "t")
    feed(run, 0, 3)
    assert not run.close()
    assert caplog.text.count("no trace is written from here on") == 1
    full = seismo.Run("a", "p", ingest=False, trace="/dev/full")
    feed(full, 0, 3)
    assert not full.close()


def test_a_handler_that_raises_does_not_reach_training(tmp_path):
    class Bad(logging.Handler):
        def emit(self, record):
            raise OSError("log disk full")

    bad = Bad()
    logging.getLogger("seismo").addHandler(bad)
    try:
        run = seismo.Run("a", "p", ingest=False)
        run.step(0, nonsense=1.0)
        run.close()
    finally:
        logging.getLogger("seismo").removeHandler(bad)


# The end of the program.


@pytest.mark.parametrize(
    "ending, code, bye",
    [
        ("pass", 0, ["finished", ""]),
        ("raise ValueError('loss is gone')", 1, ["failed", "ValueError: loss is gone"]),
        ("raise KeyboardInterrupt", None, ["aborted", "KeyboardInterrupt: "]),
        ("sys.exit(0)", 0, ["finished", ""]),
        ("del run; import gc; gc.collect(); import time; time.sleep(0.5)", 0, ["finished", ""]),
    ],
)
def test_a_forgotten_run_says_goodbye(daemon, ending, code, bye):
    returned, _ = script(
        "import seismo, sys\n" "run = seismo.Run('a', 'p')\n" "run.step(0, loss=1.0)\n" + ending,
        SEISMO_INGEST=daemon.endpoint,
    )
    if code is not None:
        assert returned == code
    assert daemon.byes == [bye] and steps(daemon) == [0]


@pytest.mark.parametrize(
    "error, bye",
    [
        (None, ["finished", ""]),
        (ValueError("x"), ["failed", "ValueError: x"]),
        (KeyboardInterrupt(), ["aborted", "KeyboardInterrupt: "]),
        (SystemExit(0), ["finished", ""]),
        (SystemExit(3), ["failed", "SystemExit: 3"]),
    ],
)
def test_a_with_block_tells_how_it_was_left(daemon, error, bye):
    try:
        with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
            run.step(0, loss=1.0)
            if error is not None:
                raise error
    except BaseException as caught:  # noqa: BLE001
        assert caught is error
    assert daemon.byes == [bye]


def test_a_forked_child_is_switched_off(daemon):
    code, errors = script(
        "import os, seismo, sys\n"
        "run = seismo.Run('a', 'p')\n"
        "run.step(0, loss=1.0)\n"
        "if os.fork() == 0:\n"
        "    for i in range(1000): run.step(i, loss=2.0)\n"
        "    assert run.stats['refused_steps'] == 1000\n"
        "    run.close()\n"
        "    sys.exit(7)\n"
        "_, status = os.wait()\n"
        "assert os.waitstatus_to_exitcode(status) == 7\n"
        "run.step(1, loss=1.0)\n"
        "sys.exit(0 if run.close() else 1)\n",
        SEISMO_INGEST=daemon.endpoint,
    )
    assert code == 0, errors
    assert steps(daemon) == [0, 1] and daemon.byes == [["finished", ""]]
    assert len(daemon.hellos) == 1


def test_a_daemon_that_was_never_there_does_not_hold_up_the_end():
    code, errors = script(
        "import seismo\nrun = seismo.Run('a', 'p')\nrun.step(0, loss=1.0)", SEISMO_INGEST=NOWHERE
    )
    assert code == 0 and errors == ""
    run = seismo.Run("a", "p", ingest=NOWHERE)
    run.step(0, loss=1.0)
    assert not closed(run, timeout=1000)


def test_a_welcome_that_comes_late_is_ignored(daemon):
    """It tells of a time before what was acknowledged since; nothing begins anew for it."""
    with seismo.Run("r", "p", ingest=daemon.endpoint) as run:
        feed(run, 0, 200)
        acked(run, 200)
        peer, = daemon.peers
        daemon.say(peer, protocol.WELCOME, {"version": 1, "run": "r", "last_batch": 0,
                                            "last_step": None, **daemon.welcome})
        feed(run, 200, 300)
        acked(run, 300)
    assert steps(daemon) == list(range(300))
    assert len(daemon.hellos) == 1


def test_the_training_wakes_the_thread_only_after_a_pause():
    """Telling it of each batch's first row would cost a training a system call every 0.1 s."""
    link = _link.Link("r", "p", NOWHERE, 0, 1, {}, Once())
    link._batch_at = 100.0
    for waiting, now, rows, until in (
        (0, 100.05, _link.WAKE_ROWS, [100.0 + _link.BATCH_AGE]),
        (1, 100.05, _link.WAKE_ROWS, [100.0 + _link.BATCH_AGE]),
        (1, 100.2, _link.WAKE_ROWS, [100.0 + _link.BATCH_AGE]),
        (0, 100.2, 1, []),
    ):
        link.queue.take(1)
        for _ in range(waiting):
            link.queue.put(b"r")
        found = []
        assert link._wait_for_rows(now, found) == rows
        assert found == until
