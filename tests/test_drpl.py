"""DRPL: its losses by hand, the ring, the stages' schedules, both detections, every switch."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch

import guards
from guards import a_task
from noisylabels import lab, paths
from noisylabels.kernels import mixtures, objectives, views
from noisylabels.methods import drpl
from noisylabels.methods.drpl import Settings, pseudo_labels
from noisylabels.training import engine, runs
from noisylabels.training.recorder import Recorder, Truth

SHORT = dict(relabel_epochs=4, relabel_from=2, relabel_milestones=(3,), ring=2, split_epochs=2,
             split_milestones=(2,), epochs=2, milestones=(2,), warm_epochs=1)
SWITCHES = [{}, dict(warm_start="intended"), dict(only_clean=True), dict(oracle=True),
            dict(track=1), dict(warm_start="intended", only_clean=True), dict(rho=0.0),
            dict(mix_alpha=4.0)]


def tiny(**changes) -> Settings:
    return Settings(**{"network": "tiny", "batch_size": 32, **SHORT, **changes})


class Follow(guards.Losses):
    """Keeps the targets of every epoch, the notes, and the learning rates."""

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []
        self.notes: list[dict] = []

    def targets(self, values, suffix=""):
        self.kept.append(values.clone())

    def note(self, **values):
        self.notes.append(values)


# ------------------------------------------------------------------------- settings and schedules


def test_published_and_scaled_settings():
    s = lab.settings_of(lab.setting("drpl", "cifar10", "symmetric-exclusive", 0.8, "paper"))
    assert (s.network, s.lr, s.weight_decay, s.momentum, s.nesterov) == (
        "preact18", 0.1, 1e-4, 0.9, False)
    assert (s.relabel_epochs, s.relabel_from, s.split_epochs, s.epochs) == (130, 70, 175, 300)
    assert (s.alpha, s.beta, s.ring, s.rho, s.gamma1, s.gamma2) == (0.8, 0.4, 10, 0.2, 0.1, 0.5)
    s = lab.settings_of(lab.setting("drpl", "cifar100", "asymmetric-coin", 0.4, "paper"))
    assert (s.relabel_epochs, s.relabel_from, s.relabel_milestones) == (100, 40, (45, 80))
    assert drpl.total_epochs(s) == 575
    for budget in ("smoke", "laptop", "fast"):
        data = "digits" if budget == "smoke" else "cifar10"
        s = lab.settings_of(lab.setting("drpl", data, rate=0.4, budget=budget))
        assert s.relabel_from < s.relabel_milestones[0] <= s.relabel_epochs
        assert drpl.lr_in(s, s.relabel_from + 1, s.relabel_milestones) < s.lr
        assert max(s.milestones) <= s.epochs and max(s.split_milestones) <= s.split_epochs
    intended = lab.settings_of(lab.setting("drpl", rate=0.4, warm_start="intended"))
    assert drpl.total_epochs(intended) == 16 + 12 + 20 + 2 * 3


@pytest.mark.parametrize("bad, words", [
    (dict(warm_start="yes"), "unknown warm_start 'yes'; allowed: released, intended"),
    (dict(relabel_from=1), "relabel_from must lie between ring \\(2\\) and relabel_epochs"),
    (dict(relabel_from=4), "not at 4"),
    (dict(split_epochs=0), r"split_epochs must be a whole number in \[1, 100000\], not 0"),
    (dict(warm_start="intended", warm_epochs=0), "warm_epochs must be at least 1"),
    (dict(rho=1.1), r"rho must be a number in \[0, 1\], not 1.1"),
    (dict(gamma1=-0.1), r"gamma1 must be a number in \[0, 1\], not -0.1"),
    (dict(gamma2=2.0), r"gamma2 must be a number in \[0, 1\], not 2")])
def test_a_bad_setting_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        tiny(**bad)


@pytest.mark.parametrize("dataset, first_stage", [
    ("cifar10", {74: 0.1, 75: 0.01, 109: 0.01, 110: 0.001, 130: 0.001}),
    ("cifar100", {44: 0.1, 45: 0.01, 79: 0.01, 80: 0.001, 100: 0.001})])
def test_learning_rate_by_epoch_in_all_stages(dataset, first_stage, monkeypatch):
    """The published table, read off the whole run: a milestone's epoch has the lower rate."""
    rates: list[float] = []
    monkeypatch.setattr(engine, "set_lr", lambda opt, lr: rates.append(lr))
    monkeypatch.setattr(engine, "step", lambda *a, **k: lambda f: lambda *x: torch.zeros(()))
    s = Settings(**{**drpl.published(dataset, "symmetric-exclusive", 0.8), "network": "tiny",
                    "batch_size": 12, "warm_start": "intended"})
    drpl.train(a_task(12), s, guards.Losses())
    n, w = s.relabel_epochs, s.warm_epochs
    s1, w1, s2 = rates[:n], rates[n : n + w], rates[n + w : n + w + 175]
    w2, s3 = rates[-310:-300], rates[-300:]
    assert len(rates) == n + 175 + 300 + 20 and w1 == w2 == [0.1] * 10
    tables = ((s1, {1: 0.1} | first_stage),
              (s2, {1: 0.1, 99: 0.1, 100: 0.01, 149: 0.01, 150: 0.001, 175: 0.001}),
              (s3, {1: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 300: 0.001}))
    for used, table in tables:
        for epoch, lr in table.items():
            assert used[epoch - 1] == pytest.approx(lr, rel=1e-9), epoch


# ------------------------------------------------------------------------------ one step, by hand


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def regularisers(h: np.ndarray) -> float:
    """0.8 R_p + 0.4 R_e with R_p = -1/C sum_c log(mean_i h_ic), R_e = mean entropy."""
    c = h.shape[1]
    prior = -sum(np.log(h[:, k].mean()) for k in range(c)) / c
    entropy = -np.mean([sum(p * np.log(p) for p in row) for row in h])
    return 0.8 * prior + 0.4 * entropy


def first_batch(task: engine.Task, stream: str = "order"):
    """Index and images that the first full-set batch of that task will have."""
    i = torch.randperm(len(task), generator=task.rng(stream))
    return i, task.normalise(task.images[i])


def plain_task(n: int = 40) -> engine.Task:
    return a_task(n, weak=views.Identity())


@pytest.fixture
def stage_logs():
    """Losses of a run whose stages have one batch an epoch."""
    log = Follow()
    net = drpl.train(plain_task(), tiny(batch_size=40), log)
    return log, net


def test_loss_of_the_relabelling_stage_by_hand(stage_logs):
    """l = CE(q, h) + 0.8 R_p + 0.4 R_e, at the weights before the step, in train mode."""
    task = plain_task()
    i, x = first_batch(task)
    net, _ = engine.start(tiny(), task)
    h = softmax(net.double()(x.double()).detach().numpy())
    y = task.y_given[i].numpy()
    by_hand = -np.mean([np.log(row[k]) for row, k in zip(h, y, strict=True)]) + regularisers(h)
    assert stage_logs[0].got[0].item() == pytest.approx(by_hand, rel=1e-5)


def test_loss_of_the_semi_supervised_stage_by_hand(monkeypatch):
    """d CE(q_i, h(x~)) + (1 - d) CE(q_pi(i), h(x~)) + the regularisers on h(x~), after an
    un-mixed pass in train mode that moves the running statistics and gives the next labels."""
    n, c = 40, 10
    clean = torch.arange(n) % 3 == 0
    s, task, log = tiny(batch_size=n, rho=0.0), plain_task(n), Follow()
    trained, _ = drpl.semi_supervised(task, s, log, clean, 1, (), "S2")

    task = plain_task(n)
    draws = task.rng("drpl")
    guess = torch.randint(c, (n,), generator=draws)
    i, x = first_batch(task)
    pi = torch.randperm(n, generator=draws).numpy()
    delta = float(torch.rand((), generator=draws))
    q = np.eye(c)[np.where(clean, task.y_given, guess)][i.numpy()]
    net = engine.start(s, task)[0].double()
    before = softmax(net(x.double()).detach().numpy())
    mixed = delta * x.double() + (1 - delta) * x.double()[pi]
    h = softmax(net(mixed).detach().numpy())
    terms = (delta * (q * np.log(h)).sum(1) + (1 - delta) * (q[pi] * np.log(h)).sum(1))
    assert log.got[0].item() == pytest.approx(-terms.mean() + regularisers(h), rel=1e-5)
    # both passes moved the running statistics, in this order
    for mine, theirs in zip(net.buffers(), trained.buffers(), strict=True):
        torch.testing.assert_close(theirs.double(), mine.double(), rtol=1e-4, atol=1e-6)
    # the new pseudo-labels are the un-mixed predictions; the given labels stay
    new = log.kept[0][i].double().numpy()
    free = ~clean[i].numpy()
    np.testing.assert_allclose(new[free], before[free], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(new[~free], np.eye(c)[task.y_given[i]][~free])


def test_the_gradient_flows_through_both_regularisers():
    """Finite differences of the whole loss in float64: nothing in it is detached."""
    draws = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    q = torch.rand(6, 4, generator=draws, dtype=torch.float64).softmax(1)
    s = tiny()

    def loss(z):
        p = z.softmax(1)  # `regularised` itself lifts to float32; the terms are those it adds
        return (objectives.soft_cross_entropy(z, q) + s.alpha * objectives.prior_cross_entropy(p)
                + s.beta * objectives.entropy(p))

    torch.autograd.gradcheck(loss, z)
    close = drpl.regularised(z, objectives.soft_cross_entropy(z, q), s)
    assert close.item() == pytest.approx(loss(z).item(), rel=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (close, loss(z))),
                               rtol=1e-5, atol=1e-7)


def test_ring_averages_the_last_epochs_predictions_made_before_each_step(monkeypatch):
    """First relabel after epoch e_b, from exactly the epochs e_b - 9 ... e_b; train mode."""
    rows: list[torch.Tensor] = []
    order: list[torch.Tensor] = []
    start, batches = engine.start, engine.Task.batches

    def watched(*a, **k):
        net, opt = start(*a, **k)
        net.register_forward_hook(
            lambda m, x, z: rows.append(z.detach().softmax(1)) if m.training else None)
        return net, opt

    def indexed(self, *a, **k):
        for batch in batches(self, *a, **k):
            order.append(batch[0])
            yield batch

    monkeypatch.setattr(engine, "start", watched)
    monkeypatch.setattr(engine.Task, "batches", indexed)
    s = tiny(batch_size=16, ring=10, relabel_from=12, relabel_epochs=15, lr=0.05)
    task, log = a_task(40), Follow()
    drpl.relabel(task, s, log)
    per_epoch = torch.zeros(15, 40, 10)
    for k, (i, p) in enumerate(zip(order, rows, strict=True)):  # three batches an epoch
        per_epoch[k // 3, i] = p
    given = objectives.one_hot(task.y_given, 10)
    assert all(torch.equal(q, given) for q in log.kept[:11])
    for e in range(12, 16):
        torch.testing.assert_close(log.kept[e - 1], per_epoch[e - 10 : e].mean(0))
    assert not torch.allclose(log.kept[11], per_epoch[1:12].mean(0))
    net, _ = start(s, task)  # the very first prediction is the untouched network's
    fresh = a_task(40)
    i, x = next(fresh.batches(16))
    torch.testing.assert_close(rows[0], net(x).softmax(1))
    assert torch.equal(order[0], i)


# --------------------------------------------------------------------------------- pseudo-labels


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.29, 0.7, 1.0])
@pytest.mark.parametrize("unlabelled", [0, 1, 4, 5, 14, 100, 137])
def test_exactly_a_share_of_the_unlabelled_becomes_uniform(rho, unlabelled):
    n, c = 137, 7
    draws = torch.Generator().manual_seed(unlabelled)
    clean = torch.ones(n, dtype=torch.bool)
    clean[torch.randperm(n, generator=draws)[:unlabelled]] = False
    p = torch.rand(n, c, generator=draws).softmax(1)
    given = objectives.one_hot(torch.arange(n) % c, c)
    q = pseudo_labels(p, clean, given, rho, draws)
    uniform = (q == 1 / c).all(1)
    assert uniform.sum() == int(Fraction(str(rho)) * unlabelled), "the floor of rho |U|"
    assert torch.equal(q[clean], given[clean]) and not (uniform & clean).any()
    kept = ~clean & ~uniform
    assert torch.equal(q[kept], p[kept])


def test_the_uniform_share_is_exact_at_full_size_and_redrawn_each_time():
    draws = torch.Generator().manual_seed(0)
    given = objectives.one_hot(torch.zeros(50_000, dtype=torch.int64), 10)
    p, clean = torch.full((50_000, 10), 0.05), torch.zeros(50_000, dtype=torch.bool)
    chosen = [(pseudo_labels(p, clean, given, 0.2, draws) == 0.1).all(1) for _ in range(2)]
    assert [int(x.sum()) for x in chosen] == [10_000, 10_000]
    assert (chosen[0] & chosen[1]).sum() == pytest.approx(2_000, abs=250), "a new draw each time"
    assert chosen[0][:25_000].sum() == pytest.approx(5_000, abs=300), "wherever they lie"


# ------------------------------------------------------------------------------------- detection


def detect(losses: torch.Tensor, gamma: float, monkeypatch, again: torch.Tensor | None = None,
           **task_changes):
    """`drpl.detect` on given losses of passes A and B, its notes, and its p_clean."""
    passes = iter([losses, losses if again is None else again])
    monkeypatch.setattr(engine, "losses", lambda *a, **k: next(passes))
    log = Follow()
    log.p_clean = lambda values, suffix="": log.notes.append({"p_clean": values})
    clean = drpl.detect(None, a_task(len(losses), **task_changes), gamma, log)
    return clean, {k: v for note in log.notes for k, v in note.items()}


def two_heaps(n: int = 2000, rate: float = 0.4) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.RandomState(0)
    wrong = np.arange(n) >= n - int(n * rate)
    x = np.where(wrong, draw.gamma(9, 0.6, n), draw.gamma(0.5, 0.6, n))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(wrong)


def test_detection_splits_at_the_threshold_on_the_second_pass(monkeypatch):
    losses, wrong = two_heaps()
    fit = mixtures.fit_betas(losses)
    second = losses.flip(0)
    for gamma in (0.05, 0.1, 0.5):
        clean, noted = detect(losses, gamma, monkeypatch, again=second)
        assert torch.equal(clean, fit.posterior(second) <= gamma)
        assert not noted["split_fallback"] and noted["mixture_status"] == 0
        assert noted["clean_share"] == clean.float().mean()
        assert torch.equal(noted["p_clean"], 1 - fit.posterior(second))
    clean, _ = detect(losses, 0.5, monkeypatch)
    assert (clean & ~wrong).sum() / clean.sum() > 0.9 and clean[~wrong].float().mean() > 0.9


@pytest.mark.parametrize("losses, said", [
    (torch.ones(200), "all losses are equal"),
    (torch.full((200,), float("nan")), "not finite"),
    (torch.cat([torch.full((190,), 1e-4), torch.full((10,), 5.0)]), "")])
@pytest.mark.parametrize("gamma", [0.1, 0.5])
def test_a_mixture_gone_wrong_is_reported_and_the_smaller_half_is_taken(losses, said, gamma,
                                                                       monkeypatch):
    clean, noted = detect(losses, gamma, monkeypatch)
    assert noted["mixture_status"] != 0 and said in mixtures.describe(noted["mixture_status"])
    assert noted["split_fallback"] and noted["clean_share"] == 0.5
    assert torch.equal(clean, losses.argsort(stable=True).argsort() < 100)
    assert (noted["p_clean"] == 0.5).all() or noted["mixture_status"] & 1


@pytest.mark.parametrize("flag", [mixtures.Status.ORDER, mixtures.Status.ALL_NOISY,
                                  mixtures.Status.EMPTY, mixtures.Status.CLOSE])
def test_wrong_order_and_everything_noisy_are_caught(flag, monkeypatch):
    """Whatever the fit says when its components are swapped or its table marks all."""
    losses, wrong = two_heaps()
    fit = mixtures.fit_betas

    def bad(x):
        good = fit(x)
        return mixtures.BetaMixture(good.alphas.flip(0), good.betas.flip(0), good.weights,
                                    good.low, good.high, torch.full_like(good.table, 0.5),
                                    good.p_high, torch.tensor(int(flag)))

    monkeypatch.setattr(mixtures, "fit_betas", bad)
    clean, noted = detect(losses, 0.1, monkeypatch)
    assert noted["split_fallback"] and noted["mixture_status"] == int(flag)
    assert clean.sum() == len(losses) // 2 and not clean[wrong].any()


def test_losses_that_put_the_noisy_component_below_are_recognised(monkeypatch):
    """A narrow heap and a spread to both sides of it: EM swaps the two components' means."""
    draw = np.random.RandomState(0)
    x = np.append(draw.normal(0.4, 0.02, 4000), draw.beta(0.5, 0.7, 1000)).astype(np.float32)
    fit = mixtures.fit_betas(torch.from_numpy(x))
    means = fit.alphas / (fit.alphas + fit.betas)
    assert means[1] < means[0]
    clean, noted = detect(torch.from_numpy(x), 0.1, monkeypatch)
    status = mixtures.Status(int(noted["mixture_status"]))
    assert mixtures.Status.ORDER in status and mixtures.Status.ALL_NOISY not in status
    assert noted["split_fallback"] and (noted["p_clean"] == 0.5).all()
    assert torch.equal(clean, torch.from_numpy(x).argsort(stable=True).argsort() < 2500)


def test_a_fit_with_little_noise_is_used(monkeypatch):
    """Its first parameters are in the other order, its means are not: no reason to fall back."""
    draw = np.random.RandomState(0)
    x = np.append(draw.gamma(4, 0.1, 4000), draw.gamma(3, 1, 1000)).astype(np.float32)
    clean, noted = detect(torch.from_numpy(x), 0.5, monkeypatch)
    assert noted["mixture_status"] == int(mixtures.Status.SHAPE) and not noted["split_fallback"]
    assert clean[:4000].float().mean() > 0.85 and clean[4000:].float().mean() < 0.15


def test_every_detection_has_its_threshold_view_and_successor(monkeypatch):
    """gamma1 for D1, gamma2 for D2 and the look after S3; both passes on augmented images; S2
    learns from D1's split, S3 from D2's."""
    said, views_used, learnt_from = [], [], []
    splits = [torch.arange(64) % k == 0 for k in (2, 3, 5)]
    real_detect, real_losses, real_stage = drpl.detect, engine.losses, drpl.semi_supervised

    def noted_detect(net, task, gamma, log, only_looking=False):
        found = real_detect(net, task, gamma, log, only_looking)
        said.append((gamma, only_looking))
        return splits[len(said) - 1].to(found.device)

    def noted_losses(net, task, labels=None, *, view=None):
        assert labels is None, "the measure is taken against the given labels"
        views_used.append(view)
        return real_losses(net, task, labels, view=view)

    def noted_stage(task, s, log, clean, *rest):
        learnt_from.append((rest[-1], clean.clone()))
        return real_stage(task, s, log, clean, *rest)

    monkeypatch.setattr(drpl, "detect", noted_detect)
    monkeypatch.setattr(engine, "losses", noted_losses)
    monkeypatch.setattr(drpl, "semi_supervised", noted_stage)
    task, log = a_task(), Follow()
    drpl.train(task, tiny(gamma1=0.13, gamma2=0.47), log)
    assert said == [(0.13, False), (0.47, False), (0.47, False)]
    assert len(views_used) == 6 and all(v is task.weak for v in views_used)
    assert [name for name, _ in learnt_from] == ["S2 split", "S3 final"]
    given = objectives.one_hot(task.y_given, 10)
    for (_, clean), split, q in zip(learnt_from, splits, (log.kept[5], log.kept[7]), strict=False):
        assert torch.equal(clean, split)
        assert torch.equal((q == given).all(1), split), "these alone keep their given label"


def test_too_few_clean_samples_are_not_trusted(monkeypatch):
    """A sound fit, but a threshold that leaves less than one sample a class: the smaller half."""
    losses, _ = two_heaps()
    clean, noted = detect(losses, -1.0, monkeypatch)
    assert noted["mixture_status"] == 0 and noted["split_fallback"]
    assert torch.equal(clean, losses.argsort(stable=True).argsort() < len(losses) // 2)


def test_the_oracle_replaces_the_split_and_nothing_else(monkeypatch):
    losses, wrong = two_heaps()
    clean, noted = detect(losses, 0.1, monkeypatch, oracle=wrong)
    assert torch.equal(clean, ~wrong) and noted["clean_share"] == (~wrong).float().mean()
    assert torch.equal(noted["p_clean"], 1 - mixtures.fit_betas(losses).posterior(losses))


@pytest.mark.parametrize("clean", [torch.zeros(64, dtype=torch.bool),
                                   torch.ones(64, dtype=torch.bool)])
@pytest.mark.parametrize("switch", [{}, dict(warm_start="intended"), dict(only_clean=True)])
def test_an_empty_and_a_full_clean_set_train(clean, switch):
    task, log = a_task(), Follow()
    net, found = drpl.semi_supervised(task, tiny(**switch), log, clean, 2, (), "S2")
    assert found.dtype == torch.bool and all(p.isfinite().all() for p in net.parameters())
    assert all(x.isfinite() for x in log.got)
    if clean.all():
        assert torch.equal(log.kept[-1], objectives.one_hot(task.y_given, 10))
    else:
        torch.testing.assert_close(log.kept[-1].sum(1), torch.ones(64))


# -------------------------------------------------------------------------------------- switches


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_trains(switch):
    wrong = torch.arange(64) % 2 == 0
    task = a_task(oracle=wrong if switch.get("oracle") else None)
    losses = guards.run("drpl", task, **{**SHORT, **switch})
    assert len(losses) >= 8 and torch.stack(losses).isfinite().all()


def a_truth(task: engine.Task, poison: bool = False) -> Truth:
    """Labels of which every third given one is wrong, and small sets to evaluate on."""
    wrong = torch.arange(len(task)) % 3 == 0
    y_true = torch.where(wrong, (task.y_given + 1) % 10, task.y_given)
    x = task.images[::4]
    return Truth(y_true=y_true.flip(0) if poison else y_true, wrong=~wrong if poison else wrong,
                 x_test=255 - x if poison else x, x_val=x[:0], y_val=y_true[:0],
                 y_test=y_true[::4].flip(0) if poison else y_true[::4],
                 probe=torch.arange(len(task)))


def trained(folder=None, log_class=Recorder, n=48, augment="weak", poison=False, **changes):
    task = a_task(n) if augment == "weak" else plain_task(n)
    log = log_class(task, a_truth(task, poison), folder)
    net = drpl.train(task, tiny(lr=0.05, batch_size=16, **changes), log)
    return torch.cat([p.detach().flatten() for p in net.parameters()]), log


@pytest.mark.parametrize("augment", ["none", "weak"])
def test_tracking_changes_nothing(augment):
    """Also with augmentation, whose draws the extra measures must not use up."""
    plain, log = trained(augment=augment)
    tracked, seen = trained(augment=augment, track=1)
    assert torch.equal(plain, tracked)
    assert [r["test"] for r in log.rows] == [r["test"] for r in seen.rows]
    assert [("auc" in r) for r in log.rows] == [False] * 3 + [True, False, True, False, True]
    assert all("auc" in r and "clean_share" in r for r in seen.rows)
    for e in (3, 5, 7):
        assert log.rows[e]["auc"] == seen.rows[e]["auc"]


def test_the_intended_start_is_the_warmed_up_network_with_a_new_optimiser(monkeypatch):
    """Warm-up on the clean part alone, then pseudo-labels by its eval-mode predictions."""
    visited: list[torch.Tensor] = []
    batches = engine.Task.batches

    def indexed(self, *a, **k):
        for batch in batches(self, *a, **k):
            visited.append(batch[0])
            yield batch

    monkeypatch.setattr(engine.Task, "batches", indexed)
    clean = torch.arange(64) < 30
    task, seen = a_task(weak=views.Identity()), {}

    class Look(Follow):
        def epochs(self, count, net, opt, q, *state, stage):
            for epoch in range(1, count + 1):
                if epoch == 1:
                    seen[stage] = (copy.deepcopy(net), q.clone(), [
                        float(v["momentum_buffer"].abs().sum()) for v in opt.state.values()])
                yield epoch

    s = tiny(warm_start="intended", warm_epochs=2, rho=0.2)
    drpl.semi_supervised(task, s, Look(), clean, 1, (), "S2")
    warm = torch.cat(visited[:2])
    assert len(visited) == 2 + 2 and torch.equal(warm.sort().values,
                                                 torch.arange(30).repeat(2).sort().values)
    net, q, momentum = seen["S2"]
    assert momentum and not any(momentum)
    given = objectives.one_hot(task.y_given, 10)
    assert torch.equal(q[clean], given[clean])
    uniform = (q == 0.1).all(1)
    assert uniform.sum() == int(34 * 0.2)
    free = ~clean & ~uniform
    predicted = engine.outputs(net, task)[0].softmax(1)
    torch.testing.assert_close(q[free], predicted[free])
    fresh, first, _ = seen["S2 warm-up"]
    assert torch.equal(first[clean], given[clean]) and not torch.equal(
        fresh.linear.weight, net.linear.weight)


def test_only_clean_never_visits_the_others(monkeypatch):
    visited: list[torch.Tensor] = []
    batches = engine.Task.batches

    def indexed(self, *a, **k):
        for batch in batches(self, *a, **k):
            visited.append(batch[0])
            yield batch

    monkeypatch.setattr(engine.Task, "batches", indexed)
    clean = torch.arange(64) % 2 == 0
    drpl.semi_supervised(a_task(), tiny(only_clean=True), Follow(), clean, 3, (), "S3")
    assert clean[torch.cat(visited)].all() and len(torch.cat(visited)) == 3 * 32


def test_batches_of_fewer_than_six_are_skipped():
    for n, steps in ((32 + 5, 2), (32 + 6, 4)):
        log = Follow()
        drpl.semi_supervised(a_task(n), tiny(), log, torch.ones(n, dtype=torch.bool), 2, (), "S2")
        assert len(log.got) == steps


# ----------------------------------------------------------------------------------- the truth


def test_the_truth_reaches_it_only_by_the_oracle():
    """Poison: other true labels and another test set; the trained weights stay the same."""
    assert torch.equal(trained(poison=False)[0], trained(poison=True)[0])
    for oracle in (False, True):
        task, truth = lab.prepare(lab.setting("drpl", rate=0.4, max_samples=300, oracle=oracle))
        assert torch.equal(task.oracle, truth.wrong) if oracle else task.oracle is None


# -------------------------------------------------------------------------------------- resume


class Breaks(Recorder):
    """Stops at the given step, or right after the given epoch was saved."""

    at: tuple[str, int] = ("step", 0)

    def loss(self, value):
        super().loss(value)
        self.count = getattr(self, "count", 0) + 1
        if self.at == ("step", self.count):
            raise KeyboardInterrupt

    def _save(self, block, epoch, count, state):
        super()._save(block, epoch, count, state)
        if self.at == ("epoch", len(self.rows)):
            raise KeyboardInterrupt


BREAKS = [("step", 5), ("epoch", 3), ("epoch", 4), ("step", 14), ("epoch", 5), ("epoch", 6),
          ("step", 20), ("epoch", 7), ("epoch", 8)]


@pytest.mark.parametrize("switch", [{}, dict(warm_start="intended"),
                                    dict(only_clean=True), dict(n=53, rho=0.0)])
def test_a_run_killed_inside_or_between_stages_ends_with_the_same_numbers(switch, tmp_path):
    """53 samples leave a last batch that S2 and S3 skip: its labels must survive too."""
    whole, log = trained(**switch)
    for at in BREAKS:
        folder = tmp_path / f"{at[0]}-{at[1]}"
        with pytest.raises(KeyboardInterrupt):
            trained(folder, type("At", (Breaks,), {"at": at}), **switch)
        weights, resumed = trained(folder, **switch)
        assert torch.equal(weights, whole), at
        assert resumed.resumed_at > 0
        names = ("stage", "epoch", "test", "loss", "label_accuracy", "auc", "clean_share")
        for a, b in zip(log.rows, resumed.rows, strict=True):
            assert [a.get(k) for k in names] == [b.get(k) for k in names], at


# -------------------------------------------------------------------------------------- guards


def test_no_hidden_reads_in_any_stage(monkeypatch):
    guards.no_hidden_reads("drpl", monkeypatch, **SHORT)


@pytest.mark.parametrize("switch", [dict(warm_start="intended"), dict(only_clean=True)])
def test_switches_read_the_size_of_the_clean_part_once_a_stage(switch, monkeypatch):
    reads = []
    nonzero = torch.Tensor.nonzero
    monkeypatch.setattr(torch.Tensor, "nonzero",
                        lambda self, **k: reads.append(len(self)) or nonzero(self, **k))
    guards.run("drpl", a_task(), **{**SHORT, **switch})
    assert reads == [64, 64]


def test_no_loop_over_samples_in_any_stage():
    guards.no_loop_over_samples("drpl", **SHORT)


def test_compiled_and_eager_agree(monkeypatch):
    guards.compiled_agrees("drpl", monkeypatch, rtol=1e-4, **SHORT)


def test_digits_at_60_percent_end_above_cross_entropy():
    """The claim of the smoke budget, in the recorded runs: ten points above the last epoch."""
    ends = {m: [r.last() for r in runs.find(
        paths.home() / "data" / "runs", method=m, dataset="digits", noise="symmetric", rate=0.6,
        budget="smoke", warm_start=("released", None), oracle=(False, None),
        only_clean=(False, None))] for m in ("cross_entropy", "drpl")}
    assert len(ends["drpl"]) >= 3 and len(ends["cross_entropy"]) >= 3
    assert min(ends["drpl"]) > max(ends["cross_entropy"]) + 0.10, ends
