"""Objectives: hand computations, derivatives, limits, extreme logits, mixing and Beta draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from noisylabels.kernels import objectives as O

B, C = 5, 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def z() -> torch.Tensor:
    return 2 * torch.randn(B, C, generator=generator(1), dtype=torch.float64)


@pytest.fixture
def t() -> torch.Tensor:
    return torch.randn(B, C, generator=generator(2), dtype=torch.float64).softmax(1)


@pytest.fixture
def y() -> torch.Tensor:
    return torch.tensor([0, 3, 1, 1, 2])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def loops(z, t, y) -> dict[str, np.ndarray]:
    """Every per-sample loss by plain sums in float64."""
    p, t, y = softmax(z.numpy()), t.numpy(), y.numpy()
    out: dict[str, list[float]] = {}
    for i in range(len(p)):
        row = {
            "cross_entropy": -math.log(p[i, y[i]]),
            "soft_cross_entropy": -sum(t[i, c] * math.log(p[i, c]) for c in range(C)),
            "gce": (1 - p[i, y[i]] ** 0.7) / 0.7,
            "negative_probability": -sum(t[i, c] * p[i, c] for c in range(C)),
            "squared_error": sum((p[i, c] - t[i, c]) ** 2 for c in range(C)) / C,
            "kl": sum(t[i, c] * math.log(t[i, c] / p[i, c]) for c in range(C)),
            "entropy": -sum(p[i, c] * math.log(p[i, c]) for c in range(C)),
            "negative_entropy": sum(p[i, c] * math.log(p[i, c]) for c in range(C)),
        }
        for k, v in row.items():
            out.setdefault(k, []).append(v)
    return {k: np.array(v) for k, v in out.items()}


def calls(z, t, y) -> dict:
    """name: function of (logits, reduction)."""
    return {
        "cross_entropy": lambda z, r: O.cross_entropy(z, y, r),
        "soft_cross_entropy": lambda z, r: O.soft_cross_entropy(z, t, r),
        "gce": lambda z, r: O.gce(z, y, 0.7, r),
        "negative_probability": lambda z, r: O.negative_probability(z, t, r),
        "squared_error": lambda z, r: O.squared_error(z, t, r),
        "kl": lambda z, r: O.kl(t, z, r),
        "entropy": lambda z, r: O.entropy(z.softmax(1), r),
        "negative_entropy": lambda z, r: O.negative_entropy(z.softmax(1), r),
    }


NAMES = tuple(calls(None, None, None))


# --- losses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_losses_by_hand(name, z, t, y):
    expected, f = loops(z, t, y)[name], calls(z, t, y)[name]
    each = f(z, "none")
    assert each.shape == (B,) and each.dtype == torch.float64
    np.testing.assert_allclose(each, expected, rtol=1e-12)
    assert f(z, "mean").item() == pytest.approx(expected.mean(), rel=1e-12)
    with pytest.raises(ValueError, match="reduction must be one of mean, none, not 'sum'"):
        f(z, "sum")


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_losses(name, z, t, y):
    f = calls(z, t, y)[name]
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: f(z, "none"), (z,), check_forward_ad=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_low_precision_gives_float32(name, dtype, z, t, y):
    f = calls(z, t.float(), y)[name]
    low = z.to(dtype)
    assert f(low, "none").dtype == f(low, "mean").dtype == torch.float32
    if "entropy" not in name or "cross" in name:  # those take the caller's probabilities
        torch.testing.assert_close(f(low, "none"), f(low.float(), "none"))
    with torch.autocast("cpu", torch.bfloat16):
        assert f(low, "none").dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]])
    z.requires_grad_()
    y = torch.tensor([1, 0, 2, 2])
    t = O.one_hot(y, 3)
    f = calls(None, t, y)[name]
    loss = f(z, "none")
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(z.grad).all()
    if name in ("cross_entropy", "soft_cross_entropy"):
        expected = torch.tensor([2e4, 2e4 + math.log(2), math.log(3), 2e4 + math.log(2)])
        torch.testing.assert_close(loss.detach(), expected)
    if name == "entropy":
        expected = torch.tensor([0.0, math.log(2), math.log(3), math.log(2)])
        torch.testing.assert_close(loss.detach(), expected)


def test_one_hot_targets_equal_hard_labels(z, y):
    t = O.one_hot(y, C)
    assert t.dtype == torch.float32
    for reduction in ("mean", "none"):
        theirs = F.cross_entropy(z, y, reduction=reduction)
        for ours in (
            O.cross_entropy(z, y, reduction),
            O.soft_cross_entropy(z, t, reduction),
            O.kl(t, z, reduction),  # the entropy of a one-hot is zero
            O.gce(z, y, 0.0, reduction),
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    torch.testing.assert_close(O.soft_cross_entropy(z, t), F.cross_entropy(z, t.double()))


def test_gradient_of_cross_entropy_is_p_minus_t(z, t):
    z.requires_grad_()
    O.soft_cross_entropy(z, t).backward()
    torch.testing.assert_close(z.grad, (z.softmax(1) - t).detach() / B)


def test_gce_limits(z, y):
    p_y = z.softmax(1).gather(1, y[:, None]).squeeze(1)
    mae = (z.softmax(1) - O.one_hot(y, C)).abs().sum(1)
    torch.testing.assert_close(O.gce(z, y, 1.0, "none"), mae / 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(O.gce(z, y, 1.0, "none"), 1 - p_y, rtol=1e-12, atol=0)
    ce = O.cross_entropy(z, y, "none")
    for q, tolerance in ((1e-4, 1e-3), (1e-8, 1e-7), (0.0, 1e-15)):  # the error falls with q
        torch.testing.assert_close(O.gce(z, y, q, "none"), ce, rtol=tolerance, atol=0)
    torch.testing.assert_close(  # also in float32, where 1 - p^q would cancel
        O.gce(z.float(), y, 1e-6, "none"), ce.float(), rtol=1e-5, atol=0
    )
    assert O.gce(torch.tensor([[-1e4, 1e4]]), torch.tensor([0]), 0.5).item() == 2.0  # 1 / q
    for q in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"q must lie in \[0, 1\]"):
            O.gce(z, y, q)


def test_negative_probability_is_mae_up_to_scale(z, y):
    t = O.one_hot(y, C)
    mae = (z.softmax(1) - t).abs().sum(1)
    torch.testing.assert_close(O.negative_probability(z, t, "none"), mae / 2 - 1)
    # MixNN's loss on a mixed label: lam and 1 - lam on the two given classes
    other = torch.tensor([1, 1, 2, 0, 3])
    p, i = z.softmax(1), torch.arange(B)
    expected = -(0.3 * p[i, y] + 0.7 * p[i, other]).mean()
    mixed = 0.3 * O.one_hot(y, C) + 0.7 * O.one_hot(other, C)
    assert O.negative_probability(z, mixed).item() == pytest.approx(expected.item(), rel=1e-6)


def test_kl_properties(z, t):
    assert O.kl(z.softmax(1), z, "none").abs().max() < 1e-14
    assert (O.kl(t, z, "none") > 0).all()
    torch.testing.assert_close(O.kl(t, z), F.kl_div(z.log_softmax(1), t, reduction="batchmean"))
    torch.testing.assert_close(
        O.kl(t, z, "none"), O.soft_cross_entropy(z, t, "none") - O.entropy(t, "none")
    )


# --- regularisers -----------------------------------------------------------------------------


def test_prior_terms_by_hand(z):
    p = softmax(z.numpy())
    mean = p.mean(0)
    code = -sum(math.log(m) for m in mean) / C
    assert O.prior_cross_entropy(z.softmax(1)).item() == pytest.approx(code, rel=1e-12)
    full = sum(1 / C * math.log(1 / C / m) for m in mean)
    assert O.prior_kl(z.softmax(1)).item() == pytest.approx(full, rel=1e-10)
    assert code - full == pytest.approx(math.log(C))  # a constant apart

    prior = np.array([0.1, 0.2, 0.3, 0.4])
    own = sum(q * math.log(q / m) for q, m in zip(prior, mean, strict=True))
    given = torch.tensor(prior)
    assert O.prior_kl(z.softmax(1), given).item() == pytest.approx(own, rel=1e-10)
    cross = -sum(q * math.log(m) for q, m in zip(prior, mean, strict=True))
    assert O.prior_cross_entropy(z.softmax(1), given).item() == pytest.approx(cross, rel=1e-12)
    empty = torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)
    own = sum(0.5 * math.log(0.5 / m) for m in mean[2:])
    assert O.prior_kl(z.softmax(1), empty).item() == pytest.approx(own, rel=1e-10)


def test_prior_terms_have_one_gradient_and_a_minimum(z):
    z.requires_grad_()
    a = torch.autograd.grad(O.prior_kl(z.softmax(1)), z)[0]
    b = torch.autograd.grad(O.prior_cross_entropy(z.softmax(1)), z)[0]
    torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(lambda z: O.prior_kl(z.softmax(1)), (z,))
    assert O.prior_kl(torch.eye(6)).item() == pytest.approx(0, abs=1e-6)  # balanced: nothing
    assert O.prior_kl(z.softmax(1)).item() > 0


def test_prior_terms_survive_collapse():
    z = torch.tensor([[1e4, -1e4, -1e4]] * 4, requires_grad=True)
    loss = O.prior_kl(z.softmax(1))
    loss.backward()
    assert torch.isfinite(loss) and loss > 50 and torch.isfinite(z.grad).all()
    assert O.prior_kl(z.bfloat16().softmax(1)).dtype == torch.float32


def test_entropy_limits():
    torch.testing.assert_close(O.entropy(torch.eye(3), "none"), torch.zeros(3))
    assert O.entropy(torch.full((2, 8), 1 / 8)).item() == pytest.approx(math.log(8))
    assert O.negative_entropy(torch.full((2, 8), 1 / 8)).item() == pytest.approx(-math.log(8))


def test_drpl_stage_one_loss_by_hand():
    """CE + 0.8 R_p + 0.4 R_e on two samples and two classes, worked out with plain numbers."""
    z = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)  # p: 3/4 1/4, 1/2 1/2
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    p = z.softmax(1)
    loss = O.soft_cross_entropy(z, targets) + 0.8 * O.prior_kl(p) + 0.4 * O.entropy(p)
    ce = (math.log(4 / 3) + math.log(2)) / 2
    r_p = 0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)
    r_e = (0.75 * math.log(4 / 3) + 0.25 * math.log(4) + math.log(2)) / 2
    assert loss.item() == pytest.approx(ce + 0.8 * r_p + 0.4 * r_e, rel=1e-12)


# --- ELR --------------------------------------------------------------------------------------


def test_elr_by_hand():
    p = torch.tensor([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    memory = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 0.0]], dtype=torch.float64)
    new = O.elr_update(memory, p, 0.7)
    assert not new.requires_grad
    low, high = 1e-4, 1 - 1e-4
    first = np.array([0.7, 0.3, low]) / (1 + low)
    second = np.array([high, low, low]) / (high + 2 * low)
    expected = 0.7 * memory.numpy() + 0.3 * np.stack([first, second])
    np.testing.assert_allclose(new, expected, rtol=1e-12)

    each = O.elr_term(new, p, "none")
    clamped = np.array([[0.7, 0.3, low], [high, low, low]])
    np.testing.assert_allclose(each.detach(), np.log(1 - (expected * clamped).sum(1)), rtol=1e-12)
    assert O.elr_term(new, p).item() == pytest.approx(each.mean().item())
    O.elr_term(new, p).backward()
    # d log(1 - t.p) / dp = -t / (1 - t.p), nothing where p was clamped
    factor = -expected / (1 - (expected * clamped).sum(1, keepdims=True)) / 2
    np.testing.assert_allclose(p.grad, factor * [[1, 1, 0], [0, 0, 0]], rtol=1e-12)


def test_elr_memory_converges_and_term_stays_finite():
    p = torch.tensor([[1.0, 0.0]])
    memory = torch.zeros(1, 2)
    for _ in range(200):
        memory = O.elr_update(memory, p, 0.9)
    torch.testing.assert_close(memory.sum(1), torch.ones(1))
    term = O.elr_term(memory, p)
    assert term.dtype == torch.float32
    # 1 - t.p with t = p = (1 - 1e-4, 1e-4): about 2e-4, the smallest possible value
    assert term.item() == pytest.approx(math.log(1 - (1 - 1e-4) ** 2 - 1e-8), rel=1e-3)
    first = O.elr_update(torch.zeros(1, 2), torch.tensor([[0.6, 0.4]]), 0.7)
    torch.testing.assert_close(first, torch.tensor([[0.18, 0.12]]))
    assert O.elr_update(memory, p.bfloat16(), 0.9).dtype == torch.float32
    for beta in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
            O.elr_update(memory, p, beta)


def test_elr_gradcheck(z, t):
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: O.elr_term(t, z.softmax(1), "none"), (z,))


# --- targets ----------------------------------------------------------------------------------


def test_one_hot(y):
    assert torch.equal(O.one_hot(y, C), F.one_hot(y, C).float())
    assert torch.equal(O.one_hot(y.reshape(5, 1), C), F.one_hot(y, C).float()[:, None])
    assert torch.equal(O.one_hot(torch.tensor([-1, 4]), C), torch.zeros(2, C))


def test_sharpen(t):
    torch.testing.assert_close(O.sharpen(t, 1.0), t)
    p = t.numpy()
    for temperature in (0.5, 0.3, 2.0):
        expected = p ** (1 / temperature)
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(O.sharpen(t, temperature), expected, rtol=1e-12)
    out = O.sharpen(torch.tensor([[0.6, 0.4, 0.0]]), 0.5)
    torch.testing.assert_close(out, torch.tensor([[0.36, 0.16, 0.0]]) / 0.52)
    hard = O.sharpen(torch.full((1, 100), 0.01) + torch.eye(100)[:1] * 1e-3, 1e-3)
    torch.testing.assert_close(hard, torch.eye(100)[:1])  # 0.01^1000 would underflow
    assert O.sharpen(t.bfloat16(), 0.5).dtype == torch.float32
    t.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: O.sharpen(t, 0.5), (t,))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            O.sharpen(t, temperature)


def test_rms_normalise(z):
    flat = z.numpy()
    expected = flat / math.sqrt((flat**2).mean() + 1e-8)
    np.testing.assert_allclose(O.rms_normalise(z), expected, rtol=1e-12)
    torch.testing.assert_close(O.rms_normalise(50 * z), O.rms_normalise(z))  # scale-free
    assert O.rms_normalise(z).square().mean().item() == pytest.approx(1, rel=1e-7)
    assert not torch.allclose(O.rms_normalise(z).square().mean(1), torch.ones(B).double())
    assert torch.equal(O.rms_normalise(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert O.rms_normalise(z.bfloat16()).dtype == torch.float32
    z.requires_grad_()
    assert torch.autograd.gradcheck(O.rms_normalise, (z,))


# --- mixing -----------------------------------------------------------------------------------


def test_mixup_scalar_and_per_sample():
    x = torch.randn(4, 3, 2, 2, generator=generator())
    perm = torch.tensor([2, 0, 3, 1])
    lam = torch.tensor([0.0, 0.25, 0.5, 1.0])
    each = O.mixup(x, perm, lam)
    for i in range(4):
        expected = lam[i] * x[i] + (1 - lam[i]) * x[perm[i]]
        torch.testing.assert_close(each[i], expected)
        for scalar in (lam[i], lam[i].item()):
            torch.testing.assert_close(O.mixup(x, perm, scalar)[i], expected)
    assert torch.equal(each[0], x[2]) and torch.equal(each[3], x[3])
    y = torch.tensor([0, 1, 2, 0])
    targets = O.mixup(O.one_hot(y, 3), perm, lam)
    assert torch.equal(
        targets, torch.tensor([[0, 0, 1], [0.75, 0.25, 0], [0.5, 0, 0.5], [1, 0, 0]])
    )
    assert torch.equal(O.mixup(y.float(), perm, lam), torch.tensor([2.0, 0.25, 1.0, 0.0]))


def test_mixup_keeps_dtype_layout_and_coefficient():
    x = torch.randn(4, 3, 8, 8, generator=generator()).to(memory_format=torch.channels_last)
    perm, lam = torch.tensor([1, 2, 3, 0]), torch.tensor(0.7)
    out = O.mixup(x.bfloat16(), perm, lam)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    # the coefficient itself is not rounded to bfloat16 (which would make 0.5004 one half)
    pair, swap, lam = torch.tensor([1.0, -1.0]).bfloat16(), torch.tensor([1, 0]), 0.5004
    for given in (lam, torch.tensor(lam), torch.tensor(lam).expand(2), torch.tensor(lam).double()):
        assert O.mixup(pair, swap, given)[0].item() == pytest.approx(0.0008, rel=1e-2)
    assert O.mixup(x.double(), perm, lam).dtype == torch.float64


def test_mixup_loss_is_the_weighted_sum(z, y):
    """One soft cross entropy on mixed targets = DRPL's two terms, weighted."""
    perm, lam = torch.tensor([4, 0, 1, 2, 3]), 0.3
    mixed = O.mixup(O.one_hot(y, C).double(), perm, lam)
    two = lam * O.cross_entropy(z, y) + (1 - lam) * O.cross_entropy(z, y[perm])
    torch.testing.assert_close(O.soft_cross_entropy(z, mixed), two)


def test_mixup_refuses():
    x, perm = torch.zeros(4, 2), torch.arange(4)
    with pytest.raises(ValueError, match="floating-point values.*not torch.uint8"):
        O.mixup(x.to(torch.uint8), perm, 0.5)
    for shape in ((3,), (4, 1), (1,)):
        with pytest.raises(ValueError, match=r"one value per sample \(4\), not shape"):
            O.mixup(x, perm, torch.full(shape, 0.5))


@pytest.mark.parametrize("alpha", (0.2, 0.5, 1.0, 4.0, 32.0))
def test_beta_draws_follow_beta(alpha):
    n = 20_000
    draws = O.draw_beta(alpha, generator(7), (n,))
    assert draws.shape == (n,) and draws.dtype == torch.float32
    assert (draws >= 0).all() and (draws <= 1).all()
    law = stats.beta(alpha, alpha)
    # float32 rounds draws next to 1 to 1 itself; below one half it is exact enough at any alpha
    low = draws[draws < 0.5].double().numpy()
    assert stats.kstest(low, lambda v: 2 * law.cdf(v)).pvalue > 1e-3
    if alpha >= 0.5:
        assert stats.kstest(draws.double().numpy(), law.cdf).pvalue > 1e-3
    assert draws.mean().item() == pytest.approx(0.5, abs=5 * law.std() / n**0.5)
    assert draws.var().item() == pytest.approx(law.var(), rel=0.05)  # 1 / (4 (2 alpha + 1))


def test_draws_come_from_the_given_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for alpha in (1.0, 4.0):
        a, b = (O.draw_beta(alpha, generator(3), (8,)) for _ in range(2))
        c = O.draw_beta(alpha, generator(4), (8,))
        assert torch.equal(a, b) and not torch.equal(a, c)
        gen = generator(3)
        assert not torch.equal(O.draw_beta(alpha, gen, (8,)), O.draw_beta(alpha, gen, (8,)))
        assert O.draw_beta(alpha, gen).shape == ()
        assert O.draw_beta(alpha, gen, (2, 3), "cpu").shape == (2, 3)
        assert O.draw_beta(alpha, gen, (2,), "meta").device.type == "meta"
    a, b = (O.draw_dominant(generator(3), (8,)) for _ in range(2))
    assert torch.equal(a, b) and O.draw_dominant(generator()).shape == ()
    assert O.draw_dominant(generator(), (2,), "meta").device.type == "meta"
    assert torch.equal(torch.get_rng_state(), state)


def test_small_alpha_gives_no_nan():
    draws = O.draw_beta(0.01, generator(), (20_000,))
    assert torch.isfinite(draws).all()
    assert ((draws < 1e-3) | (draws > 1 - 1e-3)).float().mean() > 0.9
    assert draws.mean().item() == pytest.approx(0.5, abs=0.02)


def test_dominant_coefficients():
    lam = torch.tensor([0.0, 0.2, 0.5, 0.9])
    torch.testing.assert_close(O.dominant(lam), torch.tensor([1.0, 0.8, 0.5, 0.9]))
    m = O.draw_dominant(generator(9), (50_000,))
    assert (m >= 0.5).all() and (m <= 1).all()
    assert m.mean().item() == pytest.approx(5 / 6, abs=2e-3)  # E[1 - U^2 / 2]
    law = stats.uniform()
    assert stats.kstest((2 * (1 - m.double().numpy())) ** 0.5, law.cdf).pvalue > 1e-3
    m = O.draw_dominant(generator(9), (50_000,), beta=1.0)
    assert m.mean().item() == pytest.approx(0.75, abs=2e-3)


def test_draws_refuse():
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="alpha must be positive"):
            O.draw_beta(alpha, generator())
        with pytest.raises(ValueError, match="beta must be positive"):
            O.draw_dominant(generator(), beta=alpha)


# --- nothing is read back to the host ---------------------------------------------------------


def everything(z, y, gen) -> list[torch.Tensor]:
    """Every function of the room once, on the device of `z`."""
    n, perm = len(z), torch.randperm(len(z), generator=gen, device=z.device)
    t = O.one_hot(y, z.shape[1])
    p = z.softmax(1)
    memory = O.elr_update(torch.zeros_like(t), p, 0.7)
    q = O.sharpen(O.rms_normalise(z).softmax(1), 0.5)
    lams = [O.draw_beta(1.0, gen), O.draw_beta(4.0, gen, (n,)), O.draw_dominant(gen, (n,)), 0.3]
    lams[1] = O.dominant(lams[1])
    losses = [
        O.cross_entropy(z, y), O.soft_cross_entropy(z, t), O.gce(z, y), O.squared_error(z, q),
        O.negative_probability(z, t), O.kl(q, z), O.entropy(p), O.negative_entropy(p),
        O.prior_kl(p), O.prior_cross_entropy(p), O.elr_term(memory, p),
    ]  # fmt: skip
    return losses + [O.soft_cross_entropy(O.mixup(z, perm, a), O.mixup(t, perm, a)) for a in lams]


def test_no_host_reads():
    gen = generator()
    with FakeTensorMode():
        z = torch.randn(8, 4, requires_grad=True)
        losses = everything(z, torch.randint(4, (8,)), gen)
        torch.stack(losses).sum().backward()
    assert len(losses) == 15 and all(x.shape == () for x in losses)


def test_compiles_to_one_graph(z, t, y):
    def loss(z, t, y, lam):
        p = z.softmax(1)
        mixed = O.mixup(t, torch.arange(B - 1, -1, -1), lam)
        return O.soft_cross_entropy(z, mixed) + O.gce(z, y) + O.prior_kl(p) + O.entropy(p)

    lam = torch.tensor(0.4)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, t, y, lam), loss(z, t, y, lam))
    torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_host_reads_on_cuda():
    z = torch.randn(8, 4, device="cuda", requires_grad=True)
    y = torch.randint(4, (8,), device="cuda")
    gen = torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = everything(z, y, gen)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(x) for x in losses)
