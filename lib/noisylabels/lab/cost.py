"""What a run costs here: from recorded runs like it, or from a short timing of this
machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import lab, methods
from ..data import datasets
from ..kernels import views
from ..training import engine, networks, runs
from ..training.runs import Setting

SIZES = datasets.SIZES
Images, images = lab.Images, lab.images

FACTORS = {
    "cross_entropy": 1.0, "gce": 1.0, "elr": 1.0, "mixup": 1.0, "mixnn": 5 / 3,
    "drpl": 5 / 3, "ieg": 23 / 3, "dividemix": 13.0, "sanm": 22.0,
}  # fmt: skip
"""Forward and backward passes of an epoch of the published step, as multiples of cross
entropy's (a backward pass counts as two forward ones; whole-set passes and second
networks included)."""

STEP_TIMED = 3e10
"""Operations of a step that is timed on a CPU, under a second; a larger network takes
as many images at once as fit in, since an image costs a CPU about the same in any
batch."""

LONG_STEP = 2.0  # seconds: one such step tells enough

OPTIONS_OF_COST = ("network", "batch_size", "precision")


def total_epochs(s: Setting) -> int:
    """All epochs of all stages."""
    return lab.total_epochs(s, images(s).train)


# ------------------------------------------------------------------- from recorded runs


def recorded(s: Setting, device: str) -> tuple[float, int] | None:
    """(seconds, from how many runs): finished runs on this hardware that differ in
    little, scaled.

    The same are the method, the data set, the network, the batch and the precision;
    epochs and number of images are scaled to those of `s`.
    """
    same = {k: s.options[k] for k in OPTIONS_OF_COST if k in s.options}
    here, n = engine.hardware(device), images(s)
    work = _work(n)
    times = []
    with warnings.catch_warnings():  # of what is left out; other commands say it
        warnings.simplefilter("ignore", runs.RecordWarning)
        like = runs.find(method=s.method, dataset=s.dataset, **same)
    for run in like:
        if run.info.get("hardware") == here and run.info.get("epochs"):
            epoch = run.info["seconds"] / run.info["epochs"]
            times.append(epoch * work / _work(images(run.setting)) * total_epochs(s))
    return (statistics.median(times), len(times)) if times else None


def _work(n: lab.Images, factor: float = 1.0) -> float:
    """An epoch in images trained on; an image that is only looked at counts as a
    third."""
    return factor * n.train + (n.test + min(lab.PROBE, n.train) + n.val) / 3


def over_cross_entropy(recorded: Iterable[runs.Run]) -> dict[str, list[float]]:
    """Method -> seconds of an epoch over those of cross entropy, a ratio for each pair
    of runs.

    A pair has the data, noise, budget, seeds, network, precision, hardware and number
    of threads in common; of each run its median epoch counts, without evaluation.
    """
    groups: dict[Any, dict[str, list[float]]] = {}
    for run in recorded:
        seconds = run.info.get("seconds_per_epoch")
        if run.finished and seconds:
            s = run.setting
            same = (s.dataset, s.noise, s.rate, s.budget, s.seed, s.max_samples,
                    s.options.get("network"), s.options.get("precision"),
                    run.info.get("hardware"), run.info.get("threads"))
            groups.setdefault(same, {}).setdefault(s.method, []).append(seconds)
    out: dict[str, list[float]] = {}
    for times in groups.values():
        for method, found in times.items():
            bases = times.get("cross_entropy", [])
            for base in bases if method != "cross_entropy" else ():
                out.setdefault(method, []).extend(one / base for one in found)
    return out


def factor_of(method: str) -> float | None:
    """Forward and backward passes of an epoch over cross entropy's; None where not
    counted."""
    found = getattr(methods.get(method), "COST", FACTORS.get(method))
    return None if found is None else float(found)


# ------------------------------------------------------------------------ from a timing


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a training image of cross entropy took, on one network."""

    network: str
    seconds: float
    channels: int
    pixels: int

    def of(self, network: str, channels: int, pixels: int) -> float:
        """Seconds a training image on another network: in proportion to the operations
        counted."""
        mine = operations(self.network, self.channels, self.pixels)
        return self.seconds * operations(network, channels, pixels) / mine


@cache
def operations(network: str, channels: int = 3, pixels: int = 32,
               backward: bool = False) -> int:
    """Floating-point operations of one image's forward pass, or of both passes.

    A multiplication with its addition counts as two. Convolutions and matrix products
    only; all else moves bytes. Nothing is computed: the tensors are on the device
    "meta".
    """
    net = networks.build(network, 10, channels).to("meta")
    with FlopCounterMode(display=False) as counter:
        z = net(torch.empty(2, channels, pixels, pixels, device="meta"))
        if backward:
            z.sum().backward()
    return counter.get_total_flops() // 2


def time_steps(
    network: str,
    dataset: str,
    batch_size: int,
    precision: str,
    execution: engine.Execution,
    seconds: float = 1.0,
) -> Timing:
    """Train on random images for about `seconds` (at least two steps) and take the
    mean.

    The network itself is timed; on a CPU, where it is large, in smaller batches
    (`STEP_TIMED`), and where even such a step takes long (bfloat16 on a processor
    without it), by that alone.
    """
    _, _, classes, channels, pixels = SIZES[dataset]
    if not execution.device.startswith("cuda"):
        fit = STEP_TIMED / (3 * operations(network, channels, pixels))
        batch_size = max(min(4, batch_size), min(batch_size, int(fit)))
    recipe = engine.Recipe(network=network, batch_size=batch_size, precision=precision)
    draws = torch.Generator().manual_seed(0)
    device = torch.device(execution.device)
    n = 8 * batch_size
    x = torch.randint(256, (n, channels, pixels, pixels), generator=draws,
                      dtype=torch.uint8)
    y = torch.randint(classes, (n,), generator=draws)
    task = engine.Task(
        images=x.to(device),
        y_given=y.to(device),
        num_classes=classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        weak=views.Weak(),
        strong=views.Identity(),
        execution=execution,
        precision=precision,
    )
    net, optimiser = engine.start(recipe, task)
    step = engine.step(optimiser, task)(
        lambda i, x: torch.nn.functional.cross_entropy(net(x).float(), task.y_given[i])
    )

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    # warming up; the fourth step is captured
    done, begun = -4 if execution.graph else -2, 0.0
    while True:
        for i, images_of_step in task.batches(batch_size):
            if done == 0:
                begun = wait()
            before = time.perf_counter()
            step(i, images_of_step)
            done += 1
            took = time.perf_counter() - before
            if device.type == "cpu" and took > LONG_STEP:
                return Timing(network, took / batch_size, channels, pixels)
            if done >= 2 and done % 2 == 0 and wait() - begun > seconds:
                return Timing(network, (wait() - begun) / (done * batch_size), channels,
                              pixels)


def timed(s: Setting, execution: engine.Execution) -> Timing:
    """A timing of the network, batch and precision of `s`. Without compiling, which
    takes longer than it tells."""
    o, how = s.options, dataclasses.replace(execution, compile=False)
    return time_steps(o["network"], s.dataset, o["batch_size"], o["precision"], how)


def of_setting(s: Setting, timing: Timing) -> float | None:
    """Seconds that a run of `s` takes by this timing; None for a method of unknown
    factor."""
    factor = factor_of(s.method)
    if factor is None:
        return None
    _, _, _, channels, pixels = SIZES[s.dataset]
    each = timing.of(s.options["network"], channels, pixels)
    return total_epochs(s) * _work(images(s), factor) * each


def dataset_of(budget: str) -> str:
    """What a budget is made for."""
    return lab.BUDGETS[budget].dataset
