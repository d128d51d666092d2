"""Runs in a file, taken from one machine to another: `pack` and `unpack`.

A bundle holds recorded runs, `runs/<folder of the run>/`, and the checkpoints of runs
that were begun, `checkpoints/<key of the setting>/`, and nothing else. `unpack` refuses
a bundle as a whole when anything in it is not as it should be; it never replaces a
finished run, and it takes a checkpoint only where that helps.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import paths
from ..training import runs, schema
from ..training.runs import Setting, StoreError
from ..wording import deliberate
from . import archive
from .archive import BundleError, Piece, Source, check_target

NAMES = ("run.json", "epochs.csv", "signals.npz")


@dataclass
class Packed:
    """What `pack` wrote: the files, how many runs and checkpoints, and what was left
    out."""

    files: list[Path] = field(default_factory=list)
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


# ------------------------------------------------------------------------------ packing


def pack(file: Path, settings: Iterable[Setting], *, part_mb: float | None = None,
         most_mb: float | None = None) -> Packed:
    """Write the recorded runs of `settings`, and the checkpoints of those begun, to
    `file`.

    Args:
        part_mb: cut into files of at most that many MiB; `runs.tar` is then
            `runs-1of3.tar`, ...
        most_mb: leave checkpoints out, the least advanced first, so that all files
            together have about that many MiB at most. Recorded runs are never left out.

    Without anything to pack no file is written. An earlier bundle of that name gives
    way.

    Raises:
        ValueError: `file` is something else than a bundle; a limit is too small.
        runs.StoreError: a run is damaged, or the files cannot be written.
    """
    from .. import lab

    check_target(file)
    done = Packed()
    with tempfile.TemporaryDirectory(prefix=".pack-", suffix=".tmp",
                                     dir=_cache()) as scratch:
        sources: list[Source] = []
        begun: list[tuple[int, Setting, Path]] = []
        for s in settings:
            folder = paths.runs_dir() / s.path
            if (folder / "run.json").exists():
                runs.load(folder)  # raises where it is damaged
                sources += [
                    Source(f"runs/{s.path.as_posix()}/{n}", (folder / n).read_bytes())
                    for n in NAMES if (folder / n).exists()
                ]
                done.runs += 1
            elif (held := _snapshot(s, Path(scratch))) is not None:
                try:
                    begun.append((_epochs_in(held, s), s, held))
                except StoreError as error:
                    done.left_out.append(f"{s}: {error}")
        checkpoints: dict[str, Any] = {}
        # 2 KiB: headers and padding, generously
        used = sum(x.size + 2_048 for x in sources)
        for epochs, s, held in sorted(begun, key=lambda b: -b[0]):
            files = [
                Source(f"checkpoints/{s.key}/{f.name}", f)
                for f in sorted(held.iterdir())
            ]
            size = sum(x.size + 2_048 for x in files)
            if most_mb is not None and used + size > most_mb * 2**20:
                done.left_out.append(
                    f"{s}: its checkpoint of {size / 2**20:.1f} MiB, {epochs} "
                    f"epochs, is over the limit for all files together")
                continue
            used += size
            sources += files
            checkpoints[s.key] = {"setting": s.as_dict(), "epochs": epochs}
        done.checkpoints = len(checkpoints)
        if sources:
            about = {
                "commit": lab.commit(), "date": runs.now(), "checkpoints": checkpoints
            }
            done.files = archive.write(file, sources, about, part_mb)
    return done


def _epochs_in(folder: Path, s: Setting) -> int:
    """Finished epochs in a folder of checkpoints of this run, all blocks checked."""
    from ..lab import cost
    from ..training import recorder

    if not (found := recorder.epochs_in(folder, cost.total_epochs(s))):
        raise StoreError(f"{folder} holds no checkpoint.")
    return found


def _snapshot(s: Setting, scratch: Path) -> Path | None:
    """The run's checkpoints as they are now: links, which a run that goes on does not
    change."""
    there, here = paths.cache_dir() / "checkpoints" / s.key, scratch / s.key
    for file in sorted(there.glob("block-*.pt")):
        here.mkdir(exist_ok=True)
        try:
            os.link(file, here / file.name)
        except FileNotFoundError:  # the run has just ended
            return None
        except OSError:  # a file system without links
            shutil.copyfile(file, here / file.name)
    return here if here.is_dir() else None


# ---------------------------------------------------------------------------- unpacking


def unpack(files: Sequence[Path], *, dry_run: bool = False) -> Taken:
    """Take in a bundle: all its parts, in any order.

    Recorded runs are added. A finished one that is here already is skipped when it is
    the same, and refused when it is not; a failed one here gives way to a finished one.
    A checkpoint is taken when the run is not recorded here and the checkpoint is
    further than the one here; a failed run is not taken where a checkpoint is.

    Raises:
        BundleError: damaged, foreign or incomplete; then nothing at all is taken.
        runs.StoreError: the store cannot be written.
    """
    content, about = archive.read(files)
    taken = Taken()
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", suffix=".tmp",
                                         dir=_cache()) as tmp:
            for s, folder, epochs in _staged(content, about, Path(tmp)):
                _take(s, folder, epochs, taken, dry_run)
    except OSError as error:
        raise StoreError(
            f"could not unpack ({error.strerror or error}); free the disk or make "
            f"the project's folder writable, and unpack again.") from error
    return taken


def _staged(content: Mapping[str, list[Piece]], about: Mapping[str, Any], scratch: Path
            ) -> list[tuple[Setting, Path, int | None]]:
    """Write the files beside the store and read them back: (setting, folder, epochs
    begun).

    A run whose folder is not its setting's, or a checkpoint that cannot be read, makes
    the whole bundle foreign.
    """
    for name, pieces in content.items():
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as f:
            for piece in pieces:
                f.writelines(piece.chunks())
            f.flush()
            os.fsync(f.fileno())
    found = []
    for folder in dict.fromkeys((scratch / name).parent for name in content):
        name = folder.relative_to(scratch).as_posix()
        try:
            found.append(_identified(name, folder, about))
        except (BundleError, OSError):
            raise
        except Exception as error:  # whatever is in a file that somebody made by hand
            why = "it is not as this program writes it"
            if isinstance(error, (StoreError, ValueError)) and deliberate(error):
                why = str(error).replace(f"{scratch}{os.sep}",
                                         "").split("; delete")[0].rstrip(".")
            raise BundleError(
                f"the bundle holds {name!r}, which cannot be read ({why}).") from error
    return found


def _identified(name: str, folder: Path, about: Mapping[str, Any]
                ) -> tuple[Setting, Path, int | None]:
    """What a staged folder is: (setting, folder, epochs of a checkpoint)."""
    epochs = None
    if name.startswith("runs/"):
        run = runs.load(folder)  # also that folder and setting agree
        _ = run.signals  # raises where they are not as they should be
        if run.info.get("format") != runs.FORMAT:
            raise BundleError(f"the bundle holds {name!r} without a format.")
        s, good = run.setting, True
    else:
        said = about["checkpoints"][folder.name]
        s = Setting.from_dict(schema.check_setting(said["setting"]))
        good = s.key == folder.name and (epochs := _epochs_in(folder,
                                                              s)) == said["epochs"]
    if not good:
        raise BundleError(
            f"the bundle holds {name!r}, which is of another setting than its name "
            f"says.")
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
            _move(folder, place)
            # nothing to go on with any more
            if epochs is None and runs.load(place).finished:
                shutil.rmtree(_checkpoints(s), ignore_errors=True)
    except _Busy:
        taken.not_needed.append(f"{s}: it is being trained here right now")


def _move(folder: Path, place: Path) -> None:
    """Put a folder in its place in one step, also on another disk than the one it lies
    on: then it is copied beside its place first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{place.name}-{uuid.uuid4().hex[:6]}.tmp")
    old = aside.with_suffix(".old")
    try:
        try:
            os.rename(folder, aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copytree(folder, aside)
            for file in aside.iterdir():
                with open(file, "rb") as f:
                    os.fsync(f.fileno())
        if place.exists():
            os.rename(place, old)
        os.rename(aside, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _wanted(s: Setting, folder: Path, epochs: int | None, taken: Taken) -> Path | None:
    """Where a staged folder goes, or None; `taken` is told either way."""
    there = runs.lookup(s)
    if epochs is not None:
        try:
            here = _epochs_in(_checkpoints(s), s) if _checkpoints(s).exists() else 0
        except StoreError:
            here = 0
        if there is None and epochs > here:
            taken.checkpoints.append(f"{s}: {epochs} epochs done")
            return _checkpoints(s)
        taken.not_needed.append(
            f"{s}: it is recorded here, so no checkpoint is needed"
            if there else f"{s}: its checkpoint here has {here} epochs, this {epochs}")
        return None
    finished = runs.load(folder).finished
    if there is None and not finished and any(_checkpoints(s).glob("block-*.pt")):
        taken.not_needed.append(f"{s}: failed there, begun here")
        return None
    if there is None or (finished and not there.finished):
        taken.runs.append(f"{s}{'' if finished else ' (failed)'}")
        return paths.runs_dir() / s.path
    if _identical(folder, paths.runs_dir() / s.path):
        taken.same.append(str(s))
    elif finished:
        taken.refused.append(str(s))
    else:
        taken.not_needed.append(f"{s}: failed there, {there.info.get('status')} here")
    return None


def _checkpoints(s: Setting) -> Path:
    return paths.cache_dir() / "checkpoints" / s.key


def _identical(a: Path, b: Path) -> bool:
    """The same numbers; per-sample signals count only where both have them."""
    both = all((x / "signals.npz").exists() for x in (a, b))
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in NAMES[: 2 + both])


def _cache() -> Path:
    """The cache folder, in which a bundle is staged."""
    folder = paths.cache_dir()
    for there in (folder, paths.runs_dir()):
        if there.is_symlink() and not there.exists():
            raise StoreError(
                f"{there} is a link to {os.readlink(there)}, which is not there; "
                f"mount that disk, or delete the link.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"no folder {folder}: {error.strerror}.") from error
    return folder
