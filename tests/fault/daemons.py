"""A seismod under test: started, killed, frozen, looked into."""
import json
import pathlib
import select
import sqlite3
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lib"))

from seismod import BUILD, SEISMOD, Seismod, run_cli, score, whole_lines  # noqa: E402, F401

HOOK = """[hook file]
command = /bin/sh -c 'cat >>{fired}'
severity = warning
states = unstable, stalled, mismatch, silent, ended
"""
READY_PATIENCE = 60.0  # s


class Daemon(Seismod):
    """A daemon in a directory of its own; `config` and `env` may be changed between starts."""

    stop_timeout, cli_timeout = 60, 120  # these machines are made busy

    def __init__(self, directory, config="", hook=True, env=None, program=SEISMOD):
        super().__init__(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.database = self.data / "seismo.db"
        self.fired_path = self.directory / "fired"
        self.config = config + (HOOK.format(fired=self.fired_path) if hook else "")
        self.env, self.program = env or {}, program
        self.starts = 0

    def start(self, wait=True):
        """Starts; with `wait` until it is ready."""
        path = self.directory / "seismod.conf"
        path.write_text(self.config)
        self.launch(self.program, path, env=self.env)
        self.starts += 1
        if wait:
            ready, _, _ = select.select([self.process.stdout], [], [], READY_PATIENCE)
            line = self.process.stdout.readline() if ready else "nothing"
            assert line.startswith("seismod: ready"), f"{line!r}; log:\n{self.log()[-3000:]}"
        return self

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
        return [json.loads(line) for line in whole_lines(self.fired_path) if line]

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
