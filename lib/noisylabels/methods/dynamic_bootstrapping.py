"""Dynamic bootstrapping (Arazo et al., ICML 2019): a label as far as it is trusted.

"DB" in DRPL's tables, elsewhere M-correction.

How far a label is to be trusted differs from sample to sample. A mixture of two betas
is fitted to the losses after every epoch; its posterior says how likely a label is
wrong, and by that much the network's own prediction takes the label's place. Mixup
keeps all of it from being learnt by heart.

    w_i = p(noisy | -log h_y(x_i))     beta mixture as in DRPL, in [1e-4, 1 - 1e-4]
    t_i = (1 - w_i) y_i + w_i p_i      p: softmax of the un-mixed image (soft), or its
                                       argmax (hard); no gradient
    x~  = lam x_i + (1 - lam) x_j
    l   = lam CE(t_i, h(x~)) + (1 - lam) CE(t_j, h(x~)) + reg R_p
    R_p = KL(uniform || mean_i h(x~_i))

Up to epoch `warm_up` plain mixup on the given labels, without R_p. The mixture is
fitted in evaluation mode on augmented images; w is taken anew for every batch, on its
augmented images.

Settings: the official code (PaulAlbert31/LabelNoiseCorrection, CIFAR-10): 300 epochs,
rate 0.1, a tenth of it from 100 and again from 250 on, mixup alpha 32. Its soft variant
weighs both partners 1/2 whatever lam is (with alpha 32 lam is near 1/2); kept. DRPL's
authors call their runs "DynBootSoft", hence `boot="soft"`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels import mixtures, objectives
from ..ranges import one_of, within
from ..training import engine
from ..training.recorder import Recorder

COST = 2.0  # forward and backward passes of an epoch, as multiples of cross entropy's


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """What dynamic bootstrapping adds to the recipe.

    Args:
        warm_up: epochs of plain mixup. mix_alpha: of mixup's Beta.
        reg: weight of R_p.
        boot: `soft` or `hard`, what takes a doubtful label's place.
    """

    network: str = "preact18"
    lr: float = 0.1
    weight_decay: float = 1e-4
    schedule: str = "steps"
    milestones: tuple[int, ...] = (100, 250)
    warm_up: int = within("[0, 100000]", 105)
    mix_alpha: float = within("(0, 1000]", 32.0)
    reg: float = within("[0, 1000]", 1.0)
    boot: str = one_of("soft", "hard")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The same settings everywhere."""
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The warm-up in proportion: about a third of the epochs, then the lower rate."""
    warm_up = {"smoke": 10, "laptop": 7, "desk": 22, "fast": 14}[budget]
    lower = {"smoke": 25, "laptop": 17, "desk": 53, "fast": 34}[budget]
    return {"warm_up": warm_up, "schedule": "steps", "milestones": (warm_up, lower)}


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    net, opt = engine.start(s, task)
    draws = task.rng("dynamic-bootstrapping")
    given = objectives.one_hot(task.y_given, task.num_classes)

    def blend(x):
        j = torch.randperm(len(x), generator=draws, device=x.device)
        lam = objectives.draw_beta(s.mix_alpha, draws, (), x.device)
        return objectives.mixup(x, j, lam), j, lam

    @engine.step(opt, task)
    def warm_up(i, x):
        mixed, j, lam = blend(x)
        z, y = net(mixed), task.y_given[i]
        return (lam * objectives.cross_entropy(z, y)
                + (1 - lam) * objectives.cross_entropy(z, y[j]))

    @engine.step(opt, task)
    def step(i, x, w):
        with torch.no_grad():  # in train mode, as the official code
            p = net(x).float().softmax(1)
        if s.boot == "hard":
            p = objectives.one_hot(p.argmax(1), task.num_classes)
        t = (1 - w)[:, None] * given[i] + w[:, None] * p
        mixed, j, lam = blend(x)
        z = net(mixed)
        first = lam if s.boot == "hard" else 0.5
        return (first * objectives.soft_cross_entropy(z, t)
                + (1 - first) * objectives.soft_cross_entropy(z, t[j])
                + s.reg * objectives.prior_kl(z.float().softmax(1)))

    @torch.no_grad()
    def doubt(fit, i, x):
        """w (B,) of a batch, in evaluation mode."""
        net.eval()
        with task.autocast():
            z = net(x)
        net.train()
        losses = objectives.cross_entropy(z, task.y_given[i], "none")
        return fit.posterior(losses).clamp(1e-4, 1 - 1e-4)

    for epoch in log.epochs(s.epochs, net, opt):
        engine.set_lr(opt, s.lr_at(epoch))
        if epoch <= s.warm_up:
            for i, x in task.batches(s.batch_size):
                log.loss(warm_up(i, x))
            continue
        fit = mixtures.fit_betas(engine.losses(net, task, view=task.weak))
        log.p_clean(1 - fit.p_high)
        log.note(mixture_status=fit.status)
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x, doubt(fit, i, x)))
    return net
