"""One real daemon a test, on sockets in a temporary directory."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMOD = BUILD / "daemon" / "seismod"
SEISMO = BUILD / "client" / "seismo"
EXAMPLE = BUILD / "client" / "seismo-example"

sys.path.insert(0, str(ROOT / "client" / "python"))
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from polling import wait_for  # noqa: E402, F401 (the tests import it from here)


def run_cli(*args, check=True, env=None, timeout=60, **options):
    """The command line program; `check` demands exit code 0."""
    done = subprocess.run([str(SEISMO), *map(str, args)], capture_output=True, text=True,
                          env={**os.environ, **(env or {})}, timeout=timeout, **options)
    if check:
        assert done.returncode == 0, f"seismo {args}: exit {done.returncode}: {done.stderr}"
    return done


def score(*paths):
    """`seismo score --json`: one object a file."""
    return [json.loads(line) for line in run_cli("score", "--json", *paths).stdout.splitlines()]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Daemon:
    """A seismod in `directory`; starts at once. Its log is in `directory`/log."""

    def __init__(self, directory, config="", tcp=False, start=True):
        self.directory = pathlib.Path(directory)
        self.data = self.directory / "data"
        self.ingest = (f"tcp://127.0.0.1:{free_port()}" if tcp
                       else f"ipc://{self.directory}/ingest.sock")
        self.query = f"ipc://{self.directory}/query.sock"
        self.events = f"ipc://{self.directory}/events.sock"
        self.config = self.directory / "seismod.conf"
        self.config.write_text(config)
        self.options = []  # more of the command line
        self.process = None
        if start:
            self.start()

    def start(self):
        with open(self.directory / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(SEISMOD), "--config", str(self.config), "--data", str(self.data),
                 "--ingest", self.ingest, "--query", self.query, "--events", self.events,
                 *self.options],
                stdout=subprocess.PIPE, stderr=log, text=True)
        ready = self.process.stdout.readline()
        assert ready.startswith("seismod: ready"), f"{ready!r}; log:\n{self.log()}"

    def log(self):
        return (self.directory / "log").read_text(encoding="utf-8")

    def kill(self):
        """SIGKILL, as a power cut of the process would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def stop(self, timeout=20):
        """SIGTERM; the daemon must drain and exit 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self.process.stdout.close()
        self.process = None
        assert code == 0, f"seismod exited with {code}; log:\n{self.log()}"

    def cli(self, *args, **options):
        return run_cli(*args, "--query", self.query, **options)

    def json(self, *args):
        return json.loads(self.cli(*args, "--json").stdout)

    def run_info(self, run):
        """One run as `seismo runs --json` shows it, or None."""
        found = [r for r in self.json("runs")["runs"] if r["run"] == run]
        return found[0] if found else None

    def verdicts(self, run):
        return self.json("verdicts", run)["verdicts"]

    def export(self, run):
        """All stored steps of a run, without the header line."""
        lines = self.cli("export", run).stdout.splitlines()
        return [json.loads(line) for line in lines[1:]]

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
