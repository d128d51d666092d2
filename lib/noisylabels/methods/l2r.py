"""Learning to reweight, L2R (Ren et al., ICML 2018): trusted samples decide which
samples count.

The base of IEG. The weights of the look-ahead start at zero, so it stays where the
network is (up to momentum and decay), and a sample counts in proportion to how well its
gradient agrees with that of the trusted loss:

    theta^  = theta - a (wd theta + mu momentum)
    v       = grad (mean trusted CE + wd/2 |theta^|^2) at theta^
    omega_i = [a <grad l_i(theta), v>]_+ / sum          l_i = CE(y_given_i, z_i)
    L       = sum_i omega_i l_i

The inner products come from one forward-mode pass, as in `ieg`. Momentum and batch size
are IEG's, the schedule is one cosine, weights are not averaged: L2R's own settings were
not available.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels import objectives
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
    if task.precision == "bfloat16":
        networks.cast_convolutions(net, torch.bfloat16)
    quiet, trusted = ieg.Quiet(net), ieg.Trusted(task, s.batch_size)
    weight = torch.zeros(len(task),
                         device=task.device)  # omega of each sample when last seen

    @torch.compiler.disable
    def weigh(x, y):
        theta = {k: w.detach() for k, w in quiet.weights.items()}
        old = ieg.momentum_of(opt, quiet)
        ahead = {
            k: (t - s.look *
                (s.weight_decay * t + s.look_momentum * old[k])).requires_grad_()
            for k, t in theta.items()
        }
        x_t, y_t = trusted.next()
        loss = objectives.soft_cross_entropy(quiet(x_t, ahead), y_t)
        v = torch.autograd.grad(loss, list(ahead.values()))
        along = {k: d + s.weight_decay * ahead[k].detach()
                 for k, d in zip(ahead, v, strict=True)}
        slope, = ieg.directional(
            lambda t: (objectives.cross_entropy(quiet(x, t), y, "none"),), theta, along)
        return ieg.coefficients(-s.look * slope, slope)[0]

    @engine.step(opt, task)
    def step(i, x):
        with torch.autocast(task.device.type, enabled=False):
            y = task.y_given[i]
            omega = weigh(x, y)
            weight.index_copy_(0, i, omega)
            return (omega * objectives.cross_entropy(net(x), y, "none")).sum()

    for epoch in log.epochs(s.epochs, net, opt, trusted.at, weight):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        log.p_clean(weight)
    return net
