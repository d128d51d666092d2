"""Rules that look at one run, and the measures that two are compared in, by known numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noisylabels.evidence import rules
from noisylabels.evidence.published import Check
from noisylabels.training.recorder import Losses
from test_figures import made_up


def with_losses(rows, wrong, seed=0, test=None, **signals):
    """A run of the desk budget that kept the losses (E, N) of its epochs 1, 2, ..."""
    history = Losses()
    for row in rows:
        history.add(torch.as_tensor(row, dtype=torch.float32))
    kept = {"losses": history.kept(len(wrong)), "wrong": np.asarray(wrong, bool), **signals}
    return made_up(np.linspace(0.3, 0.6, len(rows)) if test is None else test, seed=seed,
                   dataset="cifar10", budget="desk",
                   info={"_signals": kept, "losses_of": list(range(1, len(rows) + 1))})


def with_columns(stages=None, method="drpl", **columns):
    run = made_up([0.5] * max(map(len, columns.values())), method=method, dataset="cifar10",
                  budget="desk")
    run.epochs.update({k: np.asarray(v, float) for k, v in columns.items()})
    if stages:
        run.epochs["stage"] = np.array(stages)
    return run


def answer(rule, *found, method="cross_entropy"):
    check = Check("c", rule, method, "", "cifar10", "symmetric", "0.6", "desk", "")
    of = {(s,) * 3: run for s, run in enumerate(found)}
    (got,) = rules.outcomes(check, {(method, "cifar10", "symmetric", 0.6): of}, "desk")
    return got


WRONG = [False] * 6 + [True] * 4


def rows(*pairs):
    """Losses of six right and four wrong labels, one pair an epoch."""
    return [[right] * 6 + [wrong] * 4 for right, wrong in pairs]


def test_wrong_labels_pull_harder_at_the_best_epoch():
    best = [0.3, 0.9, 0.5]  # of the test accuracy: the second epoch counts
    far = with_losses(rows((2, 2), (0.1, 3), (0.1, 0.1)), WRONG, test=best)
    ratio = (1 - math.exp(-3)) / (1 - math.exp(-0.1))  # 9.98
    assert rules._pull(far) == pytest.approx(ratio, rel=0.03), "losses are kept to 2.5 %"
    near = with_losses(rows((2, 2), (0.5, 0.7), (0.1, 9)), WRONG, test=best)
    assert rules._pull(near) == pytest.approx(0.5034 / 0.3935, rel=0.03)
    assert answer("outweighs", far, far, far)[:2] == (True, True)
    assert answer("outweighs", near, near, near)[:2] == (True, False)
    assert answer("outweighs", far, near, far)[:2] == (True, None)
    assert answer("outweighs", far, far, made_up(dataset="cifar10", budget="desk"))[:2] == (
        False, None), "what kept no losses counts neither way"


def test_two_heaps_of_losses_lie_apart_by_ashmans_d():
    draws = np.random.default_rng(0)
    low, high = draws.normal(1.0, 0.1, 600), draws.normal(2.0, 0.1, 400)
    found = rules._heaps(with_losses([np.r_[low, high]] * 12, [False] * 600 + [True] * 400))
    assert found == pytest.approx(10, rel=0.1)  # sqrt(2) * 1 / sqrt(2 * 0.01)
    one = rules._heaps(with_losses([draws.normal(2.0, 0.3, 1000)] * 12, [False, True] * 500))
    assert one < rules.APART
    assert rules._heaps(with_losses([np.full(20, 1.0)] * 12, [False, True] * 10)) == 0
    assert math.isnan(rules._heaps(made_up()))


def test_the_neighbours_gather_by_the_true_class():
    """Two blobs of 60 images; ten of each are given the other blob's class."""
    place = np.r_[np.full(60, -100), np.full(60, 100)]
    spread = np.random.default_rng(0).integers(-20, 20, (10, 120))
    spread[0] = place
    true = (place > 0).astype(np.int16)
    wrong = np.arange(120) % 6 == 0
    signals = {f"features-{e}": (spread + 128).astype(np.uint8) for e in (6, 64)}
    given = np.where(wrong, 1 - true, true)
    run = with_losses([[1.0] * 120], wrong, given=given, **signals)
    assert rules._vote(run) == {"right": 1.0, "wrong": 0.0}
    assert answer("gathers", run, run, run)[:2] == (True, True)
    learnt = with_losses([[1.0] * 120], np.zeros(120, bool), given=given,
                         **signals)  # no wrong label: nothing to say
    assert answer("gathers", learnt, learnt, learnt)[:2] == (False, None)
    assert rules._purity(run) == 1.0 and math.isnan(rules._purity(made_up()))


@pytest.mark.parametrize(("rule", "columns", "holds"), [
    ("flips_late", {"label_accuracy": [0.6] * 119 + [0.7] * 5}, True),
    ("flips_late", {"label_accuracy": [0.6] * 118 + [0.7] * 5}, False),
    ("selects", {"p_right": [0.1, 0.9], "p_wrong": [0.5, 0.6]}, True),
    ("selects", {"p_right": [0.9, 0.5], "p_wrong": [0.1, 0.6]}, False),
    ("half_way", {"test": [0.1, 0.795, 0.2, 0.80]}, True),
    ("half_way", {"test": [0.1, 0.785, 0.2, 0.80]}, False),
    ("falls", {"test": [0.1, 0.9, 0.2, 0.80]}, True),
    ("falls", {"test": [0.80, 0.80, 0.80, 0.80]}, False),
])
def test_rules_of_one_run_by_their_columns(rule, columns, holds):
    run = with_columns(**columns)
    assert answer(rule, run, run, run, method="drpl")[:2] == (True, holds)


@pytest.mark.parametrize("rule", ["flips_late", "selects", "exposes", "sharpens"])
def test_what_was_never_noted_decides_nothing(rule):
    run = with_columns(test=[0.5, 0.6])
    got = answer(rule, run, run, run, method="drpl")
    assert (got.done, got.holds) == (False, None) and "not noted" in got.words


@pytest.mark.parametrize(("first", "second", "exposes", "sharpens"), [
    (0.8, 0.9, True, True), (0.8, 0.7, True, False), (0.74, 0.8, False, True)])
def test_stages_of_drpl(first, second, exposes, sharpens):
    run = with_columns(["S1 relabel", "S1 relabel", "S2 split warm-up", "S2 split", "S3 final"],
                       auc=[math.nan, first, 0.1, second, 0.99])
    assert answer("exposes", run, run, run, method="drpl")[:2] == (True, exposes)
    assert answer("sharpens", run, run, run, method="drpl")[:2] == (True, sharpens)
    assert rules.MEASURES["auc exposed"][0](run) == first


def test_measures_of_losses_and_labels():
    # epoch 10 of twelve: half of the pairs are in order
    early = rows(*[(1.0, 2.0)] * 9, (1.0, 1.0), *[(1.0, 2.0)] * 2)
    run = with_losses(early, WRONG)
    assert rules.MEASURES["auc early"][0](run) == 0.5
    assert rules.MEASURES["auc exposed"][0](run) == 1.0
    assert all(math.isnan(rules.MEASURES[m][0](made_up()))
               for m in ("auc early", "auc exposed", "purity", "labels kept"))
    ieg = with_columns(method="ieg", p_right=[0.2, 0.9], p_wrong=[0.2, 0.5])
    assert rules.MEASURES["labels kept"][0](ieg) == pytest.approx(0.46 * 0.9 + 0.54 * 0.5)


def test_a_measure_taken_while_training_needs_no_equal_training():
    one = {(s,) * 3: with_losses(rows((1, 2 + s), (1, 2)), WRONG, seed=s) for s in range(3)}
    other = {(s,) * 3: with_losses(rows((1, 1), (1, 1), (1, 1)), WRONG, seed=s)
             for s in range(3)}
    got = rules.compare(one, other, measure="auc exposed")
    assert got[:2] == (True, True)
    assert got.words.startswith("yes, +0.500 in area, 95\u00a0% interval +0.500 to +0.500, n = 3")
    assert rules.compare(one, other).barred == "unequal training, 2 epochs against 3"
    other[1, 1, 1] = made_up(dataset="cifar10", budget="desk", seed=1)  # kept no losses
    assert not rules.compare(one, other, measure="auc exposed").done
