"""Small trainings for the tests of seismo.torch: the same loop with and without a watch."""
import contextlib
import random

import numpy
import torch
from torch import nn
from torch.nn import functional

STEPS = 25


class Mlp(nn.Module):
    """Dropout, batch normalisation, both kinds of activations, randomness from NumPy and Python."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(32, 32),
            nn.Tanh(),
            nn.Linear(32, 3),
        )

    def forward(self, x):
        x = x + random.random() * 1e-3 + numpy.random.rand() * 1e-3
        return self.layers(x)


class Conv(nn.Module):
    """Spectral normalisation (power iteration moves a buffer), channels-last memory, in place."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.utils.spectral_norm(nn.Conv2d(3, 8, 3)),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 4, 3),
            nn.Dropout2d(0.2),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        image = torch.cat([x, x[:, :, None].repeat(1, 1, 16).flatten(1)], 1)[:, :192].view(
            -1, 3, 8, 8
        )
        return self.layers(image.to(memory_format=torch.channels_last))


class Recurrent(nn.Module):
    """An LSTM with dropout between its layers, and a parameter that is used twice."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 8, num_layers=2, dropout=0.2, batch_first=True)
        self.out = nn.Linear(8, 3)
        self.shared = self.out.weight

    def forward(self, x):
        out, _ = self.rnn(x.view(-1, 3, 4))
        return self.out(out[:, -1]) + functional.linear(out[:, 0], self.shared)


class Words(nn.Module):
    """Sparse gradients, layer normalisation, a part never used, a parameter without elements."""

    def __init__(self, sparse=True):
        super().__init__()
        self.words = nn.Embedding(50, 6, sparse=sparse)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)
        self.unused = nn.Linear(4, 4)
        self.empty = nn.Parameter(torch.zeros(0, 3))

    def forward(self, x):
        ids = (x[:, :5].abs() * 20).long().clamp(max=49)
        return self.out(self.norm(self.words(ids).mean(1)))


class Frozen(Mlp):
    """Its first layer does not learn."""

    def __init__(self):
        super().__init__()
        self.layers[0].requires_grad_(False)


MODELS = {
    "mlp": Mlp,
    "conv": Conv,
    "rnn": Recurrent,
    "words": Words,
    "frozen": Frozen,
    "dense_words": lambda: Words(sparse=False),
}

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(
        p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=1e-2, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "sparse_adam": lambda p: torch.optim.SparseAdam(list(p), lr=1e-2),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


def seed(number=0):
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number)


def batches(steps, size=16):
    """Minibatches whose loading consumes random numbers of all kinds, as augmentation does."""
    data = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 12, generator=data)
    targets = (inputs[:, :3] + 0.3 * torch.randn(64, 3, generator=data)).argmax(1)
    for _ in range(steps):
        index = torch.randint(0, 64, (size,))
        yield inputs[index] + random.random() * 0.01 + numpy.random.rand() * 0.01, targets[index]


def train(
    model="mlp",
    optimizer="adam",
    make_watch=None,
    *,
    steps=STEPS,
    autocast=False,
    accumulate=1,
    clip=None,
    groups=False,
    schedule=None,
    lr=None,
    on_step=None,
):
    """Train; returns (model, optimizer, watch). `make_watch(model, optimizer)` may return None."""
    seed()
    net = MODELS[model]() if isinstance(model, str) else model
    params = [p for p in net.parameters()]
    if optimizer == "sparse_adam":
        params = list(net.words.parameters())
    if groups:
        params = [{"params": params[:2], "lr": 0.02}, {"params": params[2:]}]
    opt = OPTIMIZERS[optimizer](params)
    if lr is not None:
        for group in opt.param_groups:
            group["lr"] = lr
    before = torch.optim.lr_scheduler.StepLR(opt, 5, 0.5) if schedule == "before" else None
    watch = make_watch(net, opt) if make_watch else None
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 5, 0.5) if schedule == "after" else before

    def cast():
        return torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()

    loader = batches(steps * accumulate)
    for step in range(steps):
        for micro in range(accumulate):
            x, y = next(loader)
            if micro == 0:
                opt.zero_grad(set_to_none=step % 2 == 0)

            def loss_of(x=x, y=y):
                with cast():
                    return functional.cross_entropy(net(x), y) / accumulate

            if optimizer == "lbfgs":

                def evaluate():
                    opt.zero_grad()
                    value = loss_of()
                    value.backward()
                    return value

                loss = opt.step(evaluate)
            else:
                loss = loss_of()
                loss.backward()
                if micro < accumulate - 1:
                    if watch:
                        watch.step(loss)
                    continue
                if clip == "norm":
                    nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                elif clip == "value":
                    nn.utils.clip_grad_value_((p for p in net.parameters()), 0.01)
                if on_step:
                    on_step("before", step, net, opt, loss)
                opt.step()
            if on_step:
                on_step("after", step, net, opt, loss)
            if watch:
                watch.step(loss, closure=loss_of)
        if scheduler:
            scheduler.step()
    return net, opt, watch


def everything(net, opt):
    """All that a training may leave behind: a list of (name, value) that compares exactly."""
    found = [(name, value.clone()) for name, value in net.state_dict().items()]
    found += [
        (f"grad {name}", p.grad.to_dense().clone() if p.grad is not None else None)
        for name, p in net.named_parameters()
    ]
    found += [
        (f"flags {name}", (p.requires_grad, p.grad is None)) for name, p in net.named_parameters()
    ]
    found += [("modes", [m.training for m in net.modules()])]
    for i, (param, state) in enumerate(opt.state.items()):
        found += [
            (f"state {i} {key}", value) for key, value in state.items() if torch.is_tensor(value)
        ]
    found += [
        ("torch", torch.get_rng_state()),
        ("python", random.getstate()),
        ("numpy", numpy.random.get_state()[1]),
    ]
    return found


def same(one, other):
    """Names of what differs, bit for bit."""
    assert [name for name, _ in one] == [name for name, _ in other]
    return [name for (name, a), (_, b) in zip(one, other) if not _equal(a, b)]


def _equal(a, b):
    if torch.is_tensor(a):
        return torch.is_tensor(b) and a.dtype == b.dtype and bool(torch.equal(a, b))
    if isinstance(a, numpy.ndarray):
        return bool((a == b).all())
    return a == b


def one_layer(record, dtype=torch.float32, **options):
    """A linear layer, its optimizer and its watch: gradients of ones that are known by heart."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2).to(dtype)
    opt = torch.optim.SGD(net.parameters(), 0.1)
    return net, opt, record(**options)(net, opt)


def values(row):
    """A row as the float32 that a daemon keeps, without the time."""
    return {name: float(numpy.float32(value)) for name, value in row.items() if name != "time"}
