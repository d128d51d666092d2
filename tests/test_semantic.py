"""Semantic noise: labels that a network gave which had seen little."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from noisylabels import lab
from noisylabels.data import datasets
from noisylabels.lab import semantic
from noisylabels.training import runs


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """A training of a few steps, where its quality does not matter."""
    monkeypatch.setattr(semantic, "STEPS", 20)


def test_the_clean_part_is_balanced_seeded_and_never_empty():
    y = torch.tensor([0] * 40 + [1] * 40 + [2] * 3)
    clean = semantic.taught(y, 0.95, 3, seed=0)
    assert torch.bincount(y[clean]).tolist() == [2, 2, 1], "5 % of each class, at least one"
    assert torch.equal(clean, semantic.taught(y, 0.95, 3, seed=0))
    assert not torch.equal(clean, semantic.taught(y, 0.95, 3, seed=1))
    assert semantic.taught(y, 0.0, 3, seed=0).all()
    nested = semantic.taught(y, 0.5, 3, seed=0)
    assert (nested | ~clean).all(), "more clean samples keep the ones before"
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), not 1.0"):
        semantic.taught(y, 1.0, 3, seed=0)
    with pytest.raises(ValueError, match="no sample of class 2"):
        semantic.taught(y[:80], 0.5, 3, seed=0)


def test_labels_of_a_weak_network_are_wrong_where_it_errs(digits, home):
    index = torch.arange(len(digits.y_train))
    given, note = semantic.labels(digits, index, "semantic", 0.98, 0)
    y = digits.y_train
    clean = semantic.taught(y, 0.98, 10, 0)
    assert torch.equal(given[clean], y[clean]) and given.dtype == torch.int64
    wrong = float((given != y)[~clean].float().mean())
    assert 0.05 < wrong < 0.5, "weak, yet far better than chance"
    said = re.fullmatch(r"generator tiny, clean fraction 0.02 \((\d+) samples\), wrong on "
                        r"(0\.\d+) of the (\d+) it labelled, checksum [0-9a-f]{8}", note)
    assert said and int(said[1]) == int(clean.sum()) and int(said[3]) == int((~clean).sum())
    assert float(said[2]) == pytest.approx(wrong, abs=1e-4)
    # mistakes are not uniform: a class's commonest wrong label has far more than a ninth of them
    pairs = torch.bincount(y[given != y] * 10 + given[given != y], minlength=100).view(10, 10)
    assert float(pairs.max(1).values.sum() / pairs.sum()) > 0.3


def test_labels_are_kept_and_made_anew_when_the_file_is_damaged(digits, home, quick, monkeypatch):
    index = torch.arange(0, len(digits.y_train), 3)
    first, note = semantic.labels(digits, index, "semantic", 0.9, 0)
    (file,) = (home / "data" / "cache" / "semantic").glob("*.npz")
    calls = []
    predict = semantic.predict
    monkeypatch.setattr(semantic, "predict", lambda *a: calls.append(1) or predict(*a))
    again, told = semantic.labels(digits, index, "semantic", 0.9, 0)
    assert torch.equal(first, again) and told == note and not calls
    file.write_bytes(b"PK\x03\x04 not really")
    again, _ = semantic.labels(digits, index, "semantic", 0.9, 0)
    assert torch.equal(first, again) and len(calls) == 1
    np.savez(file, given=np.zeros(3))
    again, _ = semantic.labels(digits, index, "semantic", 0.9, 0)
    assert torch.equal(first, again) and len(calls) == 2
    other, _ = semantic.labels(digits, index, "semantic", 0.9, 1)
    assert not torch.equal(first, other) and len(calls) == 3
    semantic.labels(digits, index[1:], "semantic", 0.9, 0)
    assert len(calls) == 4, "other samples, other labels"


def test_a_full_disk_costs_only_the_cache(digits, home, quick, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(semantic.np, "savez_compressed", full)
    index = torch.arange(0, len(digits.y_train), 10)
    given, _ = semantic.labels(digits, index, "semantic", 0.5, 0)
    assert len(given) == len(index)
    assert not list((home / "data" / "cache" / "semantic").iterdir())


def test_without_noise_no_generator_is_trained(digits, home, monkeypatch):
    monkeypatch.setattr(semantic, "predict", lambda *a: pytest.fail("must not train"))
    index = torch.arange(100)
    for rate in (0.0, 0.002):  # the second rounds to no label for the network to give
        given, note = semantic.labels(digits, index, "semantic-tiny", rate, 0)
        assert torch.equal(given, digits.y_train[index]) and "no label" in note


def test_names_of_generators():
    assert semantic.kinds("digits") == ("semantic", "semantic-tiny")
    assert {"semantic", "semantic-small", "semantic-resnet34"} <= set(semantic.kinds("cifar100"))
    assert "semantic-tiny" not in semantic.kinds("cifar10") and semantic.kinds("mnist") == ()
    assert semantic.is_semantic("semantic-small") and not semantic.is_semantic("symmetric")
    assert set(semantic.kinds("cifar10")) <= set(lab.noise_kinds("cifar10"))
    with pytest.raises(ValueError, match="unknown noise 'semantic-vgg'"):
        lab.setting("cross_entropy", noise="semantic-vgg")
    with pytest.raises(ValueError, match="unknown generator 'semantic-small'; allowed: sem"):
        semantic.labels(datasets.load("digits"), torch.arange(5), "semantic-small", 0.5, 0)


def test_a_run_records_generator_fraction_and_measured_rate(home, quick):
    s = lab.setting("cross_entropy", noise="semantic", rate=0.9, epochs=1, max_samples=400)
    assert str(s.path).startswith("digits/semantic-0.90/cross_entropy/smoke-0-")
    run = lab.run(s)
    assert run.info["noise_note"].startswith("generator tiny, clean fraction 0.1 (")
    wrong, count = re.search(r"wrong on (0\.\d+) of the (\d+)", run.info["noise_note"]).groups()
    assert int(count) == 360
    assert run.info["realised_rate"] == pytest.approx(0.9 * float(wrong), abs=0.06)
    assert runs.lookup(s).info["noise_note"] == run.info["noise_note"]
    _, truth = lab.prepare(dataclasses.replace(s, trusted_per_class=3))
    assert "360 it" not in truth.note, "trusted samples are taken out before"
    drawn = lab.run(lab.setting("cross_entropy", rate=0.4, epochs=1, max_samples=200))
    assert "noise_note" not in drawn.info, "drawn labels need no note"


def test_labels_for_photographs(cifar10, home, quick):
    few, index = datasets.subset(cifar10, 600, seed=0)
    given, note = semantic.labels(few, torch.arange(len(index)), "semantic", 0.8, 0)
    assert note.startswith("generator small, clean fraction 0.2 (120 samples)")
    assert 0.3 < float((given != few.y_train).float().mean()) < 0.8
