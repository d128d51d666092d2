"""Learning to reweight, L2R (Ren et al., ICML 2018): trusted samples choose others.

The base of IEG. The weights of the look-ahead start at zero, so it stays where the
network is (up to momentum and decay), and a sample counts in proportion to how well its
gradient agrees with that of the trusted loss:

    theta^  = theta - a (wd theta + mu momentum)
    v       = grad (mean trusted CE + wd/2 |theta^|^2) at theta^
    omega_i = [a <grad l_i(theta), v>]_+ / (sum + 1e-5)     l_i = CE(y_given_i, z_i)
    L       = sum_i omega_i l_i

The inner products come from one forward-mode pass (`kernels.meta_gradient`). Momentum
and batch size are IEG's, the schedule is one cosine, weights are not averaged: L2R's
own settings were not available.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels import objectives
from ..kernels.meta_gradient import (
    Quiet,
    directional,
    look_ahead,
    momentum_of,
    trusted_direction,
)
from ..ranges import within
from ..training import engine, networks
from ..training.recorder import Recorder
from . import ieg

trusted_per_class = ieg.trusted_per_class


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """look, look_momentum: a and mu of the look-ahead."""

    network: str = "wrn28-10"
    batch_size: int = 100
    lr: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    lr_floor: float = 0.0
    epochs: int = 172
    look: float = within("(0, 100]", 0.1)
    look_momentum: float = within("[0, 1)", 0.9)


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """One set of values for both datasets."""
    return {}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)
    if task.precision == "bfloat16":  # the same casts in every pass
        networks.cast_convolutions(net, torch.bfloat16)
    quiet, trusted = Quiet(net), ieg.Trusted(task, s.batch_size)
    kept = torch.zeros(len(task), device=task.device)  # omega when last seen

    @torch.compiler.disable  # the compiler knows no forward mode
    def weigh(x, y):
        """omega (B,) of images x with given labels y."""
        theta = quiet.weights
        ahead = look_ahead(theta, None, momentum_of(opt, quiet), look=s.look,
                           look_momentum=s.look_momentum,
                           weight_decay=s.weight_decay)
        x_t, y_t = trusted.next()
        v = trusted_direction(quiet, ahead, x_t, y_t, s.weight_decay)
        slope, = directional(
            lambda t: (objectives.cross_entropy(quiet(x, t), y, "none"),), theta, v)
        omega = (s.look * slope).clamp(min=0)  # [a <grad l_i, v>]_+
        return omega / (omega.sum() + 1e-5)

    @engine.step(opt, task)
    def step(i, x):
        with torch.autocast(task.device.type, enabled=False):
            y = task.y_given[i]
            omega = weigh(x, y)
            kept.index_copy_(0, i, omega)
            return (omega * objectives.cross_entropy(net(x), y, "none")).sum()

    for epoch in log.epochs(s.epochs, net, opt, trusted.at, kept):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        log.p_clean(kept)
    return net
