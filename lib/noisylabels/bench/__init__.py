"""The benchmark: what the hardware can do, what we make of it, what the common style
makes.

    timing     rounds that take turns, the clock
    loops      the floor and ours, eager, compiled, as a CUDA graph; several seeds
    reference  our re-implementation of the loop that public code usually has; parity
    kernels    ceilings; views, neighbours, mixtures, masks, each alone
    meta_gradient  IEG's meta step, two ways
    waits      how often a step and an epoch wait for the device
    report     ratios, goals, the file

On a CPU a small version of the same table is made; a row that needs a GPU says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .timing import Bench

GROUPS = ("ceilings", "loops", "seeds", "kernels", "meta-gradient", "parity", "waits",
          "teaching")


def entries() -> dict[str, list[Any]]:
    """Group -> the entries that are timed in turns."""
    from . import kernels, loops, meta_gradient, reference

    return {"ceilings": kernels.CEILINGS, "loops": loops.ENTRIES + reference.ENTRIES,
            "seeds": loops.SEEDS, "kernels": kernels.KERNELS,
            "meta-gradient": meta_gradient.ENTRIES}


def check_row(word: str) -> None:
    """Raise a ValueError that names the nearest row or group unless `word` is one."""
    from .. import methods, wording

    names = [*GROUPS, *(e.name for some in entries().values() for e in some),
             *(f"waits_{k}_{m}" for k in ("step", "epoch") for m in methods.NAMES)]
    if word not in names:
        raise ValueError(f"unknown row {word!r}{wording.nearest(word, names)}; groups: "
                         f"{', '.join(GROUPS)}.")


def measure(bench: Bench, with_teaching: bool = False) -> None:
    """Measure all that is wanted; rows are added to `bench.rows` as they come."""
    import torch

    from . import reference, timing, waits

    others = {"parity": reference.parity, "waits": waits.measure, "teaching": teaching}
    timed = entries()
    for group in GROUPS:
        if group in timed:
            timing.measure(bench, group, timed[group])
        elif group != "teaching" or with_teaching or group in bench.only:
            others[group](bench)
        torch.cuda.empty_cache()


def teaching(bench: Bench) -> None:
    """Rows `teaching` and `teaching_seconds`: a whole training as an example, ResNet-9
    on clean CIFAR-10 by the `fast` budget."""
    from .. import lab
    from ..training import engine
    from .timing import Row, find

    def train(hit: Row, took: Row) -> None:
        s = lab.setting("cross_entropy", "cifar10", "none", 0.0, "fast",
                        val_fraction=0.0)
        run, _ = lab.watch(s, execution=engine.Execution(str(bench.device), graph=True))
        hit.values, took.values = [run.last()], [run.info["seconds"]]
        hit.note = (f"{run.info['epochs']} epochs, "
                    f"{run.info['seconds_per_epoch']:.2f} s each")

    find(bench, "teaching", (
        ("teaching", "ResNet-9 on clean CIFAR-10, fast budget: test accuracy", "share"),
        ("teaching_seconds", "the same, training and evaluation", "s")), train, True)
