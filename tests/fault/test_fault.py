"""The short forms of the experiments in this folder; `tests/fault/run --long` has the long ones."""
import pathlib
import subprocess

import pytest

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).resolve().parent


@pytest.mark.parametrize("program, options", [
    ("kill_daemon", ["--kills", "20"]),
    ("kill_client", ["--kills", "20"]),
    ("malformed", []),
    ("crowd", []),
    ("network", []),
    ("clock", []),
    ("absent", []),
])
def test_experiment(program, options):
    """Its exit code is 0 only when what it attacked has held; its seed stands in what it says."""
    done = subprocess.run(["/usr/bin/python3", str(HERE / program), *options], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
