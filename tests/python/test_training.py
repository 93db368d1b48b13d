"""Training is deterministic, and the detector scores as the library that trained it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import xgboost

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.corpus import archive  # noqa: E402
from models.training import baselines, data, evaluate, fit, learners, library  # noqa: E402
from models.training import precursor, robust, scorers, views  # noqa: E402

pytestmark = pytest.mark.plain_only

FEW = ["quadratic_bowl", "softmax_digits"]


@pytest.fixture(scope="module")
def lib():
    return library.Library(library.find())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two models trained by the command, at the same time."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / "a.json", folder / "b.json"]
    trainings = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "models/training/train"), "--quick", "--programs", *FEW,
             "--model", str(path), "--created", "2000-01-01"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) for path in paths
    ]  # fmt: skip
    for training in trainings:
        said, _ = training.communicate(timeout=300)
        assert training.returncode == 0, said
    return paths


def test_training_is_deterministic(trained):
    """The same corpus gives the same bytes."""
    assert trained[0].read_bytes() == trained[1].read_bytes()


def test_margins_are_those_of_xgboost(lib, trained, tmp_path):
    """On real rows, missing fields and non-finite runs included, the bits are libxgboost's."""
    heads = json.loads(trained[0].read_text())["heads"]["instability"]
    assert [h["name"] for h in heads] == list(views.HEADS)
    path = tmp_path / "booster.json"
    model = library.Model(lib, trained[0])
    rng = np.random.default_rng(5)
    for number, head in enumerate(heads):
        path.write_text(json.dumps(head["booster"]))
        booster = xgboost.Booster()
        booster.load_model(str(path))
        for data_ in list(archive.members("flow_rings").values())[::5]:
            rows = archive.unpack(data_)[1]
            for mask in (views.ALL, views.SHOWN["loss"], views.random_mask(rng)):
                x = lib.features_of(views.masked(rows, mask))
                ours, score = model.scores(x, number)
                theirs = fit.margins(booster, x[:, fit.columns(lib)])
                assert ours.tobytes() == theirs.tobytes()
                assert ((score >= 0) & (score <= 1)).all()
    model.close()


def test_each_run_is_judged_by_the_head_for_its_fields(lib, trained):
    """Online scores of a view are those of the head that is named like it."""
    model = library.Model(lib, trained[0])
    rows = archive.unpack(archive.members("flow_rings")["flow_rings-0000"])[1]
    told = []
    for number, head in enumerate(views.HEADS):
        seen = views.masked(rows, views.SHOWN[head])
        by_head = [model.scores(lib.features_of(seen), n)[1] for n in range(len(views.HEADS))]
        online = model.run(seen)[0]
        assert online.tobytes() == by_head[number].tobytes()
        told.append(sum(online.tobytes() == s.tobytes() for s in by_head))
    model.close()
    assert told == [1] * len(views.HEADS)


def test_features_ignore_the_unit_of_the_loss(lib):
    """A loss a thousand times as large, gradients along, gives the same features."""
    rows = archive.unpack(archive.members("cnn_fashion")["cnn_fashion-0000"])[1]
    scaled = rows.copy()
    power = dict.fromkeys(("update_norm", "param_norm", "grad_nonfinite", "val_acc"), 0)
    power.update(act_rms=0, act_dead=0, act_saturated=0)
    power.update(lr=-1, grad_dot_prev=2, grad_dot_ema_prev=2)
    for name, i in views.FIELDS.items():
        scaled["value"][:, i] *= np.float32(1024.0 ** power.get(name, 1))
    a, b = lib.features_of(rows), lib.features_of(scaled)
    assert (np.isnan(a) == np.isnan(b)).all()
    assert np.nanmax(np.abs(a - b) / (1 + np.abs(a))) < 1e-2


def test_views():
    """What is left out is absent and zero; thinned rows keep their steps."""
    rows = archive.unpack(archive.members("cnn_fashion")["cnn_fashion-0001"])[1]
    bare = views.masked(rows, views.SHOWN["loss"])
    assert (bare["present"] == 1).all() and not bare["value"][:, 1:].any()
    thin = views.thinned(rows, 4, True)
    assert list(thin["step"][:3]) == [3, 7, 11]
    assert np.isclose(thin["value"][1, 0], rows["value"][4:8, 0].mean())


def test_rows_before_an_onset_are_not_taught():
    """Neither class is claimed for the steps around an onset."""
    run = data.Run("r", "p", None, {"fault": None}, "unstable", False, 100)
    y = data.row_labels(run, np.arange(200))
    assert (y[: 100 - data.BEFORE] == 0).all() and (y[100 + data.AFTER :] == 1).all()
    assert np.isnan(y[100 - data.BEFORE : 100 + data.AFTER]).all()
    run.side = {"fault": "data", "onset": 40}
    y = data.row_labels(run, np.arange(200))
    assert (y[:40] == 0).all() and np.isnan(y[40 : 100 + data.AFTER]).all() and y[-1] == 1


def test_of_doubtful_runs_recovered_ones_are_known():
    """They are well throughout, and their most alarming rows more often than those of other runs."""
    x = np.arange(200.0)[:, None]
    runs = []
    for label, ambiguous in (("healthy", False), ("healthy", True), ("unstable", True)):
        rows = archive.rows_from_json([{"step": i, "loss": 1.0} for i in range(200)])
        runs.append(data.Run("r", "p", rows, {"fault": None}, label, ambiguous, -1))
    assert (data.row_labels(runs[1], np.arange(200)) == 0).all()
    assert np.isnan(data.row_labels(runs[2], np.arange(200))).all()
    hard = data.hardest(runs, [x] * 3, np.arange(2), lambda rows: rows[:, 0])
    assert np.bincount(hard.run).tolist() == [data.HARD, data.RECOVERED * data.HARD]
    assert hard.x.min() == 200 - data.HARD


def test_precursors_are_the_steps_before_a_gradual_onset():
    """Those of gradual faults that are under way, and of no other run."""
    side = {"fault": "learning_rate", "event": "lr_ramp", "onset": 80}
    run = data.Run("r", "p", None, side, "unstable", False, 100)
    y = precursor.row_labels(run, np.arange(200))
    assert (y[:80] == 0).all() and np.isnan(y[80 : 80 + precursor.SETTLED]).all()
    assert (y[80 + precursor.SETTLED : 100] == 1).all() and np.isnan(y[100:]).all()
    side["onset"] = 10
    y = precursor.row_labels(run, np.arange(200))
    assert np.flatnonzero(y == 1)[0] == 100 - precursor.BEFORE
    side["event"] = "lr_jump"
    assert not (precursor.row_labels(run, np.arange(200)) == 1).any()
    run.label = "healthy"
    side["event"] = "lr_ramp"
    assert (precursor.row_labels(run, np.arange(200)) == 0).all()


def test_warnings_of_precursors_are_those_of_the_verdict_code(lib, tmp_path):
    """A head that knows how old the best loss is warns where training says that it would."""
    runs = [r for r in data.load(FEW) if np.isfinite(r.rows["value"][:, 0]).all()][:40]
    x = np.concatenate([lib.features_of(r.rows) for r in runs])
    column = lib.features.index("loss_since_best")
    y = (x[:, column] > 0.1).astype(float)
    booster = fit.trees(lib, x, y, np.ones(len(y)), 5)
    never = {f"{b:g}": 1.0 for b in fit.BUDGETS}
    levels = {n: never for n in {*fit.QUICK.values(), *fit.LASTING.values()}}
    alarm = fit.Head(booster, (1.0, 0.0), levels)
    half = {f"{b:g}": 0.5 for b in fit.BUDGETS}
    told = dict(fit.binary_head(booster, (1.0, 0.0), half), exit=0.0,
                confirm=precursor.CONFIRM, exit_confirm=1)  # fmt: skip
    path = tmp_path / "model.json"
    path.write_text(fit.model_file(lib, dict.fromkeys(views.HEADS, alarm), None, {"precursor": told}))
    model = library.Model(lib, path)
    given = 0
    for r in runs:
        at = precursor.judged(r.rows)
        margin = fit.margins(booster, lib.features_of(r.rows)[at][:, fit.columns(lib)])
        held = fit.held(margin, precursor.CONFIRM) >= 0
        steps = r.rows["step"][at][precursor.CONFIRM - 1 :][held]
        wanted = max(steps[0], r.rows["step"][fit.WARMUP]) if held.any() else None
        warned = [v["step"] for v in model.run(r.rows)[1] if v["state"] == "unstable"]
        assert (warned[0] if warned else None) == wanted, r.name
        given += bool(warned)
    model.close()
    assert 3 < given < len(runs)


def test_auroc_and_thresholds():
    """Known answers."""
    assert evaluate.auroc(np.array([3.0, 2.0]), np.array([1.0, 0.0])) == 1.0
    assert evaluate.auroc(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0.5
    scores = np.linspace(0.1, 0.9, 201)
    (levels,) = fit.thresholds(scores)
    assert (scores > levels["0.05"]).sum() <= 10 and (scores > levels["0.01"]).sum() <= 2
    assert levels["0.001"] > 0.9
    levels = fit.thresholds(scores, scores[::-1])
    reached = (scores >= levels[0]["0.05"]) | (scores[::-1] >= levels[1]["0.05"])
    assert 8 <= reached.sum() <= 10
    # Doubtful runs at the top: they may be false too, but not all of them.
    doubtful = np.concatenate([scores, np.full(40, 0.95)])
    (levels,) = fit.thresholds(doubtful, sure=np.arange(241) < 201)
    assert levels["0.01"] > 0.95 and levels["0.05"] > 0.95
    (levels,) = fit.thresholds(doubtful[:204], sure=np.arange(204) < 201)
    assert (scores >= levels["0.01"]).sum() == 1  # of four that may be false, three are doubtful
    assert fit.confirmed(np.array([0.1, 0.9, 0.2, 0.3])) == 0.2


def _run(loss, norm=None):
    rows = [{"step": i, "loss": x} for i, x in enumerate(loss)]
    for i, row in enumerate(rows):
        row.update({} if norm is None else {"grad_norm": norm[i]})
    return archive.rows_from_json(rows)


def test_baselines():
    """Each rule fires on what it was made for, at the right step, and not on a calm run."""
    wave = [1 + 0.1 * np.sin(i) for i in range(300)]
    calm = _run(wave, wave)
    for name, rule in baselines.RULES.items():
        assert rule(calm) is None, name
    jump = _run(wave[:200] + [20.0] * 100, wave[:200] + [50.0] * 100)
    at = {name: rule(jump) for name, rule in baselines.RULES.items()}
    assert at.pop("non-finite check") is None
    assert at.pop("llm-foundry KillLossSpike") == 204
    assert set(at.values()) == {200}, at
    nan = _run(wave[:50] + ["nan"], wave[:50] + ["nan"])
    assert baselines.nonfinite(nan) == 50


@pytest.fixture(scope="module")
def contest(lib):
    return learners.Contest(lib, data.load(FEW)[::3], folds=2, n=4)


def test_weights_follow_the_programs_that_are_judged_worst(contest):
    """Group-robust weights grow with a program's loss; classes still weigh the same."""
    part = contest.sample
    blind = np.where(part.program == FEW[0], 0.0, np.where(part.y == 1, 5.0, -5.0))
    loss = robust.losses(part, blind)
    assert np.isclose(loss[FEW[0]], np.log(2)) and loss[FEW[1]] < 0.01
    even = dict.fromkeys(FEW, 1.0)
    for change in (robust.exponentiated, robust.worst_quarter):
        factor = change(even, loss)
        assert factor[FEW[0]] > 1.5 * factor[FEW[1]]
        weight = robust.reweighed(part, factor)
        share, usual = (w[part.program == FEW[0]].sum() / w.sum() for w in (weight, part.weight))
        assert share > usual
        assert np.isclose(weight[part.y == 1].sum(), weight[part.y == 0].sum())


def test_streams_look_back_only():
    """What comes later changes no input and no score; a unit of the loss changes none either."""
    rows = archive.unpack(archive.members(FEW[1])[f"{FEW[1]}-0000"])[1]
    x = scorers.streams(rows)
    assert x[:150].tobytes() == scorers.streams(rows[:150]).tobytes()
    scaled = rows.copy()
    scaled["value"][:, 0] *= np.float32(1024)
    loss = x[:, scorers.STREAMS.index("loss")]
    again = scorers.streams(scaled)[:, scorers.STREAMS.index("loss")]
    assert np.allclose(loss, again, equal_nan=True)
    plain = rows["value"][:, 0].astype(float)
    before, change = plain[18:50], np.abs(np.diff(plain[17:50]))
    assert np.isclose(loss[50], (plain[50] - np.median(before)) / np.median(change), rtol=1e-5)
    past = scorers.histories(np.arange(40.0)[:, None], np.array([0, 5]), (0, 1, 8))[:, :, 0]
    assert np.array_equal(past, [[0, np.nan, np.nan], [5, 4, np.nan]], equal_nan=True)


def test_learners(contest):
    """A convolution learns what unstable is, alike each time, looks back only, and tells of single rows
    what it tells of whole runs; a mean of learners has their figures."""
    name = "convolution over features"
    found = {n: contest.compete(n) for n in (learners.BASE, name)}
    y = contest.sample.y
    for one in found.values():
        assert evaluate.auroc(one["rows"][y == 1], one["rows"][y == 0]) > 0.8
    part, past = contest.taught(0, False)
    held = contest.fold[contest.sample.run] == 0
    assert len(part.y) == len(past) > (~held).sum()
    assert set(part.program) == {r.program for r, k in zip(contest.runs, contest.fold) if k}
    net = scorers.trained(past, part.y, part.weight)
    assert np.array_equal(found[name]["rows"][held], net.of_histories(contest.past[False][held]))
    x = contest.features["all"][0][:, contest.columns]
    whole = net.margins(x)
    index = np.array([0, 3, 40, len(x) - 1])
    assert np.allclose(whole[index], net.of_histories(scorers.histories(x, index)), atol=1e-4)
    assert np.allclose(whole[:100], net.margins(x[:100]), atol=1e-5)
    assert net.macs == 5344
    mean = contest.mean(list(found.values()))
    figures = contest.figures(contest.ruled(mean, "all"), contest.ruled(found[name], "all"))
    assert 0.5 < figures["auroc"] <= 1 and -1 <= figures["better"] <= 1
    assert contest.ruled(mean, "all")[0].dtype == np.float32
