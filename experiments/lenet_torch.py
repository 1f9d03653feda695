"""The two networks and their training in torch, to compare with: same weights, same batches."""

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from lenet_data import Data
from lenet_training import TESTED_AT_ONCE, Trainer, batches, decays, schedule, steps_of
from torch.nn import functional


class Run(NamedTuple):
    """A training run.

    Attributes:
        losses: mean of each epoch.
        accuracy: on the images held out, at the end.
        seconds: since the beginning, after each epoch, its test included.
    """

    losses: list[float]
    accuracy: float
    seconds: list[float]


def _same(x: torch.Tensor, stride: int) -> torch.Tensor:
    """`x` padded for a 3x3 window as "SAME" has it, which torch has for no stride."""
    low_high = []
    for n in reversed(x.shape[2:]):
        total = max((-(-n // stride) - 1) * stride + 3 - n, 0)
        low_high += [total // 2, total - total // 2]
    return functional.pad(x, low_high)


class LeNet(torch.nn.Module):
    """LeNet-5."""

    def __init__(self, left: tuple[int, int]):
        super().__init__()
        self.c1 = torch.nn.Conv2d(1, 6, 5, padding=2)
        self.c3 = torch.nn.Conv2d(6, 16, 5)
        self.c5 = torch.nn.Conv2d(16, 120, left)
        self.f6 = torch.nn.Linear(120, 84)
        self.output = torch.nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        x = functional.avg_pool2d(functional.relu(self.c1(x)), 2)
        x = functional.avg_pool2d(functional.relu(self.c3(x)), 2)
        x = functional.relu(self.c5(x)).flatten(1)
        return self.output(functional.relu(self.f6(x)))


class AllConvolutional(torch.nn.Module):
    """Convolutions and nothing else."""

    def __init__(self):
        super().__init__()
        self.c1 = torch.nn.Conv2d(1, 16, 3)
        self.c2 = torch.nn.Conv2d(16, 16, 3, stride=2)
        self.c3 = torch.nn.Conv2d(16, 32, 3)
        self.c4 = torch.nn.Conv2d(32, 32, 3, stride=2)
        self.c5 = torch.nn.Conv2d(32, 64, 3)
        self.c6 = torch.nn.Conv2d(64, 64, 3, stride=2)
        self.output = torch.nn.Conv2d(64, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits."""
        for layer in (self.c1, self.c2, self.c3, self.c4, self.c5, self.c6):
            x = functional.relu(layer(_same(x, layer.stride[0])))
        return self.output(x).mean((2, 3))


def network(trainer: Trainer) -> torch.nn.Module:
    """The trainer's network with its first weights."""
    ours = trainer.network(trainer.start)
    if trainer.settings.network == "lenet":
        theirs: Any = LeNet(ours.c5.kernel_size)
    else:
        theirs = AllConvolutional()
    for name, layer in theirs.named_children():
        twin = getattr(ours, name)
        kernel, bias = (np.array(value[...]) for value in (twin.kernel, twin.bias))
        turned = np.moveaxis(kernel, (-1, -2), (0, 1))  # (*window, c_i, c_o) to (c_o, c_i, *window)
        layer.weight.data = torch.from_numpy(np.ascontiguousarray(turned))
        layer.bias.data = torch.from_numpy(bias)
    return theirs


def train(trainer: Trainer, data: Data) -> Run:
    """Train as the trainer would."""
    settings, count = trainer.settings, trainer.count
    model = network(trainer)
    kernels = [p for p in model.parameters() if decays(p)]
    others = [p for p in model.parameters() if not decays(p)]
    if settings.optimiser == "sgd":
        kinds = [{"params": [*kernels, *others]}]
        steps: torch.optim.Optimizer = torch.optim.SGD(kinds, lr=settings.rate)
    else:
        kinds = [{"params": kernels, "weight_decay": settings.decay}, {"params": others}]
        steps = torch.optim.AdamW(kinds, lr=settings.rate, weight_decay=0.0)
    total = settings.epochs * steps_of(settings, count)
    rates = np.asarray(schedule(settings, count)(np.arange(total)))
    by, (height, width) = settings.shift, trainer.size
    framed = torch.from_numpy(np.pad(data.train.images, [(0, 0), (by, by), (by, by)]))
    labels = torch.from_numpy(data.train.labels).long()
    losses, seconds, step, began = [], [], 0, time.perf_counter()
    accuracy = 0.0
    for epoch in range(settings.epochs):
        seen = []
        for chosen, shifts in batches(settings, count, epoch):
            rows = by + torch.from_numpy(shifts[:, :1]) + torch.arange(height)
            columns = by + torch.from_numpy(shifts[:, 1:]) + torch.arange(width)
            places = torch.from_numpy(chosen)[:, None, None], rows[:, :, None], columns[:, None]
            loss = functional.cross_entropy(model(framed[places][:, None]), labels[chosen])
            if settings.optimiser == "sgd":
                loss = loss + settings.decay * sum(kernel.square().sum() for kernel in kernels)
            for group in steps.param_groups:
                group["lr"] = float(rates[step])
            steps.zero_grad()
            loss.backward()
            steps.step()
            seen.append(loss.detach())
            step += 1
        losses.append(float(torch.stack(seen).mean()))
        accuracy = _accuracy(model, data)
        seconds.append(time.perf_counter() - began)
    return Run(losses, accuracy, seconds)


@torch.no_grad()
def _accuracy(model: torch.nn.Module, data: Data) -> float:
    right = 0
    for place in range(0, len(data.held_out.labels), TESTED_AT_ONCE):
        images, labels = (part[place : place + TESTED_AT_ONCE] for part in data.held_out)
        logits = model(torch.from_numpy(images)[:, None])
        right += int((logits.argmax(1).numpy() == labels).sum())
    return right / len(data.held_out.labels)
