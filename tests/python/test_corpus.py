"""The corpus: a run is its seed, archives keep what was recorded, labels follow the written
rules."""

import math
import pathlib
import sys

import numpy as np
import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from models.corpus import archive, labels, plan, programs, record  # noqa: E402

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
    side = dict(event="plain", fault=None, onset=0, every=1, kind="supervised", drawn={})
    return dict(side, clean=[[s, c] for s, c in zip(steps, clean)], **more)


def _rows(loss):
    return archive.rows_from_json([{"step": i, "loss": float(x)} for i, x in enumerate(loss)])


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (1e-6, 0.0), (1e5, 0.0), (1.0, -40.0)])
def test_label_rules(scale, offset):
    """Each label from a made-up probe, whatever the loss's unit and zero."""
    fall = 0.2 + 1.8 * np.exp(-np.arange(17) / 3)
    train = 0.2 + 1.8 * np.exp(-np.arange(300) / 56)
    noise = 0.02 * np.random.default_rng(0).standard_normal((9, 300))

    def told(probe, loss, **more):
        side = _side([x if isinstance(x, str) else scale * x + offset for x in probe], **more)
        return labels.label(side, _rows(scale * loss + offset), reference)

    natural = [
        (_side(scale * (fall + 0.01 * i) + offset), _rows(scale * (train + noise[i]) + offset))
        for i in range(8)
    ]
    reference = labels.reference(natural)
    assert told(fall, train)["label"] == "healthy"
    high, late = fall.copy(), train.copy()
    high[9:] = 2.5
    late[160:] = 2.6
    fault = dict(event="lr_jump", fault="learning_rate", onset=155)
    lost = told(high, late, **fault)
    assert (lost["label"], lost["onset"], lost["ambiguous"]) == ("unstable", 155, False)
    assert told(high, train, **fault)["label"] == "mismatch"
    broken = told([*fall[:9], *["nan"] * 8], np.where(np.arange(300) < 160, train, np.nan), **fault)
    assert (broken["label"], broken["onset"]) == ("unstable", 155)
    passing = fall.copy()
    passing[9:11] = 3.0
    assert told(passing, train, **fault)["ambiguous"]
    assert told(np.full(17, 1.9), np.full(300, 1.9))["label"] == "stalled"
