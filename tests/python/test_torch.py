"""seismo.torch.watch: training is not changed by a bit, nor ever disturbed."""
import copy
import io
import math
import pickle
import warnings

import numpy
import pytest
import seismo.torch
import torch
import training
from seismo import trace
from seismo.torch import _hooks, _vectors, _watch
from torch import nn
from torch.nn import functional
from training import everything, one_layer, same, train, values

WATCHES = {
    "no probe": dict(probe=None),
    "forward": dict(probe="forward", probe_every=3),
    "full": dict(probe="full", probe_every=2, activations_every=1),
    "sampled": dict(probe="full", probe_every=2, sample=4),
}
SETTINGS = [
    ("mlp", "sgd", {}),
    ("mlp", "momentum", {}),
    ("mlp", "adam", {}),
    ("mlp", "adam_foreach", {}),
    ("mlp", "adamw", {"autocast": True}),
    ("mlp", "rmsprop", {"clip": "norm"}),
    ("mlp", "adagrad", {"clip": "value"}),
    ("mlp", "lbfgs", {}),
    ("mlp", "adam", {"accumulate": 3}),
    ("mlp", "momentum", {"groups": True, "schedule": "before"}),
    ("conv", "adam", {"schedule": "after"}),
    ("conv", "momentum", {"autocast": True}),
    ("rnn", "adam", {"clip": "norm", "accumulate": 2}),
    ("rnn", "rmsprop", {}),
    ("words", "sgd", {}),
    ("words", "adagrad", {}),
    ("words", "sparse_adam", {}),
    ("dense_words", "adamw", {}),
    ("frozen", "adam", {}),
]


# Not a bit.


@pytest.mark.parametrize("model, optimizer, options", SETTINGS)
@pytest.mark.parametrize("kind", WATCHES)
def test_training_is_the_same_with_and_without(
    record, monkeypatch, model, optimizer, options, kind
):
    monkeypatch.setattr(_vectors, "BLOCK", 16)  # small enough to sample these models
    plain = everything(*train(model, optimizer, **options)[:2])
    again = everything(*train(model, optimizer, **options)[:2])
    assert same(plain, again) == [], "the training itself must be repeatable"
    net, opt, watch = train(model, optimizer, record(**WATCHES[kind]), **options)
    assert watch._vectors.groups[0].sampled == (kind == "sampled")
    rows = record.rows(errors=options.get("accumulate", 1) > 1)
    assert same(plain, everything(net, opt)) == []
    assert [row["step"] for row in rows] == list(range(training.STEPS))
    probed = [row["step"] for row in rows if "probe_loss" in row]
    if kind == "no probe" or options.get("accumulate", 1) > 1:
        assert probed == []
    else:
        every = WATCHES[kind]["probe_every"]
        assert probed == list(range(every - 1, training.STEPS, every))


def test_a_closed_watch_leaves_no_hook(record):
    net, opt, watch = train("mlp", "adam", record())
    record.rows()
    for module in net.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert "step" not in vars(opt) and "zero_grad" not in vars(opt)
    assert not _hooks._clip_listeners and not _hooks._scaler_listeners
    assert not _hooks._zero_listeners


def test_two_networks_that_train_each_other(record):
    """A GAN: two optimizers, two watches, closures that run both networks."""

    def gan(make=None):
        training.seed()
        maker = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12))
        judge = nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 1)
        )
        opts = [torch.optim.Adam(net.parameters(), 1e-2) for net in (judge, maker)]
        watches = [make(net, opt) for net, opt in zip((judge, maker), opts)] if make else []
        for x, _ in training.batches(20):
            noise = torch.randn(16, 4)
            for i, loss_of in enumerate(
                (
                    lambda: functional.softplus(-judge(x)).mean()
                    + functional.softplus(judge(maker(noise).detach())).mean(),
                    lambda: functional.softplus(-judge(maker(noise))).mean(),
                )
            ):
                opts[i].zero_grad()
                loss = loss_of()
                loss.backward()
                opts[i].step()
                if watches:
                    watches[i].step(loss, closure=loss_of)
        return everything(judge, opts[0]) + everything(maker, opts[1])

    plain = gan()
    watched = gan(record(probe="full", probe_every=2))
    assert same(plain, watched) == []
    for place in (0, 1):
        rows = record.rows(place=place)
        assert len(rows) == 20 and sum("probe_grad_norm" in row for row in rows) == 10


# Living with what else is hung onto models and optimizers.


@pytest.mark.parametrize("schedule", ["before", "after"])
def test_schedulers_neither_warn_nor_miss_a_step(record, schedule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("mlp", "sgd", record(), schedule=schedule, steps=12)
    rates = [row["lr"] for row in record.rows()]
    assert rates == pytest.approx([0.05] * 5 + [0.025] * 5 + [0.0125] * 2)


def test_optimizers_with_hooks_of_their_own(record):
    """torch 2 offers hooks around step; the same numbers come through them."""

    class Hooked(torch.optim.SGD):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.pre, self.post = [], []

        def register_step_pre_hook(self, hook):
            self.pre.append(hook)
            return type("Handle", (), {"remove": lambda _: self.pre.remove(hook)})()

        def register_step_post_hook(self, hook):
            self.post.append(hook)
            return type("Handle", (), {"remove": lambda _: self.post.remove(hook)})()

        def step(self, *args, **kwargs):
            args = (self, *args)
            for hook in list(self.pre):
                result = hook(self, args, kwargs)
                if result is not None:
                    args, kwargs = result
            out = torch.optim.SGD.step(*args, **kwargs)
            for hook in list(self.post):
                hook(self, args, kwargs)
            return out

    results = []
    for kind in (Hooked, torch.optim.SGD):
        for closure in (False, True):
            torch.manual_seed(0)
            net = nn.Linear(3, 2)
            opt = kind(net.parameters(), 0.1)
            watch = record()(net, opt)

            def evaluate():
                opt.zero_grad()
                loss = net(torch.ones(4, 3)).pow(2).sum()
                loss.backward()
                return loss

            for _ in range(3):
                loss = evaluate()
                watch.step(opt.step(closure=evaluate) if closure else (opt.step(), loss)[1])
            results.append([values(row) for row in record.rows()])
            if kind is Hooked:
                assert opt.pre == [] and opt.post == []
    assert results[0] == results[1] == results[2] == results[3]


def test_copies_of_a_watched_model_are_free_of_the_watch(record):
    net, opt, watch = train("mlp", "adam", record(activations_every=1))
    twin = copy.deepcopy(net)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    pickle.dumps(opt)
    copy.deepcopy(opt)
    for other in (twin, loaded):
        other.train()
        other(torch.randn(8, 12)).sum().backward()
    assert not watch._activations._samples
    saved = buffer.getvalue()
    assert b"seismo" not in saved, "a saved model must load where seismo is not installed"


def test_wrapped_models(record):
    training.seed()
    net = nn.DataParallel(training.Mlp())
    opt = torch.optim.SGD(net.parameters(), 0.1)
    watch = record(probe_every=2, activations_every=1)(net, opt)
    for x, y in training.batches(4):
        opt.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
    rows = record.rows()
    assert all("act_rms" in row for row in rows) and "probe_loss" in rows[3]


def test_numbers_of_steps(record):
    net, opt, watch = one_layer(record, start_step=100)
    for number in (None, None, 500, None):
        opt.zero_grad()
        loss = net(torch.ones(4, 3)).sum()
        loss.backward()
        opt.step()
        watch.step(loss, step=number)
    opt.step()
    opt.step()
    watch.step(1.0)
    assert [row["step"] for row in record.rows()] == [100, 101, 500, 501, 503]


def test_header_and_ranks(record, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    net = nn.Linear(3, 2)
    opt = torch.optim.AdamW(net.parameters(), 0.1)
    watch = seismo.torch.watch(
        net,
        opt,
        "r",
        "p",
        ingest=False,
        trace=tmp_path / "t.jsonl.gz",
        batch_size=32,
        seed=7,
        params={"lr": 0.1},
        meta={"host": "a"},
    )
    assert (watch.run.rank, watch.run.world) == (2, 4)
    watch.close()
    header = next(iter(trace.read(tmp_path / "t.rank2.jsonl.gz")))
    assert header == {
        "run": "r",
        "program": "p",
        "framework": f"torch {torch.__version__}",
        "optimizer": "AdamW",
        "n_params": 8,
        "batch_size": 32,
        "seed": 7,
        "params": {"lr": 0.1},
        "host": "a",
    }
    with pytest.raises(ValueError, match="probe must be"):
        seismo.torch.watch(net, opt, probe="backward", ingest=False)


# Never in the way.


@pytest.mark.parametrize("where", ["before", "hold", "update", "fields", "activations", "probe"])
def test_failures_of_measuring_never_reach_training(record, monkeypatch, caplog, where):
    def broken(*_, **__):
        raise RuntimeError("measuring is broken")

    plain = everything(*train("mlp", "adam", clip="norm")[:2])
    target = {
        "before": (_vectors.Vectors, "before"),
        "hold": (_vectors.Vectors, "hold"),
        "update": (_vectors.Vectors, "update"),
        "fields": (_watch, "fields_of"),
        "activations": (_watch.Activations, "collect"),
        "probe": (_watch.Probe, "run"),
    }[where]
    monkeypatch.setattr(*target, broken)
    net, opt, watch = train("mlp", "adam", record(probe_every=2, activations_every=1), clip="norm")
    rows = record.rows(errors=True)
    assert same(plain, everything(net, opt)) == []
    assert watch.stats["errors"] > 0 and "measuring is broken" in caplog.text
    assert caplog.text.count("Traceback") <= 3
    assert rows[-1]["step"] == training.STEPS - 1 and "loss" in rows[-1]
    if where != "probe":
        assert not watch.stats["measuring"] and len(rows) >= training.STEPS - _watch.MAX_FAILURES
        assert set(rows[-1]) == {"step", "time", "loss"}


def test_one_failure_costs_one_step(record, monkeypatch, caplog):
    original, calls = _vectors.Vectors.update, []

    def sometimes(self, state):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("only once")
        return original(self, state)

    monkeypatch.setattr(_vectors.Vectors, "update", sometimes)
    train("mlp", "adam", record(probe=None))
    rows = record.rows(errors=True)
    assert len(rows) == training.STEPS
    assert [row["step"] for row in rows if "update_norm" not in row] == [4]
    assert "grad_dot_prev" not in rows[5] and "grad_dot_prev" in rows[6]


def test_wrong_losses(record, caplog):
    net, opt, watch = one_layer(record)
    for loss in (1, torch.tensor([1.0, 3.0]), None, "much", math.nan, numpy.float32(2)):
        opt.zero_grad()
        net(torch.ones(4, 3)).sum().backward()
        opt.step()
        watch.step(loss)
    rows = record.rows(errors=True)
    assert [row["loss"] for row in rows if row["loss"] == row["loss"]] == [1.0, 2.0, 2.0]
    assert [row["step"] for row in rows] == [0, 1, 4, 5]


def test_a_watch_of_another_optimizer_is_told(record, caplog):
    net, opt, watch = one_layer(record)
    for _ in range(1001):
        watch.step(1.0)
    assert record.rows(errors=True) == []
    assert caplog.text.count("was watch() given the optimizer that is used?") == 1


def test_a_hook_that_fails_at_the_start_leaves_the_loss(record, caplog):
    class NoModule:
        def modules(self):
            raise TypeError("not a model")

    net = nn.Linear(3, 2)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    watch = record()(NoModule(), opt)
    for _ in range(3):
        opt.step()
        watch.step(2.0)
    rows = record.rows(errors=True)
    assert [row["loss"] for row in rows] == [2.0] * 3 and "not a model" in caplog.text
    assert not watch.stats["measuring"]
