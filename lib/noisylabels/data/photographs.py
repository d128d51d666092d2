"""What the pages show of real photographs, kept so that every reader sees the same.

A page must not depend on whether CIFAR lies on the machine that builds it. What it
computes from real photographs is therefore computed once, with the data, and kept under
`data/photographs/PAGE` as a small file of arrays, which every build reads. The page's
parameter `photographs` says which:

    recorded    read what is kept (the default; needs no data)
    here        compute it anew on this machine, keep nothing (needs the data)
    record      compute it anew and keep it in place of the old one (needs the data)

    noisylabels page mixnn -p photographs here

Arrays whose name begins with `images` are thumbnails. Of CIFAR at most 80 are kept in
all pages together (credit: A. Krizhevsky, Learning Multiple Layers of Features from
Tiny Images, 2009).
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import paths

WAYS = ("recorded", "here", "record")
MOST_BYTES = 1_000_000  # kept for a page
MOST_IMAGES = 80  # thumbnails kept for all pages together
CREDIT = (
    "Photographs: CIFAR-10 and CIFAR-100, A. Krizhevsky, *Learning Multiple Layers of "
    "Features from Tiny Images*, 2009.")
Arrays = dict[str, np.ndarray]


def folder() -> Path:
    return paths.home() / "data" / "photographs"


def get(page: str, name: str, make: Callable[[], Mapping[str, Any]],
        how: str = "recorded", *, root: Path | None = None) -> Arrays:
    """The arrays that a page shows under that name.

    Args:
        page, name: where they are kept, `data/photographs/PAGE/NAME.npz`.
        make: computes them from the data, as a mapping from names to arrays, tensors,
            numbers, truth values or texts. Called only by "here" and "record".
        how: the page's parameter `photographs`, one of `WAYS`.
        root: the folder in place of `data/photographs`.

    The arrays come back in the same types whichever way they came: through a file's
    bytes.

    Raises ValueError for another `how`, for what is no array of plain values, and for
    more than `MOST_BYTES` a page or `MOST_IMAGES` thumbnails in all (nothing is written
    then); FileNotFoundError, with the command that makes it, where nothing is kept.
    """
    if how not in WAYS:
        raise ValueError(f"photographs is {how!r}; allowed: {', '.join(WAYS)}.")
    path = (folder() if root is None else root) / page / f"{name}.npz"
    if how == "recorded":
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; it comes with the project's files; with CIFAR at "
                f"hand `noisylabels page {page} -p photographs record` makes it.")
        return _read(path.read_bytes(), path)
    packed = _pack(make())
    if how == "record":
        _fits(path, packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        part.write_bytes(packed)
        part.replace(path)
    return _read(packed, path)


def _pack(found: Mapping[str, Any]) -> bytes:
    """The bytes of an .npz, the same for the same arrays."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, value in found.items():
            value = value.detach().cpu().numpy() if hasattr(
                value, "detach") else np.asarray(value)
            if value.dtype.kind not in "biufU":
                raise ValueError(
                    f"{name!r} is no array of numbers, truth values or texts but of "
                    f"{value.dtype}.")
            one = io.BytesIO()
            np.lib.format.write_array(one, value, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), one.getvalue(),
                             zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _read(packed: bytes, path: Path) -> Arrays:
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as damage:
        raise ValueError(
            f"{path} is damaged ({damage}); take it from the project's files "
            "again.") from None


def thumbnails(arrays: Mapping[str, np.ndarray]) -> int:
    """How many of the arrays' images are thumbnails: (n, 3, H, W), their name begins
    so."""
    return sum(len(a) for name, a in arrays.items() if name.startswith("images"))


def _fits(path: Path, packed: bytes) -> None:
    others = [p for p in path.parent.parent.glob("*/*.npz") if p != path]
    size = len(packed) + sum(p.stat().st_size
                             for p in others if p.parent == path.parent)
    if size > MOST_BYTES:
        raise ValueError(
            f"{path.parent.name} would keep {size:,} bytes; at most {MOST_BYTES:,} a "
            "page. Keep fewer or smaller arrays (float16, uint8).")
    count = thumbnails(_read(packed, path))
    count += sum(thumbnails(_read(p.read_bytes(), p)) for p in others)
    if count > MOST_IMAGES:
        raise ValueError(
            f"{count} thumbnails would be kept for all pages; at most {MOST_IMAGES}.")
