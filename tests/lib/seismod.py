"""The programs under test, and a seismod that is started, asked, killed and stopped."""
import json
import os
import pathlib
import signal
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SEISMO_BUILD", ROOT / "build"))
SEISMOD = BUILD / "daemon" / "seismod"
SEISMO = BUILD / "client" / "seismo"


def run_cli(*args, check=True, env=None, timeout=60, **options):
    """The command line program; `check` demands exit code 0."""
    done = subprocess.run([str(SEISMO), *map(str, args)], capture_output=True, text=True,
                          env={**os.environ, **(env or {})}, timeout=timeout, **options)
    if check:
        assert done.returncode == 0, f"seismo {args}: exit {done.returncode}: {done.stderr}"
    return done


def whole_lines(path) -> list:
    """The lines that others have written to their end so far; none while there is no file. One that
    is being written may be seen in part."""
    path = pathlib.Path(path)
    return path.read_bytes().decode(errors="replace").split("\n")[:-1] if path.exists() else []


def score(*paths, **options) -> list:
    """`seismo score --json`: one object a file."""
    done = run_cli("score", "--json", *paths, **options)
    return [json.loads(line) for line in done.stdout.splitlines()]


class Seismod:
    """What daemons of tests have: sockets, log and data in `directory`. Subclasses start it."""

    stop_timeout = 20  # s
    cli_timeout = 60

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.data = self.directory / "data"
        self.ingest = f"ipc://{self.directory}/ingest.sock"
        self.query = f"ipc://{self.directory}/query.sock"
        self.events = f"ipc://{self.directory}/events.sock"
        self.process = None

    def launch(self, program, config, *options, env=None):
        """The process, with its log appended to `directory`/log."""
        with open(self.directory / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(config), "--data", str(self.data),
                 "--ingest", self.ingest, "--query", self.query, "--events", self.events, *options],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **(env or {})})

    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def kill(self):
        """SIGKILL, as a power cut of the process would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def stop(self, timeout=None):
        """SIGTERM; the daemon must drain and exit 0, which includes that uv_loop_close gave 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout or self.stop_timeout)
        self.process.stdout.close()
        self.process = None
        assert code == 0, f"seismod exited with {code}; log:\n{self.log()[-3000:]}"

    def cli(self, *args, **options):
        options.setdefault("timeout", self.cli_timeout)
        return run_cli(*args, "--query", self.query, **options)

    def json(self, *args):
        return json.loads(self.cli(*args, "--json").stdout)

    def export(self, run) -> list:
        """All stored steps of a run, without the header line."""
        return [json.loads(line) for line in self.cli("export", run).stdout.splitlines()[1:]]
