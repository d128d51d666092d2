"""Who trains the runs of a plan: several processes of this machine, or a cluster.

`Dask` hands settings to the workers of a Dask scheduler: one-thread processes that it
starts here, or those of a scheduler elsewhere, which share nothing with this machine
but the format of bundles. `Alone` trains one run after another in this process, where
Dask is not installed. `train_all` decides which run comes next, and when all is over.

A worker leaves a checkpoint after each epoch. When a worker dies, its run is begun
again on another one: from that checkpoint on the same machine, else from what was sent.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import os
import queue
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import lab, paths, wording
from ..training import engine, runs
from ..wording import Failed
from . import bundle
from .planning import Estimates, Todo, pick
from .progress import Board

GRACE = 20.0  # seconds that the runs have to stop in
TICK = 0.25  # seconds between looks at the clock and at Ctrl-C
WAIT = 10.0  # seconds for a scheduler and its first worker
DEATHS = 3  # of a worker at one and the same run, until that run is given up

Ended = tuple[str, str, bytes]  # how (see `Outcome`), why, the run as a bundle


# --------------------------------------------------------------------------- the worker


class Stopped(BaseException):
    """Raised in the thread that trains when it is told to stop."""


_lock = threading.Lock()
_training: dict[str, int] = {}  # call -> the thread that trains for it in this process
_over: set[str] = set()  # calls that were told to stop


def train(call: str, tell: Callable[[dict[str, Any]], None], s: runs.Setting,
          execution: engine.Execution, signals: bool, again: bool, sent: bytes = b"",
          carry: bool = False) -> Ended:
    """Train one run for the call of that name, from the checkpoints in the bundle
    `sent` if there are any; `tell` each epoch's row. Raises nothing. With `carry` the
    bundle that comes back holds the run, or its checkpoints when it was stopped."""
    how, why = "stopped", ""
    try:
        with _stoppable(call):
            if sent:
                bundle.unpack(sent)
            run = lab.run(s, execution=execution, signals=signals, again=again,
                          waiting=bundle.busy, progress=lambda row: tell(dict(row)))
            how = "finished" if run.finished else "failed"
            why = str(run.info.get("why", ""))
    except Stopped:
        pass
    except bundle.Busy:
        how, why = "busy", "another process is training it"
    except lab.TrainingFailed as error:
        how, why = "failed", str(error)
    except Exception as error:  # this run's own trouble, whatever it is
        how, why = "broken", _reason(error)
        logging.getLogger(__name__).info(traceback.format_exc())
    gc.collect()  # leave nothing of a run in the process
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # else the next method's step is one recompilation too many at some time
    if execution.compile:
        torch._dynamo.reset()
    return how, why, bundle.packed([s]) if carry and how != "broken" else b""


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return wording.OUT_OF_MEMORY
    line = (str(error).strip() or "no reason given").splitlines()[0]
    return f"{type(error).__name__}: {line}"


@contextmanager
def _stoppable(call: str) -> Iterator[None]:
    """`stop(call)` raises Stopped in here."""
    with _lock:
        if call in _over:
            raise Stopped
        _training[call] = threading.get_ident()
    try:
        yield
    finally:
        with _lock:
            _training.pop(call, None)


def stop(call: str) -> None:
    """Interrupt what this process trains for that call, now and from now on: as Ctrl-C
    would, between two lines of Python."""
    with _lock:
        first = call not in _over
        _over.add(call)
        if first and call in _training:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(_training[call]), ctypes.py_object(Stopped))


def _there(call: str, s: runs.Setting, *how: Any) -> Ended:
    """`train` in a worker of Dask, which tells of its epochs as events."""
    from distributed import get_worker

    engine.set_threads(1)
    worker = get_worker()
    return train(call, lambda row: worker.log_event(call, [s.key, row]), s, *how)


# --------------------------------------------------------------------------- who trains
# `heard`: (key of a setting, an epoch's row or how the run ended); `lost`: why nothing
# can be trained any more


def has_dask() -> bool:
    return importlib.util.find_spec("distributed") is not None


class Alone:
    """One run after another, in a thread of this process."""

    def __init__(self) -> None:
        self.heard, self.call = queue.SimpleQueue[Any](), uuid.uuid4().hex
        self.lost = ""

    def slots(self) -> int:
        return 1

    def begin(self, s: runs.Setting, *how: Any) -> None:
        def work() -> None:
            tell = self.heard.put
            tell((s.key, train(self.call, lambda row: tell((s.key, row)), s, *how)))

        threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        stop(self.call)

    def close(self) -> None:
        self.stop()


class Dask:
    """The workers of a Dask scheduler: of the one at `address`, such as
    tcp://10.0.0.1:8786, or `jobs` processes that are started here and die with this
    one.

    Raises Failed where nobody answers, where there is no worker, or one of several
    threads or without this package.
    """

    def __init__(self, jobs: int = 1, address: str = "") -> None:
        import distributed

        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.heard, self.call = queue.SimpleQueue[Any](), uuid.uuid4().hex
        self.jobs, self.address, self.lost = jobs, address, ""
        self.cluster = None if address else distributed.LocalCluster(
            n_workers=jobs, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address=None, memory_limit=0, env=_environment(),
            silence_logs=logging.CRITICAL + 1,
            scheduler_kwargs={"allowed_failures": DEATHS - 1, "dashboard": False,
                              "dashboard_address": "127.0.0.1:0"},
            # Ctrl-C in a terminal is for the parent
            preload=["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"])
        try:
            self.client = distributed.Client(self.cluster or address, timeout=WAIT,
                                             set_as_default=False)
            self._check()
        except (OSError, ValueError) as error:
            raise Failed(f"no Dask scheduler answers at {address}: "
                         f"{str(error).splitlines()[0]}.") from error
        self.client.subscribe_topic(self.call, lambda event: self.heard.put(event[1]))

    def _check(self) -> None:
        with suppress(TimeoutError):
            self.client.wait_for_workers(1, timeout=WAIT)
        threads = list(self.client.nthreads().values())
        if not threads:
            raise Failed(f"the scheduler at {self.address} has no worker; start one by "
                         f"`dask worker {self.address} --nthreads 1`.")
        if max(threads) > 1:
            raise Failed(
                "a worker trains one run at a time: start each by `dask worker "
                f"{self.address} --nthreads 1`.")
        try:
            self.ask(engine.instructions)
        except ImportError as error:
            raise Failed(f"a worker of {self.address} cannot import this package "
                         f"({error}); start it with the folder lib in PYTHONPATH."
                         ) from error

    def slots(self) -> int:
        if self.cluster:
            return self.jobs
        with suppress(Exception):  # it may be gone; `_ended` says so
            return len(self.client.nthreads())
        return 0

    def begin(self, s: runs.Setting, *how: Any) -> None:
        carry = self.cluster is None
        sent = bundle.packed([s]) if carry else b""
        future = self.client.submit(_there, self.call, s, *how, sent, carry,
                                    key=f"{s.key}-{uuid.uuid4().hex}")
        future.add_done_callback(lambda f: self.heard.put((s.key, self._ended(f))))

    def _ended(self, future: Any) -> Ended:
        from distributed import KilledWorker

        try:
            return future.result()  # type: ignore[no-any-return]
        except KilledWorker:
            return "broken", f"{DEATHS} processes died of it, one after the other", b""
        except BaseException as error:  # also that it was cancelled
            if future.cancelled():
                self.lost = (
                    f"the Dask scheduler at {self.address or 'work'} is gone; "
                    "what had ended is recorded, and the same command goes on.")
                return "stopped", "", b""
            return "broken", _reason(error), b""

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.client.submit(function, *args, pure=False).result()

    def stop(self) -> None:
        with suppress(Exception):  # who does not hear is killed
            self.client.run(stop, self.call, on_error="ignore")

    def close(self) -> None:
        both: tuple[Any, ...] = (self.client, self.cluster)
        for one in filter(None, both):
            # who is late is killed, and dies with this process
            with suppress(Exception):
                one.close(timeout=GRACE)


Crew = Alone | Dask


def _environment() -> dict[str, str]:
    """One thread a process, the same project folder, this very package."""
    package, mine = str(
        Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")
    cache = str(paths.cache_dir() / "inductor")
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
            "NOISYLABELS_HOME": str(paths.home()),
            "PYTHONPATH": package + (os.pathsep + mine if mine else ""),
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", cache)}


# ------------------------------------------------------------------------- all the runs


@dataclass
class Outcome:
    """What became of the runs: how -> runs, with the reason.

    how: `finished`, `failed` (recorded as failed), `broken` (the program or its process
    broke), `busy` (another process is at it), `stopped` (resumes next time). `signal`:
    that ended it all; `lost`: why nothing could be trained any more.
    """

    ended: dict[str, list[tuple[Todo, str]]] = field(default_factory=dict)
    signal: int | None = None
    lost: str = ""

    def of(self, how: str) -> list[tuple[Todo, str]]:
        return self.ended.get(how, [])


def train_all(crew: Crew, todo: Sequence[Todo], estimates: Estimates, ends: float,
              how: Callable[[Todo], tuple[Any, ...]], watcher: Board) -> Outcome:
    """Train in the order of `todo` until `ends` (`time.monotonic`), then close the
    crew.

    `how(todo)`: execution, signals and again, as of `train`. A run is begun when at
    least one of its epochs fits into the time that is left. At the end, and on Ctrl-C,
    all are told to stop: they lose the epoch they are in, no more.
    """
    outcome, waiting, at = Outcome(), list(todo), dict[str, Todo]()
    stopping: float | None = None

    def done(key: str, end: str, why: str = "", back: bytes = b"") -> None:
        t = at.pop(key)
        try:
            if back:
                bundle.unpack(back)
        except (bundle.BundleError, runs.StoreError) as error:
            end, why = "broken", str(error)
        if end == "broken" and stopping is not None:
            end, why = "stopped", ""  # whatever it came across when it was told to stop
        if end == "finished":
            _learn(t, estimates, waiting)
        outcome.ended.setdefault(end, []).append((t, why))
        watcher.ended(t, end, why)

    with _caught_signals() as caught:
        try:
            while True:
                left = ends - time.monotonic()
                if stopping is None and (left <= 0 or caught or crew.lost):
                    stopping = time.monotonic()
                if stopping is None:
                    while len(at) < crew.slots() and (t := pick(waiting, left)):
                        waiting.remove(t)
                        at[t.setting.key] = t
                        watcher.began(t)
                        crew.begin(t.setting, *how(t))
                else:
                    if not crew.lost:
                        crew.stop()
                    if (crew.lost or len(caught) > 1
                            or time.monotonic() - stopping > GRACE):
                        for key in list(at):
                            done(key, "stopped")
                if not at and (stopping is not None or pick(waiting, left) is None):
                    break
                with suppress(queue.Empty):
                    key, said = crew.heard.get(timeout=max(0, min(TICK, left))
                                               if stopping is None else TICK)
                    if key in at:
                        if isinstance(said, dict):
                            watcher.epoch(at[key], said)
                        else:
                            done(key, *said)
                watcher.tick()
        finally:
            crew.close()
    outcome.signal, outcome.lost = caught[0] if caught else None, crew.lost
    return outcome


def _learn(todo: Todo, estimates: Estimates, waiting: Sequence[Todo]) -> None:
    """From a run that has just ended, what its like will take."""
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
