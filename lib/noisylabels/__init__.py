"""Learning with noisy labels, rebuilt and rerun: the thin library behind the book.

Where to begin:

    lab         setting, run, watch: from a setting to a recorded run
    methods     one file a method, each read beside its paper
    noise       corrupt: every noise model of the four papers
    datasets    load: CIFAR-10 and CIFAR-100, human labels, the digits
    kernels     views, objectives, mixtures, neighbours: plain functions of tensors
    engine      what every training loop shares
    runs        find, load: the recorded runs
    figures     the figures and tables of the pages
    published   what the papers print, and the rule of a verdict

    >>> from noisylabels import lab
    >>> run = lab.run(lab.setting("mixnn", "digits", "symmetric", 0.4))
    >>> run.last
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import kernels, lab, methods, noise
    from .data import datasets
    from .evidence import figures, published
    from .training import engine, runs

__all__ = [
    "datasets", "engine", "figures", "kernels", "lab", "methods", "noise", "published",
    "runs",
]
_ROOMS = {"datasets": "data", "engine": "training", "runs": "training",
          "figures": "evidence", "published": "evidence"}


def __getattr__(name: str) -> ModuleType:
    """The modules above, imported when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = f"{_ROOMS[name]}." if name in _ROOMS else ""
    return importlib.import_module(f"{__name__}.{room}{name}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
