"""What CIFAR's noises by confusion and out of distribution need: images, and who is
mistaken.

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
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import paths
from ..data import datasets
from . import NoisyLabels

SOURCES = {"cifar10": "cifar100", "cifar100": "cifar10"}
"""Dataset -> where its out-of-distribution images come from."""

OVERLAPS: dict[str, dict[str, str]] = {
    "cifar10": {
        "bus": "truck", "pickup_truck": "truck",
        "leopard": "cat", "lion": "cat", "tiger": "cat", "fox": "dog", "wolf": "dog",
    },
    "cifar100": {"automobile": "pickup_truck", "truck": "pickup_truck"},
}  # fmt: skip
"""Dataset -> source class that is left out -> the label that its images could rightly be given."""

KINDS = ("confusion", "ood-uniform", "ood-confusion")
"""The noises that this room makes usable by name."""


def needs(dataset: str, kind: str) -> dict[str, Any]:
    """The arguments of `noise.corrupt` that such a noise asks for; {} for every other
    noise."""
    if kind == "confusion":
        return {"matrix": matrix(dataset), "note": "counts of a cross-entropy network"}
    if kind not in KINDS:
        return {}
    out: dict[str, Any] = {"source_labels": source(dataset)[1]}
    if kind == "ood-confusion":
        out |= {"matrix": matrix(dataset, of_source=True),
                "note": "counts of a cross-entropy network"}
    return out


def source(dataset: str) -> tuple[Tensor, Tensor]:
    """Images uint8 (M, C, H, W) and labels int64 (M,) of the source's train set,
    without the classes of `OVERLAPS`; labels are the source's own."""
    other = datasets.load(SOURCES[dataset])
    left_out = torch.tensor(
        [other.class_names.index(name) for name in OVERLAPS[dataset]])
    keep = ~torch.isin(other.y_train, left_out)
    return other.x_train[keep], other.y_train[keep]


def replace(dataset: str, images: Tensor, noisy: Tensor, labels: NoisyLabels) -> Tensor:
    """The images (N, ...) with those of the source where `labels` says so.

    noisy: int64, which images the labels belong to. Other noises leave all as they are.
    """
    if labels.replaced is None or labels.source is None:
        return images
    images = images.clone()
    images[noisy[labels.replaced]] = source(dataset)[0][labels.source[labels.replaced]]
    return images


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
            f"noisylabels.lab.confusions.rebuild({dataset!r}) makes it anew."
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = list(csv.reader((x for x in lines if not x.startswith("#")),
                               strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(
            f"{path} is no table of comma-separated values; rebuild it.") from None
    of = SOURCES[dataset] if of_source else dataset
    expected = (names(of), names(dataset))
    found = (tuple(row[0] if row else ""
                   for row in rows[1:]), tuple(rows[0][1:]) if rows else ())
    if found != expected:
        raise ValueError(
            f"{path} must have the {len(expected[1])} classes of {dataset} as columns and the "
            f"{len(expected[0])} of {of} as rows, in their official order, not {len(found[1])} "
            f"and {len(found[0])}; rebuild it.")
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
    return (paths.home() / "data" /
            "noise" if folder is None else folder) / f"{stem}.csv"


def names(dataset: str) -> tuple[str, ...]:
    """The class names, in the official order."""
    return datasets.CIFAR10_CLASSES if dataset == "cifar10" else datasets.CIFAR100_CLASSES
