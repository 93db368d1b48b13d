"""Record one run: train a program as its plan says, watched by the product's own client.

The clean probe (true loss, evaluation mode, fixed data) is computed on a copy of the model that
carries no hooks, with the random state put back, and goes to the side record only.
"""

import copy
import json
import math
import pathlib

import numpy as np
import torch

import seismo.torch
from models.corpus import archive, catalogue, plan as plans, programs, task as tasks

CHECKPOINTS = 16
"""Intervals between the clean probe's measurements: there is one more measurement."""


def settle() -> None:
    """The process-wide settings that a recording depends on."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True, warn_only=True)


class _Clean:
    """The clean probe of one run."""

    def __init__(self, task: tasks.Task, event):
        self.task, self.event = task, event
        self.copy = copy.deepcopy(task.model)
        self.series = []

    def measure(self, step: int) -> None:
        """Add (step, clean loss)."""
        self.copy.load_state_dict(self.task.model.state_dict())
        self.copy.eval()
        state = torch.get_rng_state()
        torch.manual_seed(11)
        with torch.no_grad():
            if self.task.clean:
                value = self.task.clean(self.copy)
            else:
                batches = [self.event.clean_batch(step, b) for b in self.task.probe]
                weights = [len(b[-1]) for b in batches]
                losses = [float(self.task.loss(self.copy, b)) for b in batches]
                value = sum(x * w for x, w in zip(losses, weights)) / sum(weights)
        torch.set_rng_state(state)
        if not all(bool(torch.isfinite(p).all()) for p in self.copy.parameters()):
            value = math.nan
        number = self.event.number(step)
        self.series = [point for point in self.series if point[0] < number]
        self.series.append([number, value if math.isfinite(value) else str(value)])


def _validate(task: tasks.Task, watch) -> None:
    task.model.eval()
    state = torch.get_rng_state()
    with torch.no_grad():
        losses = [float(task.loss(task.model, b)) for b in task.validation]
        known = {"loss": float(np.mean(losses))}
        if task.accuracy:
            known["accuracy"] = float(
                np.mean([task.accuracy(task.model, b) for b in task.validation])
            )
    torch.set_rng_state(state)
    task.model.train()
    watch.validation(**known)


def _train(plan: plans.Plan, task: tasks.Task, event, clean: _Clean, watch) -> None:
    optimizers = [task.optimizer] + task.others
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]
    checkpoints = {round(plan.steps * k / CHECKPOINTS) for k in range(CHECKPOINTS)}
    recent = []
    for step in range(plan.steps):
        if step in checkpoints:
            clean.measure(step)
        event.before(step)
        rate = task.schedule(plan.scheduled(step)) * event.rate(step)
        for optimizer, rates in zip(optimizers, base):
            for group, lr in zip(optimizer.param_groups, rates):
                group["lr"] = lr * rate
        size = max(1, round(task.batch_size * event.batch_factor(step)))
        batches = [event.batch(step, task.draw(size)) for _ in range(plan.accumulate)]

        def closure():
            losses = [task.loss(task.model, b) for b in batches]
            return event.loss(step, sum(losses) / len(losses))

        if event.zero_grad(step):
            task.optimizer.zero_grad()
        value = 0.0
        for b in batches:
            loss = event.loss(step, task.loss(task.model, b)) / plan.accumulate
            loss.backward()
            value += float(loss.detach())
        event.gradients(step)
        finite = all(bool(torch.isfinite(g).all()) for g in event.gradients_list())
        if task.clip:
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), task.clip)
        if finite or not event.skip_nonfinite:
            task.optimizer.step()
        recent = (recent + [value])[-plan.average :]
        if plan.validate and task.validation and step % plan.validate == plan.validate - 1:
            _validate(task, watch)
        if (step + 1) % plan.every == 0:
            number = event.number(step)
            watch.step(float(np.mean(recent)), closure=closure if task.probed else None, step=number)
        if task.after_step:
            task.after_step(step)
    clean.measure(plan.steps)


def record(plan: plans.Plan, folder: pathlib.Path) -> tuple:
    """Run it. Returns (the packed trace, the side record)."""
    settle()
    torch.manual_seed(plan.seed)
    task = programs.build(plan.program, plan.seed)
    kinds = catalogue.FAULTS if plan.faulty else catalogue.BENIGN
    event = kinds[plan.event](np.random.default_rng(plan.event_seed), task, plan.steps, plan.harsh)
    torch.manual_seed(plan.seed ^ 0x5EED)
    event.prepare()
    task.model.train()
    clean = _Clean(task, event)
    path = folder / f"{plan.run}.jsonl"
    watch = seismo.torch.watch(
        task.model,
        task.optimizer,
        run=plan.run,
        program=plan.program,
        trace=str(path),
        ingest=False,
        probe="full",
    )
    # The corpus has no rows of its own for steps that a scaler leaves out, and stays as it is.
    watch.rows_of_skips = False
    try:
        _train(plan, task, event, clean, watch)
    finally:
        watch.close()
    trace = pack(path, plan, task)
    path.unlink()
    plan.drawn = {k: round(v, 6) if isinstance(v, float) else v for k, v in event.drawn.items()}
    side = plan.record()
    side.update(fault=event.fault, onset=event.onset, kind=task.kind, clean=clean.series)
    return trace, side


def pack(path: pathlib.Path, plan: plans.Plan, task: tasks.Task) -> bytes:
    """The trace as the archive keeps it."""
    rows = []
    for line in path.read_text().splitlines()[1:]:
        row = json.loads(line)
        while rows and rows[-1]["step"] >= row["step"]:  # superseded, as in the daemon
            rows.pop()
        rows.append(row)
    header = {
        "run": plan.run,
        "program": plan.program,
        "framework": "torch",
        "optimizer": type(task.optimizer).__name__,
        "batch_size": task.batch_size,
        "n_params": sum(p.numel() for p in task.model.parameters()),
        "seed": plan.seed,
    }
    return archive.pack(header, archive.rows_from_json(rows))
