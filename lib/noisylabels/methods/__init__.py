"""One file a method, each read beside its paper. `get(name)` imports it.

A method module holds `Settings` (a frozen dataclass extending `engine.Recipe`),
`published(dataset, noise, rate)` (what the authors' settings change for that case) and
`train(task, settings, log)`. A module of your own is made known by `register`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from ..ranges import shown

# a module of this room is imported when it is asked for; one from outside is there
_MODULES: dict[str, ModuleType | None] = dict.fromkeys(sorted(
    m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))
NAMES = _MODULES.keys()


def register(name: str, module: ModuleType) -> None:
    """Make a method from outside usable by its name. Raises ValueError for a name that
    a method of this room has, and for a module that lacks one of the three."""
    if name in NAMES and _MODULES[name] is None:
        raise ValueError(f"there is a method {name!r} already.")
    if lacks := [n for n in ("Settings", "published", "train")
                 if not hasattr(module, n)]:
        raise ValueError(f"method {name!r} must define {lacks[0]}.")
    _MODULES[name] = module


def get(name: str) -> ModuleType:
    """The module of that method. Raises ValueError, with all names, for another."""
    if name not in NAMES:
        near = difflib.get_close_matches(str(name).lower(), NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"unknown method {shown(name)}; allowed: {', '.join(NAMES)}{hint}")
    return _MODULES.get(name) or importlib.import_module(f"{__name__}.{name}")
