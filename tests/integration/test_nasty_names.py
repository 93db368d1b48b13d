"""Strings of peers are never interpreted: not by SQL, the log, a terminal, or a hook."""
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import time

import msgpack
import pytest
from conftest import SEISMO, run_cli, wait_for
from peer import Peer
from seismo import _protocol as protocol

# Names that a run or program may have: printable to the wire, and a trap for somebody behind it.
ACCEPTED = [
    "'; DROP TABLE runs; --", "\" OR 1=1 --", "x' UNION SELECT session FROM runs --", "%s%n%x",
    "../../../../etc/passwd", "/dev/null", "..", "-", "--help", "--json", "$(touch pwned)",
    "`touch pwned`", "; touch pwned", "| touch pwned", "&& touch pwned", "\\x1b[31m", "\\u001b[2J",
    "<script>alert(1)</script>", "{\"run\": 1}", "NULL", "nan", "name#2", "name@3", "*", "a,b;c\"d",
    "\u202eevil\u202c", "\u2066isolate\u2069", "\u061cmark", "in\u200bvisible", "\ufeffbom",
    "line\u2028separator", "soft\u00adhyphen", "tag\U000e0041", "z\u0335\u0321a\u0337lgo",
    "größe", "訓練", "🔥" * 30, "x" * 128, "é" * 64,
]
# Names that the wire refuses, as bytes.
REFUSED = [
    b"", b"a\nb", b"\x1b[31mred", b"\x1b]0;title\x07", b"a\0b", b"a\rb", b"\x7f", b"\xc2\x9b31m",
    b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"cut\xe8\xa8", b"\xff\xfe",
    b"x" * 129, b"y" * 10000, "訓".encode() * 43,
]
# Texts that may hold anything but NUL: metadata, and what is said at the end.
TEXT = "\x1b]0;title\x07\x1b[2J\x1b[31m\r\n\x08\x7f\x9b31m\u202e\u2066'; DROP TABLE runs; --\t\u2028"

HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e"
                    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
# What the command line itself sends to a terminal: colours, and the screen of `watch`.
OURS = re.compile(r"\x1b\[(0|1|2|3[1-6])m|\x1b\[\?1049[hl]|\x1b\[\?25[hl]|\x1b\[[HJK]|\r(?=\n|\x1b\[K)")


def clean(data, what, tty=False):
    """The output holds nothing that a terminal could take for a command."""
    text = data.decode("utf-8")  # valid, whatever the names were
    text = OURS.sub("", text) if tty else text
    found = HIDDEN.search(text)
    assert not found, (what, found, text[max(0, found.start() - 60):found.start() + 20])
    return text


def pack_raw(value):
    """A msgpack str of these bytes, valid UTF-8 or not."""
    head = (bytes([0xa0 | len(value)]) if len(value) < 32 else b"\xda" + len(value).to_bytes(2, "big"))
    return head + value


def hello(run, program, session, meta="{}"):
    """A HELLO with raw bytes for the names."""
    body = b"".join(msgpack.packb(key) + value for key, value in [
        ("version", msgpack.packb(1)), ("run", pack_raw(run)), ("program", pack_raw(program)),
        ("session", msgpack.packb(session)), ("fields", msgpack.packb(["step", "loss"])),
        ("meta", msgpack.packb(meta))])
    return b"\x92\x01\x86" + body


def rows(first, last):
    """Losses that become worse at the end, so that verdicts have reasons."""
    return [[step, 1.0 if step < 30 else float("nan")] for step in range(first, last)]


def on_terminal(*args, keys=b"", seconds=10):
    """What the program writes to a terminal of its own."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="200", LINES="100", LANG="C.UTF-8")
        os.execv(str(SEISMO), [str(SEISMO), *map(str, args)])
    data, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if keys and data:  # it has started, so that a key is not lost on its way there
            os.write(fd, keys)
            keys = b""
        if not select.select([fd], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(fd, 65536)
        except OSError:
            break
        if not part:
            break
        data += part
    os.close(fd)
    os.kill(pid, signal.SIGKILL)  # a hang-up would do, unless whoever runs the tests ignores it
    os.waitpid(pid, 0)
    return data


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A daemon that has met all the names, with a hook that tells its argv, environment and input."""
    from conftest import Daemon
    directory = tmp_path_factory.mktemp("nasty")
    told = directory / "told"
    told.mkdir()
    hook = directory / "hook"
    hook.write_text("#!/bin/sh\nf=$(mktemp \"$1/XXXXXX\")\n"
                    "{ printf '%s\\0' \"$@\"; cat /proc/$$/environ; printf '\\n--\\n'; cat; } >$f\n"
                    "mv \"$f\" \"$f.done\"\n")
    hook.chmod(0o755)
    daemon = Daemon(directory, config=f"[hook tell]\ncommand = {hook} {told}\nseverity = info\n")
    daemon.told, daemon.shown = told, {}
    meta = json.dumps({"note": TEXT, TEXT.replace("\0", ""): 1, "framework": TEXT})
    for number, name in enumerate(ACCEPTED):
        for run, program in ((name, "p"), (f"program-{number}", name)):
            peer = Peer(daemon.ingest)
            peer.raw(hello(run.encode(), program.encode(), os.urandom(8), meta))
            welcome = peer.answer()
            assert welcome[0] == protocol.WELCOME, (name, welcome)
            assert welcome[1]["run"] == run
            daemon.shown[run] = program
            peer.send(protocol.STEPS, 1, rows(0, 60))
            peer.acked(1)
            peer.send(protocol.BYE, 2, "failed", TEXT)
            peer.acked(2)
            peer.close()
    run_cli("label", "--query", daemon.query, "--", ACCEPTED[0], "\x1b[31m\u202e'; DROP TABLE runs; --")
    yield daemon
    daemon.stop()


def test_refused_names_are_shown_escaped(crowd):
    """What the wire refuses: the error quotes it safely, the log too, and nothing is stored."""
    before = crowd.json("status")["runs"]["total"]
    for name in REFUSED:
        for run, program in ((name, b"p"), (b"r", name)):
            peer = Peer(crowd.ingest)
            peer.raw(hello(run, program, os.urandom(8)))
            answer = peer.answer()
            assert answer[0] == protocol.ERROR and answer[1] in ("malformed", "too_big"), (name, answer)
            for text in answer[1:4]:
                assert not HIDDEN.search(text) and len(text.encode()) < 256, (name, text)
            peer.close()
    assert crowd.json("status")["runs"]["total"] == before


def test_sql_takes_them_as_they_are(crowd):
    """Every name is stored as it came, found under itself and nothing else, and no table is gone."""
    with sqlite3.connect(f"file:{crowd.data}/seismo.db?mode=ro", uri=True) as db:
        stored = dict(db.execute("SELECT run, program FROM runs"))
        assert stored == crowd.shown
        texts = {text for (text,) in db.execute("SELECT meta FROM runs")}
        assert len(texts) == 1 and json.loads(texts.pop())["note"] == TEXT
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for name in ACCEPTED:
        found = crowd.json("runs", f"--program={name}")["runs"]
        assert {run["program"] for run in found} == {name}
        shown = run_cli("show", "--json", "--query", crowd.query, "--", name).stdout
        assert json.loads(shown)["run"]["run"] == name
    for name in ("' OR 1=1 --", "x%", "_", "*' --"):
        missing = crowd.cli("show", name, check=False)
        assert missing.returncode == 4
        assert crowd.json("runs", f"--program={name}")["runs"] == []


COMMANDS = [["status"], ["runs"], ["verdicts"], ["watch", "--count=2", "--interval=0.1"],
            ["runs", "--program=nothing\x1b[31m\u202e"], ["runs", "--state=\x1b[31m\u202e"]]


def test_commands_print_nothing_but_text(crowd):
    """Each command, plain and as JSON, into a pipe and on a terminal: byte by byte."""
    where = ["--query", crowd.query]
    for command in COMMANDS:
        for extra in ([], ["--json"]):
            done = subprocess.run([str(SEISMO), *command, *extra, *where], capture_output=True, timeout=60)
            clean(done.stdout, command)
            clean(done.stderr, command)
            clean(on_terminal(*command, *extra, *where), command, tty=True)
    for name in ACCEPTED:
        for command in (["show"], ["verdicts"], ["explain"], ["export"], ["export", "--format=csv"]):
            done = subprocess.run([str(SEISMO), *command, *where, "--", name],
                                  capture_output=True, timeout=60)
            text = clean(done.stdout, (command, name))
            clean(done.stderr, (command, name))
            assert done.returncode == 0, (command, name, done)
            if command == ["export"]:
                assert json.loads(text.splitlines()[0])["run"] == name
    for name in ("\u202eevil\u202c", "in\u200bvisible", "tag\U000e0041", "'; DROP TABLE runs; --"):
        for command in (["show"], ["verdicts"], ["explain"], ["label"]):
            last = ["bad\x1b[31m"] if command == ["label"] else []
            clean(on_terminal(*command, *where, "--", name, *last), (command, name), tty=True)
    follow = on_terminal("verdicts", "--follow", *where, keys=b"\x03", seconds=3)
    clean(follow.replace(b"^C", b""), "follow", tty=True)


@pytest.mark.parametrize("word", ["\x1b]0;t\x07", "\u202erun", "x\n\x1b[2J", "y" * 10000, "\udcff"],
                         ids=["escape", "direction", "newline", "long", "invalid"])
def test_arguments_come_back_escaped(crowd, tmp_path, word):
    """Names that do not exist, files that do not, options that do not: the error is plain text."""
    for command in (["show", word], ["explain", word], ["export", word], ["label", word, word],
                    ["label", "-", word], ["score", f"/nonexistent/{word}"], [word], ["show", f"--{word}"],
                    ["runs", "--state", word], ["model", "info", f"/nonexistent/{word}"],
                    ["check", f"/nonexistent/{word}"], ["replay", f"/nonexistent/{word}"],
                    ["status", "--query", f"ipc://{tmp_path}/{word[:40]}"]):
        query = [] if "--query" in command else ["--query", crowd.query]
        done = subprocess.run([str(SEISMO), *command, *query], capture_output=True, timeout=60)
        assert done.returncode != 0 or command[:2] == ["label", "-"], command  # a label may be any text
        clean(done.stdout, command)
        clean(done.stderr, command)


def test_files_with_nasty_names_and_headers(crowd, tmp_path):
    """Traces from strangers: scored, replayed; what their header says is shown escaped."""
    paths = []
    for number, name in enumerate(["\x1b[31mred", "\u202eevil", "'; DROP TABLE runs; --", "-rf"]):
        path = tmp_path / f"{name}{number}.jsonl"
        head = {"run": name, "program": TEXT, "framework": TEXT, TEXT: TEXT}
        path.write_text("\n".join(json.dumps(x) for x in [head, *({"step": s, "loss": 1.0}
                                                                   for s in range(40))]) + "\n")
        paths.append(path)
    (tmp_path / "broken\x1b[2J.jsonl").write_text('{"run": "r", "program": "p"}\n{"step": "\x1b[2J"}\n')
    paths.append(tmp_path / "broken\x1b[2J.jsonl")
    for command in (["score"], ["score", "--json"]):
        for files in ([paths[0]], paths):
            done = subprocess.run([str(SEISMO), *command, *map(str, files)], capture_output=True, timeout=60)
            clean(done.stdout, command)
            clean(done.stderr, command)
            clean(on_terminal(*command, *files), command, tty=True)
    for path in paths:
        for run in ([], ["--run", "replayed"]):
            command = ["replay", str(path), "--ingest", crowd.ingest, *run]
            done = subprocess.run([str(SEISMO), *command], capture_output=True, timeout=60)
            clean(done.stdout, command)
            clean(done.stderr, command)


def test_backup_and_check(crowd, tmp_path):
    copy = tmp_path / "copy\x1b[31m\u202e.db"
    for command in (["backup", str(copy), "--query", crowd.query], ["check", str(copy)],
                    ["check", str(copy), "--json"]):
        done = subprocess.run([str(SEISMO), *command], capture_output=True, timeout=120)
        assert done.returncode == 0, done
        clean(done.stdout, command)
        clean(done.stderr, command)
    with sqlite3.connect(copy) as db:  # damaged, so that names come into the complaints
        db.execute("UPDATE runs SET steps = steps + 1")
    done = subprocess.run([str(SEISMO), "check", str(copy)], capture_output=True, timeout=120)
    assert done.returncode == 1
    assert "evil" in clean(done.stdout, "check")
    clean(done.stderr, "check")


def test_hooks_get_them_on_standard_input_only(crowd):
    """argv and environment are the daemon's own words; the input is one line of JSON."""
    def all_told():
        return len({doc["run"] for _, doc in told()} & set(ACCEPTED)) == len(ACCEPTED)

    def told():
        for path in crowd.told.glob("*.done"):
            head, _, line = path.read_bytes().partition(b"\n--\n")
            yield head, json.loads(line)

    wait_for(all_told, timeout=120, what="hooks of all runs")
    for head, doc in told():
        words = [word.decode() for word in head.split(b"\0") if word]
        assert words[0] == str(crowd.told)
        for word in words[1:]:
            key = word.split("=")[0]
            assert key in ("PATH", "LANG", "SEISMO_ALERT_ID", "SEISMO_EVENT", "SEISMO_STATE", "PWD",
                           "OLDPWD", "SHLVL", "_"), word
        for name in (doc["run"], doc["program"]):
            assert len(name) < 6 or name.encode() not in head
        assert b"DROP TABLE" not in head and b"\x1b" not in head
    assert not list(crowd.directory.rglob("pwned")) and not os.path.exists("pwned")


def test_the_log_is_lines_of_text(crowd):
    """After everything above, and peers that send garbage under nasty names: one message a line."""
    peer = Peer(crowd.ingest)
    for name in ("\u202eevil\u202c", "'; DROP TABLE runs; --"):
        peer.raw(hello(name.encode(), b"p", os.urandom(8)))
        peer.answer()
        peer.raw(b"\x93\x02\x01\x91\x92\xa5\x1b[2J\n\xc0")
        peer.answer()
    peer.close()
    text = clean((crowd.directory / "log").read_bytes(), "log")
    assert "evil" in text
    for line in text.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (error|warning|info|debug) \w+: ", line), line
        assert len(line.encode()) < 1100


def test_python_client_says_it_escaped(crowd, caplog):
    """What the daemon answers may hold a name of somebody else's choice."""
    import seismo
    run = seismo.Run("a", "p", ingest=crowd.ingest)
    run._link._report("test", "seismo: %s says %s", "x", TEXT)
    run.close()
    assert "title" in caplog.text and not HIDDEN.search(caplog.messages[-1])
