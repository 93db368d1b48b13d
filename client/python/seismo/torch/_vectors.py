"""The vectors behind a step's numbers: gradient, update, parameters, running average.

All trained parameters of one device lie behind each other in rows of one matrix, in float32 (in
float64 where a parameter is float64), so that a step costs a handful of calls on long rows instead
of a dozen on each parameter. On large models the rows hold a fixed sample: of every tensor one
block of 1024 neighbouring elements in `share` blocks, chosen once. A sampled tensor's elements are
scaled by the root of (elements / sampled elements), so that every product of two rows estimates
the product of the whole vectors without bias; tensors of up to 1024 elements are taken whole.

Sums over a row are built from float32 dot products of 65,536 elements that are added up in double
precision. Everything here runs under torch.no_grad() and only ever reads what belongs to the
training.
"""

from __future__ import annotations

import math
import random
from typing import Any, Mapping, Sequence, Union

import torch

BLOCK = 1024  # elements of a sampled block
CHUNK = 1 << 16  # elements that one float32 dot product may span
EMA_DECAY = 0.9

Number = Union[float, torch.Tensor]  # a float, or on an accelerator a 0-dim float64 tensor

_FIRST_MOMENTS = ("exp_avg", "momentum_buffer")
_SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum")


def flatten(tensor: torch.Tensor, order: tuple[int, ...] | None) -> torch.Tensor:
    """The elements as one real vector, in the memory order that `order` describes.

    A view where the tensor lies in memory in that order, else a copy.
    """
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if order is not None:
        tensor = tensor.permute(order)
    return tensor.reshape(-1)


def memory_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The permutation that makes a dense tensor contiguous; None when it is contiguous."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda i: -strides[i]))


def eager(device: torch.device) -> bool:
    """Whether a result is there as soon as it is asked for."""
    return device.type == "cpu"


class Slot:
    """Where one parameter's elements lie in the rows of its group."""

    def __init__(self, param: torch.Tensor, share: int, rng: random.Random) -> None:
        self.param = param
        self.order = memory_order(param)
        self.size = param.numel() * (2 if param.is_complex() else 1)
        self.offset = 0  # in the row; set by the group
        self.blocks = 0  # sampled blocks, 0 = the whole tensor
        self.first = 0  # first sampled element
        self.stride = share * BLOCK
        self.length = self.size  # elements in the row
        if share > 1 and self.size > BLOCK:
            available = self.size // BLOCK
            start = rng.randrange(min(share, available))
            # The blocks do not always fill the tensor; a random shift gives its ends their turn.
            self.first = start * BLOCK + rng.randrange(self.size - available * BLOCK + 1)
            self.blocks = (available - start + share - 1) // share
            self.length = self.blocks * BLOCK
        self.weight = self.size / self.length
        self._cached: torch.Tensor | None = None
        self._cached_at = 0

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sampled elements of a tensor shaped like the parameter: (length,) or (blocks, BLOCK)."""
        flat = flatten(tensor, self.order)
        if self.blocks:
            return flat.as_strided(
                (self.blocks, BLOCK), (self.stride, 1), flat.storage_offset() + self.first
            )
        return flat

    def param_view(self) -> torch.Tensor:
        """`view` of the parameter itself, kept as long as its memory stays where it is."""
        if self.order is not None:
            return self.view(self.param.detach())
        at = self.param.data_ptr()
        if self._cached is None or at != self._cached_at:
            self._cached, self._cached_at = self.view(self.param.detach()), at
        return self._cached

    def scatter(self, row: torch.Tensor, grad: torch.Tensor) -> None:
        """Put a coalesced sparse gradient's sampled elements into the (zeroed) row."""
        values = grad._values()
        if not values.numel():
            return
        if self.order is not None or grad.is_complex():
            row[self.offset : self.offset + self.length] = self.view(grad.to_dense()).reshape(-1)
            return
        dense = values[0].numel()  # elements behind one index
        first = torch.zeros(values.shape[0], dtype=torch.long, device=values.device)
        for indices, size in zip(grad._indices(), grad.shape):
            first = first * size + indices
        places = (first.unsqueeze(1) * dense + torch.arange(dense, device=values.device)).reshape(
            -1
        )
        values = values.reshape(-1)
        if self.blocks:
            block = torch.div(places - self.first, self.stride, rounding_mode="floor")
            inside = places - self.first - block * self.stride
            taken = (places >= self.first) & (inside < BLOCK) & (block < self.blocks)
            places, values = (block * BLOCK + inside)[taken], values[taken]
        row[self.offset + places] = values.to(row.dtype)


class Group:
    """The rows of all parameters on one device.

    matrix rows, each (n,):
      0, 1   g_t and g_{t-1}, taking turns; `turn` is the row of g_t
      2      Delta_{t-1}, from `update` on Delta_t
      3      e_{t-1}, from `update` on e_t
      4      theta_t; after `update` scratch
    """

    def __init__(self, slots: list[Slot], device: torch.device, dtype: torch.dtype) -> None:
        blocks = [slot for slot in slots if slot.blocks]
        wholes = [slot for slot in slots if not slot.blocks]
        self.slots = blocks + wholes
        self.n_blocks, self.n_whole = len(blocks), len(wholes)
        self.split = sum(slot.length for slot in blocks)  # blocks before it, whole tensors after
        self.n = 0
        for slot in self.slots:
            slot.offset = self.n
            self.n += slot.length
        self.size = sum(slot.size for slot in slots)
        self.lazy = not eager(device)  # results stay on the device until all are needed
        self.matrix = torch.zeros((5, self.n), dtype=dtype, device=device)
        self.zero = torch.zeros((), dtype=dtype, device=device)
        self.scale: torch.Tensor | None = None  # (n,), root of the weights; None when all are 1
        if blocks:
            self.scale = torch.ones(self.n, dtype=dtype, device=device)
            for slot in blocks:
                self.scale[slot.offset : slot.offset + slot.length] = math.sqrt(slot.weight)
        self.turn = 0

    @property
    def sampled(self) -> bool:
        """Whether the rows hold less than everything."""
        return self.n_blocks > 0

    def gather(self, row: torch.Tensor, tensors: Sequence[torch.Tensor | None]) -> None:
        """Copy the sampled elements of a tensor a slot into the row; None and sparse give zeros."""
        views = [
            self._zeros(slot)
            if tensor is None or tensor.layout != torch.strided
            else slot.view(tensor)
            for slot, tensor in zip(self.slots, tensors)
        ]
        self.gather_views(row, views)

    def gather_views(self, row: torch.Tensor, views: list[torch.Tensor]) -> None:
        """Copy views as `Slot.view` makes them into the row."""
        if self.n_blocks:
            torch.cat(views[: self.n_blocks], out=row[: self.split].view(-1, BLOCK))
        if self.n_whole:
            torch.cat(views[self.n_blocks :], out=row[self.split :])

    def _zeros(self, slot: Slot) -> torch.Tensor:
        return (
            self.zero.expand(slot.blocks, BLOCK) if slot.blocks else self.zero.expand(slot.length)
        )

    def weigh(self, row: torch.Tensor) -> torch.Tensor:
        """Scale a row so that products of rows estimate products of whole vectors."""
        return row if self.scale is None else row.mul_(self.scale)

    def products(self, rows: slice, vector: torch.Tensor) -> list[Number]:
        """<row, vector> for each of the matrix's rows."""
        matrix = self.matrix[rows]
        if self.lazy:
            return list(torch.mv(matrix, vector).double().unbind())
        sums = [0.0] * matrix.shape[0]
        for start in range(0, self.n, CHUNK):
            part = torch.mv(matrix[:, start : start + CHUNK], vector[start : start + CHUNK])
            sums = [total + more for total, more in zip(sums, part.tolist())]
        return sums

    def square(self, row: torch.Tensor) -> Number:
        """<row, row>."""
        return torch.dot(row, row).double() if self.lazy else square_sum(row)

    def examine(
        self, row: torch.Tensor, flats: list[torch.Tensor]
    ) -> tuple[Number, Number, Number]:
        """(max|g|, <g,g>, count of NaN and infinite elements) of a gradient.

        `row` holds its elements, not weighed yet, `flats` the whole: its square tells of every
        element. The largest is looked for in the row; what is not finite is counted in the whole,
        except that on an accelerator the count is estimated from the row (at least 1 when there
        is one), since only the device knows yet whether there is anything to count.
        """
        if self.lazy:
            flats = [flat.to(self.matrix.dtype) for flat in flats]
            norms = torch.stack(torch._foreach_norm(flats) or [self.zero]).double()
            square = (norms * norms).sum()
            bad = (~torch.isfinite(row)).sum().double()
            if self.sampled:
                bad = torch.where(
                    torch.isfinite(square), bad * 0.0, (bad * (self.size / self.n)).clamp(min=1.0)
                )
            return row.abs().amax().double(), square, bad
        ends = torch.aminmax(row)
        largest = max(-ends[0].item(), ends[1].item())
        square = math.fsum(square_sum(flat) for flat in flats)
        if math.isfinite(square) and math.isfinite(largest):
            return largest, square, 0.0
        bad = sum(flat.numel() - int(torch.isfinite(flat).sum()) for flat in flats)
        if bad:
            nan = any(bool(torch.isnan(flat).any()) for flat in flats)
            return (math.nan if nan else math.inf), square, float(bad)
        return largest, math.fsum(square_sum(flat.double()) for flat in flats), 0.0


def square_sum(flat: torch.Tensor) -> float:
    """Sum of squares of a real vector on the CPU."""
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    if flat.numel() <= CHUNK:
        return float(torch.dot(flat, flat))
    return math.fsum(float(torch.dot(part, part)) for part in flat.split(CHUNK))


def coalesced(grad: torch.Tensor | None) -> torch.Tensor | None:
    """A gradient as the sums below want it: sparse ones with every index once."""
    if grad is None or grad.layout == torch.strided:
        return grad
    return grad.coalesce() if grad.layout == torch.sparse_coo else grad.to_dense()


class Vectors:
    """A step's numbers over all trained parameters.

    Call `before` with the gradients complete (and not clipped yet), `hold` right before the
    optimizer changes the parameters, `update` right after, and `advance` when the step is done.
    Results are raw sums by name, each a list with one Number a group; a name that cannot be
    computed is missing.
    """

    def __init__(self, params: list[torch.Tensor], share: int) -> None:
        self.params = params
        # A generator of our own, and always the same sample: the training's randomness is not ours.
        rng = random.Random(0x5E15)
        kinds: dict[tuple, list[Slot]] = {}
        for param in params:
            if param.numel():
                wide = param.dtype in (torch.float64, torch.complex128)
                dtype = torch.float64 if wide else torch.float32
                kinds.setdefault((param.device, dtype), []).append(Slot(param, share, rng))
        self.groups = [Group(slots, device, dtype) for (device, dtype), slots in kinds.items()]
        self.have_previous = False  # g_{t-1} and Delta_{t-1} are known
        self.have_ema = False
        self._finite = True  # g_t is, as far as the CPU knows

    @torch.no_grad()
    def before(self, factor: float = 1.0) -> Sums:
        """Read g_t = factor * .grad (the factor undoes a loss scale). May be called again.

        square <g,g>; largest max|g|; nonfinite count; prev <g,g_{t-1}>;
        update_prev <g,Delta_{t-1}>; ema_prev <g,e_{t-1}>
        """
        sums = Sums()
        self._finite = True
        for group in self.groups:
            g = group.matrix[group.turn]
            flats = self._read(group, g, [slot.param.grad for slot in group.slots], factor)
            largest, square, nonfinite = group.examine(g, flats)
            group.weigh(g)
            products = group.products(slice(0, 4), g)
            if not group.lazy and nonfinite:
                self._finite = False
            sums.add(square=square, largest=largest, nonfinite=nonfinite)
            if self.have_previous:
                sums.add(prev=products[1 - group.turn], update_prev=products[2])
            if self.have_ema:
                sums.add(ema_prev=products[3])
        return sums

    def _read(
        self, group: Group, row: torch.Tensor, grads: list[torch.Tensor | None], factor: float
    ) -> list[torch.Tensor]:
        """Fill a row from gradients; return the whole gradients as vectors, which may be the row."""
        grads = [coalesced(grad) for grad in grads]
        group.gather(row, grads)
        for slot, grad in zip(group.slots, grads):
            if grad is not None and grad.layout != torch.strided:
                slot.scatter(row, grad)
        if factor != 1.0:
            row.mul_(factor)
        if not group.sampled:
            return [row]
        flats = [
            flatten(grad, slot.order)
            if grad.layout == torch.strided
            else flatten(grad._values(), None)
            for slot, grad in zip(group.slots, grads)
            if grad is not None and (grad.layout == torch.strided or grad._nnz())
        ]
        return flats if factor == 1.0 else [flat * factor for flat in flats]

    @torch.no_grad()
    def hold(self) -> None:
        """Keep theta_t."""
        for group in self.groups:
            group.gather_views(group.matrix[4], [slot.param_view() for slot in group.slots])

    @torch.no_grad()
    def update(self, state: Mapping[torch.Tensor, Any]) -> Sums:
        """Read theta_{t+1} and the optimizer's state.

        update <Delta,Delta>; grad_update <g,Delta>; ema_update <e,Delta>; ema <e,e>;
        param <theta,theta>; first <m,m>; second the sum of v
        """
        sums = Sums()
        for group in self.groups:
            g, delta, theta = group.matrix[group.turn], group.matrix[2], group.matrix[4]
            group.gather_views(delta, [slot.param_view() for slot in group.slots])
            # Subtract first: the difference of two float32 neighbours is exact.
            group.weigh(delta.sub_(theta))
            self._average(group, g)
            products = group.products(slice(0, 4), delta)
            sums.add(
                update=products[2],
                grad_update=products[group.turn],
                ema_update=products[3],
                ema=group.square(group.matrix[3]),
                param=group.square(group.weigh(theta)),
            )
            self._moments(group, state, sums)
        self.have_ema = self.have_ema or self._finite
        if not self.have_ema:
            sums.drop("ema", "ema_update")
        return sums

    def _average(self, group: Group, g: torch.Tensor) -> None:
        """Bring e_t up to date; a gradient with NaN or infinities is left out, or it would stay."""
        ema = group.matrix[3]
        weight = 1.0 - EMA_DECAY if self.have_ema else 1.0
        if group.lazy:  # only the device knows yet whether g_t is finite
            finite = torch.isfinite(g).all()
            ema.copy_(torch.where(finite, torch.lerp(ema, g, weight), ema))
        elif not self._finite:
            return
        elif self.have_ema:
            ema.mul_(EMA_DECAY).add_(g, alpha=weight)
        else:
            ema.copy_(g)

    def _moments(self, group: Group, state: Mapping[torch.Tensor, Any], sums: Sums) -> None:
        states = [state.get(slot.param) or {} for slot in group.slots]
        scratch = group.matrix[4]
        for names, order in ((_FIRST_MOMENTS, 1), (_SECOND_MOMENTS, 2)):
            buffers = _buffers(group, states, names)
            if buffers is None:
                continue
            group.gather(scratch, buffers)
            group.weigh(scratch)
            if order == 1:
                sums.add(first=group.square(scratch))
            else:
                total = group.weigh(scratch).sum()  # torch adds up in cascades
                sums.add(second=total if group.lazy else total.item())

    @torch.no_grad()
    def probe(self, grads: Mapping[int, torch.Tensor | None]) -> Sums:
        """Compare g', given by the id of its parameter, with g_t and Delta_t; after `update`.

        probe_square <g',g'>; probe_update <g',Delta>; probe_diff <g'-g,g'-g>
        """
        sums = Sums()
        for group in self.groups:
            row = group.matrix[4]
            flats = self._read(group, row, [grads.get(id(s.param)) for s in group.slots], 1.0)
            square = group.examine(row, flats)[1]
            group.weigh(row)
            products = group.products(slice(2, 3), row)
            difference = row.sub_(group.matrix[group.turn])
            sums.add(
                probe_square=square, probe_update=products[0], probe_diff=group.square(difference)
            )
        return sums

    def advance(self, known: bool = True) -> None:
        """Make g_t the previous gradient; `known` is False when this step has no usable update."""
        for group in self.groups:
            group.turn = 1 - group.turn
        self.have_previous = known


def _buffers(
    group: Group, states: list[Any], names: tuple[str, ...]
) -> list[torch.Tensor | None] | None:
    """The first of these buffers that the optimizer keeps, one a slot; None if it keeps none."""
    for name in names:
        buffers = [
            value if torch.is_tensor(value) and value.shape == slot.param.shape else None
            for slot, value in ((slot, s.get(name)) for slot, s in zip(group.slots, states))
        ]
        if any(buffer is not None for buffer in buffers):
            return buffers
    return None


class Sums:
    """Raw sums by name, a Number a group, until they are needed as floats."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Number]] = {}

    def add(self, **values: Number) -> None:
        """Note one more group's share of each sum."""
        for name, value in values.items():
            self.parts.setdefault(name, []).append(value)

    def drop(self, *names: str) -> None:
        """Forget sums."""
        for name in names:
            self.parts.pop(name, None)

    def merge(self, other: Sums) -> None:
        """Take over another step part's sums."""
        self.parts.update(other.parts)

    def resolve(self) -> dict[str, list[float]]:
        """The parts as floats, with one transfer from each accelerator."""
        pending: dict[torch.device, list[tuple[str, int]]] = {}
        for name, parts in self.parts.items():
            for place, part in enumerate(parts):
                if torch.is_tensor(part):
                    pending.setdefault(part.device, []).append((name, place))
        for places in pending.values():
            values = torch.stack([self.parts[name][i].double() for name, i in places]).tolist()
            for (name, i), value in zip(places, values):
                self.parts[name][i] = value
        return self.parts
