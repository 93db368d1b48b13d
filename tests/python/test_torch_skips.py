"""seismo.torch.watch and steps that are left out: by a loss scaler or by the loop itself."""
import math
import warnings

import pytest
import torch
from torch import nn
from training import one_layer

STEPS = 12
BAD = (3, 4, 8)  # steps whose gradients are not finite


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
        finite = all(
            bool(torch.isfinite(p.grad).all()) for g in optimizer.param_groups for p in g["params"]
        )
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


class TorchScaler(torch.cuda.amp.GradScaler):
    """torch's own, with its step() and unscale_(), on the CPU: what it has for accelerators alone is
    done here, that is to scale, to divide and look for infinities, and to back off."""

    def __init__(self, monkeypatch):
        there = "torch.cuda.amp.grad_scaler.amp_definitely_not_available"
        with monkeypatch.context() as patch:
            patch.setattr(there, lambda: False)
            super().__init__(init_scale=1024.0)
        self._lazy_init_scale_growth_tracker(torch.device("cpu"))

    def scale(self, outputs):
        return outputs * self._scale

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if not torch.isfinite(p.grad).all():
                    found_inf.fill_(1.0)
                p.grad.mul_(inv_scale)
        return {torch.device("cpu"): found_inf}

    def update(self):
        for state in self._per_optimizer_states.values():
            if any(found.item() for found in state["found_inf_per_device"].values()):
                self._scale.mul_(0.5)
        self._per_optimizer_states.clear()


def guarded(opt):
    """What loops write that have no scaler. Returns whether it stepped."""
    finite = all(bool(torch.isfinite(p.grad).all()) for p in opt.param_groups[0]["params"])
    if finite:
        opt.step()
    return finite


def loss_of(net, bad=False):
    """With a bad input, two of the eight gradients are infinite."""
    x = torch.ones(4, 3)
    if bad:
        x[0, 0] = math.inf
    return net(x).sum()


def check(rows, bad=BAD, steps=STEPS):
    """One row a step, and those that were left out say so."""
    assert [row["step"] for row in rows] == list(range(steps))
    for step, row in enumerate(rows):
        assert row["grad_nonfinite"] == (2 if step in bad else 0), step
        assert (row["grad_max_abs"] == math.inf) == (step in bad), step
        assert (row["update_norm"] == 0) == (step in bad), step
        assert row["lr"] == pytest.approx(0.1 / (step + 1))
        assert math.isfinite(row["loss"]) == (step not in bad), step


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("told", ["once", "each micro-batch"])
@pytest.mark.parametrize("clip", [False, True])
def test_torch_scaler_that_skips(record, monkeypatch, micro, told, clip):
    """Each skipped step makes one row, even where zero_grad comes with several losses."""
    scaler = TorchScaler(monkeypatch)
    net, opt, watch = one_layer(record)
    for step in range(STEPS):
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        opt.zero_grad()
        for i in range(micro):
            loss = loss_of(net, bad=step in BAD and i == 0)
            scaler.scale(loss).backward()
            if told == "each micro-batch" and i < micro - 1:
                watch.step(loss)
        if clip:
            scaler.unscale_(opt)
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        scaler.step(opt)
        scaler.update()
        watch.step(loss if told == "each micro-batch" or step not in BAD else math.nan)
    check(record.rows())


ZEROING = {
    "optimizer": lambda net, opt: opt.zero_grad(),
    "optimizer, to none": lambda net, opt: opt.zero_grad(set_to_none=True),
    "module": lambda net, opt: net.zero_grad(),
    "both": lambda net, opt: (net.zero_grad(), opt.zero_grad()),
}


@pytest.mark.parametrize("zero", ZEROING)
@pytest.mark.parametrize("order", ["zero first", "zero last", "zero at both ends"])
@pytest.mark.parametrize("clip", [False, True])
def test_steps_that_the_loop_leaves_out(record, zero, order, clip):
    net, opt, watch = one_layer(record)
    zero = ZEROING[zero]
    for step in range(STEPS):
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        if order != "zero last":
            zero(net, opt)
        loss = loss_of(net, bad=step in BAD)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 100.0)
        guarded(opt)
        if order != "zero first":
            zero(net, opt)
        watch.step(loss)
    check(record.rows())


@pytest.mark.parametrize("drop", ["to none", "to zero"])
def test_gradients_that_the_loop_drops_itself(record, drop):
    """Nobody hears of that: no row of a step that is left out, but its loss counts in the next."""
    net, opt, watch = one_layer(record)
    for step in range(STEPS):
        loss = loss_of(net, bad=step in BAD)
        loss.backward()
        guarded(opt)
        watch.step(loss)
        for p in net.parameters():
            if drop == "to none":
                p.grad = None
            else:
                p.grad.zero_()
    rows = record.rows()
    assert [row["step"] for row in rows] == list(range(STEPS - len(BAD)))
    after = {step - sum(bad < step for bad in BAD) for step in (5, 9)}  # the steps 3, 4 and 8
    assert {row["step"] for row in rows if not math.isfinite(row["loss"])} == after
    assert all(row["grad_nonfinite"] == 0 and row["update_norm"] > 0 for row in rows)


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("clip", [False, True])
def test_micro_batches_of_a_step_that_the_loop_leaves_out(record, first, clip):
    """Gradients that grow over several losses are one step, from whichever on they are broken."""
    net, opt, watch = one_layer(record)
    for step in range(STEPS):
        opt.param_groups[0]["lr"] = 0.1 / (step + 1)
        opt.zero_grad()
        for i in range(3):
            loss = loss_of(net, bad=step in BAD and i == first)
            loss.backward()
            if i == 2:
                if clip:
                    nn.utils.clip_grad_norm_(net.parameters(), 100.0)
                guarded(opt)
            watch.step(loss)
    check(record.rows())


def test_a_job_that_skips_for_ever_is_not_silent(record):
    """From its first step on, with a schedule that goes on and numbers of its own."""
    net, opt, watch = one_layer(record)
    for step in range(STEPS):
        opt.zero_grad()
        loss = loss_of(net, bad=True)
        loss.backward()
        guarded(opt)
        watch.step(loss, step=10 * step, closure=lambda: loss_of(net, bad=True))
    opt.zero_grad()
    rows = record.rows()
    assert [row["step"] for row in rows] == [10 * step for step in range(STEPS)]
    assert all(row["grad_nonfinite"] == 2 and row["update_norm"] == 0 for row in rows)


def test_gradients_that_no_step_was_meant_for(record):
    """A network of a GAN gets gradients from the other's loss, which it never steps with."""
    net, opt, watch = one_layer(record)
    for step in range(STEPS):
        opt.zero_grad()
        for i in range(2):
            loss = loss_of(net)
            loss.backward()
            if i == 0:
                watch.step(loss)
        opt.step()
        for late in (False, True):
            opt.zero_grad()
            loss_of(net, bad=True).backward()
            if late:
                opt.zero_grad()
                watch.step(loss)
    rows = record.rows()
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert all(row["grad_nonfinite"] == 0 and row["update_norm"] > 0 for row in rows)


def test_gradients_that_an_optimizer_zeroes_while_it_steps(record):
    """Those of the first evaluation are the step's, whatever the others come to."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    opt = torch.optim.LBFGS(net.parameters(), 0.1, max_iter=3)
    watch = record()(net, opt)
    for _ in range(3):
        evaluations = []

        def evaluate():
            opt.zero_grad()
            loss = loss_of(net, bad=bool(evaluations))
            loss.backward()
            evaluations.append(loss)
            return loss

        watch.step(opt.step(evaluate))
        assert len(evaluations) == 3
    rows = record.rows()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[0]["grad_nonfinite"] == 0
