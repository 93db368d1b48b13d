"""The command line against a daemon of the test's own making: exit codes, texts, terminals."""
import json
import os
import pathlib
import pty
import re
import select
import subprocess
import threading
import time
import unicodedata

import msgpack
import pytest
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMO = BUILD / "client" / "seismo"
COMMANDS = ("status", "runs", "show", "verdicts", "explain", "watch", "export", "replay", "score",
            "label", "keygen", "model", "check", "backup")
NEEDS_DAEMON = {"status": [], "runs": [], "show": ["r"], "verdicts": [], "explain": ["r"],
                "watch": [], "export": ["r"], "label": ["r", "good"], "check": [], "backup": ["/tmp/no-backup.db"]}

RUN = {"id": 1, "run": "r", "name": "r", "program": "p.py", "rank": 0, "world": 1, "last_batch": 3,
       "meta": {"optimizer": "adam", "run": "shadowed"}, "started": 1.7e9, "updated": 1.7e9,
       "ended": None, "outcome": None, "label": None, "state": "unstable", "severity": "critical",
       "worst": "unstable", "alarm_step": 60, "steps": 100, "first_step": 0, "step": 99,
       "loss": None, "score": 0.9, "max_score": 0.97, "model": "seismo"}
VERDICT = {"id": 7, "run": "r", "program": "p.py", "step": 60, "time": 1.7e9, "recorded": 1.7e9,
           "state": "unstable", "severity": "critical", "score": 0.97, "threshold": 0.6,
           "fault": {"class": "data", "distribution": {"data": 0.75}}, "superseded": False,
           "reasons": [{"feature": "loss", "value": None, "contribution": 0,
                        "text": "the loss is NaN, since step 58"}]}


class FakeQuery:
    """A query socket whose `answers` map a method to a body, or to a function of the parameters
    that returns a body, an error as (code, text, hint), or raw bytes for the wire."""

    def __init__(self, directory):
        self.endpoint = f"ipc://{directory}/query.sock"
        self.answers = {}
        self.asked = []
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(self.endpoint)
        self._stop = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while not self._stop:
            if not self.socket.poll(20):
                continue
            peer, data = self.socket.recv_multipart()
            kind, ident, method, params = msgpack.unpackb(data)
            assert kind == 4
            self.asked.append((method, json.loads(params)))
            answer = self.answers.get(method)
            answer = answer(json.loads(params)) if callable(answer) else answer
            if answer is None:
                continue
            if isinstance(answer, tuple):
                code, text, hint = answer
                answer = msgpack.packb([19, code, text, hint, ident])
            elif isinstance(answer, dict):
                body = json.dumps({"schema": 1, **answer})
                answer = msgpack.packb([20, ident, body])
            self.socket.send_multipart([peer, answer])

    def close(self):
        self._stop = True
        self._thread.join()
        self.socket.close()
        self.context.term()


@pytest.fixture
def query(tmp_path):
    server = FakeQuery(tmp_path)
    yield server
    server.close()


def environment(**changes):
    """A plain environment, without what could change the output."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("SEISMO_", "LC_")) and k not in ("COLUMNS", "LINES", "NO_COLOR")}
    env.update({"LANG": "C.UTF-8", "TERM": "xterm", "TZ": "UTC", **changes})
    return env


def seismo(*args, code=0, env=None, **options):
    done = subprocess.run([str(SEISMO), *map(str, args)], capture_output=True, text=True,
                          timeout=60, env=environment(**(env or {})), **options)
    assert done.returncode == code, f"exit {done.returncode}: {done.stderr}{done.stdout}"
    return done


def columns(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


# -- usage ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_with_examples(command):
    text = seismo(command, "--help").stdout
    assert text.startswith(f"Examples:\n  seismo {command}")
    assert f"\nUsage: seismo {command}" in text
    assert "--json" in text and "--query ENDPOINT" in text
    assert text == seismo("help", command).stdout == seismo(command, "-h").stdout
    assert max(map(len, text.splitlines())) <= 100


def test_help_lists_commands_and_exit_codes():
    text = seismo("--help").stdout
    listed = re.search(r"Commands:\n(.*?)\n\n", text, re.S).group(1)
    assert [line.split()[0] for line in listed.splitlines()] == [*COMMANDS, "help"]
    assert re.findall(r"^  (\d)  ", text, re.M) == list("012345")


def test_version():
    assert re.fullmatch(r"seismo \d+\.\d+\.\d+\n", seismo("--version").stdout)


@pytest.mark.parametrize("args, words", [
    ([], "Usage: seismo COMMAND"),
    (["frobnicate"], 'no command "frobnicate"'),
    (["help", "frobnicate"], 'no command "frobnicate"'),
    (["--json", "runs"], "behind the command"),
    (["runs", "--frobnicate"], "no option --frobnicate"),
    (["runs", "-x"], "no option -x"),
    (["runs", "--limit"], "--limit needs a value"),
    (["runs", "--limit", "zero"], "whole number from 1 to 1000"),
    (["runs", "--json=yes"], "takes no value"),
    (["runs", "extra"], "usage: seismo runs"),
    (["show"], "usage: seismo show RUN"),
    (["label", "r"], "usage: seismo label RUN OUTCOME"),
    (["explain", "r", "--step", "-1"], "whole number from 0"),
    (["watch", "--interval", "0"], "number from 0.05"),
    (["export", "r", "--format", "xml"], "jsonl or csv"),
    (["export", "r", "--format", "csv", "--json"], "exclude each other"),
    (["model", "frobnicate"], "info or verify"),
    (["replay", "a", "b", "--run", "r"], "one FILE"),
    (["replay", "a", "--speed", "fast"], "--speed fast"),
    (["runs", "--query", "nonsense"], "cannot connect to \"nonsense\" (from --query)"),
])
def test_wrong_usage(args, words):
    done = seismo(*args, code=2)
    assert words in done.stderr
    assert done.stdout == ""


# -- reaching the daemon -------------------------------------------------------------------------

@pytest.mark.parametrize("command", NEEDS_DAEMON)
def test_nobody_listens(command, tmp_path):
    endpoint = f"ipc://{tmp_path}/query.sock"
    done = seismo(command, *NEEDS_DAEMON[command], code=3, env={"SEISMO_QUERY": endpoint})
    assert "nobody listens" in done.stderr and "no answer within" not in done.stderr  # it has not waited
    assert endpoint in done.stderr and "$SEISMO_QUERY" in done.stderr and "seismod" in done.stderr
    assert done.stdout == ""


def test_nobody_answers(query):
    start = time.monotonic()
    done = seismo("status", "--query", query.endpoint, code=3)
    assert time.monotonic() - start > 4.5
    assert "no answer within 5 s" in done.stderr and "--query" in done.stderr


def test_default_sockets(tmp_path):
    directory = tmp_path / "state" / "seismo"
    directory.mkdir(parents=True)
    server = FakeQuery(directory)
    server.answers["runs"] = {"runs": [RUN]}
    seismo("runs", env={"XDG_STATE_HOME": str(tmp_path / "state")})
    server.close()
    done = seismo("runs", code=3, env={"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)})
    assert "ipc:///run/seismo/query.sock (default, the system's daemon)" in done.stderr


@pytest.mark.parametrize("answer, code, words", [
    (("not_found", "no run 'r'", "nearest names: 'rr'"), 4, "no run 'r'; nearest names: 'rr'"),
    (("busy", "too many requests", ""), 1, "too many requests"),
    (("version", "old", "upgrade"), 5, "old; upgrade"),
    ({"schema": 2, "runs": []}, 5, "install the same version"),
    (b"\xc1garbage", 5, "same version"),
    (msgpack.packb([20, 1, "not json"]), 5, "does not know"),
])
def test_errors_of_the_daemon(query, answer, code, words):
    query.answers["runs"] = answer
    done = seismo("runs", "--query", query.endpoint, code=code)
    assert words in done.stderr
    assert done.stdout == ""


def test_answer_to_another_request_is_passed_over(query):
    query.answers["runs"] = msgpack.packb([20, 999, json.dumps({"schema": 1, "runs": []})])
    done = seismo("runs", "--query", query.endpoint, code=3)
    assert "no answer" in done.stderr


# -- output --------------------------------------------------------------------------------------

def test_json_is_the_body(query):
    query.answers["runs"] = {"runs": [RUN], "more": False}
    done = seismo("runs", "--query", query.endpoint, "--json", "--state", "unstable", "--limit", 5)
    assert json.loads(done.stdout) == {"schema": 1, "runs": [RUN], "more": False}
    assert query.asked == [("runs", {"state": "unstable", "limit": 5})]


def test_runs_table(query):
    ended = {**RUN, "run": "日本", "state": "ended", "ended": 1.7e9, "outcome": "lost",
             "worst": "healthy", "loss": 0.5, "alarm_step": None, "label": "fine"}
    query.answers["runs"] = {"runs": [RUN, ended]}
    head, first, second = seismo("runs", "--query", query.endpoint).stdout.splitlines()
    assert first.split()[:8] == ["r", "p.py", "unstable", "unstable", "99", "nan", "0.9", "60"]
    assert second.split()[:8] == ["日本", "p.py", "lost", "healthy", "99", "0.5", "0.9", "-"]
    for title in ("PROGRAM", "STATE", "WORST", "LABEL"):
        at = head.index(title)
        assert columns(second[:second.index(second.split()[1])]) == head.index("PROGRAM")
        assert first[at - 1] == " " and first[at] != " "


def test_strings_of_peers_cannot_command_the_terminal(query):
    evil = "\x1b]0;owned\x07\u202e\u009b2J"
    query.answers["runs"] = {"runs": [{**RUN, "run": evil, "program": evil, "label": evil}]}
    verdict = {**VERDICT, "run": evil, "state": evil, "severity": evil,
               "fault": {"class": evil, "distribution": {}}, "reasons": [{"text": evil}]}
    query.answers["verdicts"] = {"verdicts": [verdict], "last": 7, "more": False}
    query.answers["series"] = {"run": {**RUN, "run": evil, "program": evil}, "points": []}
    query.answers["explain"] = {"run": {**RUN, "run": evil}, "step": 1, "state": evil,
                                "reasons": [{"feature": evil, "text": evil}], "verdict": verdict}
    query.answers["status"] = {"version": evil, "model": {"name": evil},
                               "runs": {"by_state": {evil: 1}}, "storage": {"path": evil},
                               "endpoints": {"ingest": [evil], "query": evil}}
    query.answers["label"] = ("not_found", evil, evil)
    for args in (["runs"], ["runs", "--json"], ["verdicts"], ["verdicts", "--json"], ["show", "r"],
                 ["explain", "r"], ["status"]):
        text = seismo(*args, "--query", query.endpoint).stdout
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text), args
    text = seismo("label", "r", "good", "--query", query.endpoint, code=4).stderr
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "\\x1b]0;owned\\x07\\u{202e}\\xc2\\x9b2J" in text


def test_verdicts_in_words_and_pages(query):
    def pages(params):
        first = params["after"] < 7
        return {"verdicts": [{**VERDICT, "id": 7 if first else 8}], "last": 7 if first else 8,
                "more": first}

    query.answers["verdicts"] = pages
    text = seismo("verdicts", "r", "--query", query.endpoint).stdout
    assert text.count("step 60  ▲ unstable  critical  score 0.97 (threshold 0.6)") == 2
    assert "    likely fault: data (75 %)\n    the loss is NaN, since step 58\n" in text
    assert query.asked[-1] == ("verdicts", {"run": "r", "after": 7})
    whole = json.loads(seismo("verdicts", "--query", query.endpoint, "--json").stdout)
    assert [v["id"] for v in whole["verdicts"]] == [7, 8]
    assert whole["last"] == 8


def test_verdicts_follow(query):
    news = [[VERDICT], [], [{**VERDICT, "id": 8, "step": 61}]]
    query.answers["verdicts"] = lambda params: (
        {"verdicts": (v := news.pop(0) if news else []), "more": False,
         "last": v[-1]["id"] if v else params["after"]})
    process = subprocess.Popen([str(SEISMO), "verdicts", "--follow", "--json", "--query",
                                query.endpoint], stdout=subprocess.PIPE, env=environment())
    lines = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.terminate()
    process.wait()
    process.stdout.close()
    assert [v["step"] for v in lines] == [60, 61]


def rows_answer(rows, page):
    def answer(params):
        later = [row for row in rows if row["step"] > params["after"]]
        return {"rows": later[:page], "more": len(later) > page}
    return answer


def test_export(query, tmp_path):
    rows = [{"step": i, "time": 1.7e9 + i / 8, "loss": [0.100000001, "nan", "inf", "-inf"][i % 4],
             **({"val_acc": 1} if i == 9 else {})} for i in range(10)]
    query.answers["run"] = {"run": RUN}
    query.answers["steps"] = rows_answer(rows, 4)
    head, *lines = seismo("export", "r", "--query", query.endpoint).stdout.splitlines()
    assert json.loads(head) == {"run": "r", "program": "p.py", "optimizer": "adam"}
    assert [json.loads(line) for line in lines] == rows
    trace = tmp_path / "t.jsonl"
    trace.write_text("\n".join([head, *lines]) + "\n")
    assert json.loads(seismo("score", "--json", trace).stdout)["steps"] == 10

    head, *lines = seismo("export", "r", "--query", query.endpoint, "--format",
                          "csv").stdout.splitlines()
    names = head.split(",")
    fields = re.findall(r"^SEISMO_(?:KEY|VALUE)\(\w+, (\w+),",
                        (ROOT / "proto" / "fields.def").read_text(), re.M)
    assert names == fields
    cells = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    assert [c["loss"] for c in cells[:4]] == ["0.100000001", "nan", "inf", "-inf"]
    assert cells[0]["val_acc"] == "" and cells[9]["val_acc"] == "1"
    assert float(cells[3]["time"]) == rows[3]["time"]


def test_export_of_an_unknown_run_prints_nothing(query):
    query.answers["run"] = query.answers["steps"] = ("not_found", "no run 'x'", "")
    for form in ("jsonl", "csv"):
        assert seismo("export", "x", "--format", form, "--query", query.endpoint,
                      code=4).stdout == ""


def test_output_that_cannot_be_written(query):
    query.answers["runs"] = {"runs": [RUN]}
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([str(SEISMO), "runs", "--query", query.endpoint], stdout=full,
                              stderr=subprocess.PIPE, text=True, env=environment(), timeout=60)
    assert done.returncode == 1 and "cannot write the output" in done.stderr


# -- plots ---------------------------------------------------------------------------------------

def series(query, points, verdicts=(VERDICT,), run=None):
    query.answers["series"] = {"run": run or RUN, "points": points}
    query.answers["verdicts"] = {"verdicts": list(verdicts), "last": 7, "more": False}


def point(step, loss, **fields):
    return {"step": step, "steps": 1, "loss": loss, "loss_max": loss, "grad_norm": None,
            "curvature": None, "score": 0.1, **fields}


def show(query, *args, **env):
    return seismo("show", "r", "--query", query.endpoint, *args, env=env).stdout


@pytest.mark.parametrize("lang", ["C.UTF-8", "C"])
@pytest.mark.parametrize("width", [40, 80, 131])
def test_show_fits_and_aligns(query, lang, width):
    points = [point(i, 2 / (i + 1) if i < 60 else None, grad_norm=10 ** (i / 20),
                    curvature=0.5 + i / 200) for i in range(100)]
    series(query, points)
    text = show(query, LANG=lang, COLUMNS=str(width))
    plot = text[:text.index("verdicts:")].splitlines()[2:]
    axis, corner, mark, bad = "┤│└" if lang != "C" else "|+", "└+", "▲U", "×x"
    assert {line[10] for line in plot if not line[0].isalpha() and line.strip()[0] not in "09"} \
        <= set(axis)
    axes = [line for line in plot if line[10:11] and line[10] in corner]
    assert len(axes) == 4
    assert {columns(line) for line in axes} == {width}
    assert all(columns(line) <= width for line in plot if not line[0].isalpha())
    # The verdict at step 60 of 0..99 stands at its place on each axis.
    at = {next(i for i, c in enumerate(line) if c in mark) for line in axes}
    assert at == {11 + round(60 / 99 * ((width - 11) * (2 if lang != "C" else 1) - 1))
                  // (2 if lang != "C" else 1)}
    assert "gradient norm (log)" in text
    assert sum(c in bad for c in plot[1]) >= (width - 11) * 39 // 99  # the NaN losses
    assert "last not finite" in plot[0]
    assert text.isascii() == (lang == "C")
    assert "last verdict: step 60" in text and "the loss is NaN, since step 58" in text


def test_show_says_what_is_missing(query):
    series(query, [], verdicts=[])
    assert "no steps yet" in show(query)
    series(query, [point(0, 1.5)], verdicts=[])
    text = show(query)
    assert "gradient norm  not sent" in text
    assert "curvature  cannot be told from what was sent" in text
    assert "loss  last 1.5, lowest 1.5, highest 1.5" in text
    assert "verdict" not in text


def test_show_of_an_ended_run_keeps_the_verdict_that_matters(query):
    end = {**VERDICT, "id": 8, "step": 99, "state": "ended", "severity": "info", "score": None}
    run = {**RUN, "state": "ended", "ended": 1.7e9, "outcome": "finished"}
    series(query, [point(i, 1) for i in range(100)], [VERDICT, end], run)
    text = show(query)
    assert text.startswith("r (p.py): finished, at worst unstable, 100 steps\n")
    assert "last verdict: step 60" in text
    assert "× ended" in text  # the legend


# -- explain, status -----------------------------------------------------------------------------

def test_explain(query):
    reasons = [{"feature": f"f{i}", "value": 1.5, "contribution": (-1) ** i * (20 - i) / 10,
                "text": f"words {i}"} for i in range(20)]
    query.answers["explain"] = {"run": RUN, "step": 60, "score": 0.9, "state": "unstable",
                                "bias": -1, "margin": 2, "reasons": reasons, "verdict": VERDICT}
    text = seismo("explain", "r", "--step", 60, "--query", query.endpoint).stdout
    assert query.asked == [("explain", {"run": "r", "step": 60})]
    assert text.startswith("r at step 60: unstable, score 0.9\n")
    assert re.search(r"^f0 +1\.5 +\+2\.000  █{10}  words 0$", text, re.M)
    assert re.search(r"^f1 +1\.5 +-1\.900  █{10} +words 1$", text, re.M)
    assert "8 more with --all" in text and "words 12" not in text
    assert "words 19" in seismo("explain", "r", "--all", "--query", query.endpoint).stdout
    assert "add up to 2," in text


# -- terminals -----------------------------------------------------------------------------------

class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, *args, **env):
        self.output = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(SEISMO, ["seismo", *map(str, args)], environment(**env))

    def read(self, until=None, timeout=20):
        """Read until the pattern comes, or the program has ended."""
        end = time.monotonic() + timeout
        while until is None or not re.search(until, self.output):
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"timed out; output: {self.output!r}")
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                assert until is None, self.output
                break
            self.output += data
        return self.output

    def wait(self):
        self.read()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_colour_on_a_terminal_only(query):
    query.answers["runs"] = {"runs": [RUN]}
    args = ("runs", "--query", query.endpoint)
    assert "\x1b" not in seismo(*args).stdout
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        terminal = Terminal(*args, **env)
        assert terminal.wait() == 0
        assert (b"\x1b[31munstable\x1b[0m" in terminal.output) == coloured
        assert (b"\x1b" in terminal.output) == coloured


def test_watch_restores_the_terminal(query):
    import termios
    for key in (b"q", b"\x03"):
        query.answers["runs"] = {"runs": [RUN]}
        terminal = Terminal("watch", "--interval", "0.1", "--query", query.endpoint)
        terminal.read(rb"unstable.*unstable")
        assert not termios.tcgetattr(terminal.fd)[3] & termios.ECHO
        query.answers["runs"] = {"runs": [{**RUN, "step": 12345}]}
        terminal.read(rb"12345")
        os.write(terminal.fd, key)
        terminal.read(rb"\x1b\[\?1049l")
        assert b"\x1b[?1049h\x1b[?25l" in terminal.output
        assert terminal.output.rindex(b"\x1b[?25h") > terminal.output.rindex(b"12345")
        assert termios.tcgetattr(terminal.fd)[3] & termios.ECHO
        assert terminal.wait() == 0, terminal.output


def test_watch_elsewhere_prints_lines(query):
    query.answers["runs"] = {"runs": [RUN]}
    args = ("watch", "--interval", "0.05", "--count", "3", "--query", query.endpoint)
    assert seismo(*args).stdout.count("p.py") == 3
    lines = seismo(*args, "--json").stdout.splitlines()
    assert [json.loads(line)["runs"] for line in lines] == [[RUN]] * 3


def test_progress_on_a_terminal_only(tmp_path):
    trace = tmp_path / "t.jsonl"
    with open(trace, "w", encoding="utf-8") as f:
        f.write('{"run": "r", "program": "p"}\n')
        f.writelines(f'{{"step": {i}, "loss": {1 / (i + 1)}}}\n' for i in range(2000))
    terminal = Terminal("score", *[trace] * 5)
    assert terminal.wait() == 0
    assert b" %  " in terminal.output
    assert seismo("score", *[trace] * 5).stderr == ""


# -- score, replay, model without a daemon -------------------------------------------------------

@pytest.fixture
def traces(tmp_path):
    """A good trace, one that goes bad, and damaged ones."""
    def write(name, n, nan_from=10**9, tail=""):
        lines = ['{"run": "%s", "program": "p", "optimizer": "sgd"}' % name]
        lines += [json.dumps({"step": i, "loss": "nan" if i >= nan_from else 1 / (i + 1)})
                  for i in range(n)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n" + tail)
        return path
    return {"good": write("good", 100), "bad": write("bad", 100, nan_from=50),
            "malformed": write("malformed", 10, tail='{"step": 10, "loss": "much"}\n'),
            "cut": write("cut", 10, tail='{"step": 10, "lo'), "none": tmp_path / "none.jsonl"}


def test_score(traces):
    lines = seismo("score", traces["good"], traces["bad"], "--json").stdout.splitlines()
    good, bad = map(json.loads, lines)
    assert {"run", "program", "steps", "state", "alarm_step", "score", "fault",
            "verdicts"} <= set(good)
    assert (good["run"], good["steps"], good["alarm_step"]) == ("good", 100, None)
    assert good["fault"]["class"] == "unknown"
    # Critical by rule at the third NaN; the model may be sure a row earlier.
    at = bad["alarm_step"]
    assert (bad["state"], bad["score"]) == ("unstable", 1) and at in (51, 52)
    assert bad["fault"]["class"] == "numerics"
    assert [v["step"] for v in bad["verdicts"] if v["severity"] == "critical"] == [at]
    assert not {"id", "recorded", "superseded"} & set(bad["verdicts"][0])
    table = seismo("score", traces["good"], traces["bad"]).stdout.splitlines()
    assert len(table) == 3 and "unstable" in table[2]
    one = seismo("score", traces["bad"]).stdout
    assert f"alarm at step {at}" in one and "the loss is NaN" in one


def test_score_reads_standard_input(traces):
    with open(traces["bad"], encoding="utf-8") as f:
        assert json.loads(seismo("score", "-", "--json", stdin=f).stdout)["alarm_step"] in (51, 52)


def test_score_goes_on_after_damage(traces):
    done = seismo("score", "--json", traces["malformed"], traces["cut"], traces["none"],
                  traces["bad"], code=1)
    documents = {d["run"]: d for d in map(json.loads, done.stdout.splitlines())}
    assert set(documents) == {"malformed", "cut", "bad"}
    assert documents["malformed"]["steps"] == 10
    assert documents["cut"]["steps"] == 10
    for name in ("malformed", "cut"):
        assert f"{name}.jsonl:12: " in documents[name]["error"]
        assert documents[name]["error"] in done.stderr
    assert "error" not in documents["bad"]
    assert "none.jsonl" in done.stderr
    seismo("score", traces["none"], code=4)


def test_score_with_a_model(traces, tmp_path):
    built_in = ROOT / "models" / "seismo.model.json"
    assert (seismo("score", "--json", traces["bad"], "--model", built_in).stdout
            == seismo("score", "--json", traces["bad"]).stdout)
    broken = tmp_path / "broken.json"
    broken.write_text(built_in.read_text()[:1000])
    assert "broken.json" in seismo("score", traces["bad"], "--model", broken, code=1).stderr
    seismo("score", traces["bad"], "--model", tmp_path / "none", code=4)


def test_model(tmp_path):
    built_in = ROOT / "models" / "seismo.model.json"
    info = json.loads(seismo("model", "info", "--json").stdout)
    assert info["schema"] == 1 and info["name"]
    assert json.loads(seismo("model", "info", built_in, "--json").stdout) == info
    assert f"id {info['id']}" in seismo("model", "verify", built_in).stdout
    assert info["name"] in seismo("model", "info").stdout
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    done = seismo("model", "verify", broken, code=1)
    assert "broken.json" in done.stderr and done.stdout == ""
    seismo("model", "verify", tmp_path / "none", code=4)


def test_replay_without_a_daemon(traces, tmp_path):
    endpoint = f"ipc://{tmp_path}/ingest.sock"
    start = time.monotonic()
    done = seismo("replay", traces["good"], "--ingest", endpoint, code=3)
    assert time.monotonic() - start > 4.5
    assert endpoint in done.stderr and "seismod" in done.stderr
    assert "nonsense" in seismo("replay", traces["good"], "--ingest", "nonsense", code=2).stderr
    seismo("replay", traces["none"], "--ingest", endpoint, code=4)


# -- the manual page -----------------------------------------------------------------------------

def test_manual_names_every_command_and_option():
    manual = (ROOT / "client" / "cli" / "seismo.1").read_text(encoding="utf-8")
    documented = set(re.findall(r"Fl -([a-z]+)", manual))
    offered = set()
    for command in COMMANDS:
        assert re.search(rf"^\.It Ic {command}\b", manual, re.M), command
        offered |= set(re.findall(r"^  --([a-z]+)", seismo(command, "--help").stdout, re.M))
    assert documented == offered | {"version"}
    for code, meaning in re.findall(r"^  (\d)  (.*)$", seismo("--help").stdout, re.M):
        assert re.search(rf"^\.It {code}\n{re.escape(meaning)}", manual, re.M | re.I), code
