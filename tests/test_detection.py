"""What is read of single samples, epoch by epoch, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from noisylabels import lab
from noisylabels.evidence import detection
from noisylabels.training import runs
from noisylabels.training.recorder import Losses


def a_run(signals, losses_of=(1, 2)):
    s = lab.setting("cross_entropy", "cifar10", "symmetric", 0.4, "desk")
    info = {"status": "finished", "losses_of": list(losses_of), "_signals": signals}
    return runs.Run(s, info, {"test": np.array([0.5, 0.6])})


@pytest.fixture
def kept():
    rng = np.random.default_rng(0)
    n = 300
    wrong = rng.random(n) < 0.4
    true = rng.integers(0, 5, n)
    given = np.where(wrong, (true + 1 + rng.integers(0, 4, n)) % 5, true)
    centres = rng.normal(size=(5, 10)) * 25
    points = np.clip(np.round(centres[true] + rng.normal(size=(n, 10)) * 4 + 128), 0, 255)
    return {"losses": rng.integers(0, 256, (2, n)).astype(np.uint8), "wrong": wrong,
            "given": given.astype(np.int16), "index": np.arange(n, dtype=np.int32),
            "features-2": points.T.astype(np.uint8), "features-1": np.full((10, n), 7, np.uint8)}


def test_losses_and_their_auc_are_scikit_learns(kept):
    run = a_run(kept, (3, 7))
    epochs, losses = detection.loss_history(run)
    assert epochs.tolist() == [3, 7] and losses.dtype == np.float32
    low, high = math.log(1e-4), math.log(20)
    np.testing.assert_allclose(
        losses, np.exp(low + kept["losses"] * (high - low) / 255), rtol=1e-5)
    epochs, auc = detection.auc_of_losses(run)
    expected = [roc_auc_score(kept["wrong"], row) for row in kept["losses"]]
    np.testing.assert_allclose(auc, expected, atol=1e-6)
    assert Losses.read(np.array([192], np.uint8))[0] == pytest.approx(0.981, abs=1e-3)


def test_votes_are_those_of_scikit_learn(kept):
    found = detection.features(a_run(kept))
    assert list(found) == [1, 2] and found[2].shape == (300, 10)
    assert (found[1] == 7 - 128).all()
    votes = detection.votes(a_run(kept), k=7)[2]
    given, wrong = kept["given"], kept["wrong"]
    said = np.empty(300, int)
    for i in range(300):  # each sample's neighbours among the others
        others = np.arange(300) != i
        said[i] = KNeighborsClassifier(7, algorithm="brute").fit(
            found[2][others], given[others]).predict(found[2][i:i + 1])[0]
    assert votes["right"] == pytest.approx((said == given)[~wrong].mean(), abs=0.011)
    assert votes["wrong"] == pytest.approx((said == given)[wrong].mean(), abs=0.011)
    assert votes["right"] > 0.9 > 0.1 > votes["wrong"]


def test_a_run_that_kept_nothing_is_refused_in_words(kept):
    with pytest.raises(ValueError, match="kept no losses of all epochs; runs of the desk budget"):
        detection.loss_history(a_run({"wrong": kept["wrong"]}))
    assert detection.features(a_run({"wrong": kept["wrong"]})) == {}
    for signals in ({}, {"wrong": kept["wrong"], "given": kept["given"]},
                    {"features-1": kept["features-1"], "wrong": kept["wrong"]}):
        with pytest.raises(ValueError, match="kept no features with the given labels; runs of "
                           "cross entropy at the desk budget do"):
            detection.votes(a_run(signals))
    for found in (detection.auc_of_losses, detection.votes):
        with pytest.raises(ValueError, match="kept no signals that say which labels are wrong"):
            found(a_run({k: v for k, v in kept.items() if k != "wrong"}))


def test_losses_of_other_epochs_than_the_record_names_are_refused(kept):
    with pytest.raises(ValueError, match=r"do not fit its record: losses must hold a byte .* each "
                       r"of the 3 epochs of losses_of, not uint8 of shape \(2, 300\)"):
        detection.auc_of_losses(a_run(kept, (1, 2, 3)))


def test_without_wrong_labels_there_is_no_auc(kept):
    _, auc = detection.auc_of_losses(a_run({**kept, "wrong": np.zeros(300, bool)}))
    assert auc.shape == (2,) and np.isnan(auc).all()


def test_quality_is_scikit_learns_also_with_ties():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    wrong = rng.random(2_000) < 0.3
    for score in (rng.normal(size=2_000) + wrong, np.round(rng.normal(size=2_000) + wrong),
                  np.zeros(2_000)):
        got = detection.quality(score, wrong, draws=50)
        assert got.auroc[0] == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)
        assert got.average_precision[0] == pytest.approx(
            average_precision_score(wrong, score), abs=1e-12)
        for value, low, high in (got.auroc, got.average_precision, got.at_100, got.at_errors):
            assert low <= value + 0.03 and value - 0.03 <= high and low <= high
    assert got.auroc[0] == 0.5 and got.at_100[0] == pytest.approx(wrong.mean())


def test_quality_at_k_by_hand():
    wrong = np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)
    got = detection.quality(np.array([9, 8, 7, 6, 5, 4, 3, 2.0]), wrong, draws=10)
    assert got.at_errors[0] == pytest.approx(2 / 3)
    assert got.at_100[0] == pytest.approx(3 / 8), "fewer than a hundred: all"
    tied = detection.quality(np.array([9, 7, 7, 7, 1, 1, 1, 1.0]), wrong, draws=10)
    # one sure, then two of three equal ones, of which two are wrong
    assert tied.at_errors[0] == pytest.approx((1 + 2 * 2 / 3) / 3)
    nan = detection.quality(np.array([np.nan, 1, 0, 0, 0, 0, 0, 0]), wrong, draws=10)
    assert nan.auroc[0] == pytest.approx(roc_auc_score(wrong, [2, 1, 0, 0, 0, 0, 0, 0]))
    with pytest.raises(ValueError, match="some labels are wrong and some right"):
        detection.quality(np.zeros(3), np.zeros(3, bool))
    with pytest.raises(ValueError, match="2 scores do not fit 3 labels"):
        detection.quality(np.zeros(2), np.array([1, 0, 1], bool))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """60 made-up sets: the area's true value lies in the 90 % interval in most of them."""
    from math import erf

    truth, hits = 0.5 * (1 + erf(1 / 2)), 0  # two normals one apart
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wrong = np.arange(400) < 150
        got = detection.quality(rng.normal(size=400) + wrong, wrong, draws=100, seed=seed)
        hits += got.auroc[1] <= truth <= got.auroc[2]
    assert 46 <= hits <= 60  # binomial(60, 0.9): below 46 in less than one of a thousand


def test_scores_name_all_that_a_run_kept(kept):
    names = detection.scores(a_run({**kept, "p_clean": np.full(300, 0.25)}, (3, 7)))
    assert list(names) == ["loss, epoch 7", "mean loss", "p(clean)", "neighbours, epoch 2"]
    _, losses = detection.loss_history(a_run(kept, (3, 7)))
    np.testing.assert_allclose(names["mean loss"], losses.mean(0))
    assert (names["p(clean)"] == 0.75).all()
    given = kept["given"]
    near = KNeighborsClassifier(20).fit(kept["features-2"].T.astype(float), given)
    index = near.kneighbors(return_distance=False)  # without the point itself
    expected = (given[index] != given[:, None]).mean(1)
    assert np.abs(names["neighbours, epoch 2"] - expected).mean() < 0.01, "equal distances"
    old = {"wrong": kept["wrong"], "loss-2": np.zeros(300), "loss-10": np.ones(300),
           "p_clean_1": np.full(300, 0.2), "p_clean_2": np.full(300, 0.6)}
    names = detection.scores(a_run(old))
    assert list(names) == ["loss, epoch 2", "loss, epoch 10", "p(clean)"]
    np.testing.assert_allclose(names["p(clean)"], 0.6)
    assert detection.scores(a_run({"wrong": kept["wrong"]})) == {}
