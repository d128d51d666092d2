"""What a data set is: in memory (`Dataset`), and what is known of it unread (`About`).

A data set is added by one file that calls `register`: a module of this room, found by
itself, or one of your own. It is then loaded, named by a setting, and trained on:

    datasets.register(datasets.About(
        "stripes", read, of_each_class=(200,) * 10, test=500, channels=1, pixels=8))

where `read(root)` gives the `Dataset`; `root` is the folder of data sets.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import paths


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification dataset in memory, on the CPU, in its official order.

    x_train, x_test: uint8 (N, C, H, W), H = W. y_train, y_test: the true labels, int64
    (N,). mean, std: per channel, of the train set, on the [0, 1] scale. pad: padding
    for random crops, in pixels. flip: whether a mirrored image keeps its class.
    coarse_*: superclasses, if any. Raises ValueError when the parts do not fit
    together.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 4
    flip: bool = True
    coarse_train: Tensor | None = None
    coarse_test: Tensor | None = None
    coarse_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if x.dtype != torch.uint8 or x.dim() != 4 or x.shape[2] != x.shape[3]:
                raise ValueError(
                    f"x_{part} must be square uint8 images (N, C, H, W), "
                    f"got {x.dtype} {tuple(x.shape)}")
            check_labels(y, self.num_classes, f"y_{part}", len(x))
            coarse = getattr(self, f"coarse_{part}")
            if coarse is not None:
                check_labels(coarse, len(self.coarse_names or ()), f"coarse_{part}",
                              len(x))
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"train and test images must have one shape, got "
                f"{tuple(self.x_train.shape[1:])} and {tuple(self.x_test.shape[1:])}")
        numbers = np.array([*self.mean, *self.std])
        if (not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0
                or not np.isfinite(numbers).all()):
            raise ValueError(
                f"a finite mean and a positive std are needed for each of "
                f"{self.channels} channel(s), got {self.mean} and {self.std}")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.x_train.shape[-1]

    @property
    def channels(self) -> int:
        return self.x_train.shape[1]


@dataclass(frozen=True)
class About:
    """What is known of a data set before it is read.

    Attributes:
        name: in a setting, and in the folders of its runs.
        read: the `Dataset`, from the folder of data sets.
        of_each_class: training images of each class; none where only reading tells, and
            then no setting may name it.
        test, channels, pixels: test images; channels and pixels a side of each image.
        human: our names of the label sets that people gave -> their keys in the file.
        folders: where its files may lie; none for one that needs no file.
        download: fetches them into the folder of data sets, and says where they are.
        origin: where it comes from instead, in words.
    """

    name: str
    read: Callable[[Path], Dataset]
    of_each_class: tuple[int, ...] = ()
    test: int = 0
    channels: int = 3
    pixels: int = 32
    human: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    download: Callable[[Path], Path] | None = None
    origin: str = "has no address"

    def absent(self, root: Path) -> str:
        """Its name, with the command that brings it, where it is not here; else ""."""
        if not self.folders or any((root / f).is_dir() for f in self.folders):
            return ""
        return self.name if self.download is None else (
            f"{self.name} (`noisylabels doctor --download {self.name}`)")


# ------------------------------------------------------------------------ the register

SIZES: dict[str, tuple[int, int, int, int, int]] = {}
"""Data set -> training images, test images, classes, channels, pixels a side; known
unread."""
NAMES = SIZES.keys()
"""What a setting may name."""
HUMAN_LABELS: dict[str, Mapping[str, str]] = {}
"""Data set -> our names of its human label sets -> their keys in the CIFAR-N files."""
ABOUT: dict[str, About] = {}


def register(about: About) -> About:
    """Make a data set usable by its name. Raises ValueError for a name that is taken by
    another."""
    if about.name in ABOUT and ABOUT[about.name].read.__module__ != "__main__":
        raise ValueError(f"there is a dataset {about.name!r} already.")
    ABOUT[about.name] = about
    if about.of_each_class:
        SIZES[about.name] = (sum(about.of_each_class), about.test,
                             len(about.of_each_class), about.channels, about.pixels)
    if about.human:
        HUMAN_LABELS[about.name] = about.human
    return about


def folder(root: Path | None) -> Path:
    """The folder of data sets."""
    return paths.datasets_dir() if root is None else Path(root).expanduser()


# ------------------------------------------------------------------------------ checks


def known(name: str, allowed: Iterable[str], what: str) -> None:
    """Refuse a name that is not allowed, with the nearest one that is."""
    allowed = tuple(allowed)
    if name in allowed:
        return
    plain = str(name).lower().replace("-", "").replace("_", "").replace(" ", "")
    near = difflib.get_close_matches(plain, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"unknown {what} {name!r}: {hint}allowed: {', '.join(allowed)}")


def check_labels(y: Tensor, num_classes: int, what: str,
                 count: int | None = None) -> None:
    """Refuse labels that are not int64 (N,) in 0..num_classes-1."""
    if y.dtype != torch.int64 or y.dim() != 1:
        raise ValueError(f"{what} must be int64 (N,), got {y.dtype} {tuple(y.shape)}")
    if count is not None and len(y) != count:
        raise ValueError(f"{what} must hold {count:,} labels, got {len(y):,}")
    if len(y) == 0:
        raise ValueError(f"{what} is empty: at least one label is needed")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"{what} must lie in 0..{num_classes - 1}, got {low}..{high}")
