"""DRPL (Ortego et al., ICPR 2020): relabel everything to expose the noise, then learn twice.

A small loss marks a clean label only while the network has not learnt the wrong ones by heart,
and not under every kind of noise. DRPL therefore first trains with a high learning rate, then
replaces *all* labels by the network's own predictions. What it was given and what it now believes
agree for clean samples and disagree for wrong ones: the cross entropy against the GIVEN label
separates them.

    S1  l = CE(q, h) + alpha R_p + beta R_e            q = given labels, later the mean prediction
        R_p = KL(uniform || mean_i h_i)                keeps the classes from collapsing into one
        R_e = mean entropy of h                        keeps the predictions decided
        q_i = mean of the last `ring` epochs' h(x_i), after every epoch from `relabel_from` on
    D1  d_i = -log h_y(x_i), y given; beta mixture on d; clean: p(noisy | d_i) <= gamma1
    S2  fresh network; clean samples keep y, the others get pseudo-labels; mixup
        l = lam CE(q_i, h(x~)) + (1 - lam) CE(q_j, h(x~)) + alpha R_p + beta R_e
        after each epoch: q = this epoch's h(x) for the unlabelled, but 1/C for a share rho of them
    D2  as D1, with S2's network and gamma2
    S3  as S2, fresh network, longer: the final model

One network throughout. Both measures are taken on augmented images in evaluation mode, in two
passes: the mixture is fitted on the first and scores the second. A third detection ends S3; it is
ours, decides nothing, and shows in the record how the final model ranks the labels. A fit without
meaning, or fewer clean samples than classes: the half with the smaller loss counts as clean
(ours; the code goes on with what it has). Defaults: the official code (August 2020), CIFAR-10. The
paper's text was not available; open is whether its numbers come from stages that start from a
network trained on the clean part (`warm_start="intended"`: that code is there, but dead) or from
random pseudo-labels (`"released"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import mixtures, objectives
from ..ranges import one_of, within
from ..training import engine
from ..training.networks import Network
from ..training.recorder import Recorder

SMALLEST_BATCH = 6  # the code skips smaller ones in S2 and S3


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """The recipe's epochs and milestones are those of S3.

    Args:
        relabel_epochs, relabel_from, relabel_milestones: S1; targets change after `relabel_from`.
        ring: epochs whose predictions are averaged; alpha, beta: weights of R_p and R_e.
        split_epochs, split_milestones: S2. gamma1, gamma2: thresholds on p(noisy) at D1 and D2.
        rho: share of the unlabelled that gets the uniform label; mix_alpha: of mixup's Beta.
        warm_start: `released` (random first pseudo-labels) or `intended` (`warm_epochs` of mixup
            on the clean part first). only_clean: leave the unlabelled out. oracle: split by the
            truth. track: measure every so many epochs (0: only at the end of each stage, after S3
            for the record alone); for figures, changes nothing.
    """

    network: str = "preact18"
    lr: float = 0.1
    weight_decay: float = 1e-4
    schedule: str = "steps"
    milestones: tuple[int, ...] = (150, 225)
    batch_size: int = within(f"[{SMALLEST_BATCH}, 16384]", 128)
    relabel_epochs: int = within(engine.EPOCHS, 130)
    relabel_from: int = within(engine.EPOCHS, 70)
    relabel_milestones: tuple[int, ...] = within("[1, 1000000]", (75, 110))
    ring: int = within("[1, 1000]", 10)
    alpha: float = within("[0, 1000]", 0.8)
    beta: float = within("[0, 1000]", 0.4)
    gamma1: float = within("[0, 1]", 0.1)
    split_epochs: int = within(engine.EPOCHS, 175)
    split_milestones: tuple[int, ...] = within("[1, 1000000]", (100, 150))
    gamma2: float = within("[0, 1]", 0.5)
    rho: float = within("[0, 1]", 0.2)
    mix_alpha: float = within("(0, 1000]", 1.0)
    warm_start: str = one_of("released", "intended")
    warm_epochs: int = within("[0, 100000]", 10)
    only_clean: bool = False
    oracle: bool = False
    track: int = within("[0, 100000]", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ring <= self.relabel_from < self.relabel_epochs:
            raise ValueError(f"relabel_from must lie between ring ({self.ring}) and "
                             f"relabel_epochs ({self.relabel_epochs}), not at "
                             f"{self.relabel_from}.")
        if self.warm_start == "intended" and not self.warm_epochs:
            raise ValueError("warm_epochs must be at least 1 where warm_start is intended.")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The code's scripts: only stage 1 differs between CIFAR-10 and CIFAR-100."""
    if dataset == "cifar100":
        return {"relabel_epochs": 100, "relabel_from": 40, "relabel_milestones": (45, 80)}
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The same three stages in proportion, still at a high rate until the labels are replaced."""
    s1, s2, s3 = {"smoke": (16, 12, 20), "laptop": (10, 10, 20), "desk": (28, 37, 64),
                  "fast": (20, 24, 40)}[budget]
    start = s1 // 2
    lr = {"smoke": 0.02, "laptop": 0.05, "desk": 0.1, "fast": 0.1}[budget]
    return {"schedule": "steps", "lr": lr, "relabel_epochs": s1, "relabel_from": start,
            "relabel_milestones": (start + 1, s1 - s1 // 6), "ring": min(4, start),
            "split_epochs": s2, "split_milestones": (s2 * 4 // 7 + 1, s2 * 6 // 7 + 1),
            "epochs": s3, "milestones": (s3 // 2 + 1, s3 * 3 // 4 + 1), "warm_epochs": 3}


def total_epochs(s: Settings, samples: int = 0) -> int:
    """Epochs of all stages together."""
    warm = 2 * s.warm_epochs if s.warm_start == "intended" else 0
    return s.relabel_epochs + s.split_epochs + s.epochs + warm


def regularised(z: Tensor, fit: Tensor, s: Settings) -> Tensor:
    """`fit` + alpha R_p + beta R_e for logits z (B, C); R_p up to a constant, as in the code."""
    p = z.float().softmax(1)
    return fit + s.alpha * objectives.prior_cross_entropy(p) + s.beta * objectives.entropy(p)


def lr_in(s: Settings, epoch: int, milestones: tuple[int, ...]) -> float:
    """Learning rate of a stage's 1-based epoch; a milestone's epoch has the lower rate already."""
    return s.lr * s.drop ** sum(epoch >= m for m in milestones)


def detect(net: Network, task: engine.Task, gamma: float, log: Recorder,
           only_looking: bool = False) -> Tensor:
    """D1, D2 or a look for the record: which samples count as clean, bool (N,). `only_looking`
    leaves no trace in the random streams."""
    before = task.rng("pass-views").get_state() if only_looking else None
    fit = mixtures.fit_betas(engine.losses(net, task, view=task.weak))  # pass A: fit
    losses = engine.losses(net, task, view=task.weak)                   # pass B: score
    if before is not None:
        task.rng("pass-views").set_state(before)
    p_noisy = fit.posterior(losses)
    clean = p_noisy <= gamma
    useless = mixtures.degenerate(fit.status) | (clean.sum() < task.num_classes)
    small = losses.argsort(stable=True).argsort() < len(losses) // 2
    clean = torch.where(useless, small, clean)
    if task.oracle is not None:
        clean = ~task.oracle
    log.p_clean(1 - p_noisy)
    log.note(mixture_status=fit.status, split_fallback=useless, clean_share=clean.float().mean())
    return clean


def relabel(task: engine.Task, s: Settings, log: Recorder) -> Tensor:
    """S1 and D1: which samples count as clean, bool (N,)."""
    net, opt = engine.start(s, task)
    q = objectives.one_hot(task.y_given, task.num_classes).float()
    seen = torch.zeros_like(q)  # this epoch's predictions, each made just before its step
    ring = torch.zeros(s.ring, *q.shape, device=task.device)
    clean = torch.ones(len(task), dtype=torch.bool, device=task.device)

    @engine.step(opt, task)
    def step(i, x):
        z = net(x)
        seen.index_copy_(0, i, z.detach().float().softmax(1))
        return regularised(z, objectives.soft_cross_entropy(z, q[i]), s)

    state = (net, opt, q, ring, clean, seen)
    for epoch in log.epochs(s.relabel_epochs, *state, stage="S1 relabel"):
        engine.set_lr(opt, lr_in(s, epoch, s.relabel_milestones))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        ring[(epoch - 1) % s.ring] = seen
        if epoch >= s.relabel_from:
            q.copy_(ring.mean(0))
        log.targets(q)
        if epoch == s.relabel_epochs or tracked(s, epoch):
            clean.copy_(detect(net, task, s.gamma1, log, epoch < s.relabel_epochs))          # D1
    return clean


def tracked(s: Settings, epoch: int) -> bool:
    """Whether this epoch ends with a measure that is for figures alone."""
    return s.track > 0 and epoch % s.track == 0


def pseudo_labels(p: Tensor, clean: Tensor, given: Tensor, rho: float,
                  draws: torch.Generator) -> Tensor:
    """Targets (N, C): given where clean, else `p`, but uniform for a random share rho of these."""
    order = torch.rand(len(p), generator=draws, device=p.device).masked_fill(clean, 2.0)
    rank = order.argsort().argsort()  # the unlabelled first, in random order
    uniform = rank < ((~clean).sum() * rho).floor()
    p = torch.where(uniform[:, None], 1 / p.shape[1], p)
    return torch.where(clean[:, None], given, p)


def semi_supervised(task: engine.Task, s: Settings, log: Recorder, clean: Tensor, epochs: int,
                    milestones: tuple[int, ...], stage: str) -> tuple[Network, Tensor]:
    """S2 or S3: the trained network, and which samples count as clean by it (after S2: D2)."""
    net, opt = engine.start(s, task)
    draws = task.rng("drpl")
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    guess = torch.randint(task.num_classes, (len(task),), generator=draws, device=task.device)
    q = torch.where(clean[:, None], given, objectives.one_hot(guess, task.num_classes).float())
    seen = q.clone()
    found = torch.ones_like(clean)
    among = clean.nonzero()[:, 0] if s.only_clean or s.warm_start == "intended" else None

    @engine.step(opt, task)
    def step(i, x):
        with torch.no_grad():  # in train mode, before the step: the next pseudo-labels
            seen.index_copy_(0, i, net(x).float().softmax(1))
        j = torch.randperm(len(i), generator=draws, device=i.device)
        lam = objectives.draw_beta(s.mix_alpha, draws, (), i.device)
        z = net(objectives.mixup(x, j, lam))
        fit = (lam * objectives.soft_cross_entropy(z, q[i])
               + (1 - lam) * objectives.soft_cross_entropy(z, q[i][j]))
        return regularised(z, fit, s)

    def one_pass(subset: Tensor | None) -> None:
        for i, x in task.batches(s.batch_size, subset=subset, least=SMALLEST_BATCH):
            log.loss(step(i, x))

    if s.warm_start == "intended":
        for _ in log.epochs(s.warm_epochs, net, opt, q, seen, stage=f"{stage} warm-up"):
            engine.set_lr(opt, s.lr)
            one_pass(among)
        for state in opt.state.values():
            state["momentum_buffer"].zero_()  # only the weights are kept
        first = engine.outputs(net, task, view=task.weak)[0].softmax(1)
        q.copy_(pseudo_labels(first, clean, given, s.rho, draws))
    for epoch in log.epochs(epochs, net, opt, q, seen, found, stage=stage):
        engine.set_lr(opt, lr_in(s, epoch, milestones))
        one_pass(among if s.only_clean else None)
        q.copy_(pseudo_labels(seen, clean, given, s.rho, draws))
        log.targets(q)
        if epoch == epochs or tracked(s, epoch):
            found.copy_(detect(net, task, s.gamma2, log, epoch < epochs))      # D2, or a look
    return net, found


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    clean = relabel(task, s, log)                                                       # S1, D1
    _, clean = semi_supervised(task, s, log, clean, s.split_epochs, s.split_milestones,
                               "S2 split")                                              # S2, D2
    return semi_supervised(task, s, log, clean, s.epochs, s.milestones, "S3 final")[0]
