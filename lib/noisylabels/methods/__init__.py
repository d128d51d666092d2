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

NAMES: tuple[str, ...] = tuple(sorted(
    m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def get(name: str) -> ModuleType:
    """The module of that method; an unknown name is an error that lists the known ones."""
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(f"unknown method {name!r}; allowed: {', '.join(NAMES)}{hint}")
    return importlib.import_module(f"{__name__}.{name}")
