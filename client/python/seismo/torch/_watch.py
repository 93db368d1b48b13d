"""`Watch`: one optimizer's training as seismo sees it."""

from __future__ import annotations

import functools
import math
import os
from typing import Any, Callable, Mapping

import torch
from torch import nn

from seismo._log import Once
from seismo._run import Run
from seismo.torch._activations import Activations
from seismo.torch._hooks import (
    OptimizerHooks,
    listen_to_clipping,
    listen_to_scaler,
    listen_to_zeroing,
    unlisten,
)
from seismo.torch._probe import Different, Probe
from seismo.torch._vectors import Number, Sums, Vectors, eager

SAMPLE = 1 << 17  # parameters up to which all are measured, and about so many above
PROBE_EVERY = 10  # steps
ACTIVATIONS_EVERY = 5  # steps
MAX_FAILURES = 10  # of measuring, before it is given up
MAX_PROBE_FAILURES = 3  # in a row

# field: (raw sums it is made of, whether it is the root of their total)
_FIELDS = {
    "grad_norm": ("square", True),
    "grad_nonfinite": ("nonfinite", False),
    "grad_dot_prev": ("prev", False),
    "grad_dot_update_prev": ("update_prev", False),
    "grad_dot_ema_prev": ("ema_prev", False),
    "grad_dot_update": ("grad_update", False),
    "update_norm": ("update", True),
    "param_norm": ("param", True),
    "grad_ema_norm": ("ema", True),
    "grad_ema_dot_update": ("ema_update", False),
    "momentum_norm": ("first", True),
    "second_moment_norm": ("second", True),
    "probe_grad_norm": ("probe_square", True),
    "probe_grad_dot_update": ("probe_update", False),
    "probe_grad_diff_norm": ("probe_diff", True),
}
# Means over micro-batches or modules.
_MEANS = {
    "loss": ("loss", False),
    "lr": ("lr", False),
    "probe_loss": ("probe_loss", False),
    "act_rms": ("act_square", True),
    "act_dead": ("act_dead", False),
    "act_saturated": ("act_saturated", False),
}


def _root(value: float) -> float:
    return math.sqrt(value) if value > 0.0 else (0.0 if value <= 0.0 else value)


def _total(parts: list[float]) -> float:
    return sum(parts)


def fields_of(sums: Sums) -> dict[str, float]:
    """The step fields that raw sums amount to."""
    parts = sums.resolve()
    fields: dict[str, float] = {}
    for field, (name, root) in _FIELDS.items():
        if name in parts:
            total = _total(parts[name])
            fields[field] = _root(total) if root else total
    for field, (name, root) in _MEANS.items():
        if name in parts:
            mean = _total(parts[name]) / len(parts[name])
            fields[field] = _root(mean) if root else mean
    if "largest" in parts:
        largest = parts["largest"]
        fields["grad_max_abs"] = math.nan if any(x != x for x in largest) else max(largest)
    return fields


def number_of(loss: Any) -> Number:
    """A loss as a number: of a tensor the mean, and on an accelerator it stays there."""
    if not torch.is_tensor(loss):
        return float(loss)
    value = loss.detach().mean() if loss.numel() != 1 else loss.detach().reshape(())
    return value.item() if eager(value.device) else value.double()


def _guarded(method: Callable) -> Callable:
    """What measuring does wrong is noted, and never reaches the training."""

    @functools.wraps(method)
    def guarded(self: Watch, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001
            self._failed(method.__name__, error)
            return None

    return guarded


class _Waiting:
    """What is known of a step for which a loss has been given, and that may yet be left out."""

    def __init__(self, captured: Sums | None = None, number: int | None = None) -> None:
        self.captured = captured  # its gradients, where they have been read
        self.number = number  # as the caller has given it
        self.sums = Sums()  # its learning rate


class Watch:
    """Made by `seismo.torch.watch`, whose documentation says what the arguments mean."""

    def __init__(
        self,
        run: Run,
        model: nn.Module | None,
        optimizer: Any,
        *,
        probe: str | None,
        probe_every: int | None,
        sample: int | bool | None,
        activations_every: int,
        scaler: Any,
        start_step: int,
    ) -> None:
        self.run = run
        self.optimizer = optimizer
        self._report: Once = run._report
        self._sample = sample
        self._scaler = scaler
        self._next_step = start_step
        self._probe_every = probe_every
        self._activations_every = activations_every
        self._measuring = True
        self._failures = 0
        self._probe_failures = 0

        self._vectors: Vectors | None = None
        self._signature: list[tuple[int, int]] = []
        self._ids: set[int] = set()
        self._captured: Sums | None = None  # g_t has been read
        self._stepping = False  # the optimizer is at it, and may zero gradients for its closure
        self._used = False  # the gradients have been stepped with, or a scaler has not let them
        self._waiting = _Waiting()  # what the last loss that made no row came with
        self._left_out: Sums | None = None  # gradients that were zeroed before the optimizer stepped
        self.rows_of_skips = True  # whether they make a row
        self._sums = Sums()  # of the step that waits for watch.step
        self._updated = False  # the vectors hold a step that is not the previous one yet
        self._stepped = False  # by the optimizer, since the last look of `scaled`
        self._steps = 0  # of the optimizer since the last row
        self._losses: list[Any] = []
        self._validation: dict[str, float] = {}
        self._rows = 0
        self._closures = False  # the last watch.step had a closure
        self._since_probe = 0  # rows

        compiled = hasattr(model, "_orig_mod")  # its hooks would make torch.compile start anew
        self._activations: Activations | None = None
        self._probe: Probe | None = None
        self._hooks: OptimizerHooks | None = None
        try:
            if model is not None and activations_every and not compiled:
                self._activations = Activations(model)
                self._activations.armed = True
            if probe is not None:
                self._probe = Probe(model, full=probe == "full")
            self._hooks = OptimizerHooks(
                optimizer, self._before, self._after, self._zeroing, self._zeroed
            )
            listen_to_zeroing(self)
            listen_to_clipping(self)
            listen_to_scaler(self, scaler)
        except Exception as error:  # noqa: BLE001
            self._failures = MAX_FAILURES
            self._failed("watch", error)

    # What the training loop calls.

    def step(
        self, loss: Any, closure: Callable[[], Any] | None = None, *, step: int | None = None
    ) -> None:
        """Say that a step is done; call it after `optimizer.step()`, once an iteration.

        loss      of this minibatch at theta_t: a tensor (its mean is taken) or a number
        closure   computes that loss again, on the same minibatch: `lambda: criterion(model(x), y)`.
                  It is called every `probe_every` steps. Without it there are no probes.
        step      this step's number; default: counted from `start_step`

        With gradient accumulation call it after every micro-batch or once after the optimizer's
        step: a row is made only when the optimizer has stepped, and its loss is the mean of the
        losses given since the last row (those steps are not probed when there were several).
        Gradients with NaN or infinities that are zeroed before the optimizer has stepped make a row
        too: somebody has left that step out. Only zero_grad() is noticed, not `p.grad = None`.
        Never raises, and never waits for the daemon. On an accelerator it waits once for the
        step's results, as `loss.item()` does.
        """
        try:
            self._step(loss, closure, step)
        except Exception as error:  # noqa: BLE001
            self._failed("step", error)
            self._clear()

    def validation(self, loss: Any = None, accuracy: Any = None) -> None:
        """Attach validation results to the next row: `loss`, and `accuracy` as a share, 0 to 1."""
        try:
            if loss is not None:
                self._validation["val_loss"] = float(loss)
            if accuracy is not None:
                self._validation["val_acc"] = float(accuracy)
        except Exception as error:  # noqa: BLE001
            self._failed("validation", error)

    def gradients(self) -> None:
        """Read the gradients now: call it before clipping them with code of your own.

        torch's own clip_grad_norm_ and clip_grad_value_ are noticed without this.
        """
        self._capture()

    @property
    def verdict(self) -> dict | None:
        """The latest verdict heard from the daemon, or None."""
        return self.run.verdict

    def on_verdict(self, callback: Callable[[dict], Any]) -> Callable[[dict], Any]:
        """Call `callback(verdict)` from the background thread for every verdict that arrives."""
        return self.run.on_verdict(callback)

    @property
    def stats(self) -> dict[str, Any]:
        """Counters of `Run.stats`, and `measuring`: False once measuring has been given up."""
        return {**self.run.stats, "measuring": self._measuring}

    def close(self, outcome: str = "finished", timeout: float = 5.0) -> bool:
        """Take all hooks out again and end the run; see `Run.close`."""
        self._unhook()
        return self.run.close(outcome, timeout)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._unhook()
        self.run.__exit__(*exc_info)

    # What the hooks call.

    @property
    def _active(self) -> bool:
        return self._measuring and not (self._probe is not None and self._probe.running)

    @_guarded
    def _before(self, closure: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """The optimizer is about to step."""
        self._stepping = True
        if not self._active:
            return None
        self._finish_vectors()
        if closure is None:
            if self._captured is None:
                self._capture_now()
            self._vectors.hold()
            return None
        # g_t is that of the first evaluation, which happens inside of the step.
        self._captured = None
        self._prepare()
        self._vectors.hold()

        def evaluate() -> Any:
            result = closure()
            if self._captured is None:
                self._capture()
            return result

        return evaluate

    @_guarded
    def _after(self) -> None:
        """The optimizer has stepped."""
        if self._probe is not None and self._probe.running:
            return
        self._stepping = False
        self._stepped = self._used = True
        self._steps += 1
        captured, self._captured = self._captured, None
        if not self._measuring or captured is None or self._vectors is None:
            return
        self._sums = captured
        self._sums.merge(self._vectors.update(self.optimizer.state))
        self._note_lr(self._sums)
        self._updated = True

    def zeroing(self, ids: set[int]) -> None:
        """Gradients of these parameters are about to be zeroed, by their module."""
        if self._ids <= ids:
            self._zeroing()

    @_guarded
    def _zeroing(self) -> None:
        """The gradients are about to be zeroed. Was it they that kept the optimizer from stepping?

        Between the micro-batches of one step nobody zeroes them, so that this cannot be one.
        """
        if not self._active or self._stepping:
            return
        used, self._used = self._used, False
        waiting, self._waiting = self._waiting, _Waiting()
        if used or self._steps or not self.rows_of_skips or not self._have_gradients():
            return
        if self._captured is None and waiting.captured is None:
            self._capture_now()
        sums = self._captured or waiting.captured
        self._captured = None
        if not any(sums.resolve().get("nonfinite", ())):
            return
        sums.merge(waiting.sums)
        self._left_out = sums
        if self._losses:  # else watch.step is still to come
            self._skip(sums)
            self._make_row(waiting.number, None)

    @_guarded
    def _zeroed(self) -> None:
        """The gradients have been zeroed."""
        if self._probe is not None:
            self._probe.zeroed()

    def clipping(self, ids: set[int]) -> None:
        """Gradients of these parameters are about to be clipped."""
        if not self._ids.isdisjoint(ids) or not self._ids:
            self._capture()

    @_guarded
    def scaled(self, optimizer: Any) -> None:
        """A loss scaler has let this optimizer step, or not."""
        if optimizer is not self.optimizer:
            return
        stepped, self._stepped = self._stepped, False
        if stepped or not self._active:
            return
        if self._captured is None:
            self._capture_now()
        sums, self._captured = self._captured, None
        self._used = True
        self._skip(sums)

    # How it is done.

    @_guarded
    def _capture(self) -> None:
        if self._active:
            self._capture_now()

    def _capture_now(self) -> None:
        """Read g_t."""
        self._finish_vectors()
        self._prepare()
        self._captured = self._vectors.before(self._unscale())

    def _prepare(self) -> None:
        """Have vectors for the parameters that are trained now."""
        params: dict[int, torch.Tensor] = {}
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                if param.requires_grad or param.grad is not None:
                    params[id(param)] = param
        signature = [(key, param.numel()) for key, param in params.items()]
        if self._vectors is None or signature != self._signature:
            total = sum(size for _, size in signature)
            share = self._sample
            if share is None or share is True:
                share = -(-total // SAMPLE)
            self._vectors = Vectors(list(params.values()), max(1, int(share)))
            self._signature = signature
            self._ids = set(params)
            self._updated = False

    def _finish_vectors(self) -> None:
        """The step that the vectors hold becomes the previous one."""
        if self._updated:
            self._vectors.advance()
            self._updated = False

    def _unscale(self) -> float:
        """What the gradients must be multiplied by while a loss scaler has not unscaled them."""
        scaler = self._scaler
        if scaler is None or not scaler.is_enabled():
            return 1.0
        state = getattr(scaler, "_per_optimizer_states", {}).get(id(self.optimizer))
        stage = (state or {}).get("stage")
        if stage is not None and stage.value > 0:  # READY is 0; UNSCALED and STEPPED follow
            return 1.0
        return 1.0 / scaler.get_scale()

    def _have_gradients(self) -> bool:
        groups = self.optimizer.param_groups
        return any(param.grad is not None for group in groups for param in group["params"])

    def _skip(self, sums: Sums) -> None:
        """Make of gradients that were read a step that changes nothing."""
        sums.add(update=0.0)
        if "lr" not in sums.parts:
            self._note_lr(sums)
        self._sums = sums
        self._steps += 1
        self._vectors.advance(known=False)

    def _note_lr(self, sums: Sums) -> None:
        lr = self.optimizer.param_groups[0].get("lr")
        if lr is not None:
            sums.add(lr=lr.detach().double() if torch.is_tensor(lr) else float(lr))

    def _step(self, loss: Any, closure: Callable[[], Any] | None, number: int | None) -> None:
        try:
            self._losses.append(loss.detach() if torch.is_tensor(loss) else float(loss))
        except (TypeError, ValueError) as error:
            self._report("loss", "seismo: watch.step was given no usable loss: %s", error)
        if not self._measuring:
            self._steps = max(self._steps, 1)
        self._closures = closure is not None
        if not self._steps and self._left_out is not None:
            self._skip(self._left_out)
        if not self._steps:
            # Of a micro-batch whose gradients will still grow, or of a step that was left out.
            self._waiting = _Waiting(self._captured, number)
            self._note_lr(self._waiting.sums)
            self._captured = None
            if len(self._losses) > 1000:
                del self._losses[0]
                self._report(
                    "no step",
                    "seismo: 1000 losses, and the optimizer has not stepped;"
                    " was watch() given the optimizer that is used?",
                )
            return
        self._make_row(number, closure)

    def _make_row(self, number: int | None, closure: Callable[[], Any] | None) -> None:
        if number is None:
            number = self._next_step + self._steps - 1
        self._next_step = number + 1
        self._since_probe += 1
        fields = self._measure(closure)
        if fields is None:  # measuring failed; what was given is there all the same
            losses = [float(number_of(loss)) for loss in self._losses]
            fields = {"loss": sum(losses) / len(losses)} if losses else {}
        fields.update(self._validation)
        self._validation.clear()
        self.run.step(number, **fields)
        self._rows += 1
        self._clear()

    @_guarded
    def _measure(self, closure: Callable[[], Any] | None) -> dict[str, float]:
        """The fields of the step that is done."""
        if closure is not None:
            self._run_probe(closure)
        if self._activations is not None and self._activations.armed:
            self._sums.merge(self._activations.collect())
        for loss in self._losses:
            self._sums.add(loss=number_of(loss))
        return fields_of(self._sums)

    def _clear(self) -> None:
        """Be ready for the next step."""
        if self._vectors is not None:
            self._finish_vectors()
        self._losses.clear()
        self._sums = Sums()
        self._captured = self._left_out = None
        self._waiting = _Waiting()
        self._steps = 0
        self._stepped = False
        if self._activations is not None:
            self._activations.forget()
            self._activations.armed = self._measuring and self._rows % self._activations_every == 0
        if self._probe is not None:
            self._probe.arm(
                self._measuring and self._closures and self._probe_due(self._since_probe + 1)
            )

    def _probe_due(self, rows: int) -> bool:
        every = self._probe_every
        if every is None:
            # Ranks must stay in step, and each hears its own daemon's hint at its own time.
            every = self.run.probe_every if self.run.world == 1 else None
            every = PROBE_EVERY if every is None else every
        return every > 0 and rows >= every

    def _run_probe(self, closure: Callable[[], Any]) -> None:
        probe = self._probe
        if (
            probe is None
            or not probe.armed
            or not self._updated
            or not self._probe_due(self._since_probe)
        ):
            return
        if len(self._losses) > 1:
            self._report(
                "probe accumulation",
                "seismo: steps of several micro-batches are not probed;"
                " call watch.step once a step, with a closure over all of them",
            )
            return
        self._since_probe = 0
        try:
            loss, grads = probe.run(closure, self._vectors.params)
            sums = Sums()
            sums.add(probe_loss=number_of(loss))
            if probe.full:
                sums.merge(self._vectors.probe(grads))
            self._sums.merge(sums)
            self._probe_failures = 0
        except Exception as error:  # noqa: BLE001
            self._probe_failures += 1
            kind = "a probe is discarded" if isinstance(error, Different) else "a probe failed"
            self._report(
                kind, "seismo: %s: %s", kind, error, exc_info=not isinstance(error, Different)
            )
            if self._probe_failures >= MAX_PROBE_FAILURES:
                self._report(
                    "probes",
                    "seismo: %d probes in a row came to nothing; there will be no more",
                    self._probe_failures,
                )
                probe.remove()
                self._probe = None

    def _failed(self, where: str, error: Exception) -> None:
        """Note a failure of measuring; after too many of them only losses are sent."""
        self._failures += 1
        self._vectors = None  # built anew, so that one odd step costs one step's numbers
        self._updated = False
        self._captured = None
        self._report(
            f"measuring in {where}",
            "seismo: measuring failed in %s: %r; training goes on",
            where,
            error,
            exc_info=True,
        )
        if self._failures >= MAX_FAILURES and self._measuring:
            self._report(
                "giving up",
                "seismo: measuring is given up after %d failures; only the loss is sent",
                self._failures,
            )
            self._unhook()

    def _unhook(self) -> None:
        self._measuring = False
        unlisten(self)
        for part in (self._hooks, self._activations, self._probe):
            try:
                if part is not None:
                    part.remove()
            except Exception as error:  # noqa: BLE001
                self._report("unhook", "seismo: a hook stays in place: %r", error)


def place_among_ranks() -> tuple[int, int]:
    """(rank, world): of torch.distributed, else of RANK and WORLD_SIZE, else (0, 1)."""
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1
    return (rank, world) if 0 <= rank < world else (0, 1)


def ranked_path(path: str | os.PathLike, rank: int) -> str:
    """The trace file of a rank: `a.jsonl.gz` becomes `a.rank3.jsonl.gz` for rank 3."""
    path = os.fspath(path)
    if rank == 0:
        return path
    folder, name = os.path.split(path)
    stem, dot, suffix = name.partition(".")
    return os.path.join(folder, f"{stem}.rank{rank}{dot}{suffix}")


def describe(optimizer: Any, extra: Mapping[str, Any] | None, **known: Any) -> dict[str, Any]:
    """Metadata of a run: what is known from the optimizer, and what the caller adds."""
    meta: dict[str, Any] = {
        "framework": f"torch {torch.__version__}",
        "optimizer": type(optimizer).__name__,
    }
    try:
        groups = optimizer.param_groups
        meta["n_params"] = sum(p.numel() for g in groups for p in g["params"] if p.requires_grad)
    except Exception:  # noqa: BLE001
        meta["n_params"] = None  # lazy parameters have no size yet
    meta.update((key, value) for key, value in known.items() if value is not None)
    meta.update(extra or {})
    return meta
