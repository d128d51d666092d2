"""Who is at what: on a terminal a bar a run and a total (Rich), else plain lines."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import Counter
from typing import Any

from .. import wording
from ..training import runs
from ..wording import count, duration
from .planning import Plan, Todo


class Board:
    """What `grid.train_all` tells of, as it happens; `every` so many seconds a line in
    what is no terminal."""

    def __init__(self, plan: Plan, minutes: float, begun: float,
                 every: float = 60.0) -> None:
        self.total, self.minutes, self.begun = len(plan.todo), minutes, begun
        self.at: dict[str, tuple[Todo, dict[str, Any], list[float]]] = {}
        self.ends: Counter[str] = Counter()
        self.every, self.last = every, time.monotonic()
        self.live: Any = None
        if (sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
                and importlib.util.find_spec("rich")):
            from rich.console import Console
            from rich.live import Live

            self.every = 1.0
            self.live = Live(console=Console(markup=False, highlight=False),
                             auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def began(self, todo: Todo) -> None:
        self.at[todo.setting.key] = (todo, {"epoch": todo.begun}, [])
        goes = f"goes on after epoch {todo.begun}" if todo.begun else "begins"
        self._say(f"{_name(todo)}: {goes}, about {duration(todo.seconds)}")

    def epoch(self, todo: Todo, row: dict[str, Any]) -> None:
        times = [*self.at[todo.setting.key][2],
                 row["seconds"] + row["seconds_evaluating"]]
        self.at[todo.setting.key] = (todo, row, times[-5:])
        todo.begun = int(row["epoch"])

    def ended(self, todo: Todo, how: str, why: str) -> None:
        self.at.pop(todo.setting.key, None)
        self.ends[how] += 1
        if how == "finished" and (run := runs.lookup(todo.setting)) is not None:
            why = (f"last {wording.percent(run.last())}, "
                   f"{duration(run.info.get('seconds', 0.0))}")
        if how == "stopped":
            why = f"after epoch {todo.begun}, resumes next time" if todo.begun else (
                "before the end of its first epoch")
        self._say(f"{_name(todo)}: {how}" + (f", {why}" if why else ""))

    def tick(self) -> None:
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        lines = [self._line(k) for k in self.at]
        if self.live:
            self.live.update("\n".join([*lines, self._sum()]), refresh=True)
        else:
            at = f"; at work: {'; '.join(lines)}" if lines else ""
            self._say(f"{self._sum()}{at}")

    def _sum(self) -> str:
        failed = self.ends["failed"] + self.ends["broken"]
        spent = (time.monotonic() - self.begun) / 60
        return (f"{self.ends['finished']} of {count(self.total, 'run')} ended"
                + (f", {failed} failed" if failed else "")
                + f", {spent:.1f} of {self.minutes:g} minutes")

    def _line(self, key: str) -> str:
        todo, row, times = self.at[key]
        line = f"{_name(todo)}  epoch {row['epoch']}/{todo.epochs}"
        if times:
            left = sum(times) / len(times) * (todo.epochs - row["epoch"])
            line += f"  test {wording.percent(row['test'])}  ETA {duration(left)}"
        return line

    def _say(self, text: str) -> None:
        """Print for good; on a terminal above the lines of what is at work."""
        if self.live:
            self.live.console.print(wording.plain(text))
        else:
            print(text, flush=True)


def _name(todo: Todo) -> str:
    return f"{todo.group.name}, seed {todo.setting.seed}"
