"""Faults inside the network: layers that die or freeze, embeddings and policies that collapse, players that
are no match for each other."""

import torch
from torch import nn

from models.corpus import task as tasks
from models.corpus.events import Event


class DeadLayer(Event):
    """A layer's biases are pushed so low that its units fall silent, a few or all of them."""

    fault = "initialisation"

    def draw(self):
        if self.rng.random() < 0.6:
            self.late()
        self.low = self.log_uniform(0.3, 30)
        self.share = self.uniform(0.3, 1.0, "share")
        self.which = int(self.rng.integers(1000))

    def before(self, step):
        if step == self.onset:
            biases = [p for p in self.task.model.parameters() if p.dim() == 1]
            p = biases[self.which % len(biases)]
            hit = torch.rand(len(p), generator=self.g) < self.share
            with torch.no_grad():
                p.sub_(self.low * hit)


class FrozenLayers(Event):
    """Most of the parameters stop learning: forgotten after fine-tuning, or left out of the optimizer."""

    fault = "initialisation"

    def draw(self):
        if self.rng.random() < 0.5:
            self.late(0.05, 0.4)
        self.share = self.uniform(0.3, 1.0)

    def before(self, step):
        if step == self.onset:
            found = [p for p in self.task.model.parameters() if p.requires_grad]
            for p in found[: max(1, min(round(self.share * len(found)), len(found) - 1))]:
                p.requires_grad_(False)
                p.grad = None


class EmbeddingCollapse(Event):
    """Rows of the embedding tables are drawn towards their mean, at once or a little every step."""

    fault = "initialisation"

    def draw(self):
        self.late()
        self.once = bool(self.choice([0, 1], "once"))
        self.share = self.uniform(0.7, 1.0) if self.once else self.log_uniform(0.01, 0.3)

    def before(self, step):
        if step < self.onset or self.once and step > self.onset:
            return
        with torch.no_grad():
            for m in self.task.model.modules():
                if isinstance(m, (nn.Embedding, nn.EmbeddingBag)):
                    m.weight.lerp_(m.weight.mean(0, keepdim=True).expand_as(m.weight), self.share)


class Overconfident(Event):
    """The read-out layer is blown up, so that one answer or one action wins always."""

    fault = "loss_or_architecture"

    def draw(self):
        self.late()
        self.factor = self.log_uniform(3, 300)

    def before(self, step):
        if step == self.onset:
            with torch.no_grad():
                for p in self.task.head.parameters():
                    p.mul_(self.factor)


class Imbalance(Event):
    """The other player, of a GAN say, learns far too fast or hardly at all."""

    fault = "learning_rate"

    def draw(self):
        self.factor = self.log_uniform(8, 300)
        if self.rng.random() < 0.4:
            self.factor = self.drawn["severity"] = 1 / self.factor

    def prepare(self):
        for optimizer in self.task.others:
            for group in optimizer.param_groups:
                group["lr"] *= self.factor


FAULTS = {
    "dead_layer": DeadLayer,
    "frozen_layers": FrozenLayers,
    "embedding_collapse": EmbeddingCollapse,
    "overconfident": Overconfident,
    "imbalance": Imbalance,
}


def applies(name: str, task: tasks.Task) -> bool:
    """Whether a fault means anything for a program."""
    if name == "dead_layer":
        return any(p.dim() == 1 for p in task.model.parameters())
    if name == "frozen_layers":
        several = sum(p.requires_grad for p in task.model.parameters()) > 1
        return several and not task.phases
    if name == "embedding_collapse":
        return any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in task.model.modules())
    if name == "overconfident":
        return task.head is not None
    return name != "imbalance" or bool(task.others)
