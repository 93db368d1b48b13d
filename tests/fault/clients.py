"""The real clients as processes of their own, and letting the hand-made ones work."""
import pathlib
import subprocess
import time

import daemons
from jobs import Job

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 300.0  # s for clients to finish once nothing disturbs them


class Trainer:
    """A process that streams a job with a real client."""

    def __init__(self, command, job, daemon, rate, start=0, spool=""):
        self.job, self.rate, self.begun = job, rate, time.monotonic()
        path = daemon.directory.parent / f"{job.name}.jsonl"
        self.path = path if path.exists() else job.write(path)
        self.said = path.with_suffix(".said")
        # A file: a pipe that nobody reads would stop it when it is full.
        with open(self.said, "wb") as out:
            self.process = subprocess.Popen(
                [*command, str(self.path), daemon.ingest, job.name, job.program, str(rate),
                 str(start), spool], stdout=out)

    def check_pace(self):
        """It has not waited for anybody: at least half of what is due has been handed over."""
        elapsed = time.monotonic() - self.begun
        told = [line for line in daemons.whole_lines(self.said) if line.startswith("given ")]
        given = int(told[-1].split()[1]) if told else 0
        due = min(len(self.job.rows), self.rate * (elapsed - 5.0))  # which it may take to start
        assert given >= due / 2, f"{self.job.name}: {given} rows after {elapsed:.0f} s"

    def finish(self, timeout):
        """Waits for the end; everything must have been acknowledged and nothing dropped."""
        self.process.wait(timeout)
        lines = daemons.whole_lines(self.said)
        assert lines and lines[-1] == "closed 1", f"{self.job.name}: {lines[-2:]}"
        assert lines[-2].endswith("dropped 0"), f"{self.job.name}: {lines[-2:]}"


def commands(c, python):
    """How to start `c` trainers in C and `python` in Python."""
    return ([[str(daemons.BUILD / "tests" / "fault" / "fault_trainer")]] * c
            + [["/usr/bin/python3", str(HERE / "trainer.py")]] * python)


def drive(peers, until, done=None):
    """Lets the hand-made peers work until a moment, or until `done` holds."""
    while True:
        now = time.monotonic()
        if now >= until or (done is not None and done()):
            return
        for peer in peers:
            peer.poll(now)
        time.sleep(0.002)
