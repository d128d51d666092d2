"""Losses, regularisers, mixing and targets as pure functions.

Logits in, float32 out (float64 in, float64 out): low precision is lifted before
anything is computed. `logits` and `p` are (B, C), `y` is int64 (B,), `targets` are soft
labels (B, C) whose rows sum to 1. Losses take `reduction`: "mean" over the batch gives
a scalar, "none" gives (B,). Nothing here reads a value back to the host; random draws
take an explicit generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

REDUCTIONS = ("mean", "none")


def _lift(x: Tensor) -> Tensor:
    """At least float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    raise ValueError(
        f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")


def _log(p: Tensor) -> Tensor:
    """log p; p = 0 counts as the smallest normal number: all stays finite."""
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


# ------------------------------------------------------------------------------- losses


def cross_entropy(logits: Tensor, y: Tensor, reduction: str = "mean") -> Tensor:
    """-log p_y."""
    log_p = _lift(logits).log_softmax(1)
    return _reduce(-log_p.gather(1, y[:, None]).squeeze(1), reduction)


def soft_cross_entropy(logits: Tensor, targets: Tensor,
                       reduction: str = "mean") -> Tensor:
    """-sum_c t_c log p_c for soft targets t (B, C)."""
    log_p = _lift(logits).log_softmax(1)
    return _reduce(-(targets.to(log_p.dtype) * log_p).sum(1), reduction)


def gce(logits: Tensor, y: Tensor, q: float = 0.7, reduction: str = "mean") -> Tensor:
    """Generalised cross entropy (1 - p_y^q) / q, without truncation.

    q = 0 is its limit, the cross entropy; q = 1 is 1 - p_y, half the mean absolute
    error. Source: Zhang and Sabuncu, NeurIPS 2018, Eq. (6).
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must lie in [0, 1], not {q}")
    log_p = -cross_entropy(logits, y, "none")
    # (1 - p^q) / q = -expm1(q log p) / q: exact also where q log p is tiny
    return _reduce(-log_p if q == 0 else -torch.expm1(q * log_p) / q, reduction)


def negative_probability(logits: Tensor, targets: Tensor,
                         reduction: str = "mean") -> Tensor:
    """-sum_c t_c p_c: minus the mixed probability, without a log.

    The negative log-likelihood routine applied to probabilities. Equals the mean
    absolute error up to scale and constant. MixNN's loss between its warm-up and its
    start of neighbour mixing, as released.
    """
    p = _lift(logits).softmax(1)
    return _reduce(-(targets.to(p.dtype) * p).sum(1), reduction)


def squared_error(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Mean over classes of (p - t)^2: the unlabelled loss of DivideMix and MixMatch."""
    p = _lift(logits).softmax(1)
    return _reduce((p - targets.to(p.dtype)).square().mean(1), reduction)


def kl(p_target: Tensor, logits: Tensor, reduction: str = "mean") -> Tensor:
    """KL(p_target || softmax(logits)), summed over classes.

    IEG, consistency of the two views, Eq. (4): the caller detaches `p_target` (the weak
    view).
    """
    p = _lift(p_target)
    return _reduce((p * (_log(p) - _lift(logits).log_softmax(1))).sum(1), reduction)


# -------------------------------------------------------- regularisers on probabilities


def entropy(p: Tensor, reduction: str = "mean") -> Tensor:
    """-sum_c p_c log p_c. DRPL, R_e (there averaged over the batch, weight 0.4)."""
    p = _lift(p)
    return _reduce(-(p * _log(p)).sum(1), reduction)


def negative_entropy(p: Tensor, reduction: str = "mean") -> Tensor:
    """sum_c p_c log p_c: DivideMix' penalty in the warm-up on asymmetric noise."""
    return -entropy(p, reduction)


def prior_cross_entropy(p: Tensor, prior: Tensor | None = None) -> Tensor:
    """-sum_c prior_c log(mean of p over the batch)_c; uniform prior unless given.

    DRPL's R_p as its code computes it, -1/C sum_c log(mean p)_c; `prior_kl` less a
    constant.
    """
    mean = _log(_lift(p).mean(0))
    return -mean.mean() if prior is None else -(_lift(prior) * mean).sum()


def prior_kl(p: Tensor, prior: Tensor | None = None) -> Tensor:
    """KL(prior || mean of p over the batch) = sum_c pi_c log(pi_c / pbar_c); a scalar.

    DRPL's R_p and DivideMix' (and SANM's) penalty against one class taking all. Uniform
    prior unless `prior` (C,) is given. The gradient flows through the batch mean.
    """
    p = _lift(p)
    if prior is None:
        prior = p.new_full((p.shape[1],), 1 / p.shape[1])
    prior = _lift(prior)
    # two sums would nearly cancel
    return (prior * (_log(prior) - _log(p.mean(0)))).sum()


# ---------------------------------------------------------------------------------- ELR


def elr_update(memory: Tensor, p: Tensor, beta: float) -> Tensor:
    """New memory rows of a batch: beta t + (1 - beta) p~, no gradient. ELR.

    p~ is p clamped to [1e-4, 1 - 1e-4] and renormalised to sum 1. Memory starts at zero
    and is updated *before* `elr_term` is computed from it (official code).
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], not {beta}")
    p = _lift(p).detach().clamp(1e-4, 1 - 1e-4)
    return beta * memory + (1 - beta) * (p / p.sum(1, keepdim=True))


def elr_term(memory: Tensor, p: Tensor, reduction: str = "mean") -> Tensor:
    """ELR's term log(1 - sum_c t_c p_c), p clamped to [1e-4, 1 - 1e-4].

    p is not renormalised. The loss of ELR is cross entropy + lambda times this.
    """
    p = _lift(p).clamp(1e-4, 1 - 1e-4)
    return _reduce((1 - (memory * p).sum(1)).log(), reduction)


# ------------------------------------------------------------------------------ targets


def one_hot(y: Tensor, num_classes: int) -> Tensor:
    """float32 (..., C); a label outside 0..C-1 gives a row of zeros."""
    return (y[..., None] == torch.arange(num_classes, device=y.device)).float()


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / sum p^(1/T) along the last axis. MixMatch; IEG, Eq. (3).

    T = 1 changes nothing; T < 1 makes p more decided.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    p = _lift(p)
    # scale-free, no underflow
    p = (p / p.detach().amax(-1, keepdim=True)) ** (1 / temperature)
    return p / p.sum(-1, keepdim=True)


def rms_normalise(logits: Tensor) -> Tensor:
    """Logits over their root mean square: one number for the whole (B, C) matrix.

    z (mean z^2 + 1e-8)^(-1/2), IEG's code, before the softmax of the pseudo label and
    inside the cross entropies of its mixed batches. The gradient flows through the
    scalar.
    """
    z = _lift(logits)
    return z * (z.square().mean() + 1e-8).rsqrt()


# ------------------------------------------------------------------------------- mixing


def mixup(x: Tensor, perm: Tensor, lam: Tensor | float) -> Tensor:
    """lam x + (1 - lam) x[perm], for images (B, ...) or targets (B, C).

    In x's own dtype. `lam` is one coefficient (float or 0-d tensor) or one per sample
    (B,); `perm` is int64 (B,). Computed in float32 at least, so that images and targets
    get the same coefficient.
    """
    if not x.is_floating_point():
        raise ValueError(
            f"mixup needs floating-point values (normalised images), not {x.dtype}")
    a, b = _lift(x), _lift(x[perm])
    if isinstance(lam, Tensor):
        if lam.shape not in ((), x.shape[:1]):
            raise ValueError(
                f"lam must be a scalar or hold one value per sample ({x.shape[0]}), "
                f"not shape {tuple(lam.shape)}"
            )
        lam = lam.to(a.dtype)
        if lam.dim() == 1:
            lam = lam.reshape(-1, *[1] * (x.dim() - 1))
    return (lam * a + (1 - lam) * b).to(x.dtype)


def draw_beta(
    alpha: float,
    generator: torch.Generator,
    size: tuple[int, ...] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """float32 draws of Beta(alpha, alpha), made where the generator lives.

    alpha = 1 is uniform. `device` (default: the generator's) is where the result is
    put.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    on = generator.device
    if alpha == 1:
        out = torch.rand(size, generator=generator, device=on)
    else:
        # G1 / (G1 + G2) of two Gamma(alpha) draws; float64, for small alpha underflows
        # float32
        shape = torch.full((2, *size), float(alpha), dtype=torch.float64, device=on)
        g = torch._standard_gamma(shape, generator=generator)
        out = (g[0] / g.sum(0)).float()
    return out if device is None else out.to(device, non_blocking=True)


def dominant(lam: Tensor) -> Tensor:
    """max(lam, 1 - lam): the first partner has at least one half. MixMatch."""
    return torch.maximum(lam, 1 - lam)


def draw_dominant(
    generator: torch.Generator,
    size: tuple[int, ...] = (),
    device: torch.device | str | None = None,
    beta: float = 0.5,
) -> Tensor:
    """IEG's mixup coefficient 1 - U^(1/beta) / 2 in [1/2, 1], U uniform: float32.

    The released code's cheap stand-in for max(m, 1 - m) with m ~ Beta(beta, beta); mean
    5/6 at beta = 0.5.
    """
    if not beta > 0:
        raise ValueError(f"beta must be positive, not {beta}")
    u = torch.rand(size, generator=generator, device=generator.device)
    out = 1 - 0.5 * u ** (1 / beta)
    return out if device is None else out.to(device, non_blocking=True)
