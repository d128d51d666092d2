"""How things are timed: alternating rounds, medians, and a clock that waits only at its
two ends.

The entries of a group take turns, A B C A B C ..., so that whatever drifts (clock
rates, other programs) meets all of them alike, and a ratio is the median of the ratios
within a round. On a GPU the clock is a pair of events; on one CPU thread it is the
process's own CPU time, which other programs do not lengthen; else wall time.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

NEEDS_GPU = "needs a GPU"
NOT_RUN = "not run: the time was up"


class Unavailable(RuntimeError):
    """Something a row needs is not here; the text is the row's note."""


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
        least, most = (min(self.values), max(self.values)) if self.values else (None,
                                                                                None)
        return {
            "row": self.name, "group": self.group, "what": self.what, "unit": self.unit,
            "median": rounded(self.median), "min": rounded(least), "max": rounded(most),
            "rounds": len(self.values), "values": [rounded(v) for v in self.values],
            "note": self.note
        }


def rounded(value: float | None) -> float | None:
    """Six digits; None for nothing and for what is not finite (JSON knows no NaN)."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Entry:
    """What can be measured: `build(bench)` prepares and warms up, and returns one
    round.

    A round is a function without arguments that returns one number in `unit`; if it has
    an attribute `close`, that is called at the end. `gpu`: it cannot be done on a CPU.
    """

    name: str
    what: str
    unit: str
    build: Callable[[Bench], Callable[[], float]]
    gpu: bool = False


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
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until

    def wants(self, name: str, group: str) -> bool:
        return not self.only or name in self.only or group in self.only

    def scaled(self, number: int, least: int = 1) -> int:
        """`number`, made smaller by `size`."""
        return max(least, round(number * self.size))

    # ------------------------------------------------------------------------ the clock

    @property
    def clock(self) -> str:
        """The clock in words."""
        if self.cuda:
            return "CUDA events"
        return "CPU time of the process" if torch.get_num_threads(
        ) == 1 else "wall time"

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long `work()` takes; on a GPU until all it has launched is done."""
        if self.cuda:
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self.device)
            begun.record()
            work()
            ended.record()
            ended.synchronize()
            return begun.elapsed_time(ended) / 1e3
        now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        started = now()
        work()
        return now() - started

    def repeated(self, work: Callable[[], Any],
                 least: float = 0.2) -> Callable[[], float]:
        """A round of a short job: seconds a call, over so many calls that they take
        `least` s."""
        work()
        once = max(1e-7, min(self.seconds(work) for _ in range(2)))
        count = max(1, min(1000, math.ceil(least * (self.size or 1.0) / once)))

        def all_calls() -> None:
            for _ in range(count):
                work()

        return lambda: self.seconds(all_calls) / count


def alternate(rounds: dict[str, Callable[[], float]], count: int,
              take: Callable[[str, float], Any],
              late: Callable[[], bool] = lambda: False,
              failed: Callable[[str, Exception], Any] | None = None) -> int:
    """Call A B C A B C ... `count` times over; returns how many rounds were done in
    full.

    `take(name, value)` gets each number. A round is not begun when `late()`; an entry
    that raises is reported to `failed` and left out from then on (without `failed` its
    error goes through).
    """
    alive = dict(rounds)
    for done in range(count):
        if late():
            return done
        for name in list(alive):
            try:
                value = alive[name]()
            except Exception as error:
                if failed is None:
                    raise
                failed(name, error)
                del alive[name]
            else:
                take(name, value)
    return count


def measure(bench: Bench, group: str, entries: Sequence[Entry]) -> list[Row]:
    """Measure the wanted entries of a group in turns; their rows are added to
    `bench.rows`.

    What fails, or needs what is not here, keeps its row with a note; the others go on.
    """
    rows: dict[str, Row] = {}
    built: dict[str, Callable[[], float]] = {}
    wanted = [e for e in entries if bench.wants(e.name, group)]
    for e in wanted:
        rows[e.name] = Row(e.name, group, e.what, e.unit)
        bench.rows.append(rows[e.name])
    here = [e for e in wanted if bench.cuda or not e.gpu]
    for e in wanted:
        if e not in here:
            rows[e.name].note = NEEDS_GPU
    try:
        for e in here:
            if bench.late:
                rows[e.name].note = NOT_RUN
                continue
            bench.say(f"{group}: preparing {e.name}")
            with noted(rows[e.name]):
                built[e.name] = e.build(bench)
        if built:
            bench.say(f"{group}: {bench.rounds} rounds of {', '.join(built)}")
        done = alternate(built, bench.rounds,
                         lambda name, v: rows[name].values.append(v),
                         lambda: bench.late,
                         lambda name, error: note(rows[name], error))
        if done < bench.rounds:
            for name in built:
                rows[name].note = (f"{done} of {bench.rounds} rounds: the time was up"
                                   if done else NOT_RUN)
    finally:
        for run in built.values():
            getattr(run, "close", lambda: None)()
        built.clear()
        if bench.cuda:
            torch.cuda.empty_cache()
    return list(rows.values())


@contextmanager
def noted(row: Row) -> Iterator[None]:
    """Turn an error into the row's note."""
    try:
        yield
    except Exception as error:
        note(row, error)


def note(row: Row, error: Exception) -> None:
    """Why the row has no (further) values, without any path of this machine."""
    if isinstance(error, Unavailable):
        row.note = str(error)
        return
    text = (str(error).strip().splitlines() or [""])[0]
    words = [
        "..." if w.startswith(("/", "'/", '"/', "(/")) else w for w in text.split()
    ]
    row.note = f"failed: {type(error).__name__}: {' '.join(words)}"[:200]


def ratio(a: Row | None, b: Row | None) -> list[float]:
    """a / b round by round; empty when one of them was not measured."""
    if a is None or b is None:
        return []
    return [x / y for x, y in zip(a.values, b.values, strict=False) if y]
