#!/usr/bin/python3
"""Train a small convolutional network on Fashion-MNIST, watched by seismo.

An ordinary training script; the lines that make seismo watch it are marked. `--raise-lr-at STEP`
multiplies the learning rate in the middle, to see what an alarm looks like.
"""
import argparse
import gzip

import numpy
import torch
from torch import nn

import seismo.torch  # seismo

DATA = "/usr/share/datasets/fashion-mnist"


def load(directory: str, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) in [0, 1] and labels (n,) of the idx files in `directory`."""
    with gzip.open(f"{directory}/{part}-images-idx3-ubyte.gz") as f:
        images = numpy.frombuffer(f.read(), numpy.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(f"{directory}/{part}-labels-idx1-ubyte.gz") as f:
        labels = numpy.frombuffer(f.read(), numpy.uint8, offset=8)
    return torch.tensor(images / 255.0, dtype=torch.float32), torch.tensor(labels.astype("int64"))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 25, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="name of the run in seismo")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--raise-lr-at", type=int, metavar="STEP",
                        help="multiply the learning rate by --factor from this step on")
    parser.add_argument("--factor", type=float, default=100.0)
    parser.add_argument("--data", default=DATA, help="directory of the idx files (default: %(default)s)")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(1)
    images, labels = load(args.data, "train")
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    watch = seismo.torch.watch(model, optimizer, run=args.run, program="train_fashion.py")  # seismo

    for step in range(args.steps):
        if step == args.raise_lr_at:
            optimizer.param_groups[0]["lr"] *= args.factor
        batch = torch.randint(len(images), (64,))
        x, y = images[batch], labels[batch]
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        watch.step(loss, closure=lambda: criterion(model(x), y))  # seismo
        if step % 100 == 99:
            print(f"{args.run}: step {step + 1} of {args.steps}, loss {loss.item():.3f}", flush=True)
    watch.close()  # seismo


if __name__ == "__main__":
    main()
