"""MixNN: the unit checks of the released algorithm, every switch, every phase."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import guards
from guards import a_task
from noisylabels import lab
from noisylabels.kernels import mixtures, neighbours, objectives, views
from noisylabels.methods import mixnn
from noisylabels.methods.mixnn import Settings, shares
from noisylabels.training import engine
from noisylabels.training.recorder import Recorder

PHASES = dict(epochs=4, warm_up=2, start_epoch=3, ema_period=2)  # A, B, B*, C


@pytest.mark.parametrize("own, near, lam", [  # the table of (E8)
    (0.0, 0.0, 1.0), (0.0, 1.0, 1e-10), (1.0, 0.0, 1.0), (1.0, 1.0, 0.5), (0.1, 0.9, 0.1)])
def test_weights_and_their_corner_cases(own, near, lam):
    w = torch.tensor([[own, near]], dtype=torch.float64)
    got = shares(w[:, 0], w[:, 1:])
    assert got[0, 0].item() == pytest.approx(lam, abs=2e-10)
    assert got.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_weights_of_several_neighbours():
    got = shares(torch.tensor([0.5]), torch.tensor([[0.5, 1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.25, 0.25, 0.5, 0.0]]))
    w = torch.rand(50, 4)
    got = shares(w[:, 0], w[:, 1:])
    torch.testing.assert_close(got.sum(1), torch.ones(50))
    assert got.min() >= 0 and got.max() <= 1


class Follow(guards.Losses):
    """Keeps the soft targets after every epoch."""

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def targets(self, values, suffix=""):
        self.kept.append(values.clone())


def preset(monkeypatch, w=None):
    """Put w (N,) in place of the mixture's answer; returns the losses that it was asked about."""
    asked = []

    def fit(losses, **_):
        asked.append(losses.clone())
        p = torch.full_like(losses, 0.5) if w is None else w
        return mixtures.GaussianMixture(*[p] * 3, p, p, p, torch.zeros((), dtype=torch.int64))

    monkeypatch.setattr(mixtures, "fit_gaussians", fit)
    return asked


def log_softmax(z):
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def test_phase_a_takes_plain_images_in_fixed_order():
    """Two steps of cross entropy by hand, although the usual view crops and order is shuffled."""
    s, log = Settings(network="tiny", batch_size=32, **{**PHASES, "epochs": 1}), guards.Losses()
    mixnn.train(a_task(), s, log)
    task = a_task()
    net, opt = engine.start(s, task)
    engine.set_lr(opt, s.lr_at(1))
    for k, got in enumerate(log.got):
        part = slice(32 * k, 32 * k + 32)
        loss = objectives.cross_entropy(net(task.normalise(task.images[part])), task.y_given[part])
        assert got.item() == pytest.approx(loss.item(), rel=1e-5), k
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert len(log.got) == 2


def test_one_step_of_phase_c_by_hand(monkeypatch):
    """Weights that stand still: B* in epoch 1, C in epoch 2, (E3), (E4), (E8), (E9) and (E11)."""
    w = torch.rand(40, generator=torch.Generator().manual_seed(3))
    preset(monkeypatch, w)
    s = Settings(network="tiny", batch_size=40, neighbours=2, epochs=2, warm_up=1, start_epoch=1,
                 ema_period=1, momentum_target=0.7, lr=0.0, lr_floor=0.0, weight_decay=0.0)
    log = Follow()
    mixnn.train(a_task(40, weak=views.Identity()), s, log)

    task = a_task(40)
    net = engine.start(s, task)[0].double()
    x = task.normalise(task.images).double()
    with torch.no_grad():
        h = net.features(x)
        p = np.exp(log_softmax(net.head(h).numpy()))
    y = np.eye(10)[task.y_given.numpy()]
    t1 = 0.7 * y + 0.3 * p
    t = 0.7 * t1 + 0.3 * p  # the update comes before the loss
    np.testing.assert_allclose(log.kept[0], t1, atol=1e-6)
    np.testing.assert_allclose(log.kept[1], t, atol=1e-6)

    def closest(values):
        far = np.square(values[:, None] - values[None]).sum(2) + 1e9 * np.eye(40)
        return far.argsort(1)[:, :2]

    j = closest(h.numpy())
    assert (j != closest(x.flatten(1).numpy())).mean() > 0.5, "pixels have other neighbours"
    known = np.concatenate([w[:, None], w.numpy()[j]], 1)
    share = known / known.sum(1, keepdims=True)
    three = torch.stack([x, x[j[:, 0]], x[j[:, 1]]], 1)
    mixed = (torch.tensor(share)[:, :, None, None, None] * three).sum(1)
    with torch.no_grad():
        said = log_softmax(net(mixed).numpy())
    by_hand = -sum(share[:, k] * (t[i] * said).sum(1)  # the weighted sum of three soft losses
                   for k, i in enumerate((np.arange(40), j[:, 0], j[:, 1]))).mean()
    assert log.got[1].item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("gmm_label", ["corrected", "given"])
@pytest.mark.parametrize("history", [1, 2, 5])
def test_losses_that_the_mixture_sees(monkeypatch, gmm_label, history):
    """(E5): scaled losses against the label asked for, averaged over the epochs there are."""
    asked, seen, outputs = preset(monkeypatch), [], engine.outputs

    def watched(*a, **k):
        out = outputs(*a, **k)
        seen.append(out[0].double())
        return out

    monkeypatch.setattr(engine, "outputs", watched)
    task, log = a_task(40), Follow()
    mixnn.train(task, Settings(network="tiny", batch_size=20, epochs=6, warm_up=2, start_epoch=3,
                               ema_period=1, momentum_target=0.1, gmm_label=gmm_label,
                               loss_history=history), log)
    labels = [log.kept[e - 2].argmax(1) for e in range(2, 7)]  # as the last epoch left them
    assert any(not torch.equal(v, task.y_given) for v in labels), "some labels are corrected"
    if gmm_label == "given":
        labels = [task.y_given] * 5
    each = [-z.log_softmax(1)[torch.arange(40), v] for z, v in zip(seen, labels, strict=True)]
    each = [(v - v.min()) / (v.max() - v.min()) for v in each]
    for e, got in enumerate(asked):
        mean = torch.stack(each[max(0, e + 1 - history):e + 1]).mean(0)
        torch.testing.assert_close(got.double(), mean, rtol=1e-4, atol=1e-5)
    assert len(asked) == 5


@pytest.mark.parametrize("samples", [4, 64])
def test_random_partners_of_the_whole_set(monkeypatch, samples):
    """Drawn anew each epoch: never the sample itself, none twice, all of them in the end."""
    met, step = [], engine.step

    def watched(*a):
        def decorate(loss_of):
            made = step(*a)(loss_of)
            return lambda i, *rest: met.append((i, *rest[1:2])) or made(i, *rest)
        return decorate

    monkeypatch.setattr(engine, "step", watched)
    monkeypatch.setattr(neighbours, "nearest", None)  # nobody is searched for
    guards.run("mixnn", a_task(samples), pool="dataset", partner="random", neighbours=3,
               **{**PHASES, "epochs": 7})
    met = [(i, *j) for i, *j in met if j]  # phase C hands over partners
    chosen = torch.zeros(4, samples, 3, dtype=torch.int64)
    for k, (i, j) in enumerate(met):
        chosen[k * 4 // len(met), i] = j
    assert not (chosen == torch.arange(samples)[:, None]).any()
    assert all(len(set(row)) == 3 for row in chosen.view(-1, 3).tolist())
    assert not torch.equal(chosen[0], chosen[1])
    for epoch in chosen:  # as in a random circle: each is somebody's partner three times
        assert torch.equal(epoch.flatten().bincount(minlength=samples),
                           torch.full((samples,), 3))


def test_random_partners_of_the_whole_set_train_otherwise_than_nearest_ones():
    common = dict(pool="dataset", **PHASES)
    near, other = (torch.stack(guards.run("mixnn", a_task(), partner=p, **common))
                   for p in ("nearest", "random"))
    assert torch.equal(near[:6], other[:6]) and not torch.equal(near[6:], other[6:])


def test_published_timeline_of_the_targets():
    """300 epochs as published: 25 updates, none before 60, no label flips before epoch 120."""
    s = Settings(network="tiny", batch_size=40)
    assert (s.epochs, s.start_epoch, s.ema_period, s.momentum_target) == (300, 60, 10, 0.9)
    task, log = a_task(40), Follow()
    mixnn.train(task, s, log)
    given = objectives.one_hot(task.y_given, 10).float()
    changed = [e for e in range(1, 301) if not torch.equal(
        log.kept[e - 1], log.kept[e - 2] if e > 1 else given)]
    assert changed == list(range(60, 301, 10)) and len(changed) == 25
    assert all(torch.equal(t, given) for t in log.kept[:59])
    flips = [(t.argmax(1) != task.y_given).sum().item() for t in log.kept]
    assert sum(flips[:119]) == 0
    torch.testing.assert_close(log.kept[-1].sum(1), torch.ones(40))
    at_given = log.kept[-1].gather(1, task.y_given[:, None])
    assert at_given.min() >= 0.9**25 - 1e-6, "0.072 of the given label is always left"


@pytest.mark.parametrize("switch", [
    {}, dict(pool="dataset"), dict(pool="dataset", backend="hnsw"), dict(neighbours=3),
    dict(pool="dataset", neighbours=2), dict(start_loss="ce"), dict(start_mix="none"),
    dict(gmm_label="given"), dict(loss_history=3), dict(weights="equal"), dict(weights="binary"),
    dict(targets="frozen"), dict(partner="random"), dict(ema_period=1),
    dict(pool="dataset", partner="random", neighbours=2),
    dict(pool="dataset", start_loss="ce", neighbours=2, weights="equal")])
def test_every_switch_trains(switch):
    if switch.get("backend") == "hnsw":
        pytest.importorskip("hnswlib")
    losses = guards.run("mixnn", a_task(), **{**PHASES, **switch})
    assert len(losses) == 8 and torch.stack(losses).isfinite().all()


def test_switches_change_what_they_name_and_nothing_before():
    """Losses of A and B are the same for all phase-C switches; those of C differ."""
    base = torch.stack(guards.run("mixnn", a_task(), **PHASES))
    for switch in (dict(neighbours=2), dict(weights="equal"), dict(partner="random"),
                   dict(pool="dataset"), dict(loss_history=3)):
        other = torch.stack(guards.run("mixnn", a_task(), **{**PHASES, **switch}))
        assert torch.equal(base[:4], other[:4]), switch
        assert not torch.equal(base[6:], other[6:]), switch
    flips = {**PHASES, "ema_period": 1, "momentum_target": 0.1}  # labels are corrected in B*
    base, given = (torch.stack(guards.run("mixnn", a_task(), **flips, gmm_label=which))
                   for which in ("corrected", "given"))
    assert torch.equal(base[:6], given[:6]) and not torch.equal(base[6:], given[6:])


def test_frozen_targets_stay_the_given_labels():
    log, task = Follow(), a_task()
    mixnn.train(task, Settings(network="tiny", batch_size=32, targets="frozen", **PHASES), log)
    assert all(torch.equal(t, objectives.one_hot(task.y_given, 10).float()) for t in log.kept)


def test_hnsw_and_exact_choose_nearly_the_same():
    pytest.importorskip("hnswlib")
    task = a_task(400)
    net, _ = engine.start(Settings(network="tiny"), task)
    h = engine.outputs(net, task, features=True)[1]
    exact, close = (neighbours.nearest(h, 3, backend=b)[0] for b in ("exact", "hnsw"))
    assert (exact[:, :, None] == close[:, None, :]).any(2).float().mean() > 0.97
    assert (exact == torch.arange(400)[:, None]).sum() == 0


def test_oracle_weights_beat_equal_ones(monkeypatch):
    """With w = true cleanliness and the whole set as pool, accuracy beats w = 0.5 throughout."""
    found = {}
    for name in ("oracle", "half"):
        s = lab.setting("mixnn", rate=0.6, pool="dataset", start_loss="ce", targets="frozen",
                        epochs=12)
        task, truth = lab.prepare(s)
        right = (~truth.wrong).float()

        def fit(losses, right=right, name=name, **_):
            p = right if name == "oracle" else torch.full_like(right, 0.5)
            return mixtures.GaussianMixture(*[p] * 3, p, p, p, torch.zeros((), dtype=torch.int64))

        monkeypatch.setattr(mixtures, "fit_gaussians", fit)
        log = Recorder(task, truth)
        mixnn.train(task, lab.settings_of(s), log)
        found[name] = log.rows[-1]["test"]
    assert found["oracle"] > found["half"] + 0.03, found


@pytest.mark.parametrize("bad, words", [
    (dict(pool="set"), "unknown pool 'set'; allowed: batch, dataset"),
    (dict(weights="gm"), "allowed: gmm, equal, binary"),
    (dict(neighbours=0), r"in \[1, 1000\], not 0"),
    (dict(start_loss="mae"), "allowed: neg_prob, ce"),
    (dict(warm_up=30, start_epoch=29), r"start_epoch \(29\) must be at least warm_up \(30\)")])
def test_a_bad_setting_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Settings(**bad)


@pytest.mark.parametrize("partner", ["nearest", "random"])
@pytest.mark.parametrize("pool, samples, k, words", [
    ("batch", 37, 5, "5 neighbours need a pool of more than 5 samples, but the last batch has 5"),
    ("batch", 70, 6, "but the last batch has 6"), ("batch", 64, 32, "but the last batch has 32"),
    ("batch", 20, 20, "but the last batch has 20"),
    ("dataset", 33, 33, "but the training set has 33; change neighbours or batch_size")])
def test_a_pool_without_enough_others_is_refused_at_once(pool, samples, k, words, partner):
    common = dict(pool=pool, partner=partner, **PHASES)
    log, s = guards.Losses(), Settings(network="tiny", batch_size=32, neighbours=k, **common)
    with pytest.raises(ValueError, match=words):
        mixnn.train(a_task(samples), s, log)
    assert not log.got
    if samples > 33:  # one sample more, or no phase C, is fine
        guards.run("mixnn", a_task(samples), **{**common, "epochs": 3}, neighbours=k)
        if k < 32:
            guards.run("mixnn", a_task(samples + 1), **common, neighbours=k)


def test_published_settings_are_allowed_and_so_is_an_early_start():
    for dataset in ("cifar10", "cifar100"):
        assert lab.setting("mixnn", dataset, budget="paper").options["start_epoch"] == 60
    assert Settings(start_epoch=20).warm_up == 10  # of the sensitivity claim
    assert Settings(start_epoch=10, warm_up=10)


def test_published_and_scaled_settings():
    assert mixnn.published("cifar100", "symmetric", 0.4) == {"warm_up": 30, "loss_history": 1}
    assert mixnn.published("cifar10", "symmetric", 0.8) == {"warm_up": 10, "loss_history": 5}
    for budget in ("smoke", "laptop", "fast"):
        s = lab.settings_of(lab.setting(
            "mixnn", "digits" if budget == "smoke" else "cifar100", "symmetric", 0.4, budget))
        assert s.schedule == "restarts" and s.ema_period == s.period == s.start_epoch
        assert s.epochs % s.period == 0, "the last epoch ends a cycle"
        assert s.momentum_target**2 < 0.5 < s.momentum_target, "labels can flip after two updates"


def test_no_hidden_reads_in_any_phase(monkeypatch):
    guards.no_hidden_reads("mixnn", monkeypatch, **PHASES)


def test_no_loop_over_samples():
    guards.no_loop_over_samples("mixnn", **PHASES)


def test_compiled_and_eager_agree(monkeypatch):
    guards.compiled_agrees("mixnn", monkeypatch, rtol=1e-4, **PHASES)
