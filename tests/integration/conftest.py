"""One real daemon a test, on sockets in a temporary directory."""
import pathlib
import socket
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from polling import wait_for  # noqa: E402, F401 (the tests import these from here)
from seismod import BUILD, SEISMO, SEISMOD, Seismod, run_cli, score, whole_lines  # noqa: E402, F401

EXAMPLE = BUILD / "client" / "seismo-example"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Daemon(Seismod):
    """A seismod in `directory`; starts at once. Its log is in `directory`/log."""

    def __init__(self, directory, config="", tcp=False, start=True):
        super().__init__(directory)
        if tcp:
            self.ingest = f"tcp://127.0.0.1:{free_port()}"
        self.config = self.directory / "seismod.conf"
        self.config.write_text(config)
        self.options = []  # more of the command line
        if start:
            self.start()

    def start(self):
        self.launch(SEISMOD, self.config, *self.options)
        ready = self.process.stdout.readline()
        assert ready.startswith("seismod: ready"), f"{ready!r}; log:\n{self.log()}"

    def run_info(self, run):
        """One run as `seismo runs --json` shows it, or None."""
        found = [r for r in self.json("runs")["runs"] if r["run"] == run]
        return found[0] if found else None

    def verdicts(self, run):
        return self.json("verdicts", run)["verdicts"]

    def replay(self, path, run):
        return self.cli("replay", path, "--ingest", self.ingest, "--run", run, timeout=120)


@pytest.fixture
def start_daemon(tmp_path):
    """Factory of daemons; all of them must stop cleanly at the end."""
    daemons = []

    def start(**options):
        directory = tmp_path / f"d{len(daemons)}"
        directory.mkdir()
        daemons.append(Daemon(directory, **options))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def daemon(start_daemon):
    return start_daemon()
