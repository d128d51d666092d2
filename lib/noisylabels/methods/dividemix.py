"""DivideMix (Li et al., ICLR 2020): two networks sort data for each other.

After a short warm-up, before every epoch each network's losses are split by a
Gaussian mixture into a labelled set (label probably right) and an unlabelled
one. The split serves the *other* network, so that neither confirms its own
mistakes. Then, for each network in turn, with p its softmax prediction (K,)
and y the given one-hot label:

    w_i   = p(low-mean component | scaled loss of i),
            by the other network; X = {i: w_i > tau}, U = the rest   co-divide
    t_x   = sharpen(w y + (1 - w) mean over own 2 views of p)        co-refine
    t_u   = sharpen(mean over both networks and 2 views of p)         co-guess
    x~, t~ = mixup of all 4B rows,                                    MixMatch
            lam = max(b, 1 - b), b ~ Beta(4, 4), one a step
    L     = L_X + lambda_u(e) L_U + L_reg
    L_X   = cross entropy of t~ on the rows of X
    L_U   = squared error of p and t~ on the rows of U
    L_reg = sum_k pi_k log(pi_k / mean_rows p_k),   pi uniform
    sharpen(p) = p^(1/T) / sum p^(1/T)

An epoch of a network is one pass over its labelled set, B labelled and B
unlabelled samples a step. The prediction is the sum of both networks' logits.
Settings: the official code and its authors' answers (lambda_u by noise level;
tau 0.6 and losses averaged over five epochs at 90 %); lambda_u for one-way
noise on CIFAR-100 is C2D's.

Ours differs in two places: the last incomplete batch of a pass is left out,
so that all steps have one shape; and the labelled set holds at least one
batch and leaves one (the official code stops with an error when either set is
empty).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import mixtures, objectives, views
from ..ranges import within
from ..training import engine
from ..training.networks import Network
from ..training.recorder import Recorder

Step = Callable[..., Tensor]
"""One step of a network: tensors of a batch in, its loss out."""
Started = tuple[Network, torch.optim.SGD]
"""A network and its optimiser."""


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """What DivideMix adds to the recipe.

    Args:
        batch_size: B, the labelled samples of a step; as many unlabelled ones
            come with them.
        warm_up: epochs of cross entropy, batches of 2 B (part of `epochs`).
        entropy_penalty: there, for asymmetric noise, sum_k p_k log p_k is
            added; clip: bound of the gradient norm there (0: none).
        tau: threshold on w; temperature: T; mix_alpha: of mixup's Beta.
        lambda_u, ramp: weight of the unlabelled loss, and the epochs over
            which it grows.
        loss_history: epochs over which the scaled losses are averaged.
    """

    network: str = "preact18"
    batch_size: int = 64
    weight_decay: float = 5e-4
    schedule: str = "steps"
    milestones: tuple[int, ...] = (151,)  # the code's 150, counted from 0
    warm_up: int = within("[0, 100000]", 10)
    entropy_penalty: bool = False
    clip: float = within("[0, 1000000]", 0.0)
    tau: float = within("[0, 1]", 0.5)
    temperature: float = within("[0.01, 100]", 0.5)
    mix_alpha: float = within("(0, 1000]", 4.0)
    lambda_u: float = within("[0, 100000]", 25.0)
    ramp: int = within("[0, 100000]", 16)
    loss_history: int = within("[1, 1000]", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm_up > self.epochs:
            raise ValueError(f"warm_up ({self.warm_up}) must not exceed "
                             f"epochs ({self.epochs}).")


def one_way(noise: str) -> bool:
    """Whether wrong labels go to one similar class or few.

    "Asymmetric" in the authors' words.
    """
    return "asymmetric" in noise or noise in ("superclass", "drpl-nonuniform")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """lambda_u, tau and history by noise level.

    The authors give 20, 50, 80 and 90 %: on CIFAR-10 40 % counts as 50 here,
    on CIFAR-100 as 20. They did not run one-way noise on CIFAR-100: its value
    is from C2D's sweep. On human labels lambda_u is 0, as in the table of
    CIFAR-N, and the rate, which nobody knows, chooses nothing.
    """
    human = noise.startswith("human")
    extreme = rate >= 0.9 and not human
    if human or (dataset != "cifar100" and (one_way(noise) or rate < 0.4)):
        lambda_u = 0.0
    elif dataset == "cifar100":
        lambda_u = 150.0 if one_way(noise) or rate >= 0.5 else 25.0
    else:
        lambda_u = 50.0 if extreme else 25.0
    return {"warm_up": 30 if dataset == "cifar100" else 10,
            "entropy_penalty": one_way(noise), "lambda_u": lambda_u,
            "tau": 0.6 if extreme else 0.5,
            "loss_history": 5 if extreme else 1}


def scaled(budget: str, dataset: str, noise: str, rate: float
           ) -> dict[str, Any]:
    """Fewer epochs, since one costs several of cross entropy's.

    The ramp takes a third of them. (At the paper budget it takes 16 of 300.)
    """
    epochs, warm_up, batch = {
        "smoke": (20, 5, 32), "laptop": (14, 4, 64), "desk": (20, 5, 64),
        "fast": (30, 5, 64)}[budget]
    lr = {"smoke": 0.05, "laptop": 0.05, "desk": 0.05, "fast": 0.02}[budget]
    return {"epochs": epochs, "warm_up": warm_up, "batch_size": batch,
            "ramp": epochs // 3, "lr": lr}


def total_epochs(s: Settings, samples: int = 0) -> int:
    """Warm-up included; an epoch counts once, although two networks train."""
    return s.epochs


def check_data(s: Settings, samples: int, channels: int, pixels: int) -> None:
    """Refuse fewer samples than a labelled and an unlabelled batch need."""
    if samples < 2 * s.batch_size:
        raise ValueError(
            f"a labelled and an unlabelled batch of {s.batch_size} need at "
            f"least {2 * s.batch_size} samples, not {samples}; "
            "use a smaller batch_size.")


def clean_probability(net: Network, task: engine.Task, history: Tensor,
                      seen: int) -> tuple[Tensor, Tensor]:
    """w (N,) by the mixture of scaled losses, and the status of the fit.

    In evaluation mode, without augmentation, against the given labels. The
    losses are averaged over `history` (H, N), whose row seen % H is filled
    now; seen: epochs measured before this one.
    """
    losses = engine.losses(net, task)
    history[seen % len(history)] = mixtures.normalise(losses)[0]
    fit = mixtures.fit_gaussians(history.sum(0) / min(seen + 1, len(history)))
    return fit.p_low, fit.status


def divide(w: Tensor, tau: float, batch: int) -> tuple[Tensor, Tensor]:
    """Co-divide: numbers of the labelled and of the unlabelled samples.

    By w (N,): those with w > tau are labelled, but at least one batch of
    them, and not the last batch. Reads one number: waits for the device.
    """
    order = w.argsort(descending=True, stable=True)
    count = int((w > tau).sum().clamp(batch, len(w) - batch))
    return order[:count], order[count:]


def pairs(task: engine.Task, batch: int, labelled: Tensor, unlabelled: Tensor,
          wanted: tuple[views.View, ...]) -> Iterator[tuple[Tensor, ...]]:
    """One pass over `labelled`; `unlabelled` restarts when it is exhausted.

    Yields (i, its views, u, its views): numbers (batch,) of labelled and of
    unlabelled samples, and a tensor (batch, ...) for each view in `wanted`.
    """
    def endless():
        while True:
            yield from task.batches(batch, *wanted, subset=unlabelled,
                                    drop_last=True, stream="unlabelled")

    rest = endless()  # in a new order each time round
    for first in task.batches(batch, *wanted, subset=labelled, drop_last=True,
                              stream="labelled"):
        yield *first, *next(rest)


@torch.no_grad()
def guess(nets: list[Network], seen: list[Tensor]) -> Tensor:
    """Mean prediction (B, K) of all networks over all views in `seen`.

    Each view (B, ...) has a pass of its own, as in the code: in one pass,
    batch norm would see other statistics.
    """
    every = [net(x).float().softmax(1) for net in nets for x in seen]
    return sum(every) / len(every)


def refine(w: Tensor, given: Tensor, p: Tensor, temperature: float) -> Tensor:
    """Co-refine: sharpen(w y + (1 - w) p), (B, K).

    w: (B,), label quality; given: y, one-hot (B, K); p: predictions (B, K). A
    label that is surely right is kept, a doubtful one gives way to p.
    """
    mean = w[:, None] * given + (1 - w[:, None]) * p
    return objectives.sharpen(mean, temperature)


def mixmatch_loss(net: Network, x: Tensor, t: Tensor, labelled: int,
                  lambda_u: Tensor, s: Settings,
                  draws: torch.Generator) -> Tensor:
    """MixMatch over rows x (R, ...) with targets t (R, K).

    The first `labelled` rows are of X, the others of U; partners are drawn
    among all of them. As lam is at least 1/2, a mixture counts as what its
    first image was.
    """
    lam = objectives.draw_beta(s.mix_alpha, draws, (), x.device)
    lam = objectives.dominant(lam)  # max(b, 1 - b)
    j = torch.randperm(len(x), generator=draws, device=x.device)
    z, t = net(objectives.mixup(x, j, lam)), objectives.mixup(t, j, lam)
    l_x = objectives.soft_cross_entropy(z[:labelled], t[:labelled])
    # bounded, so that a wrong guess does limited harm; mean over classes too
    l_u = objectives.squared_error(z[labelled:], t[labelled:])
    l_reg = objectives.prior_kl(z.float().softmax(1))  # over all rows
    return l_x + lambda_u * l_u + l_reg


def warm_up_loss(z: Tensor, given: Tensor, s: Settings) -> Tensor:
    """Cross entropy of logits z (B, K) with given labels (B,).

    With the penalty sum_k p_k log p_k if `s` has it; it is least where the
    prediction is undecided.
    """
    loss = objectives.cross_entropy(z, given)
    penalty = objectives.negative_entropy(z.float().softmax(1))
    return loss + penalty * s.entropy_penalty


def co_train(task: engine.Task, s: Any, log: Recorder, started: list[Started],
             step_for: Callable[..., Step], wanted: tuple[views.View, ...],
             state: tuple = ()) -> Network:
    """Warm-up and the alternating epochs; SANM's too, with another step.

    Args:
        started: two networks with their optimisers.
        step_for: (k, networks, k's optimiser, lambda_u) -> the step of
            network k, a function of (y, w, w_u, views of X's batch, views of
            U's batch); y (B, K), w and w_u (B,). DivideMix has no use for
            w_u, the quality of the unlabelled; SANM's masks have.
        wanted: the views of each sample in a step.
        state: what else a checkpoint must hold.
    """
    check_data(s, len(task), *task.images.shape[1:3])
    nets, optimisers = [a for a, _ in started], [b for _, b in started]
    given = objectives.one_hot(task.y_given, task.num_classes).float()  # y
    # a tensor, filled anew at each step: a captured step reads it
    lambda_u = torch.zeros((), device=task.device)
    # scaled losses of the last epochs, by each of the two networks
    history = torch.zeros(2, s.loss_history, len(task), device=task.device)
    # what a checkpoint holds
    everything = (*nets, *optimisers, history, *state)

    def warm_step(net, optimiser):
        """A step of the warm-up; the gradient is clipped there alone."""
        @engine.step(optimiser, task, clip=s.clip or None)
        def step(i, x):
            return warm_up_loss(net(x), task.y_given[i], s)
        return step

    warm = [warm_step(a, b) for a, b in started]
    steps = [step_for(k, nets, optimisers[k], lambda_u) for k in (0, 1)]

    # warm-up: each network alone, on all given labels, until right ones have
    # the smaller losses
    for epoch in log.epochs(s.warm_up, *everything, predict=nets,
                            stage="warm-up"):
        for k in (0, 1):
            engine.set_lr(optimisers[k], s.lr_at(epoch))
            for i, x in task.batches(2 * s.batch_size):
                log.loss(warm[k](i, x))

    for e in log.epochs(s.epochs - s.warm_up, *everything, predict=nets,
                        stage="co-train"):
        # both networks judge all labels before either of them trains
        found = [clean_probability(nets[k], task, history[k], e - 1)
                 for k in (0, 1)]
        for k in (0, 1):
            engine.set_lr(optimisers[k], s.lr_at(s.warm_up + e))
            nets[k].train()
            nets[1 - k].eval()  # it is only asked
            w = found[1 - k][0]  # by the other network
            labelled, unlabelled = divide(w, s.tau, s.batch_size)  # co-divide
            steps_of_epoch = max(1, len(labelled) // s.batch_size)
            both = pairs(task, s.batch_size, labelled, unlabelled, wanted)
            # batch: (i, views of X's samples, u, views of U's samples)
            for n, batch in enumerate(both):
                # e counts on within an epoch: lambda_u grows with each step
                now = e - 1 + n / steps_of_epoch
                lambda_u.fill_(s.lambda_u * min(1.0, now / max(1, s.ramp)))
                half = 1 + len(wanted)
                i, u = batch[0], batch[half]
                log.loss(steps[k](given[i], w[i], w[u], *batch[1:half],
                                  *batch[half + 1:]))
            # by network: 1 and 2 in the record; w as that network sees it
            facts: dict[str, Any] = {
                f"labelled_{k + 1}": float(len(labelled)),
                f"status_{k + 1}": found[k][1]}
            log.note(**facts)
            log.p_clean(found[k][0], f"_{k + 1}")
    return nets[0]  # the recorder was told to predict by both


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    draws = task.rng("dividemix")

    def step_for(k, nets, optimiser, lambda_u):
        """The step of network k: targets by both networks, then MixMatch."""
        net, peer = nets[k], nets[1 - k]

        @engine.step(optimiser, task)
        def step(y, w, _, x1, x2, v1, v2):
            """y (B, K), w (B,), two views of X's batch and two of U's."""
            with torch.no_grad():  # targets are constants
                p_u = guess([net, peer], [v1, v2])
                t_u = objectives.sharpen(p_u, s.temperature)        # co-guess
                p_x = guess([net], [x1, x2])
                t_x = refine(w, y, p_x, s.temperature)             # co-refine
            # 4B rows, X's first; the two views of a sample share a target
            rows = torch.cat([x1, x2, v1, v2])
            targets = torch.cat([t_x, t_x, t_u, t_u])
            return mixmatch_loss(net, rows, targets, 2 * len(w), lambda_u, s,
                                 draws)                             # MixMatch

        return step

    # two networks from different starts: they make different mistakes
    started = [engine.start(s, task, salt=k) for k in (0, 1)]
    return co_train(task, s, log, started, step_for, (task.weak, task.weak))
