"""What PROTOCOL.md promises, tried on a real daemon as a stranger would who has only read it."""
import os
import re
import subprocess
import sys

from conftest import ROOT, wait_for


def test_example_of_the_document(daemon, tmp_path):
    text = (ROOT / "proto" / "PROTOCOL.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 1
    script = tmp_path / "toy.py"
    script.write_text(blocks[0], encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "SEISMO_INGEST": daemon.ingest})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "streaming as toy"
    assert [line.split(" [")[0] for line in lines[1:]] == [
        f"committed up to step {64 * batch - 1}" for batch in range(1, 11)]
    run = wait_for(lambda: daemon.run_info("toy"), what="the run")
    assert (run["steps"], run["step"], run["outcome"]) == (640, 639, "finished")
    assert run["meta"] == {"batch_size": 32}
