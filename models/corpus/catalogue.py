"""All events there are, and which of them a run may draw.

Plans are drawn from nothing but names and numbers, so a new event would change the runs that are recorded
already. Therefore runs below `GENERATION_2` draw from the first events only (faults.py, benign.py), runs
from it on from all of them; the later ones then twice as often, because the first 60 runs lack them.
"""

from models.corpus import (
    benign,
    benign_jobs,
    faults,
    faults_data,
    faults_network,
    faults_state,
    task,
)

GENERATION_2 = 60

_LATER_FAULTS = {**faults_data.FAULTS, **faults_state.FAULTS, **faults_network.FAULTS}
FAULTS = {**faults.FAULTS, **_LATER_FAULTS}
BENIGN = {**benign.BENIGN, **benign_jobs.BENIGN}


def weights(number: int, faulty: bool) -> dict:
    """Event → weight of the draw for run `number`."""
    if number < GENERATION_2:
        return dict(faults.WEIGHTS if faulty else benign.WEIGHTS)
    first, later = (
        (faults.WEIGHTS, _LATER_FAULTS) if faulty else (benign.WEIGHTS, benign_jobs.BENIGN)
    )
    return {**first, **{name: 2.0 for name in later}}


_LATE = (
    "lr_jump lr_ramp lr_creep optimizer_state label_noise corrupted_batches target_scale nan_batch"
    " weight_corruption gradient_corruption stale_checkpoint bit_flip loss_scale_growth"
).split()
"""Faults that come in the middle of a run."""


def long_weights(faulty: bool) -> dict:
    """The same for a long run."""
    return dict.fromkeys(_LATE if faulty else BENIGN, 1.0)


def applies(name: str, about: task.Task) -> bool:
    """Whether an event means anything for a program."""
    for module, events in (
        (faults_data, "FAULTS"),
        (faults_network, "FAULTS"),
        (benign_jobs, "BENIGN"),
    ):
        if name in getattr(module, events):
            return module.applies(name, about)
    return name not in faults.FAULTS or faults.applies(name, about)
