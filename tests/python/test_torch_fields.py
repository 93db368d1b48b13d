"""seismo.torch.watch: every field is what it says."""
import copy
import math
import subprocess
import sys

import pytest
import torch
import training
from conftest import ROOT
from seismo import trace
from seismo.torch import _activations, _vectors, _watch
from torch import nn
from torch.nn import functional
from training import one_layer, train


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
            self.grad = self.flat(
                [p.grad if p.grad is not None else torch.zeros_like(p) for p in params]
            )
            self.theta = self.flat(params)
            self.lr = opt.param_groups[0]["lr"]
            return
        g, theta = self.grad, self.theta
        delta = self.flat(params) - theta
        row = {
            "step": step,
            "loss": float(loss),
            "lr": self.lr,
            "grad_norm": g.norm(),
            "grad_max_abs": g.abs().max(),
            "grad_nonfinite": 0.0,
            "grad_dot_update": g @ delta,
            "update_norm": delta.norm(),
            "param_norm": theta.norm(),
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


@pytest.mark.parametrize(
    "model, optimizer, buffers, options",
    [
        ("mlp", "sgd", (None, None), {}),
        ("mlp", "momentum", ("momentum_buffer", None), {"groups": True}),
        ("mlp", "adam", ("exp_avg", "exp_avg_sq"), {}),
        ("conv", "adamw", ("exp_avg", "exp_avg_sq"), {"schedule": "before"}),
        ("rnn", "rmsprop", ("momentum_buffer", "square_avg"), {"schedule": "after"}),
        ("words", "sgd", (None, None), {}),
        ("words", "adagrad", (None, "sum"), {}),
        ("frozen", "adam", ("exp_avg", "exp_avg_sq"), {}),
    ],
)
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


@pytest.mark.parametrize("sample", [1, 2])
def test_results_that_stay_on_the_device_are_the_same(record, monkeypatch, sample):
    """The way of an accelerator, where a step's sums are fetched all at once, walked on the CPU."""
    monkeypatch.setattr(_vectors, "BLOCK", 16)  # small enough to sample this model

    def run():
        train(
            "mlp",
            "adam",
            record(sample=sample, activations_every=2, probe="full", probe_every=3),
            on_step=lambda when, step, net, opt, loss: (
                net.layers[0].weight.grad.view(-1)[3].fill_(math.inf)
                if when == "before" and step == 7
                else None
            ),
            steps=8,
        )
        return record.rows()

    plain = run()
    for module in (_vectors, _watch, _activations):
        monkeypatch.setattr(module, "eager", lambda device: False)
    for a, b in zip(plain, run()):
        assert set(a) == set(b)
        for field in set(a) - {"time"}:
            # Products near zero differ in what rounding leaves of them.
            scale = max(abs(a[field]), a.get("grad_norm", 1.0) * 1e-2)
            same = a[field] == b[field] or abs(a[field] - b[field]) <= 1e-5 * scale
            assert same or a[field] != a[field] and b[field] != b[field], (field, a, b)


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
    assert torch.nn.utils.clip_grad_norm_ is original or hasattr(
        torch.nn.utils.clip_grad_norm_, "_seismo"
    )
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
    code = (
        "from torch.nn.utils import clip_grad_norm_\n"
        "import torch, seismo.torch, sys\n"
        "net = torch.nn.Linear(3, 1)\n"
        "opt = torch.optim.SGD(net.parameters(), 0.1)\n"
        "watch = seismo.torch.watch(net, opt, ingest=False, trace=sys.argv[1])\n"
        "loss = net(torch.ones(4, 3)).mul(100).mean(); loss.backward()\n"
        "assert float(clip_grad_norm_(net.parameters(), 0.5)) > 100\n"
        "opt.step(); watch.step(loss); watch.close()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"],
        check=True,
        env={"PYTHONPATH": str(ROOT / "client" / "python")},
    )
    assert list(trace.read(tmp_path / "t"))[1]["grad_norm"] == pytest.approx(200, rel=1e-3)


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
    train(
        "mlp",
        "sgd",
        lambda n, o: type("", (), {"step": lambda s, v, closure=None: losses.append(float(v))})(),
        accumulate=4,
        steps=8,
    )
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
        g = torch.cat(
            [
                torch.view_as_real(p.grad).reshape(-1) if dtype.is_complex else p.grad.reshape(-1)
                for p in net.parameters()
            ]
        ).double()
        opt.step()
        watch.step(loss)
    row = record.rows()[-1]
    assert row["grad_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
    rounding = 0.1 if dtype is torch.bfloat16 else 1e-5  # of the parameters themselves
    assert row["grad_dot_update"] == pytest.approx(-0.1 * float(g @ g), rel=rounding)


def test_odd_gradients(record):
    """Expanded (stride 0), transposed, on a parameter without elements, of a scalar parameter."""
    params = [
        nn.Parameter(torch.randn(4, 3)),
        nn.Parameter(torch.randn(4, 3).t()),
        nn.Parameter(torch.zeros(0)),
        nn.Parameter(torch.tensor(2.0)),
    ]
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
    assert row["grad_nonfinite"] == 0 and row["grad_norm"] == pytest.approx(
        1e25 * 1000**0.5, rel=1e-4
    )


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
    exact_dot = sum(
        float((p.detach().double() * grad.double()).sum()) for p, grad in zip(params, g)
    )
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
    assert watch._vectors.groups[0].n < 1.1 * _watch.SAMPLE < size / 5
    sampled, whole = record.rows(place=0), record.rows(place=1)
    for a, b in zip(sampled, whole):
        for field in ("grad_norm", "grad_nonfinite"):
            assert a[field] == pytest.approx(b[field], rel=1e-6), field
        assert 0.2 * b["grad_max_abs"] < a["grad_max_abs"] <= b["grad_max_abs"]
        for field in (
            "update_norm",
            "param_norm",
            "momentum_norm",
            "second_moment_norm",
            "grad_ema_norm",
        ):
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


# Activations.


def test_activations_against_a_naive_recomputation(record):
    training.seed()
    net = nn.Sequential(
        nn.Linear(12, 40),
        nn.ReLU(),
        nn.Linear(40, 40),
        nn.Tanh(),
        nn.Linear(40, 40),
        nn.Sigmoid(),
        nn.Linear(40, 20),
        nn.Hardtanh(-2.0, 4.0),
    )
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
            saturated = [
                (outputs[3].abs() > 0.99),
                (outputs[5] - 0.5).abs() > 0.495,
                (outputs[7] - 1.0).abs() > 2.97,
            ]
            wanted.append(
                (
                    math.sqrt(sum(float(o.pow(2).mean()) for o in outputs) / 8),
                    float((outputs[1] == 0).double().mean()),
                    sum(float(s.double().mean()) for s in saturated) / 3,
                )
            )
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
        1000 < s.numel() <= 4096 for s in watch._activations._samples.values()
    )
    out.sum().backward()
    opt.step()
    watch.step(1.0)
    row = record.rows()[0]
    assert row["act_dead"] == pytest.approx(float((out == 0).float().mean()), abs=0.05)
