"""The same run as seen by clients that send less: fields left out, steps left out, losses averaged.

Everything is done to the rows, before any feature is computed, as it would be in use.
"""

import numpy as np

from models.corpus import archive

FIELDS = {name: i for i, name in enumerate(archive.VALUES)}


def _mask(*names: str) -> int:
    return sum(1 << FIELDS[n] for n in names)


GROUPS = {
    "gradient": _mask("grad_norm", "grad_max_abs", "grad_nonfinite"),
    "consecutive": _mask("grad_dot_prev", "grad_dot_update_prev", "grad_dot_update"),
    "ema": _mask("grad_ema_norm", "grad_ema_dot_update", "grad_dot_ema_prev"),
    "optimizer": _mask("update_norm", "param_norm", "momentum_norm", "second_moment_norm"),
    "probe": _mask("probe_loss"),
    "activation": _mask("act_rms", "act_dead", "act_saturated"),
    "lr": _mask("lr"),
    "validation": _mask("val_loss", "val_acc"),
}
"""Groups of fields that a client sends or does not."""

ALL = (1 << len(FIELDS)) - 1
SHOWN = {
    "all": ALL,
    "loss_grad_lr": _mask("loss", "grad_norm", "lr"),
    "loss": _mask("loss"),
}
"""The views that every figure is reported for."""

_OF_THE_LAST_STEP = _mask("grad_dot_prev", "grad_dot_update_prev", "grad_dot_ema_prev")


def masked(rows: np.ndarray, mask: int) -> np.ndarray:
    """Only the fields of the mask."""
    rows = rows.copy()
    rows["present"] &= np.uint32(mask)
    gone = (rows["present"][:, None] >> np.arange(len(FIELDS), dtype=np.uint32)) & 1 == 0
    rows["value"][gone] = 0
    return rows


def random_mask(rng: np.random.Generator) -> int:
    """Each group of fields is left out with a chance of 40 %."""
    mask = ALL
    for bits in GROUPS.values():
        if rng.random() < 0.4:
            mask &= ~bits
    return mask


def thinned(rows: np.ndarray, every: int, average: bool) -> np.ndarray:
    """Every n-th step only; the loss of one step or the mean since the last logged one."""
    kept = masked(rows[every - 1 :: every], ALL & ~_OF_THE_LAST_STEP)
    if average:
        loss = rows["value"][:, FIELDS["loss"]]
        n = len(kept)
        with np.errstate(invalid="ignore", over="ignore"):
            kept["value"][:, FIELDS["loss"]] = loss[: n * every].reshape(n, every).mean(1)
        kept["present"] &= np.uint32(~_mask("probe_loss") & ALL)
        kept["value"][:, FIELDS["probe_loss"]] = 0
    return kept
