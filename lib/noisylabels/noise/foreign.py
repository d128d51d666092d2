"""CIFAR's noises by confusion and out of distribution: images of another data set, and
who is mistaken for whom.

CIFAR-10 takes its out-of-distribution images from the train set of CIFAR-100, and the
other way round. A source class is left out when its images could rightly be given a
label of the target; the others belong to no class of it (`OVERLAPS` lists the pairs).

The matrices count what a cross-entropy network, trained on clean labels, takes for
what. They are files of `data/noise`, made by `confusions.rebuild`: rows are true
classes, columns predicted ones, counts.

    <dataset>.csv                  the dataset's own test images: noise `confusion`
    <dataset>-from-<source>.csv    all train images of the source: noise `ood-confusion`

Source: DRPL (Ortego et al., ICPR 2020), whose ImageNet construction this follows; the
stand-ins on CIFAR are ours. Its matrix of 1000 classes was not available.

No image is used twice. CIFAR-10 without its two left-out classes has 40,000 images, so
CIFAR-100 above 80 % stops with an error; where a class runs out, another is drawn, and
the record counts such draws (`noise_redrawn`).
"""

from __future__ import annotations

import csv
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import paths
from ..data import datasets
from .kinds import (
    Drawn,
    Needs,
    NoisyLabels,
    Samples,
    checked,
    counts,
    register,
    whole_seed,
)
from .matrices import Flips, by_confusion, pick, slots

SOURCES = {"cifar10": "cifar100", "cifar100": "cifar10"}
"""Dataset -> where its out-of-distribution images come from."""

OVERLAPS: dict[str, dict[str, str]] = {
    "cifar10": {
        "bus": "truck", "pickup_truck": "truck",
        "leopard": "cat", "lion": "cat", "tiger": "cat", "fox": "dog", "wolf": "dog",
    },
    "cifar100": {"automobile": "pickup_truck", "truck": "pickup_truck"},
}  # fmt: skip
"""Dataset -> source class that is left out -> the label that its images could rightly
be given."""

NOTE = "counts of a cross-entropy network"


@dataclass(frozen=True)
class Confusion(Flips):
    """Labels redrawn by a matrix of counts, which is a file of the project."""

    def fits(self, dataset: str) -> bool:
        return dataset in SOURCES

    def check(self, dataset: str, rate: float) -> None:
        self.share(rate)

    def ask(self, samples: Samples) -> dict[str, Any]:
        return {"matrix": matrix(samples.data.name), "note": NOTE}


@dataclass(frozen=True)
class Replaced(Drawn):
    """Labels kept, images replaced by those of another data set, none twice.

    by_confusion: by images of classes that a network takes for the label (DRPL's
    NU-OOD), else by any.
    """

    by_confusion: bool = False

    def fits(self, dataset: str) -> bool:
        return dataset in SOURCES

    def check(self, dataset: str, rate: float) -> None:
        self.share(rate)

    def absent(self, dataset: str) -> str:
        return datasets.absent(SOURCES[dataset])

    def make(self, samples: Samples, rate: float, seed: int,
             execution: object = None) -> NoisyLabels:
        name, y = samples.data.name, samples.y_true.numpy()
        others, classes = source(name)
        needs = Needs(source_labels=classes)
        if self.by_confusion:
            needs = Needs(matrix=matrix(name, of_source=True), source_labels=classes,
                          note=NOTE)
        drawn = self.draw(y, rate, samples.data.num_classes, seed, needs)
        assert drawn.replaced is not None and drawn.source is not None
        images = samples.images
        images[drawn.replaced] = others[drawn.source[drawn.replaced]]
        return dataclasses.replace(drawn, images=images)

    def expected_rate(self, rate: float, num_classes: int, needs: Needs) -> float:
        """The share of images that are replaced."""
        return self.share(rate)

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        r = self.share(rate)
        rng = np.random.default_rng(whole_seed(seed))
        chosen = slots(rng, len(y), r)
        replaced, taken = np.zeros(len(y), bool), np.full(len(y), -1)
        replaced[chosen] = True
        taken[chosen], redrawn = self._sources(y[chosen], num_classes, rng, needs)
        given = torch.from_numpy(y.copy())
        return NoisyLabels(self.name, r, num_classes, given.clone(), given, seed,
                           torch.from_numpy(replaced), torch.from_numpy(taken),
                           redrawn, needs.note)

    def _sources(self, y: np.ndarray, num_classes: int, rng: np.random.Generator,
                 needs: Needs) -> tuple[np.ndarray, int]:
        """Source image of each slot (given the slots' labels y), and how many slots
        were redrawn."""
        if needs.source_labels is None and (self.by_confusion
                                            or needs.source_count is None):
            raise ValueError(
                f"noise kind {self.name!r} needs {' and '.join(self.needs)}")
        if needs.source_labels is None:
            labels, size = None, int(needs.source_count or 0)
        else:
            labels = checked(needs.source_labels, None, "source_labels")
            size = len(labels)
        if len(y) > size:
            raise ValueError(
                f"{len(y)} images are to be replaced but the source has only {size}")
        shuffled = rng.permutation(size)
        if not self.by_confusion:
            return shuffled[: len(y)], 0
        assert labels is not None
        # DRPL, NU-OOD: add 1e-5, normalise each column: P(source class k | label c)
        m = counts(self, needs.matrix, (None, num_classes)) + 1e-5
        m /= m.sum(0, keepdims=True)
        if labels.max() >= len(m):
            raise ValueError(f"source_labels must lie in 0..{len(m) - 1}, the rows of "
                             f"matrix, not {labels.max()}")
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        held = np.bincount(labels, minlength=len(m))
        starts = held.cumsum() - held
        used = np.zeros_like(held)  # the pointer of each class into its shuffled list
        source, redrawn = np.full(len(y), -1), 0
        pending = np.arange(len(y))
        while len(pending):
            k = pick((m * (used < held)[:, None]).T, y[pending],
                     rng.random(len(pending)))
            order = np.argsort(k, kind="stable")
            ks, slot = k[order], pending[order]
            position = used[ks] + np.arange(len(ks)) - np.searchsorted(ks, ks)
            fits = position < held[ks]
            source[slot[fits]] = by_class[(starts[ks] + position)[fits]]
            used = np.minimum(held, used + np.bincount(k, minlength=len(m)))
            # their class ran out: drawn again among the others
            pending = np.sort(slot[~fits])
            redrawn += len(pending)
        return source, redrawn


register(Confusion("confusion",
                   "exactly floor(rN) labels redrawn among the other classes by the "
                   "rows of a confusion matrix (DRPL's NU-ID)", ("matrix",),
                   by_confusion))
register(Replaced("ood-uniform",
                  "labels kept, exactly floor(rN) images replaced by images of another "
                  "dataset, without repeats (DRPL's U-OOD)",
                  ("source_count or source_labels",)))
register(Replaced("ood-confusion",
                  "labels kept, exactly floor(rN) images replaced by images of classes "
                  "that a classifier takes for the label, without repeats (DRPL's "
                  "NU-OOD)", ("matrix", "source_labels"), by_confusion=True))


def source(dataset: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (M, C, H, W) and labels int64 (M,) of the source's train set,
    without the classes of `OVERLAPS`; labels are the source's own."""
    other = datasets.load(SOURCES[dataset])
    left_out = torch.tensor(
        [other.class_names.index(name) for name in OVERLAPS[dataset]])
    keep = ~torch.isin(other.y_train, left_out)
    return other.x_train[keep], other.y_train[keep]


# ------------------------------------------------------------------------- the matrices


def matrix(dataset: str, of_source: bool = False,
           folder: Path | None = None) -> np.ndarray:
    """Counts, float64: (classes, classes), or (classes of the source, classes).

    Each row counts the images of one class, of which all data sets here hold equally
    many. Raises FileNotFoundError without the file, ValueError for one that is not such
    a table.
    """
    path = file(dataset, of_source, folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it comes with the project's files, and "
            f"noisylabels.lab.confusions.rebuild({dataset!r}) makes it anew.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = list(csv.reader((x for x in lines if not x.startswith("#")),
                               strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(
            f"{path} is no table of comma-separated values; rebuild it.") from None
    of = SOURCES[dataset] if of_source else dataset
    expected = (names(of), names(dataset))
    found = (tuple(row[0] if row else "" for row in rows[1:]),
             tuple(rows[0][1:]) if rows else ())
    if found != expected:
        raise ValueError(
            f"{path} must have the {len(expected[1])} classes of {dataset} as columns "
            f"and the {len(expected[0])} of {of} as rows, in their official order, not "
            f"{len(found[1])} and {len(found[0])}; rebuild it.")
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path}: the row {row[0]!r} has {len(row) - 1} numbers, not "
                f"{len(rows[0]) - 1}; rebuild it.")
        if bad := [v for v in row[1:] if not re.fullmatch("[0-9]{1,9}", v)]:
            raise ValueError(
                f"{path} must hold whole numbers from 0 on, not {bad[0][:20]!r} (row "
                f"{row[0]!r}); rebuild it.")
    counts = np.array([[float(v) for v in row[1:]] for row in rows[1:]])
    sums = counts.sum(1)
    if sums[0] == 0 or (sums != sums[0]).any():
        k = int((sums != sums[0]).argmax())
        raise ValueError(
            f"{path} must count equally many images of each class, not {sums[k]:.0f} "
            f"of {names(of)[k]!r} and {sums[0]:.0f} of {names(of)[0]!r}; rebuild it.")
    return counts


def file(dataset: str, of_source: bool = False, folder: Path | None = None) -> Path:
    """Where that matrix lies."""
    stem = f"{dataset}-from-{SOURCES[dataset]}" if of_source else dataset
    folder = paths.home() / "data" / "noise" if folder is None else folder
    return folder / f"{stem}.csv"


def names(dataset: str) -> tuple[str, ...]:
    """The class names, in the official order."""
    return {"cifar10": datasets.CIFAR10_CLASSES,
            "cifar100": datasets.CIFAR100_CLASSES}[dataset]
