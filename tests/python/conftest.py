"""What the tests of the Python client share."""
import functools
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, os.environ.get("PYTHONPATH") or str(ROOT / "client" / "python"))
sys.path.insert(0, str(ROOT / "tests" / "lib"))

import polling  # noqa: E402
from fake import FakeDaemon  # noqa: E402

wait_for = functools.partial(polling.wait_for, timeout=10.0)


def script(code, **env):
    """Run a program of its own; returns (exit code, stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client" / "python"), **env},
    )
    return done.returncode, done.stderr


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in ("SEISMO_INGEST", "SEISMO_RUN", "SEISMO_SPOOL", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def daemon():
    made = FakeDaemon()
    yield made
    made.close()


@pytest.fixture
def record(tmp_path, caplog):
    """A factory of factories of watches that write a trace; `rows()` closes and reads it.

    The test fails when the watch has logged anything or has not measured to the end, unless
    `rows(errors=True)` says that this was wanted.
    """
    import seismo.torch  # torch takes seconds to load, and most tests need none
    from seismo import trace

    class Record:
        def __init__(self):
            self.made = []

        def __call__(self, **options):
            def make(model, optimizer):
                path = tmp_path / f"{len(self.made)}.jsonl"
                options.setdefault("ingest", False)
                watch = seismo.torch.watch(model, optimizer, "r", "p", trace=path, **options)
                self.made.append((watch, path))
                return watch

            return make

        def rows(self, errors=False, place=-1):
            watch, path = self.made[place]
            watch.close()
            if not errors:
                assert watch.stats["errors"] == 0, caplog.text
            return list(trace.read(path))[1:]

        @property
        def header(self):
            return next(iter(trace.read(self.made[-1][1])))

    return Record()
