"""The evaluation: its arithmetic on known cases, its alarms against the verdict code, and the whole
command on a tiny corpus."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.corpus import archive, catalogue, programs  # noqa: E402
from models.training import alarms, baselines, bench, data, families  # noqa: E402
from models.training import figures, fit, leak, library, report, rules, sets, store  # noqa: E402
from models.training import views, worst  # noqa: E402

pytestmark = pytest.mark.plain_only

PROGRAMS = (
    "quadratic_bowl", "softmax_digits", "linear_least_squares", "wine_full_batch", "flow_rings",
    "wgan_rings",
)  # fmt: skip


@pytest.fixture(scope="module")
def lib():
    return library.Library(library.find())


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """A corpus of few programs and few runs, natural, faulty and benign."""
    folder = tmp_path_factory.mktemp("traces")
    for program in PROGRAMS:
        packed = archive.members(program)
        some = [s for s in archive.sides(program) if s["number"] < 8 or 30 <= s["number"] < 50]
        archive.write(program, {s["run"]: packed[s["run"]] for s in some}, some, folder)
    return folder


@pytest.fixture(scope="module")
def small(lib, traces):
    return bench.Bench(lib, data.load(list(PROGRAMS), traces))


def test_alarms_are_those_of_the_verdict_code(lib, small, tmp_path):
    """The first row that completes an alarm is that of the detector's first critical verdict."""
    names = bench.shipped(lib)
    fitted = small.fit(names, np.arange(len(small.y)))
    path = tmp_path / "model.json"
    levels = {n: {f"{b:g}": 0.5 for b in fit.BUDGETS} for n in set(fit.QUICK.values())}
    head = fit.Head(fitted[1], (1.0, 0.0), levels)
    path.write_text(fit.model_file(lib, dict.fromkeys(views.HEADS, head)))
    model = library.Model(lib, path)
    margins = small.margins(fitted, np.arange(len(small.runs)))
    given = 0
    for i, r in enumerate(small.runs):
        _, verdicts = model.run(r.rows)
        critical = [v["step"] for v in verdicts if v["severity"] == "critical"]
        at = bench.first_alarm(r.rows["step"], margins[i], 0.0, fit.QUICK["all"])
        # Non-finite values are the detector's rule, a row sooner than raised margins are confirmed.
        if critical and np.isfinite(r.rows["value"][:, 0]).all():
            assert critical[0] == at, r.name
            given += 1
        assert bool(critical) == (not np.isnan(at)), r.name
    model.close()
    assert given > 3


def test_levels_keep_to_the_budget():
    """No more than the budget's share reaches a level; the fairest threshold parts what can be."""
    tops = np.random.default_rng(1).normal(size=500).astype(np.float32)
    assert (tops >= bench.level(tops, 0.01)).sum() == 5
    assert (tops >= bench.level(tops, 0.001)).sum() == 0
    at = bench.fairest(np.array([2.0, 3.0, 4.0]), np.array([0.0, 1.0]))
    assert 1.0 < at <= 2.0
    assert np.isnan(bench.first_alarm(np.arange(3), np.array([0.0, 9, 0]), 1.0, 2))
    assert bench.first_alarm(np.arange(4), np.array([0.0, 9, 9, 0]), 1.0, 2) == 2


def test_a_set_may_hold_what_the_shipped_model_leaves_out(lib):
    """All features of a set are trained on; those of the shipped model keep their constraints."""
    names = {"loss_z", "lr_change", "val_gap", fit.NAMES_LEFT_OUT[0]}
    subset = bench.Subset(lib, names)
    assert len(fit.columns(subset)) == len(names)
    assert [lib.features[i] for i in subset.index] == bench.names_of(lib, names)
    assert "loss_z" in subset.features


def test_sets_are_made_of_all_features_once(lib):
    """Every feature that is shipped belongs to one kind; a set left out is left out."""
    parts = sets.sets(lib)
    assert set().union(*parts.values()) >= bench.shipped(lib)
    assert sum(map(len, parts.values())) == len(set().union(*parts.values()))
    compared = sets.compared(lib)
    whole = compared["cumulative/activation"]
    assert compared["without/optimizer"] == whole - parts["optimizer"]
    assert compared["cumulative/gradient"] == parts["loss"] | parts["gradient"]


def test_every_program_and_fault_is_in_a_table():
    """A new program or event must be put in its place, and in one only."""
    assert {families.family(p) for p in programs.names()} <= set(families.FAMILIES)
    places = families.SHOCK, families.GRADUAL, families.FROM_THE_START
    assert sorted(event for place in places for event in place) == sorted(catalogue.FAULTS)


def test_probes_are_thinned_and_hidden(small):
    """Every second probe stays; none before the suspicion; other fields stay untouched."""
    rows = small.runs[0].rows

    def probed(r):
        return r["step"][r["present"] & np.uint32(sets.PROBE) != 0]

    assert list(probed(sets.thinned_probe(rows, 2))) == list(probed(rows)[1::2])
    assert not len(probed(sets.thinned_probe(rows, 0)))
    loss = views.FIELDS["loss"]
    assert (sets.thinned_probe(rows, 0)["value"][:, loss] == rows["value"][:, loss]).all()
    margins = [np.where(r.rows["step"] > 100, 9.0, -9.0) for r in small.runs]
    changed, share = sets.suspicious(small, margins)
    assert 0 <= share < 1
    assert all(not len(s) or s[0] > 100 for s in map(probed, changed))


def test_naming_programs(small):
    """A value that says the program names it; noise does so by chance only."""
    rng = np.random.default_rng(2)
    y = np.repeat(np.arange(5), 200)
    fold = rng.integers(0, 3, len(y))
    x = np.stack([y + rng.normal(size=len(y)) * 1e-3, rng.normal(size=len(y))], 1)
    assert leak._named(x[:, :1], y, fold).mean() > 0.99
    assert leak._named(x[:, 1:], y, fold).mean() < 0.3

    class Two:
        features = ["says", "noise"]

    told = leak.single(Two, x, y, fold)
    assert told["says"] > 0.9 and told["noise"] < 0.3 and list(told) == ["says", "noise"]


def _run(name, steps, label="healthy", onset=-1, event="plain", fault=None, **side):
    rows = np.zeros(steps, archive.ROW)
    rows["step"] = np.arange(steps)
    side = dict(steps=steps, event=event, fault=fault, onset=side.pop("injected", 0), **side)
    return data.Run(name, name.split("-")[0], rows, side, label, False, onset)


def test_rates_of_long_runs():
    """Steps count until the first alarm or the onset, and only alarms before it are false."""
    runs = [_run("a-1", 4001), _run("b-1", 4001)]
    runs.append(_run("b-2", 4001, "unstable", 3012, "lr_jump", "x", injected=3000))
    told = alarms.long_runs(runs, bench.Outcome(runs), np.array([np.nan, 2000.0, 3020.0]))
    assert told["long"]["steps"] == 4000 + 2000 + 3000
    assert told["long"]["false"] == 1 and told["late_faults"]["caught"] == 1.0
    assert np.isclose(told["long"]["per_10000"], 10_000 / told["long"]["steps"])
    assert told["short"]["runs"] == 0


def test_foreseen_counts_what_could_be():
    """Only gradual faults that began well before their onset, and alarms in between."""
    told = dict(label="unstable", event="lr_ramp", fault="learning_rate", injected=100)
    runs = [_run(f"a-{i}", 300, onset=200, **told) for i in range(3)]
    runs.append(_run("a-9", 300, onset=102, **told))
    tally = alarms.Tally(runs, np.array([150.0, 199.0, 50.0, 90.0]), bench.Outcome(runs))
    found = tally.foreseen(np.arange(4))
    assert found["runs"] == 3 and np.isclose(found["share"], 1 / 3)


def test_worst_first():
    """The surest false alarm and the healthiest-looking miss come first; what is caught is out."""
    runs = [_run("a-1", 50), _run("a-2", 50), _run("a-3", 50)]
    runs += [_run(f"b-{i}", 50, "unstable", 20, "lr_jump", "x") for i in range(3)]
    runs.append(_run("b-9", 50, "unstable", 20, "sign_flip", "x"))
    tops = [2.0, 4.0, -3.0, -1.0, -2.0, 5.0, -9.0]
    margins = [np.full(50, t, np.float32) for t in tops]
    fired = np.array([5.0, 6.0, np.nan, np.nan, np.nan, 22.0, np.nan])
    found = dict(alarms={"all": {"0.01": fired}}, margins={"all": margins}, calibration=(1.0, 0.0))
    told = worst.listed(runs, dict(unseen=found))
    assert [w["run"] for w in told["false_alarms"]] == ["a-2", "a-1"]
    assert [w["run"] for w in told["misses"]] == ["b-9", "b-1", "b-0"]
    assert told["misses_in_all"] == 3
    assert set(worst.series(runs, dict(unseen=found), told)) == {"a-1", "a-2", "b-0", "b-1", "b-9"}


def test_further_rules():
    """Each fires on what it was made for and stays silent on a calm run."""
    n = 200
    calm = [{"step": i, "loss": 2.0 * 0.99**i, "grad_norm": 1 + 0.1 * (i % 3), "grad_max_abs": 0.1,
             "act_dead": 0.1, "val_acc": 0.5} for i in range(n)]  # fmt: skip
    bad = [dict(r) for r in calm]
    for r in bad[150:]:
        r.update(loss=2000.0, grad_norm=9.0, grad_max_abs=1e-9, act_dead=0.9, val_loss=2e4)
        r["val_acc"] = 0.1 * (r["step"] % 2)
    calm, bad = archive.rows_from_json(calm), archive.rows_from_json(bad)
    at = {name: rule(bad) for name, rule in rules.MORE.items()}
    assert all(rule(calm) is None for rule in rules.MORE.values())
    assert at.pop("losslint (after the fact)") == n - 1
    assert 150 < at.pop("AUTOTRAINER unstable accuracy") < n
    assert set(at.values()) == {150}, at
    assert not set(rules.MORE) & set(baselines.RULES)


def test_pieces_are_kept_until_what_they_come_from_changes(tmp_path, monkeypatch):
    """Computed once; anew for another corpus or another source."""
    count = []
    piece = store.Piece("a/b", lambda: count.append(1) or {"x": 1}, 1.0, ["models/judge.h"])
    kept = store.Store(tmp_path, "corpus")
    kept.run([piece])
    kept.run([piece])
    assert kept.get(piece) == {"x": 1} and len(count) == 1
    store.Store(tmp_path, "another corpus").get(piece)
    assert len(count) == 2 and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(store, "SHARED", store.SHARED + ["models/judge.h"])
    store.Store(tmp_path, "corpus").get(piece)
    assert len(count) == 3


def test_tables_stand_between_marks():
    """The file that is shipped has every table, and an unknown one is refused."""
    text = (ROOT / "models" / "EVALUATION.md").read_text()
    assert sorted(m.group(2) for m in report.MARK.finditer(text)) == sorted(report.TABLES)
    with pytest.raises(ValueError, match="differ in the tables"):
        report.filled("<!-- table: nonsense -->\n<!-- end -->\n", {})


def test_the_shipped_tables_are_those_of_the_shipped_figures():
    """No figure was typed, and none is older than evaluation.json."""
    told = json.loads((ROOT / "models" / "evaluation.json").read_text())
    text = (ROOT / "models" / "EVALUATION.md").read_text()
    assert report.filled(text, told) == text


def test_figures_are_drawn(tmp_path):
    """From evaluation.json alone, but for the curves of the worst runs."""
    told = json.loads((ROOT / "models" / "evaluation.json").read_text())
    steps = np.arange(30)
    loss = np.where(steps > 20, np.inf, 1.0 / (1 + steps))
    side = dict(clean=[[0, 1.0], [30, "nan"]], fault="data", onset=9, drawn=dict(severity=2.0))
    listed = told["worst"]["false_alarms"] + told["worst"]["misses"]
    series = {w["run"]: (steps, loss, loss, side) for w in listed}
    figures.draw(tmp_path, told, series)
    assert {p.name for p in tmp_path.iterdir()} == {
        "sets.png", "curves.png", "leak.png", "alarms.png", "waiting.png",
        "worst_false_alarms.png", "worst_misses.png",
    }  # fmt: skip
    worst.sheets(tmp_path / "sheets", dict(false_alarms=listed[:1], misses=[]), series)
    assert len(list((tmp_path / "sheets").iterdir())) == 1


def test_pieces_by_command(traces, tmp_path):
    """The command computes what is asked for, once, and the same twice."""
    found = []
    for cache in ("a", "a", "b"):
        command = [sys.executable, str(ROOT / "models/training/study"), "--traces", str(traces),
                   "--cache", str(tmp_path / cache),
                   "--only", "corpus", "sets/alone/activation"]  # fmt: skip
        told = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(told.stderr.splitlines()[0].split("] ")[1])
    assert found == [f"{n} of 2 pieces are there" for n in (0, 2, 0)]
    kept = [{p.name: p.read_bytes() for p in (tmp_path / c).iterdir()} for c in ("a", "b")]
    assert len(kept[0]) == 2 and kept[0] == kept[1]
