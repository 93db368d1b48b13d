"""A seismod under test: started, killed, frozen, looked into."""
import json
import os
import pathlib
import select
import signal
import sqlite3
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMOD, SEISMO = BUILD / "daemon" / "seismod", BUILD / "client" / "seismo"
HOOK = """[hook file]
command = /bin/sh -c 'cat >>{fired}'
severity = warning
states = unstable, stalled, mismatch, silent, ended
"""
OWN = ("id", "recorded", "time")  # of a verdict: what two daemons need not have in common
READY_PATIENCE = 60.0  # s


def run_cli(*args, timeout=120) -> str:
    """The output of the command line program; raises unless it exits with 0."""
    done = subprocess.run([str(SEISMO), *map(str, args)], capture_output=True, text=True,
                          timeout=timeout, check=False)
    assert done.returncode == 0, f"seismo {args}: exit {done.returncode}: {done.stderr}"
    return done.stdout


def score(*paths) -> list:
    """`seismo score --json` of trace files."""
    return [json.loads(line) for line in run_cli("score", "--json", *paths).splitlines()]


class Daemon:
    """A daemon in a directory of its own; `config` and `env` may be changed between starts."""

    def __init__(self, directory, config="", hook=True, env=None, program=SEISMOD):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.database = self.directory / "data" / "seismo.db"
        self.ingest = f"ipc://{self.directory}/ingest.sock"
        self.query = f"ipc://{self.directory}/query.sock"
        self.events = f"ipc://{self.directory}/events.sock"
        self.fired_path = self.directory / "fired"
        self.config = config + (HOOK.format(fired=self.fired_path) if hook else "")
        self.env, self.program = env or {}, program
        self.process = None
        self.starts = 0

    def start(self, wait=True):
        """Starts; with `wait` until it is ready."""
        path = self.directory / "seismod.conf"
        path.write_text(self.config)
        with open(self.directory / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(self.program), "--config", str(path), "--data",
                 str(self.database.parent), "--ingest", self.ingest, "--query", self.query,
                 "--events", self.events],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **self.env})
        self.starts += 1
        if wait:
            ready, _, _ = select.select([self.process.stdout], [], [], READY_PATIENCE)
            line = self.process.stdout.readline() if ready else "nothing"
            assert line.startswith("seismod: ready"), f"{line!r}; log:\n{self.log()[-3000:]}"
        return self

    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def stop(self, timeout=60):
        """SIGTERM; the daemon must drain and exit 0, which includes that uv_loop_close gave 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout)
        self.process.stdout.close()
        self.process = None
        assert code == 0, f"seismod exited with {code}; log:\n{self.log()[-3000:]}"

    def cli(self, *args) -> str:
        return run_cli(*args, "--query", self.query)

    def json(self, *args):
        return json.loads(self.cli(*args, "--json"))

    def export(self, run) -> list:
        """All stored rows of a run."""
        return [json.loads(line) for line in self.cli("export", run).splitlines()[1:]]

    def sql(self, query, *parameters) -> list:
        """Rows of a query, with the daemon running or not."""
        db = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)
        try:
            return db.execute(query, parameters).fetchall()
        finally:
            db.close()

    def verdicts(self, run) -> list:
        """The run's verdicts, superseded ones too, without what differs between daemons."""
        rows = self.sql("SELECT step, state, severity, score, threshold, fault, "
                        "fault_distribution, reasons, superseded FROM verdicts WHERE run = ? "
                        "ORDER BY id", run)
        return [row[:7] + (None if row[1] in ("silent", "ended") else row[7], row[8])
                for row in rows]

    def alerts(self, run) -> list:
        """What the run's alerts are about, in order."""
        return self.sql("SELECT alerts.event, alerts.state, hook, verdicts.step, verdicts.state "
                        "FROM alerts JOIN verdicts ON verdicts.id = verdict WHERE alerts.run = ? "
                        "ORDER BY alerts.id", run)

    def fired(self) -> list:
        """The documents that the hook was given, in order."""
        if not self.fired_path.exists():
            return []
        return [json.loads(line) for line in self.fired_path.read_text().splitlines() if line]

    def check_integrity(self):
        assert self.sql("PRAGMA integrity_check") == [("ok",)]

    def check_alerts(self, patience=60.0) -> int:
        """Each alert fired at least once, under its one id, with what the database has of it."""
        end = time.monotonic() + patience
        while True:
            stored = {i: json.loads(text) for i, text in self.sql("SELECT id, document FROM alerts")}
            fired = self.fired()
            missing = set(stored) - {document["alert"] for document in fired}
            if not missing or time.monotonic() > end:
                break
            time.sleep(0.1)
        assert not missing, f"alerts that never fired: {sorted(missing)[:10]}"
        about: dict = {}
        for document in fired:
            assert stored.get(document["alert"]) == document, \
                f"fired but not stored like this: {document}"
            key = (document["id"], document["event"], document["condition"])
            assert about.setdefault(key, document["alert"]) == document["alert"], \
                f"one alert under two ids: {document}"
        return len(stored)
