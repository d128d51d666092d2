"""Cross entropy with strong views and averaged weights: the plain row to be beaten.

Much of what methods against label noise gain comes from what they train with. This row
has that and no idea about labels at all:

    L      = -1/B sum_i log p(y_given_i | strong view of x_i)
    theta' <- d theta' + (1 - d) theta      after every step; theta' is evaluated

The strong view is RandAugment with cutout, as in the methods that use one; d is
`average`, with the warm-up of `engine.WeightAverage`. All else is `cross_entropy`. From
no paper: it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..kernels import objectives
from ..ranges import one_of, within
from ..training import engine
from ..training.recorder import Recorder

COST = 1.0  # forward and backward passes of an epoch, as multiples of cross entropy's


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """average: d, the decay of the averaged weights. view: `strong` or `weak`."""

    average: float = within("[0, 1)", 0.999)
    view: str = one_of("strong", "weak")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The schedule of `cross_entropy`."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)
    mean = engine.WeightAverage(net, s.average)
    view = task.strong if s.view == "strong" else task.weak

    @engine.step(opt, task)
    def step(i, x):
        return objectives.cross_entropy(net(x), task.y_given[i])

    for epoch in log.epochs(s.epochs, net, opt, mean, predict=mean.module):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size, view):
            log.loss(step(i, x))
            mean.update(net)
    return mean.module
