"""MixNN (Lu & He, arXiv 2406.16966; IEEE Big Data 2021): mix with neighbours.

Early in training the features of one class lie together whatever labels the
samples carry. So a sample is replaced by a blend of itself and its K nearest
neighbours, each weighted by how likely its label is right: a doubtful sample
is mostly overwritten by a reliable neighbour. Against heavy noise the labels
become soft targets that drift towards the network's own predictions.

    l_i    CE(argmax t_i, z_i), scaled to [0, 1] over all samples         (E5)
    w_i    p(label right): posterior of the low-mean one of two
           Gaussians fitted to l                                    (E6), (E7)
    lam_i  = (w_i + eps) / s_i,   beta_ik = w_near(i,k) / s_i
           with s_i = w_i + sum_k w_near(i,k) + eps                       (E8)
    x~_i   = lam_i x_i + sum_k beta_ik x_near(i,k)                        (E3)
    y~_i   = lam_i t_i + sum_k beta_ik t_near(i,k)                        (E4)
    t_i   <- m t_i + (1 - m) p_i                                          (E9)
           every `ema_period` epochs from `start_epoch` on               (E10)
    L      = -1/B sum_i y~_i . log p(x~_i)                               (E11)

Timeline (epochs count from 1), E_w = `warm_up`, E_s = `start_epoch`:

    A   e < E_w          plain, un-augmented images in fixed order; CE    (E1)
    B   E_w <= e < E_s   random mixup, Beta(1, 1), of the given labels;
                         L_B: minus the mixed *probability*, no log      (L_B)
    B*  e = E_s          random mixup still, but (E11) on soft targets
    C   e > E_s          neighbours, weights (E8), (E11) on soft targets

In the code `given` is the one-hot given label, `near` stands for neighbours
(or random partners), j for their numbers, and `share` holds lam and beta.

The paper's text past its first captions was not available. The defaults are
the released code (commit 99e4b12); equation numbers are those of this book.
Where captions and code part, both are a setting: `pool` (the code searches
the mini-batch, the captions the whole set) and `start_loss` (the code leaves
out the log). The code's K = 2 counts the sample itself: here `neighbours=1`.
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

EPSILON = 1e-10  # eps of (E8)


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """What MixNN adds to the recipe; the defaults are the released code's.

    Args:
        warm_up, start_epoch: E_w, first epoch of phase B; E_s, the epoch B*,
            after which neighbours are mixed.
        momentum_target: m of (E9), the old target's share; ema_period: epochs
            between updates.
        neighbours: K, the sample itself not counted; pool: where they are
            searched (the batch, by the features of this step, or the whole
            set, once an epoch); backend: of the latter.
        start_loss, start_mix: of phase B.
        gmm_label: the loss of (E5) is taken against the `corrected` (current
            argmax) or the `given` label; loss_history: epochs averaged.
        weights: `gmm` (E8), `equal`, or `binary` (w rounded); targets: `ema`
            or `frozen`.
        partner: `nearest`, or `random` samples of the pool with the same
            weights (an ablation).
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
            raise ValueError(f"start_epoch ({self.start_epoch}) must be at "
                             f"least warm_up ({self.warm_up}).")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The code: a longer warm-up on CIFAR-100, 5-epoch losses at rate 0.8."""
    return {"warm_up": 30 if dataset == "cifar100" else 10,
            "loss_history": 5 if rate == 0.8 else 1}


def scaled(budget: str, dataset: str, noise: str, rate: float
           ) -> dict[str, Any]:
    """Shorter schedules, in cycles of the budget's period.

    A label can flip after two updates. At the desk budget the phases begin in
    proportion (60 of 300 epochs is a fifth), and six updates at 0.7 leave as
    little of the given label as the published 24 at 0.9.
    """
    period = {"smoke": 6, "laptop": 5, "desk": 8, "fast": 8}[budget]
    warm_up = {"smoke": 3, "laptop": 2, "desk": 3, "fast": 4}[budget]
    return {"schedule": "restarts", "period": period, "ema_period": period,
            "start_epoch": 16 if budget == "desk" else period,
            "warm_up": warm_up, "momentum_target": 0.7}


def check_data(s: Settings, samples: int, channels: int, pixels: int) -> None:
    """Refuse a pool in which a sample has fewer than K others, at once."""
    where, size = "training set", samples
    if s.pool == "batch":  # the last one of an epoch may be smaller
        rest = engine.visited(samples, s.batch_size) % s.batch_size
        where, size = "last batch", min(samples, rest or s.batch_size)
    if s.epochs > s.start_epoch and size <= s.neighbours:
        raise ValueError(
            f"{s.neighbours} neighbours need a pool of more than "
            f"{s.neighbours} samples, but the {where} has {size}; "
            "change neighbours or batch_size.")


def shares(w: Tensor, w_near: Tensor) -> Tensor:
    """(E8): weights (B, 1 + K) of a sample and its K neighbours.

    w: (B,), w_near: (B, K), each the probability that a label is right. Rows
    sum to 1. All doubtful (zero): eps is left alone, the sample keeps itself.
    """
    each = torch.cat([w[:, None] + EPSILON, w_near], 1)
    return each / each.sum(1, keepdim=True)


def blend(x: Tensor, near: Tensor, share: Tensor) -> Tensor:
    """(E3) or (E4): x (B, ...) and its partners near (B, K, ...), summed.

    The weights are share (B, 1 + K): column 0 is lam, the others are beta.
    """
    ones = [1] * (x.dim() - 1)  # share gets x's number of dimensions
    lam = share[:, 0].view(-1, *ones)
    beta = share[:, 1:].view(*near.shape[:2], *ones)
    return lam * x + (beta * near).sum(1)


def random_rows(n: int, k: int, draws: torch.Generator) -> Tensor:
    """(n, k): for each of n samples k others among the n, all different."""
    draw = torch.rand(n, n, generator=draws, device=draws.device)
    draw.fill_diagonal_(-1.0)  # never the sample itself
    return draw.topk(k, 1).indices


def random_circle(n: int, k: int, draws: torch.Generator) -> Tensor:
    """(n, k): those that follow a sample when all are put in a random circle.

    As `random_rows`, for a whole set: no n x n matrix.
    """
    order = torch.randperm(n, generator=draws, device=draws.device)
    following = torch.stack([order.roll(-far) for far in range(1, k + 1)], 1)
    return following[order.argsort()]


def train(task: engine.Task, s: Settings, log: Recorder) -> nn.Module:
    check_data(s, len(task), *task.images.shape[1:3])
    net, opt = engine.start(s, task)  # the paper: one network, one loss
    draws = task.rng("mixnn")

    # what is known of each of the N samples
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    t = given.clone()  # soft targets, both (N, C)
    w = torch.full((len(task),), 0.5, device=task.device)  # p(label right)
    # l of the last epochs; row e % loss_history is epoch e's
    scaled_losses = torch.zeros(s.loss_history, len(task), device=task.device)
    # m in an epoch that updates the targets, 1 (no change) in the others
    keep = torch.ones((), device=task.device)

    # ---- what the steps share -------------------------------------------

    def see(x):
        """Features h (B, D) and predictions p (B, C) of the un-mixed batch.

        In train mode: batch norm's running statistics see the clean and the
        mixed batch of every step, as in the released code.
        """
        with torch.no_grad():
            h = net.features(x)
            return h, net.head(h).float().softmax(1)

    def mixup_pairs(i):
        """B, B*: a random partner each (B, 1), one share for all (B, 2)."""
        local = torch.randperm(len(i), generator=draws, device=i.device)
        lam = objectives.draw_beta(1.0, draws, (), i.device)
        return local[:, None], torch.stack([lam, 1 - lam]).expand(len(i), 2)

    def weigh(i, j):
        """Share (B, 1 + K) of samples i (B,) and neighbours j (B, K)."""
        if s.weights == "equal":  # ablation
            size = 1 + j.shape[1]
            return torch.full((len(i), size), 1 / size, device=i.device)
        known = w.round() if s.weights == "binary" else w
        return shares(known[i], known[j])                               # (E8)

    def soft_loss(i, j, z, p, share):
        """B*, C: correct the batch's targets, then hold z to their blend.

        z (B, C): logits of the mixed images; p (B, C): of the un-mixed ones.
        The correction comes first, so that this step's loss has it already.
        """
        t.index_copy_(0, i, keep * t[i] + (1 - keep) * p)               # (E9)
        y = blend(t[i], t[j], share)                                    # (E4)
        return objectives.soft_cross_entropy(z, y)                     # (E11)

    # ---- one step of each phase; i: the samples' numbers (B,) -----------

    @engine.step(opt, task)
    def step_a(i, x):
        return objectives.cross_entropy(net(x), task.y_given[i])        # (E1)

    @engine.step(opt, task)
    def step_b(i, x):
        see(x)  # for batch norm alone
        local, share = mixup_pairs(i)
        if s.start_mix == "none":  # lam = 1
            share = torch.eye(1, 2, device=i.device).expand(len(i), 2)
        z = net(blend(x, x[local], share))                              # (E3)
        y = blend(given[i], given[i[local]], share)
        if s.start_loss == "neg_prob":  # as released: p where log p is due
            return objectives.negative_probability(z, y)               # (L_B)
        return objectives.soft_cross_entropy(z, y)

    @engine.step(opt, task)
    def step_b_star(i, x):
        _, p = see(x)
        local, share = mixup_pairs(i)
        z = net(blend(x, x[local], share))                              # (E3)
        return soft_loss(i, i[local], z, p, share)

    @engine.step(opt, task)
    def step_c(i, x, j=None, x_near=None):
        """j (B, K), x_near (B, K, ...) come in where the pool is the set."""
        h, p = see(x)
        if s.pool == "batch":  # the code: among this step's features
            if s.partner == "nearest":
                local = neighbours.nearest_in_batch(h, s.neighbours)[0]
            else:  # ablation
                local = random_rows(len(i), s.neighbours, draws)
            j, x_near = i[local], x[local]
        share = weigh(i, j)
        z = net(blend(x, x_near, share))                                # (E3)
        return soft_loss(i, j, z, p, share)

    # ---- the epochs -----------------------------------------------------

    steps = {"A": step_a, "B": step_b, "B*": step_b_star, "C": step_c}
    for epoch in log.epochs(s.epochs, net, opt, t, w, scaled_losses):
        engine.set_lr(opt, s.lr_at(epoch))
        phase = ("A" if epoch < s.warm_up else
                 "B" if epoch < s.start_epoch else
                 "B*" if epoch == s.start_epoch else "C")
        due = epoch % s.ema_period == 0  # (E10); B does not read `keep`
        keep.fill_(s.momentum_target if due and s.targets == "ema" else 1.0)

        search = phase == "C" and s.pool == "dataset"
        if phase != "A":  # how right does each label look?
            # all samples, in evaluation mode, without augmentation; with
            # features h (N, D) where neighbours are searched in the set
            z, h = engine.outputs(net, task,
                                  features=search and s.partner == "nearest")
            corrected = s.gmm_label == "corrected"
            label = t.argmax(1) if corrected else task.y_given
            losses = objectives.cross_entropy(z, label, "none")
            last = scaled_losses[epoch % s.loss_history]
            last.copy_(mixtures.normalise(losses)[0])                   # (E5)
            # rows that hold losses by now: the first epochs average fewer
            rows = min(epoch - max(s.warm_up, 1) + 1, s.loss_history)
            fit = mixtures.fit_gaussians(scaled_losses.sum(0) / rows)   # (E6)
            w.copy_(fit.p_low)                                          # (E7)

        if search and h is not None:  # the captions: in the set, each epoch
            near = neighbours.nearest(h, s.neighbours, backend=s.backend)[0]
        elif search:  # ablation
            near = random_circle(len(task), s.neighbours, draws)

        batches = task.batches(s.batch_size)  # augmented, shuffled
        if phase == "A":  # as released: with the loader meant for testing
            plain = views.Identity()
            batches = task.batches(s.batch_size, plain, shuffle=False)
        for i, x in batches:
            if search:
                j = near[i]  # (B, K), each in a fresh view of its own
                x_near = task.look(j.flatten()).view(*j.shape, *x.shape[1:])
                log.loss(step_c(i, x, j, x_near))
            else:
                log.loss(steps[phase](i, x))
        log.p_clean(w)
        log.targets(t)
    return net
