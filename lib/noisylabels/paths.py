"""Where the project keeps its things.

`$NOISYLABELS_HOME` names the project folder; without it the folder of this checkout is used, or
the current folder when the package was installed without one. `$NOISYLABELS_DATA` moves the
datasets.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The project's folder: the one that holds `data/`, `notebooks/` and `_config.yml`."""
    if given := os.environ.get("NOISYLABELS_HOME"):
        return Path(given).expanduser().resolve()
    checkout = Path(__file__).resolve().parents[2]
    return checkout if (checkout / "_config.yml").exists() else Path.cwd()


def datasets_dir() -> Path:
    """Where CIFAR and the human labels lie (`$NOISYLABELS_DATA`, else `data/datasets`)."""
    given = os.environ.get("NOISYLABELS_DATA")
    return Path(given).expanduser().resolve() if given else home() / "data" / "datasets"


def runs_dir() -> Path:
    """Recorded runs: small text, committed."""
    return home() / "data" / "runs"


def cache_dir() -> Path:
    """Checkpoints and locks of runs in progress: never committed."""
    return home() / "data" / "cache"


def published_dir() -> Path:
    """The papers' own numbers, with their sources."""
    return home() / "data" / "published"
