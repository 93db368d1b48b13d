"""Activations: size, dead units and saturation, from a sample of the layers' outputs.

Forward hooks on the leaf modules copy up to 4096 evenly spaced elements of an output. They do so
on every `every`-th step only, for each module's first call with gradients enabled, so that
validation, later micro-batches and recomputation are not mixed in. What is called as a function
(torch.nn.functional.relu) has no module and is not seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from seismo.torch._hooks import Hook
from seismo.torch._vectors import Sums, eager, flatten, memory_order

SAMPLE = 4096  # elements of one module's output
MODULES = 64  # modules looked at, spread over the model

_ZEROING = (nn.ReLU, nn.ReLU6)
_SATURATING = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Softsign)
_OTHERS = (nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish, nn.Hardswish, nn.PReLU)
_LIMIT = 0.99  # of the way from the middle of the range to its end


def _range(module: nn.Module) -> tuple[float, float]:
    """(middle, half width) of a saturating unit's outputs."""
    if isinstance(module, (nn.Sigmoid, nn.Hardsigmoid)):
        return 0.5, 0.5
    if isinstance(module, nn.Hardtanh):
        half = (module.max_val - module.min_val) / 2
        return module.min_val + half, half
    return 0.0, 1.0


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, _ZEROING):  # before Hardtanh, which ReLU6 inherits from
        return "zeroing"
    if isinstance(module, _SATURATING):
        return "saturating"
    has_parameters = next(module.parameters(recurse=False), None) is not None
    if isinstance(module, _OTHERS) or (has_parameters and next(module.children(), None) is None):
        return "other"
    return None


class Activations:
    """Collects samples while `armed`, and makes sums of them."""

    def __init__(self, model: nn.Module) -> None:
        self.armed = False
        self._kinds: dict[int, tuple[str, float, float]] = {}
        self._samples: dict[int, torch.Tensor] = {}
        modules = [(m, k) for m, k in ((m, _kind(m)) for m in model.modules()) if k is not None]
        step = max(1, math.ceil(len(modules) / MODULES))
        self._handles = []
        hook = Hook(self._seen)
        for module, kind in modules[::step]:
            middle, half = _range(module) if kind == "saturating" else (0.0, 1.0)
            self._kinds[id(module)] = (kind, middle, half)
            self._handles.append(module.register_forward_hook(hook))

    def __bool__(self) -> bool:
        return bool(self._handles)

    def _seen(self, module: nn.Module, _: Any, output: Any) -> None:
        if not self.armed or not torch.is_grad_enabled():
            return
        key = id(module)
        if key in self._samples:
            return
        if isinstance(output, (tuple, list)):  # recurrent layers and attention: output first
            output = output[0] if output else None
        if not torch.is_tensor(output) or not output.is_floating_point() or not output.numel():
            return
        # A copy: what follows may change the output in place.
        with torch.no_grad():
            flat = flatten(output.detach(), memory_order(output))
            # An odd stride, or the sample would always hit the same few units of a layer.
            self._samples[key] = flat[:: -(-flat.numel() // SAMPLE) | 1].float().clone()

    @torch.no_grad()
    def collect(self) -> Sums:
        """Sums over the samples, one part a module; forgets the samples.

        act_square mean square; act_dead share of exact zeros; act_saturated share beyond the limit
        """
        sums = Sums()
        for key, sample in self._samples.items():
            kind, middle, half = self._kinds[key]
            n = sample.numel()
            square = torch.dot(sample, sample) / n
            sums.add(act_square=square.item() if eager(sample.device) else square)
            if kind == "zeroing":
                sums.add(act_dead=(sample == 0).sum() / n)
            elif kind == "saturating":
                sums.add(act_saturated=((sample - middle).abs() > _LIMIT * half).sum() / n)
        self._samples.clear()
        return sums

    def forget(self) -> None:
        """Drop the samples of a step that makes no row."""
        self._samples.clear()

    def remove(self) -> None:
        """Take the hooks out again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._samples.clear()
