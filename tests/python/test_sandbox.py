"""seismod, its own sandbox included, and its hooks work under the system call filter of the unit.

A unit that is hardened too far is found out when the service is started and not before, so here its
SystemCallFilter and RestrictAddressFamilies are put together as systemd does, and the daemon runs
under them.
"""
import ctypes
import errno
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMOD = BUILD / "daemon" / "seismod"
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from conftest import wait_for  # noqa: E402
from peer import Peer  # noqa: E402  (needs the path above)
from seismo import _protocol as protocol  # noqa: E402

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # MemoryDenyWriteExecute, where the kernel has it
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # where they stand in struct seccomp_data
ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # and the errno


def expand(name):
    """The system calls of a name as SystemCallFilter has it."""
    if not name.startswith("@"):
        return {name}
    text = subprocess.run(["systemd-analyze", "--no-pager", "syscall-filter", name], check=True,
                          capture_output=True, text=True).stdout
    members = [line.strip() for line in text.splitlines()[1:]]
    return set().union(*(expand(m) for m in members if m and not m.startswith("#")))


def allowed(unit):
    """What the SystemCallFilter lines of a unit allow, in their order."""
    calls = expand("@default")
    for value in re.findall(r"(?m)^SystemCallFilter=(.*)$", unit):
        named = set().union(*(expand(name) for name in value.lstrip("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def families(unit):
    """The address families of RestrictAddressFamilies."""
    names = re.search(r"(?m)^RestrictAddressFamilies=(.*)$", unit).group(1).split()
    return [int(getattr(socket, name)) for name in names]


def numbers():
    """Names and numbers of the system calls on this machine, from the C headers."""
    macros = subprocess.run(["cc", "-E", "-dM", "-include", "sys/syscall.h", "-xc", "/dev/null"],
                            check=True, capture_output=True, text=True).stdout
    return {name: int(n) for name, n in re.findall(r"(?m)^#define __NR_(\w+) (\d+)$", macros)}


def program(unit):
    """The filter of a unit: what is not allowed gives EPERM, other families EAFNOSUPPORT."""
    known = numbers()

    def do(operation, value, skip=0):
        return struct.pack("HBBI", operation, 0, skip, value)

    code = do(LOAD, NUMBER)
    for call in sorted(allowed(unit) & set(known) - {"socket"}):
        code += do(JUMP_EQUAL, known[call], 1) + do(RETURN, ALLOW)
    code += do(JUMP_EQUAL, known["socket"], 1 + 2 * len(families(unit)) + 1)
    code += do(LOAD, FIRST_ARGUMENT)
    for family in families(unit):
        code += do(JUMP_EQUAL, family, 1) + do(RETURN, ALLOW)
    code += do(RETURN, REFUSE + errno.EAFNOSUPPORT)
    return code + do(RETURN, REFUSE + errno.EPERM)


def confine(code):
    """Between fork and exec: this process and all that it starts are under the filter."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)), 16)
    libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or
            libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, head, 0, 0) != 0):
        raise OSError(ctypes.get_errno(), "the filter was not taken")


@pytest.fixture(scope="module")
def code():
    unit = (ROOT / "systemd" / "seismod.service.in").read_text(encoding="utf-8")
    assert {"execve", "read", "socket", "seccomp", "landlock_restrict_self"} < allowed(unit)
    assert not {"mount", "ptrace", "setuid", "setpriority"} & allowed(unit)
    return program(unit)


def test_the_filter_holds(code):
    """Otherwise the next test would prove nothing."""
    def confined(*command):
        return subprocess.run(command, preexec_fn=lambda: confine(code), capture_output=True,
                              text=True)

    assert "cannot set niceness" in confined("nice", "-n", "5", "true").stderr
    probe = "import socket; socket.socket(socket.AF_INET); socket.socket(socket.AF_PACKET)"
    assert "Address family not supported" in confined(sys.executable, "-c", probe).stderr


@pytest.mark.plain_only
def test_the_daemon_and_its_hook_run_confined(code, tmp_path):
    """Streams a run that goes wrong, over TCP and a socket file; the hook hears of it."""
    hook = tmp_path / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/part && mv {tmp_path}/part {tmp_path}/fired\n")
    hook.chmod(0o755)
    config = tmp_path / "seismod.conf"
    config.write_text(f"[hook page]\ncommand = {hook}\n")
    ingest = f"ipc://{tmp_path}/ingest.sock"
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen(
            [str(SEISMOD), "--config", str(config), "--data", str(tmp_path / "data"),
             "--ingest", ingest, "--ingest", "tcp://127.0.0.1:*"],
            preexec_fn=lambda: confine(code), stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        ready = daemon.stdout.readline()
        assert ready.startswith("seismod: ready"), (tmp_path / "log").read_text()
        for endpoint in (ingest, re.search(r"tcp://127\.0\.0\.1:\d+", ready).group(0)):
            peer = Peer(endpoint, run=endpoint)
            peer.hello()
            peer.steps(1, [[step, 1.0] for step in range(200)])
            peer.send(protocol.STEPS, 2, [[step, float("nan")] for step in range(200, 260)])
            peer.acked(2)
            peer.close()
        query = f"ipc://{tmp_path}/data/query.sock"
        for command in (["explain", ingest], ["status", "--json"]):
            asked = subprocess.run([str(BUILD / "client" / "seismo"), *command, "--query", query],
                                   capture_output=True, check=True, timeout=30)
        assert json.loads(asked.stdout)["sandbox"]["calls"] is True
        wait_for((tmp_path / "fired").exists, what="the hook")
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(30)
        daemon.stdout.close()
    assert code == 0, (tmp_path / "log").read_text()
