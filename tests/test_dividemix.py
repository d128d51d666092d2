"""DivideMix: its parts by hand, the whole step against a slow one, every branch, exact resume."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import guards
from guards import a_task
from noisylabels import lab, methods, paths
from noisylabels.kernels import mixtures, objectives
from noisylabels.methods import dividemix
from noisylabels.methods.dividemix import Settings
from noisylabels.training import engine, networks, runs
from noisylabels.training.recorder import Recorder

QUICK = dict(epochs=3, warm_up=1, batch_size=16, ramp=2)  # 64 samples: 2 warm-up steps a network


def settings(**changes):
    return Settings(**{"network": "tiny", **QUICK, **changes})


class Split(guards.Losses):
    """Keeps what is noted."""

    def __init__(self):
        super().__init__()
        self.noted: dict[str, list] = {}

    def note(self, **values):
        for name, value in values.items():
            self.noted.setdefault(name, []).append(value)


# -------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("dataset, noise, rate, lambda_u", [
    ("cifar10", "symmetric", 0.2, 0), ("cifar10", "symmetric", 0.5, 25),
    ("cifar10", "symmetric", 0.8, 25), ("cifar10", "symmetric", 0.9, 50),
    ("cifar10", "asymmetric", 0.4, 0), ("cifar10", "dividemix-asymmetric", 0.4, 0),
    ("cifar100", "symmetric", 0.2, 25), ("cifar100", "symmetric", 0.5, 150),
    ("cifar100", "symmetric", 0.8, 150), ("cifar100", "symmetric", 0.9, 150),
    ("cifar100", "superclass", 0.4, 150), ("cifar10", "human-worse", 1.0, 0),
    ("cifar100", "human-noisy_fine", 1.0, 0)])
def test_settings_by_noise_level(dataset, noise, rate, lambda_u):
    p = dividemix.published(dataset, noise, rate)
    one_way = noise in ("asymmetric", "dividemix-asymmetric", "superclass")
    assert p == {
        "lambda_u": lambda_u, "warm_up": {"cifar10": 10, "cifar100": 30}[dataset],
        "entropy_penalty": one_way, "tau": 0.6 if rate == 0.9 else 0.5,
        "loss_history": 5 if rate == 0.9 else 1}
    s = lab.setting("dividemix", dataset, noise, rate, "paper").options
    assert s["lambda_u"] == lambda_u and s["network"] == "preact18"
    assert [s[k] for k in ("epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule",
                           "temperature", "mix_alpha", "ramp")] == [
        300, 64, 0.02, 0.9, 5e-4, "steps", 0.5, 4.0, 16]
    assert s["milestones"] == (151,)


def test_the_rate_drops_after_150_epochs():
    """The official code counts epochs from 0 and drops from number 150 on."""
    s = lab.settings_of(lab.setting("dividemix", "cifar10", "symmetric", 0.5, "paper"))
    assert [s.lr_at(e) for e in (1, 150, 151, 300)] == pytest.approx([0.02, 0.02, 0.002, 0.002])


@pytest.mark.parametrize("warm_up", [-1, 4])
def test_a_warm_up_longer_than_the_training_is_refused(warm_up):
    with pytest.raises(ValueError, match="warm_up .*must"):
        settings(warm_up=warm_up)
    assert settings(warm_up=3).warm_up == 3


def test_scaled_schedules():
    for budget, epochs in (("smoke", 20), ("laptop", 14), ("fast", 30)):
        data = "digits" if budget == "smoke" else "cifar10"
        s = lab.settings_of(lab.setting("dividemix", data, "symmetric", 0.6, budget))
        assert (s.epochs, s.ramp) == (epochs, epochs // 3) and s.warm_up < epochs / 3


# ------------------------------------------------------------------------------------ co-divide


def test_split_at_the_threshold_by_hand():
    w = torch.tensor([0.9, 0.5, 0.2, 0.51, 0.7, 0.1])
    labelled, unlabelled = dividemix.divide(w, 0.5, 2)
    assert labelled.tolist() == [0, 4, 3] and unlabelled.tolist() == [1, 2, 5]
    assert dividemix.divide(w, 0.6, 2)[0].tolist() == [0, 4]


@pytest.mark.parametrize("w, labelled", [
    (torch.linspace(0.6, 1.0, 10), [9, 8, 7, 6, 5, 4, 3]),  # all above: a batch stays unlabelled
    (torch.linspace(0.0, 0.4, 10), [9, 8, 7]),  # none above: the best batch is labelled
    (torch.full((10,), 0.5), [0, 1, 2])])  # what a mixture that means nothing says
def test_neither_set_is_empty(w, labelled):
    first, rest = dividemix.divide(w, 0.5, 3)
    assert first.tolist() == labelled
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(10))


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_training_with_an_empty_set_goes_on(monkeypatch, w):
    monkeypatch.setattr(dividemix, "clean_probability", lambda net, task, history, seen: (
        torch.full((len(task),), w), torch.zeros((), dtype=torch.int64)))
    log = Split()
    dividemix.train(a_task(), settings(), log)
    assert torch.stack(log.got).isfinite().all()
    assert log.noted["labelled_1"] == [16.0 if w == 0.0 else 48.0] * 2


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="need at least 64 samples, not 40; use a smaller batch"):
        dividemix.train(a_task(40), settings(batch_size=32), guards.Losses())


def test_a_network_trains_on_the_split_of_the_other(monkeypatch):
    """Network 1 calls the even samples right, network 2 the odd ones; both are fitted first."""
    even = (torch.arange(64) % 2 == 0).float()
    order, seen = [], []

    def clean(net, task, history, epoch):
        order.append("fit")
        w = even if order.count("fit") % 2 else 1 - even
        return w, torch.zeros((), dtype=torch.int64)

    def pairs(task, batch, labelled, unlabelled, wanted):
        order.append("train")
        seen.append((labelled % 2).unique().tolist() + (unlabelled % 2).unique().tolist())
        return iter(())

    monkeypatch.setattr(dividemix, "clean_probability", clean)
    monkeypatch.setattr(dividemix, "pairs", pairs)
    dividemix.train(a_task(), settings(), guards.Losses())
    assert order == ["fit", "fit", "train", "train"] * 2
    assert seen == [[1, 0], [0, 1]] * 2, "labelled parity, then unlabelled parity"


def test_an_epoch_is_one_pass_over_the_labelled_set():
    task = a_task(100)
    labelled, unlabelled = torch.arange(70), torch.arange(70, 100)
    batches = list(dividemix.pairs(task, 10, labelled, unlabelled, (task.weak, task.weak)))
    assert len(batches) == 7 and all(len(b) == 6 for b in batches)
    assert torch.cat([b[0] for b in batches]).sort().values.tolist() == list(range(70))
    u = torch.cat([b[3] for b in batches])  # restarts after each pass, shuffled anew
    assert all(u[k:k + 30].sort().values.tolist() == list(range(70, 100)) for k in (0, 30))
    assert not torch.equal(u[:30], u[30:60])
    assert not torch.equal(batches[0][1], batches[0][2]), "two draws of one view"


def test_losses_of_five_epochs_are_averaged(monkeypatch):
    """At 90 % the mixture sees the mean of the scaled losses of the last five epochs."""
    draws = torch.Generator().manual_seed(0)
    raw = torch.rand(8, 64, generator=draws) * torch.arange(1, 9)[:, None]
    fitted = []
    fit = mixtures.fit_gaussians
    monkeypatch.setattr(mixtures, "fit_gaussians", lambda x: fitted.append(x.clone()) or fit(x))
    for length in (1, 5):
        fitted.clear()
        history = torch.zeros(length, 64)
        for epoch in range(8):
            monkeypatch.setattr(engine, "losses", lambda net, task, e=epoch: raw[e])
            dividemix.clean_probability(None, None, history, epoch)
        scaled = (raw - raw.amin(1, keepdim=True)) / (raw.amax(1) - raw.amin(1))[:, None]
        for epoch, x in enumerate(fitted):
            torch.testing.assert_close(x, scaled[max(0, epoch - length + 1):epoch + 1].mean(0))


# --------------------------------------------------------------------------------------- targets


def test_co_refinement_by_hand():
    y = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    p = torch.tensor([[0.2, 0.6, 0.2]] * 3)
    t = dividemix.refine(torch.tensor([1.0, 0.0, 0.5]), y, p, 0.5)
    rows = [[1, 0, 0], [0.04, 0.36, 0.04], [0.36, 0.09, 0.01]]  # squares, before dividing
    for got, row in zip(t.tolist(), rows, strict=True):
        assert got == pytest.approx([v / sum(row) for v in row], abs=1e-6)


def test_the_peers_passes_may_be_merged_and_ones_own_may_not():
    """In evaluation mode a pass over two views at once gives the very predictions of two passes;
    in training mode batch norm would see another batch."""
    nets = [networks.build("tiny", 10, 1, seed=k) for k in (0, 1)]
    draws = torch.Generator().manual_seed(3)
    a, b = torch.randn(16, 1, 8, 8, generator=draws), torch.randn(16, 1, 8, 8, generator=draws) + 1
    for net, same in ((nets[0].train(), False), (nets[1].eval(), True)):
        apart = torch.stack([net(a), net(b)]).softmax(2).mean(0)
        merged = net(torch.cat([a, b])).view(2, 16, 10).softmax(2).mean(0)
        assert torch.allclose(apart, merged, atol=1e-6) == same
        if same:
            torch.testing.assert_close(dividemix.guess([net], [a, b]), apart)


# ------------------------------------------------------------------------------------- the step


def captured(monkeypatch, module, method_train, task, s):
    """The method's `step_for` and views, taken out before anything is trained."""
    taken = {}

    def co_train(task, s, log, started, step_for, wanted, state=()):
        taken.update(step_for=step_for, wanted=wanted, started=started, state=state)
        return started[0][0]

    monkeypatch.setattr(dividemix, "co_train", co_train)
    method_train(task, s, guards.Losses())
    return taken


def test_one_step_against_a_slow_one(monkeypatch):
    """The loss of a step, recomputed sample by sample in plain Python."""
    s, task, b = settings(batch_size=8), a_task(), 8
    taken = captured(monkeypatch, dividemix, dividemix.train, task, s)
    (net, optimiser), (peer, _) = taken["started"]
    index, rest = torch.arange(b), torch.arange(b, 2 * b)
    x1, x2, v1, v2 = (task.look(i) for i in (index, index, rest, rest))
    w = torch.linspace(0.55, 1.0, b)
    y = objectives.one_hot(task.y_given[index], 10).float()
    lambda_u = torch.tensor(25.0)
    step = taken["step_for"](0, [net, peer.eval()], optimiser, lambda_u)

    own, other = (engine.start(s, a_task(), salt=k)[0] for k in (0, 1))  # same seeds, same nets
    other.eval()
    with torch.no_grad():
        p = {k: m(x).softmax(1).tolist() for k, m, x in (
            ("n1", own, v1), ("n2", own, v2), ("m1", other, v1), ("m2", other, v2),
            ("x1", own, x1), ("x2", own, x2))}

    def sharpened(row):
        powers = [v ** (1 / s.temperature) for v in row]
        return [v / sum(powers) for v in powers]

    t_x, t_u = [], []
    for i in range(b):
        t_x.append(sharpened([float(w[i]) * float(y[i, c]) + (1 - float(w[i])) * (
            p["x1"][i][c] + p["x2"][i][c]) / 2 for c in range(10)]))
        t_u.append(sharpened([sum(p[k][i][c] for k in ("n1", "n2", "m1", "m2")) / 4
                              for c in range(10)]))
    images, targets = torch.cat([x1, x2, v1, v2]), t_x + t_x + t_u + t_u
    draws = a_task().rng("dividemix")
    beta = float(objectives.draw_beta(4.0, draws))
    lam, j = max(beta, 1 - beta), torch.randperm(4 * b, generator=draws).tolist()
    z = own(lam * images + (1 - lam) * images[j]).double().tolist()
    l_x = l_u = 0.0
    mean = [0.0] * 10
    for i, row in enumerate(z):
        log_sum = math.log(sum(math.exp(v) for v in row))
        for c in range(10):
            t = lam * targets[i][c] + (1 - lam) * targets[j[i]][c]
            q = math.exp(row[c] - log_sum)
            mean[c] += q / (4 * b)
            if i < 2 * b:
                l_x -= t * (row[c] - log_sum) / (2 * b)
            else:
                l_u += (q - t) ** 2 / (2 * b * 10)
    l_reg = sum(0.1 * math.log(0.1 / m) for m in mean)
    slow = l_x + 25.0 * l_u + l_reg
    assert step(y, w, w, x1, x2, v1, v2).item() == pytest.approx(slow, rel=1e-5)


def test_batch_norm_updates_of_a_step(monkeypatch):
    """Two guessing and two refining passes and the mixed one for a network, none for its peer."""
    s, task = settings(batch_size=8), a_task()
    taken = captured(monkeypatch, dividemix, dividemix.train, task, s)
    (net, optimiser), (peer, _) = taken["started"]
    step = taken["step_for"](0, [net, peer.eval()], optimiser, torch.tensor(1.0))
    before = {k: v.clone() for k, v in peer.state_dict().items()}
    i = torch.arange(8)
    y, w = objectives.one_hot(task.y_given[i], 10).float(), torch.rand(8)
    step(y, w, w, *(task.look(i) for _ in range(4)))
    counts = {int(m.num_batches_tracked) for m in net.modules()
              if isinstance(m, torch.nn.BatchNorm2d)}
    assert counts == {5}
    assert all(torch.equal(v, before[k]) for k, v in peer.state_dict().items())


def test_modes_in_training(monkeypatch):
    """While a network learns it is in training mode and its peer in evaluation mode."""
    modes = []
    real = dividemix.guess

    def guess(nets, seen):
        modes.append([net.training for net in nets])
        return real(nets, seen)

    monkeypatch.setattr(dividemix, "guess", guess)
    guards.run("dividemix", a_task(), **QUICK)
    assert set(map(tuple, modes)) == {(True, False), (True,)}


def test_bfloat16_steps_give_every_weight_a_gradient(monkeypatch):
    """The guesses come first, without gradient: casts cached there must not cut the loss off."""
    s, task = settings(batch_size=8), a_task(precision="bfloat16")
    taken = captured(monkeypatch, dividemix, dividemix.train, task, s)
    (net, optimiser), (peer, _) = taken["started"]
    step = taken["step_for"](0, [net, peer.eval()], optimiser, torch.tensor(25.0))
    i = torch.arange(8)
    step(objectives.one_hot(task.y_given[i], 10).float(), torch.rand(8), torch.rand(8),
         *(task.look(i) for _ in range(4)))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_the_weight_of_the_unlabelled_loss_grows_with_the_fractional_epoch(monkeypatch):
    seen = []
    real = dividemix.mixmatch_loss

    def loss(net, x, t, labelled, lambda_u, s, draws):
        seen.append(float(lambda_u))
        return real(net, x, t, labelled, lambda_u, s, draws)

    monkeypatch.setattr(dividemix, "mixmatch_loss", loss)
    monkeypatch.setattr(dividemix, "divide", lambda w, tau, batch: (
        torch.arange(32), torch.arange(32, 64)))
    guards.run("dividemix", a_task(), epochs=4, warm_up=1, batch_size=8, ramp=2, lambda_u=50.0)
    epoch = [0.0, 6.25, 12.5, 18.75], [25.0, 31.25, 37.5, 43.75], [50.0] * 4
    assert seen == [v for part in epoch for _ in (0, 1) for v in part]


def test_warm_up_on_asymmetric_noise_adds_the_negative_entropy():
    task, plain = a_task(), settings(epochs=1)
    net, _ = engine.start(plain, task)
    (index, x), = [b for b in task.batches(64)]
    p = net(x).softmax(1)
    extra = (p * p.log()).sum(1).mean().item()
    got = [guards.run("dividemix", a_task(), **{**QUICK, "epochs": 1, "batch_size": 32,
                                                "entropy_penalty": bool(on)})[0] for on in (0, 1)]
    assert (got[1] - got[0]).item() == pytest.approx(extra, abs=1e-5)


def test_the_gradient_is_clipped_in_the_warm_up_alone():
    def moved(clip, **stage):
        s = settings(epochs=1, clip=clip, weight_decay=0.0, **stage)
        net, start = dividemix.train(a_task(), s, guards.Losses()), engine.start(s, a_task())[0]
        return max((a - b).abs().max().item() for a, b in zip(
            net.parameters(), start.parameters(), strict=True))

    assert moved(1e-9, warm_up=1) < 1e-8 < 1e-3 < moved(0.0, warm_up=1)
    assert moved(1e-9, warm_up=0) == moved(0.0, warm_up=0) > 1e-3


@pytest.mark.parametrize("switch", [
    {}, dict(entropy_penalty=True, lambda_u=0.0), dict(tau=0.6, loss_history=5), dict(clip=1.0),
    dict(lambda_u=150.0), dict(warm_up=0), dict(ramp=0), dict(mix_alpha=0.5),
    dict(temperature=1.0), dict(schedule="cosine")])
def test_every_switch_trains(switch):
    losses = torch.stack(guards.run("dividemix", a_task(), **{**QUICK, **switch}))
    assert losses.isfinite().all() and len(losses) >= 6


# -------------------------------------------------------------------------------------- guards


def half(w, tau, batch):
    """`divide` without reading a value: the first half is labelled."""
    return torch.arange(len(w) // 2), torch.arange(len(w) // 2, len(w))


def test_nothing_but_the_division_reads_a_value(monkeypatch):
    """One number a network and epoch, the size of the labelled set, is read by design."""
    reads = []
    real = dividemix.divide
    monkeypatch.setattr(dividemix, "divide", lambda *a: reads.append(1) or real(*a))
    guards.run("dividemix", a_task(), **QUICK)
    assert len(reads) == 4
    monkeypatch.setattr(dividemix, "divide", half)
    guards.no_hidden_reads("dividemix", monkeypatch, **QUICK)


def test_no_loop_over_samples(monkeypatch):
    counts = []
    monkeypatch.setattr(dividemix, "divide", half)
    for n in (32, 96):
        task = a_task(n)
        with guards.Count() as count:
            guards.run("dividemix", task, **{**QUICK, "batch_size": n // 4})
        counts.append(count.ops)
    assert counts[0] == counts[1] > 0


def test_compiled_and_eager_agree(monkeypatch):
    monkeypatch.setattr(dividemix, "divide", half)
    guards.compiled_agrees("dividemix", monkeypatch, rtol=1e-4, epochs=2, warm_up=1,
                           batch_size=16)


# -------------------------------------------------------------------------------------- resume


class Killed(Recorder):
    """A recorder that counts steps, and whose process dies at the given one."""

    def __init__(self, *args, at=math.inf):
        super().__init__(*args)
        self.at, self.finished_epochs = at, []

    def loss(self, value):
        self.finished_epochs.append(len(self.rows))
        if len(self.finished_epochs) == self.at:
            raise KeyboardInterrupt
        super().loss(value)


def resumes_exactly(method, folder, **options):
    """Killed inside the second warm-up epoch and inside the second mixed one."""
    module = methods.get(method)
    s = lab.setting(method, rate=0.6, max_samples=200, epochs=4, warm_up=2, batch_size=32,
                    **options)

    def train(where=None, at=math.inf):
        task, truth = lab.prepare(s)
        log = Killed(task, truth, where, at=at)
        net = module.train(task, lab.settings_of(s), log)
        return log, torch.cat([p.detach().flatten() for p in net.parameters()])

    whole, weights = train()
    for done in (1, 3):
        where = folder / str(done)
        with pytest.raises(KeyboardInterrupt):  # at the second step of that epoch
            train(where, at=whole.finished_epochs.index(done) + 2)
        log, again = train(where)
        assert log.resumed_at == done and torch.equal(again, weights)
        for a, b in zip(whole.rows, log.rows, strict=True):
            assert all(a[k] == b[k] or (a[k] != a[k] and b[k] != b[k])
                       for k in a if not k.startswith("seconds")), done
    return whole


def test_a_killed_run_ends_with_the_same_numbers(tmp_path):
    whole = resumes_exactly("dividemix", tmp_path, loss_history=2)
    assert [r["stage"] for r in whole.rows] == ["warm-up"] * 2 + ["co-train"] * 2
    assert {"auc_1", "auc_2", "labelled_1", "status_2"} <= set(whole.rows[-1])


# ------------------------------------------------------------------------------------- it works


def test_recorded_runs_beat_cross_entropy():
    """On digits at 60 %: at least ten points above cross entropy's last epoch, by record."""
    store = paths.runs_dir()
    found = {m: [r for r in runs.find(store, method=m, dataset="digits", noise="symmetric",
                                      rate=0.6, budget="smoke")] for m in (
        "cross_entropy", "dividemix")}
    if not all(found.values()):
        pytest.skip("the digits' runs of DivideMix and cross entropy are not recorded here")
    last = {m: np.mean([r.last() for r in rs]) for m, rs in found.items()}
    assert last["dividemix"] >= last["cross_entropy"] + 0.10, last
