"""IEG: exact meta-gradients, one whole step against a plain re-computation, its schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import guards
from noisylabels import lab
from noisylabels.kernels import meta_gradient, objectives
from noisylabels.kernels.meta_gradient import Quiet
from noisylabels.methods import ieg
from noisylabels.methods.ieg import Settings, coefficients, meta_gradients
from noisylabels.training import engine, networks, runs

SMALL = dict(steps=0, cycle=0, epochs=1, batch_size=16, average=0.9)
METHODS = ["ieg", "l2r", "mixmatch", "cross_entropy_trusted"]


class ConvNet(nn.Module):
    """Conv + batch-norm + linear in float64: small enough for double backward."""

    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5),
                                  nn.Tanh(), nn.Conv2d(5, 6, 3, padding=1, bias=False),
                                  nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(),
                                  nn.Linear(6 * 16, classes))

    def forward(self, x):
        return self.body(x)


def problem(n=6, seed=0, **settings):
    torch.manual_seed(seed)
    net = ConvNet().double()
    x, x_s, x_t = (torch.randn(n, 2, 4, 4, dtype=torch.float64) for _ in range(3))
    y, y_t = (F.one_hot(torch.randint(4, (n,)), 4).double() for _ in range(2))
    s = Settings(**settings)
    momentum = {k: 0.1 * torch.randn_like(w) for k, w in net.named_parameters()}
    return net, momentum, x, x_s, y, x_t, y_t, s


def unrolled(net, momentum, x, x_s, y, x_t, y_t, s, omega, lam):
    """The trusted loss after the look-ahead, as a function of omega and lambda."""
    weights = dict(net.named_parameters())
    buffers = {k: b.clone() for k, b in net.named_buffers()}
    z = functional_call(net, {**weights, **buffers}, (x,))
    z_s = functional_call(net, {**weights, **buffers}, (x_s,))
    g = ieg.pseudo_label(z, z_s, s)
    g = g if s.pseudo_grad else g.detach()
    target = lam[:, None] * y + (1 - lam[:, None]) * g
    inner = (omega * objectives.soft_cross_entropy(z, target, "none")).sum()
    grads = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    ahead = {k: w - s.look * (d + s.weight_decay * w + s.look_momentum * momentum[k])
             for (k, w), d in zip(weights.items(), grads, strict=True)}
    outer = objectives.soft_cross_entropy(
        functional_call(net, {**ahead, **{k: b.clone() for k, b in buffers.items()}}, (x_t,)), y_t)
    return outer + s.weight_decay / 2 * sum(w.square().sum() for w in ahead.values())


def by_forward_mode(net, momentum, x, x_s, y, x_t, y_t, s):
    quiet = Quiet(net)
    z, z_s = quiet(x), quiet(x_s)
    g = ieg.pseudo_label(z, z_s, s)
    return meta_gradients(quiet, momentum, z, x, x_s, y, g if s.pseudo_grad else g.detach(),
                          x_t, y_t, s)


@pytest.mark.parametrize("settings", [{}, dict(pseudo_grad=True), dict(rms=False),
                                      dict(look=0.3, look_momentum=0.0, weight_decay=0.0)])
def test_forward_mode_equals_double_backward(settings):
    parts = problem(**settings)
    n, s = 6, parts[-1]
    omega = torch.full((n,), 1 / n, dtype=torch.float64, requires_grad=True)
    lam = torch.full((n,), s.lambda_0, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(unrolled(*parts, omega, lam), (omega, lam))
    for mine, theirs in zip(by_forward_mode(*parts), exact, strict=True):
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()
        assert torch.equal(mine < 0, theirs < 0)


@pytest.mark.parametrize("pseudo_grad", [False, True])
def test_forward_mode_equals_brute_force_differences(pseudo_grad):
    parts = problem(seed=3, pseudo_grad=pseudo_grad)
    mine = by_forward_mode(*parts)
    n, h = 6, 1e-5
    base = (torch.full((n,), 1 / n, dtype=torch.float64),
            torch.full((n,), 0.9, dtype=torch.float64))
    for which in (0, 1):
        for i in range(n):
            ends = []
            for sign in (1, -1):
                moved = [b.clone() for b in base]
                moved[which][i] += sign * h
                ends.append(unrolled(*parts, *moved).item())
            assert mine[which][i].item() == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)


def test_the_closed_form_in_logit_tangents():
    """With constant g: -a (p - q).dz and (a/n) (y - g).dz, as derived on the page."""
    parts = problem(seed=5)
    net, momentum, x, x_s, y, x_t, y_t, s = parts
    quiet = Quiet(net)
    z, z_s = quiet(x), quiet(x_s)
    g = ieg.pseudo_label(z, z_s, s).detach()
    q = 0.9 * y + 0.1 * g
    grads = torch.autograd.grad(objectives.soft_cross_entropy(z, q), list(quiet.weights.values()),
                                retain_graph=True)
    ahead = {k: (w - s.look * (d + s.weight_decay * w + s.look_momentum * momentum[k])).detach()
             .requires_grad_() for (k, w), d in zip(quiet.weights.items(), grads, strict=True)}
    v = torch.autograd.grad(objectives.soft_cross_entropy(quiet(x_t, ahead), y_t),
                            list(ahead.values()))
    along = {k: d + s.weight_decay * ahead[k].detach() for k, d in zip(ahead, v, strict=True)}
    theta = {k: w.detach() for k, w in quiet.weights.items()}
    p, dz = torch.func.jvp(lambda t: quiet(x, t), (theta,), (along,))
    d_omega, d_lambda = by_forward_mode(*parts)
    torch.testing.assert_close(d_omega, -s.look * ((p.softmax(1) - q) * dz).sum(1))
    torch.testing.assert_close(d_lambda, s.look / 6 * ((y - g) * dz).sum(1))


@pytest.mark.parametrize("decay, momentum", [(0.0, False), (0.01, True)])
def test_the_kernel_needs_no_method(decay, momentum):
    """A linear map in plain formulas, without autograd: z = W x, its gradients by hand."""
    draw = torch.Generator().manual_seed(2)
    net = nn.Linear(3, 4, bias=False).double()
    x, x_t = (torch.randn(n, 3, dtype=torch.float64, generator=draw) for n in (5, 7))
    y, y_t = (F.one_hot(torch.arange(n) % 4, 4).double() for n in (5, 7))
    g = torch.randn(5, 4, dtype=torch.float64, generator=draw).softmax(1)
    w, m = net.weight.detach(), torch.ones(4, 3, dtype=torch.float64)
    p, q = (x @ w.T).softmax(1), 0.9 * y + 0.1 * g
    ahead = w - 0.1 * ((p - q).T @ x / 5 + decay * w + 0.9 * momentum * m)
    v = ((x_t @ ahead.T).softmax(1) - y_t).T @ x_t / 7 + decay * ahead
    dz = x @ v.T
    d_omega, d_lambda = meta_gradient.meta_gradients(
        Quiet(net), net(x), x, y, g, x_t, y_t, weight_decay=decay,
        momentum={"weight": m} if momentum else None)
    torch.testing.assert_close(d_omega, -0.1 * ((p - q) * dz).sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(d_lambda, 0.1 / 5 * ((y - g) * dz).sum(1), rtol=1e-12, atol=0)
    assert not d_omega.requires_grad and torch.equal(net.weight, w)


def test_coefficients_and_their_corner_cases():
    omega, keep = coefficients(torch.tensor([-3.0, -1.0, 2.0]), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(omega, torch.tensor([0.75, 0.25, 0.0]), atol=1e-5, rtol=0)
    assert keep.tolist() == [True, False, False], "a gradient of exactly zero takes the guess"
    omega, _ = coefficients(torch.tensor([1.0, 2.0]), torch.zeros(2))
    assert omega.tolist() == [0.0, 0.0], "no sample helps: zeros, not NaN"
    omega, _ = coefficients(-torch.rand(100), torch.zeros(100))
    assert omega.min() >= 0 and omega.sum() <= 1


def test_the_meta_step_moves_no_running_statistics():
    net, *rest = problem()
    before = {k: b.clone() for k, b in net.named_buffers()}
    by_forward_mode(net, *rest)
    assert all(torch.equal(b, before[k]) for k, b in net.named_buffers())


def test_one_step_moves_running_statistics_once():
    task = guards.a_task(16, trusted=20)
    found = []
    start = engine.start

    class Log(guards.Losses):
        pass

    def keep(s, t, *, salt=0):
        found.append(start(s, t, salt=salt))
        return found[-1]

    engine.start = keep
    try:
        ieg.train(task, Settings(network="tiny", **SMALL), Log())
    finally:
        engine.start = start
    counts = {k: int(b) for k, b in found[0][0].named_buffers() if k.endswith("tracked")}
    assert set(counts.values()) == {1}


def test_one_whole_step_against_a_plain_recomputation():
    """Loss of the first step, every term computed anew from the same draws, double backward."""
    task = guards.a_task(16, trusted=20)
    s = Settings(network="tiny", **SMALL)
    loss = guards.run("ieg", task, **SMALL)[0]

    task = guards.a_task(16, trusted=20)
    strong = ieg.strong_view(task, s)
    net = networks.build("tiny", 10, 1, seed=0)
    i, x, x_s = next(iter(task.batches(16, task.weak, strong)))
    y = F.one_hot(task.y_given[i], 10).float()
    x_t, y_t = ieg.Trusted(task, 16).next()
    call = Quiet(net)
    z, z_s = call(x), call(x_s)

    def rms(a):
        return a / (a.square().mean() + 1e-8).sqrt()

    g = (0.5 * (rms(z).softmax(1) + rms(z_s).softmax(1))) ** 2
    g = (g / g.sum(1, keepdim=True)).detach()
    draws = task.rng("ieg")
    pick = torch.randint(16, (16,), generator=draws)
    j = torch.randperm(48, generator=draws)
    m = 1 - 0.5 * torch.rand(48, generator=draws) ** 2
    pool, labels = torch.cat([x_t[pick], x, x_s]), torch.cat([y_t[pick], g, g])
    xm = m.view(-1, 1, 1, 1) * pool + (1 - m.view(-1, 1, 1, 1)) * pool[j]
    qm = m[:, None] * labels + (1 - m[:, None]) * labels[j]
    zm = call(xm)
    ce = [-(qm[k:k + 16] * rms(zm[k:k + 16]).log_softmax(1)).sum(1) for k in (0, 16, 32)]
    l_p, l_u = ce[0].mean(), torch.cat(ce[1:]).mean()
    l_kl = (z.softmax(1) * (z.log_softmax(1) - z_s.log_softmax(1))).sum(1).mean()

    omega = torch.full((16,), 1 / 16, requires_grad=True)
    lam = torch.full((16,), 0.9, requires_grad=True)
    weights = dict(net.named_parameters())
    inner = (omega * -((lam[:, None] * y + (1 - lam[:, None]) * g)
                       * call(x).log_softmax(1)).sum(1)).sum()
    grads = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    ahead = {k: w - 0.1 * (d + 5e-4 * w) for (k, w), d in zip(weights.items(), grads, strict=True)}
    outer = -(y_t * call(x_t, ahead).log_softmax(1)).sum(1).mean() + 2.5e-4 * sum(
        w.square().sum() for w in ahead.values())
    d_omega, d_lambda = torch.autograd.grad(outer, (omega, lam))
    w = (-d_omega).clamp(min=0)
    w = w / (w.sum() + 1e-5)
    chosen = torch.where((d_lambda < 0)[:, None], y, g)
    logp = z.log_softmax(1)
    expected = (0.5 * (-(chosen * logp).sum(1).mean()
                       + (w * -((0.9 * y + 0.1 * g) * logp).sum(1)).sum())
                + l_p + 5 * l_u + 20 * l_kl)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_cycle_ends_and_rates_as_published():
    s = Settings()
    assert ieg.cycle_ends(s, 200_000) == [500, 1250, 2375, 4063, 6594, 10391, 16086, 24629, 37443,
                                          56665, 85498, 128746, 193620]
    assert ieg.learning_rate(0, s.steps, s) == 0.1
    assert ieg.learning_rate(250, s.steps, s) == pytest.approx(0.05)
    assert ieg.learning_rate(500, s.steps, s) == pytest.approx(0.09)
    assert ieg.learning_rate(128_747, 200_000, s) == pytest.approx(0.0282, abs=1e-4)
    free = Settings(steps=0, cycle=0)
    assert ieg.cycle_ends(free, 475) == [100, 250, 475], "three cycles fill the training"
    for wrong in ({"growth": 0.5}, {"cycle": -1}, {"steps": -1}):
        with pytest.raises(ValueError, match="must be a"):
            Settings(**wrong)


@pytest.mark.parametrize("method", ["ieg", "mixmatch"])
def test_epochs_that_are_asked_for_take_the_place_of_steps(method):
    published = lab.setting(method, "cifar100", rate=0.4, budget="paper")
    assert published.options["steps"] == 85_498
    assert lab.total_epochs(published, 49_000) == 175 and lab.total_epochs(published, 9_000) == 950
    short = lab.setting(method, "cifar100", rate=0.4, budget="paper", epochs=5)
    assert short.options["steps"] == 0 and lab.total_epochs(short, 49_000) == 5
    both = lab.setting(method, "cifar100", rate=0.4, budget="paper", epochs=5, steps=100)
    assert both.options["steps"] == 100 and lab.total_epochs(both, 49_000) == 1


def test_mixup_coefficients_lie_in_the_upper_half():
    m = objectives.draw_dominant(torch.Generator().manual_seed(0), (200_000,))
    assert 0.5 <= m.min() and m.max() <= 1
    assert m.mean().item() == pytest.approx(5 / 6, abs=2e-3)


def test_trusted_batches_alternate_classes_and_cycle():
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    task = guards.a_task(8, num_classes=3, weak=guards.views.Identity(),
                         trusted=0)
    task.y_given.remainder_(3)
    task.trusted = (images, torch.tensor([0, 0, 1, 1, 2, 2]))
    trusted = ieg.Trusted(task, 4)
    labels = torch.cat([trusted.next()[1].argmax(1) for _ in range(3)])
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] * 2
    task.trusted = None
    with pytest.raises(ValueError, match="set trusted_per_class >= 1"):
        ieg.Trusted(task, 4)


@pytest.mark.parametrize("switch", [
    dict(policy="randaugment"), dict(rms=False), dict(square_mix=False), dict(pseudo_grad=True),
    dict(isolation=0.05), dict(data_weight=1.0), dict(reweight=False), dict(relabel=False),
    dict(mix=False), dict(k=0.0), dict(lambda_0=0.5), dict(cycle=3), dict(steps=3)])
def test_every_switch_trains_and_changes_something(switch):
    base = torch.stack(guards.run("ieg", guards.a_task(trusted=20), **{**SMALL, "epochs": 2}))
    other = torch.stack(guards.run("ieg", guards.a_task(trusted=20),
                                   **{**SMALL, "epochs": 2, **switch}))
    assert other.isfinite().all()
    assert len(other) == (3 if "steps" in switch else 8)
    assert not torch.equal(base[:len(other)], other) or "steps" in switch


def test_bfloat16_chooses_nearly_the_same(monkeypatch):
    """The same first step in float32 and with bfloat16 convolutions: losses, weights, choices."""
    losses, slopes, real = [], [], ieg.meta_gradients
    monkeypatch.setattr(ieg, "meta_gradients", lambda *a: slopes.append(real(*a)) or slopes[-1])
    for precision in ("float32", "bfloat16"):
        task = guards.a_task(32, trusted=20, precision=precision)
        losses.append(guards.run("ieg", task, **SMALL)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    (omega, lam), (omega_16, lam_16) = slopes[0], slopes[len(slopes) // 2]
    assert ((lam < 0) == (lam_16 < 0)).float().mean() >= 0.9
    assert torch.cosine_similarity(omega, omega_16, 0) > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_guards(method, monkeypatch):
    settings = {"epochs": 1, "batch_size": 32} if method in ("l2r", "cross_entropy_trusted") else {
        **SMALL, "batch_size": 32}
    guards.compiled_agrees(method, monkeypatch, trusted=20, rtol=1e-4, **settings)
    guards.no_loop_over_samples(method, trusted=20, **settings)


@pytest.mark.parametrize("method", METHODS)
def test_settings_grant_the_trusted_set(method, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    s = lab.setting(method, rate=0.6, epochs=2, max_samples=200, batch_size=32)
    assert s.trusted_per_class == 3
    assert lab.setting(method, "cifar100", "symmetric", 0.4, "paper").trusted_per_class == 10
    run = lab.run(s)
    assert run.info["trusted"] == 30 and len(runs.find(method=method)) == 1


def test_right_labels_get_more_weight_than_wrong_ones():
    """With a trusted batch at hand, right labels of the batch are kept more often."""
    run, _ = lab.watch(lab.setting("ieg", rate=0.6, epochs=8, max_samples=800))
    assert run.last("p_right") > run.last("p_wrong") + 0.05
