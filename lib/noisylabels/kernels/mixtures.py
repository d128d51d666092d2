"""Which losses belong to clean labels: mixtures of two components, on the device.

`fit_gaussians` is the mixture of DivideMix, MixNN and SANM: scikit-learn's EM with the
settings of their codes (10 iterations, tolerance 1e-2, variance floor 5e-4, k-means
start). That EM stops unconverged after 2 to 9 iterations, so start and stop belong to
the method and are kept; the random part of the start is replaced by a fixed one, and
`converged=True` runs the EM to its end. `fit_betas` is the beta mixture of DRPL (taken
over from Arazo et al. 2019).

Nothing here waits for the device: loops have a fixed length and freeze what has
stopped, and a `status` tensor says afterwards whether the fit means anything
(`describe` puts it into words). A fit without meaning says 0.5 for every sample; NaN
never comes out.

Sources: MixNN (arXiv 2406.16966) and the code MacLLL/MixNN; SANM (CVPR 2023); DRPL
(Ortego et al., ICPR 2020) and its code; scikit-learn's GaussianMixture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntFlag

import torch
from torch import Tensor

STARTS = ("kmeans", "mean")
# a loss beyond it counts as not finite: its square would overflow in float32
_LARGEST = 1e15
_LLOYD_STEPS = 30  # 16 is the most that scikit-learn's stop was seen to need
_TABLE = 100  # entries of DRPL's tabulated posterior


class Status(IntFlag):
    """What was wrong with the losses or with the fit; 0: nothing. The values add up.

    A fit stands in spite of NONFINITE and SHAPE; with any other value it is degenerate.
    """

    NONFINITE = 1
    FEW = 2
    EQUAL = 4
    EMPTY = 8
    CLOSE = 16
    ORDER = 32
    ALL_NOISY = 64
    SHAPE = 128


DEGENERATE = (Status.FEW | Status.EQUAL | Status.EMPTY | Status.CLOSE | Status.ORDER
              | Status.ALL_NOISY)
_WORDS = {
    Status.NONFINITE: "some losses are not finite (they are scored as noisy)",
    Status.FEW: "fewer than two losses, or fewer than half of them, are finite",
    Status.EQUAL: "all losses are equal",
    Status.EMPTY: "a component holds no more than one sample",
    Status.CLOSE: "the means of the components lie within 0.001 of the losses' range",
    Status.ORDER: "the noisy component's mean lies below the clean one's",
    Status.ALL_NOISY:
        "p(noisy) peaks at the lowest loss, so every sample would be alike",
    Status.SHAPE:
        "the noisy component also outweighs the clean one at the very lowest losses",
}


def describe(status: Tensor | int) -> str:
    """Words for a status. Reads it, so waits for the device: once an epoch at most."""
    status = Status(int(status))
    if not status:
        return "ok"
    said = "; ".join(words for flag, words in _WORDS.items() if flag in status)
    return said + (": every probability is set to 0.5" if status & DEGENERATE else "")


def degenerate(status: Tensor) -> Tensor:
    """Where a fit means nothing: bool, shape of status, on its device."""
    return (status & int(DEGENERATE)) != 0


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Two Gaussians over losses; component 0 ("low") has the lower mean.

    means, variances, weights: (2,). p_low: (N,), probability that each fitted loss is
    of the low (clean) component, MixNN Eq. (E7). log_likelihood: mean over the losses,
    natural logarithm, under these parameters. iterations: EM steps taken until the
    stop. status: see `Status`.
    """

    means: Tensor
    variances: Tensor
    weights: Tensor
    p_low: Tensor
    log_likelihood: Tensor
    iterations: Tensor
    status: Tensor

    def posterior(self, losses: Tensor) -> Tensor:
        """p(low | loss), shape of losses: 0.5 when degenerate, 0 where not finite."""
        losses = losses.detach().to(self.means.dtype)
        finite = losses.abs() < _LARGEST
        joint = _gaussian_joint(losses.where(finite, 0.0), *_columns(self))
        p_low = torch.sigmoid(joint[0] - joint[1])
        p_low = torch.where(finite, p_low, 0.0)
        return torch.where(degenerate(self.status), 0.5, p_low)


@dataclass(frozen=True, eq=False)
class BetaMixture:
    """Two betas over trimmed, scaled losses; component 1 ("high") is the noisy one.

    alphas, betas, weights: (2,) float64. low, high: P5 + 1e-5 and P95 of the losses,
    between which they are scaled. table: (100,) float64, p(noisy) on the scaled axis.
    p_high: (N,) float32, p(noisy) of each fitted loss. status: see `Status`. Source:
    DRPL, detection of noisy samples.
    """

    alphas: Tensor
    betas: Tensor
    weights: Tensor
    low: Tensor
    high: Tensor
    table: Tensor
    p_high: Tensor
    status: Tensor

    def posterior(self, losses: Tensor) -> Tensor:
        """p(noisy | loss), float32, by table: 0.5 if degenerate, 1 where not finite."""
        losses = losses.detach().float()
        finite = losses.abs() < _LARGEST
        u = _beta_scale(losses.where(finite, 0.0), self.low, self.high)
        index = (_TABLE * u).long().clamp(0, _TABLE - 1)  # the floor, no interpolation
        p_high = torch.where(finite, self.table.float()[index], 1.0)
        return torch.where(degenerate(self.status), 0.5, p_high)


def normalise(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (N,) scaled to [0, 1] by their least and greatest, and a status.

    MixNN (E5).

    Equal losses become zeros (status EQUAL). Losses that are not finite are left out of
    the range and become +inf, which the fits score as noisy (status NONFINITE).
    """
    x, finite = _finite(losses)
    low, high = _range(x, finite)
    status = _data_status(finite, low, high)
    scaled = (x - low) / torch.where(high > low, high - low, 1.0)
    return torch.where(finite, scaled, math.inf), status


def fit_gaussians(
    losses: Tensor,
    *,
    max_iter: int = 10,
    tol: float = 1e-2,
    reg: float = 5e-4,
    start: str = "kmeans",
    converged: bool = False,
) -> GaussianMixture:
    """Fit two Gaussians to losses (N,) by EM, as scikit-learn does. MixNN (E6), (E7).

    Give the losses scaled by `normalise` (or the mean of several epochs of them):
    `reg`, which is added to the variances, is meant for that scale. The EM stops when
    the mean log-likelihood changes by less than `tol`, or after `max_iter` steps;
    `converged=True` means tol 1e-8 and 200 steps whatever the two say. `start`:
    "kmeans" splits the losses at their mean and moves the split by k-means until it
    stops by scikit-learn's rule; "mean" starts from the split at the mean itself. Works
    in the losses' precision (half precisions in float32).
    """
    if start not in STARTS:
        raise ValueError(
            f"start is {start!r}; allowed are {', '.join(map(repr, STARTS))}")
    if max_iter < 1 or tol < 0 or reg <= 0:
        raise ValueError(
            "max_iter must be at least 1, tol at least 0 and reg above 0, "
            f"not {max_iter}, {tol}, {reg}"
        )
    if converged:
        max_iter, tol = 200, 1e-8
    x, finite = _finite(losses)
    inside = finite.to(x.dtype)
    n = inside.sum().clamp(min=1)
    low, high = _range(x, finite)

    above = _split(x, inside, n, _LLOYD_STEPS if start == "kmeans" else 0)
    params = list(_gaussian_step(x, torch.stack([1 - above, above]) * inside, reg))
    done = torch.zeros((), dtype=torch.bool, device=x.device)
    iterations = torch.zeros((), dtype=torch.int64, device=x.device)
    before = torch.full((), -math.inf, dtype=torch.float64, device=x.device)
    for _ in range(max_iter):
        joint = _gaussian_joint(x, *params)
        evidence = joint.logsumexp(0)
        now = (evidence * inside).sum(dtype=torch.float64) / n
        moved = _gaussian_step(x, (joint - evidence).exp() * inside, reg)
        params = [torch.where(done, p, q) for p, q in zip(params, moved, strict=True)]
        iterations = iterations + ~done
        # the last step still counts, as in sklearn
        done = done | ((now - before).abs() < tol)
        before = now

    evidence = _gaussian_joint(x, *params).logsumexp(0)
    likelihood = ((evidence * inside).sum(dtype=torch.float64) / n).to(x.dtype)
    order = params[0].argsort(0)
    means, variances, weights = (p.gather(0, order)[:, 0] for p in params)
    status = _data_status(finite, low, high) + _flags(
        (Status.EMPTY, (weights * n < 1.5).any()),
        (Status.CLOSE, means[1] - means[0] < 1e-3 * (high - low)),
    )
    fit = GaussianMixture(means, variances, weights, x, likelihood, iterations, status)
    return replace(fit, p_low=fit.posterior(torch.where(finite, x, math.inf)))


def fit_betas(
    losses: Tensor,
    *,
    iterations: int = 10,
    trim: tuple[float, float] = (5.0, 95.0),
    repair: bool = True,
    dtype: torch.dtype = torch.float64,
) -> BetaMixture:
    """Fit two betas to raw losses (N,) and tabulate p(noisy), as DRPL's detector does.

    Losses outside the `trim` percentiles are left out of the fit (not of the scores);
    the rest is scaled to (0, 1) in float32; `iterations` EM steps with the method of
    moments run in `dtype`. `repair` keeps the largest losses noisy: right of its
    maximum the table stays at the maximum. To score another pass over the data, as DRPL
    does, use the result's `.posterior`.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    if not 0 <= trim[0] < trim[1] <= 100:
        raise ValueError(
            f"trim must be two rising percentiles within 0 to 100, not {trim}")
    x, finite = _finite(losses)
    x = x.float()
    bottom, top = _percentiles(x, finite, trim)
    kept = (finite & (x >= bottom) & (x <= top)).to(dtype)
    low, high = bottom + 1e-5, top
    n = kept.sum().clamp(min=1)

    u = _beta_scale(x, low, high).to(dtype).clamp(1e-4, 1 - 1e-4)
    logs = torch.stack([u.log(), torch.log1p(-u)])
    # Beta(1, 2), Beta(2, 1)
    alphas = torch.arange(1, 3, dtype=dtype, device=x.device)[:, None]
    betas, weights = alphas.flip(0), torch.full_like(alphas, 0.5)
    for _ in range(iterations):
        r = (weights * _beta_density(logs, alphas, betas)).clamp(min=1e-12)
        r = r / r.sum(0) * kept
        count = r.sum(1, keepdim=True).clamp(min=1e-12)
        mean = (r * u).sum(1, keepdim=True) / count
        spread = (r * (u - mean) ** 2).sum(1, keepdim=True) / count
        # method of moments; the floors act only where a component has no spread at all
        mean, spread = mean.clamp(1e-4, 1 - 1e-4), spread.clamp(min=1e-12)
        alphas = mean * (mean * (1 - mean) / spread - 1).clamp(min=1e-8)
        betas = alphas * (1 - mean) / mean
        weights = count / n

    alphas, betas, weights = (p[:, 0].double() for p in (alphas, betas, weights))
    table = _beta_table(alphas, betas, weights)
    peak = table.argmax()
    if repair:
        at = torch.arange(_TABLE, device=x.device)
        table = torch.where(at >= peak, table.amax(), table)
    means = alphas / (alphas + betas)
    status = _data_status(finite, low, high) + _flags(
        (Status.EMPTY, (weights * n < 1.5).any()),
        (Status.CLOSE, (means[1] - means[0]).abs() < 1e-3),
        (Status.ORDER, means[1] <= means[0]),
        (Status.ALL_NOISY, peak == 0),
        (Status.SHAPE, alphas[1] <= alphas[0]),  # no fault by itself: the fit is kept
    )
    table = torch.where(degenerate(status), 0.5, table)
    fit = BetaMixture(alphas, betas, weights, low, high, table, x, status)
    return replace(fit, p_high=fit.posterior(torch.where(finite, x, math.inf)))


def auc(score: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve: how often a positive sample scores above another.

    Ties count half. score: (N,) real; positive: (N,) bool or 0/1. Returns a float64
    scalar on the device; NaN, for "not defined", when one of the two groups is empty or
    a score is NaN.
    """
    if score.shape != positive.shape or score.dim() != 1:
        raise ValueError(
            f"score and positive must be (N,) alike, not {tuple(score.shape)} "
            f"and {tuple(positive.shape)}"
        )
    score, positive = score.detach(), positive.bool()
    line = score.sort().values
    below = torch.searchsorted(line, score)
    up_to = torch.searchsorted(line, score, right=True)
    # mean rank of ties, doubled: exact
    twice_ranks = ((below + up_to + 1) * positive).sum()
    p = positive.sum()
    q = score.numel() - p
    area = (twice_ranks - p * (p + 1)).double() / (2 * p * q)
    return torch.where(score.isnan().any(), math.nan, area)


def _finite(losses: Tensor) -> tuple[Tensor, Tensor]:
    """The losses with 0 in place of what is not finite, and where they are finite."""
    if losses.dim() != 1 or losses.numel() == 0 or not losses.is_floating_point():
        raise ValueError(
            "losses must be a floating-point tensor of shape (N,) with N above 0, "
            f"not {losses.dtype} of shape {tuple(losses.shape)}"
        )
    losses = losses.detach()
    x = losses if losses.dtype == torch.float64 else losses.float()
    finite = x.abs() < _LARGEST  # False for NaN as well
    return torch.where(finite, x, 0.0), finite


def _range(x: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest of the finite losses (0 and 0 where there are none)."""
    low = torch.where(finite, x, math.inf).amin()
    high = torch.where(finite, x, -math.inf).amax()
    some = finite.any()
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def _flags(*pairs: tuple[Status, Tensor]) -> Tensor:
    return torch.stack([wrong.long() * int(flag) for flag, wrong in pairs]).sum()


def _data_status(finite: Tensor, low: Tensor, high: Tensor) -> Tensor:
    n = finite.sum()
    return _flags(
        (Status.NONFINITE, ~finite.all()),
        (Status.FEW, (n < 2) | (2 * n < finite.numel())),
        (Status.EQUAL, high <= low),
    )


def _split(x: Tensor, inside: Tensor, n: Tensor, steps: int) -> Tensor:
    """1.0 where a loss lies in the upper of two k-means clusters, else 0.0.

    Lloyd's steps from a split at the mean. scikit-learn starts at random points and
    stops when the squared shift of the centres is at most 1e-4 of the variance; its
    answers scatter about ours.
    """
    mean = (x * inside).sum() / n
    variance = ((x - mean) ** 2 * inside).sum() / n
    cut, done = mean, torch.zeros((), dtype=torch.bool, device=x.device)
    centres = torch.stack([mean, mean])
    for _ in range(steps):
        upper = (x > cut).to(x.dtype) * inside
        members = torch.stack([inside - upper, upper])
        moved = (members * x).sum(1) / members.sum(1).clamp(min=1)
        still = done | (((moved - centres) ** 2).sum() <= 1e-4 * variance)
        cut = torch.where(done, cut, moved.mean())
        centres, done = moved, still
    return (x > cut).to(x.dtype)


def _columns(fit: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    return fit.means[:, None], fit.variances[:, None], fit.weights[:, None]


def _gaussian_joint(x: Tensor, means: Tensor, variances: Tensor,
                    weights: Tensor) -> Tensor:
    """log of weight times density, (2,) + x's shape: the parts of MixNN Eq. (E6)."""
    x = x[None]
    shape = (2,) + (1,) * (x.dim() - 1)
    means, variances, weights = (p.reshape(shape) for p in (means, variances, weights))
    constant = weights.log() - 0.5 * (2 * math.pi * variances).log()
    return constant - 0.5 * (x - means) ** 2 / variances


def _gaussian_step(x: Tensor, r: Tensor, reg: float) -> tuple[Tensor, Tensor, Tensor]:
    """M step: means, variances, weights, (2, 1) each, by responsibilities r (2, N)."""
    count = r.sum(1, keepdim=True) + 10 * torch.finfo(x.dtype).eps
    means = (r * x).sum(1, keepdim=True) / count
    variances = (r * (x - means) ** 2).sum(1, keepdim=True) / count + reg
    return means, variances, count / count.sum()


def _percentiles(x: Tensor, finite: Tensor,
                 which: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Percentiles of the finite losses by linear interpolation, float32."""
    line = torch.where(finite, x, math.inf).sort().values.where(finite.any(), 0.0)
    last = (finite.sum() - 1).clamp(min=0)
    found = []
    for percent in which:
        place = last.double() * (percent / 100)
        left = place.long()
        right = torch.minimum(left + 1, last)
        ends = line.gather(0, torch.stack([left, right])).double()
        found.append((ends[0] + (ends[1] - ends[0]) * (place - left)).float())
    return found[0], found[1]


def _beta_scale(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Losses on (0, 1) between the percentiles, float32.

    DRPL: u = (d - m) / (M - m + 1e-6).
    """
    u = (x - low) / (high - low + 1e-6)
    u = torch.where(u >= 1, 1 - 1e-3, u)
    return torch.where(u <= 0, 1e-3, u)


def _beta_density(logs: Tensor, alphas: Tensor, betas: Tensor) -> Tensor:
    """Beta densities (2, N); logs: log u and log(1 - u), (2, N); parameters (2, 1)."""
    constant = torch.lgamma(alphas + betas) - torch.lgamma(alphas) - torch.lgamma(betas)
    log_density = (alphas - 1) * logs[0] + (betas - 1) * logs[1] + constant
    # 80 is out of reach of a sound fit; exp stays finite
    return log_density.clamp(max=80).exp()


def _beta_table(alphas: Tensor, betas: Tensor, weights: Tensor) -> Tensor:
    """p(noisy) on 100 points of [1e-12, 1 - 1e-12], float64, before any repair."""
    u = torch.linspace(1e-12, 1 - 1e-12, _TABLE, dtype=torch.float64,
                       device=alphas.device)
    logs = torch.stack([u.log(), torch.log1p(-u)])
    joint = weights[:, None] * _beta_density(logs, alphas[:, None], betas[:, None])
    return joint[1] / (joint[0] + joint[1] + 1e-12)
