"""Noise by confusion and out of distribution on CIFAR: overlaps, matrices, replaced images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noisylabels import lab, noise, paths
from noisylabels.data import datasets
from noisylabels.data.datasets import CIFAR10_CLASSES, CIFAR100_CLASSES, Dataset
from noisylabels.lab import confusions
from noisylabels.noise import foreign

KINDS = ("confusion", "ood-uniform", "ood-confusion")
NAMES = {"cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}


def miniature(name: str, root=None, per_class: int = 30) -> Dataset:
    """A CIFAR of few images: each pixel of CIFAR-100 is 100 + class, of CIFAR-10 just class."""
    c = len(NAMES[name])
    y = torch.arange(c).repeat_interleave(per_class)
    x = (y + (100 if name == "cifar100" else 0)).to(torch.uint8)
    x = x.view(-1, 1, 1, 1).expand(-1, 3, 32, 32).contiguous()
    coarse = torch.tensor(datasets.CIFAR100_COARSE)[y] if name == "cifar100" else None
    return Dataset(name, x, y, x[::5], y[::5], NAMES[name], (0.5,) * 3, (0.25,) * 3,
                   coarse_train=coarse, coarse_test=None if coarse is None else coarse[::5],
                   coarse_names=None if coarse is None else datasets.CIFAR100_SUPERCLASSES)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Miniature data, and matrices that send a class to the next ones."""
    monkeypatch.setattr(datasets, "load", miniature)
    folder = tmp_path / "data" / "noise"
    folder.mkdir(parents=True)
    for name in NAMES:
        for of_source in (False, True):
            rows = NAMES[foreign.SOURCES[name]] if of_source else NAMES[name]
            counts = np.zeros((len(rows), len(NAMES[name])), int)
            for k in range(len(rows)):
                counts[k, k % counts.shape[1]] = 60
                counts[k, (k + 1) % counts.shape[1]] = 40
            text = "# made by hand\n" + ",".join(["true", *NAMES[name]]) + "\n"
            text += "".join(f"{r},{','.join(map(str, row))}\n"
                            for r, row in zip(rows, counts, strict=True))
            foreign.file(name, of_source, folder).write_text(text)
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return folder


def test_overlaps_are_classes_of_the_source_and_labels_of_the_target():
    for dataset, pairs in foreign.OVERLAPS.items():
        assert set(pairs) <= set(NAMES[foreign.SOURCES[dataset]])
        assert set(pairs.values()) <= set(NAMES[dataset])
    for dataset in NAMES:  # no source class has a label's very name
        other = set(NAMES[foreign.SOURCES[dataset]]) - set(foreign.OVERLAPS[dataset])
        assert not other & set(NAMES[dataset])


def test_the_source_leaves_the_overlaps_out(small):
    for dataset, left in (("cifar10", 93), ("cifar100", 8)):
        x, y = foreign.source(dataset)
        names = NAMES[foreign.SOURCES[dataset]]
        assert len(y.unique()) == left and len(x) == 30 * left
        assert not {names[int(k)] for k in y.unique()} & set(foreign.OVERLAPS[dataset])
        shift = 100 if dataset == "cifar10" else 0
        assert torch.equal(x[:, 0, 0, 0].long(), y + shift), "images and labels together"


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("kind", ["ood-uniform", "ood-confusion"])
def test_images_are_replaced_and_labels_kept(small, dataset, kind):
    s = lab.setting("cross_entropy", dataset, kind, 0.3, "laptop", max_samples=200,
                    val_fraction=0.25)
    task, truth = lab.prepare(s)
    shift = 100 if dataset == "cifar100" else 0  # a pixel of an own image says its class
    pixel, val = (x[:, 0, 0, 0].long() for x in (task.images, truth.x_val))
    replaced = pixel != task.y_given + shift
    if dataset == "cifar10":
        assert torch.equal(replaced, pixel >= 100)
    assert torch.equal(replaced, truth.wrong) and torch.equal(task.y_given, truth.y_true)
    replaced = replaced.sum() + (val != truth.y_val + shift).sum()
    assert replaced == 60 and replaced.sum() > 30, "exactly floor(rN), validation images included"
    assert (truth.x_test[:, 0, 0, 0].long() == truth.y_test + shift).all(), "the test set is clean"
    if kind == "ood-confusion":  # the matrix: source class k is taken for k or k + 1
        other = 100 - shift
        c = task.num_classes
        apart = (task.y_given - (pixel - other)) % c
        if dataset == "cifar10":
            assert torch.isin(apart[replaced], torch.tensor([0, 1])).float().mean() > 0.99
    again, _ = lab.prepare(s)
    assert torch.equal(again.images, task.images)
    oracle = lab.setting("drpl", dataset, kind, 0.3, "laptop", max_samples=200, oracle=True)
    task, truth = lab.prepare(oracle)
    assert torch.equal(task.oracle, truth.wrong)


@pytest.mark.parametrize("dataset", NAMES)
def test_confusion_sends_labels_by_the_matrix(small, dataset):
    s = lab.setting("cross_entropy", dataset, "confusion", 0.5, "laptop", max_samples=200)
    task, truth = lab.prepare(s)
    assert truth.wrong.float().mean() == pytest.approx(0.5, abs=0.06)
    step = (task.y_given - truth.y_true)[truth.wrong] % task.num_classes
    assert (step == 1).float().mean() > 0.97, "1e-5 a class leaves next to nothing for others"


def test_forward_correction_has_nothing_to_correct_out_of_distribution(small):
    task, _ = lab.prepare(lab.setting("forward_correction", "cifar10", "ood-uniform", 0.4,
                                      "laptop", max_samples=200))
    assert torch.equal(task.transition, torch.eye(10))


def test_other_noises_leave_the_images_alone(small):
    for kind in ("symmetric", "asymmetric-coin"):
        task, truth = lab.prepare(lab.setting("cross_entropy", "cifar10", kind, 0.4, "laptop",
                                              max_samples=200))
        assert torch.equal(task.images[:, 0, 0, 0].long(), truth.y_true)


def test_names_are_known_where_the_data_are():
    for dataset in NAMES:
        assert set(KINDS) <= set(lab.noise_kinds(dataset))
        assert not {"human", "given"} & set(lab.noise_kinds(dataset))
    assert not set(KINDS) & set(lab.noise_kinds("digits"))
    with pytest.raises(ValueError, match="unknown noise 'ood-uniform'"):
        lab.setting("cross_entropy", noise="ood-uniform")


def test_too_many_images_are_refused(small):
    with pytest.raises(ValueError, match="270 images are to be replaced but the source has only"):
        lab.prepare(lab.setting("cross_entropy", "cifar100", "ood-uniform", 0.9, "laptop",
                                max_samples=300))


def test_a_damaged_matrix_is_named(small):
    path = foreign.file("cifar10", False, small)
    good = path.read_text()
    lines = good.splitlines()
    for bad, words in (
        (good.replace("airplane", "plane", 1), "official order"),
        (good.replace("60", "0.6", 1), "whole numbers from 0 on, not '0.6' .row 'airplane'"),
        (good.replace("40", "nan", 1), "whole numbers from 0 on, not 'nan'"),
        (good.replace("40", "-40", 1), "not '-40'"), (good.replace("40", "inf", 1), "not 'inf'"),
        (good.replace("40", "", 1), "not ''"), (good.replace("40", "4_0", 1), "not '4_0'"),
        (good.replace("40", "9" * 400, 1), "not '99999999999999999999' "),
        (good.replace("60", "61", 1), "equally many images of each class, not 100 of 'automobile'"
                                      " and 101 of 'airplane'"),
        (good.replace("60", "0").replace("40", "0"), "not 0 of 'airplane'"),
        (good.replace("60,40", "60,40,0", 1), "the row 'airplane' has 11 numbers, not 10"),
        ("\n".join([*lines[:-1], lines[-1].rsplit(",", 1)[0]]), "'truck' has 9 numbers, not 10"),
        ("\n".join(lines[:-1]), "10 classes .* and the 10 of cifar10 as rows, .* not 10 and 9"),
        (good + lines[-1] + "\n", "not 10 and 11"), (good + "\n\n", "official order"),
        (good.replace("truck", "truck,boat", 1), "not 11 and 10"), ("# nothing\n", "not 0 and 0"),
        (good.replace("truck", '"truck', 1), "is no table of comma-separated values"),
        (good.encode("utf-16"), "is no table of comma-separated values"),
    ):
        path.write_bytes(bad if isinstance(bad, bytes) else bad.encode())
        with pytest.raises(ValueError, match=words) as refused:
            foreign.matrix("cifar10", folder=small)
        said = str(refused.value)
        assert said.endswith("; rebuild it.") and "\n" not in said and len(said) < 400
    path.write_text(good)
    assert foreign.matrix("cifar10", folder=small).sum() == 1000
    path.unlink()
    with pytest.raises(FileNotFoundError, match="rebuild\\('cifar10'\\) makes it anew"):
        foreign.matrix("cifar10", folder=small)


def test_rebuild_trains_on_clean_labels_and_counts(small, tmp_path):
    made = confusions.rebuild("cifar10", tmp_path / "new", epochs=1, max_samples=100,
                            network="small")
    own, other = (foreign.matrix("cifar10", of, tmp_path / "new") for of in (False, True))
    assert [p.name for p in made] == ["cifar10.csv", "cifar10-from-cifar100.csv"]
    assert (own.sum(1) == 6).all() and own.shape == (10, 10), "all test images"
    assert (other.sum(1) == 30).all() and other.shape == (100, 10), "all train images"
    assert "cross_entropy on clean cifar10, laptop budget, seed 0" in made[0].read_text()


@pytest.mark.parametrize("dataset", NAMES)
def test_the_files_of_the_project(dataset):
    """Counts of every test image, and of every train image of the source; better than chance."""
    folder = paths.home() / "data" / "noise"
    own, other = (foreign.matrix(dataset, of, folder) for of in (False, True))
    c = len(NAMES[dataset])
    assert (own.sum(1) == 10_000 // c).all()
    assert (other.sum(1) == 50_000 // len(other)).all()
    assert np.trace(own) / own.sum() > {"cifar10": 0.5, "cifar100": 0.15}[dataset]
    if dataset == "cifar10":  # cats and dogs are taken for each other more than for anything else
        off = own - np.diag(np.diag(own))
        assert off[3].argmax() == 5 and off[5].argmax() == 3
        names = list(CIFAR100_CLASSES)
        assert other[names.index("pickup_truck")].argmax() in (1, 9)


def test_real_images_and_the_full_set(cifar10, cifar100):
    """The source is large enough for 80 %, and images are those of the other dataset."""
    for data, other in ((cifar10, cifar100), (cifar100, cifar10)):
        x, y = foreign.source(data.name)
        assert len(x) >= 40_000
        if data.name == "cifar100":
            continue
        every = torch.arange(50_000)
        labels = noise.named("ood-confusion").make(
            noise.Samples(data, every, data.y_train, every), 0.5, 0)
        images = labels.images
        changed = (images != data.x_train).flatten(1).any(1)
        assert changed.sum() == 25_000 and torch.equal(changed, labels.replaced)
        k = int(labels.replaced.nonzero()[0, 0])
        assert torch.equal(images[k], x[labels.source[k]])
        left_out = {other.class_names[int(c)] for c in y.unique()} & set(
            foreign.OVERLAPS[data.name])
        assert not left_out and labels.source[labels.replaced].unique().numel() == 25_000
