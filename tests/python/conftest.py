"""What the tests of the Python client share."""
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "python"))


def wait_for(condition, timeout=10.0, what="condition"):
    """Poll until condition() is true and return its value; fail the test after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"timed out after {timeout} s waiting for {what}")
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in ("SEISMO_INGEST", "SEISMO_RUN", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
