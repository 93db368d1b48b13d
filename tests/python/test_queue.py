"""The queue and the way into it, in C and in Python: the same rows, whatever a training hands over."""
import math
import os
import pathlib
import random
import subprocess
import sys
import threading
import weakref

import msgpack
import numpy
import pytest
import seismo
from seismo import _queue
from seismo._protocol import FIELDS
from seismo._queue import PythonQueue, Queue

NOWHERE = "ipc:///tmp/seismo-nobody-listens-here"
IN_PYTHON = seismo.Run.step.__wrapped__ if Queue is not PythonQueue else None
QUEUES = [PythonQueue, Queue]

needs_c = pytest.mark.usefixtures("in_c")


@pytest.fixture
def in_c():
    assert IN_PYTHON is not None, (
        "the parts in C are not there: tests/run builds them, and puts them into client/python/seismo")


@pytest.fixture
def begin():
    """Makes runs whose thread has begun, with an empty queue."""
    runs = []

    def make():
        runs.append(seismo.Run("a", "p", ingest=NOWHERE))
        runs[-1].step(0, loss=1.0)
        runs[-1]._link.queue.take(1)
        return runs[-1]

    yield make
    for made in runs:
        made.close(timeout=0)


@pytest.fixture
def run(begin):
    return begin()


@pytest.fixture
def other(begin):
    return begin()


@needs_c
def test_the_client_uses_what_was_built():
    assert pathlib.Path(_queue._speedups.__file__).parent == pathlib.Path(seismo.__file__).parent


@pytest.mark.parametrize("queue", QUEUES)
def test_rows_come_in_order_and_the_oldest_go(queue):
    """Against a list, for a thousand random steps."""
    rng = random.Random(7)
    q, model, n, dropped = queue(20), [], 0, 0
    for _ in range(1000):
        if rng.random() < 0.9:
            row = bytes([n % 251]) * rng.randrange(_queue.ROW_BYTES + 1)
            n += 1
            model.append(row)
            first = len(model) > 20 and dropped == 0
            if len(model) > 20:
                del model[0]
                dropped += 1
            assert q.put(row) is first
        else:
            most = rng.choice((0, 1, 3, 64))
            assert q.take(most) == (len(model[:most]), b"".join(model[:most]))
            del model[:most]
        assert (len(q), q.dropped, q.taken) == (len(model), dropped, 0)
    assert dropped > 100


@needs_c
def test_a_queue_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError):
        Queue(0)
    with pytest.raises(ValueError):
        Queue(sys.maxsize)
    with pytest.raises(MemoryError):
        Queue(1 << 48)
    q = Queue(limit=3)
    for bad in (None, "row", bytearray(3), bytes(_queue.ROW_BYTES + 1)):
        with pytest.raises(ValueError):
            q.put(bad)
    for bad in (None, 1.5, 1 << 80):
        with pytest.raises((TypeError, OverflowError)):
            q.take(bad)
    assert q.take(-1) == (0, b"") and len(q) == 0


class Loud:
    """A number that cannot be had."""

    def __float__(self):
        raise RuntimeError("not today")


USUAL = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1]
UNUSUAL = [-1, 2**63, 2**64, 10**400, True, 1.0, "1", None, numpy.int64(5)]
NUMBERS = [0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0, 7, -3,
           2**53 + 1, -(2**70), None, numpy.float64(0.25)]
OTHERS = [True, numpy.float32(0.1), numpy.array(2.5), "3.5", "x", Loud(), [1], 10**400, 1j]


def compare(run, other, caplog, step, fields):
    """The same of Run.step in C and in Python; whether it was done in C."""
    said = []
    taken = run._link.queue.taken
    for one, method in ((run, seismo.Run.step), (other, IN_PYTHON)):
        caplog.clear()
        one._report.counts.clear()
        method(one, step, **fields)
        stats = one.stats
        said.append((one._link.queue.take(9), caplog.messages, dict(one._report.counts),
                     stats["steps"] + stats["refused_steps"], stats["refused_steps"]))
    (in_c, *rest), (in_python, *same) = said
    assert rest == same
    rows = [msgpack.unpackb(row) if n else None for n, row in (in_c, in_python)]
    assert rows[0] is None or msgpack.packb(rows[0]) == in_c[1]
    times = [row.pop(FIELDS.index("time")) if row else None for row in rows]
    assert times[0] == times[1] or 0 <= times[1] - times[0] < 10  # stamped one after the other
    assert repr(rows[0]) == repr(rows[1])
    return run._link.queue.taken > taken


@needs_c
def test_every_kind_of_call_makes_the_same_row(run, other, caplog):
    for step in USUAL:
        assert compare(run, other, caplog, step, {"loss": 0.5, "time": 17.25})
    for step in UNUSUAL:
        assert not compare(run, other, caplog, step, {"loss": 0.5, "time": 17.25})
    for value in NUMBERS:
        loss = compare(run, other, caplog, 5, {"loss": value})
        assert loss == (value is not None)
        assert compare(run, other, caplog, 5, {"val_acc": value, "loss": 1.0})
        plausible = value is None or abs(value) <= 1e15
        assert compare(run, other, caplog, 5, {"time": value, "loss": 1.0}) == plausible
    for value in OTHERS:
        for name in ("loss", "lr", "time"):
            assert not compare(run, other, caplog, 5, {"loss": 1.0, **{name: value}})
    assert not compare(run, other, caplog, 5, {})
    assert not compare(run, other, caplog, 5, {"loss": 1.0, "los": 2.0})
    assert not compare(run, other, caplog, 5, {"".join(["lo", "ss"]): 1.0})  # not interned
    assert compare(run, other, caplog, 5, {name: 0.5 for name in FIELDS[1:]})
    assert compare(run, other, caplog, 5, {name: 0.5 for name in reversed(FIELDS[1:])})


@needs_c
def test_calls_in_turn(run):
    """The names of the last call are remembered, and those of one that is none of the usual are not."""
    rows = []
    for _ in range(3):
        run.step(1, time=1.0, loss=0.5, lr=0.25)
        rows.append(run._link.queue.take(1))
        run.step(1, lr=0.125, time=1.0, bogus=2.0, loss=1.0)
        run._link.queue.take(1)
    assert rows[0] == rows[1] == rows[2]
    assert run._link.queue.taken == 3


@needs_c
def test_random_calls_make_the_same_rows(run, other, caplog):
    rng = random.Random(3)
    kinds = [NUMBERS] * 9 + [OTHERS]
    done = 0
    for _ in range(3000):
        names = rng.sample(FIELDS[1:] + ("loss", "bogus") * (rng.random() < 0.05),
                           rng.randrange(len(FIELDS)))
        fields = {name: rng.choice(rng.choice(kinds if rng.random() < 0.3 else [NUMBERS]))
                  for name in names}
        if rng.random() < 0.9:
            fields.setdefault("loss", 2.0)
        done += compare(run, other, caplog, rng.choice(rng.choice([USUAL] * 9 + [UNUSUAL])), fields)
    assert 1000 < done < 2900


@needs_c
def test_arguments_that_no_call_has_are_errors_as_ever(run):
    for arguments, fields in (((), {}), ((), {"loss": 1.0}), ((1, 2), {"loss": 1.0}),
                              ((1,), {"step": 2, "loss": 1.0})):
        messages = []
        for method in (run.step, IN_PYTHON.__get__(run)):
            with pytest.raises(TypeError) as error:
                method(*arguments, **fields)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    run.step(step=3, loss=1.0)
    run._queue = b"\1" * 400  # nothing that a client puts there
    run.step(4, loss=1.0)
    del run._queue
    run.step(5, loss=1.0)
    run._queue = None
    assert len(run._link.queue) == 3 and run._link.queue.taken == 0


def test_step_is_a_method_like_any_other(run):
    class Twice(seismo.Run):
        """Hands over each step twice."""

        def step(self, step, **fields):
            super().step(step, **fields)
            super().step(step + 1, **fields)

    with Twice("b", "p", ingest=NOWHERE) as twice:
        for step in range(0, 10, 2):
            twice.step(step, loss=1.0)
        assert twice.stats["queued_steps"] == 10
        twice.close(timeout=0)
    bound = run.step
    bound(1, loss=2.0)
    seismo.Run.step(run, 2, loss=2.0)
    assert len(run._link.queue) == 2
    assert "optimizer step" in seismo.Run.step.__doc__ and seismo.Run.step.__name__ == "step"


@needs_c
def test_a_full_queue_goes_on_in_c(run, caplog):
    """The first row that is dropped is told of in Python, the many others cost no more than a step."""
    limit = run._link.queue.limit
    for step in range(limit + 1000):
        run.step(step, loss=0.5)
    queue = run._link.queue
    assert (len(queue), queue.dropped) == (limit, 1000)
    assert queue.taken == limit + 1000 - 1
    assert caplog.text.count("the oldest are now dropped") == 1
    stats = run.stats
    assert stats["steps"] == limit + 1001 and stats["queued_steps"] == limit
    count, rows = queue.take(1)
    assert (count, msgpack.unpackb(rows)[0]) == (1, 1000)


@needs_c
def test_the_thread_is_woken(run):
    """By one byte when there are as many rows as it waits for, also when the pipe takes no more."""
    queue = run._link.queue
    for end in (pipe := os.pipe()):
        os.set_blocking(end, False)
    queue.wake_fd, old = pipe[1], queue.wake_fd
    try:
        queue.until = 3
        for step in range(5):
            run.step(step, loss=1.0)
            assert queue.until == (3 if step < 2 else sys.maxsize)
        assert os.read(pipe[0], 100) == b"\0"
        with pytest.raises(BlockingIOError):
            while True:
                os.write(pipe[1], bytes(4096))
        queue.until = 1
        run.step(6, loss=1.0)
        assert queue.until == sys.maxsize and queue.taken == len(queue) == 6
    finally:
        queue.wake_fd = old
        for end in pipe:
            os.close(end)


@needs_c
def test_nothing_passes_a_closed_or_dead_run(run):
    before = run._link.queue.taken
    run._link._wake = lambda: None
    run._link._dead, run._link.queue.wake_fd = True, -1  # as its thread leaves it
    run.step(1, loss=1.0)
    assert run._link.queue.dropped == 1 and len(run._link.queue) == 0
    run.close(timeout=0)
    run.step(2, loss=1.0)
    assert run.stats["refused_steps"] == 1
    assert run._link.queue.taken == before


@needs_c
def test_nothing_is_kept(run):
    """No reference is left to an argument, a run or its queue, by calls of any kind."""
    value, big = float("1.25"), 1 << 61
    things = (value, big, None, run, run._link.queue)
    counts = [sys.getrefcount(thing) for thing in things]
    for i in range(20000):
        run.step(big, loss=value, lr=None, grad_norm=value)
        run.step(big, loss=value, **{"lr": value})
        if i % 100 == 0:
            run.step(big, lr=value)
            run.step(big, loss=value, bogus=value)
            run.step(-big, loss=value)
            run._link.queue.take(64)
    after = [sys.getrefcount(thing) for thing in things]
    assert all(b - a < 20 for a, b in zip(counts, after)), (counts, after)
    gone = seismo.Run("g", "p", ingest=NOWHERE)
    gone.step(0, loss=1.0)
    reference = weakref.ref(gone)
    del gone
    assert reference() is None


@needs_c
def test_several_threads(run):
    """Each one's rows come in order, once, while another takes them."""
    done = threading.Event()
    taken: list = []

    def feed(thread):
        for i in range(20000):
            run.step(thread << 32 | i, loss=0.5)

    def take():
        while not done.is_set() or len(run._link.queue):
            taken.append(run._link.queue.take(100)[1])

    threads = [threading.Thread(target=feed, args=(thread,)) for thread in range(4)]
    taker = threading.Thread(target=take)
    for thread in (*threads, taker):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    taker.join()
    unpacker = msgpack.Unpacker()
    unpacker.feed(b"".join(taken))
    numbers = [row[0] for row in unpacker]
    assert run.stats["dropped_steps"] + len(numbers) == 80000
    for thread in range(4):
        own = [n & 0xffffffff for n in numbers if n >> 32 == thread]
        assert own == sorted(set(own))


@pytest.mark.parametrize("module", ["None", "types.SimpleNamespace(INTERFACE=0)"])
def test_without_the_parts_in_c(tmp_path, module):
    """No compiler, or a file left over from another version: Python does it."""
    code = (f"import sys, types\nsys.modules['seismo._speedups'] = {module}\n"
            f"import seismo\nfrom seismo import _queue\n"
            f"assert _queue.Queue is _queue.PythonQueue\n"
            f"with seismo.Run('a', 'p', ingest=False, trace={str(tmp_path / 't.jsonl')!r}) as run:\n"
            f"    run.step(1, loss=0.5)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False, env={"PYTHONPATH": str(pathlib.Path(seismo.__file__).parents[1])})
    assert (done.returncode, done.stderr) == (0, "")
    assert '"step":1' in (tmp_path / "t.jsonl").read_text()
