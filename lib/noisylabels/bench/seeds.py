"""Several seeds at once on one GPU: a small network leaves most of it idle.

Two ways are measured: several networks on streams of their own within one captured
graph, and several processes side by side. A number is milliseconds until *every* seed
has made one step.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from ..training import engine
from . import loops
from .timing import Bench, Entry

PATIENCE = 90  # seconds within which a process must answer


class Streams:
    """Several networks, each with its own seed, batches and stream, in one captured
    graph."""

    def __init__(self, data: loops.Images, s: engine.Recipe, device: str,
                 count: int) -> None:
        self.s = s
        self.tasks = [loops.task(data, engine.Execution(device), s.precision, seed=k)
                      for k in range(count)]
        self.parts = [loops.small_loss_step(task, s) for task in self.tasks]
        self.inputs = [[t.clone() for t in next(task.batches(s.batch_size))]
                       for task in self.tasks]
        self.streams = [torch.cuda.Stream() for _ in self.tasks]
        self.replay = loops.captured(self._all)

    def _all(self) -> None:
        """One step of every network; the streams leave the current one and come back to
        it."""
        main = torch.cuda.current_stream()
        for stream, part, inputs in zip(self.streams, self.parts, self.inputs,
                                        strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                part[2](*inputs)
        for stream in self.streams:
            main.wait_stream(stream)

    def steps(self, count: int) -> None:
        while count > 0:
            for parts in zip(*(task.batches(self.s.batch_size, drop_last=True)
                               for task in self.tasks), strict=True):
                for mine, given in zip(self.inputs, parts, strict=True):
                    for a, b in zip(mine, given, strict=True):
                        a.copy_(b)
                self.replay()
                count -= 1
                if not count:
                    return


def streams(bench: Bench, count: int) -> Callable[[], float]:
    loop = Streams(loops.images_of_a_round(bench), loops.recipe(bench),
                   str(bench.device), count)
    loop.steps(bench.warm_up)
    return lambda: 1e3 * bench.seconds(lambda: loop.steps(bench.steps)) / bench.steps


# ---------------------------------------------------------------------------- processes


def worker(pipe: Connection, s: engine.Recipe, execution: engine.Execution, steps: int,
           warm_up: int, seed: int) -> None:
    """One process: builds its loop, then answers each number of steps with (begun,
    ended)."""
    try:
        torch.set_num_threads(1)
        data = loops.made_up(steps * s.batch_size, 100, seed)
        loop = loops.Ours(data, s, execution, seed=seed)
        loop.steps(warm_up)
        _wait(execution)
        pipe.send("ready")
        while count := pipe.recv():
            begun = time.perf_counter()  # one clock for all processes of a machine
            loop.steps(count)
            _wait(execution)
            pipe.send((begun, time.perf_counter()))
    except Exception as error:
        pipe.send(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )


def _wait(execution: engine.Execution) -> None:
    if execution.device.startswith("cuda"):
        torch.cuda.synchronize()


class Processes:
    """A few processes that train side by side, started once; `round(k)` lets the first
    k go."""

    def __init__(self, s: engine.Recipe, execution: engine.Execution, steps: int,
                 warm_up: int, count: int) -> None:
        self.steps = steps
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        for seed in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(target=worker, daemon=True, args=(
                theirs, s, execution, steps, warm_up, seed))
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)
        try:
            for pipe in self.pipes:
                self._answer(pipe)
        except BaseException:
            self.close()
            raise

    def _answer(self, pipe: Connection) -> Any:
        try:
            said = pipe.recv() if pipe.poll(
                PATIENCE) else f"no answer within {PATIENCE} s"
        except EOFError:
            said = "a process ended early"
        if isinstance(said, str) and said != "ready":
            raise RuntimeError(said)
        return said

    def round(self, count: int) -> float:
        """Seconds a step until each of `count` processes has made it."""
        for pipe in self.pipes[:count]:
            pipe.send(self.steps)
        times = [self._answer(pipe) for pipe in self.pipes[:count]]
        return (max(e for _, e in times) - min(b for b, _ in times)) / self.steps

    def close(self) -> None:
        for pipe in self.pipes:
            try:
                pipe.send(0)
                pipe.close()
            except (BrokenPipeError, OSError):
                continue
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.terminate()


class ProcessRound:
    """A round of `count` processes out of those the entries of a group share."""

    def __init__(self, bench: Bench, count: int, most: int = 4) -> None:
        if (why := bench.shared.get("no processes")) is not None:
            raise RuntimeError(why)  # once is enough: each try waits for all of them
        if bench.shared.get("processes") is None:
            execution = engine.Execution(str(bench.device), graph=bench.cuda)
            try:
                bench.shared["processes"] = Processes(loops.recipe(bench),
                                                      execution, bench.steps,
                                                      max(5, bench.warm_up), most)
            except RuntimeError as error:
                bench.shared["no processes"] = str(error)
                raise
        self.bench, self.count = bench, count

    def __call__(self) -> float:
        return 1e3 * self.bench.shared["processes"].round(self.count)

    def close(self) -> None:
        processes = self.bench.shared.pop("processes", None)
        if processes is not None:
            processes.close()


ENTRIES = (*(Entry(f"streams_{k}",
                   f"{k} seed{'s' * (k > 1)} on streams within one CUDA graph",
                   "ms/step", partial(streams, count=k), gpu=True)
             for k in (1, 2, 4)), *(Entry(
                 f"processes_{k}",
                 f"{k} seed{'s' * (k > 1)} in processes of their own, each with its "
                 "CUDA graph", "ms/step", partial(ProcessRound, count=k), gpu=True)
                                    for k in (1, 2, 4)),
           )
