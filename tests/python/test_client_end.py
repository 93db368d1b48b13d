"""How a run ends: in a signal handler, without threads or descriptors, forgotten, in odd company."""
import json
import math
import os
import threading
import time

import pytest
import seismo
from conftest import script, wait_for
from fake import feed, steps
from seismo import _exit

NOWHERE = "ipc:///tmp/seismo-nobody-listens-here"


def acked(run, n):
    wait_for(lambda: run.stats["acked_steps"] == n, what=f"{n} acknowledged steps")


def test_nothing_is_left_when_close_returns(daemon):
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run = seismo.Run("a", "p", ingest=daemon.endpoint)
        run.step(0, loss=1.0)
        assert run.close()
        assert not run._link._thread.is_alive() and run._link._pipe is None
    assert threading.active_count() == before[0]
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before[1])


# In a signal handler, wherever it comes in.

INTERRUPTED = """
import faulthandler, os, seismo, signal, sys, threading, time
faulthandler.dump_traceback_later(10, exit=True)
done = []
def handler(*_):
    run.{call}
    done.append(1)
signal.signal(signal.SIGUSR1, handler)
armed = True
def interrupt():
    global armed
    if armed and threading.current_thread() is threading.main_thread():
        armed = False
        signal.raise_signal(signal.SIGUSR1)
{place}
run = seismo.Run("a", "p", trace=sys.argv[1:] and sys.argv[1])
for step in range(1100):
    run.step(step, loss=1.0)
    if step == 1000:
        time.sleep(0.3)  # whereafter the thread is woken for a single row
assert done, "the handler was not called"
run.close()
"""
PLACES = {
    "in threading": """
class Limbo(dict):
    def __setitem__(self, *item):
        super().__setitem__(*item)
        interrupt()
threading._limbo = Limbo()
""",
    "with a new thread": """
start = threading.Thread.start
def begin(thread):
    start(thread)
    interrupt()
threading.Thread.start = begin
""",
    "when it wakes the thread": """
write = os.write
def wake(*what):
    interrupt()
    return write(*what)
os.write = wake
""",
}


@pytest.mark.parametrize("call", ["close('aborted')", "step(5000, loss=1.0)"])
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_handler_may_do_anything(daemon, place, call):
    code = INTERRUPTED.format(place=PLACES[place], call=call)
    begun = time.monotonic()
    returned, errors = script(code, SEISMO_INGEST=daemon.endpoint, SEISMO_PUREPYTHON="1")
    assert returned == 0, errors
    assert time.monotonic() - begun < 4
    assert daemon.byes == [["aborted" if "close" in call else "finished", ""]]
    stored = steps(daemon)
    if "close" in call:
        assert 1 <= len(stored) <= 1100
    else:
        assert sorted(stored) == [*range(1100), 5000]


# Without what it needs.


def test_no_descriptor_to_be_had_costs_no_step(daemon):
    code = """
import os, resource, seismo, time
run = seismo.Run("a", "p")
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
hog = []
try:
    while True:
        hog.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for step in range(100):
    run.step(step, loss=1.0)
assert run.stats["errors"] == 1 and run.stats["steps"] == 100, run.stats
assert run._queue.wake_fd == -1
for fd in hog:
    os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
run._link._start_at = 0.0
run.step(100, loss=1.0)
assert run.close()
"""
    returned, errors = script(code, SEISMO_INGEST=daemon.endpoint)
    assert returned == 0, errors
    assert errors.count("cannot begin yet") == 1
    assert steps(daemon) == list(range(101))


def no_thread(monkeypatch, error, begins=False):
    """Threads cannot be had, or it only seems so; returns what ends that."""
    real = threading.Thread.start

    def start(thread):
        if thread.name != "seismo" or begins:
            real(thread)
        if thread.name == "seismo":
            raise error

    monkeypatch.setattr(threading.Thread, "start", start)
    return lambda: monkeypatch.setattr(threading.Thread, "start", real)


def test_no_thread_to_be_had_costs_no_step(daemon, monkeypatch, caplog):
    again = no_thread(monkeypatch, RuntimeError("can't start new thread"))
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    feed(run, 0, 100)
    assert run.stats["queued_steps"] == 100 and run.stats["errors"] == 1
    assert caplog.text.count("can't start new thread") == 1
    again()
    run._link._start_at = 0.0
    feed(run, 100, 200)
    acked(run, 200)
    assert run.close()
    assert steps(daemon) == list(range(200))


def test_a_run_that_never_had_a_thread_is_closed_at_once(monkeypatch, tmp_path):
    no_thread(monkeypatch, RuntimeError("can't start new thread"))
    for spool in (None, tmp_path):
        run = seismo.Run("a", "p", ingest=NOWHERE, spool=spool)
        feed(run, 0, 100)
        begun = time.monotonic()
        assert not run.close()
        assert time.monotonic() - begun < 0.4
        assert run._link._pipe is None and run.stats["queued_steps"] == 100


@pytest.mark.parametrize("begins", [False, True])
def test_a_start_that_is_interrupted_is_made_up_for(daemon, monkeypatch, begins):
    again = no_thread(monkeypatch, KeyboardInterrupt(), begins)
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    with pytest.raises(KeyboardInterrupt):
        feed(run, 0, 10)
    if begins:
        acked(run, 1)
        wait_for(lambda: run._link.queue.until == 1, what="a thread that waits for a row")
    again()
    feed(run, 1, 2)
    acked(run, 2)
    feed(run, 2, 100)
    assert run.close()
    assert steps(daemon) == list(range(100))
    assert len({hello["session"] for hello in daemon.hellos}) == 1


def test_a_row_that_cannot_be_kept_is_dropped(daemon, monkeypatch, caplog):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    with monkeypatch.context() as patch:
        patch.setattr(seismo._wire, "row", lambda row: b"" + None)
        feed(run, 0, 3)
    feed(run, 3, 4)
    acked(run, 1)
    stats = run.stats
    assert (stats["steps"], stats["dropped_steps"], stats["errors"]) == (4, 3, 3)
    assert caplog.text.count("a row of run a is dropped") == 1
    run.close()


# Forgotten.

FORGOTTEN = """
import multiprocessing, seismo, sys
def main():
    run = seismo.Run("a", "p")
    for step in range(1000):
        run.step(step, loss=1.0)
    {ending}
def main_that_keeps_it():
    global run
    run = seismo.Run("a", "p")
    for step in range(1000):
        run.step(step, loss=1.0)
    {ending}
def child(function):
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()
if __name__ == "__main__":
    {call}
"""


@pytest.mark.parametrize(
    "call",
    ["main()", "child(main)", "child(main_that_keeps_it)", "import os; os.fork() or main()"],
)
def test_the_last_rows_of_a_forgotten_run_arrive(daemon, call):
    daemon.answer = lambda message: time.sleep(0.02)
    script(FORGOTTEN.format(call=call, ending="pass"), SEISMO_INGEST=daemon.endpoint)
    wait_for(lambda: daemon.byes)
    assert steps(daemon) == list(range(1000))
    assert daemon.byes == [["finished", ""]]


@pytest.mark.parametrize(
    "ending, bye",
    [
        ("raise ValueError('gone')", ["failed", "ValueError: gone"]),
        ("sys.exit(0)", ["finished", ""]),
        ("raise KeyboardInterrupt", ["aborted", "KeyboardInterrupt: "]),
    ],
)
def test_a_child_of_multiprocessing_tells_how_it_ended(daemon, ending, bye):
    script(
        FORGOTTEN.format(call="child(main_that_keeps_it)", ending=ending),
        SEISMO_INGEST=daemon.endpoint,
    )
    assert daemon.byes == [bye]
    assert steps(daemon) == list(range(1000))


def test_nothing_is_kept_of_runs_that_have_ended(daemon):
    for _ in range(3):
        run = seismo.Run("a", "p", ingest=daemon.endpoint)
        run.step(0, loss=1.0)
        link = run._link
        del run
        assert link in _exit.leaving
    wait_for(lambda: not _exit.leaving)
    assert len(daemon.byes) == 3


def test_a_child_may_end_while_a_thread_of_its_parent_closed_a_run():
    code = """
import os, seismo, signal, sys, threading
run = seismo.Run("a", "p", ingest=False)
locked, go = threading.Event(), threading.Event()
def hold():
    with run._lock:
        locked.set()
        go.wait()
threading.Thread(target=hold).start()
locked.wait()
if os.fork() == 0:
    signal.alarm(3)
    run.close()
    sys.exit(7)
_, status = os.wait()
go.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    code, errors = script(code)
    assert code == 7, errors


# With odd arguments, or in odd company.


class Wordless(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "text, told",
    [
        (ValueError("loss is gone"), "loss is gone"),
        (Wordless(), "(it has no text)"),
        (None, ""),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_any_text_goes_with_the_goodbye(daemon, text, told):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    run.step(0, loss=1.0)
    acked(run, 1)
    feed(run, 1, 31)
    assert run.close("failed", text=text)
    assert daemon.byes == [["failed", told]] and steps(daemon) == list(range(31))


@pytest.mark.parametrize("timeout", [math.inf, 1e300, math.nan, -1, None, "long"])
def test_any_timeout_will_do(daemon, timeout):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)
    run.step(0, loss=1.0)
    acked(run, 1)
    closed = run.close(timeout=timeout)
    assert closed or timeout == -1 or timeout != timeout


def test_an_exception_without_words_leaves_the_block_as_it_came(daemon):
    with pytest.raises(Wordless):
        with seismo.Run("a", "p", ingest=daemon.endpoint) as run:
            run.step(0, loss=1.0)
            raise Wordless
    assert daemon.byes == [["failed", "Wordless: (it has no text)"]]


def test_a_callback_that_exits_ends_nothing(daemon, caplog):
    run = seismo.Run("a", "p", ingest=daemon.endpoint)

    @run.on_verdict
    def leave(verdict):
        raise SystemExit("critical")

    daemon.verdicts = [json.dumps({"state": "unstable"})]
    run.step(0, loss=1.0)
    acked(run, 1)
    feed(run, 1, 100)
    assert run.close()
    assert steps(daemon) == list(range(100))
    assert "SystemExit('critical')" in caplog.text
