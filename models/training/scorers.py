"""A small causal convolution as a scorer: what rows of the past say, besides what the features of this row
remember of them.

Every row's inputs are turned into a few numbers once (`EMBED`); the score of a row comes from those
of the rows TAPS before it. In use a ring of embeddings would be kept, so that a row costs one
embedding and one small dense network: `Net.macs` multiplications and additions.
"""

import warnings

import numpy as np

from models.training import fit, views

TAPS = (0, 1, 2, 4, 8, 16, 32)
"""The rows that are looked at: this one and so many rows before it."""
EMBED, HIDDEN = 16, 32
EPOCHS, BATCH, RATE, DECAY = 8, 2048, 4e-3, 1e-4
HIDE = 0.1
"""In training a feature is hidden with this chance, besides the fields that a view leaves out."""

STREAMS = ("loss", "grad_norm", "lr", "update_norm", "grad_ema_norm", "probe_loss", "act_rms")
WINDOW = 32
STREAM_TAPS = tuple(range(WINDOW))
MADE_FROM = {"curvature": ("grad_norm", "grad_dot_prev")}


def seen_columns(library) -> list:
    """The features that the instability head sees: the models' without those of validation."""
    return [i for i in fit.columns(library) if library.groups[i] not in fit.ONLY_MISMATCH]


def _running(x: np.ndarray) -> np.ndarray:
    """Median of the rows before each one, at most WINDOW; NaN without any."""
    padded = np.concatenate([np.full(WINDOW, np.nan), x])
    before = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: len(x)]
    # Sorting puts what is missing last, which is much faster than numpy's nanmedian.
    ordered, n = np.sort(before, axis=1), (~np.isnan(before)).sum(1)
    low = np.take_along_axis(ordered, (np.maximum(n - 1, 0) // 2)[:, None], 1)[:, 0]
    high = np.take_along_axis(ordered, (n // 2)[:, None], 1)[:, 0]
    return (low + high) / 2


def streams(rows: np.ndarray) -> np.ndarray:
    """The streams themselves, normalised within the run: the loss against the median of the rows
    before it in units of its usual change, positive streams as logarithms of the ratio to their
    median, and the cosine of consecutive gradients. NaN where a value is missing."""
    told = {}
    for name in {*STREAMS, *MADE_FROM["curvature"]}:
        i = views.FIELDS[name]
        there = rows["present"] >> i & 1 == 1
        told[name] = np.where(there, rows["value"][:, i].astype(float), np.nan)
    out = []
    with np.errstate(all="ignore"):
        for name in STREAMS:
            x = np.where(np.isfinite(told[name]), told[name], np.nan)
            if name in ("loss", "probe_loss"):
                loss = np.where(np.isfinite(told["loss"]), told["loss"], np.nan)
                change = _running(np.abs(np.diff(loss, prepend=np.nan)))
                x = (x - _running(loss)) / np.maximum(change, 1e-9 * np.abs(loss) + 1e-30)
            else:
                x = np.log(np.maximum(x, 1e-30))
                x = x - _running(x)
            out.append(x)
        norm = told["grad_norm"]
        out.append(told["grad_dot_prev"] / (norm * np.concatenate([[np.nan], norm[:-1]])))
    out = np.stack(out, 1)
    return np.clip(np.where(np.isfinite(out), out, np.nan), -1e3, 1e3).astype(np.float32)


def histories(x: np.ndarray, index: np.ndarray, taps=TAPS) -> np.ndarray:
    """Inputs of the rows at and before each index: rows × taps × inputs; NaN before the start."""
    at = index[:, None] - np.array(taps)
    out = x[np.maximum(at, 0)]
    out[at < 0] = np.nan
    return out


class Scale:
    """Robust: median and quartiles of the rows learnt from; long tails are pulled in."""

    def __init__(self, x: np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a stream that no run sends
            quartiles = np.nanquantile(x[:: max(1, len(x) // 50_000)], (0.25, 0.5, 0.75), axis=0)
        low, self.middle, high = np.nan_to_num(quartiles).astype(np.float32)
        # A feature that is mostly zero has no quartiles to speak of.
        self.width = np.where(high - low > 1e-3, high - low, 1.0).astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values, NaN where they are missing."""
        return np.arcsinh((x - self.middle) / self.width)


def both(z: np.ndarray) -> np.ndarray:
    """Values with 0 for what is missing, and what is there."""
    there = ~np.isnan(z)
    return np.concatenate([np.where(there, z, 0), there], -1).astype(np.float32)


class Net:
    """A trained scorer: numpy only, as plain as the C code would be."""

    def __init__(self, scale: Scale, layers: list, taps: tuple):
        self.scale, self.layers, self.taps = scale, layers, taps

    @property
    def macs(self) -> int:
        """Multiplications and additions a row."""
        return sum(w.size for w, _ in self.layers)

    def margins(self, x: np.ndarray) -> np.ndarray:
        """Of all rows of one run in their order."""
        back, absent = max(self.taps), np.maximum(self.layers[0][1], 0)
        row = np.concatenate([np.broadcast_to(absent, (back, len(absent))), self._embedded(x)])
        return self._judged(np.concatenate([row[back - k : len(row) - k] for k in self.taps], 1))

    def of_histories(self, past: np.ndarray) -> np.ndarray:
        """Of rows × taps × inputs."""
        parts = np.array_split(past, max(1, len(past) // 10_000))
        return np.concatenate([self._judged(self._embedded(p).reshape(len(p), -1)) for p in parts])

    def _embedded(self, x: np.ndarray) -> np.ndarray:
        weight, bias = self.layers[0]
        return np.maximum(both(self.scale(x)) @ weight.T + bias, 0)

    def _judged(self, past: np.ndarray) -> np.ndarray:
        (w2, b2), (w3, b3) = self.layers[1:]
        return (np.maximum(past @ w2.T + b2, 0) @ w3.T + b3)[:, 0].astype(np.float32)


def trained(past: np.ndarray, y: np.ndarray, weight: np.ndarray, taps=TAPS, seed: int = 1) -> Net:
    """A scorer from rows × taps × inputs, their labels and weights. Deterministic on one thread."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    inputs = past.shape[2]
    scale = Scale(past[:, 0])
    embed = torch.nn.Linear(2 * inputs, EMBED)
    hidden = torch.nn.Linear(len(taps) * EMBED, HIDDEN)
    last = torch.nn.Linear(HIDDEN, 1)
    modules = torch.nn.ModuleList([embed, hidden, last])
    batches = -(-len(y) // BATCH)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * batches)
    order = torch.Generator().manual_seed(seed)
    target, w = (torch.from_numpy(v.astype(np.float32)) for v in (y, weight / weight.mean()))
    for _ in range(EPOCHS):
        for some in torch.randperm(len(y), generator=order).split(BATCH):
            z = torch.from_numpy(scale(past[some.numpy()]))
            there = ~torch.isnan(z) & (torch.rand(len(z), 1, inputs) >= HIDE)
            z = torch.cat([torch.where(there, z, torch.zeros(())), there.float()], 2)
            row = torch.relu(embed(z)).flatten(1)
            margin = last(torch.relu(hidden(row)))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                margin, target[some], weight=w[some]
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in modules]
    return Net(scale, layers, taps)
