"""Images and their labels: `load(name)` gives a `Dataset` of uint8 image tensors in the
official order.

`digits` ships with scikit-learn and needs no file. CIFAR is read from either official
layout, and every record is checked against the SHA-1 of the official binary files on
every load: pixels, labels and order are the official ones, or there is an error. Only
`download` ever uses the network.

A data set is one file of this room (`digits`, `cifar10`, `cifar100`, `imagenet`), or
one of your own that calls `register` (`sets`); human labels are read by `cifar_n`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cifar10 import CIFAR10_CLASSES
from .cifar100 import CIFAR100_CLASSES, CIFAR100_COARSE, CIFAR100_SUPERCLASSES
from .cifar_n import human_labels
from .sets import (
    ABOUT,
    HUMAN_LABELS,
    NAMES,
    SIZES,
    About,
    Dataset,
    folder,
    known,
    register,
)
from .splits import Split, shares, split, subset

__all__ = [
    "CIFAR100_CLASSES", "CIFAR100_COARSE", "CIFAR100_SUPERCLASSES", "CIFAR10_CLASSES",
    "HUMAN_LABELS", "NAMES", "SIZES", "About", "Dataset", "Split", "absent", "download",
    "human_labels", "load", "register", "smallest_class", "split", "subset",
]


def load(name: str, root: Path | None = None) -> Dataset:
    """The dataset `name`: one of `NAMES`; also "imagenet32" or "imagenet64", DRPL's 100
    classes of the downsampled ImageNet, where its files are at hand.

    root: the folder that holds `cifar-10-batches-bin` or `cifar-10-batches-py`
    (`cifar-100-binary` or `cifar-100-python`); default `paths.datasets_dir()`. Where
    one layout is damaged and the other whole, the whole one is read, with a warning.
    Raises ValueError for an unknown name or a damaged file, FileNotFoundError for a
    missing one; both say how to mend it.
    """
    if name not in ABOUT:
        known(name, NAMES, "dataset")
    return ABOUT[name].read(folder(root))


def download(name: str, root: Path | None = None) -> Path:
    """Fetch CIFAR-10 or CIFAR-100 into `root`, check it, return its folder.

    Files that are there and whole are kept. Raises ConnectionError when it cannot be
    fetched, ValueError where there is nothing to fetch.
    """
    known(name, NAMES, "dataset")
    about = ABOUT[name]
    if about.download is None:
        raise ValueError(f"{name} {about.origin}: there is nothing to download")
    return about.download(folder(root))


def absent(dataset: str) -> str:
    """What is not here of a data set, with the command that brings it; "" where all is.
    Files are looked for, not read."""
    return ABOUT[dataset].absent(folder(None)) if dataset in ABOUT else ""


def smallest_class(name: str, max_samples: int | None = None) -> int:
    """Images of the smallest class of the train set, or of a `subset` of it; no data is
    read."""
    counts = np.array(ABOUT[name].of_each_class)
    return int(shares(counts, min(max_samples or counts.sum(), counts.sum())).min())
