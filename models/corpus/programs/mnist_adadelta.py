"""The convolutional network that everybody trains first: two convolutions, one pooling, dropout
twice, the likelihood of log-probabilities; Adadelta at rate 1, times 0.7 every epoch of 75 steps."""

import torch
from torch import nn
from torch.nn import functional as F

from models.corpus import datasets
from models.corpus.task import Task, fixed, generator, sampler, share_correct


class Net(nn.Module):
    """Convolutions without padding, then two layers."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 12, 3), nn.Conv2d(12, 16, 3)
        self.drop, self.drop_more = nn.Dropout(0.25), nn.Dropout(0.5)
        self.hidden, self.head = nn.Linear(16 * 25, 96), nn.Linear(96, 10)

    def forward(self, x):
        x = self.two(self.one(x).relu()).relu()
        x = self.drop(F.max_pool2d(x, 2)).flatten(1)
        return self.head(self.drop_more(self.hidden(x).relu())).log_softmax(-1)


def build(seed: int) -> Task:
    torch.manual_seed(seed)
    model = Net()
    train = datasets.fashion("train", 6000, 2)
    held = datasets.fashion("t10k", 512, 2)
    return Task(
        model=model,
        optimizer=torch.optim.Adadelta(model.parameters(), lr=1.0),
        draw=sampler(train, generator(seed + 1)),
        loss=lambda m, b: F.nll_loss(m(b[0]), b[1]),
        batch_size=20,
        probe=fixed(train, 384),
        validation=fixed(held, 256),
        accuracy=share_correct,
        head=model.head,
        schedule=lambda step: 0.7 ** (step // 75),
    )
