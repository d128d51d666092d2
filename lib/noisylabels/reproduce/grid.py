"""Training processes: several runs at once, none of which can harm another.

`train_all` hands settings to child processes, one after another to each, and reads what
they say, one JSON object a line. A child imports torch once for all its runs. It dies
with its parent; the store and the checkpoints are whole whenever it dies, and a run's
lock is freed by the system.

`python -m noisylabels.reproduce.grid PID` is such a child of process PID.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import processes, wording

if TYPE_CHECKING:  # a child is ready for signals before it imports torch
    from .planning import Estimates, Todo

GRACE = 20.0  # seconds that a child has to stop in
TICK = 0.25  # seconds between looks at the clock and at Ctrl-C
LOG_END = 2_000  # bytes of a dead child's last words that are read


# --------------------------------------------------------------------------- the parent


class Watcher(Protocol):
    """Who is told what happens."""

    def began(self, todo: Todo) -> None: ...
    def epoch(self, todo: Todo, row: dict[str, Any]) -> None: ...
    def ended(self, todo: Todo, how: str, why: str) -> None: ...
    def tick(self) -> None: ...


@dataclass
class Outcome:
    """What became of the runs: how -> runs, with the reason.

    how: `finished`, `failed` (recorded as failed), `broken` (the program or its process
    broke), `busy` (another process is at it), `stopped` (resumes next time). `signal`:
    that ended it all.
    """

    ended: dict[str, list[tuple[Todo, str]]] = field(default_factory=dict)
    signal: int | None = None

    def of(self, how: str) -> list[tuple[Todo, str]]:
        return self.ended.get(how, [])


class Child:
    """One process and the run it is at; what it says comes into `heard`, bytes, b"" at
    its end."""

    def __init__(self, command: Sequence[str], environment: dict[str, str],
                 heard: queue.SimpleQueue[tuple[Child, bytes]]) -> None:
        self.log = tempfile.TemporaryFile()
        # a process group of its own: Ctrl-C in a terminal reaches the parent alone
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log,
                                        env=environment, **processes.own_group())
        assert self.process.stdout is not None
        self.pipe = self.process.stdout
        self.said = b""
        self.todo: Todo | None = None
        self.trusted = True
        # a thread, since Windows cannot wait for several pipes at once
        self.ear = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        self.ear.start()

    def _listen(self, heard: queue.SimpleQueue[tuple[Child, bytes]]) -> None:
        more = b"."
        while more:
            try:
                more = os.read(self.pipe.fileno(), 1 << 16)
            except (OSError, ValueError):  # closed
                more = b""
            heard.put((self, more))

    def give(self, todo: Todo, message: dict[str, Any]) -> None:
        self.todo = todo
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it died; the end of its pipe says so
            pass

    def read(self, more: bytes) -> list[dict[str, Any]] | None:
        """What it said with these bytes; None when it is gone."""
        *lines, self.said = (self.said + more).split(b"\n")
        return [json.loads(line) for line in lines] if more or lines else None

    def last_words(self) -> str:
        """How it ended, and the last line of its error output."""
        code = self.process.wait()
        self.log.seek(max(0, os.fstat(self.log.fileno()).st_size - LOG_END))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}" + (f": {lines[-1].strip()}"
                                                  if lines else "")

    def close(self) -> None:
        self.ear.join(1)
        for pipe in (self.process.stdin, self.pipe, self.log):
            try:
                pipe.close()  # type: ignore[union-attr]
            except BrokenPipeError:
                pass


def command() -> list[str]:
    """The command line of a child."""
    return [sys.executable, "-m", "noisylabels.reproduce.grid", str(os.getpid())]


def environment() -> dict[str, str]:
    """One thread a process, the same project folder, this very package."""
    from .. import paths

    package = str(Path(__file__).resolve().parents[2])
    mine = os.environ.get("PYTHONPATH")
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "NOISYLABELS_HOME": str(paths.home()),
            "PYTHONPATH": package + (os.pathsep + mine if mine else ""),
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get(
                "TORCHINDUCTOR_CACHE_DIR", str(paths.cache_dir() / "inductor"))}


def train_all(todo: Sequence[Todo], estimates: Estimates, jobs: int, ends: float,
              message: Callable[[Todo], dict[str, Any]], watcher: Watcher,
              child_command: Sequence[str] | None = None) -> Outcome:
    """Train in the order of `todo`, `jobs` at once, until `ends` (`time.monotonic`).

    A run is begun when at least one of its epochs fits into the time that is left. At
    the end, and on Ctrl-C, the children are told to stop: they lose the epoch they are
    in, no more.
    """
    from .planning import START_UP, pick

    outcome, waiting, children = Outcome(), list(todo), list[Child]()
    stopping: float | None = None
    hurried = False
    heard: queue.SimpleQueue[tuple[Child, bytes]] = queue.SimpleQueue()

    def start() -> Child:
        child = Child(child_command or command(), environment(), heard)
        children.append(child)
        return child

    def done(child: Child, how: str, why: str = "") -> None:
        assert child.todo is not None
        todo, child.todo = child.todo, None
        if how == "broken":
            child.trusted = False
            if stopping is not None:  # whatever it came across when it was told to stop
                how, why = "stopped", ""
        outcome.ended.setdefault(how, []).append((todo, why))
        watcher.ended(todo, how, why)

    def gone(child: Child) -> None:
        children.remove(child)
        words = child.last_words()
        if child.todo is not None:
            done(child, "broken", words)
        child.close()

    def hear(child: Child, said: dict[str, Any]) -> None:
        if child.todo is None:
            return
        if said["event"] == "epoch":
            watcher.epoch(child.todo, said["row"])
        else:
            if said["event"] == "finished":
                _learn(child.todo, estimates, waiting)
            done(child, said["event"], said.get("why", ""))

    with _caught_signals() as caught:
        try:
            while True:
                left = ends - time.monotonic()
                if stopping is None and (left <= 0 or caught):
                    stopping = time.monotonic()
                    for child in children:
                        processes.interrupt(child.process)
                if stopping is None:
                    for child in [c for c in children if c.todo is None and c.trusted]:
                        if (t := pick(waiting, left)) is not None:
                            _give(child, t, waiting, message, watcher)
                    while sum(c.trusted for c in children) < jobs and (
                            t := pick(waiting, left - START_UP)):
                        _give(start(), t, waiting, message, watcher)
                elif not hurried and (len(caught) > 1
                                      or time.monotonic() - stopping > GRACE):
                    hurried = True
                    for child in children:
                        child.process.kill()
                if not any(c.todo for c in children):
                    break
                try:
                    child, more = heard.get(
                        timeout=TICK if stopping or left > TICK else max(0, left))
                except queue.Empty:
                    pass
                else:
                    said = child.read(more)
                    if said is None:
                        gone(child)
                    for words in said or ():
                        hear(child, words)
                watcher.tick()
        finally:
            for child in children:
                processes.interrupt(child.process)
            for child in children:
                try:
                    child.process.wait(GRACE)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
                child.close()
    outcome.signal = caught[0] if caught else None
    return outcome


def _give(child: Child, todo: Todo, waiting: list[Todo],
          message: Callable[[Todo], dict[str, Any]], watcher: Watcher) -> None:
    waiting.remove(todo)
    watcher.began(todo)
    child.give(todo, {"setting": todo.setting.as_dict(), **message(todo)})


def _learn(todo: Todo, estimates: Estimates, waiting: Sequence[Todo]) -> None:
    """From a run that has just ended, what its like will take."""
    from ..training import runs

    if (run := runs.lookup(todo.setting)) is not None:
        estimates.learn(run)
        for t in waiting:
            t.cost = estimates.of(t.setting)


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of being ended by them."""
    caught: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: caught.append(number))
              for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------- the child


class Busy(Exception):
    """Another process is training this run."""


def main(parent: int) -> int:
    """Train what standard input names, one setting a line; say on standard output what
    happens."""
    # also where it was ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGBREAK"):  # Windows
        signal.signal(signal.SIGBREAK, signal.default_int_handler)
    _die_with(parent)
    voice = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log

    def tell(event: str, **more: Any) -> None:
        try:
            voice.write(json.dumps({"event": event, **more}) + "\n")
            voice.flush()
        except BrokenPipeError:  # the parent is gone
            os._exit(1)

    try:
        from ..training import engine

        engine.set_threads(None)
        for line in iter(sys.stdin.readline, ""):
            if not _one(json.loads(line), tell):
                return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _one(message: dict[str, Any], tell: Callable[..., None]) -> bool:
    """Train one run; False when the process should not be trusted with another."""
    from .. import lab
    from ..training import engine, runs

    def busy() -> None:
        raise Busy

    setting = runs.Setting.from_dict(message["setting"])
    execution = engine.Execution(**message["execution"])
    try:
        run = lab.run(setting, execution=execution, signals=message["signals"],
                      again=message["again"], waiting=busy,
                      progress=lambda row: tell("epoch", row=dict(row)))
        tell("finished" if run.finished else "failed", why=str(run.info.get("why", "")))
    except Busy:
        tell("busy", why="another process is training it")
    except lab.TrainingFailed as error:
        tell("failed", why=str(error))
    except Exception as error:  # this run's own trouble, whatever it is
        import traceback

        traceback.print_exc()
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        full = type(error).__name__ == "OutOfMemoryError"
        tell("broken",
             why=wording.OUT_OF_MEMORY if full else f"{type(error).__name__}: {reason}")
        return False
    _tidy(execution)
    return True


def _tidy(execution: Any) -> None:
    """Leave nothing of a run in the process."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # else the next method's step is one recompilation too many at some time
    if execution.compile:
        torch._dynamo.reset()


def _die_with(parent: int) -> None:
    """On Linux, get SIGINT when the parent dies, however it dies."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has died already
        sys.exit(1)


def message_of(execution: Any, signals: bool, again: bool) -> dict[str, Any]:
    """What a child is told beside the setting."""
    return {
        "execution": dataclasses.asdict(execution), "signals": signals, "again": again
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
