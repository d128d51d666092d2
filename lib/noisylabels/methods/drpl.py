"""DRPL (Ortego et al., ICPR 2020): relabel all, see who disagrees, learn.

A small loss marks a clean label only while the network has not learnt the
wrong ones by heart, and not under every kind of noise. DRPL therefore first
trains with a high learning rate, then replaces *all* labels by the network's
own predictions. What it was given and what it now believes agree for clean
samples and disagree for wrong ones: the cross entropy against the GIVEN label
separates them. N samples, C classes, h = softmax z the prediction (C,), y the
given one-hot label, q the current target:

    S1  l = CE(q, h) + alpha R_p + beta R_e
            q = y at first, later the network's own mean prediction
        R_p = KL(uniform || mean_i h_i)   keeps the classes from collapsing
        R_e = mean entropy of h           keeps the predictions decided
        q_i = mean of the last `ring` epochs' h(x_i), after every epoch from
              `relabel_from` on, for all samples
    D1  d_i = -log h_y(x_i), y given; beta mixture on d;
        clean: p(noisy | d_i) <= gamma1
    S2  fresh network; clean samples keep y, the others get pseudo-labels;
        mixup x~ = lam x_i + (1 - lam) x_j, lam ~ Beta, one a batch:
        l = lam CE(q_i, h(x~)) + (1 - lam) CE(q_j, h(x~))
            + alpha R_p + beta R_e
        after each epoch: q = this epoch's h(x) for the unlabelled, but 1/C
        for a share rho of them
    D2  as D1, with S2's network and gamma2
    S3  as S2, fresh network, longer: the final model

One network architecture throughout. Both measures are taken on augmented
images in evaluation mode, in two passes: the mixture is fitted on the first
and scores the second. Ours: a third detection ends S3, decides nothing, and
shows in the record how the final model ranks the labels; and where a fit
means nothing, or fewer samples than classes are clean, the half with the
smaller d counts as clean (the code goes on with what it has).

Defaults: the official code (August 2020), CIFAR-10. The paper's text was not
available. Open is whether its numbers come from stages that start from a
network trained on the clean part (`warm_start="intended"`: that code is
there, but dead) or from random pseudo-labels (`"released"`).
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
        relabel_epochs, relabel_from, relabel_milestones: of S1; its targets
            change from the end of epoch `relabel_from` on.
        ring: epochs whose predictions are averaged.
        alpha, beta: weights of R_p and R_e, in all stages.
        split_epochs, split_milestones: of S2.
        gamma1, gamma2: thresholds on p(noisy) at D1 and D2.
        rho: share of the unlabelled that gets the uniform label.
        mix_alpha: of mixup's Beta.
        warm_start: `released` (random first pseudo-labels) or `intended`
            (`warm_epochs` of mixup on the clean part first).
        only_clean: leave the unlabelled out. oracle: split by the truth.
        track: measure every so many epochs (0: only at the end of each stage,
            after S3 for the record alone); for figures, changes nothing.
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
            raise ValueError(
                f"relabel_from must lie between ring ({self.ring}) and "
                f"relabel_epochs ({self.relabel_epochs}), not at "
                f"{self.relabel_from}.")
        if self.warm_start == "intended" and not self.warm_epochs:
            raise ValueError(
                "warm_epochs must be at least 1 where warm_start is "
                "intended.")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The code's scripts: only S1 differs between CIFAR-10 and CIFAR-100."""
    if dataset == "cifar100":
        return {"relabel_epochs": 100, "relabel_from": 40,
                "relabel_milestones": (45, 80)}
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float
           ) -> dict[str, Any]:
    """The three stages in proportion.

    Still at a high rate until the labels are replaced, in the middle of S1.
    """
    s1, s2, s3 = {"smoke": (16, 12, 20), "laptop": (10, 10, 20),
                  "desk": (28, 37, 64), "fast": (20, 24, 40)}[budget]
    start = s1 // 2
    lr = {"smoke": 0.02, "laptop": 0.05, "desk": 0.1, "fast": 0.1}[budget]
    return {"schedule": "steps", "lr": lr, "warm_epochs": 3,
            "relabel_epochs": s1, "relabel_from": start,
            "relabel_milestones": (start + 1, s1 - s1 // 6),
            "ring": min(4, start), "split_epochs": s2,
            "split_milestones": (s2 * 4 // 7 + 1, s2 * 6 // 7 + 1),
            "epochs": s3, "milestones": (s3 // 2 + 1, s3 * 3 // 4 + 1)}


def total_epochs(s: Settings, samples: int = 0) -> int:
    """Epochs of all stages together."""
    warm = 2 * s.warm_epochs if s.warm_start == "intended" else 0
    return s.relabel_epochs + s.split_epochs + s.epochs + warm


def regularised(z: Tensor, fit: Tensor, s: Settings) -> Tensor:
    """The loss of every stage, a scalar: `fit` + alpha R_p + beta R_e.

    z: logits (B, C), of the mixed images where there are any; fit: their
    cross entropy. R_p lacks its constant -log C, which has no gradient, as in
    the code. Gradients flow through both terms everywhere.
    """
    p = z.float().softmax(1)
    r_p = objectives.prior_cross_entropy(p)
    r_e = objectives.entropy(p)
    return fit + s.alpha * r_p + s.beta * r_e


def lr_in(s: Settings, epoch: int, milestones: tuple[int, ...]) -> float:
    """Learning rate of a stage's 1-based epoch.

    The epoch of a milestone has the lower rate already.
    """
    return s.lr * s.drop ** sum(epoch >= m for m in milestones)


def tracked(s: Settings, epoch: int) -> bool:
    """Whether this epoch ends with a measure that is for figures alone."""
    return s.track > 0 and epoch % s.track == 0


def detect(net: Network, task: engine.Task, gamma: float, log: Recorder,
           only_looking: bool = False) -> Tensor:
    """D1 or D2: which samples count as clean, bool (N,).

    In evaluation mode, on augmented images, against the labels as given. What
    is recorded as p_clean is 1 - p(noisy).

    Args:
        gamma: samples with p(noisy | d_i) up to it are clean.
        only_looking: for the record; leaves no trace in the random streams.
    """
    stream = task.rng("pass-views")  # augmentation outside training
    before = stream.get_state() if only_looking else None
    # d (N,) twice, each time on new augmented images: the mixture is fitted
    # on the first pass and scores the second. `fit_betas` leaves the lowest
    # and the highest 5 % out of the fit, but every sample is scored.
    fit = mixtures.fit_betas(engine.losses(net, task, view=task.weak))
    d = engine.losses(net, task, view=task.weak)
    if before is not None:
        stream.set_state(before)
    p_noisy = fit.posterior(d)  # p(noisy | d_i)
    clean = p_noisy <= gamma

    # ours: where the fit means nothing (losses alike, "noisy" below "clean")
    # or a class could be without samples, the half with the smaller d
    useless = (mixtures.degenerate(fit.status)
               | (clean.sum() < task.num_classes))
    rank = d.argsort(stable=True).argsort()
    clean = torch.where(useless, rank < len(d) // 2, clean)
    if task.oracle is not None:  # experiment: the truth decides
        clean = ~task.oracle
    log.p_clean(1 - p_noisy)
    log.note(mixture_status=fit.status, split_fallback=useless,
             clean_share=clean.float().mean())
    return clean


def relabel(task: engine.Task, s: Settings, log: Recorder) -> Tensor:
    """S1 and D1: which samples count as clean, bool (N,).

    Up to the end of epoch `relabel_from` the targets are the given labels; a
    high learning rate keeps the network from learning the wrong ones by
    heart. Then every label is replaced, and the given ones, which
    `task.y_given` still holds, become the question that D1 asks.
    """
    net, opt = engine.start(s, task)
    q = objectives.one_hot(task.y_given, task.num_classes).float()  # (N, C)
    # this epoch's h(x_i), each made just before its step, in train mode
    seen = torch.zeros_like(q)
    # the last epochs' `seen`; row (e - 1) % ring is epoch e's
    ring = torch.zeros(s.ring, *q.shape, device=task.device)
    clean = torch.ones(len(task), dtype=torch.bool, device=task.device)

    @engine.step(opt, task)
    def step(i, x):
        """i: the samples' numbers (B,); x: their weak views (B, ...)."""
        z = net(x)
        seen.index_copy_(0, i, z.detach().float().softmax(1))
        return regularised(z, objectives.soft_cross_entropy(z, q[i]), s)

    state = (net, opt, q, ring, clean, seen)
    for epoch in log.epochs(s.relabel_epochs, *state, stage="S1 relabel"):
        engine.set_lr(opt, lr_in(s, epoch, s.relabel_milestones))
        for i, x in task.batches(s.batch_size):
            log.loss(step(i, x))
        ring[(epoch - 1) % s.ring] = seen
        if epoch >= s.relabel_from:  # right labels are replaced as well
            q.copy_(ring.mean(0))
        log.targets(q)
        # the weights of the last epoch decide; any other look is for figures
        last = epoch == s.relabel_epochs
        if last or tracked(s, epoch):
            found = detect(net, task, s.gamma1, log, only_looking=not last)
            clean.copy_(found)                                            # D1
    return clean


def pseudo_labels(p: Tensor, clean: Tensor, given: Tensor, rho: float,
                  draws: torch.Generator) -> Tensor:
    """Targets q (N, C) of the next epoch: given where clean, else `p`.

    p (N, C): predictions; clean: bool (N,); given: one-hot (N, C). A random
    share rho of the unlabelled, drawn anew at each call, gets the uniform
    label 1/C instead: nothing is known of these today. (The code names it
    random relabelling; the label is uniform.)
    """
    # the unlabelled in random order, behind them all clean ones
    order = torch.rand(len(p), generator=draws, device=p.device)
    rank = order.masked_fill(clean, 2.0).argsort().argsort()
    uniform = rank < ((~clean).sum() * rho).floor()
    p = torch.where(uniform[:, None], 1 / p.shape[1], p)
    return torch.where(clean[:, None], given, p)


def semi_supervised(task: engine.Task, s: Settings, log: Recorder,
                    clean: Tensor, epochs: int, milestones: tuple[int, ...],
                    stage: str) -> tuple[Network, Tensor]:
    """S2 or S3: the trained network, and which samples count as clean by it.

    The second result is D2 after S2; after S3 nobody asks for it.

    Args:
        clean: bool (N,), by the detection before: these keep their given
            label for the whole stage.
        epochs, milestones: of this stage, counted from 1.
        stage: its name in the record.
    """
    net, opt = engine.start(s, task)  # fresh weights, the same ones as in S1
    draws = task.rng("drpl")
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    # no prediction yet: each unlabelled sample starts with a random class
    guess = torch.randint(task.num_classes, (len(task),), generator=draws,
                          device=task.device)
    guess = objectives.one_hot(guess, task.num_classes).float()
    q = torch.where(clean[:, None], given, guess)
    seen = q.clone()  # this epoch's h(x_i) on un-mixed images
    found = torch.ones_like(clean)
    # numbers of the clean samples, where these are ever trained on alone
    alone = s.only_clean or s.warm_start == "intended"
    among = clean.nonzero()[:, 0] if alone else None

    @engine.step(opt, task)
    def step(i, x):
        """Two passes: h(x) on the images as they are, the loss on x~."""
        with torch.no_grad():  # in train mode, before the step: the next q
            seen.index_copy_(0, i, net(x).float().softmax(1))
        j = torch.randperm(len(i), generator=draws, device=i.device)
        lam = objectives.draw_beta(s.mix_alpha, draws, (), i.device)
        # both partners may be labelled or not; q knows which label each has
        z = net(objectives.mixup(x, j, lam))  # logits of x~
        fit = (lam * objectives.soft_cross_entropy(z, q[i])
               + (1 - lam) * objectives.soft_cross_entropy(z, q[i][j]))
        return regularised(z, fit, s)

    def one_pass(subset: Tensor | None) -> None:
        """Labelled and unlabelled in plain shuffled batches, as they come."""
        for i, x in task.batches(s.batch_size, subset=subset,
                                 least=SMALLEST_BATCH):
            log.loss(step(i, x))

    if s.warm_start == "intended":  # dead in the released code
        name = f"{stage} warm-up"
        for _ in log.epochs(s.warm_epochs, net, opt, q, seen, stage=name):
            engine.set_lr(opt, s.lr)
            one_pass(among)  # the clean part, nothing relabelled
        for state in opt.state.values():
            state["momentum_buffer"].zero_()  # only the weights are kept
        # the first pseudo-labels: in evaluation mode, on augmented images
        first = engine.outputs(net, task, view=task.weak)[0].softmax(1)
        q.copy_(pseudo_labels(first, clean, given, s.rho, draws))

    for epoch in log.epochs(epochs, net, opt, q, seen, found, stage=stage):
        engine.set_lr(opt, lr_in(s, epoch, milestones))
        one_pass(among if s.only_clean else None)
        q.copy_(pseudo_labels(seen, clean, given, s.rho, draws))
        log.targets(q)
        last = epoch == epochs
        if last or tracked(s, epoch):
            looked = detect(net, task, s.gamma2, log, only_looking=not last)
            found.copy_(looked)                                           # D2
    return net, found


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    # clean: which samples are taken for rightly labelled by now, bool (N,)
    clean = relabel(task, s, log)                                     # S1, D1
    # S2 trains a network only to ask it again, with the milder gamma2
    _, clean = semi_supervised(task, s, log, clean, s.split_epochs,
                               s.split_milestones, "S2 split")        # S2, D2
    net, _ = semi_supervised(task, s, log, clean, s.epochs, s.milestones,
                             "S3 final")                                  # S3
    return net
