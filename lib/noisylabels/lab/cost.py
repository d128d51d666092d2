"""What a run costs here: from recorded runs like it, or from a short timing of this
machine."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
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
TIMED = 0.5  # seconds that a timing takes


def total_epochs(s: Setting) -> int:
    """All epochs of all stages."""
    return lab.total_epochs(s, images(s).train)


# ---------------------------------------------------------------------- by its passes


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


def timed(s: Setting, execution: engine.Execution, seconds: float = 1.0
          ) -> Timing:
    """A timing of the network, batch and precision of `s`. Without compiling, which
    takes longer than it tells."""
    o, how = s.options, dataclasses.replace(execution, compile=False)
    return time_steps(o["network"], s.dataset, o["batch_size"], o["precision"], how,
                      seconds)


def of_setting(s: Setting, timing: Timing, factor: float | None = None
               ) -> float | None:
    """Seconds that a run of `s` takes by this timing, with the method's own factor
    unless one is given; None for a method of unknown factor."""
    if (factor := factor or factor_of(s.method)) is None:
        return None
    each = timing.of(s.options["network"], *SIZES[s.dataset][3:])
    return total_epochs(s) * _work(images(s), factor) * each


# ------------------------------------------- from recorded runs, where there are any


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a whole run and of one of its epochs; `runs`: how many recorded ones
    tell it."""

    seconds: float
    epoch: float
    runs: int = 0

    @property
    def basis(self) -> str:
        return "measured" if self.runs else "guess"


def here(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function where the runs are trained: in this process."""
    return function(*args)


class Estimates:
    """What runs cost where they are trained; `ask` calls a function there.

    *measured*: from recorded runs on this hardware, executed in the same way, with the
    same method, network, batch, precision and kind of image; epochs and images are
    scaled. *guess*: a few steps are timed on this device, times the forward and
    backward passes that the method's step is known to make (`factor_of`; as cross
    entropy where they are not counted). `jobs` runs share a GPU evenly at worst.
    """

    def __init__(self, execution: engine.Execution, jobs: int = 1,
                 recorded: Iterable[runs.Run] = (),
                 ask: Callable[..., Any] = here) -> None:
        self.execution, self.jobs, self.ask = execution, jobs, ask
        self.hardware: str = ask(engine.hardware, execution.device)
        self._seen: dict[Any, list[float]] = {}
        self._timings: dict[Any, Timing] = {}
        for run in recorded:
            self.learn(run)

    def learn(self, run: runs.Run) -> None:
        """Count a recorded run, if it was made like the runs to come."""
        how = {"compile": self.execution.compile, "graph": self.execution.graph}
        known = run.info.get("seconds") and run.info.get("epochs")
        if (run.finished and known and run.info.get("hardware") == self.hardware
                and run.info.get("execution", how) == how):
            each = run.info["seconds"] / run.info["epochs"] / _work(images(run.setting))
            self._seen.setdefault(_kind(run.setting), []).append(each)

    def measured(self, s: Setting) -> Cost | None:
        """By recorded runs alone; None without any like it."""
        if not (seen := self._seen.get(_kind(s))):
            return None
        each = statistics.median(seen) * _work(images(s))
        return Cost(each * total_epochs(s), each, len(seen))

    def of(self, s: Setting) -> Cost:
        if found := self.measured(s):
            return found
        key, gpu = _kind(s)[1:], self.execution.device.startswith("cuda")
        if key not in self._timings:
            self._timings[key] = self.ask(timed, s, self.execution, TIMED)
            if gpu:
                self.ask(torch.cuda.empty_cache)
        seconds = of_setting(s, self._timings[key], factor_of(s.method) or 1.0)
        assert seconds is not None
        seconds *= self.jobs if gpu else 1
        return Cost(seconds, seconds / total_epochs(s))


def _kind(s: Setting) -> tuple[Any, ...]:
    """What runs must have in common for one to tell the other's cost."""
    return (s.method, *(s.options.get(k) for k in OPTIONS_OF_COST),
            SIZES[s.dataset][3:])


def dataset_of(budget: str) -> str:
    """What a budget is made for."""
    return lab.BUDGETS[budget].dataset
