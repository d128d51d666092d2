"""One file a method, each read beside its paper. `get(name)` imports it.

A method module holds `Settings` (a frozen dataclass extending `engine.Recipe`),
`published(dataset, noise, rate)` (what the authors' settings change for that case) and
`train(task, settings, log)`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from ..ranges import shown

NAMES: tuple[str, ...] = tuple(sorted(
    m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def get(name: str) -> ModuleType:
    """The module of that method; an unknown name is an error that lists the known
    ones."""
    if name not in NAMES:
        near = difflib.get_close_matches(str(name).lower(), NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"unknown method {shown(name)}; allowed: {', '.join(NAMES)}{hint}")
    return importlib.import_module(f"{__name__}.{name}")
