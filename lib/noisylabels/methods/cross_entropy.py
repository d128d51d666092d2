"""Cross entropy on the labels as they are given: what every other method must beat.

    L = -1/B sum_i log p(y_given_i | x_i)

A network fits the right labels first and the wrong ones later, until it has learnt them
by heart; its last epoch is then far below its best. Nothing here resists that.

Published settings: the schedule of the MixNN code and of ELR* (ResNet-34, batch 128,
SGD 0.02, momentum 0.9, weight decay 1e-3, cosine restarts every 10 epochs down to
0.001), without any method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..kernels import objectives
from ..training import engine
from ..training.recorder import Recorder


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """Nothing beyond the recipe."""


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The recipe's defaults are the published settings for every dataset."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)

    @engine.step(opt, task)
    def step(i, x):
        return objectives.cross_entropy(net(x), task.y_given[i])

    for epoch in log.epochs(s.epochs, net, opt):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
    return net
