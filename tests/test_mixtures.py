"""Mixtures against scikit-learn, SciPy and the golden values of DRPL's detector."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from noisylabels.kernels import mixtures
from noisylabels.kernels.mixtures import (
    Status,
    auc,
    describe,
    fit_betas,
    fit_gaussians,
    normalise,
)


def scale(x: np.ndarray) -> np.ndarray:
    return (x - x.min()) / (x.max() - x.min())


def gammas(seed, n, rate, shapes, scales):
    rng = np.random.RandomState(seed)
    m = int(n * rate)
    return np.concatenate(
        [rng.gamma(shapes[0], scales[0], n - m), rng.gamma(shapes[1], scales[1], m)]
    )


def easy(seed, n, rate):  # DRPL's golden mode 0
    return gammas(seed, n, rate, (0.5, 9), (0.6, 0.6))


def hard(seed, n, rate):  # DRPL's golden mode 1: more overlap
    return gammas(seed, n, rate, (0.6, 2.5), (1, 1))


def normals(seed, n, rate, means, stds):
    rng = np.random.RandomState(seed)
    m = int(n * rate)
    return np.concatenate([rng.normal(means[0], stds[0], n - m), rng.normal(means[1], stds[1], m)])


CASES = {
    "separate": lambda: scale(normals(0, 10_000, 0.5, (0.1, 0.7), (0.03, 0.1))),
    "overlapping": lambda: scale(normals(1, 20_000, 0.4, (0.3, 0.55), (0.12, 0.15))),
    "easy 20 %": lambda: scale(easy(2, 20_000, 0.2)),
    "easy 50 %": lambda: scale(easy(3, 5_000, 0.5)),
    "easy 80 %": lambda: scale(easy(4, 20_000, 0.8)),
    "hard 20 %": lambda: scale(hard(5, 20_000, 0.2)),
    "hard 50 %": lambda: scale(hard(6, 10_000, 0.5)),
    "hard 90 %": lambda: scale(hard(7, 20_000, 0.9)),
    "no noise": lambda: scale(easy(8, 20_000, 0.0)),
    "one outlier": lambda: np.append(0.2 * scale(easy(9, 20_000, 0.5)), 1.0),
    "five epochs": lambda: np.mean([scale(hard(10 + e, 20_000, 0.8)) for e in range(5)], axis=0),
}


def sklearn_fit(x, seed=0, **settings):
    from sklearn.mixture import GaussianMixture

    settings = {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "did not converge" is how the papers use it
        return GaussianMixture(2, random_state=seed, **settings).fit(x[:, None])


def sklearn_p_low(fit, x):
    return fit.predict_proba(x[:, None])[:, fit.means_[:, 0].argmin()]


# --- Gaussians -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_gaussians_stay_inside_sklearns_own_seed_spread(case):
    x = CASES[case]()
    theirs = np.stack([sklearn_p_low(sklearn_fit(x, seed), x) for seed in range(6)])
    spread = max(np.abs(a - b).max() for a in theirs for b in theirs)
    fit = fit_gaussians(torch.from_numpy(x))
    gaps = np.abs(theirs - fit.p_low.numpy()).max(axis=1)
    # as near to each seed's answer as the seeds are to one another, and very near to one of them
    assert gaps.max() <= 1.1 * spread + 1e-3
    assert gaps.min() <= 0.5 * spread + 2e-4
    assert describe(fit.status) == "ok"


@pytest.mark.parametrize("case", ["separate", "easy 50 %", "hard 50 %"])
def test_a_converged_fit_is_sklearns_converged_fit(case):
    x = CASES[case]()[::2]
    theirs = sklearn_fit(x, max_iter=500, tol=1e-10)
    fit = fit_gaussians(torch.from_numpy(x), converged=True)
    order = theirs.means_[:, 0].argsort()
    assert np.abs(fit.p_low.numpy() - sklearn_p_low(theirs, x)).max() < 1e-4
    np.testing.assert_allclose(fit.means, theirs.means_[order, 0], atol=1e-5)
    np.testing.assert_allclose(fit.variances, theirs.covariances_[order, 0, 0], atol=1e-5)
    np.testing.assert_allclose(fit.weights, theirs.weights_[order], atol=1e-4)
    assert abs(fit.log_likelihood - theirs.score(x[:, None])) < 1e-6


@pytest.mark.parametrize("converged", [False, True])
def test_the_same_start_gives_sklearns_very_numbers(converged):
    """From given first means, weights and variances the EM steps are scikit-learn's."""
    x = CASES["hard 50 %"]()
    above = x > x.mean()
    part = [x[~above], x[above]]
    settings = {"max_iter": 200, "tol": 1e-8} if converged else {}
    theirs = sklearn_fit(
        x,
        weights_init=[len(p) / len(x) for p in part],
        means_init=[[p.mean()] for p in part],
        precisions_init=[[[1 / (p.var() + 5e-4)]] for p in part],
        **settings,
    )
    fit = fit_gaussians(torch.from_numpy(x), start="mean", converged=converged)
    assert int(fit.iterations) == theirs.n_iter_
    np.testing.assert_allclose(fit.means, theirs.means_[:, 0], atol=1e-11)
    np.testing.assert_allclose(fit.variances, theirs.covariances_[:, 0, 0], atol=1e-11)
    np.testing.assert_allclose(fit.weights, theirs.weights_, atol=1e-11)
    np.testing.assert_allclose(fit.p_low, sklearn_p_low(theirs, x), atol=1e-9)
    assert abs(fit.log_likelihood - theirs.score(x[:, None])) < 1e-11


def test_start_and_stop_decide_an_unconverged_fit():
    x = torch.from_numpy(CASES["hard 50 %"]())
    short, mean, full = (
        fit_gaussians(x),
        fit_gaussians(x, start="mean"),
        fit_gaussians(x, converged=True),
    )
    assert int(short.iterations) <= 5 < int(full.iterations) <= 200
    assert (short.p_low - full.p_low).abs().max() > 0.05
    assert (short.p_low - mean.p_low).abs().max() > 1e-3
    assert short.log_likelihood < full.log_likelihood


def test_the_stop_leaves_the_parameters_of_its_last_step():
    x = torch.from_numpy(CASES["easy 50 %"]())
    stopped = fit_gaussians(x)
    by_count = fit_gaussians(x, max_iter=int(stopped.iterations), tol=0.0)
    assert torch.equal(stopped.means, by_count.means)
    assert torch.equal(stopped.p_low, by_count.p_low)
    assert int(fit_gaussians(x, max_iter=3, tol=0.0).iterations) == 3


@pytest.mark.parametrize("case", ["separate", "overlapping", "hard 20 %", "one outlier"])
def test_gaussians_in_float32_are_as_good_as_in_float64(case):
    x = torch.from_numpy(CASES[case]())
    half, full = fit_gaussians(x.float()), fit_gaussians(x)
    assert half.p_low.dtype == torch.float32 and full.p_low.dtype == torch.float64
    assert int(half.iterations) == int(full.iterations)
    assert (half.p_low.double() - full.p_low).abs().max() < 1e-5
    assert ((half.p_low > 0.5) != (full.p_low > 0.5)).sum() == 0
    for name in ("means", "variances", "weights"):
        assert (getattr(half, name).double() - getattr(full, name)).abs().max() < 1e-6


def test_low_precision_losses_are_fitted_in_float32():
    x = torch.from_numpy(CASES["separate"]()).bfloat16()
    fit = fit_gaussians(x)
    assert fit.p_low.dtype == torch.float32
    assert torch.equal(fit.p_low, fit_gaussians(x.float()).p_low)


def test_components_are_told_apart_and_p_low_means_clean():
    x = normals(0, 10_000, 0.3, (0.1, 0.7), (0.03, 0.1))
    fit = fit_gaussians(torch.from_numpy(x))
    assert fit.means[0] < fit.means[1]
    np.testing.assert_allclose(fit.means, [0.1, 0.7], atol=0.01)
    np.testing.assert_allclose(fit.variances, [0.03**2 + 5e-4, 0.1**2 + 5e-4], atol=5e-4)
    np.testing.assert_allclose(fit.weights, [0.7, 0.3], atol=0.01)
    assert (fit.p_low[:7000] > 0.5).float().mean() > 0.999
    assert (fit.p_low[7000:] < 0.5).float().mean() > 0.999


def test_posterior_scores_other_losses_of_any_shape():
    x = torch.from_numpy(CASES["overlapping"]())
    fit = fit_gaussians(x)
    assert torch.equal(fit.posterior(x), fit.p_low)
    assert torch.equal(fit.posterior(x[:6].reshape(2, 3)), fit.p_low[:6].reshape(2, 3))
    odd = fit.posterior(torch.tensor([math.nan, math.inf, -math.inf, 1e30, 0.3]))
    assert odd[:4].tolist() == [0, 0, 0, 0] and 0.5 < odd[4] < 1


def test_order_of_the_losses_does_not_matter():
    x = torch.from_numpy(CASES["hard 50 %"]())
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert (fit_gaussians(x[perm]).p_low - fit_gaussians(x).p_low[perm]).abs().max() < 1e-9


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"start": "random"}, "allowed are 'kmeans', 'mean'"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"tol": -1.0}, "tol at least 0"),
        ({"reg": 0.0}, "reg above 0"),
    ],
)
def test_bad_settings_of_gaussians(settings, said):
    with pytest.raises(ValueError, match=said):
        fit_gaussians(torch.rand(8), **settings)


@pytest.mark.parametrize("fit", [fit_gaussians, fit_betas, normalise])
@pytest.mark.parametrize("bad", [torch.rand(3, 2), torch.empty(0), torch.arange(5)])
def test_losses_of_a_wrong_kind_are_refused(fit, bad):
    with pytest.raises(ValueError, match="floating-point tensor of shape"):
        fit(bad)


# --- scaling and degenerate losses ---------------------------------------------------------------


def test_normalise():
    scaled, status = normalise(torch.tensor([3.0, 1.0, 2.0, 5.0]))
    assert scaled.tolist() == [0.5, 0.0, 0.25, 1.0] and describe(status) == "ok"
    scaled, status = normalise(torch.full((4,), 2.3))
    assert scaled.tolist() == [0, 0, 0, 0] and int(status) == Status.EQUAL
    scaled, status = normalise(torch.tensor([1.0, math.nan, 3.0, math.inf, 2.0]))
    assert scaled.tolist() == [0, math.inf, 1, math.inf, 0.5] and int(status) == Status.NONFINITE


def test_all_losses_equal():
    for value in (0.0, 0.7, 2.3):
        fit = fit_gaussians(torch.full((100,), value))
        assert Status(int(fit.status)) & Status.EQUAL
        assert torch.equal(fit.p_low, torch.full((100,), 0.5))
        assert torch.equal(fit.posterior(torch.tensor([0.0, 9.0])), torch.full((2,), 0.5))
        assert torch.isfinite(fit.means).all() and torch.isfinite(fit.variances).all()
        beta = fit_betas(torch.full((100,), value))
        assert Status(int(beta.status)) & Status.EQUAL
        assert torch.equal(beta.p_high, torch.full((100,), 0.5))
        assert torch.isfinite(beta.alphas).all() and torch.isfinite(beta.betas).all()


def test_losses_that_are_not_finite_are_noisy_and_disturb_nobody():
    x = torch.from_numpy(CASES["separate"]())
    odd = torch.cat([x, torch.tensor([math.nan, math.inf, -math.inf], dtype=x.dtype)])
    fit, clean = fit_gaussians(odd), fit_gaussians(x)
    assert int(fit.status) == Status.NONFINITE and "scored as noisy" in describe(fit.status)
    assert "0.5" not in describe(fit.status)
    assert fit.p_low[-3:].tolist() == [0, 0, 0]
    assert (fit.p_low[:-3] - clean.p_low).abs().max() < 1e-9
    raw = torch.from_numpy(easy(0, 5000, 0.4))
    beta, whole = fit_betas(torch.cat([raw, odd[-3:]])), fit_betas(raw)
    assert int(beta.status) == Status.NONFINITE
    assert beta.p_high[-3:].tolist() == [1, 1, 1]
    assert torch.equal(beta.p_high[:-3], whole.p_high)


@pytest.mark.parametrize(
    "losses",
    [
        [math.nan] * 6,
        [math.inf] * 6,
        [0.1, 0.9, math.nan, math.nan, math.nan],  # more than half are lost
        [0.3],
    ],
)
def test_too_few_finite_losses(losses):
    x = torch.tensor(losses)
    fit, beta = fit_gaussians(x), fit_betas(x)
    for status in (fit.status, beta.status, normalise(x)[1]):
        assert Status(int(status)) & Status.FEW
    assert torch.equal(fit.p_low, torch.full((len(x),), 0.5))
    assert torch.equal(beta.p_high, torch.full((len(x),), 0.5))
    assert not normalise(x)[0].isnan().any()


def test_an_empty_component():
    """An EM left to run gives a component of its own to a single outlier."""
    x = torch.from_numpy(CASES["one outlier"]())
    assert describe(fit_gaussians(x).status) == "ok"
    fit = fit_gaussians(x, converged=True)
    assert int(fit.status) == Status.EMPTY and fit.means[1] == pytest.approx(1)
    assert torch.equal(fit.p_low, torch.full_like(x, 0.5))
    assert "no more than one sample" in describe(fit.status)
    beta = fit_betas(torch.tensor([0.1, 0.1, 0.1, 0.9]), trim=(0, 100))
    assert Status(int(beta.status)) & Status.EMPTY
    assert torch.equal(beta.p_high, torch.full((4,), 0.5))


def test_means_too_close():
    x = torch.from_numpy(np.random.RandomState(0).normal(0.5, 0.01, 5000)).float()
    fit = fit_gaussians(normalise(x)[0], reg=10.0, converged=True)  # a floor that drowns all
    assert int(fit.status) == Status.CLOSE
    assert torch.equal(fit.p_low, torch.full((5000,), 0.5))
    assert "0.5" in describe(fit.status)


def test_huge_losses_do_not_overflow():
    x = torch.tensor([1e14, 2e14, 9e14, 8e14, 0.0, 1.0])
    fit = fit_gaussians(x)
    assert torch.isfinite(fit.p_low).all() and torch.isfinite(fit.variances).all()
    assert int(fit_gaussians(torch.tensor([0.1, 0.2, 0.9, 0.8, 1e30])).status) == 1


def test_two_atoms():
    x = torch.tensor([0.0] * 60 + [1.0] * 40)
    fit = fit_gaussians(x)
    assert describe(fit.status) == "ok"
    assert (fit.p_low > 0.5).sum() == 60
    beta = fit_betas(x)  # two spikes that fall between the table's points: no posterior to be had
    assert torch.isfinite(beta.alphas).all() and int(beta.status) == Status.ALL_NOISY
    assert torch.equal(beta.p_high, torch.full((100,), 0.5))
    single = fit_betas(x, dtype=torch.float32)
    assert torch.isfinite(single.alphas).all() and torch.equal(single.p_high, beta.p_high)


def test_every_word_of_a_status():
    assert describe(0) == "ok"
    for flag in Status:
        assert describe(int(flag)).startswith(mixtures._WORDS[flag])
        kept = flag in (Status.NONFINITE, Status.SHAPE)
        assert bool(mixtures.degenerate(torch.tensor(int(flag)))) != kept
        assert describe(int(flag)).endswith("set to 0.5") != kept
    both = describe(torch.tensor(int(Status.NONFINITE | Status.EQUAL)))
    assert both.count(";") == 1 and both.endswith("set to 0.5")


# --- betas ---------------------------------------------------------------------------------------

GOLDEN = [  # rate, seed; P5 + 1e-5, P95; a0, b0; a1, b1; weight 1; counts; table
    (0.4, 0, ("0.003089", "7.480690"), ("0.15620", "0.83670"), ("6.42070", "3.13417"), "0.24361",
     (29793, 30090, 32661), ("3e-6", "2.31e-4", ".013348", ".584137", ".778135")),
    (0.8, 1, ("0.032059", "8.387382"), ("0.32663", "0.54256"), ("5.92766", "4.03342"), "0.63610",
     (9704, 9836, 10904), ("1.63e-4", ".006504", ".173280", ".870150", ".893648")),
    (0.0, 3, ("0.001268", "1.161274"), ("0.53602", "3.26540"), ("0.96289", "1.16004"), "0.21285",
     (11062, 21197, 42152), (".078851", ".114346", ".182383", ".474130", "1.0")),
]  # fmt: skip


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"rate {row[0]}")
def test_golden_values_of_drpls_detector(row):
    rate, seed, ends, first, second, weight, counts, table = row
    losses = torch.from_numpy(easy(seed, 50_000, rate).astype(np.float32))
    fit = fit_betas(losses)
    assert (f"{fit.low:.6f}", f"{fit.high:.6f}") == ends
    assert (f"{fit.alphas[0]:.5f}", f"{fit.betas[0]:.5f}") == first
    assert (f"{fit.alphas[1]:.5f}", f"{fit.betas[1]:.5f}") == second
    assert f"{fit.weights[1]:.5f}" == weight and abs(fit.weights.sum() - 1) < 1e-12
    assert tuple(int((fit.p_high <= t).sum()) for t in (0.05, 0.1, 0.5)) == counts
    for entry, want in zip((5, 10, 20, 50, 99), table, strict=True):
        assert abs(float(fit.table[entry]) - float(want)) <= 0.5000001e-6
    assert describe(fit.status) == "ok"
    assert torch.equal(fit.posterior(losses), fit.p_high)
    half = fit_betas(losses, dtype=torch.float32)
    assert (half.table - fit.table).abs().max() < 1e-5
    assert (half.alphas - fit.alphas).abs().max() < 1e-4


def scipy_betas(x, repair):
    """The detector once more, as slow loops over SciPy's density and NumPy's percentiles."""
    from scipy.stats import beta

    low, high = np.percentile(x.astype(np.float64), [5, 95])
    kept = x[(x >= np.float32(low)) & (x <= np.float32(high))].astype(np.float64)
    low, high = np.float32(low) + np.float32(1e-5), np.float32(high)

    def scaled(d):
        u = (d.astype(np.float32) - low) / (high - low + np.float32(1e-6))
        u[u >= 1], u[u <= 0] = 1 - 1e-3, 1e-3
        return u

    u = np.clip(scaled(kept).astype(np.float64), 1e-4, 1 - 1e-4)
    a, b, w = [1.0, 2.0], [2.0, 1.0], [0.5, 0.5]
    for _ in range(10):
        r = np.array([np.maximum(w[k] * beta.pdf(u, a[k], b[k]), 1e-12) for k in (0, 1)])
        r /= r.sum(axis=0)
        for k in (0, 1):
            mean = np.average(u, weights=r[k])
            var = np.average((u - mean) ** 2, weights=r[k])
            a[k] = mean * (mean * (1 - mean) / var - 1)
            b[k] = a[k] * (1 - mean) / mean
            w[k] = r[k].mean()
    grid = np.linspace(1e-12, 1 - 1e-12, 100)
    parts = [w[k] * beta.pdf(grid, a[k], b[k]) for k in (0, 1)]
    table = parts[1] / (parts[0] + parts[1] + 1e-12)
    if repair:
        table[table.argmax() :] = table.max()
    return a, b, w, table, table[np.minimum((100 * scaled(x)).astype(int), 99)]


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize("make, rate", [(easy, 0.3), (hard, 0.4), (hard, 0.8), (easy, 0.9)])
def test_betas_are_scipys(make, rate, repair):
    x = make(12, 10_000, rate).astype(np.float32)
    a, b, w, table, p = scipy_betas(x, repair)
    fit = fit_betas(torch.from_numpy(x), repair=repair)
    np.testing.assert_allclose(fit.alphas, a, rtol=1e-9)
    np.testing.assert_allclose(fit.betas, b, rtol=1e-9)
    np.testing.assert_allclose(fit.weights, w, rtol=1e-9)
    np.testing.assert_allclose(fit.table, table, atol=1e-10)
    np.testing.assert_allclose(fit.p_high, p, atol=1e-6)


def test_repair_holds_the_right_end_up_and_nothing_else():
    # noise that ends in the middle of the range: without repair the largest losses look clean
    x = torch.from_numpy(easy(1, 50_000, 0.8).astype(np.float32))
    plain, repaired = fit_betas(x, repair=False).table, fit_betas(x).table
    peak = int(plain.argmax())
    assert 0 < peak < 99 and plain[99] < plain[peak]
    assert torch.equal(repaired[: peak + 1], plain[: peak + 1])
    assert torch.equal(repaired[peak:], plain[peak].expand(100 - peak))


def test_scores_are_looked_up_by_the_floor():
    fit = fit_betas(torch.from_numpy(easy(0, 20_000, 0.4)))
    width = fit.high - fit.low + 1e-6
    at = fit.low + width * torch.tensor([-5.0, 0.004, 0.5049, 0.5051, 0.5149, 0.98, 3.0])
    entries = fit.table.float()[[0, 0, 50, 50, 51, 98, 99]]
    assert torch.equal(fit.posterior(at), entries)
    odd = fit.posterior(torch.tensor([math.nan, math.inf, -math.inf]))
    assert odd.tolist() == [1, 1, 1]


def test_all_samples_are_scored_and_only_the_middle_is_fitted():
    x = torch.from_numpy(easy(0, 20_000, 0.4).astype(np.float32))
    far = x.clone()
    far[x > x.quantile(0.96)] *= 100  # what is trimmed may lie anywhere
    fit, other = fit_betas(x), fit_betas(far)
    assert torch.equal(fit.table, other.table) and torch.equal(fit.p_high, other.p_high)
    untrimmed = fit_betas(x, trim=(0.0, 100.0))
    assert float(untrimmed.high) == float(x.max()) and untrimmed.high > fit.high


def heap_and_spread(centre, share, a, b):
    """Losses of which one share lies in a narrow heap and the others are spread as Beta(a, b)."""
    rng = np.random.RandomState(0)
    n = int(5000 * share)
    return torch.from_numpy(np.append(rng.normal(centre, 0.02, n), rng.beta(a, b, 5000 - n)))


@pytest.mark.parametrize(
    "losses, words",
    [
        ((0.4, 0.8, 0.5, 0.7), Status.ORDER),
        ((0.3, 0.5, 0.6, 1.2), Status.ORDER | Status.ALL_NOISY),
        ((0.4, 0.6, 1, 1), Status.ALL_NOISY),
    ],
)
def test_a_beta_fit_upside_down(losses, words):
    """The noisy component's mean lies below the other's, or its table marks everything."""
    fit = fit_betas(heap_and_spread(*losses))
    means = fit.alphas / (fit.alphas + fit.betas)
    assert (means[1] <= means[0]) == (Status.ORDER in words)
    assert int(fit.status) == words | Status.SHAPE and fit.alphas[1] <= fit.alphas[0]
    assert torch.equal(fit.p_high, torch.full((5000,), 0.5)) and (fit.table == 0.5).all()
    assert torch.equal(fit.posterior(torch.tensor([0.0, math.nan])), torch.full((2,), 0.5))
    assert ("below the clean one" in describe(fit.status)) == (Status.ORDER in words)


def test_a_sound_fit_survives_any_order_of_its_first_parameters():
    """Little noise: a[1] is the smaller one, the means are in order, and the split is good."""
    wrong = np.arange(50_000) >= 40_000
    x = gammas(0, 50_000, 0.2, (2, 2.5), (0.15, 1.2)).astype(np.float32)
    fit = fit_betas(torch.from_numpy(x))
    assert fit.alphas.tolist() == pytest.approx([1.34, 1.32], abs=0.01)
    assert fit.alphas[1] < fit.alphas[0] and int(fit.status) == Status.SHAPE
    means = fit.alphas / (fit.alphas + fit.betas)
    assert means.tolist() == pytest.approx([0.07, 0.50], abs=0.01)
    clean = (fit.p_high <= 0.5).numpy()
    assert clean.mean() == pytest.approx(0.815, abs=0.002)
    assert (~wrong)[clean].mean() == pytest.approx(0.973, abs=0.002)  # precision
    assert clean[~wrong].mean() == pytest.approx(0.991, abs=0.002)  # recall
    assert "very lowest losses" in describe(fit.status) and "0.5" not in describe(fit.status)


def test_betas_with_means_too_close():
    rng = np.random.RandomState(0)
    x = np.append(rng.normal(0.5, 0.005, 5000), [0.0, 1.0])
    fit = fit_betas(torch.from_numpy(x), iterations=1, trim=(0, 100))
    means = fit.alphas / (fit.alphas + fit.betas)
    assert 0 < means[1] - means[0] < 1e-3
    assert Status(int(fit.status)) & Status.CLOSE
    assert torch.equal(fit.p_high, torch.full((5002,), 0.5))


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"trim": (95, 5)}, {"trim": (-1, 50)}])
def test_bad_settings_of_betas(settings):
    with pytest.raises(ValueError, match="iterations must be|trim must be"):
        fit_betas(torch.rand(8), **settings)


def test_nothing_waits_for_the_device():
    """Under fake tensors every read of a value raises."""
    with FakeTensorMode():
        x = torch.rand(1000)
        scaled, _ = normalise(x)
        gauss = fit_gaussians(scaled)
        assert gauss.p_low.shape == (1000,) and gauss.posterior(x[:9]).shape == (9,)
        beta = fit_betas(x)
        assert beta.p_high.shape == (1000,) and beta.posterior(x[:9]).shape == (9,)
        assert mixtures.degenerate(beta.status).shape == ()
        assert auc(x, x > 0.5).shape == ()


def test_fits_carry_no_gradient():
    x = torch.rand(50, requires_grad=True)
    assert not fit_gaussians(x).p_low.requires_grad and not fit_betas(x).p_high.requires_grad


# --- AUC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, 2, 5, 100])
def test_auc_is_sklearns(levels):
    from sklearn.metrics import roc_auc_score

    rng = np.random.RandomState(0)
    positive = rng.rand(5000) < 0.3
    score = rng.normal(size=5000) + positive
    if levels:
        score = np.digitize(score, np.quantile(score, np.linspace(0, 1, levels + 1)[1:-1]))
    ours = auc(torch.from_numpy(score), torch.from_numpy(positive))
    assert ours.dtype == torch.float64
    assert abs(float(ours) - roc_auc_score(positive, score)) < 1e-12
    turned = auc(torch.from_numpy(-score), torch.from_numpy(~positive))
    assert abs(float(turned) - float(ours)) < 1e-12


def test_auc_corner_cases():
    score = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert float(auc(score, torch.tensor([0, 0, 1, 1]))) == 1
    assert float(auc(score, torch.tensor([True, True, False, False]))) == 0
    assert float(auc(torch.zeros(4), torch.tensor([0, 1, 0, 1]))) == 0.5
    assert math.isnan(auc(score, torch.ones(4))) and math.isnan(auc(score, torch.zeros(4)))
    assert math.isnan(auc(torch.tensor([0.1, math.nan]), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"not \(4,\) and \(3,\)"):
        auc(score, torch.ones(3))


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", ["separate", "hard 50 %"])
def test_a_gpu_fits_the_same_without_waiting(case):
    x = torch.from_numpy(CASES[case]()).float()
    on_gpu = x.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gauss, beta = fit_gaussians(on_gpu), fit_betas(on_gpu)
        area = auc(on_gpu, on_gpu > 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (gauss.p_low.cpu() - fit_gaussians(x).p_low).abs().max() < 1e-4
    assert (beta.table.cpu() - fit_betas(x).table).abs().max() < 1e-8
    assert float(area) == 1
