"""seismo.torch.watch: training is not changed by a bit, and every field is what it says."""
import copy
import io
import math
import pickle
import subprocess
import sys
import warnings

import numpy
import pytest
import seismo.torch
import torch
import training
from conftest import ROOT, wait_for
from fake import FakeDaemon
from seismo import trace
from seismo.torch import _hooks, _vectors, _watch
from torch import nn
from torch.nn import functional
from training import everything, same, train

WATCHES = {
    "no probe": dict(probe=None),
    "forward": dict(probe="forward", probe_every=3),
    "full": dict(probe="full", probe_every=2, activations_every=1),
    "sampled": dict(probe="full", probe_every=2, sample=4),
}
SETTINGS = [
    ("mlp", "sgd", {}), ("mlp", "momentum", {}), ("mlp", "adam", {}), ("mlp", "adam_foreach", {}),
    ("mlp", "adamw", {"autocast": True}), ("mlp", "rmsprop", {"clip": "norm"}),
    ("mlp", "adagrad", {"clip": "value"}), ("mlp", "lbfgs", {}), ("mlp", "adam", {"accumulate": 3}),
    ("mlp", "momentum", {"groups": True, "schedule": "before"}),
    ("conv", "adam", {"schedule": "after"}), ("conv", "momentum", {"autocast": True}),
    ("rnn", "adam", {"clip": "norm", "accumulate": 2}), ("rnn", "rmsprop", {}),
    ("words", "sgd", {}), ("words", "adagrad", {}), ("words", "sparse_adam", {}),
    ("dense_words", "adamw", {}), ("frozen", "adam", {}),
]


@pytest.fixture
def record(tmp_path, caplog):
    """A factory of factories of watches that write a trace; `rows()` closes and reads it.

    The test fails when the watch has logged anything or has not measured to the end, unless
    `rows(errors=True)` says that this was wanted.
    """
    class Record:
        def __init__(self):
            self.made = []

        def __call__(self, **options):
            def make(model, optimizer):
                path = tmp_path / f"{len(self.made)}.jsonl"
                options.setdefault("ingest", False)
                watch = seismo.torch.watch(model, optimizer, "r", "p", trace=path, **options)
                self.made.append((watch, path))
                return watch
            return make

        def rows(self, errors=False, place=-1):
            watch, path = self.made[place]
            watch.close()
            if not errors:
                assert watch.stats["errors"] == 0, caplog.text
            return list(trace.read(path))[1:]

        @property
        def header(self):
            return next(iter(trace.read(self.made[-1][1])))

    return Record()


# Not a bit.


@pytest.mark.parametrize("model, optimizer, options", SETTINGS)
@pytest.mark.parametrize("kind", WATCHES)
def test_training_is_the_same_with_and_without(record, model, optimizer, options, kind):
    plain = everything(*train(model, optimizer, **options)[:2])
    again = everything(*train(model, optimizer, **options)[:2])
    assert same(plain, again) == [], "the training itself must be repeatable"
    net, opt, _ = train(model, optimizer, record(**WATCHES[kind]), **options)
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


def test_two_networks_that_train_each_other(record):
    """A GAN: two optimizers, two watches, closures that run both networks."""
    def gan(make=None):
        training.seed()
        maker = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12))
        judge = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(),
                              nn.Linear(16, 1))
        opts = [torch.optim.Adam(net.parameters(), 1e-2) for net in (judge, maker)]
        watches = [make(net, opt) for net, opt in zip((judge, maker), opts)] if make else []
        for x, _ in training.batches(20):
            noise = torch.randn(16, 4)
            for i, loss_of in enumerate((
                lambda: functional.softplus(-judge(x)).mean()
                + functional.softplus(judge(maker(noise).detach())).mean(),
                lambda: functional.softplus(-judge(maker(noise))).mean(),
            )):
                opts[i].zero_grad()
                loss = loss_of()
                loss.backward()
                opts[i].step()
                if watches:
                    watches[i].step(loss, closure=loss_of)
        return (everything(judge, opts[0]) + everything(maker, opts[1]))

    plain = gan()
    watched = gan(record(probe="full", probe_every=2))
    assert same(plain, watched) == []
    for place in (0, 1):
        rows = record.rows(place=place)
        assert len(rows) == 20 and sum("probe_grad_norm" in row for row in rows) == 10


# Every field.


class Naive:
    """The fields once more, in float64, from copies of everything."""

    def __init__(self, momentum=None, second=None):
        self.rows, self.previous, self.ema = [], None, None
        self.momentum, self.second = momentum, second

    def flat(self, tensors):
        return torch.cat([t.detach().to_dense().double().reshape(-1).clone() for t in tensors])

    def __call__(self, when, step, net, opt, loss):
        params = [p for p in net.parameters() if p.requires_grad]
        if when == "before":
            self.grad = self.flat([p.grad if p.grad is not None else torch.zeros_like(p)
                                   for p in params])
            self.theta = self.flat(params)
            self.lr = opt.param_groups[0]["lr"]
            return
        g, theta = self.grad, self.theta
        delta = self.flat(params) - theta
        row = {
            "step": step, "loss": float(loss), "lr": self.lr, "grad_norm": g.norm(),
            "grad_max_abs": g.abs().max(), "grad_nonfinite": 0.0, "grad_dot_update": g @ delta,
            "update_norm": delta.norm(), "param_norm": theta.norm(),
        }
        if self.previous:
            row["grad_dot_prev"] = g @ self.previous[0]
            row["grad_dot_update_prev"] = g @ self.previous[1]
            row["grad_dot_ema_prev"] = g @ self.ema
        self.ema = g if self.ema is None else 0.9 * self.ema + 0.1 * g
        row["grad_ema_norm"] = self.ema.norm()
        row["grad_ema_dot_update"] = self.ema @ delta
        states = [opt.state[p] for p in params if p in opt.state]
        if self.momentum:
            row["momentum_norm"] = self.flat([s[self.momentum] for s in states]).norm()
        if self.second:
            row["second_moment_norm"] = self.flat([s[self.second] for s in states]).sqrt().norm()
        self.previous = (g, delta)
        self.rows.append({name: float(value) for name, value in row.items()})


SCALES = {  # what the error of a product is relative to: the norms of its factors
    "grad_dot_prev": ("grad_norm", "grad_norm_prev"),
    "grad_dot_update_prev": ("grad_norm", "update_norm_prev"),
    "grad_dot_update": ("grad_norm", "update_norm"),
    "grad_ema_dot_update": ("grad_ema_norm", "update_norm"),
    "grad_dot_ema_prev": ("grad_norm", "grad_ema_norm_prev"),
}


def scales(rows, i, field):
    names = SCALES.get(field)
    if not names:
        return abs(rows[i][field])
    parts = [rows[i - 1][n[:-5]] if n.endswith("_prev") else rows[i][n] for n in names]
    return parts[0] * parts[1]


@pytest.mark.parametrize("model, optimizer, buffers, options", [
    ("mlp", "sgd", (None, None), {}),
    ("mlp", "momentum", ("momentum_buffer", None), {"groups": True}),
    ("mlp", "adam", ("exp_avg", "exp_avg_sq"), {}),
    ("conv", "adamw", ("exp_avg", "exp_avg_sq"), {"schedule": "before"}),
    ("rnn", "rmsprop", ("momentum_buffer", "square_avg"), {"schedule": "after"}),
    ("words", "sgd", (None, None), {}),
    ("words", "adagrad", (None, "sum"), {}),
    ("frozen", "adam", ("exp_avg", "exp_avg_sq"), {}),
])
def test_fields_against_a_naive_recomputation(record, model, optimizer, buffers, options):
    naive = Naive(*buffers)
    train(model, optimizer, record(activations_every=0, probe=None), on_step=naive, **options)
    rows = record.rows()
    assert len(rows) == len(naive.rows) == training.STEPS
    for i, (row, wanted) in enumerate(zip(rows, naive.rows)):
        row.pop("time")
        assert set(row) == set(wanted)
        for field, value in wanted.items():
            tolerance = 2e-6 * scales(naive.rows, i, field) + 1e-12
            assert abs(row[field] - value) <= tolerance, (i, field, row[field], value)


@pytest.mark.parametrize("clip", ["norm", "value"])
def test_the_gradient_is_that_before_clipping(record, clip):
    seen = []
    original = torch.nn.utils.clip_grad.clip_grad_norm_

    def look(when, step, net, opt, loss):
        if when == "before":
            clipped = torch.cat([p.grad.reshape(-1) for p in net.parameters()])
            seen.append((float(clipped.norm()), float(clipped.abs().max())))

    train("mlp", "sgd", record(), clip=clip, on_step=look)
    rows = record.rows()
    assert torch.nn.utils.clip_grad_norm_ is original or hasattr(torch.nn.utils.clip_grad_norm_,
                                                                 "_seismo")
    unclipped = Naive()
    train("mlp", "sgd", on_step=unclipped)
    assert rows[0]["grad_norm"] == pytest.approx(unclipped.rows[0]["grad_norm"], rel=1e-5)
    if clip == "norm":
        assert all(norm == pytest.approx(0.1, rel=1e-3) for norm, _ in seen)
        assert all(row["grad_norm"] > 0.15 for row in rows)
    else:
        assert all(largest <= 0.01 for _, largest in seen)
        assert all(row["grad_max_abs"] > 0.02 for row in rows)
        # <g, Delta> is that of the whole gradient with the clipped update.
        assert rows[0]["grad_dot_update"] < -0.05 * rows[0]["update_norm"] ** 2 / 0.05


def test_a_clipping_function_imported_by_name_is_noticed(tmp_path):
    code = ("from torch.nn.utils import clip_grad_norm_\n"
            "import torch, seismo.torch, sys\n"
            "net = torch.nn.Linear(3, 1)\n"
            "opt = torch.optim.SGD(net.parameters(), 0.1)\n"
            "watch = seismo.torch.watch(net, opt, ingest=False, trace=sys.argv[1])\n"
            "loss = net(torch.ones(4, 3)).mul(100).mean(); loss.backward()\n"
            "assert float(clip_grad_norm_(net.parameters(), 0.5)) > 100\n"
            "opt.step(); watch.step(loss); watch.close()\n")
    subprocess.run([sys.executable, "-c", code, tmp_path / "t"], check=True,
                   env={"PYTHONPATH": str(ROOT / "client" / "python")})
    assert list(trace.read(tmp_path / "t"))[1]["grad_norm"] == pytest.approx(200, rel=1e-3)


def one_layer(record, dtype=torch.float32, **options):
    torch.manual_seed(0)
    net = nn.Linear(3, 2).to(dtype)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    return net, opt, record(**options)(net, opt)


def test_own_clipping_calls_gradients_first(record):
    net, opt, watch = one_layer(record)
    loss = net(torch.ones(4, 3)).sum()
    loss.backward()
    watch.gradients()
    for p in net.parameters():
        p.grad.mul_(0.01)
    opt.step()
    watch.step(loss)
    row = record.rows()[0]
    assert row["grad_norm"] == pytest.approx(4 * math.sqrt(8))
    assert row["grad_dot_update"] == pytest.approx(-0.1 * 0.01 * 16 * 8, rel=1e-5)


def test_accumulation_gives_a_row_a_step_with_the_mean_loss(record):
    naive = Naive()
    train("mlp", "sgd", record(), accumulate=4, on_step=naive, steps=8)
    rows = record.rows(errors=True)
    assert [row["step"] for row in rows] == list(range(8))
    for row, wanted in zip(rows, naive.rows):
        assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-6)
    losses = []
    train("mlp", "sgd", lambda n, o: type("", (), {"step": lambda s, v, closure=None: losses.append(
        float(v))})(), accumulate=4, steps=8)
    assert rows[3]["loss"] == pytest.approx(sum(losses[12:16]) / 4, rel=1e-6)


def test_lbfgs_gradient_is_that_of_the_first_evaluation(record):
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randn(20, 2)
    net = nn.Linear(3, 2)
    opt = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=5)
    watch = record()(net, opt)
    for _ in range(3):
        start = copy.deepcopy(net)
        functional.mse_loss(start(x), y).backward()
        wanted = torch.cat([p.grad.reshape(-1) for p in start.parameters()]).norm()
        before = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

        def evaluate():
            opt.zero_grad()
            loss = functional.mse_loss(net(x), y)
            loss.backward()
            return loss

        watch.step(opt.step(evaluate))
        after = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
        rows = list(watch._vectors.groups[0].matrix.shape)
        assert rows[0] == 5
        norms = (float(wanted), float((after - before).norm()))
        record.norms = getattr(record, "norms", []) + [norms]
    for row, (grad, update) in zip(record.rows(), record.norms):
        assert row["grad_norm"] == pytest.approx(grad, rel=1e-5)
        assert row["update_norm"] == pytest.approx(update, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_other_number_types(record, dtype):
    net, opt, watch = one_layer(record, dtype)
    for _ in range(3):
        opt.zero_grad()
        loss = (net(torch.ones(4, 3, dtype=dtype)).abs() ** 2).mean()
        loss.backward()
        g = torch.cat([torch.view_as_real(p.grad).reshape(-1) if dtype.is_complex
                       else p.grad.reshape(-1) for p in net.parameters()]).double()
        opt.step()
        watch.step(loss)
    row = record.rows()[-1]
    assert row["grad_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
    rounding = 0.1 if dtype is torch.bfloat16 else 1e-5  # of the parameters themselves
    assert row["grad_dot_update"] == pytest.approx(-0.1 * float(g @ g), rel=rounding)


def test_odd_gradients(record):
    """Expanded (stride 0), transposed, on a parameter without elements, of a scalar parameter."""
    params = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 3).t()),
              nn.Parameter(torch.zeros(0)), nn.Parameter(torch.tensor(2.0))]
    opt = torch.optim.SGD(params, 0.1)
    watch = record()(None, opt)
    params[0].grad = torch.tensor(2.0).expand(4, 3)
    params[1].grad = torch.arange(12.0).view(3, 4)
    params[2].grad = torch.zeros(0)
    params[3].grad = torch.tensor(-7.0)
    theta = params[1].detach().clone()
    opt.step()
    watch.step(1.0)
    row = record.rows()[0]
    square = 12 * 4 + sum(i * i for i in range(12)) + 49
    assert row["grad_norm"] == pytest.approx(math.sqrt(square), rel=1e-6)
    assert row["grad_dot_update"] == pytest.approx(-0.1 * square, rel=1e-5)
    assert row["grad_max_abs"] == 11
    assert torch.equal(params[1].detach(), theta.add(torch.arange(12.0).view(3, 4), alpha=-0.1))


def test_freezing_and_unfreezing(record):
    """When the trained parameters change, the fields about the previous step are left out once."""
    net, opt, watch = one_layer(record)
    for step in range(9):
        net.bias.requires_grad_(not 3 <= step < 6)
        opt.zero_grad(set_to_none=True)
        loss = net(torch.ones(4, 3)).sum()
        loss.backward()
        opt.step()
        watch.step(loss)
    rows = record.rows()
    assert ["grad_dot_prev" in row for row in rows] == [False, True, True] * 3
    assert rows[4]["grad_norm"] == pytest.approx(4 * math.sqrt(6))
    assert rows[7]["grad_norm"] == pytest.approx(4 * math.sqrt(8))


def test_non_finite_is_data(record):
    net, opt, watch = one_layer(record)
    for step in range(4):
        opt.zero_grad()
        x = torch.ones(4, 3)
        if step == 1:
            x[0, 0] = math.nan
        loss = (net(x) * 2).sum()
        loss.backward()
        with torch.no_grad():
            saved = [p.clone() for p in net.parameters()]
        opt.step()
        watch.step(loss)
        with torch.no_grad():
            for p, value in zip(net.parameters(), saved):
                p.copy_(value)
    rows = record.rows()
    assert math.isnan(rows[1]["loss"]) and math.isnan(rows[1]["grad_norm"])
    assert rows[1]["grad_nonfinite"] == 2 and math.isnan(rows[1]["grad_max_abs"])
    assert math.isnan(rows[2]["grad_dot_prev"])
    # The average of gradients has left the bad one out, so it is not lost for ever.
    assert math.isfinite(rows[2]["grad_ema_norm"]) and math.isfinite(rows[3]["grad_dot_ema_prev"])


def test_a_large_gradient_is_not_called_infinite(record):
    params = [nn.Parameter(torch.zeros(1000))]
    opt = torch.optim.SGD(params, 1e-30)
    watch = record()(None, opt)
    params[0].grad = torch.full((1000,), 1e25)
    opt.step()
    watch.step(1.0)
    row = record.rows()[0]
    assert row["grad_nonfinite"] == 0 and row["grad_norm"] == pytest.approx(1e25 * 1000**0.5, rel=1e-4)


# The sample.


def test_estimates_from_a_sample_are_unbiased_and_close():
    """Over many offsets the mean of the estimates is the truth; one estimate is near it."""
    torch.manual_seed(0)
    shapes = [(700, 300), (5000,), (4096,), (100,), (300, 701), (65536,), (9, 9)]
    params = [nn.Parameter(torch.randn(s) * (i + 1) * torch.rand(s)) for i, s in enumerate(shapes)]
    g = [torch.randn(p.shape) * torch.linspace(0.1, 2, p.numel()).view(p.shape) for p in params]
    for p, grad in zip(params, g):
        p.grad = grad
    exact_param = sum(float((p.detach().double() ** 2).sum()) for p in params)
    exact_dot = sum(float((p.detach().double() * grad.double()).sum()) for p, grad in zip(params, g))
    scale = math.sqrt(exact_param * sum(float((x.double() ** 2).sum()) for x in g))
    norms, dots = [], []
    for number in range(200):
        original = _vectors.random.Random
        _vectors.random.Random = lambda _seed: original(number)
        try:
            vectors = _vectors.Vectors(params, 16)
        finally:
            _vectors.random.Random = original
        group = vectors.groups[0]
        assert group.n < sum(p.numel() for p in params) / 5
        vectors.before()
        group.matrix[4].zero_()  # so that Delta is theta itself
        sums = vectors.update({}).parts
        norms.append(sums["update"][0])
        dots.append(sums["grad_update"][0])
    mean = sum(norms) / len(norms)
    error = (sum((x - mean) ** 2 for x in norms) / len(norms) / len(norms)) ** 0.5
    assert abs(mean - exact_param) < 4 * error + 1e-6 * exact_param
    mean = sum(dots) / len(dots)
    error = (sum((x - mean) ** 2 for x in dots) / len(dots) / len(dots)) ** 0.5
    assert abs(mean - exact_dot) < 4 * error + 1e-6 * scale


def test_large_models_are_sampled_and_small_ones_are_not(record):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1000, 1000), nn.Tanh(), nn.Linear(1000, 1100))
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    watch, full = record(probe=None)(net, opt), record(probe=None, sample=False)(net, opt)
    for _ in range(4):
        opt.zero_grad()
        loss = net(torch.randn(8, 1000)).pow(2).mean()
        loss.backward()
        opt.step()
        watch.step(loss)
        full.step(loss)
    assert watch._vectors.groups[0].sampled and not full._vectors.groups[0].sampled
    size = sum(p.numel() for p in net.parameters())
    assert watch._vectors.groups[0].n < size / 14
    sampled, whole = record.rows(place=0), record.rows(place=1)
    for a, b in zip(sampled, whole):
        for field in ("grad_norm", "grad_max_abs", "grad_nonfinite"):
            assert a[field] == pytest.approx(b[field], rel=1e-6), field
        for field in ("update_norm", "param_norm", "momentum_norm", "second_moment_norm",
                      "grad_ema_norm"):
            assert a[field] == pytest.approx(b[field], rel=0.1), field
        assert a["grad_dot_update"] == pytest.approx(b["grad_dot_update"], rel=0.15)


def test_sparse_gradients_on_a_sample(record):
    """Rows of an embedding that are sampled in part; the estimate is that of the dense gradient."""
    torch.manual_seed(0)
    results = []
    for sparse in (True, False):
        torch.manual_seed(1)
        net = nn.Embedding(3000, 7, sparse=sparse)
        opt = torch.optim.SGD(net.parameters(), 0.1)
        watch = record(sample=2, probe=None, activations_every=0)(net, opt)
        for _ in range(3):
            opt.zero_grad(set_to_none=True)
            loss = net(torch.randint(0, 3000, (900,))).pow(2).sum()
            loss.backward()
            opt.step()
            watch.step(loss)
        assert watch._vectors.groups[0].sampled
        results.append(record.rows())
    for a, b in zip(*results):
        for field in a.keys() - {"time"}:
            assert a[field] == pytest.approx(b[field], rel=1e-5), field


# Probes.


@pytest.mark.parametrize("model, autocast", [
    ("mlp", False), ("mlp", True), ("conv", False), ("conv", True), ("rnn", False)])
def test_without_a_step_the_probe_repeats_the_loss_exactly(record, model, autocast):
    """lr = 0: the same parameters, so the same randomness shows as the very same loss."""
    train(model, "sgd", record(probe="full", probe_every=1), lr=0.0, autocast=autocast)
    rows = record.rows()
    probed = rows[1:]  # the first step was not known to have a closure
    for row in probed:
        assert row["probe_loss"] == row["loss"]
        assert row["probe_grad_diff_norm"] == 0 and row["update_norm"] == 0
        assert row["probe_grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-6)


def test_probe_fields_against_a_naive_recomputation(record):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = torch.optim.SGD(net.parameters(), 0.3)
    watch = record(probe="full", probe_every=2)(net, opt)
    wanted = {}
    for step, (x, y) in enumerate(training.batches(8)):
        opt.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        g = torch.cat([p.grad.double().reshape(-1) for p in net.parameters()])
        before = torch.cat([p.detach().double().reshape(-1) for p in net.parameters()])
        opt.step()
        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
        twin = copy.deepcopy(net)
        again = functional.cross_entropy(twin(x), y)
        again.backward()
        g2 = torch.cat([p.grad.double().reshape(-1) for p in twin.parameters()])
        delta = torch.cat([p.detach().double().reshape(-1) for p in twin.parameters()]) - before
        wanted[step] = {"probe_loss": float(again), "probe_grad_norm": float(g2.norm()),
                        "probe_grad_dot_update": float(g2 @ delta),
                        "probe_grad_diff_norm": float((g2 - g).norm())}
    rows = record.rows()
    assert [row["step"] for row in rows if "probe_loss" in row] == [1, 3, 5, 7]
    for step in (1, 3, 5, 7):
        for field, value in wanted[step].items():
            assert rows[step][field] == pytest.approx(value, rel=2e-4), field


def noisy(record, zero_first, steps=12, **options):
    """A closure that draws numbers of its own before the model runs (diffusion, for instance)."""
    training.seed()
    net = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(probe_every=2, **options)(net, opt)
    for x, y in training.batches(steps):
        def loss_of():
            return functional.cross_entropy(net(x + torch.randn_like(x)), y)

        if zero_first:
            opt.zero_grad()
        loss = loss_of()
        if not zero_first:
            opt.zero_grad()
        loss.backward()
        opt.step()
        watch.step(loss, closure=loss_of)
    return watch


def test_randomness_in_the_closure_is_repeated_from_zero_grad_on(record):
    noisy(record, zero_first=True)
    rows = record.rows()
    probed = [row for row in rows if "probe_loss" in row]
    assert len(probed) == 6 and all(row["probe_loss"] == row["loss"] for row in probed)


def test_a_probe_with_other_randomness_is_discarded(record, caplog):
    watch = noisy(record, zero_first=False)
    assert watch.stats["measuring"]
    rows = record.rows(errors=True)
    assert not any("probe_loss" in row for row in rows)
    assert caplog.text.count("a probe is discarded: the closure draws random numbers") == 1
    assert caplog.text.count("there will be no more") == 1
    assert len(rows) == 12 and all("grad_norm" in row for row in rows)


@pytest.mark.parametrize("what", ["raise", "backward", "step", "eval"])
def test_closures_that_misbehave_change_nothing(record, caplog, what):
    def run(make=None):
        training.seed()
        net = training.Mlp()
        opt = torch.optim.Adam(net.parameters(), 1e-2)
        watch = make(net, opt) if make else None
        for x, y in training.batches(20):
            def closure():
                torch.rand(3)
                loss = functional.cross_entropy(net(x), y)
                if what == "raise":
                    raise ValueError("no data left")
                if what == "backward":
                    opt.zero_grad(set_to_none=False)
                    loss.backward()
                if what == "eval":
                    net.eval()
                    net.layers[0].requires_grad_(False)
                return loss

            opt.zero_grad()
            loss = functional.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            if watch:
                watch.step(loss, closure=closure)
        return everything(net, opt)

    assert same(run(), run(record(probe_every=2))) == []
    rows = record.rows(errors=True)
    assert len(rows) == 20 and all("grad_norm" in row for row in rows)


def test_a_loss_made_of_gradients_is_probed_with_a_graph(record):
    training.seed()
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(probe_every=2)(net, opt)
    for x, _ in training.batches(6):
        x.requires_grad_(True)

        def loss_of():
            slope, = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            return (slope.norm(dim=1) - 1).pow(2).mean()

        opt.zero_grad()
        loss = loss_of()
        loss.backward()
        opt.step()
        watch.step(loss, closure=loss_of)
    rows = record.rows()
    assert [row["step"] for row in rows if row.get("probe_loss") == row["loss"]] == [1, 3, 5]


def test_plain_attributes_survive_a_probe(record):
    class Counting(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            self.last = super().forward(x)
            return self.last

    training.seed()
    net = Counting(12, 3)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    watch = record(probe_every=1)(net, opt)
    for x, y in training.batches(5):
        opt.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        last = net.last
        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
        assert net.last is last
    assert net.calls == 5 and sum("probe_loss" in row for row in record.rows()) == 4


def test_the_daemon_hints_how_often_to_probe(record):
    daemon = FakeDaemon(probe_every=4)
    training.seed()
    net = training.Mlp()
    opt = torch.optim.SGD(net.parameters(), 0.1)
    watch = record(ingest=daemon.endpoint)(net, opt)
    heard = []
    watch.on_verdict(heard.append)
    daemon.verdicts = ['{"state": "healthy"}']
    for step, (x, y) in enumerate(training.batches(13)):
        opt.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
        if step == 0:
            wait_for(lambda: watch.run.probe_every == 4 and watch.verdict)
    assert heard == [{"state": "healthy"}] == [watch.verdict]
    rows = record.rows()
    assert [row["step"] for row in rows if "probe_loss" in row] == [3, 7, 11]
    assert [row["step"] for row in daemon.rows] == list(range(13))
    assert json_fields(daemon.rows[5]) == json_fields(rows[5])
    daemon.close()


def json_fields(row):
    return {name: float(numpy.float32(value)) for name, value in row.items() if name != "time"}


# Activations.


def test_activations_against_a_naive_recomputation(record):
    training.seed()
    net = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.Tanh(),
                        nn.Linear(40, 40), nn.Sigmoid(), nn.Linear(40, 20), nn.Hardtanh(-2.0, 4.0))
    opt = torch.optim.SGD(net.parameters(), 0.0)
    with torch.no_grad():
        for layer in (net[2], net[4], net[6]):
            layer.weight.mul_(20)
    watch = record(activations_every=2, probe=None)(net, opt)
    wanted = []
    for x, _ in training.batches(4):
        outputs, y = [], x
        with torch.no_grad():
            for layer in net:
                y = layer(y)
                outputs.append(y.double())
            saturated = [(outputs[3].abs() > 0.99), (outputs[5] - 0.5).abs() > 0.495,
                         (outputs[7] - 1.0).abs() > 2.97]
            wanted.append((
                math.sqrt(sum(float(o.pow(2).mean()) for o in outputs) / 8),
                float((outputs[1] == 0).double().mean()),
                sum(float(s.double().mean()) for s in saturated) / 3))
        opt.zero_grad()
        net(x).sum().backward()
        net(x * 100)  # a second call is not looked at
        opt.step()
        watch.step(1.0)
    rows = record.rows()
    assert ["act_rms" in row for row in rows] == [True, False, True, False]
    for step in (0, 2):
        assert rows[step]["act_rms"] == pytest.approx(wanted[step][0], rel=1e-5)
        assert rows[step]["act_dead"] == pytest.approx(wanted[step][1], rel=1e-6)
        assert rows[step]["act_saturated"] == pytest.approx(wanted[step][2], rel=1e-6)
        assert 0.1 < rows[step]["act_saturated"] < 0.9 and 0.2 < rows[step]["act_dead"] < 0.8


def test_validation_passes_are_not_mixed_in(record):
    training.seed()
    net = nn.Sequential(nn.Linear(12, 3), nn.ReLU())
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(activations_every=1, probe=None)(net, opt)
    for x, _ in training.batches(2):
        with torch.no_grad():
            net(x * 1e6)
        opt.zero_grad()
        net(x).sum().backward()
        opt.step()
        watch.validation(loss=torch.tensor(0.5), accuracy=0.75)
        watch.step(1.0)
    rows = record.rows()
    assert all(row["act_rms"] < 10 for row in rows)
    assert rows[0]["val_loss"] == 0.5 and rows[1]["val_acc"] == 0.75


def test_a_large_output_is_sampled(record):
    training.seed()
    net = nn.Sequential(nn.Linear(1, 1000), nn.ReLU())
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(activations_every=1, probe=None)(net, opt)
    out = net(torch.randn(500, 1))
    assert watch._activations._samples and all(
        1000 < s.numel() <= 4096 for s in watch._activations._samples.values())
    out.sum().backward()
    opt.step()
    watch.step(1.0)
    row = record.rows()[0]
    assert row["act_dead"] == pytest.approx(float((out == 0).float().mean()), abs=0.05)


# Loss scaling.


class Scaler:
    """A loss scaler as torch's, on the CPU: backs off and skips when a gradient is not finite."""

    def __init__(self):
        self.scale_value, self._per_optimizer_states = 1024.0, {}

    def is_enabled(self):
        return True

    def get_scale(self):
        return self.scale_value

    def scale(self, loss):
        return loss * self.scale_value

    def _state(self, optimizer):
        stage = type("Stage", (), {"value": 0})
        return self._per_optimizer_states.setdefault(id(optimizer), {"stage": stage()})

    def unscale_(self, optimizer):
        self._state(optimizer)["stage"].value = 1
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad.div_(self.scale_value)

    def step(self, optimizer):
        if self._state(optimizer)["stage"].value == 0:
            self.unscale_(optimizer)
        finite = all(bool(torch.isfinite(p.grad).all()) for g in optimizer.param_groups
                     for p in g["params"])
        self.found = not finite
        return optimizer.step() if finite else None

    def update(self):
        self._per_optimizer_states.clear()
        if self.found:
            self.scale_value /= 2


@pytest.mark.parametrize("clip", [None, "unscaled", "scaled"])
def test_loss_scaling_and_skipped_steps(record, clip):
    net, opt, _ = one_layer(lambda **_: lambda *_: None)
    scaler = Scaler()
    watch = record(scaler=scaler)(net, opt)
    for step in range(6):
        opt.zero_grad()
        x = torch.ones(4, 3)
        loss = net(x).sum() if step != 2 else net(x).sum() * math.inf
        scaler.scale(loss).backward()
        if clip == "unscaled":
            scaler.unscale_(opt)
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        scaler.step(opt)
        scaler.update()
        watch.step(loss)
    rows = record.rows()
    assert [row["step"] for row in rows] == list(range(6))
    for step in (0, 1, 3, 4, 5):
        assert rows[step]["grad_norm"] == pytest.approx(4 * math.sqrt(8), rel=1e-5)
        assert rows[step]["update_norm"] > 0 and rows[step]["grad_nonfinite"] == 0
    assert rows[2]["update_norm"] == 0 and rows[2]["grad_nonfinite"] == 8
    assert "grad_dot_update" not in rows[2] and "grad_dot_prev" not in rows[3]
    assert "grad_dot_prev" in rows[4] and math.isfinite(rows[3]["grad_ema_norm"])


def test_torch_scaler_that_is_switched_off(record):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scaler = torch.cuda.amp.GradScaler(enabled=False)
    net, opt, watch = one_layer(record)
    for _ in range(3):
        opt.zero_grad()
        loss = net(torch.ones(4, 3)).sum()
        scaler.scale(loss).backward()
        scaler.step(opt)
        scaler.update()
        watch.step(loss)
    assert [row["grad_norm"] for row in record.rows()] == [pytest.approx(4 * math.sqrt(8))] * 3


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
            results.append([json_fields(row) for row in record.rows()])
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
    watch = seismo.torch.watch(net, opt, "r", "p", ingest=False, trace=tmp_path / "t.jsonl.gz",
                               batch_size=32, seed=7, params={"lr": 0.1}, meta={"host": "a"})
    assert (watch.run.rank, watch.run.world) == (2, 4)
    watch.close()
    header = next(iter(trace.read(tmp_path / "t.rank2.jsonl.gz")))
    assert header == {"run": "r", "program": "p", "framework": f"torch {torch.__version__}",
                      "optimizer": "AdamW", "n_params": 8, "batch_size": 32, "seed": 7,
                      "params": {"lr": 0.1}, "host": "a"}
    with pytest.raises(ValueError, match="probe must be"):
        seismo.torch.watch(net, opt, probe="backward", ingest=False)


# Never in the way.


@pytest.mark.parametrize("where", ["before", "hold", "update", "fields", "activations", "probe"])
def test_failures_of_measuring_never_reach_training(record, monkeypatch, caplog, where):
    def broken(*_, **__):
        raise RuntimeError("measuring is broken")

    plain = everything(*train("mlp", "adam", clip="norm")[:2])
    target = {"before": (_vectors.Vectors, "before"), "hold": (_vectors.Vectors, "hold"),
              "update": (_vectors.Vectors, "update"), "fields": (_watch, "fields_of"),
              "activations": (_watch.Activations, "collect"), "probe": (_watch.Probe, "run")}[where]
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
