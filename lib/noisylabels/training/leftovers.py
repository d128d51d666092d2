"""What kills leave in the store and the cache, beside the records."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .. import paths
from . import runs

AN_HOUR = 3600.0  # seconds; what is younger may be somebody's writing under way


def checkpoints() -> Iterator[Path]:
    """The folders of checkpoints, each named by the key of its run."""
    top = paths.cache_dir() / "checkpoints"
    for folder in sorted(top.iterdir()) if top.is_dir() else ():
        if not folder.name.startswith(".") and any(folder.glob("block-*.pt")):
            yield folder


def useless(finished: set[str]) -> list[Path]:
    """What is of no more use: checkpoints of finished runs (by their keys), and hidden
    folders and files of writings that a kill has ended an hour ago or before."""
    left = [f for f in checkpoints() if f.name in finished]
    now = time.time()
    for top, patterns in (
        (paths.runs_dir(), ("*/*/*/.*.tmp", "*/*/*/.*.old", "*/*/*/*/.*.tmp")),
        (paths.cache_dir(), (".*.tmp", "checkpoints/*/*.tmp",
                             "checkpoints/.*.tmp", "checkpoints/.*.old")),
    ):  # fmt: skip
        for path in (p for pattern in patterns for p in sorted(top.glob(pattern))):
            with suppress(OSError):  # it has just gone
                if now - path.lstat().st_mtime > AN_HOUR:
                    left.append(path)
    return left


def delete(path: Path) -> bool:
    """Delete a file or folder, and say whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    return not os.path.lexists(path)


def records_elsewhere() -> list[Path]:
    """run.json files of the store that lie in no folder of a run."""
    top = paths.runs_dir()
    at = {p: p.relative_to(top).parts for p in sorted(top.rglob("run.json"))}
    return [p for p, parts in at.items() if len(parts) != runs.DEPTH + 1
            and not any(x.startswith(".") for x in parts)]
