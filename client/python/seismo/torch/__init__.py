"""Watch a PyTorch training loop: every field of seismo's interface, measured from hooks.

    import seismo.torch

    watch = seismo.torch.watch(model, optimizer, run="gpt2-a", program="train_gpt2.py")
    for x, y in batches:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        watch.step(loss, closure=lambda: criterion(model(x), y))
    watch.close()

The training is not changed by a bit: parameters, gradients, buffers and random numbers are the same
with and without. With g_t the gradient at theta_t, Delta_t = theta_{t+1} - theta_t and e_t the
running average of gradients, a row holds

    loss, lr                          given, and of the first parameter group
    grad_norm, grad_max_abs, grad_nonfinite
                                      before clipping
    grad_dot_prev, grad_dot_update_prev, grad_dot_update, update_norm, param_norm
                                      over all trained parameters; on models of more than 131,072
                                      parameters estimated from a fixed sample (see `sample`), as
                                      is all that follows but the losses and the activations
    momentum_norm                     of the state's exp_avg or momentum_buffer, after the step
    second_moment_norm                of the root of exp_avg_sq, square_avg or sum, after the step
    grad_ema_norm, grad_ema_dot_update, grad_dot_ema_prev
                                      e_0 = g_0, e_t = 0.9 e_{t-1} + 0.1 g_t; a gradient with NaN or
                                      infinities is left out of the average
    probe_*                           every `probe_every` steps, when a closure is given
    act_rms, act_dead, act_saturated  every `activations_every` steps: root of the mean over layers
                                      of the mean square of their outputs; share of exact zeros
                                      after ReLU and ReLU6; share of outputs of tanh, sigmoid,
                                      hardtanh, hardsigmoid and softsign beyond 99 % of the way
                                      from the middle of their range to its end
    val_loss, val_acc                 given by `validation`

A step that a GradScaler skipped makes a row too, with grad_nonfinite > 0 and update_norm 0; and so
does one that other code left out (`if finite: optimizer.step()`, a scaler of another kind), as soon
as the optimizer's or the module's zero_grad() drops the NaN or infinities of its gradients. A loop
that drops them itself (`p.grad = None`, `p.grad.zero_()`) tells nobody: a step that it leaves out
makes no row, and its loss goes into the mean of the next row. With zero_grad() it makes one.

With a closure for the optimizer (LBFGS) g_t is the gradient of its first evaluation. Fields that
need a previous step are absent on the first one, and on the first after the set of trained
parameters has changed.
"""

from __future__ import annotations

import os
from typing import Any, Mapping

from torch import nn

from seismo._run import Run
from seismo.torch._watch import (
    ACTIVATIONS_EVERY,
    Watch,
    describe,
    place_among_ranks,
    ranked_path,
)

__all__ = ["Watch", "watch"]


def watch(
    model: nn.Module | None,
    optimizer: Any,
    run: str | None = None,
    program: str | None = None,
    *,
    ingest: str | bool | None = None,
    server_key_file: str | os.PathLike | None = None,
    key_file: str | os.PathLike | None = None,
    trace: str | os.PathLike | None = None,
    spool: str | os.PathLike | None = None,
    probe: str | None = "forward",
    probe_every: int | None = None,
    sample: int | bool | None = None,
    activations_every: int = ACTIVATIONS_EVERY,
    scaler: Any = None,
    rank: int | None = None,
    world: int | None = None,
    start_step: int = 0,
    batch_size: int | None = None,
    seed: int | None = None,
    params: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Watch:
    """Watch one optimizer's training. Several optimizers (a GAN's two) get a watch each.

    model        whose activations and buffers are looked at, wrapped (DataParallel, DDP, compiled)
                 or not; None measures the optimizer alone. Of a compiled model no activations.
    optimizer    whose parameters are measured; parameters may be frozen, unfrozen and added later
    run, program, ingest, server_key_file, key_file, trace, spool, meta   as for `seismo.Run`. A
                 trace of rank N > 0 goes to `NAME.rankN.SUFFIX`.
    probe        "forward": the loss again after the step; "full": its gradient too; None: never
    probe_every  steps between probes; default: what the daemon hints at, else 10. 0: never
    sample       measure one block of 1024 elements in this many; default: everything up to
                 131,072 parameters, above so many that about as much is left. 1 or False:
                 everything. Which blocks is fixed from the start. Norms and products are
                 estimates without bias; grad_norm and grad_nonfinite are always of the whole
                 gradient, grad_max_abs is the largest of the sample.
    activations_every   steps between looks at the activations, 0: never
    scaler       the GradScaler, needed only if it is no torch.cuda.amp.GradScaler, if gradients
                 are clipped while still scaled, or if a fused optimizer unscales by itself
    rank, world  default: those of torch.distributed, else of RANK and WORLD_SIZE, else 0 of 1
    start_step   number of the first step: that of the checkpoint for a resumed job
    batch_size, seed, params   for the record; `params` is a mapping of hyper-parameters

    Raises ValueError for an unknown `probe`; nothing else, and nothing after that: failures of
    measuring are logged once, counted, and after ten of them only the loss is sent.
    """
    if probe not in (None, "forward", "full"):
        raise ValueError(f'probe must be "forward", "full" or None, not {probe!r}')
    found_rank, found_world = place_among_ranks()
    rank = found_rank if rank is None else rank
    world = max(found_world, rank + 1) if world is None else world
    about = describe(optimizer, meta, batch_size=batch_size, seed=seed, params=params)
    stream = Run(
        run,
        program,
        ingest=ingest,
        server_key_file=server_key_file,
        key_file=key_file,
        rank=rank,
        world=world,
        meta=about,
        trace=ranked_path(trace, rank) if trace else None,
        spool=spool,
    )
    return Watch(
        stream,
        model,
        optimizer,
        probe=probe,
        probe_every=probe_every,
        sample=sample,
        activations_every=activations_every,
        scaler=scaler,
        start_step=start_step,
    )
