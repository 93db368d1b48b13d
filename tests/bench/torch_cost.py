#!/usr/bin/python3
"""What seismo costs a training step, as a markdown table.

    PYTHONPATH=client/python tests/bench/torch_cost.py [--threads N] [--seconds S]

Two copies of a training go on in turns, a block of steps each, one of them watched. The figure is
the median over the blocks' ratios, with the quartiles, so that a machine's drift cancels. The share
depends on the BLAS: a slow one makes the step longer and seismo look cheaper, so it is named.
"""
import argparse
import os
import pathlib
import re
import statistics
import time

import seismo
import seismo.torch
import torch
from torch import nn

NOBODY = "tcp://127.0.0.1:9"  # a daemon that is not there costs a step what one that is there does


class Transformer(nn.Module):
    """Encoder of six layers on sequences of 64 embeddings."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(512, 8, 2048, dropout=0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 6)
        self.head = nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


def perceptron(*widths):
    layers = []
    for here, there in zip(widths, widths[1:]):
        layers += [nn.Linear(here, there), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# name: (model, input shape)
TRAININGS = {
    "60 k": (lambda: perceptron(64, 192, 192, 50), (64, 64)),
    "1 M": (lambda: perceptron(256, 700, 700, 470), (64, 256)),
    "20 M": (lambda: perceptron(1024, 3000, 3000, 2600), (64, 1024)),
    "19 M, transformer": (Transformer, (8, 64, 512)),
}
WATCHES = {
    "watch": dict(probe=None),
    "with forward probe": dict(probe="forward"),
    "with full probe": dict(probe="full"),
}


class Training:
    """Forward, backward, Adam and perhaps a watch."""

    def __init__(self, make, shape, options=None):
        torch.manual_seed(0)
        self.net = make()
        self.opt = torch.optim.Adam(self.net.parameters(), 1e-4)
        self.x = torch.randn(shape)
        self.watch = None
        if options is not None:
            self.watch = seismo.torch.watch(
                self.net, self.opt, "bench", "bench", ingest=NOBODY, **options)

    def loss(self):
        return self.net(self.x).pow(2).mean()

    def block(self, steps):
        """Seconds for so many steps."""
        began = time.perf_counter()
        for _ in range(steps):
            self.opt.zero_grad()
            loss = self.loss()
            loss.backward()
            self.opt.step()
            if self.watch:
                self.watch.step(loss, closure=self.loss)
            else:
                loss.item()  # what any loop does to print it
        return time.perf_counter() - began


def compare(make, shape, options, seconds):
    """(ms a plain step, ratios watched / plain) over about so many seconds."""
    plain, watched = Training(make, shape), Training(make, shape, options)
    plain.block(20), watched.block(20)
    # Whole probe intervals, so that every block holds the same number of probes.
    steps = max(10, round(0.2 / (plain.block(10) / 10) / 10) * 10)
    times, ratios = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(ratios) < 5:
        first = plain.block(steps)
        second = watched.block(steps)
        third = plain.block(steps)
        times.append(first / steps)
        ratios.append(2 * second / (first + third))
    stats = watched.watch.stats
    watched.watch.close(timeout=0)
    assert stats["measuring"] and stats["errors"] <= 2, stats
    return statistics.median(times) * 1e3, ratios


def blas():
    """The library that does the matrix products, as the system has it loaded."""
    torch.mm(torch.ones(2, 2), torch.ones(2, 2))
    maps = pathlib.Path("/proc/self/maps").read_text()
    found = sorted({os.path.realpath(path) for path in re.findall(
        r"\S*/lib(?:openblas|mkl_core|blas|blis)\S*\.so\S*", maps)})
    return ", ".join(found) or "built into torch"


def processor():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    return re.search(r"model name\s*: (.*)", info)[1]


def stream(ingest, trace=None):
    """Microseconds of `Run.step` with all fields: (median, 99.9th percentile)."""
    fields = {name: 1.2345 for name in seismo._protocol.VALUE_FIELDS}
    run = seismo.Run("bench", "bench", ingest=ingest, trace=trace)
    times = []
    for step in range(60000):
        began = time.perf_counter()
        run.step(step, **fields)
        times.append(time.perf_counter() - began)
        if step % 100 == 0:
            time.sleep(0.001)
    run.close(timeout=0)
    times.sort()
    return times[len(times) // 2] * 1e6, times[len(times) * 999 // 1000] * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--seconds", type=float, default=20, help="per figure (default 20)")
    parser.add_argument("--only", help="parameters: only this row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    print(f"{processor()}, torch {torch.__version__}, {options.threads} thread(s), BLAS {blas()}\n")
    print("| parameters | forward + backward + Adam |", " | ".join(WATCHES), "|")
    print("|---|---|" + "---|" * len(WATCHES))
    for name, (make, shape) in TRAININGS.items():
        if options.only and options.only != name:
            continue
        cells, base = [], []
        for watch in WATCHES.values():
            milliseconds, ratios = compare(make, shape, watch, options.seconds)
            base.append(milliseconds)
            low, middle, high = statistics.quantiles(ratios, n=4)
            more = (middle - 1) * milliseconds
            text = f"{more * 1e3:.0f} µs" if more < 1 else f"{more:.1f} ms"
            cells.append(f"+{(middle - 1) * 100:.1f} % ({(low - 1) * 100:.1f}…{(high - 1) * 100:.1f}), "
                         f"{text}")
        print(f"| {name} | {statistics.median(base):.2f} ms | {' | '.join(cells)} |", flush=True)
    middle, high = stream(NOBODY)
    print(f"\nRun.step with all fields, streaming: {middle:.1f} µs, 99.9th percentile {high:.0f} µs")
    middle, high = stream(False, "/dev/null")
    print(f"Run.step with all fields, into a trace: {middle:.1f} µs, 99.9th percentile {high:.0f} µs")


if __name__ == "__main__":
    main()
