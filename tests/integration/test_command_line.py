"""The command line and libseismo against a real daemon, as a person uses them."""
import json
import os
import random
import signal
import subprocess
import threading

import pytest
from conftest import BUILD, ROOT, SEISMO, run_cli, score, wait_for


def write_trace(path, name, steps, diverges_at=None):
    """A trace of the given step numbers; from `diverges_at` on the loss explodes, then is NaN."""
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps({"run": name, "program": "p.py", "batch_size": 32}) + "\n")
        for step in steps:
            loss = 2 / (1 + step / 20) + rng.gauss(0, 0.02)
            if diverges_at is not None and step >= diverges_at:
                loss = loss * 2 ** (step - diverges_at) if step < diverges_at + 20 else "nan"
            row = {"step": step, "loss": loss, "grad_norm": abs(rng.gauss(1, 0.1)), "lr": 0.1}
            f.write(json.dumps(row) + "\n")
    return path


def stored(daemon, run):
    """The verdicts of the detector, as `seismo score` would give them."""
    return [{k: v for k, v in verdict.items() if k not in ("id", "recorded", "superseded", "run")}
            for verdict in daemon.verdicts(run) if verdict["state"] not in ("silent", "ended")]


def scored(path):
    document, = score(path)
    return [{k: v for k, v in verdict.items() if k != "run"} for verdict in document["verdicts"]]


def test_a_day_with_the_command_line(daemon, tmp_path):
    good = write_trace(tmp_path / "good.jsonl", "good", range(300))
    bad = write_trace(tmp_path / "bad.jsonl", "bad", range(300), diverges_at=200)
    done = daemon.cli("replay", good, bad, "--ingest", daemon.ingest)
    assert done.stdout.count("300 steps acknowledged") == 2
    assert "last verdict: unstable" in done.stdout

    status = daemon.json("status")
    assert status["runs"]["total"] == 2 and status["steps"] == 600 and status["storage"]["ok"]
    assert "600 steps" in daemon.cli("status").stdout
    runs = {r["run"]: r for r in daemon.json("runs", "--program", "p.py")["runs"]}
    assert set(runs) == {"good", "bad"} and runs["bad"]["meta"] == {"batch_size": 32}
    assert daemon.json("runs", "--state", "silent")["runs"] == []
    assert len(daemon.json("runs", "--state", "finished")["runs"]) == 2  # as the table says it
    assert daemon.json("runs", "--state", "lost")["runs"] == []
    assert runs["bad"]["worst"] == "unstable" and runs["bad"]["alarm_step"] >= 200

    shown = daemon.cli("show", "bad").stdout
    assert "at worst unstable, 300 steps" in shown and "▲ unstable" in shown
    explained = daemon.json("explain", "bad", "--step", "150")
    assert explained["step"] == 150
    total = explained["bias"] + sum(r["contribution"] for r in explained["reasons"])
    assert total == pytest.approx(explained["margin"], abs=1e-4)
    assert "WEIGHT" in daemon.cli("explain", "bad").stdout

    assert "labelled too hot" in daemon.cli("label", "bad", "too hot").stdout
    assert daemon.run_info("bad")["label"] == "too hot"
    done = daemon.cli("label", "bad", "x" * 64, check=False)
    assert done.returncode == 2 and "1 to 63 bytes; this one has 64" in done.stderr
    assert "too hot" in daemon.cli("watch", "--count", "1").stdout
    lines = daemon.cli("export", "bad", "--format", "csv").stdout.splitlines()
    assert len(lines) == 301 and lines[-1].startswith("299,,nan,0.100000001,")
    for args in (["show", "bat"], ["explain", "bat"], ["export", "bat"], ["verdicts", "bat"],
                 ["label", "bat", "x"]):
        done = daemon.cli(*args, check=False)
        assert done.returncode == 4 and done.stdout == "", (args, done.stderr)
        assert "bad" in done.stderr  # the nearest name


@pytest.mark.parametrize("resume_at", [0, 100, 255, 256, 290])
def test_replay_of_a_resumed_job_equals_score(daemon, tmp_path, resume_at):
    path = write_trace(tmp_path / "t.jsonl", "t", [*range(300), *range(resume_at, 600)],
                       diverges_at=250)
    daemon.replay(path, "t")
    assert stored(daemon, "t") == scored(path)
    document, = score(path)
    info = daemon.run_info("t")
    assert (info["steps"], info["worst"], info["alarm_step"], info["max_score"]) == (
        document["steps"], document["state"], document["alarm_step"], document["score"])
    # Once more out of the database, where what was taken back is gone.
    exported = tmp_path / "exported.jsonl"
    exported.write_text(daemon.cli("export", "t").stdout, encoding="utf-8")
    assert scored(exported) == scored(path)


def test_replay_at_a_given_speed_and_interrupted(daemon, tmp_path):
    path = write_trace(tmp_path / "t.jsonl", "t", range(300))
    args = [str(SEISMO), "replay", str(path), "--ingest", daemon.ingest, "--speed", "200"]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (daemon.run_info("t") or {"steps": 0})["steps"] >= 50)
    assert daemon.run_info("t")["steps"] < 300
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert daemon.run_info("t")["outcome"] == "aborted"


def test_replay_waits_for_a_daemon_that_restarts(daemon, tmp_path):
    path = write_trace(tmp_path / "t.jsonl", "t", range(2000))
    args = [str(SEISMO), "replay", str(path), "--ingest", daemon.ingest, "--speed", "1000"]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (daemon.run_info("t") or {"steps": 0})["steps"] >= 300)
    daemon.kill()
    daemon.start()
    assert "2000 steps acknowledged" in process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert [row["step"] for row in daemon.export("t")] == list(range(2000))
    assert stored(daemon, "t") == scored(path)


def test_replay_of_a_damaged_trace_keeps_what_is_whole(daemon, tmp_path):
    path = write_trace(tmp_path / "t.jsonl", "t", range(100))
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 100, "lo', encoding="utf-8")
    done = daemon.cli("replay", path, "--ingest", daemon.ingest, check=False)
    assert done.returncode == 1 and "t.jsonl:102:" in done.stderr
    assert daemon.run_info("t")["steps"] == 100
    assert daemon.run_info("t")["outcome"] == "aborted"


def test_verdicts_follow_a_live_run(daemon, tmp_path):
    follower = subprocess.Popen(
        [str(SEISMO), "verdicts", "--follow", "--json", "--query", daemon.query],
        stdout=subprocess.PIPE, text=True)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(map(json.loads, follower.stdout)))
    reader.start()
    path = write_trace(tmp_path / "t.jsonl", "t", range(300), diverges_at=200)
    daemon.replay(path, "t")
    wait_for(lambda: lines and lines[-1]["state"] == "ended", what="the last verdict")
    follower.terminate()
    follower.wait()
    reader.join()
    follower.stdout.close()
    assert lines == daemon.verdicts("t")


PROGRAM = """
#include <seismo.h>
#include <unistd.h>
int main(void)
{
    struct seismo_verdict v = {0};
    struct seismo *run = seismo_open(&(struct seismo_options){.run = "installed"}, 0);
    for (int i = 0; i < 2000 && v.severity[0] != 'c'; i++) {
        struct seismo_step s = seismo_at(i, i < 100 ? 1.0 / (i + 1) : 0.0 / 0.0);
        SEISMO_SET(s, lr, 0.1);
        seismo_step(run, &s);
        seismo_verdict(run, &v);
        usleep(1000);
    }
    return seismo_close(&run, SEISMO_FAILED) && v.severity[0] == 'c' ? 0 : 1;
}
"""


@pytest.mark.plain_only
@pytest.mark.parametrize("kind", ["shared", "static"])
def test_installed_library(daemon, tmp_path, kind):
    """A program compiled against what `meson install` puts in place."""
    root = tmp_path / "root"
    subprocess.run(["meson", "install", "-C", str(BUILD), "--no-rebuild", "--destdir", str(root)],
                   check=True, capture_output=True)
    pc, = root.rglob("seismo.pc")
    assert list(root.rglob("seismo.1")) and list(root.rglob("bin/seismo"))
    env = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent), "PKG_CONFIG_SYSROOT_DIR": ""}
    # The prefix as pkg-config knows it lies below the directory of the staged installation.
    prefix = f"--define-variable=prefix={next(root.rglob('include')).parent}"
    found = subprocess.run(["pkg-config", prefix, "--cflags", "--libs", "seismo"], env=env,
                           capture_output=True, text=True, check=True).stdout.split()
    source = tmp_path / "train.c"
    source.write_text(PROGRAM)
    if kind == "static":  # Debian's libzmq.pc names a library for --static that does not exist
        found.remove("-lseismo")
        found += [str(pc.parent.parent / "libseismo.a"), "-lzmq", "-ljansson", "-lz", "-lm",
                  "-pthread"]
    subprocess.run(["cc", "-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Werror",
                    "-pedantic", "-o", str(tmp_path / "train"), str(source), *found], check=True)
    subprocess.run([str(tmp_path / "train")], check=True, timeout=60, env={
        **os.environ, "SEISMO_INGEST": daemon.ingest, "LD_LIBRARY_PATH": str(pc.parent.parent)})
    info = daemon.run_info("installed")
    assert info["program"] == "train" and info["outcome"] == "failed"
    assert info["alarm_step"] in (101, 102)  # the rule needs three rows, the model may be sure of two


def test_header_in_a_cpp_program(tmp_path):
    """seismo.h is for C++ programs too."""
    source = tmp_path / "train.cc"
    source.write_text('#include "seismo.h"\nint main() { auto s = seismo_at(1, 2); '
                      "SEISMO_SET(s, grad_norm, 3.0); return s.present == 5 ? 0 : 1; }\n")
    subprocess.run(["clang++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                    f"-I{ROOT / 'client' / 'lib'}", str(source)], check=True)


def test_program_without_its_daemon(daemon):
    """It trains all the same, and says at the end that nothing was stored."""
    done = run_cli("status", check=False, env={"SEISMO_QUERY": "ipc:///nowhere"})
    assert done.returncode == 3
    example = subprocess.run([str(BUILD / "client" / "seismo-example")], capture_output=True,
                             text=True, timeout=30,
                             env={**os.environ, "SEISMO_INGEST": f"{daemon.ingest}.not"})
    assert example.stdout.startswith("y = ") and example.stderr == ""
    assert example.returncode == 1
