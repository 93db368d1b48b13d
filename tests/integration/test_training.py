"""From a training script to a verdict, and the same verdicts offline: whole paths, real training."""
import gzip
import json

import pytest
import scenarios
import seismo
import seismo.torch
from conftest import score, wait_for


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """One recorded trace a scenario, made once."""
    directory = tmp_path_factory.mktemp("traces")
    paths = {}
    for kind in scenarios.KINDS:
        paths[kind] = directory / f"{kind}.jsonl.gz"
        scenarios.train(kind, lambda model, optimizer: seismo.torch.watch(
            model, optimizer, run=kind, program="digits.py", ingest=False, trace=paths[kind]))
    return paths


def decisive(verdicts):
    """What a verdict says, without what only a daemon adds (id, recorded, superseded, run)."""
    own = ("id", "recorded", "superseded", "run")
    return [{k: v for k, v in verdict.items() if k not in own}
            for verdict in verdicts if verdict["state"] not in ("ended", "silent")]


@pytest.mark.parametrize("kind", ["healthy", "lr_x100"])
def test_live_training_gets_its_verdict(daemon, kind):
    """A script that streams sees its own verdict; the command line shows the same."""
    heard = []

    def make_watch(model, optimizer):
        watch = seismo.torch.watch(model, optimizer, run=kind, program="digits.py",
                                   ingest=daemon.ingest)
        watch.on_verdict(heard.append)
        return watch

    scenarios.train(kind, make_watch)
    info = daemon.run_info(kind)
    assert info["steps"] == scenarios.STEPS
    assert info["state"] == "ended" and info["outcome"] == "finished"
    if kind == "healthy":
        assert info["alarm_step"] is None
        assert not [v for v in heard if v["severity"] == "critical"]
    else:
        assert scenarios.ONSET <= info["alarm_step"] <= scenarios.ONSET + 20
        assert [v for v in heard if v["state"] == "unstable" and v["severity"] == "critical"]
    assert decisive(daemon.verdicts(kind)) == decisive(heard)


def test_scenarios_are_judged_right(traces):
    """The healthy run is left alone; each fault that makes the training unstable is called out.

    bad_init is not among them: after its first steps that network is dead, not unstable.
    """
    results = {kind: score(path)[0] for kind, path in traces.items()}
    assert results["healthy"]["alarm_step"] is None
    for kind, onset in (("lr_x100", scenarios.ONSET), ("nan_batch", scenarios.ONSET),
                        ("missing_zero_grad", 20)):
        assert results[kind]["state"] == "unstable", kind
        assert onset <= results[kind]["alarm_step"], kind
    for kind in ("lr_x100", "nan_batch"):
        assert results[kind]["alarm_step"] <= scenarios.ONSET + 20, kind


@pytest.mark.parametrize("kind", scenarios.KINDS)
def test_replay_equals_score(daemon, traces, kind):
    """Stored verdicts of a replay are those of `seismo score`, to the last digit."""
    daemon.replay(traces[kind], kind)
    offline = score(traces[kind])[0]
    assert decisive(daemon.verdicts(kind)) == decisive(offline["verdicts"])
    info = daemon.run_info(kind)
    assert info["max_score"] == pytest.approx(offline["score"], abs=1e-7)
    assert info["alarm_step"] == offline["alarm_step"]
    assert info["steps"] == offline["steps"] == scenarios.STEPS


@pytest.mark.parametrize("kind", ["lr_x100", "bad_init"])
def test_parity_across_kill_in_mid_run(daemon, traces, kind):
    """kill -9 and restart at several points of a run: its verdicts are those of an undisturbed one."""
    with seismo.Run(kind, "digits.py", ingest=daemon.ingest) as run:
        with gzip.open(traces[kind], "rt", encoding="utf-8") as lines:
            rows = [json.loads(line, parse_constant=float) for line in lines][1:]
        for i, row in enumerate(rows):
            if i in (7, 155, 160, 290):
                wait_for(lambda: run.stats["acked_steps"] > max(0, i - 64), what="acknowledgements")
                daemon.kill()
                daemon.start()
            run.step(**{key: float(value) if isinstance(value, str) else value
                        for key, value in row.items()})
        wait_for(lambda: run.stats["acked_steps"] == len(rows), timeout=40, what="the last ACK")
    offline = score(traces[kind])[0]
    assert decisive(daemon.verdicts(kind)) == decisive(offline["verdicts"])
    assert [row["step"] for row in daemon.export(kind)] == [row["step"] for row in rows]


def test_export_reads_back(daemon, traces, tmp_path):
    """export gives the trace back: scoring it again gives the same verdicts."""
    daemon.replay(traces["lr_x100"], "lr_x100")
    exported = tmp_path / "again.jsonl"
    exported.write_text(daemon.cli("export", "lr_x100").stdout, encoding="utf-8")
    first, again = score(traces["lr_x100"])[0], score(exported)[0]
    assert decisive(first["verdicts"]) == decisive(again["verdicts"])
