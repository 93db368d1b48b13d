"""The corpus: a run is its seed, archives keep what was recorded, labels follow the written
rules."""

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from models.corpus import archive, curves, labels, plan, programs, record  # noqa: E402

STEPS = 20


@pytest.fixture(autouse=True)
def _settings_put_back():
    """The recorder's process-wide settings end with each test."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)


def _short(program, number, folder):
    p = plan.replan(program, number)
    p.steps = STEPS
    return archive.unpack(record.record(p, folder)[0])


@pytest.mark.parametrize("program", ["mlp_fashion", "lstm_chars", "gan_digits", "word2vec"])
def test_same_seed_same_trace(program, tmp_path):
    """Rebuilt twice, the first steps of a natural run are the archive's, bit for bit after
    rounding."""
    first, second = (_short(program, 2, tmp_path)[1] for _ in range(2))
    kept = archive.unpack(archive.members(program)[f"{program}-0002"])[1][:STEPS]
    assert first.tobytes() == second.tobytes()
    assert list(first["step"]) == list(kept["step"]) == list(range(STEPS))
    assert (first["present"] == kept["present"]).all()
    # Another processor may sum in another order; what is compared is the archive's 12 bits.
    assert np.allclose(first["value"], kept["value"], rtol=2e-3, atol=1e-5)


def test_a_skipped_step_has_no_row_of_its_own(tmp_path):
    """As in the archives, which were recorded so: its loss goes into the next row's."""
    rows = _short("gan_digits", 21, tmp_path)[1]
    assert len(rows) < STEPS == rows["step"][-1] + 1
    assert not np.isfinite(rows["value"][:, 0]).all()


def test_every_program_trains():
    """Every recorded program makes a loss with gradients, and its seed decides its draws."""
    for name in archive.names():
        one, two = programs.build(name, 3), programs.build(name, 3)
        batch = one.draw(one.batch_size)
        for a, b in zip(batch, two.draw(two.batch_size)):
            assert torch.equal(a, b), name
        loss = one.loss(one.model, batch)
        loss.backward()
        assert math.isfinite(float(loss)), name
        assert any(p.grad is not None and bool(p.grad.any()) for p in one.model.parameters()), name


def test_packed_rows_come_back():
    """Packing is exact, non-finite values and absent fields included, and rounding is
    idempotent."""
    objects = [
        {"step": 0, "loss": 1.23456789, "grad_norm": 0.123456789},
        {"step": 7, "loss": "nan", "grad_norm": "inf", "probe_loss": -2.5},
    ]
    rows = archive.rows_from_json(objects)
    header, back = archive.unpack(archive.pack({"run": "r"}, rows))
    assert header == {"run": "r"} and back.tobytes() == rows.tobytes()
    shown = archive.row_objects(back)
    assert shown[1] == {"step": 7, "loss": "nan", "grad_norm": "inf", "probe_loss": -2.5}
    assert abs(shown[0]["grad_norm"] / 0.123456789 - 1) < 1.3e-4
    assert abs(shown[0]["loss"] / 1.23456789 - 1) < 2e-7
    assert archive.rows_from_json(shown).tobytes() == rows.tobytes()


def test_plans_are_drawn_from_the_number():
    """The plan of a run depends on nothing but program and number; the first are natural."""
    task = programs.build("mlp_fashion", 0)
    plans = [plan.plan("mlp_fashion", n, task) for n in range(60)]
    assert plans == [plan.replan("mlp_fashion", n) for n in range(60)]
    assert all(p.event == "plain" and not p.faulty for p in plans[: plan.REFERENCES])
    assert sum(not p.faulty for p in plans[:50]) >= 25


def _side(clean, **more):
    steps = [round(i * 300 / 16) for i in range(17)]
    side = dict(
        event="plain", fault=None, onset=0, every=1, kind="supervised", drawn={}, number=9, run="p-0009"
    )
    return dict(side, clean=[[s, c] for s, c in zip(steps, clean)], **more)


def _rows(loss):
    return archive.rows_from_json([{"step": i, "loss": float(x)} for i, x in enumerate(loss)])


FALL = 0.2 + 1.8 * np.exp(-np.arange(17) / 3)
TRAIN = 0.2 + 1.8 * np.exp(-np.arange(300) / 56)


@pytest.fixture(name="told", params=[(1.0, 0.0), (1e-6, 0.0), (1e5, 0.0), (1.0, -40.0)])
def _told(request):
    """What the rules say of a made-up probe and loss, whatever the loss's unit and zero."""
    scale, offset = request.param
    noise = 0.02 * np.random.default_rng(0).standard_normal((9, 300))
    natural = [
        (_side(scale * (FALL + 0.01 * i) + offset), _rows(scale * (TRAIN + noise[i]) + offset))
        for i in range(8)
    ]
    reference = labels.reference(natural)
    reference.validated = reference.validated_most = 0.0

    def told(probe, loss, validated=None, **more):
        side = _side([x if isinstance(x, str) else scale * x + offset for x in probe], **more)
        rows = _rows(scale * loss + offset)
        if validated is not None:
            rows["present"][::50] |= 1 << curves.VAL_LOSS
            rows["value"][::50, curves.VAL_LOSS] = scale * validated + offset
        return labels.label(side, rows, reference)

    return told


def _brief(told):
    return told["label"], told["onset"], told["ambiguous"]


def test_label_rules(told):
    """Each label from a made-up run."""
    assert told(FALL, TRAIN)["label"] == "healthy"
    high, late = FALL.copy(), TRAIN.copy()
    high[9:] = 2.5
    late[160:] = 2.6
    fault = dict(event="lr_jump", fault="learning_rate", onset=155)
    assert _brief(told(high, late, **fault)) == ("unstable", 155, False)
    assert told(high, TRAIN, **fault)["label"] == "mismatch"
    broken = told([*FALL[:9], *["nan"] * 8], np.where(np.arange(300) < 160, TRAIN, np.nan), **fault)
    assert _brief(broken) == ("unstable", 155, False)
    passing = FALL.copy()
    passing[9:11] = 3.0
    assert told(passing, TRAIN, **fault)["ambiguous"]
    assert told(FALL, TRAIN[:200], **fault)["ambiguous"] and not told(FALL, TRAIN, **fault)["ambiguous"]
    assert told(np.full(17, 1.9), np.full(300, 1.9))["label"] == "stalled"


def test_labels_of_faults_from_the_start(told):
    """Falling smoothly from far above is slow, not unstable; an explosion that kills the network is."""
    start = dict(fault="initialisation", onset=0)
    far = 40.0 * np.exp(-np.arange(17) / 8), 40.0 * np.exp(-np.arange(300) / 150)
    jagged = far[1] * (1 + 0.1 * np.random.default_rng(1).standard_normal(300))
    assert _brief(told(far[0], jagged, event="init_scale", **start)) == ("stalled", None, False)
    dead = np.full(300, 2.0)
    dead[3:9] = 500.0
    assert _brief(told(np.full(17, 2.0), dead, event="lr_high", **start)) == ("unstable", 0, False)


def test_labels_count_what_follows_the_injection(told):
    """An excursion before the fault is none of it; a slow fault begins where the loss leaves its best."""
    before = FALL.copy()
    before[3:6] = 1.6
    assert _brief(told(before, TRAIN, event="lr_jump", fault="learning_rate", onset=200)) == (
        "healthy",
        None,
        False,
    )
    rising, probe = TRAIN.copy(), FALL.copy()
    rising[200:] += 0.03 * np.arange(100)
    probe[12:] += 0.03 * (np.arange(12, 17) * 300 / 16 - 200)
    ramp = told(probe, rising, event="lr_ramp", fault="learning_rate", onset=60)
    assert ramp["label"] == "unstable" and 200 <= ramp["onset"] <= 215


def test_labels_of_mismatch(told):
    """The training loss is well, the validation is not; without a fault it is only told."""
    fault = dict(event="unnormalised", fault="data")
    assert told(FALL, TRAIN, validated=1.8, **fault)["label"] == "mismatch"
    assert told(FALL, TRAIN, validated=0.3, **fault)["label"] == "healthy"
    switched = told(FALL, TRAIN, validated=1.8, event="switch")
    assert (switched["label"], switched["validation"]) == ("healthy", "worse")
    assert told(FALL, TRAIN)["validation"] is None
    long = told(FALL + np.linspace(0, 0.7, 17), TRAIN, number=1000)
    assert (long["label"], long["ambiguous"]) == ("mismatch", False)


def test_overrides_are_of_recorded_runs():
    """Every label set by hand is of a run that there is, says why, and is what is told."""
    for run, fields in labels.overrides().items():
        program = run.rsplit("-", 1)[0]
        assert len(fields["note"]) > 20 and set(fields) <= {"label", "ambiguous", "onset", "note"}
        assert int(run[-4:]) in plan.numbers(program, 80), run
        told = labels.label_program(program).get(run)
        if told is not None:
            assert all(told[name] == value for name, value in fields.items()), run
            assert not told["ambiguous"] or told["onset"] is None, run


def test_contact_sheet(tmp_path):
    """A sheet of two programs is a picture of the panels asked for."""
    picture = tmp_path / "sheet.png"
    command = [ROOT / "models/corpus/sheet", "word2vec", "gan_digits", "--panels", "7", "-o", picture]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 50_000
