"""MixNN: the unit checks of the released algorithm, every switch, every phase."""

from __future__ import annotations

import pytest
import torch

import guards
from guards import a_task
from noisylabels import engine, lab, mixtures, neighbours, objectives
from noisylabels.methods import mixnn
from noisylabels.methods.mixnn import Settings, shares

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


def test_mixed_loss_is_the_weighted_sum_of_two():
    z, lam = torch.randn(8, 5), torch.rand(8, 1)
    a, b = torch.rand(8, 5).softmax(1), torch.rand(8, 5).softmax(1)
    whole = objectives.soft_cross_entropy(z, lam * a + (1 - lam) * b, "none")
    parts = (lam[:, 0] * objectives.soft_cross_entropy(z, a, "none")
             + (1 - lam[:, 0]) * objectives.soft_cross_entropy(z, b, "none"))
    torch.testing.assert_close(whole, parts)


class Follow(guards.Losses):
    """Keeps the soft targets after every epoch."""

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def targets(self, values, suffix=""):
        self.kept.append(values.clone())


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
                   dict(pool="dataset")):
        other = torch.stack(guards.run("mixnn", a_task(), **{**PHASES, **switch}))
        assert torch.equal(base[:4], other[:4]), switch
        assert not torch.equal(base[6:], other[6:]), switch


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
        log = lab.Recorder(task, truth)
        mixnn.train(task, lab.settings_of(s), log)
        found[name] = log.rows[-1]["test"]
    assert found["oracle"] > found["half"] + 0.03, found


@pytest.mark.parametrize("bad, words", [
    (dict(pool="set"), "unknown pool 'set'; allowed: batch, dataset"),
    (dict(weights="gm"), "allowed: gmm, equal, binary"),
    (dict(neighbours=0), "at least 1"), (dict(start_loss="mae"), "allowed: neg_prob, ce")])
def test_a_bad_setting_is_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        Settings(**bad)


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
