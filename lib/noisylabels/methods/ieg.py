"""IEG (Zhang et al., CVPR 2020): a tiny trusted set steers sample weights and label choices.

"Distilling Effective Supervision from Severe Label Noise". Each step first asks: if the network
took one step on this noisy batch, how would the loss on trusted samples change with the weight
omega_i and the label share lambda_i of each noisy sample? Samples whose weight should grow count;
labels that should be trusted less are replaced by the network's own guess g.

    g      = sharpen(1/2 softmax(rms z) + 1/2 softmax(rms z_s), tau)   z weak, z_s strong view
    l_i    = CE(lambda_0 y_i + (1 - lambda_0) g_i, z_i)
    theta^ = theta - a [grad (1/n) sum_i l_i + wd theta + mu momentum]              look-ahead
    v      = grad_theta^ of (mean trusted CE + wd/2 |theta^|^2)
    d omega_i  = -a   <grad l_i(theta), v>                      d lambda_i = -(a/n) <grad d_i, v>
    omega_i = [-d omega_i]_+ / (sum + 1e-5)                     d_i = CE(y_i - g_i, z_i)
    y*_i    = y_i where d lambda_i < 0, else g_i

Both inner products are derivatives along v at theta: one forward-mode pass gives them exactly, no
second derivative is taken (the page derives it; double backward is the test's oracle).

    L = 1/2 [mean CE(y*, z) + sum_i omega_i l_i]                          re-label, re-weight
        + L_p + p L_u                          mixup of trusted, weak and strong; by dominant image
        + k mean KL(softmax z (stopped) || softmax z_s)                               consistency

Batch-norm uses batch statistics in every pass; running statistics come from the weak noisy pass
alone. Evaluated with averaged weights; cosine cycles with growing length and falling peak.
Settings: the official code (google-research, folder ieg). Ours differs: a standard wide residual
network, the 25 published AutoAugment policies, per-channel normalisation, and a strong view with
its own crop instead of one on top of the weak view.
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
    """What IEG adds to the recipe; `lr` is the first cycle's peak, the floor is 0.

    Args:
        steps: of the whole training; 0: `epochs` passes (so it is when `epochs` is asked for).
            cycle: steps of the first cycle, 0: three cycles fill the training; growth, peak_decay:
            from one cycle to the next.
        tau, lambda_0: sharpening and the look-ahead's label share. look, look_momentum: a and mu.
        p, k: weights of L_u and of the consistency; data_weight: 1/2 in the code, 1 in the paper.
        rms: divide logits by their root mean square (code); square_mix: coefficient 1 - U^2 / 2
            (code) instead of Beta(mix_beta, mix_beta); pseudo_grad: let the look-ahead's gradient
            flow through g (code, apparently unintended).
        isolation: samples with omega below it alone feed L_u (paper); None: all (code).
        policy: of the strong view: `autoaugment`, `randaugment`, or `none`, a second weak view, as
            MixMatch has it. average: decay of the averaged weights.
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
    """Ten a class, as in the main tables (0.1k and 1k); three of the few digits."""
    return 3 if dataset == "digits" else 10


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """One set of values for both datasets."""
    return {}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """Three cycles over the budget's epochs; a step costs about eight of cross entropy's.

    On a CPU p and k are 1: with 5 and 20 the guesses still agree on a class or two when the
    laptop's few steps are over; the desk's are not many more.
    """
    epochs, lr = {"smoke": (24, 0.05), "laptop": (14, 0.1), "desk": (48, 0.1),
                  "fast": (30, 0.1)}[budget]
    return {"steps": 0, "cycle": 0, "epochs": epochs, "lr": lr, "average": 0.99,
            **({"p": 1.0, "k": 1.0} if budget in ("laptop", "desk") else {}),
            **({"network": "wrn28-2"} if budget == "fast" else {})}


def total_epochs(s: Settings, samples: int) -> int:
    """Passes over so many samples, the last one cut short by `steps`."""
    return -(-s.steps // engine.steps_of(samples, s.batch_size)) if s.steps else s.epochs


def learning_rate(step: int, total: int, s: Settings) -> float:
    """Rate at the 0-based step: cosine cycles to zero, length x growth, peak x decay."""
    length = s.cycle or total / (1 + s.growth + s.growth**2)
    peak, start = s.lr, 0.0
    while step >= start + length - 1e-9:
        start, length, peak = start + length, length * s.growth, peak * s.peak_decay
    return 0.5 * peak * (1 + math.cos(math.pi * (step - start) / length))


def cycle_ends(s: Settings, total: int) -> list[int]:
    """Steps after which a cycle ends: the fair points to stop and to compare at."""
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
    """g (B, C): the sharpened mean prediction over the weak and the strong view."""
    scale = objectives.rms_normalise if s.rms else plain
    p = 0.5 * (scale(z).softmax(1) + scale(z_strong).softmax(1))
    return objectives.sharpen(p, s.tau)


@torch.compiler.disable
def meta_gradients(quiet: Quiet, momentum: dict[str, Tensor], z: Tensor, x: Tensor,
                   x_s: Tensor, y: Tensor, g: Tensor, x_t: Tensor, y_t: Tensor,
                   s: Settings) -> tuple[Tensor, Tensor]:
    """d omega, d lambda of `kernels.meta_gradient`, which has the shapes, by `s`."""
    def guess(z: Tensor, theta: meta_gradient.Weights) -> Tensor:
        return pseudo_label(z, quiet(x_s, theta), s)

    return meta_gradient.meta_gradients(
        quiet, z, x, y, g, x_t, y_t, momentum=momentum, lambda_0=s.lambda_0,
        look=s.look, look_momentum=s.look_momentum, weight_decay=s.weight_decay,
        guess=guess if s.pseudo_grad else None)


def coefficients(d_omega: Tensor, d_lambda: Tensor) -> tuple[Tensor, Tensor]:
    """omega (B,), at most 1 in sum, and which given labels are kept, bool (B,)."""
    omega = (-d_omega).clamp(min=0)
    return omega / (omega.sum() + 1e-5), d_lambda < 0


def strong_view(task: engine.Task, s: Settings) -> views.View:
    """The policy, then crop, flip and cutout; on images that are not 32 wide, cutout of half."""
    if s.policy == "none":
        return task.weak
    size = task.images.shape[-1]
    policy = (views.AutoAugment.ieg() if s.policy == "autoaugment" else
              views.RandAugment.ieg(s.batch_size))
    if size == 32:
        return views.Chain((policy, views.Weak.ieg_strong(), views.Cutout.ieg()))
    return views.Chain((task.weak, policy, views.Cutout.ieg(size // 2)))


class Trusted:
    """The trusted set, a batch at a time: class after class in turn, weakly augmented, cycled."""

    def __init__(self, task: engine.Task, size: int) -> None:
        if task.trusted is None:
            raise ValueError("this method needs trusted samples: set trusted_per_class >= 1.")
        images, labels = task.trusted
        self.task = task
        first = torch.zeros(len(labels), dtype=torch.int64, device=task.device)
        for c in range(task.num_classes):  # once: the k-th of each class, then the k+1-th, ...
            mine = labels == c
            first = torch.where(mine, mine.cumsum(0), first)
        order = (first * task.num_classes + labels).argsort()
        self.images, self.labels = images[order], labels[order]
        self.size, self.at = size, torch.zeros((), dtype=torch.int64, device=task.device)
        self.draws = task.rng("trusted")

    def next(self) -> tuple[Tensor, Tensor]:
        """Normalised images (size, C, H, W) and one-hot labels (size, K)."""
        steps = torch.arange(self.size, device=self.at.device)
        index = (self.at + steps) % len(self.labels)
        self.at.add_(self.size).remainder_(len(self.labels))
        seen = self.task.weak(self.images[index], self.draws)
        y = objectives.one_hot(self.labels[index], self.task.num_classes).float()
        return self.task.normalise(seen), y


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    net, opt = engine.start(s, task)
    if task.precision == "bfloat16":  # the same casts in every pass, forward mode among them
        networks.cast_convolutions(net, torch.bfloat16)
    quiet, trusted, average = Quiet(net), Trusted(task, s.batch_size), engine.WeightAverage(
        net, s.average)
    draws = task.rng("ieg")
    given = objectives.one_hot(task.y_given, task.num_classes).float()
    kept = torch.zeros(len(task), device=task.device)  # lambda*: 1 where the given label was kept
    scale = objectives.rms_normalise if s.rms else plain

    def mixed_losses(x: Tensor, x_s: Tensor, g: Tensor, x_t: Tensor, y_t: Tensor) -> tuple:
        """L_p, and L_u of each dominant noisy image (2B,)."""
        n = len(x)
        pick = torch.randint(len(x_t), (n,), generator=draws, device=x.device)
        pool, labels = torch.cat([x_t[pick], x, x_s]), torch.cat([y_t[pick], g, g])
        j = torch.randperm(3 * n, generator=draws, device=x.device)
        m = objectives.draw_dominant(draws, (3 * n,), x.device, s.mix_beta) if s.square_mix else (
            objectives.dominant(objectives.draw_beta(s.mix_beta, draws, (3 * n,), x.device)))
        m = m if s.mix else torch.ones_like(m)
        z = quiet(objectives.mixup(pool, j, m)).split(n)
        t = objectives.mixup(labels, j, m).split(n)
        each = [objectives.soft_cross_entropy(scale(a), b, "none")
                for a, b in zip(z, t, strict=True)]
        return each[0].mean(), torch.cat(each[1:])

    @engine.step(opt, task)
    def step(i, x, x_s):
        with torch.autocast(task.device.type, enabled=False):
            y, (x_t, y_t) = given[i], trusted.next()
            z, z_s = net(x), quiet(x_s)
            g = pseudo_label(z, z_s, s)
            stopped = g.detach()
            l_p, l_u = mixed_losses(x, x_s, stopped, x_t, y_t)
            consistency = objectives.kl(z.detach().float().softmax(1), z_s) if s.k else 0.0
            if not s.data_weight:  # the given labels are not used at all (see `mixmatch`)
                return l_p + s.p * l_u.mean() + s.k * consistency
            omega, keep = coefficients(*meta_gradients(
                quiet, momentum_of(opt, quiet), z, x, x_s, y, g if s.pseudo_grad else stopped,
                x_t, y_t, s))
            kept.index_copy_(0, i, keep.float())
            n = len(i)
            if not s.reweight:
                omega = torch.full_like(omega, 1 / n)
            labels = torch.where(keep[:, None], y, stopped) if s.relabel else y
            weighed = omega * objectives.soft_cross_entropy(
                z, s.lambda_0 * y + (1 - s.lambda_0) * stopped, "none")
            if s.isolation is not None:
                low = (omega < s.isolation).float().repeat(2)
                l_u = l_u * low * (2 * n / low.sum().clamp(min=1))
            return (s.data_weight * (objectives.soft_cross_entropy(z, labels) + weighed.sum())
                    + l_p + s.p * l_u.mean() + s.k * consistency)

    per_epoch = engine.steps_of(len(task), s.batch_size)
    total = s.steps or s.epochs * per_epoch
    epochs = total_epochs(s, len(task))
    strong = strong_view(task, s)
    for epoch in log.epochs(epochs, net, opt, average, kept, trusted.at, predict=average.module):
        for k, (i, x, x_s) in enumerate(task.batches(s.batch_size, task.weak, strong)):
            now = (epoch - 1) * per_epoch + k
            if now >= total:
                break
            engine.set_lr(opt, learning_rate(now, total, s))
            log.loss(step(i, x, x_s))
            average.update(net)
        if s.data_weight:
            log.p_clean(kept)
    return average.module
