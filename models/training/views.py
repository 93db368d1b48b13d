"""The same run as seen by clients that send less: fields left out, steps left out, losses averaged.

Everything is done to the rows, before any feature is computed, as it would be in use.
"""

import numpy as np

from models.corpus import archive

FIELDS = {name: i for i, name in enumerate(archive.VALUES)}


def of(*names: str) -> int:
    """The mask of some fields."""
    return sum(1 << FIELDS[n] for n in names)


FULL_PROBE = of("probe_grad_dot_update", "probe_grad_norm", "probe_grad_diff_norm")
"""What a probe tells only with a backward pass, which clients leave out unless asked."""

GROUPS = {
    "gradient": of("grad_norm", "grad_max_abs", "grad_nonfinite"),
    "consecutive": of("grad_dot_prev", "grad_dot_update_prev", "grad_dot_update"),
    "ema": of("grad_ema_norm", "grad_ema_dot_update", "grad_dot_ema_prev"),
    "optimizer": of("update_norm", "param_norm", "momentum_norm", "second_moment_norm"),
    "probe": of("probe_loss"),
    "full_probe": FULL_PROBE,
    "activation": of("act_rms", "act_dead", "act_saturated"),
    "lr": of("lr"),
    "validation": of("val_loss", "val_acc"),
}
"""Groups of fields that a client sends or does not."""

ALL = (1 << len(FIELDS)) - 1
SHOWN = {
    "all": ALL,
    "loss_grad_lr": of("loss", "grad_norm", "lr"),
    "loss": of("loss"),
}
"""The views that every figure is reported for."""

HEADS = {
    "loss": (),
    "loss_grad_lr": ("grad_norm", "grad_max_abs", "grad_nonfinite"),
    "all": tuple(
        name
        for name, i in FIELDS.items()
        if not (of("loss", "lr") | GROUPS["gradient"] | GROUPS["validation"]) >> i & 1
    ),
}
"""The instability heads of a model, each named like the view that it is judged by, and the fields
of which any calls for it. The detector takes the last head that is called for."""

_OF_THE_LAST_STEP = of("grad_dot_prev", "grad_dot_update_prev", "grad_dot_ema_prev")


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
        kept["present"] &= np.uint32(~of("probe_loss") & ALL)
        kept["value"][:, FIELDS["probe_loss"]] = 0
    return kept
