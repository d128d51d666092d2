"""The files of CIFAR-10 and CIFAR-100 in both official layouts, read and checked.

A record is one byte per kind of label, then the red, green and blue planes of the
image, row by row: the format of the *binary* layout. Files of the *python* layout
(pickles) are turned into the same records. Either way the SHA-1 of the records must be
that of the official binary file.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import pickletools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from .torchvision_guard import import_torchvision

PIXELS = 3 * 32 * 32
_CHUNK = 1000  # records held at once beside the result


@dataclass(frozen=True)
class Part:
    """One file: its name in either layout, its number of records, the SHA-1 of those
    records."""

    binary: str
    python: str
    count: int
    sha1: str


@dataclass(frozen=True)
class Source:
    """The files of one CIFAR. `label_keys`: the python layout's keys, in the record's
    order."""

    name: str
    title: str
    binary_folder: str
    python_folder: str
    label_keys: tuple[str, ...]
    train: tuple[Part, ...]
    test: Part

    @property
    def mend(self) -> str:
        return f"mend it with `noisylabels doctor --download {self.name}`"


SOURCES: dict[str, Source] = {}
"""Data set -> its files; `cifar10` and `cifar100` say theirs."""


@dataclass(frozen=True, eq=False)
class Raw:
    """Images uint8 (N, 3, 32, 32); labels int64 (label kinds, N), rows as in
    `label_keys`."""

    x_train: Tensor
    labels_train: Tensor
    x_test: Tensor
    labels_test: Tensor


# chunks, uint8 (n, kinds + 3072)
_Records = Callable[[Source, Path, Part], Iterator[np.ndarray]]


def read(source: Source, root: Path) -> Raw:
    """Read the first layout under `root` that is whole: binary, then python.

    Raises ValueError or FileNotFoundError for the first damaged or missing file; where
    the python layout can stand in for a damaged binary one, this is a warning.
    """
    binary, python = root / source.binary_folder, root / source.python_folder
    if not binary.is_dir() and not python.is_dir():
        raise FileNotFoundError(
            f"{source.title} is not in {root}: expected the folder "
            f"{source.binary_folder} or {source.python_folder}; {source.mend}")
    if not binary.is_dir():
        return read_python(source, root)
    try:
        return _read(source, binary, _binary_records)
    except (ValueError, FileNotFoundError) as damage:
        if not python.is_dir():
            raise
        try:
            raw = read_python(source, root)
        except (ValueError, FileNotFoundError):
            raise damage from None
        warnings.warn(f"{damage} (read {python} instead)", stacklevel=4)
        return raw


def read_python(source: Source, root: Path) -> Raw:
    """Read the python layout. Raises ValueError or FileNotFoundError, naming the
    file."""
    return _read(source, root / source.python_folder, _python_records)


def download(name: str, root: Path) -> Path:
    """Fetch one by torchvision into `root`, check it, return its folder.

    Files that are there and whole are kept. Raises ConnectionError when it cannot be
    fetched.
    """
    source, torchvision = SOURCES[name], import_torchvision()
    try:
        getattr(torchvision.datasets, name.upper())(str(root), train=True,
                                                    download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(
            f"{source.title} could not be downloaded into {root} ({error}): check the "
            "network, or unpack the archive of "
            "https://www.cs.toronto.edu/~kriz/cifar.html there by hand") from error
    read_python(source, root)
    return root / source.python_folder


def _read(source: Source, folder: Path, records: _Records) -> Raw:
    return Raw(
        *_read_parts(source, folder, source.train, records),
        *_read_parts(source, folder, (source.test,), records),
    )


def _read_parts(
    source: Source, folder: Path, parts: tuple[Part, ...], records: _Records
) -> tuple[Tensor, Tensor]:
    """Images and labels of some parts, filled in chunk by chunk, each part checked."""
    kinds, count = len(source.label_keys), sum(part.count for part in parts)
    x = np.empty((count, PIXELS), np.uint8)
    labels = np.empty((kinds, count), np.int64)
    start = 0
    for part in parts:
        sha1 = hashlib.sha1(usedforsecurity=False)
        for chunk in records(source, folder, part):
            sha1.update(chunk.data)
            end = start + len(chunk)
            x[start:end] = chunk[:, kinds:]
            labels[:, start:end] = chunk[:, :kinds].T
            start = end
        if sha1.hexdigest() != part.sha1:
            file = part.binary if records is _binary_records else part.python
            raise ValueError(
                f"{folder / file} is damaged: its records have SHA-1 "
                f"{sha1.hexdigest()}, expected {part.sha1}; {source.mend}")
    return torch.from_numpy(x).view(count, 3, 32, 32), torch.from_numpy(labels)


def _binary_records(source: Source, folder: Path, part: Part) -> Iterator[np.ndarray]:
    path, width = folder / part.binary, len(source.label_keys) + PIXELS
    expected = part.count * width
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected {expected:,} bytes with SHA-1 {part.sha1}; "
            f"{source.mend}")
    if (size := path.stat().st_size) != expected:
        raise ValueError(
            f"{path} has {size:,} bytes, expected {expected:,}; {source.mend}")
    with path.open("rb") as file:
        for start in range(0, part.count, _CHUNK):
            n = min(_CHUNK, part.count - start)
            yield np.fromfile(file, np.uint8, n * width).reshape(n, width)


def _python_records(source: Source, folder: Path, part: Part) -> Iterator[np.ndarray]:
    path = folder / part.python
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected {part.count:,} images, their binary records "
            f"with SHA-1 {part.sha1}; {source.mend}")
    try:
        content = unpickle(path)
        data = np.frombuffer(content["data"].data,
                             np.uint8).reshape(content["data"].shape)
        labels = [np.array(content[key], np.uint8) for key in source.label_keys]
        shapes = [data.shape, *(y.shape for y in labels)]
        if shapes != [(part.count, PIXELS), *[(part.count,)] * len(labels)]:
            raise Refused(f"images and labels of shapes {shapes}")
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{path} cannot be read ({reason(error, path)}): expected {part.count:,} "
            f"images, their binary records with SHA-1 {part.sha1}; {source.mend}"
        ) from error
    for start in range(0, part.count, _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield np.concatenate([*(y[rows, None] for y in labels), data[rows]], axis=1)


# ----------------------------------------------------- reading pickles without any risk


class Refused(pickle.UnpicklingError):
    """What this reader will not take; only its own text is shown, never that of another
    library, which may advise to read without protection."""


def reason(error: Exception, path: Path) -> str:
    """Why a data file cannot be read, in words of this project."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    with path.open("rb") as file:
        begins = file.read(64)
    if begins.lstrip().startswith(b"<"):
        return "it is a web page, not the file itself"
    if not begins:
        return "it is empty"
    return f"it is cut off, damaged or no such file, {type(error).__name__}"


MOST_CALLS = 64  # of functions in a pickle; an array takes two or three


@contextmanager
def stream(path: Path) -> Iterator[mmap.mmap]:
    """A pickle whose claims were checked: what it says of sizes must fit its own size.

    A few bytes can claim gigabytes, and the standard reader reserves them before it
    looks. Nothing is built or imported here. Raises Refused.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Refused("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            calls = 0
            try:
                for step, argument, _ in pickletools.genops(cast(IO[bytes], content)):
                    calls += step.name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST",
                                           "OBJ", "BUILD")
                    numbers = step.name in ("PUT", "BINPUT", "LONG_BINPUT")
                    if numbers and cast(int, argument) > len(content):
                        raise Refused(f"it numbers a value {argument:,}")
                    if calls > MOST_CALLS:
                        raise Refused(f"it calls more than {MOST_CALLS} functions")
            except (ValueError, IndexError, UnicodeDecodeError) as error:
                raise Refused("it is cut off, or no pickle") from error
            content.seek(0)
            yield content


class _Array:
    """What a pickled uint8 array says of itself: its shape and its bytes. No numpy code
    runs."""

    shape: tuple[int, ...] = ()
    data: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in (b"u1", "u1") or fortran:
            raise Refused("an array is not uint8 in C order")
        if not isinstance(data, bytes):
            raise Refused("an array does not hold plain bytes")
        self.shape, self.data = tuple(shape), data


class _Dtype:
    """The code of a pickled dtype, such as "u1"; its other details mean nothing for
    bytes."""

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


class _Global:
    """What a name in a pickle stands for: it may be called, nothing else."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("a function is given a state")


_RECONSTRUCT = _Global(lambda *_: _Array())
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): _RECONSTRUCT,
    ("numpy", "dtype"): _Global(lambda code, *_: _Dtype(code)),
    ("_codecs", "encode"): _Global(lambda text, _: str.encode(text, "latin1")),
}


class _Unpickler(pickle.Unpickler):
    """Plain Python values and uint8 arrays; every other name is refused, nothing is
    imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise Refused(f"refused, it asks for {module}.{name}")
        return _ALLOWED[module, name]


def unpickle(path: Path) -> dict[str, Any]:
    """A dictionary with text keys from a file of the python layout, by the restricted
    reader.

    Arrays come as objects with `shape` and `data` (bytes), old strings as bytes. Raises
    Refused (a pickle.UnpicklingError) for anything but plain values and uint8 arrays
    and for sizes that do not fit the file, and for a damaged file whatever its damage
    leads to.
    """
    with stream(path) as file:
        content = _Unpickler(file, encoding="bytes").load()
    if not isinstance(content, dict):
        raise Refused(f"it holds a {type(content).__name__}, not a dictionary")
    return {
        k.decode("latin1") if isinstance(k, bytes) else k: v
        for k, v in content.items()
    }
