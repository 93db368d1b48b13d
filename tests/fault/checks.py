"""What must be true of a daemon's runs afterwards, whatever happened to it."""
from daemons import run_cli, score
from jobs import Job, history, same_rows


def own_verdicts(documents):
    """What the detector said, without what differs between a daemon and the offline program."""
    return [{k: v for k, v in d.items() if k not in ("id", "recorded", "superseded", "run", "time",
                                                     "program")}
            for d in documents if d["state"] not in ("ended", "silent")
            and not any(r["text"].startswith("steps come again") for r in d["reasons"])]


def check_run(daemon, shown, kept, doubtful, folder) -> int:
    """Rows and verdicts of one run; returns the number of its verdicts."""
    stored = daemon.export(shown)
    candidates = [kept] + [history(kept + doubtful[:k]) for k in range(1, len(doubtful) + 1)]
    expected = next((c for c in candidates if len(c) == len(stored)
                     and c[-1:] and c[-1]["step"] == stored[-1]["step"]), kept)
    same_rows(stored, expected, shown)
    job = Job(shown.replace("#", "-"), 0, 0)
    path = job.write(folder / "scored.jsonl", expected)
    told = own_verdicts(daemon.json("verdicts", shown)["verdicts"])
    alone = own_verdicts(score(path, timeout=120)[0]["verdicts"])
    assert told == alone, f"{shown}: verdicts differ from those of seismo score:\n{told}\n{alone}"
    return len(told)


def check_undisturbed(daemon, reference, jobs, folder) -> None:
    """Verdicts, superseded ones too, and alerts of the jobs are those of a daemon that was left in
    peace; the reference is streamed the jobs now."""
    for job in jobs:
        path = job.write(folder / "replayed.jsonl")
        run_cli("replay", path, "--run", job.name, "--ingest", reference.ingest, timeout=120)
        for what in ("verdicts", "alerts"):
            one, other = (getattr(d, what)(job.name) for d in (daemon, reference))
            assert one == other, \
                f"{job.name}: {what} differ from an undisturbed daemon's:\n{one}\n{other}"
