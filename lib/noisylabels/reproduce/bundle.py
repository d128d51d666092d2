"""Runs taken from one machine to another, in a file or in memory: `pack`, `packed` and
`unpack`.

A bundle is a plain tar file: `manifest.json` (what is in it, with the SHA-256 of each
file and of the manifest itself), recorded runs, `runs/<folder of the run>/`, the
checkpoints of runs that were begun, `checkpoints/<key of the setting>/`, and nothing
else. `unpack` refuses a bundle as a whole when anything in it is not as it should be;
it never replaces a finished run, and it takes a checkpoint only where that helps.
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
from ..wording import count, deliberate, shown, size

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

    def told(self, file: Path) -> str:
        """In words, where it was packed to `file`."""
        what = "nothing to pack yet: no bundle was written"
        if self.runs + self.checkpoints:
            what = (f"packed {count(self.runs, 'run')} and "
                    f"{count(self.checkpoints, 'checkpoint')}, "
                    f"{size(file.stat().st_size)}: {shown(file.absolute())}")
        return "\n".join(
            [*(f"left out of the bundle: {x}" for x in self.left_out), what])


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
    folder = file.absolute().parent
    try:
        if os.path.lexists(file):
            with tarfile.open(file, "r:") as tar:
                _manifest(tar)
    except (*DAMAGED, OSError) as error:
        raise ValueError(
            f"{file} is there and is no bundle; name another file.") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StoreError(
            f"no folder for the bundle {file}: {error.strerror}.") from error


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
                    epochs = recorder.epochs_in(held, cost.total_epochs(s))
                    begun[s.key] = {"setting": s.as_dict(), "epochs": epochs}
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
        (scratch / MANIFEST).write_bytes(sealed)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name in (MANIFEST, *files):
                info = tarfile.TarInfo(name)
                info.size = (scratch / name).stat().st_size
                with open(scratch / name, "rb") as f:
                    tar.addfile(info, f)
    return done


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
    name = "the bundle" if isinstance(file, bytes) else f"{file}"
    taken, source = Taken(), (
        io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb"))
    with source, _scratch() as scratch:
        try:
            for found in _checked(source, scratch, name):
                _take(*found, taken, dry_run)
        except OSError as error:
            raise StoreError(
                f"could not unpack ({error.strerror or error}); free the disk or make "
                "the project's folder writable, and unpack again.") from error
    return taken


def _checked(source: BinaryIO, scratch: Path, name: str
             ) -> list[tuple[Path, Setting, int | None]]:
    """Put the files of a bundle into `scratch`; every folder of it as (folder, setting,
    epochs of a checkpoint), when all of them are what the manifest says."""
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            manifest, members = _manifest(tar)
            tar.extractall(scratch, members, filter="data")
        told = {e["path"]: (e["size"], e["sha256"]) for e in manifest["files"]}
        begun, there = dict(manifest["about"]["checkpoints"]), _files(scratch)
        if bad := [f for f in {**told, **there} if told.get(f) != there.get(f)]:
            raise ValueError(f"{bad[0]!r} is missing, cut, not listed or has another "
                             "checksum than its manifest says; pack it again")
    except DAMAGED as error:
        raise BundleError(f"{name} is damaged, or no bundle of `noisylabels reproduce "
                          f"--pack` ({str(error).rstrip('.')}).") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{name} has a manifest that cannot be understood.") from error
    return [(f, *_identified(f, scratch, begun))
            for f in dict.fromkeys((scratch / name).parent for name in there)]


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
        raise ValueError(
            f"it is one of {parts!r} parts, which only the version of this "
            "program that made them puts together")
    return manifest, members


def _identified(folder: Path, scratch: Path, begun: Mapping[str, Any]
                ) -> tuple[Setting, int | None]:
    """What a folder is: (setting, epochs of a checkpoint). One that is not its
    setting's, or cannot be read, makes the whole bundle foreign."""
    name, epochs = folder.relative_to(scratch).as_posix(), None
    try:
        if name.startswith("runs/"):
            run = runs.load(folder)  # also that folder and setting agree
            _ = run.signals  # raises where they are not as they should be
            s, good = run.setting, run.info.get("format") == runs.FORMAT
        else:
            s = Setting.from_dict(schema.check_setting(begun[folder.name]["setting"]))
            epochs = recorder.epochs_in(folder, cost.total_epochs(s))
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
    return s, epochs


class Busy(Exception):
    """Another process is training this run."""


def busy() -> None:
    """Instead of waiting for that process (see `runs.lock`)."""
    raise Busy


def _take(folder: Path, s: Setting, epochs: int | None, taken: Taken,
          dry_run: bool) -> None:
    """Put one checked run or checkpoint in its place, if it is wanted there."""
    try:
        with runs.lock(s, waiting=busy):
            kind, said = _fate(s, folder, epochs)
            if kind in ("runs", "checkpoints") and not dry_run:
                mine, place = lab.checkpoints_of(s), paths.runs_dir() / s.path
                runs.write_all(place if kind == "runs" else mine,
                               {f.name: f.read_bytes() for f in folder.iterdir()})
                # nothing to go on with any more
                if kind == "runs" and runs.load(place).finished:
                    shutil.rmtree(mine, ignore_errors=True)
    except Busy:
        kind, said = "not_needed", f"{s}: it is being trained here right now"
    getattr(taken, kind).append(said)


def _fate(s: Setting, folder: Path, epochs: int | None) -> tuple[str, str]:
    """What becomes of a checked folder: a field of `Taken`, and its sentence."""
    there, mine, here = runs.lookup(s), lab.checkpoints_of(s), 0
    if epochs is not None:
        with suppress(StoreError):
            here = recorder.epochs_in(mine, cost.total_epochs(s))
        if there is not None:
            return "not_needed", f"{s}: it is recorded here, so no checkpoint is needed"
        if epochs > here:
            return "checkpoints", f"{s}: {epochs} epochs done"
        why = f"{s}: its checkpoint here has {here} epochs, this {epochs}"
        return "not_needed", why
    finished = runs.load(folder).finished
    if there is None and not finished and any(mine.glob("block-*.pt")):
        return "not_needed", f"{s}: failed there, begun here"
    if there is None or (finished and not there.finished):
        return "runs", f"{s}{'' if finished else ' (failed)'}"
    if _identical(folder, paths.runs_dir() / s.path):
        return "same", str(s)
    return ("refused", str(s)) if finished else (
        "not_needed", f"{s}: failed there, {there.info.get('status')} here")


def _identical(a: Path, b: Path) -> bool:
    """The same numbers; per-sample signals count only where both have them."""
    both = all((x / "signals.npz").exists() for x in (a, b))
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in NAMES[: 2 + both])
