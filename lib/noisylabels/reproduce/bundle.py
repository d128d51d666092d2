"""Runs taken from one machine to another, in a file or in memory: `pack`, `packed` and
`unpack`.

A bundle is a plain tar file: `manifest.json` (what is in it, with the SHA-256 of each
file and of the manifest itself), recorded runs, `runs/<folder of the run>/`, the
checkpoints of runs that were begun, `checkpoints/<key of the setting>/`, and nothing
else. `unpack` refuses a bundle as a whole when anything in it is not as it should be; it
never replaces a finished run, and it takes a checkpoint only where that helps.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .. import lab, paths
from ..lab import cost
from ..training import recorder, runs, schema
from ..training.runs import Setting, StoreError
from ..wording import deliberate

KIND, MANIFEST = "noisylabels bundle", "manifest.json"
FORMAT = 2  # 1 could be cut into parts; such a bundle is read where it has one part
MOST_MANIFEST = 64 << 20  # bytes
NAMES = ("run.json", "epochs.csv", "signals.npz")

_PART = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"  # of a path; never "." or ".."
PLACE = re.compile(rf"runs(/{_PART}){{4}}/({'|'.join(map(re.escape, NAMES))})"
                   r"|checkpoints/[0-9a-f]{8}/block-[0-9]{1,4}\.pt")


class BundleError(RuntimeError):
    """A bundle that is damaged, foreign or incomplete; nothing of it was taken."""


@dataclass
class Packed:
    """How many runs and checkpoints were packed; what was left out, with the reason."""

    runs: int = 0
    checkpoints: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass
class Taken:
    """What `unpack` did, one sentence a setting. `refused`: finished here with other
    numbers."""

    runs: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    not_needed: list[str] = field(default_factory=list)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in the cache, in which a bundle is put together or taken apart."""
    for folder in (paths.runs_dir(), paths.cache_dir()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"no folder {folder}: {error.strerror}; make its place "
                             "writable, or mount the disk that it links to.") from error
    with tempfile.TemporaryDirectory(prefix=".bundle-", suffix=".tmp",
                                     dir=paths.cache_dir()) as scratch:
        yield Path(scratch)


def _files(folder: Path) -> dict[str, tuple[int, str]]:
    """What lies below the folder and has a place in a bundle: name -> size, SHA-256."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if PLACE.fullmatch(name := file.relative_to(folder).as_posix()):
            with open(file, "rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
            found[name] = (file.stat().st_size, digest)
    return found


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    rest = {k: v for k, v in manifest.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _epochs_in(folder: Path, s: Setting) -> int:
    """Finished epochs in a folder of checkpoints of this run, all blocks checked."""
    if not (found := recorder.epochs_in(folder, cost.total_epochs(s))):
        raise StoreError(f"{folder} holds no checkpoint.")
    return found


# ------------------------------------------------------------------------------ packing


def pack(file: Path, settings: Iterable[Setting], checkpoints: bool = True) -> Packed:
    """Write the recorded runs of `settings`, and the checkpoints of those begun, to
    `file`, in one step. Without anything to pack no file is written. An earlier bundle
    of that name gives way.

    Raises:
        ValueError: `file` is something else than a bundle.
        runs.StoreError: a run is damaged, or the file cannot be written.
    """
    check_target(file)
    new = file.with_name(f".{file.name}-{uuid.uuid4().hex[:6]}.tmp")
    try:
        with open(new, "xb") as f:  # follows no link
            done = _write(f, settings, checkpoints)
            os.fsync(f.fileno())
        if done.runs + done.checkpoints:
            os.replace(new, file)
    except OSError as error:
        raise StoreError(
            f"could not write the bundle {file}: {error.strerror or error}; free the "
            "disk and pack again (the runs are untouched).") from error
    finally:
        new.unlink(missing_ok=True)
    return done


def packed(settings: Iterable[Setting]) -> bytes:
    """The same bundle in memory; b"" without anything to pack."""
    stream = io.BytesIO()
    done = _write(stream, settings)
    return stream.getvalue() if done.runs + done.checkpoints else b""


def check_target(file: Path) -> None:
    """Raise where a bundle cannot be put: something else is there, or the folder is
    closed."""
    if os.path.lexists(file):
        try:
            with tarfile.open(file, "r:") as tar:
                _manifest(tar)
        except (*DAMAGED, OSError) as error:
            raise ValueError(
                f"{file} is there and is no bundle; name another file.") from error
    try:
        file.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"no folder for the bundle {file}: {error.strerror}.") from error
    if not os.access(file.absolute().parent, os.W_OK):
        raise StoreError(f"the folder of the bundle {file} cannot be written to.")


def _write(stream: BinaryIO, settings: Iterable[Setting],
           checkpoints: bool = True) -> Packed:
    done, begun = Packed(), dict[str, Any]()
    with _scratch() as scratch:
        for s in settings:
            folder, held = paths.runs_dir() / s.path, scratch / "checkpoints" / s.key
            if (folder / "run.json").exists():
                runs.load(folder)  # raises where it is damaged
                shutil.copytree(folder, scratch / "runs" / s.path)
                done.runs += 1
            elif checkpoints and any(lab.checkpoints_of(s).glob("block-*.pt")):
                try:  # as it is now; the run may go on, or end
                    shutil.copytree(lab.checkpoints_of(s), held)
                    begun[s.key] = {"setting": s.as_dict(),
                                    "epochs": _epochs_in(held, s)}
                except (StoreError, shutil.Error, FileNotFoundError) as error:
                    shutil.rmtree(held, ignore_errors=True)
                    done.left_out.append(f"{s}: {error}")
        done.checkpoints = len(begun)
        files = _files(scratch)
        manifest = {
            "kind": KIND, "format": FORMAT,
            "about": {"commit": lab.commit(), "date": runs.now(), "checkpoints": begun},
            "files": [{"path": n, "size": k, "sha256": h}
                      for n, (k, h) in files.items()]}
        sealed = json.dumps({**manifest, "seal": checksum(manifest)}).encode()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            _add(tar, MANIFEST, len(sealed), io.BytesIO(sealed))
            for name, (size, _) in files.items():
                with open(scratch / name, "rb") as f:
                    _add(tar, name, size, f)
    return done


def _add(tar: tarfile.TarFile, name: str, size: int, content: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    tar.addfile(info, content)


# ---------------------------------------------------------------------------- unpacking

DAMAGED = (tarfile.TarError, EOFError, ValueError, RecursionError)


def unpack(file: Path | bytes, *, dry_run: bool = False) -> Taken:
    """Take in a bundle.

    Recorded runs are added. A finished one that is here already is skipped when it is
    the same, and refused when it is not; a failed one here gives way to a finished one.
    A checkpoint is taken when the run is not recorded here and the checkpoint is
    further than the one here; a failed run is not taken where a checkpoint is.

    Raises:
        BundleError: damaged, foreign or incomplete; then nothing at all is taken.
        runs.StoreError: the store cannot be written. OSError: the file cannot be read.
    """
    taken, source = Taken(), io.BytesIO(file) if isinstance(file, bytes) else open(
        file, "rb")
    with source, _scratch() as scratch:
        try:
            begun = _staged(source, scratch,
                            "the bundle" if isinstance(file, bytes) else f"{file}")
            folders = dict.fromkeys((scratch / name).parent for name in _files(scratch))
            for s, folder, epochs in [_identified(f, scratch, begun) for f in folders]:
                _take(s, folder, epochs, taken, dry_run)
        except OSError as error:
            raise StoreError(
                f"could not unpack ({error.strerror or error}); free the disk or make "
                "the project's folder writable, and unpack again.") from error
    return taken


def _staged(source: BinaryIO, scratch: Path, name: str) -> dict[str, Any]:
    """Put the files of a bundle into `scratch`, all of them checked; what its packer
    says of the checkpoints in it."""
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            manifest, members = _manifest(tar)
            tar.extractall(scratch, members, filter="data")
        told = {e["path"]: (e["size"], e["sha256"]) for e in manifest["files"]}
        there = _files(scratch)
        if bad := [f for f in {**told, **there} if told.get(f) != there.get(f)]:
            raise ValueError(f"{bad[0]!r} is missing, cut, not listed or has another "
                             "checksum than its manifest says; pack it again")
        return dict(manifest["about"]["checkpoints"])
    except DAMAGED as error:
        raise BundleError(f"{name} is damaged, or no bundle of `noisylabels reproduce "
                          f"--pack` ({str(error).rstrip('.')}).") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{name} has a manifest that cannot be understood.") from error


def _manifest(tar: tarfile.TarFile) -> tuple[dict[str, Any], list[tarfile.TarInfo]]:
    """The manifest of an archive and its other members: plain files, each of a name
    that has a place in a bundle, none twice. Raises what is in `DAMAGED`."""
    first, *members = [*tar] or [tarfile.TarInfo()]
    if first.name != MANIFEST or not 0 < first.size <= MOST_MANIFEST:
        raise ValueError(f"it does not begin with {MANIFEST}")
    seen = set()
    for info in (first, *members):
        known = info is first or PLACE.fullmatch(info.name)
        if not (info.isreg() and not info.issparse() and known) or info.name in seen:
            raise ValueError(f"it holds {info.name!r}, which has no place in a bundle")
        seen.add(info.name)
    content: Any = tar.extractfile(first)
    manifest = json.loads(content.read())
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise ValueError("its manifest is of something else")
    if (known := manifest.get("format")) not in (1, FORMAT):
        raise ValueError(f"it has bundle format {known!r}, known are 1 and {FORMAT}; "
                         "take the version of this program that made it")
    if manifest.get("seal") != checksum(manifest):
        raise ValueError("its manifest has another checksum than it says")
    if (parts := manifest.get("parts", 1)) != 1:
        raise ValueError(f"it is one of {parts!r} parts, which only the version of this "
                         "program that made them puts together")
    return manifest, members


def _identified(folder: Path, scratch: Path, begun: Mapping[str, Any]
                ) -> tuple[Setting, Path, int | None]:
    """What a staged folder is: (setting, folder, epochs of a checkpoint). One that is
    not its setting's, or cannot be read, makes the whole bundle foreign."""
    name, epochs = folder.relative_to(scratch).as_posix(), None
    try:
        if name.startswith("runs/"):
            run = runs.load(folder)  # also that folder and setting agree
            _ = run.signals  # raises where they are not as they should be
            s, good = run.setting, run.info.get("format") == runs.FORMAT
        else:
            s = Setting.from_dict(schema.check_setting(begun[folder.name]["setting"]))
            epochs = _epochs_in(folder, s)
            good = (s.key, epochs) == (folder.name, begun[folder.name]["epochs"])
        if not good:
            raise StoreError("it is of another setting or format than it says")
    except OSError:
        raise
    except Exception as error:  # whatever is in a file that somebody made by hand
        why = "it is not as this program writes it"
        if isinstance(error, (StoreError, ValueError)) and deliberate(error):
            why = str(error).replace(f"{scratch}{os.sep}", "").split("; delete")[0]
        raise BundleError(f"the bundle holds {name!r}, which cannot be read "
                          f"({why.rstrip('.')}).") from error
    return s, folder, epochs


class _Busy(Exception):
    """Another process is training this run."""


def _take(s: Setting, folder: Path, epochs: int | None, taken: Taken,
          dry_run: bool) -> None:
    """Put one staged run or checkpoint in its place, if it is wanted there."""

    def busy() -> None:
        raise _Busy

    try:
        with runs.lock(s, waiting=busy):
            place = _wanted(s, folder, epochs, taken)
            if place is None or dry_run:
                return
            runs.write_all(place, {f.name: f.read_bytes() for f in folder.iterdir()})
            # nothing to go on with any more
            if epochs is None and runs.load(place).finished:
                shutil.rmtree(lab.checkpoints_of(s), ignore_errors=True)
    except _Busy:
        taken.not_needed.append(f"{s}: it is being trained here right now")


def _wanted(s: Setting, folder: Path, epochs: int | None, taken: Taken) -> Path | None:
    """Where a staged folder goes, or None; `taken` is told either way."""
    there, mine, place = runs.lookup(s), lab.checkpoints_of(s), paths.runs_dir() / s.path
    if epochs is not None:
        here = 0
        with suppress(StoreError):
            here = recorder.epochs_in(mine, cost.total_epochs(s))
        if there is None and epochs > here:
            taken.checkpoints.append(f"{s}: {epochs} epochs done")
            return mine
        taken.not_needed.append(
            f"{s}: it is recorded here, so no checkpoint is needed"
            if there else f"{s}: its checkpoint here has {here} epochs, this {epochs}")
        return None
    finished = runs.load(folder).finished
    if there is None and not finished and any(mine.glob("block-*.pt")):
        taken.not_needed.append(f"{s}: failed there, begun here")
    elif there is None or (finished and not there.finished):
        taken.runs.append(f"{s}{'' if finished else ' (failed)'}")
        return place
    elif _identical(folder, place):
        taken.same.append(str(s))
    elif finished:
        taken.refused.append(str(s))
    else:
        taken.not_needed.append(
            f"{s}: failed there, {there.info.get('status')} here")
    return None


def _identical(a: Path, b: Path) -> bool:
    """The same numbers; per-sample signals count only where both have them."""
    both = all((x / "signals.npz").exists() for x in (a, b))
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in NAMES[: 2 + both])
