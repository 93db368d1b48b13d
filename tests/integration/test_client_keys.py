"""The Python client, the C library and the command line against a daemon that asks for keys, and
what each says when they do not fit."""
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import EXAMPLE, Daemon, run_cli, wait_for
from secured import Secured, read_key
from seismo import Run

ROLES = {"pusher": "push team-a/", "reader": "query", "chief": "push *, admin"}
VARIABLES = ("SEISMO_SERVER_KEY_FILE", "SEISMO_KEY_FILE", "SEISMO_SERVER_KEY", "SEISMO_KEY",
             "SEISMO_INGEST", "SEISMO_QUERY")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def secured(tmp_path):
    daemon = Secured(tmp_path, ROLES)
    run_cli("keygen", daemon.keys, "--name", "stranger")
    run_cli("keygen", daemon.keys / "other", "--server")
    yield daemon
    daemon.stop()


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    rows = [{"run": "t", "program": "t.py"}] + [{"step": step, "loss": 1.0} for step in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs(secured, client="chief"):
    env = secured.environment(client)
    return {run["run"]: run for run in json.loads(
        run_cli("runs", "--json", env=env).stdout)["runs"]}


def say_nothing_of_keys(secured, text):
    for key in secured.all_keys() | {read_key(secured.keys / "other" / "server.key")}:
        assert key[:12].decode() not in text


def misfits(secured):
    """Environments that do not fit, and what has to be said of each."""
    good = secured.environment("chief")
    key_file = pathlib.Path(good["SEISMO_KEY_FILE"])
    opened = secured.keys / "open.key"
    opened.write_text(key_file.read_text())
    opened.chmod(0o644)
    without = {**good, "SEISMO_SERVER_KEY_FILE": "", "SEISMO_KEY_FILE": ""}
    return [
        (without, "SEISMO_SERVER_KEY_FILE and SEISMO_KEY_FILE"),
        ({**good, "SEISMO_SERVER_KEY_FILE": str(secured.keys / "other" / "server.pub")},
         "the server key (SEISMO_SERVER_KEY_FILE) is not its own"),
        ({**good, "SEISMO_KEY_FILE": str(secured.keys / "stranger.key")},
         "does not let this client in"),
        ({**good, "SEISMO_KEY_FILE": ""}, "set SEISMO_KEY_FILE"),
        ({**good, "SEISMO_SERVER_KEY_FILE": ""}, "set SEISMO_SERVER_KEY_FILE"),
        ({**good, "SEISMO_KEY_FILE": "/nonexistent.key"}, "/nonexistent.key: No such file"),
        ({**good, "SEISMO_KEY_FILE": str(opened)}, "chmod 600"),
        ({**good, "SEISMO_KEY_FILE": read_key(key_file).decode()}, "a key stands where the name"),
        ({**good, "SEISMO_KEY_FILE": str(secured.keys / "chief.pub")}, "NAME.key"),
        ({**good, "SEISMO_SERVER_KEY_FILE": str(secured.keys / "server.key")}, "NAME.pub"),
    ]


# ---- the command line ----


def test_command_line(secured, trace):
    env = secured.environment("chief")
    run_cli("replay", trace, "--run", "team-a/1", env=secured.environment("pusher"))
    assert runs(secured, "reader")["team-a/1"]["steps"] == 100
    run_cli("label", "team-a/1", "healthy", env=env)
    assert runs(secured)["team-a/1"]["label"] == "healthy"
    assert len(run_cli("export", "team-a/1", env=env).stdout.splitlines()) == 101
    # The keys themselves in the environment do as well.
    direct = {"SEISMO_SERVER_KEY": read_key(secured.keys / "server.pub").decode(),
              "SEISMO_KEY": read_key(secured.keys / "chief.key").decode(),
              "SEISMO_QUERY": secured.query}
    assert run_cli("status", env=direct).returncode == 0
    # A socket file needs none, even if some are set that fit nowhere.
    run_cli("replay", trace, "--run", "local", "--ingest", secured.local,
            env={"SEISMO_KEY_FILE": "/nonexistent", "SEISMO_SERVER_KEY_FILE": "/nonexistent"})
    assert "local" in runs(secured)


def test_command_line_without_the_role(secured, trace):
    done = run_cli("runs", env=secured.environment("pusher"), check=False)
    assert done.returncode == 1 and 'client "pusher" may not ask' in done.stderr
    done = run_cli("label", "x", "y", env=secured.environment("reader"), check=False)
    assert done.returncode == 1 and "lacks the role admin" in done.stderr
    done = run_cli("replay", trace, "--run", "team-b/1", env=secured.environment("pusher"),
                   check=False)
    assert done.returncode == 1 and 'may not push the run "team-b/1"' in done.stderr


def test_command_line_says_why_keys_do_not_fit(secured):
    for env, words in misfits(secured):
        done = run_cli("status", env=env, check=False)
        assert done.returncode in (1, 2) and words in done.stderr, (env, done)
        say_nothing_of_keys(secured, done.stderr + done.stdout)


def test_keys_where_none_are_asked_for(secured, tmp_path):
    (tmp_path / "open").mkdir()
    daemon = Daemon(tmp_path / "open", tcp=True)
    done = run_cli("status", "--query", daemon.ingest, env=secured.environment("chief"),
                   check=False)
    assert done.returncode == 1 and "does not ask for keys" in done.stderr
    daemon.stop()


# ---- the C library ----


def example(env):
    return subprocess.run([str(EXAMPLE)], env={**os.environ, **env}, capture_output=True, text=True,
                          timeout=60)


def test_c_library(secured):
    done = example({**secured.environment("pusher"), "SEISMO_RUN": "team-a/c"})
    assert done.returncode == 0, done.stderr
    assert runs(secured)["team-a/c"]["outcome"] == "finished"


def test_c_library_says_why_keys_do_not_fit(secured, trace):
    """As `seismo replay` passes it on, which streams through the library."""
    cases = misfits(secured)
    with ThreadPoolExecutor(len(cases)) as pool:  # each waits five seconds for the daemon
        results = pool.map(lambda case: run_cli("replay", trace, env=case[0], check=False), cases)
        for (env, words), done in zip(cases, results):
            assert done.returncode in (2, 3) and words in done.stderr, (env, done)
            say_nothing_of_keys(secured, done.stderr + done.stdout)
    assert runs(secured) == {}


# ---- the Python client ----


@pytest.fixture
def python(monkeypatch, caplog):
    """Opens a run with an environment, and closes it at the end."""
    caplog.set_level(logging.WARNING, "seismo")
    opened = []

    def start(env, run, **options):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        opened.append(Run(run, "p.py", **options))
        return opened[-1]

    yield start
    for run in opened:
        run.close(timeout=0)


def test_python_client(secured, python):
    run = python(secured.environment("pusher"), "team-a/py")
    for step in range(10):
        run.step(step, loss=1.0)
    assert run.close()
    # By arguments, which go before the environment.
    run = python({}, "team-a/py2", ingest=secured.ingest,
                 server_key_file=secured.keys / "server.pub",
                 key_file=str(secured.keys / "pusher.key"))
    run.step(0, loss=1.0)
    assert run.close()
    assert {"team-a/py", "team-a/py2"} == set(runs(secured))


def test_python_client_says_why_keys_do_not_fit(secured, python, caplog):
    for number, (env, words) in enumerate(misfits(secured)):
        caplog.clear()
        run = python(env, f"r{number}")
        for step in range(100):
            run.step(step, loss=1.0)
        wait_for(lambda: words in caplog.text, what=words)
        assert run.stats["acked_steps"] == 0 and not run.close(timeout=0)
        say_nothing_of_keys(secured, caplog.text)
    assert runs(secured) == {}


def test_python_client_without_the_role(secured, python, caplog):
    run = python(secured.environment("pusher"), "team-b/py")
    run.step(0, loss=1.0)
    wait_for(lambda: 'may not push the run "team-b/py"' in caplog.text, what="the refusal")
    assert run.stats["queued_steps"] == 1 and run.stats["rejected_steps"] == 0


@pytest.mark.parametrize("kind", ["python", pytest.param("c", marks=pytest.mark.plain_only)])
def test_a_client_goes_on_once_it_is_authorised(secured, python, trace, kind):
    """Nothing is lost while an administrator makes up his mind."""
    secured.revoke("chief")
    secured.authorise("reader", "query")
    secured.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "2 clients are authorised" in secured.log(), what="the reload")
    env = secured.environment("chief")
    if kind == "python":
        run = python(env, "late")
        for step in range(100):
            run.step(step, loss=1.0)
    else:
        program = pathlib.Path(secured.directory / "late.py")
        program.write_text(C_CLIENT)
        process = subprocess.Popen(
            [sys.executable, str(program), str(EXAMPLE.parent / "libseismo.so")],
            env={**os.environ, **env})
    wait_for(lambda: "a key that is not authorised was refused" in secured.log(),
             what="the first attempt")
    secured.authorise("chief", ROLES["chief"])
    secured.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "3 clients are authorised" in secured.log(), what="the reload")
    wait_for(lambda: runs(secured).get("late", {}).get("steps") == 100, what="all steps",
             timeout=60)
    if kind == "python":
        assert run.close()
    else:
        assert process.wait(30) == 0


C_CLIENT = """
import ctypes, sys
lib = ctypes.CDLL(sys.argv[1])


class Options(ctypes.Structure):
    _fields_ = [("run", ctypes.c_char_p), ("program", ctypes.c_char_p), ("ingest", ctypes.c_char_p),
                ("rank", ctypes.c_uint32), ("world", ctypes.c_uint32), ("meta", ctypes.c_char_p),
                ("ring", ctypes.c_uint32), ("close_timeout", ctypes.c_double),
                ("rest", ctypes.c_void_p * 16)]


class Step(ctypes.Structure):
    _fields_ = [("step", ctypes.c_int64), ("time", ctypes.c_double), ("present", ctypes.c_uint32),
                ("value", ctypes.c_float * 32)]


lib.seismo_open.restype = ctypes.c_void_p
lib.seismo_step.argtypes = [ctypes.c_void_p, ctypes.POINTER(Step)]
lib.seismo_close.restype = ctypes.c_bool
options = Options(run=b"late", program=b"late.py", close_timeout=60.0)
run = ctypes.c_void_p(lib.seismo_open(ctypes.byref(options), None))
assert run.value
for number in range(100):
    step = Step(step=number, present=1)
    step.value[0] = 1.0
    lib.seismo_step(run, ctypes.byref(step))
sys.exit(not lib.seismo_close(ctypes.byref(run), 0))
"""
