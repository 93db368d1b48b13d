"""Faults after DeepCrime, DeepFD and incident reports, each at a continuously drawn severity and
onset.

What a run is called in the end does not depend on what was injected here: labels go by the outcome.
"""

import torch
from torch import nn

from models.corpus import task as tasks
from models.corpus.events import Event

# -- learning rate


class LrHigh(Event):
    """Too high from the first step on."""

    fault = "learning_rate"

    def draw(self):
        self.factor = self.log_uniform(5, 300) if self.adaptive() else self.log_uniform(2, 60)

    def rate(self, step):
        return self.factor


class LrJump(LrHigh):
    """Raised at the onset, for good."""

    def draw(self):
        super().draw()
        self.late()

    def rate(self, step):
        return self.factor if step >= self.onset else 1.0


class LrSpike(LrJump):
    """Raised for a few steps only."""

    def draw(self):
        super().draw()
        self.length = int(self.log_uniform(2, 25, "length"))

    def rate(self, step):
        return self.factor if self.onset <= step < self.onset + self.length else 1.0


class LrRamp(LrJump):
    """Growing by the same factor every step from the onset on."""

    def draw(self):
        super().draw()
        self.late(0.1, 0.5)
        self.factor *= 3

    def rate(self, step):
        share = (step - self.onset) / (self.steps - self.onset)
        return self.factor**share if step > self.onset else 1.0


class NoWarmup(LrHigh):
    """The warm-up left out, or a first phase that is too fast where the program has none."""

    def draw(self):
        super().draw()
        self.length = int(self.uniform(10, 50, "length"))

    def rate(self, step):
        if step >= self.length:
            return 1.0
        return self.factor**0.7 / max(self.task.schedule(step), 1e-3)


# -- initialisation


class InitScale(Event):
    """All weight matrices too large or too small."""

    fault = "initialisation"

    def draw(self):
        self.factor = (
            self.log_uniform(3, 40) if self.rng.random() < 0.7 else self.log_uniform(0.003, 0.2)
        )

    def prepare(self):
        with torch.no_grad():
            for p in self.weights():
                p.mul_(self.factor)


class InitLayer(Event):
    """One weight matrix far too large, constant, or biased."""

    fault = "initialisation"

    def draw(self):
        self.way = self.choice(["large", "constant", "shifted"], "way")
        self.factor = self.log_uniform(10, 300) if self.way == "large" else self.log_uniform(0.1, 5)
        self.which = int(self.rng.integers(1000))

    def prepare(self):
        weights = self.weights()
        p = weights[self.which % len(weights)]
        with torch.no_grad():
            if self.way == "large":
                p.mul_(self.factor)
            elif self.way == "constant":
                p.fill_(self.factor)
            else:
                p.add_(self.factor)


class MissingNorm(Event):
    """Normalisation layers left out, with a learning rate that needed them."""

    fault = "initialisation"

    def draw(self):
        self.factor = self.log_uniform(1, 12)

    def prepare(self):
        for module in list(self.task.model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
                    setattr(module, name, nn.Identity())
        alive = set(self.task.model.parameters())
        for group in self.task.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p in alive]

    def rate(self, step):
        return self.factor


# -- optimizer


class NoZeroGrad(Event):
    """Gradients pile up from the onset on."""

    fault = "optimizer"

    def draw(self):
        if self.rng.random() < 0.6:
            self.late()

    def zero_grad(self, step):
        return step < self.onset


class Momentum(Event):
    """Momentum near one, or a second-moment decay that forgets at once, at a rate not made for
    it."""

    fault = "optimizer"

    def draw(self):
        if self.rng.random() < 0.6:
            self.late()
        self.near = 1 - self.log_uniform(1e-4, 2e-2, "one_minus_momentum")
        self.beta2 = self.choice([None, 0.0, 0.3, 0.6], "beta2")
        self.factor = self.log_uniform(1, 10, "rate") if self.adaptive() else 1.0

    def before(self, step):
        if step != self.onset:
            return
        for group in self.task.optimizer.param_groups:
            if "betas" in group:
                first, second = group["betas"]
                short = self.beta2 is not None
                group["betas"] = (first, self.beta2) if short else (self.near, second)
            elif "momentum" in group:
                group["momentum"] = self.near
                group["nesterov"] = False

    def rate(self, step):
        return self.factor if step >= self.onset else 1.0


class WeightDecay(Event):
    """A weight decay that is orders of magnitude too large."""

    fault = "optimizer"

    def draw(self):
        if self.rng.random() < 0.6:
            self.late()
        self.decay = self.log_uniform(0.1, 100)

    def before(self, step):
        if step == self.onset:
            for group in self.task.optimizer.param_groups:
                if "weight_decay" in group:
                    group["weight_decay"] = self.decay


class Epsilon(Event):
    """An ε that swamps the second moment, or none where it is needed."""

    fault = "optimizer"

    def draw(self):
        self.value = self.log_uniform(1e-3, 10) if self.rng.random() < 0.5 else 1e-30

    def prepare(self):
        for group in self.task.optimizer.param_groups:
            if "eps" in group:
                group["eps"] = self.value


class OptimizerState(Event):
    """The optimizer's buffers damaged: scaled, negated, or the second moments lost."""

    fault = "optimizer"

    def draw(self):
        self.late()
        self.way = self.choice(["scaled", "negated", "second_lost"], "way")
        self.factor = self.log_uniform(10, 1e4)

    def before(self, step):
        if step != self.onset:
            return
        for state in self.task.optimizer.state.values():
            for name, value in state.items():
                if not torch.is_tensor(value) or value.dim() == 0:
                    continue
                first = name in ("exp_avg", "momentum_buffer")
                if self.way == "scaled" and first:
                    value.mul_(self.factor)
                elif self.way == "negated" and first:
                    value.mul_(-self.factor)
                elif self.way == "second_lost" and not first:
                    value.mul_(1 / self.factor**2)


# -- data


class Unnormalised(Event):
    """Inputs on a scale that the network was not made for."""

    fault = "data"

    def draw(self):
        self.factor = self.log_uniform(5, 300)
        self.offset = self.uniform(0, 1, "offset") * self.factor

    def batch(self, step, batch):
        return tasks.scale_inputs(self.task, batch, self.factor, self.offset)

    clean_batch = batch


class LabelNoise(Event):
    """A share of the targets belongs to other examples from the onset on."""

    fault = "data"

    def draw(self):
        self.late()
        self.share = self.uniform(0.3, 1.0)

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        positions = self.task.targets or self.task.inputs
        return tasks.scramble(batch, positions, self.share, self.g)


class CorruptedBatches(Event):
    """From the onset on some batches come on a wild scale, or with their symbols mixed up."""

    fault = "data"

    def draw(self):
        self.late()
        self.factor = self.log_uniform(5, 1000)
        self.often = self.log_uniform(0.03, 1.0, "often")

    def batch(self, step, batch):
        hit = float(torch.rand((), generator=self.g)) < self.often
        if step < self.onset or not hit:
            return batch
        if tasks.has_float_inputs(self.task):
            return tasks.scale_inputs(self.task, batch, self.factor)
        return tasks.scramble(batch, self.task.inputs + self.task.targets, 1.0, self.g)


class TargetScale(Event):
    """From the onset on float targets come in another unit; symbols come shuffled."""

    fault = "data"

    def draw(self):
        self.late()
        self.factor = self.log_uniform(5, 300)

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        for i in self.task.targets:
            if batch[i].is_floating_point():
                batch = batch[:i] + (batch[i] * self.factor,) + batch[i + 1 :]
            else:
                batch = tasks.scramble(batch, (i,), 1.0, self.g)
        return batch


class StuckLoader(Event):
    """The same batch again and again from the onset on."""

    fault = "data"

    def draw(self):
        self.late(0.05, 0.6)
        self.kept = None

    def batch(self, step, batch):
        if step < self.onset:
            return batch
        if self.kept is None:
            self.kept = batch
        return self.kept


# -- numerics


class NanBatch(Event):
    """One batch with a NaN in it."""

    fault = "numerics"

    def draw(self):
        self.late(0.05, 0.9)

    def loss(self, step, loss):
        return loss * float("nan") if step == self.onset else loss


class WeightCorruption(Event):
    """Parameters damaged in memory: a tensor scaled or noisy, or exponent bits flipped."""

    fault = "numerics"

    def draw(self):
        self.late()
        self.way = self.choice(["scaled", "noisy", "bits"], "way")
        self.factor = self.log_uniform(3, 300)
        self.which = int(self.rng.integers(1000))

    def before(self, step):
        if step != self.onset:
            return
        weights = self.weights()
        p = weights[self.which % len(weights)]
        with torch.no_grad():
            if self.way == "scaled":
                p.mul_(self.factor)
            elif self.way == "noisy":
                noise = torch.randn(p.shape, generator=self.g)
                p.add_(noise * (p.pow(2).mean().sqrt() * self.factor**0.5))
            else:
                flat = p.view(-1)
                at = torch.randint(len(flat), (1 + len(flat) // 200,), generator=self.g)
                bit = int(torch.randint(24, 31, (), generator=self.g))
                flat[at] = (flat[at].view(torch.int32) ^ (1 << bit)).view(torch.float32)


class GradientCorruption(Event):
    """From the onset on some gradients are blown up, as by a faulty reduction between workers."""

    fault = "numerics"

    def draw(self):
        self.late()
        self.factor = self.log_uniform(10, 1e4)
        self.often = self.log_uniform(0.02, 1.0, "often")
        self.noisy = bool(self.choice([0, 1], "noisy"))

    def gradients(self, step):
        hit = float(torch.rand((), generator=self.g)) < self.often
        if step < self.onset or not hit:
            return
        for g in self.gradients_list():
            if self.noisy:
                g.add_(
                    torch.randn(g.shape, generator=self.g)
                    * g.norm()
                    * self.factor
                    / g.numel() ** 0.5
                )
            else:
                g.mul_(self.factor)


class LowPrecision(Event):
    """Gradients pass through half precision under a loss scale that is far off."""

    fault = "numerics"

    def draw(self):
        if self.rng.random() < 0.5:
            self.late()
        self.scale = (
            self.log_uniform(1e3, 1e9) if self.rng.random() < 0.7 else self.log_uniform(1e-8, 1e-4)
        )

    def gradients(self, step):
        if step >= self.onset:
            for g in self.gradients_list():
                g.copy_((g * self.scale).half().float() / self.scale)


class CoarseWeights(Event):
    """Weights are rounded to few bits after every step from the onset on."""

    fault = "numerics"

    def draw(self):
        self.late(0.0, 0.6)
        self.bits = int(self.uniform(1, 6, "bits"))

    def before(self, step):
        if step < self.onset:
            return
        with torch.no_grad():
            for p in self.weights():
                m, e = torch.frexp(p)
                p.copy_(torch.ldexp((m * 2**self.bits).round() / 2**self.bits, e))


# -- loss or architecture


class SignFlip(Event):
    """The loss, and its log, has the wrong sign."""

    fault = "loss_or_architecture"

    def draw(self):
        if self.rng.random() < 0.5:
            self.late()

    def loss(self, step, loss):
        return -loss if step >= self.onset else loss


class Ascent(SignFlip):
    """Gradients go uphill while the true loss is logged."""

    def loss(self, step, loss):
        return loss

    def gradients(self, step):
        if step >= self.onset:
            for g in self.gradients_list():
                g.neg_()


class SumReduction(Event):
    """The loss is summed where the learning rate was made for a mean."""

    fault = "loss_or_architecture"

    def draw(self):
        self.more = self.log_uniform(1, 20)

    def loss(self, step, loss):
        return loss * (self.task.batch_size * self.more)


class _Square(nn.Module):
    """x², which no network bears for long."""

    def forward(self, x):
        """Elementwise square."""
        return x * x


class Activation(Event):
    """Wrong activations: squares, none, or sigmoids."""

    fault = "loss_or_architecture"

    def draw(self):
        self.way = self.choice(["square", "square", "linear", "sigmoid"], "way")
        self.factor = self.log_uniform(1, 10)

    def prepare(self):
        made = {"square": _Square, "linear": nn.Identity, "sigmoid": nn.Sigmoid}[self.way]
        kinds = (nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.GELU, nn.SiLU)
        for module in list(self.task.model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, kinds):
                    setattr(module, name, made())

    def rate(self, step):
        return self.factor


class LossPower(Event):
    """A wrong loss: the right one to a power, whose gradients explode where it is large."""

    fault = "loss_or_architecture"

    def draw(self):
        self.power = self.uniform(1.5, 4.0)
        self.late(0.0, 0.7)

    def loss(self, step, loss):
        if step < self.onset:
            return loss
        return loss.abs() ** self.power * (1 if loss >= 0 else -1)


FAULTS = {
    "lr_high": LrHigh, "lr_jump": LrJump, "lr_spike": LrSpike, "lr_ramp": LrRamp, "no_warmup":
    NoWarmup,
    "init_scale": InitScale, "init_layer": InitLayer, "missing_norm": MissingNorm,
    "no_zero_grad": NoZeroGrad, "momentum": Momentum, "weight_decay": WeightDecay, "epsilon":
    Epsilon,
    "optimizer_state": OptimizerState,
    "unnormalised": Unnormalised, "label_noise": LabelNoise, "corrupted_batches": CorruptedBatches,
    "target_scale": TargetScale, "stuck_loader": StuckLoader,
    "nan_batch": NanBatch, "weight_corruption": WeightCorruption,
    "gradient_corruption": GradientCorruption, "low_precision": LowPrecision, "coarse_weights":
    CoarseWeights,
    "sign_flip": SignFlip, "ascent": Ascent, "sum_reduction": SumReduction, "activation":
    Activation,
    "loss_power": LossPower,
}  # fmt: skip

# Weights of the draw: families that turn unstable more rarely are not drawn more often for it,
# but the
# learning rate, by far the commonest cause in practice, is.
WEIGHTS = {name: 2.0 if name.startswith("lr_") else 1.0 for name in FAULTS}


def applies(name: str, task: tasks.Task) -> bool:
    """Whether a fault means anything for a program."""
    if name == "unnormalised":
        return tasks.has_float_inputs(task)
    if name == "target_scale":
        return bool(task.targets)
    if name == "missing_norm":
        return any(
            isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm))
            for m in task.model.modules()
        )
    if name == "epsilon":
        return "eps" in task.optimizer.param_groups[0]
    if name == "weight_decay":  # which torch does not have for sparse gradients
        return not any(getattr(m, "sparse", False) for m in task.model.modules())
    if name == "momentum":
        group = task.optimizer.param_groups[0]
        return "betas" in group or group.get("momentum", 0) > 0
    return True
