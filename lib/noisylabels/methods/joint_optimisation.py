"""Joint optimisation (Tanaka et al., CVPR 2018): learn the labels with the weights.

"R" in DRPL's tables.

A network that trains with a high learning rate does not learn wrong labels by heart. So
labels may be replaced by its own predictions while it trains, and a fresh network
learns what came out.

    step 1  l = CE(q, h) + alpha R_p + beta R_e     constant, high learning rate
            R_p = KL(uniform || mean_i h_i)         keeps the classes from collapsing
            R_e = mean entropy of h                 keeps the predictions decided
            q_i = mean of the last `ring` epochs' h(x_i), after every epoch from
                  `relabel_from` on
    step 2  fresh network; l = CE(q, h), the soft labels q frozen

The predictions averaged are those made in training, each just before its step. DRPL's
first stage is step 1 with a rate that falls; its detection takes the place of step 2.

Settings: the official code (DaikiTanaka-UT/JointOptimization, CIFAR-10) and its
read-me: for 70 % symmetric noise rate 0.08, alpha 1.2, beta 0.8; for 40 % asymmetric
noise 0.03, 0.8, 0.4. We take these for all rates of the kind, and the code's defaults
(0.1, 1.0, 0.5) for every other kind. The code trains on 45,000 images and crops from 40
pixels. Its network is a PreAct ResNet-32: three stages of five blocks, 32, 64 and 128
channels, identity shortcuts that pass their input on as it is, batch norm and ReLU at
the end. Ours is the `preact18` of DRPL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import objectives
from ..ranges import within
from ..training import engine
from ..training.recorder import Recorder

COST = 1.0  # forward and backward passes of an epoch, as multiples of cross entropy's


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """The recipe's rate, epochs and milestones are those of step 2.

    Args:
        relabel_epochs, relabel_lr: of step 1.
        relabel_from: its epoch from whose end on targets change.
        ring: epochs whose predictions are averaged.
        alpha, beta: weights of R_p and R_e.
    """

    network: str = "preact18"
    epochs: int = 120
    lr: float = 0.2
    weight_decay: float = 1e-4
    schedule: str = "steps"
    milestones: tuple[int, ...] = (41, 81)  # the code: *after* epochs 40 and 80
    relabel_epochs: int = within(engine.EPOCHS, 200)
    relabel_lr: float = within("[0, 1000000000]", 0.1)
    relabel_from: int = within(engine.EPOCHS, 70)
    ring: int = within("[1, 1000]", 10)
    alpha: float = within("[0, 1000]", 1.0)
    beta: float = within("[0, 1000]", 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ring <= self.relabel_from <= self.relabel_epochs:
            raise ValueError(f"relabel_from must lie between ring ({self.ring}) and "
                             f"relabel_epochs ({self.relabel_epochs}), not at "
                             f"{self.relabel_from}.")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The official values for the two kinds of noise that they are given for."""
    if noise.startswith(("symmetric", "drpl-uniform", "dividemix-symmetric")):
        return {"relabel_lr": 0.08, "alpha": 1.2, "beta": 0.8}
    if noise.startswith(("asymmetric", "drpl-nonuniform", "dividemix-asymmetric")):
        return {"relabel_lr": 0.03, "alpha": 0.8, "beta": 0.4}
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """Both steps in proportion; step 2 has the budget's own schedule."""
    s1, s2 = {"smoke": (20, 15), "laptop": (15, 10), "desk": (80, 48),
              "fast": (30, 20)}[budget]
    lr = {"smoke": 0.02, "laptop": 0.05, "desk": 0.1, "fast": 0.05}[budget]
    return {"relabel_epochs": s1, "relabel_from": s1 // 3, "ring": min(4, s1 // 3),
            "relabel_lr": lr, "epochs": s2}


def total_epochs(s: Settings, samples: int = 0) -> int:
    """Epochs of both steps."""
    return s.relabel_epochs + s.epochs


def relabel(task: engine.Task, s: Settings, log: Recorder) -> Tensor:
    """Step 1: the soft labels q, (N, C)."""
    net, opt = engine.start(s, task)
    q = objectives.one_hot(task.y_given, task.num_classes)
    # this epoch's predictions, each made just before its step
    seen = torch.zeros_like(q)
    ring = torch.zeros(s.ring, *q.shape, device=task.device)

    @engine.step(opt, task)
    def step(i, x):
        z = net(x)
        h = z.float().softmax(1)
        seen.index_copy_(0, i, h.detach())
        return (objectives.soft_cross_entropy(z, q[i])
                + s.alpha * objectives.prior_kl(h) + s.beta * objectives.entropy(h))

    for epoch in log.epochs(s.relabel_epochs, net, opt, q, ring, seen,
                            stage="1 relabel"):
        engine.set_lr(opt, s.relabel_lr)
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        ring[(epoch - 1) % s.ring] = seen
        if epoch >= s.relabel_from:
            q.copy_(ring.mean(0))
        log.targets(q)
    return q


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    q = relabel(task, s, log)
    net, opt = engine.start(s, task)

    @engine.step(opt, task)
    def step(i, x):
        return objectives.soft_cross_entropy(net(x), q[i])

    for epoch in log.epochs(s.epochs, net, opt, stage="2 learn"):
        engine.set_lr(opt, s.lr_at(epoch))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        log.targets(q)
    return net
