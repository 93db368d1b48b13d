"""The probe: the loss of the same minibatch, with the same randomness, after the step.

Between the probe and the rest of the training nothing may pass. A closure run here sees copies of
the modules' buffers (the model's as they were before the training's forward pass), empty `.grad`
fields, the autocast state of the training's own forward pass and the random numbers that pass has
drawn; afterwards the buffers and attributes of every module that ran, gradients, requires_grad flags
and all random number generators are what they were. What else a forward pass changes in place (a
list it appends to, a tensor that is no buffer, a NumPy Generator of its own) is not restored: don't
probe such a model.

Same randomness: the generators' state is noted at the start of the step (at the end of the last
one, or at zero_grad, whichever is later) and again at each forward pass of the model. The probe
starts at the first state and goes over to the others as its own forward passes begin. So numbers
drawn by a data loader in between do no harm. But when the closure itself draws numbers before the
forward pass and arrives there with another state than the training did, the draws were not the
same ones; that probe is discarded.
"""

from __future__ import annotations

import contextlib
import random
import sys
from typing import Any, Callable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from seismo.torch._hooks import Hook

_MAX_FORWARDS = 16  # forward passes of one step whose random state is noted


class RandomState:
    """State of every generator a training may draw from: torch (CPU, CUDA), Python, NumPy."""

    def __init__(self) -> None:
        self.cpu = torch.get_rng_state()
        cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
        self.cuda = torch.cuda.get_rng_state_all() if cuda else []
        self.python = random.getstate()
        numpy = sys.modules.get("numpy")
        self.numpy = numpy.random.get_state() if numpy is not None else None

    def restore(self) -> None:
        """Put all generators into this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(self.cuda)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomState) or len(self.cuda) != len(other.cuda):
            return False
        return (
            torch.equal(self.cpu, other.cpu)
            and all(map(torch.equal, self.cuda, other.cuda))
            and self.python == other.python
            and _numpy_key(self.numpy) == _numpy_key(other.numpy)
        )

    __hash__ = None  # type: ignore[assignment]


def _numpy_key(state: Any) -> Any:
    return None if state is None else (state[0], state[1].tobytes(), *state[2:])


def _autocast_of(kind: str) -> tuple[bool, torch.dtype]:
    """(enabled, dtype) of autocast on this kind of device now."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    if kind == "cpu":
        return torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()


class _Autocast:
    """The autocast state of a moment, to be entered later."""

    def __init__(self) -> None:
        kinds = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
        self._states = [(kind, *_autocast_of(kind)) for kind in kinds]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Run a block under this state, without the cache of cast weights.

        The cache may hold casts of the weights before the step, and a cast cached here, without
        gradients, would be used by the training.
        """
        with contextlib.ExitStack() as stack:
            for kind, enabled, dtype in self._states:
                context = torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)
                stack.enter_context(context)
            yield


class Different(Exception):
    """The closure did not repeat what the training did."""


class _MoreForwards(Different):
    """It ran the model more often."""


class Probe:
    """Runs closures after the step as if they stood before it.

    While `armed` the random states of the step are noted, which costs some ten microseconds;
    arm it only for steps that will be probed.
    """

    def __init__(self, model: nn.Module | None, full: bool) -> None:
        self.full = full
        self.armed = False
        self._model = model
        self._running = False
        self._needs_graph = False  # the closure differentiates inside, or has a no_grad of its own
        self._graph = False  # this closure runs with gradients
        self._start: RandomState | None = None
        self._zeroed: RandomState | None = None  # at the last zero_grad; a later start, perhaps
        self._forwards: list[RandomState] = []
        self._autocast: _Autocast | None = None
        self._buffers: dict[tuple[int, str], torch.Tensor] = {}  # before the forward pass
        self._handles = []
        hook = Hook(self._forward)
        for module in _roots(model):
            self._handles.append(module.register_forward_pre_hook(hook))

    @property
    def running(self) -> bool:
        """Whether what happens now is the probe's doing and not the training's."""
        return self._running

    def arm(self, armed: bool) -> None:
        """A new step begins; it will be probed or not."""
        self.armed = armed
        self._forwards.clear()
        self._buffers.clear()
        self._autocast = None
        self._zeroed = None
        self._start = RandomState() if armed else None

    def zeroed(self) -> None:
        """The gradients were just zeroed: the step begins here, if its forward pass follows."""
        if self.armed and not self._running:
            self._zeroed = RandomState()

    def _forward(self, *_: Any) -> None:
        # In a closure that runs under no_grad as a whole, all forward passes look the same.
        if not self.armed or not torch.is_grad_enabled() and (self._graph or not self._running):
            return
        if self._running:
            self._repeat()
            return
        if self._zeroed is not None:
            # What ran before zero_grad was no part of this step (a GAN's other half, say).
            self._start, self._zeroed = self._zeroed, None
            self._forwards.clear()
        if len(self._forwards) < _MAX_FORWARDS:
            if not self._forwards:
                self._autocast = _Autocast()
                self._buffers = {
                    (id(module), name): buffer.clone()
                    for module in self._model.modules()
                    for name, buffer in module._buffers.items()
                    if buffer is not None
                }
            self._forwards.append(RandomState())

    def _repeat(self) -> None:
        """One of the probe's forward passes begins: go over to the state of the training's own."""
        if self._place >= len(self._forwards):
            raise _MoreForwards("the closure runs the model more often than the training step did")
        state = self._forwards[self._place]
        if self._place == 0:
            now = RandomState()
            # Nothing drawn in the closure so far, or the very same numbers: both are fine.
            if now != self._start and now != state:
                raise Different(
                    "the closure draws random numbers before the model runs, and not those of the"
                    " training step; draw them outside of the closure, or call"
                    " optimizer.zero_grad() right before the forward pass"
                )
        state.restore()
        self._place += 1

    def run(
        self, closure: Callable[[], Any], params: list[torch.Tensor]
    ) -> tuple[torch.Tensor | float, Mapping[int, torch.Tensor | None]]:
        """(loss at theta_{t+1}, its gradient by the parameter's id, empty unless `full`).

        Raises Different when the closure does something else than the training step did, and
        whatever the closure raises; everything is restored then too.
        """
        if self._start is None:
            raise Different("the step's random numbers were not noted")
        if self._zeroed is not None and not self._forwards:
            self._start, self._zeroed = self._zeroed, None
        if not self.full and not self._needs_graph:
            try:
                with self._repeating(params, graph=False):
                    return _value(closure()), {}
            except _MoreForwards:
                pass  # some of them under no_grad, perhaps, where training does not count them
            except RuntimeError as error:
                if "grad" not in str(error):
                    raise  # else the loss itself is made of gradients
            self._needs_graph = True
        with self._repeating(params, graph=True):
            loss = closure()
            if not self.full:
                return _value(loss), {}
            wanted = [p for p in params if p.requires_grad]
            grads = torch.autograd.grad(loss, wanted, allow_unused=True)
        return _value(loss), {id(p): grad for p, grad in zip(wanted, grads)}

    @contextlib.contextmanager
    def _repeating(self, params: list[torch.Tensor], graph: bool) -> Iterator[None]:
        """From the start of the training step again; afterwards all is what it was."""
        before = RandomState()
        self._running, self._graph, self._place = True, graph, 0
        try:
            with _untouched(self._model, params, self._buffers), (
                self._autocast or _Autocast()
            ).entered(), torch.set_grad_enabled(graph):
                self._start.restore()
                yield
        finally:
            self._running = False
            before.restore()

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.armed = False


def _roots(model: nn.Module | None) -> list[nn.Module]:
    """The modules whose forward passes are the model's: containers are never called themselves."""
    if model is None:
        return []
    if isinstance(model, (nn.ModuleList, nn.ModuleDict)):
        return list(model.children())
    return [model]


def _value(loss: Any) -> Any:
    return loss.detach() if torch.is_tensor(loss) else loss


class _Modules:
    """Modules with their attributes and buffers put aside.

    The originals stay as they are while copies stand in for them, so that even a buffer's version
    counter is the same afterwards. `noted` are buffers before the training's forward pass, by
    module and name: spectral normalisation, for instance, makes its weights from them.
    """

    def __init__(self, noted: Mapping[tuple[int, str], torch.Tensor]) -> None:
        self._noted = noted
        self._saved: dict[int, tuple[nn.Module, dict, dict]] = {}
        self._copies: dict[int, torch.Tensor] = {}  # a buffer that two modules share stays shared

    def save(self, module: nn.Module) -> None:
        """Put this module's state aside, unless that was done already."""
        if id(module) in self._saved:
            return
        self._saved[id(module)] = (module, dict(module.__dict__), dict(module._buffers))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = self._noted.get((id(module), name), buffer).clone()
                module._buffers[name] = self._copies.setdefault(id(buffer), copy)
        if isinstance(module, nn.parallel.DistributedDataParallel):
            # No rank may wait for another in here.
            module.require_forward_param_sync = module.require_backward_grad_sync = False

    def restore(self) -> None:
        """Give every module its state back."""
        for module, attributes, buffers in self._saved.values():
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


@contextlib.contextmanager
def _untouched(
    model: nn.Module | None,
    params: list[torch.Tensor],
    noted: Mapping[tuple[int, str], torch.Tensor],
) -> Iterator[None]:
    """Let a block run modules, and leave no mark on them nor on the parameters."""
    tensors = {id(p): p for p in params}
    if model is not None:
        tensors.update((id(p), p) for p in model.parameters())
    grads = [(p, p.grad, p.requires_grad) for p in tensors.values()]
    modules = _Modules(noted)
    # The closure may run more than the watched model: the other network of a GAN, a loss module.
    handle = register_module_forward_pre_hook(lambda module, _: modules.save(module))
    try:
        for module in model.modules() if model is not None else ():
            modules.save(module)
        for param, grad, _ in grads:
            if grad is not None:
                param.grad = None
        yield
    finally:
        handle.remove()
        for param, grad, requires_grad in grads:
            if param.requires_grad != requires_grad:
                param.requires_grad_(requires_grad)
            if param.grad is not grad:
                param.grad = grad
        modules.restore()
