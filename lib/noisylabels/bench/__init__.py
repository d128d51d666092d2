"""The benchmark: what the hardware can do, what we make of it, what the common style
makes.

    timing     alternating rounds, medians, the clock
    ceilings   copy and matrix product; facts about the machine
    loops      the floor loop and ours, eager, compiled, as a CUDA graph
    reference  our re-implementation of the loop that public code usually has
    seeds      several seeds at once on one GPU
    kernels    views, neighbours, mixtures, masks, each alone
    meta_gradient  IEG's meta step, two ways
    waits      how often a step and an epoch wait for the device
    parity     both loops learn equally well; a whole training as an example
    report     ratios, goals, the file, the table

On a CPU a small version of the same table is made; a row that needs a GPU says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .timing import Bench

GROUPS = ("ceilings", "loops", "seeds", "kernels", "meta-gradient", "parity", "waits",
          "teaching")


def check_row(word: str) -> None:
    """Raise a ValueError that names the nearest row or group unless `word` is one."""
    import difflib

    from .. import methods

    names = [
        *GROUPS, *(e.name for entries in _timed().values() for e in entries),
        *(f"waits_{kind}_{m}" for kind in ("step", "epoch") for m in methods.NAMES)
    ]
    if word not in names:
        near = difflib.get_close_matches(word, names, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown row {word!r} (nearest: {near!r}); groups: "
                         f"{', '.join(GROUPS)}.")


def _timed() -> dict[str, list]:
    """Group -> entries that are timed in turns."""
    from . import ceilings, kernels, loops, meta_gradient, reference, seeds

    return {"ceilings": list(ceilings.ENTRIES),
            "loops": [*loops.ENTRIES, *reference.ENTRIES],
            "kernels": [k.entry() for k in kernels.KERNELS],
            "meta-gradient": list(meta_gradient.ENTRIES),
            "seeds": list(seeds.ENTRIES)}


def measure(bench: Bench, with_teaching: bool = False) -> None:
    """Measure all that is wanted; rows are added to `bench.rows` as they come."""
    from . import parity, timing, waits

    work: dict[str, Callable[[], object]] = {
        group: partial(timing.measure, bench, group, entries)
        for group, entries in _timed().items()}
    work |= {
        "waits": lambda: waits.measure(bench), "parity": lambda: parity.measure(bench),
        "teaching": lambda: parity.teaching(bench)
    }
    for group in GROUPS:
        if group != "teaching" or with_teaching or "teaching" in bench.only:
            work[group]()
