"""Trace files: what is written is read back, and damage is named."""
import gzip
import json
import math
import os
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from seismo import trace

ROWS = [
    (0, {"loss": 2.5, "lr": 0.1}),
    (1, {"loss": math.nan, "grad_norm": math.inf, "grad_dot_prev": -math.inf, "time": 1e9 + 0.25}),
    (7, {"loss": 1 / 3, "val_acc": None, "grad_nonfinite": 3}),
]


def write(path, rows=ROWS, **header):
    with trace.Writer(path, run="r", program="p.py", **header) as writer:
        for step, fields in rows:
            writer.step(step, **fields)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_round_trip(tmp_path, name):
    path = write(tmp_path / name, seed=3, optimizer=None, params={"lr": 0.1})
    header, *rows = trace.read(path)
    assert header == {"run": "r", "program": "p.py", "seed": 3, "params": {"lr": 0.1}}
    assert rows[0] == {"step": 0, "loss": 2.5, "lr": pytest.approx(0.1, rel=1e-7)}
    assert math.isnan(rows[1]["loss"]) and rows[1]["grad_norm"] == math.inf
    assert rows[1]["grad_dot_prev"] == -math.inf and rows[1]["time"] == 1e9 + 0.25
    assert set(rows[2]) == {"step", "loss", "grad_nonfinite"} and rows[2]["grad_nonfinite"] == 3


def test_text_is_that_of_the_interface(tmp_path):
    lines = write(tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {"run": "r", "program": "p.py"}
    assert lines[1] == '{"step":0,"loss":2.5,"lr":0.100000001}'
    assert lines[2] == (
        '{"step":1,"time":1000000000.25,"loss":"nan","grad_norm":"inf",' '"grad_dot_prev":"-inf"}'
    )


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        trace.Writer(tmp_path / "x", run="", program="p")
    with pytest.raises(ValueError, match="control"):
        trace.Writer(tmp_path / "x", run="a\nb", program="p")
    with pytest.raises(OSError):
        trace.Writer(tmp_path / "no" / "x", run="r", program="p")
    with trace.Writer(tmp_path / "x", run="r", program="p") as writer:
        with pytest.raises(ValueError, match="'gradnorm' is not a step field"):
            writer.step(0, loss=1.0, gradnorm=2.0)
        with pytest.raises(ValueError, match="negative"):
            writer.step(-1, loss=1.0)
        with pytest.raises(TypeError):
            writer.step(1.5, loss=1.0)
    assert len(list(trace.read(tmp_path / "x"))) == 1


def test_damage_is_named(tmp_path):
    path = write(tmp_path / "t.jsonl")
    path.write_text(path.read_text(encoding="utf-8") + '{"loss": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.jsonl:5: "):
        list(trace.read(path))
    path.write_text('{"run": "r", "program": "p"}\n{"step": 1, "lo', encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.jsonl:2: "):
        list(trace.read(path))
    packed = write(tmp_path / "t.jsonl.gz", [(i, {"loss": math.sin(i)}) for i in range(1000)])
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(EOFError):
        list(trace.read(packed))


def test_killed_job_leaves_whole_lines(tmp_path):
    """Unflushed rows are missing after a kill; what is there is readable to the last line."""
    path = tmp_path / "t.jsonl"
    code = (
        "import os, sys\nfrom seismo import trace\n"
        "writer = trace.Writer(sys.argv[1], run='r', program='p')\n"
        "for i in range(5000): writer.step(i, loss=1.0 / (i + 1))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, path],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")},
    )
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    rows = list(trace.read(path))[1:]
    assert 1000 < len(rows) < 5000 and [row["step"] for row in rows] == list(range(len(rows)))


def test_flush_makes_gzip_readable_so_far(tmp_path):
    writer = trace.Writer(tmp_path / "t.gz", run="r", program="p")
    writer.step(0, loss=1.0)
    writer.flush()
    with gzip.open(tmp_path / "t.gz", "rt") as lines:
        assert [lines.readline(), lines.readline()][1] == '{"step":0,"loss":1}\n'
    writer.close()
    writer.close()


def test_a_forked_child_writes_nothing(tmp_path):
    """The child leaves by the usual way, which flushes whatever buffers Python knows of."""
    path = tmp_path / "t"
    code = (
        "import os, sys\nfrom seismo import trace\n"
        "writer = trace.Writer(sys.argv[1], run='r', program='p')\n"
        "writer.step(0, loss=1.0)\n"
        "if os.fork() == 0: sys.exit(0)\n"
        "os.wait()\n"
        "writer.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, path],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python")},
    )
    assert [row.get("step") for row in trace.read(path)] == [None, 0]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_threads_may_share_a_file(tmp_path, name):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        writer = trace.Writer(tmp_path / name, run="r", program="p")

        def feed(first):
            for step in range(first, first + 10000):
                writer.step(step, loss=0.5)

        threads = [threading.Thread(target=feed, args=(k * 10000,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(row["step"] for row in list(trace.read(tmp_path / name))[1:]) == [*range(40000)]


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
@pytest.mark.parametrize("closes", [False, True])
def test_a_signal_handler_may_come_in_at_any_write(tmp_path, name, closes):
    """It adds a row, or even closes the file, in between two parts of what is being written."""
    writer = trace.Writer(tmp_path / name, run="r", program="p")
    file = writer._file

    class Interrupted:
        done = False

        def write(self, data):
            n = file.write(data[:100])
            if not self.done:
                self.done = True
                for step in range(5000, 8000):
                    writer.step(step, loss=0.5)
                if closes:
                    writer.close()
            return n

        def close(self):
            file.close()

        closed = property(lambda _: file.closed)

    writer._file = Interrupted()
    for step in range(1000):
        writer.step(step, loss=math.sin(step))
    writer.flush()
    writer.close()
    rows = [row["step"] for row in list(trace.read(tmp_path / name))[1:]]
    assert sorted(rows) == [*range(1000), *range(5000, 8000)]


def test_full_disk_raises():
    with pytest.raises(OSError):
        trace.Writer("/dev/full", run="r", program="p")
