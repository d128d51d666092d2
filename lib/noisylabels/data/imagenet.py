"""The downsampled ImageNet (32x32 or 64x64) in its official files, cut to DRPL's 100
classes.

The files are pickles: `train_data_batch_1` to `train_data_batch_10` and `val_data`,
each a dictionary with `data`, uint8 (n, 3 S S): the red, green and blue planes row by
row, and `labels`, whole numbers from 1 to 1000 in the order of `map_clsloc.txt`. That
order is not the alphabetical one of WordNet ids that other loaders use.

DRPL's task (its code, data): the first 100 of a seeded permutation of all classes are
the classes of the task, a class's position there is its new label; the other 900 are
the pool of out-of-distribution images. Train images are those of the ten batches, test
images those of `val_data` (50 a class). DRPL shuffles the train images once; here they
keep the files' order.

Sources: P. Chrabaszcz et al., "A Downsampled Variant of ImageNet as an Alternative to
the CIFAR datasets", 2017; DRPL (Ortego et al., ICPR 2020).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cifar
from .sets import About, Dataset, register

SIZES = {"imagenet32": 32, "imagenet64": 64}
TRAIN = tuple(f"train_data_batch_{k}" for k in range(1, 11))
TEST = "val_data"
CLASSES, TASK = 1000, 100
SEED = 42
MEND = ("get the official archives (Imagenet32_train.zip and _val.zip, or 64) from "
        "https://image-net.org/download-images and unpack them there")  # fmt: skip


def classes(seed: int = SEED) -> tuple[Tensor, Tensor]:
    """Class ids, from 0, of the task (100) and of the out-of-distribution pool (900),
    int64."""
    ids = torch.from_numpy(np.random.RandomState(seed).permutation(CLASSES))
    return ids[:TASK], ids[TASK:]


def read(name: str, root: Path, wanted: Tensor,
         train: bool = True) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, S, S) and labels int64 (N,) of the class ids `wanted`, in
    file order.

    A label is the class's position in `wanted`. One file is in memory at a time, and of
    its images only those that are wanted stay. Raises FileNotFoundError for a missing
    file and ValueError for a damaged one.
    """
    size, images, labels = SIZES[name], [], []
    place = torch.full((CLASSES,), -1)
    place[wanted] = torch.arange(len(wanted))
    for path in _files(name, root, train):
        x, y = _content(path, size)
        label = place[y]
        keep = label >= 0
        images.append(x[keep].view(-1, 3, size, size))
        labels.append(label[keep])
    return torch.cat(images), torch.cat(labels)


def class_names(name: str, root: Path, wanted: Tensor) -> tuple[str, ...]:
    """The names in `map_clsloc.txt` where that lies beside the images, else "class
    521"."""
    for folder in _folders(name, root):
        path = folder / "map_clsloc.txt"
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            rows = [line.split() for line in text.splitlines() if line.strip()]
            known = {int(row[1]) - 1: row[2] for row in rows if len(row) == 3}
            if set(known) != set(range(CLASSES)):
                raise ValueError(
                    f"{path} must name the classes 1 to {CLASSES}, one a line: "
                    f"WordNet id, number, name.")
            return tuple(known[int(k)] for k in wanted)
    return tuple(f"class {int(k)}" for k in wanted)


def _folders(name: str, root: Path) -> list[Path]:
    title = f"Imagenet{SIZES[name]}"
    return [root / name, root / f"{title}_train", root / f"{title}_val", root / title]


def _files(name: str, root: Path, train: bool) -> Iterator[Path]:
    for file in TRAIN if train else (TEST,):
        found = [p for folder in _folders(name, root) if (p := folder / file).is_file()]
        if not found:
            raise FileNotFoundError(
                f"{file} of {name} is not in {root / name}, nor in "
                f"{root}/Imagenet{SIZES[name]}_train or _val; {MEND}")
        yield found[0]


def _content(path: Path, size: int) -> tuple[Tensor, Tensor]:
    """All images (n, 3 S S) and class ids (n,), from 0, of one file."""
    try:
        with cifar.stream(path) as file:
            content = _Unpickler(file, encoding="bytes").load()
        content = {
            k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()
        }
        data, y = content["data"], content["labels"]
        x = np.frombuffer(data.values(b"u1"), np.uint8).reshape(data.shape)
        if isinstance(y, _Array):
            y = np.frombuffer(y.values(b"i8"), "<i8")
        ids = np.array(y, np.int64) - 1
        if x.shape != (len(ids), 3 * size * size) or not len(ids):
            raise cifar.Refused(f"images of shape {x.shape} and {len(ids)} labels")
        if ids.min() < 0 or ids.max() >= CLASSES:
            raise cifar.Refused(f"labels from {ids.min() + 1} to {ids.max() + 1}")
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path} cannot be read ({cifar.reason(error, path)}): expected images of "
            f"{3 * size * size} bytes and labels from 1 to {CLASSES}; {MEND}"
        ) from error
    return torch.from_numpy(x.copy()), torch.from_numpy(ids)


# -------------------------------------------------- the restricted reader, as for CIFAR


class _Array:
    """What a pickled array says of itself; no numpy code runs. Also others than uint8
    may be there (each train file holds a mean image), and are never looked at."""

    shape: tuple[int, ...] = ()
    code: Any = b""
    data: Any = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, cifar._Dtype) or fortran or not isinstance(
                data, bytes):
            raise cifar.Refused("an array is not plain bytes in C order")
        self.shape, self.code, self.data = tuple(shape), dtype.code, data

    def values(self, code: bytes) -> bytes:
        """The bytes of an array of that type; another type is an error."""
        if self.code not in (code, code.decode()):
            raise cifar.Refused(f"an array is {self.code!r}, not {code.decode()}")
        return self.data


_MAKE = cifar._Global(lambda *_: _Array())


class _Unpickler(cifar._Unpickler):
    """Plain Python values and arrays of numbers; every other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return _MAKE if found is cifar._RECONSTRUCT else found


# ---------------------------------------------------------------------------- the task


def task(name: str, root: Path) -> Dataset:
    """DRPL's task: the train and the validation images of the first 100 permuted
    classes."""
    wanted, _ = classes()
    x_train, y_train = read(name, root, wanted)
    x_test, y_test = read(name, root, wanted, train=False)
    return Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=class_names(name, root, wanted),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pad=SIZES[name] // 8,
    )


for _name in SIZES:
    register(About(_name, partial(task, _name), pixels=SIZES[_name]))
