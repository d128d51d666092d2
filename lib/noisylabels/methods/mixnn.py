"""MixNN (Lu & He, arXiv 2406.16966; IEEE Big Data 2021): mix samples with their neighbours.

Early in training the features of one class lie together whatever labels the samples carry. So a
sample is replaced by a blend of itself and its K nearest neighbours, each weighted by how likely
its label is right: a doubtful sample is mostly overwritten by a reliable neighbour. Against heavy
noise the labels become soft targets that drift towards the network's own predictions.

    w_i    p(label right): posterior of the low-mean Gaussian, scaled losses         (E5)-(E7)
    x~_i   = lam_i x_i + sum_k beta_ik x_nb(i,k)                                          (E3)
    y~_i   = lam_i t_i + sum_k beta_ik t_nb(i,k)                                          (E4)
    lam_i  = (w_i + eps) / (w_i + sum_k w_nb(i,k) + eps), beta_ik = w_nb(i,k) / (same)    (E8)
    t_i   <- m t_i + (1 - m) p_i      every `ema_period` epochs from `start_epoch` on  (E9), (E10)
    L      = -1/B sum_i y~_i . log p(x~_i)                                                    (E11)

Timeline (epochs count from 1):

    A   e < warm_up           plain, un-augmented images in fixed order; cross entropy
    B   warm_up <= e < start  random mixup, Beta(1, 1); L_B: minus the mixed *probability*, no log
    B*  e = start             random mixup still, but soft cross entropy on the soft targets
    C   e > start             neighbours, weights (E8), soft targets

The paper's text past its first captions was not available. The defaults are the released code
(commit 99e4b12); equation numbers are those of this book. Where captions and code part, both are a
setting: `pool` (the code searches the mini-batch, the captions the whole set) and `start_loss`
(the code leaves out the log). The code's K = 2 counts the sample itself: here `neighbours=1`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import mixtures, neighbours, objectives, views
from ..ranges import one_of, within
from ..training import engine
from ..training.recorder import Recorder

EPSILON = 1e-10


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """What MixNN adds to the recipe; the defaults are the released code's.

    Args:
        warm_up, start_epoch: first epoch of phase B; epoch B* after which neighbours are mixed.
        momentum_target: m of (E9), the old target's share; ema_period: epochs between updates.
        neighbours: K, the sample itself not counted; pool: where they are searched (the batch, by
            the features of this step, or the whole set, once an epoch); backend: of the latter.
        start_loss, start_mix: of phase B. gmm_label: the loss of (E5) is taken against the
            `corrected` (current argmax) or the `given` label; loss_history: epochs averaged.
        weights: `gmm` (E8), `equal`, or `binary` (w rounded); targets: `ema` or `frozen`.
        partner: `nearest`, or `random` samples of the pool with the same weights (an ablation).
    """

    warm_up: int = within("[0, 100000]", 10)
    start_epoch: int = within("[0, 100000]", 60)
    momentum_target: float = within("[0, 1]", 0.9)
    ema_period: int = within(engine.EPOCHS, 10)
    neighbours: int = within("[1, 1000]", 1)
    pool: str = one_of("batch", "dataset")
    backend: str = one_of("exact", "hnsw")
    start_loss: str = one_of("neg_prob", "ce")
    start_mix: str = one_of("mixup", "none")
    gmm_label: str = one_of("corrected", "given")
    loss_history: int = within("[1, 1000]", 1)
    weights: str = one_of("gmm", "equal", "binary")
    targets: str = one_of("ema", "frozen")
    partner: str = one_of("nearest", "random")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_epoch < self.warm_up:  # phase A would swallow B and B*
            raise ValueError(f"start_epoch ({self.start_epoch}) must be at least warm_up "
                             f"({self.warm_up}).")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The code's flags: a longer warm-up on CIFAR-100, a 5-epoch loss mean at rate 0.8."""
    return {"warm_up": 30 if dataset == "cifar100" else 10,
            "loss_history": 5 if rate == 0.8 else 1}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """Shorter schedules: cycles of the budget's period, a label can flip after two updates.

    At the desk budget the phases begin in proportion (60 of 300 epochs is a fifth), and six
    updates at 0.7 leave as little of the given label as the published 24 at 0.9.
    """
    period = {"smoke": 6, "laptop": 5, "desk": 8, "fast": 8}[budget]
    return {"schedule": "restarts", "period": period, "ema_period": period,
            "start_epoch": 16 if budget == "desk" else period,
            "warm_up": {"smoke": 3, "laptop": 2, "desk": 3, "fast": 4}[budget],
            "momentum_target": 0.7}


def shares(w: Tensor, w_near: Tensor) -> Tensor:
    """(E8): weights (B, 1 + K) of a sample and its K neighbours, from p(label right).

    w: (B,); w_near: (B, K). Rows sum to 1; all doubtful (zero): the sample keeps itself.
    """
    each = torch.cat([w[:, None] + EPSILON, w_near], 1)
    return each / each.sum(1, keepdim=True)


def check_data(s: Settings, samples: int, channels: int, pixels: int) -> None:
    """Refuse a pool in which a sample has fewer than K others, before the first epoch."""
    last = samples if s.pool == "dataset" else min(
        samples, engine.visited(samples, s.batch_size) % s.batch_size or s.batch_size)
    if s.epochs > s.start_epoch and last <= s.neighbours:
        where = "training set" if s.pool == "dataset" else "last batch"
        raise ValueError(f"{s.neighbours} neighbours need a pool of more than {s.neighbours} "
                         f"samples, but the {where} has {last}; change neighbours or batch_size.")


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    check_data(s, len(task), *task.images.shape[1:3])
    net, opt = engine.start(s, task)
    draws = task.rng("mixnn")
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    targets = given.clone()                                                      # t, (N, C)
    w = torch.full((len(task),), 0.5, device=task.device)                       # p(label right)
    scaled_losses = torch.zeros(s.loss_history, len(task), device=task.device)  # last epochs' (E5)
    keep = torch.ones((), device=task.device)          # m in an epoch that updates; 1: no change

    def blend(x: Tensor, near: Tensor, share: Tensor) -> Tensor:
        """x (B, ...) and its partners near (B, K, ...), summed with the weights (B, 1 + K)."""
        ones = [1] * (x.dim() - 1)
        return (share[:, 0].view(-1, *ones) * x
                + (share[:, 1:].view(*near.shape[:2], *ones) * near).sum(1))

    def step_of(phase: str):
        @engine.step(opt, task)
        def step(i, x, j=None, x_near=None):
            if phase == "A":
                return objectives.cross_entropy(net(x), task.y_given[i])                    # (E1)
            with torch.no_grad():  # train mode: batch-norm sees the clean and the mixed batch
                h = net.features(x)
                p = net.head(h).float().softmax(1)
            if phase == "C":
                if s.pool == "batch":
                    local = (neighbours.nearest_in_batch(h, s.neighbours)[0]
                             if s.partner == "nearest" else random_rows(len(i)))
                    j, x_near = i[local], x[local]
                share = weigh(i, j)
            else:
                local = torch.randperm(len(i), generator=draws, device=i.device)[:, None]
                j, x_near = i[local], x[local]
                lam = objectives.draw_beta(1.0, draws, (), i.device)
                lam = lam if s.start_mix == "mixup" or phase != "B" else torch.ones_like(lam)
                share = torch.stack([lam, 1 - lam]).expand(len(i), 2)
            z = net(blend(x, x_near, share))                                                # (E3)
            if phase == "B":
                mixed = blend(given[i], given[j], share)
                return (objectives.negative_probability(z, mixed) if s.start_loss == "neg_prob"
                        else objectives.soft_cross_entropy(z, mixed))                       # (L_B)
            targets.index_copy_(0, i, keep * targets[i] + (1 - keep) * p)                   # (E9)
            return objectives.soft_cross_entropy(z, blend(targets[i], targets[j], share))   # (E11)

        return step

    def weigh(i: Tensor, j: Tensor) -> Tensor:
        if s.weights == "equal":
            return torch.full((len(i), 1 + j.shape[1]), 1 / (1 + j.shape[1]), device=i.device)
        known = w.round() if s.weights == "binary" else w
        return shares(known[i], known[j])                                                   # (E8)

    def random_rows(n: int) -> Tensor:
        draw = torch.rand(n, n, generator=draws, device=task.device)
        draw.fill_diagonal_(-1.0)  # never the sample itself
        return draw.topk(s.neighbours, 1).indices

    def random_partners() -> Tensor:
        """(N, K): those that follow a sample when the set is put in a random circle."""
        order = torch.randperm(len(task), generator=draws, device=task.device)
        following = torch.stack([order.roll(-k) for k in range(1, s.neighbours + 1)], 1)
        return following[order.argsort()]

    steps = {phase: step_of(phase) for phase in "ABC"} | {"B*": step_of("B*")}
    for epoch in log.epochs(s.epochs, net, opt, targets, w, scaled_losses):
        engine.set_lr(opt, s.lr_at(epoch))
        phase = ("A" if epoch < s.warm_up else "B" if epoch < s.start_epoch
                 else "B*" if epoch == s.start_epoch else "C")
        updates = s.targets == "ema" and epoch % s.ema_period == 0                          # (E10)
        keep.fill_(s.momentum_target if updates else 1.0)
        near = None
        if phase != "A":  # one pass over the set: losses, and features when the pool is the set
            search = phase == "C" and s.pool == "dataset"
            z, h = engine.outputs(net, task, features=search and s.partner == "nearest")
            label = targets.argmax(1) if s.gmm_label == "corrected" else task.y_given
            scaled_losses[epoch % s.loss_history] = mixtures.normalise(
                objectives.cross_entropy(z, label, "none"))[0]                              # (E5)
            seen = min(epoch - max(s.warm_up, 1) + 1, s.loss_history)
            fit = mixtures.fit_gaussians(scaled_losses.sum(0) / seen)                       # (E6)
            w.copy_(fit.p_low)                                                              # (E7)
            if search:
                near = (random_partners() if h is None else
                        neighbours.nearest(h, s.neighbours, backend=s.backend)[0])
        for i, x in (task.batches(s.batch_size) if phase != "A" else
                     task.batches(s.batch_size, views.Identity(), shuffle=False)):
            if near is None:
                log.loss(steps[phase](i, x))
            else:
                j = near[i]
                x_near = task.look(j.flatten()).view(*j.shape, *x.shape[1:])
                log.loss(steps[phase](i, x, j, x_near))
        log.p_clean(w)
        log.targets(targets)
    return net
