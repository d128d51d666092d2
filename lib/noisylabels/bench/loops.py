"""The training loops that are compared: the floor, ours in each way of executing it,
and several of ours side by side.

All train the same network by cross entropy with the same SGD at the same batch size,
channels last, in bfloat16 (float32 on a CPU that has none).

    floor  forward, backward, SGD on ready batches and nothing else; on a GPU one
           captured graph. It is what the network itself costs.
    ours   what a small-loss method does besides: views, normalisation, the loss of
           every sample kept in a table; by the engine that all methods use.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.datasets import Dataset, load
from ..kernels import objectives, views
from ..lab import cost
from ..training import engine, networks
from .timing import Bench, Entry, Round

EPOCH = 50_000  # images of a training epoch, as in CIFAR
CLASSES = 10
READY = 8  # ready batches that take turns
STRONG = views.Chain((views.Weak(), views.RandAugment.fixmatch()))


def operations(network: str) -> tuple[int, int]:
    """Operations an image: (forward, forward and backward), counted (`lab.cost`)."""
    return cost.operations(network), cost.operations(network, backward=True)


# ------------------------------------------------------------------------------- images


def made_up(n: int, n_test: int = 1000, seed: int = 0) -> Dataset:
    """Images of ten made-up classes: a coarse pattern a class, shifted, under strong
    noise."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randn(CLASSES, 3, 8, 8, generator=draws)
    pattern = F.interpolate(coarse, size=(32, 32), mode="bilinear")

    def some(count: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(CLASSES, (count,), generator=draws)
        x = 128 + 25 * pattern[y] + 50 * torch.randn(count, 3, 32, 32, generator=draws)
        return x.clamp(0, 255).to(torch.uint8), y

    return Dataset("made-up images", *some(n), *some(n_test), tuple("0123456789"),
                   (0.5,) * 3, (0.25,) * 3)


def images(bench: Bench, n: int, n_test: int = 10_000) -> Dataset:
    """`n` training images: CIFAR-10's where it is at hand, else made-up ones."""
    try:
        data = load("cifar10")
    except FileNotFoundError:
        bench.data = "made-up images"
        return made_up(n, min(n_test, max(n // 4, 100)))
    bench.data = "CIFAR-10"
    rows = torch.arange(n) % len(data.x_train)
    return dataclasses.replace(
        data, x_train=data.x_train[rows], y_train=data.y_train[rows],
        x_test=data.x_test[:n_test], y_test=data.y_test[:n_test])


def images_of_a_round(bench: Bench) -> Dataset:
    """As many images as the timed steps of one round take, so that just their views are
    made within the time measured."""
    return images(bench, bench.steps * bench.batch_size, 1000)


def task(data: Dataset, execution: engine.Execution, precision: str, seed: int = 0
         ) -> engine.Task:
    """The images as a method would see them, on the execution's device."""
    x, y = (t.to(execution.device) for t in (data.x_train, data.y_train))
    return engine.Task(x, y, CLASSES, data.mean, data.std, views.Weak(), STRONG,
                       seed=seed, execution=execution, precision=precision)


def recipe(bench: Bench, **changes: Any) -> engine.Recipe:
    """The recipe of all loops; a small constant rate keeps any network from
    diverging."""
    s = engine.Recipe(bench.network, batch_size=bench.batch_size, lr=0.01,
                      weight_decay=5e-4, schedule="constant", precision=bench.precision)
    return dataclasses.replace(s, **changes)


# -------------------------------------------------------------------------------- loops


@dataclasses.dataclass
class Loop:
    """A network in training; `step(*batch)` takes the batches of an endless stream.
    `losses` (N,) are those of each sample when it was last seen."""

    net: networks.Network
    opt: torch.optim.SGD
    step: Callable[..., object]
    stream: Iterator[Iterable[Any]]
    losses: Tensor

    def train(self, count: int) -> None:
        for batch in islice(self.stream, count):
            self.step(*batch)


def endless(a_pass: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    while True:
        yield from a_pass()


def floor(bench: Bench, compiled: bool = False) -> Round:
    """Milliseconds a step of the bare loop."""
    where = task(images_of_a_round(bench), engine.Execution(str(bench.device)),
                 bench.precision)
    net, opt = engine.start(recipe(bench), where)
    batches = islice(where.batches(bench.batch_size, drop_last=True), READY)
    ready = [(x.to(getattr(torch, bench.precision)), where.y_given[i])
             for i, x in batches]

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x).float(), y)

    compute = torch.compile(loss_of) if compiled else loss_of

    def step(x: Tensor, y: Tensor) -> Tensor:
        with where.autocast():
            loss = compute(x, y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        return loss.detach()

    go = engine.Graphed(step, where) if bench.cuda else step
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=True, allow_tf32=cudnn.allow_tf32):
        return bench.a_step(Loop(net, opt, go, cycle(ready), torch.empty(0)).train)


def small_loss_step(
    where: engine.Task, s: engine.Recipe
) -> tuple[networks.Network, torch.optim.SGD, Callable[..., Tensor], Tensor]:
    """Network, optimiser, the step as a method would write it, and the losses it keeps
    (N,)."""
    net, opt = engine.start(s, where)
    losses = torch.zeros(len(where), device=where.device)

    @engine.step(opt, where)
    def step(i: Tensor, x: Tensor) -> Tensor:
        each = objectives.cross_entropy(net(x), where.y_given[i], "none")
        losses.index_copy_(0, i, each.detach())
        return each.mean()

    return net, opt, step, losses


def ours(data: Dataset, s: engine.Recipe, execution: engine.Execution,
         ready: bool = False, seed: int = 0) -> Loop:
    """Our loop, which never waits; `ready` leaves the views out."""
    where = task(data, execution, s.precision, seed)
    total = torch.zeros((), device=where.device)
    a_pass = partial(where.batches, s.batch_size, drop_last=True)
    stream = cycle(list(islice(a_pass(), READY))) if ready else endless(a_pass)
    net, opt, step, losses = small_loss_step(where, s)
    return Loop(net, opt, lambda i, x: total.add_(step(i, x)), stream, losses)


def timed(bench: Bench, ready: bool = False, **ways: bool) -> Round:
    """Milliseconds a step of our loop, executed in these ways."""
    execution = engine.Execution(str(bench.device), **ways)
    return bench.a_step(
        ours(images_of_a_round(bench), recipe(bench), execution, ready).train)


# ----------------------------------------------------------------------- several seeds

PATIENCE = 90  # seconds within which all processes must answer
here: list[Any] = []
"""Of a process: recipe, execution, steps of a round, barrier; then its loop."""


def begin(*told: Any) -> None:
    here[:] = told


def train(seed: int, steps: int) -> tuple[float, float]:
    """In a process beside others: so many steps; when they began and ended."""
    s, execution, a_round, barrier = here[:4]
    if len(here) == 4:
        torch.set_num_threads(1)
        data = made_up(a_round * s.batch_size, 100, seed)
        here.append(ours(data, s, execution, seed=seed))
    barrier.wait(PATIENCE)  # so that each process gets one seed
    begun = time.perf_counter()  # one clock for all processes of a machine
    here[4].train(steps)
    if execution.device.startswith("cuda"):
        torch.cuda.synchronize()
    return begun, time.perf_counter()


def processes(bench: Bench, count: int) -> Round:
    """Milliseconds until every seed has made a step, each in a process of its own: a
    small network leaves most of a GPU idle."""
    context = multiprocessing.get_context("spawn")
    execution = engine.Execution(str(bench.device), graph=bench.cuda)
    told = recipe(bench), execution, bench.steps, context.Barrier(count)
    pool = bench.opened.enter_context(context.Pool(count, begin, told))

    def run(steps: int = bench.steps) -> float:
        tasks = [(seed, steps) for seed in range(count)]
        times = pool.starmap_async(train, tasks, chunksize=1).get(PATIENCE)
        return 1e3 * (max(end for _, end in times) - min(t for t, _ in times)) / steps

    run(max(5, bench.warm_up))
    return run


ENTRIES = [Entry(name, what, "ms/step", build, gpu) for name, gpu, build, what in (
    ("floor", False, floor,
     "bare loop: ready batches, forward, backward, SGD (on a GPU one CUDA graph)"),
    ("floor_compiled", True, partial(floor, compiled=True),
     "bare loop, compiled, in one CUDA graph"),
    ("ours_step", False, partial(timed, ready=True),
     "our step alone, on ready batches"),
    ("ours", False, timed, "our loop: views, normalisation, step, loss table"),
    ("ours_compiled", True, partial(timed, compile=True), "our loop, compiled"),
    ("ours_graph", True, partial(timed, graph=True),
     "our loop, step in one CUDA graph"),
    ("ours_compiled_graph", True, partial(timed, compile=True, graph=True),
     "our loop, compiled, step in one CUDA graph"))]
SEEDS = [Entry(f"processes_{k}", f"{k} seed{'s' * (k > 1)} in processes of their own, "
               "each with its CUDA graph", "ms/step", partial(processes, count=k), True)
         for k in (1, 2, 4)]
