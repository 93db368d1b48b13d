"""Databases of every released schema open, whole, and their runs go on."""
import gzip
import importlib.machinery
import importlib.util
import json
import re
import sqlite3

import pytest
from conftest import ROOT, Daemon
from peer import Peer
from seismo import _protocol as protocol

DATABASES = ROOT / "tests" / "databases"
VERSION = int(re.search(r"#define DATABASE_VERSION (\d+)",
                        (ROOT / "daemon" / "archive" / "source.h").read_text()).group(1))


def script(path):
    """A program without .py at its end, as a module."""
    loader = importlib.machinery.SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(params=range(1, VERSION + 1))
def old(request, tmp_path):
    """A daemon, not started, that finds the database of that version, and what is in it."""
    daemon = Daemon(tmp_path, config="[runs]\nlost_after = 86400\n", start=False)
    daemon.data.mkdir()
    packed = (DATABASES / f"v{request.param}.db.gz").read_bytes()
    (daemon.data / "seismo.db").write_bytes(gzip.decompress(packed))
    yield daemon, json.loads((DATABASES / f"v{request.param}.json").read_text())
    daemon.stop()


def test_everything_is_there(old):
    daemon, expected = old
    daemon.start()
    assert script(DATABASES / "make").describe(daemon) == expected
    assert daemon.json("status")["storage"]["schema"] == VERSION
    assert daemon.cli("check").returncode == 0
    daemon.kill()
    daemon.start()  # and again, now that it is of this version
    assert script(DATABASES / "make").describe(daemon) == expected
    with sqlite3.connect(daemon.data / "seismo.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_runs_go_on(old):
    """A job that was under way when the daemon was replaced loses nothing."""
    daemon, content = old
    expected = content["runs"]
    daemon.start()
    for name in ("resumed", "fresh"):
        peer = Peer(daemon.ingest, run=name)
        welcome = peer.hello(fields=["step", "time", "loss", "lr", "grad_norm"])
        assert welcome[1]["run"] == name and welcome[1]["last_step"] == expected[name]["step"]
        first = expected[name]["step"] + 1
        assert peer.steps(1, [[step, 1.7e9 + step / 4, 0.3, 0.1, 1.3]
                              for step in range(first, first + 300)])[0] == protocol.ACK
        peer.close()
        info = daemon.run_info(name)
        assert info["steps"] == expected[name]["steps"] + 300
    assert daemon.cli("check").returncode == 0
