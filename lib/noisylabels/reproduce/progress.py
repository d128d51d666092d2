"""Who is at what: on a terminal a line a run and a total (Rich), else plain lines, one
a minute and one where a run begins or ends."""

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
from .planning import Todo


class Board:
    """What `grid.train_all` tells of, as it happens; `every` so many seconds a line in
    what is no terminal."""

    def __init__(self, total: int, minutes: float, begun: float,
                 every: float = 60.0) -> None:
        self.total, self.minutes, self.begun, self.every = total, minutes, begun, every
        self.at: dict[str, str] = {}  # key of a setting -> its line
        self.ends, self.last, self.live = Counter[str](), time.monotonic(), None
        if (sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
                and importlib.util.find_spec("rich")):
            from rich.console import Console
            from rich.live import Live

            self.every, console = 1.0, Console(markup=False, highlight=False)
            self.live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Board:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def began(self, todo: Todo) -> None:
        self.at[todo.setting.key] = f"{_name(todo)}  epoch {todo.begun}/{todo.epochs}"
        goes = f"goes on after epoch {todo.begun}" if todo.begun else "begins"
        self._say(f"{_name(todo)}: {goes}, about {duration(todo.seconds)}")

    def epoch(self, todo: Todo, row: dict[str, Any]) -> None:
        todo.begun = int(row["epoch"])
        left = (row["seconds"] + row["seconds_evaluating"]) * (todo.epochs - todo.begun)
        self.at[todo.setting.key] = (
            f"{_name(todo)}  epoch {todo.begun}/{todo.epochs}  test "
            f"{wording.percent(row['test'])}  ETA {duration(left)}")

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
        failed = self.ends["failed"] + self.ends["broken"]
        total = (f"{self.ends['finished']} of {count(self.total, 'run')} ended"
                 + (f", {failed} failed" if failed else "")
                 + f", {(self.last - self.begun) / 60:.1f} of {self.minutes:g} minutes")
        if self.live:
            self.live.update("\n".join([*self.at.values(), total]), refresh=True)
        else:
            self._say(total +
                      f"; at work: {'; '.join(self.at.values())}" * bool(self.at))

    def _say(self, text: str) -> None:
        """Print for good; on a terminal above the lines of what is at work."""
        if self.live:
            self.live.console.print(wording.plain(text))
        else:
            print(text, flush=True)


def _name(todo: Todo) -> str:
    return f"{todo.group.name}, seed {todo.setting.seed}"
