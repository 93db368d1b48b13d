"""Waiting for what happens in another thread or process."""
import time

import pytest


def wait_for(condition, timeout=20.0, what="condition"):
    """Poll until condition() is true and return its value; fail the test after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"timed out after {timeout} s waiting for {what}")
        time.sleep(0.005)
