"""Generalised cross entropy (Zhang & Sabuncu, NeurIPS 2018): towards the MAE.

    L = 1/B sum_i (1 - p(y_given_i | x_i)^q) / q,        0 < q <= 1

q -> 0 is cross entropy, q = 1 the mean absolute error (up to a factor). The gradient of
a sample is the one of cross entropy times p^q: a label the network finds unlikely,
often a wrong one, pulls less.

No truncation (the variant the DRPL authors name "NOprune"), q = 0.7; the schedule is
the one of `cross_entropy`, so that the loss is all that differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..kernels import objectives
from ..ranges import within
from ..training import engine
from ..training.recorder import Recorder


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """q: 0 < q <= 1, how far from cross entropy towards the mean absolute error."""

    q: float = within("(0, 1]", 0.7)


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The usual q = 0.7 everywhere."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)

    @engine.step(opt, task)
    def step(i, x):
        return objectives.gce(net(x), task.y_given[i], s.q)

    for epoch in log.epochs(s.epochs, net, opt):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
    return net
