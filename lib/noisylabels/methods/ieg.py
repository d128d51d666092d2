"""IEG (Zhang et al., CVPR 2020): a few trusted labels steer many others.

"Distilling Effective Supervision from Severe Label Noise". Each step first
asks: if the network took one step on this noisy batch, how would the loss on
trusted samples change with the weight omega_i and the label share lambda_i of
each noisy sample? Samples whose weight should grow count; labels that should
be trusted less are replaced by the network's own guess g. For a batch of n
images x (weak view) and x_s (strong view) with logits z and z_s:

    g      = sharpen(1/2 softmax(rms z) + 1/2 softmax(rms z_s), tau)   Eq. (3)
    l_i    = CE(lambda_0 y_i + (1 - lambda_0) g_i, z_i)                Eq. (5)
    theta^ = theta - a [grad (1/n) sum_i l_i + wd theta + mu momentum]
    v      = grad_theta^ of (mean trusted CE + wd/2 |theta^|^2)
    d omega_i  = -a     <grad l_i(theta), v>
    d lambda_i = -(a/n) <grad d_i(theta), v>,     d_i = CE(y_i - g_i, z_i)
    omega_i = [-d omega_i]_+ / (sum_j [-d omega_j]_+ + 1e-5)           Eq. (2)
    y*_i    = y_i where d lambda_i < 0, else g_i                  Eq. (6), (7)

Both inner products are derivatives along v at theta: one forward-mode pass
gives them exactly, no second derivative is taken (`kernels.meta_gradient`;
the page derives it; double backward is the test's oracle). The step then is

    L = 1/2 [mean CE(y*, z) + sum_i omega_i l_i]          re-label, re-weight
        + L_p + p L_u      mixup of trusted, weak and strong     Eq. (8), (9)
        + k mean KL(softmax z (stopped) || softmax z_s)                Eq. (4)

with L_p over the mixtures whose dominant image is trusted, L_u over the
others. g is a constant in all of L.

Batch-norm uses batch statistics in every pass; running statistics come from
the weak noisy pass alone. Evaluated with averaged weights; cosine cycles with
growing length and falling peak. Equation numbers are the paper's, as relayed
by a third person. Settings: the official code (google-research, folder ieg).
Ours differs: a standard wide residual network, the 25 published AutoAugment
policies, per-channel normalisation, and a strong view with its own crop
instead of one on top of the weak view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kernels import meta_gradient, objectives, views
from ..kernels.meta_gradient import Quiet, momentum_of
from ..ranges import one_of, within
from ..training import engine, networks
from ..training.networks import Network
from ..training.recorder import Recorder


@dataclass(frozen=True)
class Settings(engine.Recipe):
    """What IEG adds to the recipe; `lr` is the first cycle's peak.

    Args:
        steps: of the whole training; 0: `epochs` passes (so it is when
            `epochs` is asked for).
        cycle: steps of the first cycle, 0: three cycles fill the training;
            growth, peak_decay: from one cycle to the next.
        tau: of the sharpening. lambda_0: the label share in l_i.
        look, look_momentum: a and mu of the trial step.
        p, k: weights of L_u and of the consistency.
        data_weight: of the two losses on given labels, 1/2 in the code, 1 in
            the paper.
        rms: divide logits by their root mean square (code).
        square_mix: mixup's coefficient is 1 - U^2 / 2 (code) instead of from
            Beta(mix_beta, mix_beta) (paper).
        pseudo_grad: let the trial step's gradient flow through g (code,
            apparently unintended).
        isolation: samples with omega below it alone feed L_u (paper); None:
            all (code).
        policy: of the strong view: `autoaugment`, `randaugment`, or `none`, a
            second weak view, as MixMatch has it.
        average: decay of the averaged weights.
        reweight, relabel, mix: switches of the ablations.
    """

    network: str = "wrn28-10"
    batch_size: int = 100
    lr: float = 0.1
    weight_decay: float = 5e-4
    epochs: int = 172
    steps: int = within("[0, 100000000]", 85_498)
    cycle: int = within("[0, 100000000]", 500)
    growth: float = within("[1, 100]", 1.5)
    peak_decay: float = within("(0, 1]", 0.9)
    tau: float = within("[0.01, 100]", 0.5)
    lambda_0: float = within("[0, 1]", 0.9)
    look: float = within("(0, 100]", 0.1)
    look_momentum: float = within("[0, 1)", 0.9)
    p: float = within("[0, 1000]", 5.0)
    k: float = within("[0, 1000]", 20.0)
    data_weight: float = within("[0, 1000]", 0.5)
    rms: bool = True
    square_mix: bool = True
    mix_beta: float = within("(0, 1000]", 0.5)
    pseudo_grad: bool = False
    isolation: float | None = within("[0, 1]", None)
    policy: str = one_of("autoaugment", "randaugment", "none")
    average: float = within("[0, 1)", 0.999)
    reweight: bool = True
    relabel: bool = True
    mix: bool = True


def trusted_per_class(dataset: str, budget: str) -> int:
    """Ten a class, as in the main tables (0.1k and 1k); three digits."""
    return 3 if dataset == "digits" else 10


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """One set of values for both datasets."""
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float
           ) -> dict[str, Any]:
    """Three cycles over the budget's epochs.

    A step costs about eight of cross entropy's. On a CPU p and k are 1: with
    5 and 20 the guesses still agree on a class or two when the laptop's few
    steps are over; the desk's are not many more.
    """
    epochs, lr = {"smoke": (24, 0.05), "laptop": (14, 0.1), "desk": (48, 0.1),
                  "fast": (30, 0.1)}[budget]
    gentle = {"p": 1.0, "k": 1.0} if budget in ("laptop", "desk") else {}
    network = {"network": "wrn28-2"} if budget == "fast" else {}
    return {"steps": 0, "cycle": 0, "epochs": epochs, "lr": lr,
            "average": 0.99, **gentle, **network}


def total_epochs(s: Settings, samples: int) -> int:
    """Passes over so many samples, the last one cut short by `steps`."""
    if not s.steps:
        return s.epochs
    return -(-s.steps // engine.steps_of(samples, s.batch_size))


def learning_rate(step: int, total: int, s: Settings) -> float:
    """Rate at the 0-based step of `total`.

    Cosine cycles down to zero; the next one is `growth` times as long, from
    `peak_decay` times the peak.
    """
    length = s.cycle or total / (1 + s.growth + s.growth**2)
    peak, start = s.lr, 0.0
    while step >= start + length - 1e-9:  # that cycle is over
        start += length
        length, peak = length * s.growth, peak * s.peak_decay
    return 0.5 * peak * (1 + math.cos(math.pi * (step - start) / length))


def cycle_ends(s: Settings, total: int) -> list[int]:
    """Steps after which a cycle ends, up to `total`.

    There the rate is zero: the fair points to stop and to compare at.
    """
    length, ends = float(s.cycle or total / (1 + s.growth + s.growth**2)), []
    end = length
    while end <= total + 1e-6:
        ends.append(int(end + 0.5))
        length *= s.growth
        end += length
    return ends


def plain(z: Tensor) -> Tensor:
    """Logits as they are, in float32 at least."""
    return z.to(torch.promote_types(z.dtype, torch.float32))


def pseudo_label(z: Tensor, z_strong: Tensor, s: Settings) -> Tensor:
    """g (B, C), Eq. (3): the sharpened mean prediction over both views.

    z, z_strong: logits (B, C) of the weak and the strong view. They are
    divided by the root mean square of their whole matrix, one number a view:
    a step of the code that the paper's formula lacks.
    """
    scale = objectives.rms_normalise if s.rms else plain
    p = 0.5 * (scale(z).softmax(1) + scale(z_strong).softmax(1))
    return objectives.sharpen(p, s.tau)


@torch.compiler.disable
def meta_gradients(quiet: Quiet, momentum: dict[str, Tensor], z: Tensor,
                   x: Tensor, x_s: Tensor, y: Tensor, g: Tensor, x_t: Tensor,
                   y_t: Tensor, s: Settings) -> tuple[Tensor, Tensor]:
    """d omega and d lambda, (B,) each, by `kernels.meta_gradient` and `s`.

    The question put to the trusted samples x_t, y_t: after a trial step on
    x, y with all omega_i = 1/n and lambda_i = lambda_0, how does their loss
    change with each omega_i and lambda_i? z: logits of x with their graph;
    x_s: the strong view, for `pseudo_grad`; shapes: the kernel's.
    """
    def guess(z: Tensor, theta: meta_gradient.Weights) -> Tensor:
        return pseudo_label(z, quiet(x_s, theta), s)

    return meta_gradient.meta_gradients(
        quiet, z, x, y, g, x_t, y_t, momentum=momentum, lambda_0=s.lambda_0,
        look=s.look, look_momentum=s.look_momentum,
        weight_decay=s.weight_decay, guess=guess if s.pseudo_grad else None)


def coefficients(d_omega: Tensor, d_lambda: Tensor) -> tuple[Tensor, Tensor]:
    """omega (B,), at most 1 in sum, and which given labels are kept, (B,).

    A negative derivative says that more of it would lower the trusted loss.
    Of lambda only the sign is used: late in training g comes close to y and
    the derivative fades, and a label half y, half g would be too flat to
    learn from. Exactly 0 takes the guess.
    """
    omega = (-d_omega).clamp(min=0)
    omega = omega / (omega.sum() + 1e-5)                             # Eq. (2)
    keep = d_lambda < 0                                         # Eq. (6), (7)
    return omega, keep


def strong_view(task: engine.Task, s: Settings) -> views.View:
    """The policy, then crop, flip and cutout.

    On images that are not 32 pixels wide: the usual weak view first, and a
    cutout of half the width.
    """
    if s.policy == "none":
        return task.weak
    size = task.images.shape[-1]
    policy = (views.AutoAugment.ieg() if s.policy == "autoaugment" else
              views.RandAugment.ieg(s.batch_size))
    if size == 32:
        crop, cutout = views.Weak.ieg_strong(), views.Cutout.ieg()
        return views.Chain((policy, crop, cutout))
    return views.Chain((task.weak, policy, views.Cutout.ieg(size // 2)))


class Trusted:
    """The trusted set, a batch at a time.

    Class after class in turn, weakly augmented, from the start again at its
    end. `at`: position in the set, a tensor (), for checkpoints.

    Raises:
        ValueError: if the task has no trusted samples.
    """

    def __init__(self, task: engine.Task, size: int) -> None:
        if task.trusted is None:
            raise ValueError("this method needs trusted samples: "
                             "set trusted_per_class >= 1.")
        images, labels = task.trusted
        self.task = task
        # which one of its class each sample is: 1 for the first, 2, ...
        turn = torch.zeros(len(labels), dtype=torch.int64, device=task.device)
        for c in range(task.num_classes):
            mine = labels == c
            turn = torch.where(mine, mine.cumsum(0), turn)
        # the first of each class, then the second of each, ...
        order = (turn * task.num_classes + labels).argsort()
        self.images, self.labels = images[order], labels[order]
        self.size = size
        self.at = torch.zeros((), dtype=torch.int64, device=task.device)
        self.draws = task.rng("trusted")

    def next(self) -> tuple[Tensor, Tensor]:
        """Normalised images (size, C, H, W) and one-hot labels (size, K).

        A small set goes round more than once in a batch, in views of its own.
        """
        steps = torch.arange(self.size, device=self.at.device)
        index = (self.at + steps) % len(self.labels)
        self.at.add_(self.size).remainder_(len(self.labels))
        seen = self.task.weak(self.images[index], self.draws)
        y = objectives.one_hot(self.labels[index], self.task.num_classes)
        return self.task.normalise(seen), y.float()


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    net, opt = engine.start(s, task)
    if task.precision == "bfloat16":
        # the same casts in every pass, forward mode among them
        networks.cast_convolutions(net, torch.bfloat16)
    quiet = Quiet(net)  # the network, its running statistics left alone
    trusted = Trusted(task, s.batch_size)  # as many as noisy ones a step
    average = engine.WeightAverage(net, s.average)
    draws = task.rng("ieg")
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    # lambda*: 1 where a sample's given label was kept when last seen
    kept = torch.zeros(len(task), device=task.device)
    scale = objectives.rms_normalise if s.rms else plain

    def mixed_losses(x, x_s, g, x_t, y_t):
        """L_p, a scalar, and the terms of L_u, (2n,).

        The pool has 3n images, a third each of trusted ones (drawn from x_t
        with replacement), weak and strong views. Noisy images carry the
        guess, never the given label. The larger share m of a mixture decides
        which loss it counts for.
        """
        n = len(x)
        pick = torch.randint(len(x_t), (n,), generator=draws, device=x.device)
        pool = torch.cat([x_t[pick], x, x_s])
        labels = torch.cat([y_t[pick], g, g])
        j = torch.randperm(3 * n, generator=draws, device=x.device)
        if s.square_mix:  # the code's stand-in for the draw below
            m = objectives.draw_dominant(draws, (3 * n,), x.device,
                                         s.mix_beta)
        else:
            m = objectives.draw_beta(s.mix_beta, draws, (3 * n,), x.device)
            m = objectives.dominant(m)  # max(m, 1 - m)
        m = m if s.mix else torch.ones_like(m)
        # one pass for all: batch statistics of the whole pool
        z = quiet(objectives.mixup(pool, j, m)).split(n)        # Eq. (8), (9)
        t = objectives.mixup(labels, j, m).split(n)
        # by dominant image; each third of logits has its own rms
        each = [objectives.soft_cross_entropy(scale(a), b, "none")
                for a, b in zip(z, t, strict=True)]
        return each[0].mean(), torch.cat(each[1:])

    @engine.step(opt, task)
    def step(i, x, x_s):
        """i: the samples' numbers (n,); x, x_s: weak and strong views.

        In this order: guesses, the terms that use no given label, the
        question, the terms that use given labels.
        """
        # no autocast: in bfloat16 the network itself casts, see above
        with torch.autocast(task.device.type, enabled=False):
            y, (x_t, y_t) = given[i], trusted.next()
            z, z_s = net(x), quiet(x_s)  # net: moves running statistics
            g = pseudo_label(z, z_s, s)                              # Eq. (3)
            stopped = g.detach()  # a constant in all losses of this step
            l_p, l_u = mixed_losses(x, x_s, stopped, x_t, y_t)
            consistency: Tensor | float = 0.0
            if s.k:  # the gradient goes into the strong view alone
                p = z.detach().float().softmax(1)
                consistency = objectives.kl(p, z_s)                  # Eq. (4)
            if not s.data_weight:  # given labels are not used (`mixmatch`)
                return l_p + s.p * l_u.mean() + s.k * consistency

            # ask the trusted samples: a trial step, forgotten afterwards
            omega, keep = coefficients(*meta_gradients(
                quiet, momentum_of(opt, quiet), z, x, x_s, y,
                g if s.pseudo_grad else stopped, x_t, y_t, s))
            kept.index_copy_(0, i, keep.float())
            n = len(i)
            if not s.reweight:  # ablation: equal weights
                omega = torch.full_like(omega, 1 / n)

            # the real step: both answers are constants in it
            labels = torch.where(keep[:, None], y, stopped)  # y*, (6), (7)
            if not s.relabel:  # ablation
                labels = y
            relabelled = objectives.soft_cross_entropy(z, labels)
            mixture = s.lambda_0 * y + (1 - s.lambda_0) * stopped    # Eq. (5)
            l_i = objectives.soft_cross_entropy(z, mixture, "none")
            reweighted = (omega * l_i).sum()
            if s.isolation is not None:  # the paper's threshold T
                # L_u becomes the mean over the samples below it, those that
                # look mislabelled, in both of their views; the code has none
                low = (omega < s.isolation).float().repeat(2)
                l_u = l_u * low * (2 * n / low.sum().clamp(min=1))
            # 1/2 (code) and 1 (paper) before the two losses on given labels
            return (s.data_weight * (relabelled + reweighted)
                    + l_p + s.p * l_u.mean() + s.k * consistency)

    # the schedule counts steps, the record epochs
    per_epoch = engine.steps_of(len(task), s.batch_size)
    total = s.steps or s.epochs * per_epoch
    epochs = total_epochs(s, len(task))
    strong = strong_view(task, s)
    # the averaged weights predict, with the running statistics of `net`
    state = (net, opt, average, kept, trusted.at)
    for epoch in log.epochs(epochs, *state, predict=average.module):
        batches = task.batches(s.batch_size, task.weak, strong)
        for k, (i, x, x_s) in enumerate(batches):
            now = (epoch - 1) * per_epoch + k
            if now >= total:  # the last epoch is cut short
                break
            engine.set_lr(opt, learning_rate(now, total, s))
            log.loss(step(i, x, x_s))
            average.update(net)
        if s.data_weight:
            log.p_clean(kept)
    return average.module
