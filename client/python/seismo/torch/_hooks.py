"""Where the measuring is hung into the training: optimizer, clipping, loss scaler, modules.

Every hook lets what it wraps do exactly what it did, passes on its result and its exceptions, and
keeps its own failures to itself (the callables given here do not raise).
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import weakref
from typing import Any, Callable

import torch


class Hook:
    """A module hook that stays with its module: a copied or pickled model gets an inert one.

    Models are deep-copied (weight averaging) and saved whole. A plain bound method would take the
    watch, its vectors and its socket along, a closure could not be pickled. The inert stand-in is
    from the standard library, so that a saved model loads where seismo is not installed.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        self._call(*args)

    def __reduce__(self) -> tuple:
        return getattr, (contextlib.nullcontext(), "__exit__")


class OptimizerHooks:
    """Calls `before(closure)` and `after()` around optimizer.step, `zeroing()` and `zeroed()` around
    zero_grad.

    `before` may return a closure to use instead of the caller's; it returns None to change nothing.
    torch 2 has hooks for step; before that, and for zero_grad always, the instance's method is
    wrapped. The wrapper stays a bound method with the original's attributes, because learning rate
    schedulers look at those.
    """

    def __init__(
        self,
        optimizer: Any,
        before: Callable[[Callable | None], Callable | None],
        after: Callable[[], None],
        zeroing: Callable[[], None],
        zeroed: Callable[[], None],
    ) -> None:
        self._undo: list[Callable[[], None]] = []
        if hasattr(optimizer, "register_step_post_hook"):
            self._undo.append(optimizer.register_step_pre_hook(_pre_hook(before)).remove)
            self._undo.append(optimizer.register_step_post_hook(lambda *_: after()).remove)
        else:
            self._wrap(optimizer, "step", _around_step(before, after))
        if hasattr(optimizer, "zero_grad"):
            self._wrap(optimizer, "zero_grad", _around(zeroing, zeroed))

    def _wrap(self, owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
        inner = getattr(owner, name)
        wrapper = functools.update_wrapper(wrap(inner), inner)
        method = types.MethodType(wrapper, owner)
        had = owner.__dict__.get(name)
        setattr(owner, name, method)

        def undo() -> None:
            if owner.__dict__.get(name) is not method:
                return  # somebody wrapped it again, and keeps ours, which then only passes through
            if had is None:
                delattr(owner, name)
            else:
                setattr(owner, name, had)

        self._undo.append(undo)

    def remove(self) -> None:
        """Take the hooks out again."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def _replace_closure(
    before: Callable, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Tell `before` of the closure among a step's arguments, and put its replacement there."""
    if args and callable(args[0]):
        closure = before(args[0])
        return (args if closure is None else (closure, *args[1:])), kwargs
    if callable(kwargs.get("closure")):
        closure = before(kwargs["closure"])
        return args, (kwargs if closure is None else {**kwargs, "closure": closure})
    before(None)
    return args, kwargs


def _pre_hook(before: Callable) -> Callable:
    def hook(optimizer: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        # torch passes the optimizer itself as the first of args.
        head = args[:1] if args and args[0] is optimizer else ()
        rest, kwargs = _replace_closure(before, args[len(head) :], kwargs)
        return head + rest, kwargs

    return hook


def _around_step(before: Callable, after: Callable[[], None]) -> Callable[[Callable], Callable]:
    def wrap(inner: Callable) -> Callable:
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = _replace_closure(before, args, kwargs)
            result = inner(*args, **kwargs)
            after()
            return result

        return step

    return wrap


def _around(
    before: Callable[[], None], after: Callable[[], None]
) -> Callable[[Callable], Callable]:
    def wrap(inner: Callable) -> Callable:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            before()
            result = inner(*args, **kwargs)
            after()
            return result

        return method

    return wrap


# What zeroing by a module, clipping and loss scaling tell, to every watch that asked.
_zero_listeners: weakref.WeakSet = weakref.WeakSet()  # zeroing(ids)
_clip_listeners: weakref.WeakSet = weakref.WeakSet()  # clipping(ids)
_scaler_listeners: weakref.WeakSet = weakref.WeakSet()  # scaled(optimizer)


def listen_to_zeroing(listener: Any) -> None:
    """Call `listener.zeroing(ids)` before a module's zero_grad; `ids` are its parameters'."""
    _zero_listeners.add(listener)
    original = torch.nn.Module.zero_grad
    if not hasattr(original, "_seismo"):
        torch.nn.Module.zero_grad = _module_zeroing(original)


def _module_zeroing(original: Callable) -> Callable:
    @functools.wraps(original)
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _zero_listeners:
            ids = {id(parameter) for parameter in self.parameters()}
            for listener in list(_zero_listeners):
                listener.zeroing(ids)
        return original(self, *args, **kwargs)

    zero_grad._seismo = True  # type: ignore[attr-defined]
    return zero_grad


def listen_to_clipping(listener: Any) -> None:
    """Call `listener.clipping(ids)` before torch's clipping functions change gradients.

    `ids` are the ids of the parameters to be clipped. The functions are replaced once in torch and
    in every module that has imported them by name; who keeps a reference elsewhere, or clips with
    code of its own, calls `watch.gradients()` before.
    """
    _clip_listeners.add(listener)
    from torch.nn.utils import clip_grad

    for name in ("clip_grad_norm_", "clip_grad_value_"):
        original = getattr(clip_grad, name)
        if not hasattr(original, "_seismo"):
            _rebind(name, original, _clipping(original))


def _clipping(original: Callable) -> Callable:
    @functools.wraps(original)
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if _clip_listeners:
            # A generator can be walked only once.
            parameters = [parameters] if torch.is_tensor(parameters) else list(parameters)
            ids = {id(parameter) for parameter in parameters}
            for listener in list(_clip_listeners):
                listener.clipping(ids)
        return original(parameters, *args, **kwargs)

    clip._seismo = True  # type: ignore[attr-defined]
    return clip


def _rebind(name: str, original: Callable, replacement: Callable) -> None:
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if isinstance(names, dict) and names.get(name) is original:
            names[name] = replacement


def listen_to_scaler(listener: Any, scaler: Any = None) -> None:
    """Call `listener.scaled(optimizer)` after a GradScaler's step, whether it stepped or skipped.

    That is where a skipped step is seen as it happens. `scaler` is one of a kind of its own.
    """
    _scaler_listeners.add(listener)
    kinds = [getattr(torch.cuda.amp, "GradScaler", None)]
    kinds.append(getattr(getattr(torch, "amp", None), "GradScaler", None))
    kinds.append(type(scaler) if scaler is not None else None)
    for kind in kinds:
        # Wrap where `step` is defined, or an inherited one would be wrapped twice.
        owner = next((k for k in getattr(kind, "__mro__", ()) if "step" in k.__dict__), None)
        if owner is not None and not hasattr(owner.__dict__["step"], "_seismo"):
            owner.step = _scaling(owner.__dict__["step"])


def _scaling(original: Callable) -> Callable:
    @functools.wraps(original)
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, optimizer, *args, **kwargs)
        for listener in list(_scaler_listeners):
            listener.scaled(optimizer)
        return result

    step._seismo = True  # type: ignore[attr-defined]
    return step


def unlisten(listener: Any) -> None:
    """Tell this listener nothing more."""
    _zero_listeners.discard(listener)
    _clip_listeners.discard(listener)
    _scaler_listeners.discard(listener)
