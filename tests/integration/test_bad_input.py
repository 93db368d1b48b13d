"""Whatever a peer sends: a clear error for it, nothing for the others, nothing acknowledged lost."""
import json
import os
import random
import subprocess

import msgpack
import pytest
from conftest import SEISMOD, run_cli, wait_for
from peer import Peer
from seismo import _protocol as protocol

HELLO = {"version": protocol.PROTOCOL_VERSION, "run": "bad", "program": "p", "session": b"x" * 16,
         "rank": 0, "world": 1, "fields": ["step", "loss"], "meta": "{}"}


@pytest.fixture
def good(daemon):
    """A well-behaved peer beside the bad ones: afterwards it must still get its ACK."""
    peer = Peer(daemon.ingest, run="good")
    peer.hello()
    peer.steps(1, [[step, 1.0 / (1 + step)] for step in range(20)])
    yield peer
    assert peer.steps(2, [[20, 0.04]])[:3] == [protocol.ACK, 2, 20]
    assert len(daemon.export("good")) == 21
    peer.close()


@pytest.mark.parametrize("message, code, word", [
    (b"", "malformed", None),
    (b"\xc1", "malformed", None),
    (b"\xdd\xff\xff\xff\xff", "malformed", None),
    (msgpack.packb([99]), "malformed", "type"),
    (msgpack.packb([1, {**HELLO, "version": 999}]), "version", "999"),
    (msgpack.packb([1, {**HELLO, "fields": ["step", "loss", "foo"]}]), "unknown_field", "foo"),
    (msgpack.packb([1, {**HELLO, "fields": ["step"]}]), "malformed", "loss"),
    (msgpack.packb([1, {**HELLO, "run": "x" * 5000}]), "too_big", "run"),
    (msgpack.packb([1, {**HELLO, "run": b"\xff\xfe"}]), "malformed", "run"),
    (msgpack.packb([1, {**HELLO, "rank": 3}]), "malformed", "rank"),
    (msgpack.packb([2, 1, [[0, 1.0]]]), "hello_required", "HELLO"),
    (msgpack.packb([1, HELLO]) + b"\x00", "malformed", None),
])
def test_refused_message(daemon, good, message, code, word):
    peer = Peer(daemon.ingest)
    peer.raw(message)
    answer = peer.answer()
    assert answer is not None and answer[0] == protocol.ERROR, answer
    assert answer[1] == code, answer
    if word:
        assert word in answer[2] + answer[3]
    assert answer[3], "every error says what to do"
    peer.close()


@pytest.mark.parametrize("rows, code, word", [
    ([[0, 1.0, 2.0]], "malformed", "row"),
    ([[-1, 1.0]], "malformed", "step"),
    ([[1.5, 1.0]], "malformed", "step"),
    ([[0, None]], "malformed", "loss"),
    ([[0, "one"]], "malformed", "loss"),
    ([[step, 1.0] for step in range(5000)], "too_big", "rows"),
])
def test_refused_rows(daemon, good, rows, code, word):
    """The batch is refused whole; an empty one under its number lets the run go on."""
    peer = Peer(daemon.ingest, run="bad")
    peer.hello()
    answer = peer.steps(1, rows)
    assert answer[:2] == [protocol.ERROR, code] and answer[4] == 1, answer
    assert word in answer[2]
    assert peer.steps(1, [])[:2] == [protocol.ACK, 1]
    assert peer.steps(2, [[7, 1.0]])[:3] == [protocol.ACK, 2, 7]
    assert [row["step"] for row in daemon.export("bad")] == [7]
    peer.close()


def test_gap_in_batch_numbers(daemon, good):
    peer = Peer(daemon.ingest, run="gap")
    peer.hello()
    peer.steps(1, [[0, 1.0]])
    answer = peer.steps(3, [[2, 1.0]])
    assert answer[:2] == [protocol.ERROR, "out_of_order"] and answer[4] == 3
    assert peer.steps(2, [[1, 1.0]])[:2] == [protocol.ACK, 2]
    peer.close()


def test_nan_and_infinity_are_data(daemon):
    peer = Peer(daemon.ingest, run="nan")
    peer.hello()
    peer.steps(1, [[0, 1.0], [1, float("nan")], [2, float("inf")], [3, float("-inf")], [4, 1e300]])
    assert [row["loss"] for row in daemon.export("nan")] == [1.0, "nan", "inf", "-inf", "inf"]
    peer.close()


def test_garbage_flood_disturbs_nobody(daemon, good):
    """20,000 random messages from one peer; the daemon's memory does not grow with them."""
    seed = int(os.environ.get("SEISMO_TEST_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)

    def resident():
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    valid = msgpack.packb([1, HELLO])
    peer = Peer(daemon.ingest)
    sizes = []
    for i in range(20000):
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        peer.raw(bytes(data[:rng.randrange(1, len(data) + 1)]))
        if i in (4000, 19999):
            sizes.append(resident())
    peer.close()
    assert sizes[1] - sizes[0] < 20000, sizes
    assert daemon.process.poll() is None


def test_oversized_message_only_costs_its_sender(daemon, good):
    peer = Peer(daemon.ingest)
    peer.raw(b"\x93" + b"\x00" * (protocol.MAX_MESSAGE + 10))
    peer.close()


@pytest.mark.parametrize("line, word", [
    ("[seismod]\ningset = tcp://127.0.0.1:1\n", "ingest"),
    ("[store]\ncommit_interval = soon\n", "commit_interval"),
    ("[store]\ncommit_rows = -5\n", "commit_rows"),
    ("[sotre]\n", "store"),
    ("[seismod]\ningest = tcp://0.0.0.0:7747\n", "loopback"),
    ("[hook a]\ntimeout = 3\n", "command"),
])
def test_bad_configuration_line(start_daemon, line, word):
    """--check-config names file, line and what to do; the daemon does not start with it."""
    daemon = start_daemon(config=line, start=False)
    for extra in (["--check-config"], []):
        done = subprocess.run([str(SEISMOD), "--config", str(daemon.config), "--data",
                               str(daemon.data), *extra], capture_output=True, text=True, timeout=20)
        assert done.returncode != 0
        assert word in done.stderr and "seismod.conf" in done.stderr, done.stderr


@pytest.mark.parametrize("options, word", [
    (["--budget", "0.02"], "budget of 0.02"),
    (["--model", "/nowhere/model.json"], "/nowhere/model.json"),
])
def test_model_is_checked_too(tmp_path, options, word):
    for extra in (["--check-config"], []):
        done = subprocess.run([str(SEISMOD), "--data", str(tmp_path), *options, *extra],
                              capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and word in done.stderr, done.stderr


def test_directory_of_a_socket_is_missing(tmp_path):
    done = subprocess.run([str(SEISMOD), "--data", str(tmp_path), "--ingest", f"ipc://{tmp_path}/no/i.sock"],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "make the directory" in done.stderr, done.stderr


def test_data_directory_that_everybody_can_write(tmp_path):
    tmp_path.chmod(0o777)
    done = subprocess.run([str(SEISMOD), "--data", str(tmp_path)], capture_output=True, text=True,
                          timeout=20)
    assert done.returncode == 1 and "chmod o-w" in done.stderr, done.stderr
    tmp_path.chmod(0o700)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "seismo.lock").unlink()
    (tmp_path / "seismo.lock").symlink_to(victim)
    done = subprocess.run([str(SEISMOD), "--data", str(tmp_path)], capture_output=True, text=True,
                          timeout=20)
    assert done.returncode == 1 and victim.read_text() == "kept"


def test_damaged_trace_names_file_and_line(tmp_path):
    good = {"run": "r", "program": "p"}
    path = tmp_path / "damaged.jsonl"
    path.write_text(json.dumps(good) + "\n" + '{"step": 0, "loss": 1}\n{"step": 1, "lo\n')
    done = run_cli("score", path, check=False)
    assert done.returncode == 1
    assert "damaged.jsonl:3" in done.stderr


def test_damaged_model_is_refused(tmp_path):
    path = tmp_path / "model.json"
    path.write_text('{"format": 1, "features": ["nonsense"], "heads": {}}')
    done = run_cli("model", "verify", path, check=False)
    assert done.returncode == 1 and "model.json" in done.stderr
