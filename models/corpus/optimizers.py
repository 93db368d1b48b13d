"""Optimizers that torch does not have, or not in a form with a plain `step()`."""

import torch


class Lion(torch.optim.Optimizer):
    """The sign of a blend of gradient and momentum, with decoupled weight decay."""

    def __init__(
        self, params, lr: float = 3e-4, betas: tuple = (0.9, 0.99), weight_decay: float = 0.0
    ):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        """One update."""
        for group in self.param_groups:
            first, second = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                average = state.setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (first * average + (1 - first) * p.grad).sign())
                average.mul_(second).add_(p.grad, alpha=1 - second)


class Signum(torch.optim.Optimizer):
    """Sign-SGD: the sign of the momentum, or of the gradient itself where momentum is 0."""

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure=None):
        """One update."""
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                direction = p.grad
                if group["momentum"]:
                    direction = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    direction.mul_(group["momentum"]).add_(p.grad, alpha=1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * direction.sign())


class LBFGS(torch.optim.LBFGS):
    """Limited-memory BFGS, one iteration a step on the gradient that is there: no line search."""

    def __init__(self, params, lr: float = 1.0, history_size: int = 10):
        super().__init__(params, lr=lr, max_iter=1, history_size=history_size)

    def step(self, closure=None):
        """One iteration; torch's own asks for a closure but needs only the gradients it leaves."""
        return super().step(closure or (lambda: torch.zeros(())))
