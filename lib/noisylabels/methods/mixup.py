"""Mixup (Zhang et al., ICLR 2018): train on blends of two samples and of their labels.

    x~ = l x_i + (1 - l) x_j          l ~ Beta(alpha, alpha)
    L  = l CE(f(x~), y_i) + (1 - l) CE(f(x~), y_j)

One l a batch, j a random permutation of the batch. A blend cannot be learnt by heart as
easily as an image, so wrong labels are memorised later; nothing is corrected.

alpha = 1, the value in the DRPL code (its own mixup row's alpha was not available); the
schedule is the one of `cross_entropy`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels import objectives
from ..ranges import within
from ..training import engine
from ..training.recorder import Recorder


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """alpha: of the Beta distribution that draws the blend; 1 is uniform."""

    alpha: float = within("(0, 1000]", 1.0)


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """alpha = 1 everywhere."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)
    draws = task.rng("mixup")

    @engine.step(opt, task)
    def step(i, x):
        j = torch.randperm(len(i), generator=draws, device=i.device)
        lam = objectives.draw_beta(s.alpha, draws, (), i.device)
        z, y = net(objectives.mixup(x, j, lam)), task.y_given[i]
        return (lam * objectives.cross_entropy(z, y)
                + (1 - lam) * objectives.cross_entropy(z, y[j]))

    for epoch in log.epochs(s.epochs, net, opt):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
    return net
