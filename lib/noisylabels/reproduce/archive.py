"""The file format of bundles: plain tar files with a manifest, written in one step,
fully checked.

Each part begins with `manifest.json`: format, commit, `about` (what the packer says of
the content), the list of all files of all parts with their SHA-256, the pieces in this
part, and `seal`, a checksum of the manifest itself. A file that does not fit into a
part is cut.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..training.runs import StoreError

FORMAT = 1
KIND = "noisylabels bundle"
MANIFEST = "manifest.json"
MOST_MANIFEST = 64 << 20  # bytes
MOST_PARTS = 10_000
BLOCK, RECORD = 512, 10_240  # of a tar file
CHUNK = 1 << 20
LEAST_PIECE = 64 * BLOCK  # no file is cut into smaller pieces

_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"  # of a path; never "." or ".."
RUN = re.compile(
    rf"runs/({_PART}(?:/{_PART}){{3}})/(run\.json|epochs\.csv|signals\.npz)")
CHECKPOINT = re.compile(r"checkpoints/([0-9a-f]{8})/(block-[0-9]{1,4}\.pt)")
TWICE = "a part of the bundle is given twice; name each once."
WHOSE = "no bundle of `noisylabels reproduce --pack`"


class BundleError(RuntimeError):
    """A bundle that is damaged, foreign or incomplete; nothing of it was taken."""


class Source(NamedTuple):
    """A file to be packed: its name in the bundle, and its content or where that is."""

    name: str
    content: bytes | Path

    @property
    def size(self) -> int:
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def chunks(self, begin: int, size: int) -> Iterator[bytes]:
        content = self.content
        with io.BytesIO(content) if isinstance(content, bytes) else open(content,
                                                                         "rb") as f:
            yield from _chunks(f, begin, size)


class Slice(NamedTuple):
    """Bytes `begin` to `begin + size` of a file, the `number`-th piece of it."""

    source: Source
    begin: int
    size: int
    number: int

    @property
    def name(self) -> str:
        whole = self.begin == 0 and self.size == self.source.size
        return self.source.name if whole else f"{self.source.name}~{self.number}"


class Piece(NamedTuple):
    """Where a piece of a file lies: archive, its place there, its place in the file."""

    archive: Path
    at: int
    begin: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        with open(self.archive, "rb") as f:
            yield from _chunks(f, self.at, self.size)


def _chunks(handle: Any, begin: int, size: int) -> Iterator[bytes]:
    handle.seek(begin)
    while size > 0 and (chunk := handle.read(min(CHUNK, size))):
        size -= len(chunk)
        yield chunk


# ------------------------------------------------------------------------------ writing


def check_target(file: Path) -> None:
    """Raise where a bundle cannot be put: something else is there, or the folder is
    closed."""
    folder = file.absolute().parent
    if os.path.lexists(file) and not is_bundle(file):
        raise ValueError(f"{file} is there and is no bundle; name another file.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"no folder for the bundle {file}: {error.strerror}.") from error
    if not os.access(folder, os.W_OK):
        raise StoreError(f"the folder of the bundle {file} cannot be written to.")


def write(file: Path, sources: Sequence[Source], about: Mapping[str, Any],
          part_mb: float | None = None) -> list[Path]:
    """Write `sources` to `file`, or to files `stem-1of3.tar`, ... of at most `part_mb`
    MiB.

    Temporary names first, then all are renamed; an earlier bundle of that name gives
    way.
    """
    files = []
    for source in sources:
        digest = hashlib.sha256()
        for chunk in source.chunks(0, source.size):
            digest.update(chunk)
        files.append(
            {"path": source.name, "size": source.size, "sha256": digest.hexdigest()})
    common = {"kind": KIND, "format": FORMAT, "about": dict(about), "files": files}
    parts = _layout(sources, len(json.dumps(common)), part_mb)
    n = len(parts)
    names = [file] if n == 1 else [
        file.with_name(f"{file.stem}-{k + 1}of{n}{file.suffix}") for k in range(n)
    ]
    for name in names:
        check_target(name)
    temporary = [
        name.with_name(f".{name.name}-{uuid.uuid4().hex[:6]}.tmp") for name in names
    ]
    try:
        for k, part in enumerate(parts):
            pieces = [{
                "name": x.name, "path": x.source.name, "begin": x.begin, "size": x.size
            } for x in part]
            manifest = {**common, "part": k + 1, "parts": n, "pieces": pieces}
            sealed = json.dumps({**manifest, "seal": checksum(manifest)}).encode()
            _write_part(temporary[k], sealed, part)
        for new, name in zip(temporary, names, strict=True):
            os.replace(new, name)
    except OSError as error:
        raise StoreError(
            f"could not write the bundle {file}: {error.strerror or error}; free the "
            f"disk and pack again (the runs are untouched).") from error
    finally:
        for new in temporary:
            new.unlink(missing_ok=True)
    for old in namesakes(file):
        if old.name not in {p.name for p in names} and is_bundle(old):
            old.unlink()
    return names


def namesakes(file: Path) -> list[Path]:
    """What is there under the name of this bundle or of any part of it."""
    like = re.compile(re.escape(file.stem) + r"(-\d+of\d+)?" + re.escape(file.suffix))
    return sorted(p for p in file.absolute().parent.iterdir() if like.fullmatch(p.name))


def _write_part(path: Path, manifest: bytes, part: Sequence[Slice]) -> None:
    with tarfile.open(path, "x", format=tarfile.USTAR_FORMAT) as tar:  # follows no link
        tar.addfile(_member(MANIFEST, len(manifest)), io.BytesIO(manifest))
        for x in part:
            stream: Any = _Stream(x.source.chunks(x.begin, x.size))
            tar.addfile(_member(x.name, x.size), stream)
    with open(path, "rb") as f:
        os.fsync(f.fileno())


class _Stream:
    """Chunks as a file to read from: a large checkpoint is never whole in memory."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.left = chunks, b""

    def read(self, size: int) -> bytes:
        while len(self.left) < size and (more := next(self.chunks, b"")):
            self.left += more
        out, self.left = self.left[:size], self.left[size:]
        return out


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def _layout(sources: Sequence[Source], common: int,
            part_mb: float | None) -> list[list[Slice]]:
    """Which pieces go into which part."""
    if part_mb is None:
        return [[Slice(x, 0, x.size, 1) for x in sources]]
    # what is left beside the manifest with its header, the end mark, and what tar pads
    most = int(part_mb * (1 << 20)) // RECORD * RECORD - common - 6 * BLOCK
    parts: list[list[Slice]] = [[]]
    used = 0
    for source in sources:
        # its line in the manifest, its header
        about = 2 * len(source.name) + 100 + BLOCK
        begin, number = 0, 1
        while begin < source.size or number == 1:
            room = (most - used - about) // BLOCK * BLOCK
            left = source.size - begin
            if room < min(left, LEAST_PIECE):
                if not parts[-1]:
                    raise ValueError(
                        f"parts of {part_mb:g} MiB are too small for this bundle; "
                        f"take larger ones.")
                parts.append([])
                used = 0
                continue
            size = min(left, room)
            parts[-1].append(Slice(source, begin, size, number))
            used += about + -(-size // BLOCK) * BLOCK
            begin, number = begin + size, number + 1
    return parts


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------ reading


def read(files: Sequence[Path]) -> tuple[dict[str, list[Piece]], dict[str, Any]]:
    """Check all parts of one bundle: (name -> pieces of that file, `about`). Writes
    nothing.

    Raises BundleError unless every part is there and every file has the size and the
    checksum of the manifest, and a name that bundles may hold.
    """
    manifests: dict[Path, dict[str, Any]] = {}
    pieces: dict[str, list[Piece]] = {}
    if len({path.resolve() for path in files}) < len(files):
        raise BundleError(TWICE)
    for path in files:
        manifest, members = _open(path)
        manifests[path] = manifest
        for piece in manifest["pieces"]:
            info = members.pop(piece["name"], None)
            if info is None or info.size != piece["size"]:
                raise BundleError(
                    f"{path} is damaged: {piece['name']!r} is missing or cut.")
            pieces.setdefault(piece["path"], []).append(
                Piece(path, info.offset_data, piece["begin"], piece["size"]))
        if members:
            raise BundleError(
                f"{path} holds {sorted(members)[0]!r}, which its manifest does not "
                f"list.")
    begin = next(iter(manifests))
    first = manifests[begin]
    for path, manifest in manifests.items():
        if any(manifest[k] != first[k] for k in ("files", "about", "parts")):
            raise BundleError(
                f"{path} belongs to another bundle than {begin}; unpack one bundle "
                f"at a time, with all its parts.")
    numbers = sorted(m["part"] for m in manifests.values())
    if lacking := set(range(1, first["parts"] + 1)) - set(numbers):
        raise BundleError(
            f"the bundle has {first['parts']} parts, and of these are missing: "
            f"{', '.join(map(str, sorted(lacking)))}; name all of them.")
    if len(numbers) != first["parts"]:
        raise BundleError(TWICE)
    whole: dict[str, list[Piece]] = {}
    for entry in first["files"]:
        name = entry["path"]
        if name in whole or not (RUN.fullmatch(name) or CHECKPOINT.fullmatch(name)):
            raise BundleError(f"the bundle lists {name!r}, which has no place in one.")
        whole[name] = sorted(pieces.pop(name, []), key=lambda p: p.begin)
        if _digest(whole[name]) != (entry["size"], entry["sha256"]):
            raise BundleError(
                f"the bundle is damaged: {name!r} has another checksum than the "
                f"manifest says; pack it again.")
    if pieces:
        raise BundleError(
            f"the bundle has pieces of {sorted(pieces)[0]!r}, which its manifest "
            f"does not list.")
    return whole, first["about"]


def is_bundle(path: Path) -> bool:
    """Whether `path` is a part of a bundle, by its manifest."""
    try:
        _open(path)
    except (BundleError, OSError):
        return False
    return True


def _open(path: Path) -> tuple[dict[str, Any], dict[str, tarfile.TarInfo]]:
    """The manifest of one archive and its other members by name; only plain files are
    let in."""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if not members and info.name != MANIFEST:
                    raise BundleError(
                        f"{path} does not begin with {MANIFEST}: it is {WHOSE}.")
                plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                if not plain or not _allowed(info.name) or info.name in members:
                    raise BundleError(
                        f"{path} holds {info.name!r}, which has no place in a "
                        f"bundle; it was not made by this program.")
                members[info.name] = info
            info = members.pop(MANIFEST, tarfile.TarInfo())
            if not 0 < info.size <= MOST_MANIFEST:
                raise BundleError(f"{path} has no {MANIFEST}: it is {WHOSE}.")
            # type: ignore[union-attr]
            manifest = json.loads(tar.extractfile(info).read())
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged, or {WHOSE} ({error}).") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise BundleError(f"{path} is {WHOSE}: its manifest is of something else.")
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{path} has bundle format {manifest.get('format')!r}, known is "
            f"{FORMAT}; take the version of this program that made it.")
    if manifest.get("seal") != checksum(manifest):
        raise BundleError(
            f"{path} is damaged: its manifest has another checksum than it says; "
            f"pack it again.")
    _check_form(manifest, path)
    return manifest, members


def _allowed(name: str) -> bool:
    name = re.sub(r"~[0-9]{1,6}$", "", name)
    return name == MANIFEST or bool(RUN.fullmatch(name) or CHECKPOINT.fullmatch(name))


def _check_form(manifest: Mapping[str, Any], path: Path) -> None:
    """A manifest must have the entries of this format, of the right types."""

    def good(value: Any, kind: type) -> bool:
        right = isinstance(value, kind) and not isinstance(value, bool)
        return right and not (isinstance(value, int) and value < 0)

    lists = {"files": {"path": str, "size": int, "sha256": str},
             "pieces": {"name": str, "path": str, "begin": int, "size": int}}
    part: Any = manifest.get("part")
    parts: Any = manifest.get("parts")
    fine = isinstance(part, int) and isinstance(
        parts, int) and 1 <= part <= parts <= MOST_PARTS
    fine = fine and good(manifest.get("about"), dict)
    for name, form in lists.items():
        fine = fine and good(manifest.get(name), list) and all(
            good(entry, dict) and set(entry) == set(form)
            and all(good(entry[k], kind) for k, kind in form.items())
            for entry in manifest[name])
    if not fine:
        raise BundleError(f"{path} has a manifest that cannot be understood.")


def _digest(pieces: Sequence[Piece]) -> tuple[int, str]:
    """Size and SHA-256 of a file in pieces; -1 where they leave a gap or overlap."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        if piece.begin != size:
            return -1, ""
        for chunk in piece.chunks():
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()
