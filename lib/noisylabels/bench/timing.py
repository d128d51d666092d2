"""How things are timed: rounds that take turns, read by `torch.utils.benchmark`.

The entries of a group take turns, A B C A B C ..., so that whatever drifts (clock
rates, other programs) meets all of them alike, and a ratio is the median of the ratios
within a round. The clock is the wall's, on a GPU once it has done all that was
launched; on one CPU thread it is the process's own CPU time, which other programs do
not lengthen.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import benchmark

NEEDS_GPU = "needs a GPU"
NOT_RUN = "not run: the time was up"
PER_CALL = {"s": 1.0, "ms": 1e3}  # the units of a time; the others are rates

Round = Callable[[], float]
Call = tuple[Callable[[], object], float]
"""Something short, and how much of a rate's unit it makes (1 where only timed)."""


@dataclass
class Row:
    """One line of the table.

    Args:
        name, group, what: the short name, its group, and what was measured in words.
        unit: of `values`, one number a round (or a seed, or one that was counted).
        note: why there are no values, or what must be known about them.
    """

    name: str
    group: str
    what: str
    unit: str
    values: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    def record(self) -> dict[str, Any]:
        """The row as plain values; None stands where nothing was measured."""
        v: list[Any] = sorted(self.values) or [None]
        return {"row": self.name, "group": self.group, "what": self.what,
                "unit": self.unit, "median": rounded(self.median), "min": rounded(v[0]),
                "max": rounded(v[-1]), "rounds": len(self.values),
                "values": [rounded(x) for x in self.values], "note": self.note}


def rounded(value: float | None) -> float | None:
    """Six digits; None for nothing and for what is not finite (JSON knows no NaN)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Entry:
    """What can be measured.

    Args:
        build: prepares it; returns a round, a function that gives a number in `unit`,
            or a `Call` to be timed.
        gpu: it cannot be done on a CPU.
        must: (comparison, bound) that has to hold on a GPU of the H200 class.
    """

    name: str
    what: str
    unit: str
    build: Callable[[Bench], Round | Call]
    gpu: bool = False
    must: tuple[str, float] | None = None


@dataclass
class Bench:
    """One run of the benchmark: where, how long, and what came of it so far.

    Args:
        network, batch_size, precision: of the training loops.
        steps, warm_up: timed and untimed training steps a round.
        rounds: rounds of every entry.
        size: a number between 0 and 1 by which the work of other rows is made smaller.
        until: `time.monotonic()` after which no further round begins.
        only: names of rows or groups; empty means all.
        say: receives one line of progress now and then.
        data: which images the loops were fed.
        opened: what is closed when a group is done.
    """

    device: torch.device
    network: str
    batch_size: int
    precision: str = "bfloat16"
    steps: int = 60
    warm_up: int = 20
    rounds: int = 5
    size: float = 1.0
    until: float = math.inf
    only: tuple[str, ...] = ()
    say: Callable[[str], None] = print
    rows: list[Row] = field(default_factory=list)
    data: str = "none"
    opened: ExitStack = field(default_factory=ExitStack)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until

    def hindered(self, gpu: bool) -> str:
        """Why what may need a GPU is not begun now, or nothing."""
        return NEEDS_GPU if gpu and not self.cuda else NOT_RUN if self.late else ""

    def wants(self, name: str, group: str) -> bool:
        return not self.only or name in self.only or group in self.only

    def scaled(self, number: int, least: int = 1) -> int:
        """`number`, made smaller by `size`."""
        return max(least, round(number * self.size))

    def normal(self, *shape: int) -> torch.Tensor:
        """Random numbers on the device, the same each time."""
        draws = torch.Generator(self.device).manual_seed(0)
        return torch.randn(shape, device=self.device, generator=draws)

    @property
    def now(self) -> Callable[[], float]:
        """The clock, in seconds; `benchmark.timer` waits for the GPU."""
        alone = not self.cuda and torch.get_num_threads() == 1
        return time.process_time if alone else benchmark.timer

    @property
    def clock(self) -> str:
        return ("CPU time of the process" if self.now is time.process_time
                else "wall time")

    def timed(self, unit: str, call: Callable[[], object], amount: float) -> Round:
        """Rounds of a short call, by the median over blocks of them."""
        timer = benchmark.Timer("call()", globals={"call": call}, timer=self.now,
                                num_threads=torch.get_num_threads())
        call()

        def run() -> float:
            seconds = timer.blocked_autorange(min_run_time=0.2 * self.size).median
            return seconds * PER_CALL[unit] if unit in PER_CALL else amount / seconds

        return run

    def a_step(self, train: Callable[[int], object], first: int = 0) -> Round:
        """Rounds of what trains so many steps: milliseconds each, after `first` untimed
        ones. On a GPU the warm-up is five at least: a graph is captured in the fourth
        step."""
        train(max(self.warm_up, 5 if self.cuda else 1))

        def run() -> float:
            train(first)
            begun = self.now()
            train(self.steps)
            return 1e3 * (self.now() - begun) / self.steps

        return run


def measure(bench: Bench, group: str, entries: Sequence[Entry]) -> list[Row]:
    """Measure the wanted entries of a group in turns; their rows are added to
    `bench.rows`.

    What fails, or needs what is not here, keeps its row with a note; the others go on.
    """
    wanted = [e for e in entries if bench.wants(e.name, group)]
    rows = [Row(e.name, group, e.what, e.unit) for e in wanted]
    bench.rows += rows
    runs: list[tuple[Row, Round]] = []
    with bench.opened:
        for row, e in zip(rows, wanted, strict=True):
            row.note = bench.hindered(e.gpu)
            if not row.note:
                bench.say(f"{group}: preparing {e.name}")
                with noted(row):
                    made = e.build(bench)
                    runs.append((row, made if callable(made) else
                                 bench.timed(e.unit, *made)))
        for done in range(bench.rounds):
            if bench.late:
                for row, _ in runs:
                    row.note = (f"{done} of {bench.rounds} rounds: the time was up"
                                if done else NOT_RUN)
                break
            for row, run in runs:
                with noted(row):
                    row.values.append(run())
            runs = [(row, run) for row, run in runs if not row.note]
    return rows


def find(bench: Bench, group: str, words: Sequence[tuple[str, str, str]],
         fill: Callable[..., None], gpu: bool = False) -> None:
    """Rows that are found together and once: `fill(*rows)` gives their values.

    words: (name, what, unit) of each; all are there when one of them is wanted.
    """
    rows = [Row(name, group, what, unit) for name, what, unit in words]
    if not any(bench.wants(row.name, group) for row in rows):
        return
    bench.rows += rows
    for row in rows:
        row.note = bench.hindered(gpu)
    if not rows[0].note:
        bench.say(f"{group}: {rows[0].what}")
        with noted(*rows):
            fill(*rows)


@contextmanager
def noted(*rows: Row) -> Iterator[None]:
    """Turn an error into the rows' note, without any path of this machine."""
    try:
        yield
    except Exception as error:
        words = (str(error).strip().splitlines() or [""])[0].split()
        text = " ".join("..." if w.lstrip("'\"(").startswith("/") else w for w in words)
        for row in rows:
            row.note = f"failed: {type(error).__name__}: {text}"[:200]
            if isinstance(error, ImportError):
                row.note = f"needs {error.name}, which is not here"
