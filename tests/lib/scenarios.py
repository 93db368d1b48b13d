"""Small real training runs, healthy and broken, on the handwritten digits of scikit-learn.

None of them is a program of the training corpus. `train(kind, watch)` trains for STEPS steps and
calls `watch.step(loss, closure=…)` after each, as a user's script would.
"""
import random

import numpy
import torch
from sklearn.datasets import load_digits

STEPS = 300
ONSET = 150
KINDS = ("healthy", "lr_x100", "bad_init", "nan_batch", "missing_zero_grad")


def digits():
    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32).unsqueeze(1)
    return x, torch.tensor(data.target)


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(12, 24, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(24 * 16, 48), torch.nn.ReLU(),
        torch.nn.Linear(48, 10))


def train(kind, make_watch, steps=STEPS, seed=0, on_step=None):
    """Train; `make_watch(model, optimizer)` returns what is to watch it. Returns the watch, closed."""
    assert kind in KINDS, kind
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed)
    torch.set_num_threads(1)
    x, y = digits()
    model = network()
    if kind == "bad_init":
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(12.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = torch.nn.CrossEntropyLoss()
    watch = make_watch(model, optimizer)
    for step in range(steps):
        batch = torch.randint(len(x), (32,))
        bx, by = x[batch], y[batch]
        if step == ONSET and kind == "lr_x100":
            optimizer.param_groups[0]["lr"] *= 100
        if step == ONSET and kind == "nan_batch":
            bx = torch.full_like(bx, float("nan"))
        if kind != "missing_zero_grad":
            optimizer.zero_grad()
        loss = criterion(model(bx), by)
        loss.backward()
        optimizer.step()
        watch.step(loss, closure=lambda bx=bx, by=by: criterion(model(bx), by))
        if on_step is not None:
            on_step(step)
    watch.close()
    return watch
