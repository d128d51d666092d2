"""Cross entropy on given labels *and* on trusted samples: the fair row beside IEG.

A method that is handed clean samples must beat the plain use of them:

    L = -1/B sum_i log p(y_i | x_i)    i: noisy samples (y as given) and trusted ones

Everything else is `cross_entropy`. Ten trusted samples a class are a drop in the ocean,
and the wrong labels are still learnt by heart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels import objectives
from ..training import engine
from ..training.recorder import Recorder
from . import ieg

trusted_per_class = ieg.trusted_per_class
COST = 1.0  # forward and backward passes of an epoch, as multiples of cross entropy's


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """Nothing beyond the recipe."""


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """As `cross_entropy`."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    if task.trusted is None:
        raise ValueError(
            "this method needs trusted samples: set trusted_per_class >= 1.")
    net, opt = engine.start(s, task)
    images = torch.cat([task.images, task.trusted[0]])
    labels = torch.cat([task.y_given, task.trusted[1]])

    @engine.step(opt, task)
    def step(i, x):
        return objectives.cross_entropy(net(x), labels[i])

    for epoch in log.epochs(s.epochs, net, opt):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size, images=images):
            log.loss(step(i, x))
    return net
