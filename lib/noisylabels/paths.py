"""Where the project keeps its things.

`$NOISYLABELS_HOME` names the project folder; without it the folder of this checkout is
used, or the current folder when the package was installed without one.
`$NOISYLABELS_DATA` moves the datasets.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The project's folder: the one that holds `data/`, `notebooks/` and
    `_config.yml`."""
    if given := os.environ.get("NOISYLABELS_HOME"):
        return _folder("NOISYLABELS_HOME", given)
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "_config.yml").exists() else Path.cwd()


def datasets_dir() -> Path:
    """Where CIFAR and the human labels lie (`$NOISYLABELS_DATA`, else
    `data/datasets`)."""
    given = os.environ.get("NOISYLABELS_DATA")
    return _folder("NOISYLABELS_DATA", given) if given else home() / "data" / "datasets"


def _folder(variable: str, given: str) -> Path:
    try:
        return Path(given).expanduser().resolve()
    # no such user, a loop of links
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(
            f"${variable} is {given!r}, which names no folder "
            f"({str(error).rstrip('.')}); give the folder's full path.") from None


def runs_dir() -> Path:
    """Recorded runs: small text, committed."""
    return home() / "data" / "runs"


def cache_dir() -> Path:
    """Checkpoints and locks of runs in progress: never committed."""
    return home() / "data" / "cache"


def plans_dir() -> Path:
    """Which runs a budget is there for, in which order."""
    return home() / "data" / "plans"


def published_dir() -> Path:
    """The papers' own numbers, with their sources."""
    return home() / "data" / "published"
