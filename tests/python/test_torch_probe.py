"""seismo.torch.watch: the loss of the same minibatch, with the same randomness, after the step."""
import copy

import pytest
import torch
import training
from conftest import wait_for
from fake import FakeDaemon
from torch import nn
from torch.nn import functional
from training import everything, same, train, values


@pytest.mark.parametrize(
    "model, autocast",
    [("mlp", False), ("mlp", True), ("conv", False), ("conv", True), ("rnn", False)],
)
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
        wanted[step] = {
            "probe_loss": float(again),
            "probe_grad_norm": float(g2.norm()),
            "probe_grad_dot_update": float(g2 @ delta),
            "probe_grad_diff_norm": float((g2 - g).norm()),
        }
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


def test_numbers_drawn_by_a_loader_do_no_harm(record):
    """Gradients are zeroed before the next minibatch is drawn: the forward pass is the anchor."""
    training.seed()
    net = training.Mlp()
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(probe_every=1)(net, opt)
    for x, y in training.batches(6):
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
        opt.zero_grad()
    rows = record.rows()
    assert [row["probe_loss"] == row["loss"] for row in rows[1:]] == [True] * 5


def test_a_loop_inside_of_autocast(record):
    """Casts of the weights that the probe makes must not be found by the training."""

    def run(make=None):
        training.seed()
        net = training.Mlp()
        opt = torch.optim.SGD(net.parameters(), 0.1)
        watch = make(net, opt) if make else None
        loader = training.batches(12)
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                for x, y in (next(loader) for _ in range(3)):
                    opt.zero_grad()
                    loss = functional.cross_entropy(net(x), y)
                    loss.backward()
                    opt.step()
                    torch.clear_autocast_cache()  # or autocast would go on with the old weights
                    if watch:
                        watch.step(loss, closure=lambda: functional.cross_entropy(net(x), y))
        return everything(net, opt)

    assert same(run(), run(record(probe_every=1))) == []
    rows = record.rows()
    assert sum("probe_loss" in row for row in rows) == 11


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
            (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            return (slope.norm(dim=1) - 1).pow(2).mean()

        opt.zero_grad()
        loss = loss_of()
        loss.backward()
        opt.step()
        watch.step(loss, closure=loss_of)
    rows = record.rows()
    assert [row["step"] for row in rows if row.get("probe_loss") == row["loss"]] == [1, 3, 5]


@pytest.mark.parametrize("probe", ["forward", "full"])
@pytest.mark.parametrize("first", ["targets", "outputs"])
def test_forward_passes_under_no_grad_are_no_others(record, probe, first):
    """A bootstrapped target inside of the loss, and a rollout before the step, both with dropout."""
    training.seed()
    net = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    opt = torch.optim.SGD(net.parameters(), 0.0)
    watch = record(probe=probe, probe_every=2)(net, opt)
    for x, _ in training.batches(6):

        def loss_of():
            outputs = net(x) if first == "outputs" else None
            with torch.no_grad():
                targets = 1 + 0.9 * net(x.flip(0))
            return functional.mse_loss(net(x) if outputs is None else outputs, targets)

        with torch.no_grad():
            net(x)
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
    assert values(daemon.rows[5]) == values(rows[5])
    daemon.close()
