"""The training loops that are compared: the floor, and ours in each way of executing
it.

All train the same network by cross entropy with the same SGD at the same batch size,
channels last, in bfloat16 (float32 on a CPU that has none).

    floor    forward, backward, SGD on ready batches and nothing else; on a GPU one captured graph.
             It is what the network itself costs.
    ours     what a small-loss method does besides: views, normalisation, the loss of every sample
             kept in a table; by the engine that all methods use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..data import datasets
from ..kernels import objectives, views
from ..training import engine, networks
from .timing import Bench, Entry

EPOCH = 50_000  # images of a training epoch, as in CIFAR
CLASSES = 10
READY = 8  # ready batches that take turns
STRONG = views.Chain((views.Weak(), views.RandAugment.fixmatch()))


@cache
def operations(network: str, channels: int = 3, side: int = 32) -> tuple[int, int]:
    """Floating-point operations an image: (forward, forward and backward), counted.

    A multiplication with its addition counts as two. Convolutions and matrix products
    only; all else moves bytes. Nothing is computed: the tensors are on the device
    "meta".
    """
    net = networks.build(network, CLASSES, channels).to("meta")
    x = torch.empty(2, channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter:
        z = net(x)
        forward = counter.get_total_flops()
        z.sum().backward()
        both = counter.get_total_flops()
    return forward // len(x), both // len(x)


# ------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Images:
    """Training and test images, uint8 (N, 3, 32, 32), and labels; where they are
    from."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    source: str
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)


def made_up(n: int, n_test: int = 1000, seed: int = 0) -> Images:
    """Images of ten made-up classes: a coarse pattern a class, shifted, under strong
    noise."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randn(CLASSES, 3, 8, 8, generator=draws)
    pattern = F.interpolate(coarse, size=(32, 32), mode="bilinear")

    def some(count: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(CLASSES, (count,), generator=draws)
        x = 128 + 25 * pattern[y] + 50 * torch.randn(count, 3, 32, 32, generator=draws)
        return x.clamp(0, 255).to(torch.uint8), y

    return Images(*some(n), *some(n_test), "made-up images")


def images(bench: Bench, n: int, n_test: int = 10_000) -> Images:
    """`n` training images: CIFAR-10's where it is at hand, else made-up ones."""
    if "cifar10" not in bench.shared:
        try:
            bench.shared["cifar10"] = datasets.load("cifar10")
        except FileNotFoundError:
            bench.shared["cifar10"] = None
    data = bench.shared["cifar10"]
    if data is None:
        return made_up(n, min(n_test, max(n // 4, 100)))
    rows = torch.arange(n) % len(data.x_train)
    return Images(data.x_train[rows], data.y_train[rows], data.x_test[:n_test],
                  data.y_test[:n_test], "CIFAR-10", data.mean, data.std)


def images_of_a_round(bench: Bench) -> Images:
    """As many images as the timed steps of one round take."""
    if "round" not in bench.shared:
        bench.shared["round"] = images(bench, bench.steps * bench.batch_size, 1000)
    return bench.shared["round"]


def task(data: Images, execution: engine.Execution, precision: str,
         seed: int = 0) -> engine.Task:
    """The images as a method would see them, on the execution's device."""
    return engine.Task(images=data.x.to(execution.device),
                       y_given=data.y.to(execution.device), num_classes=CLASSES,
                       mean=data.mean, std=data.std, weak=views.Weak(), strong=STRONG,
                       seed=seed, execution=execution, precision=precision)


def recipe(bench: Bench, **changes: Any) -> engine.Recipe:
    """The recipe of all loops; a small constant rate keeps any network from
    diverging."""
    return engine.Recipe(**{**dict(
        network=bench.network, batch_size=bench.batch_size, lr=0.01, weight_decay=5e-4,
        schedule="constant", precision=bench.precision), **changes})


# -------------------------------------------------------------------------------- loops


def captured(step: Callable[[], Any], warm_up: int = 3) -> Callable[[], None]:
    """`step` as one CUDA graph. It is run `warm_up` times first, on a stream of its
    own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return partial(_replay, graph, step)


def _replay(graph: Any, step: Callable[[], Any]) -> None:
    """`step` is only held: its weights lie outside the graph and must live as long."""
    graph.replay()


def floor(bench: Bench, compiled: bool = False) -> Callable[[], float]:
    """Milliseconds a step of the bare loop."""
    data = images_of_a_round(bench)
    where = task(data, engine.Execution(str(bench.device)), bench.precision)
    net, opt = engine.start(recipe(bench), where)
    narrow = torch.bfloat16 if bench.precision == "bfloat16" else torch.float32
    batches = list(islice(where.batches(bench.batch_size, drop_last=True), READY))
    ready = [(x.to(narrow), where.y_given[i]) for i, x in batches]

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x).float(), y)

    compute = torch.compile(loss_of) if compiled else loss_of

    def step(x: Tensor, y: Tensor) -> None:
        with where.autocast():
            loss = compute(x, y)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()

    go = step
    if bench.cuda:
        x0, y0 = (t.clone() for t in ready[0])
        usual, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            replay = captured(lambda: step(x0, y0))
        finally:
            torch.backends.cudnn.benchmark = usual

        def go(x: Tensor, y: Tensor) -> None:
            x0.copy_(x)
            y0.copy_(y)
            replay()

    def steps(count: int) -> None:
        for x, y in islice(cycle(ready), count):
            go(x, y)

    steps(bench.warm_up)
    return lambda: 1e3 * bench.seconds(lambda: steps(bench.steps)) / bench.steps


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


class Ours:
    """Our loop. `steps(n)` trains n steps and never waits; `ready=True` leaves the
    views out.

    An epoch of `data` is as long as a round, so that the views of all its images, and
    of no others, are made within the time measured.
    """

    def __init__(self, data: Images, s: engine.Recipe, execution: engine.Execution,
                 ready: bool = False, seed: int = 0) -> None:
        self.s, self.task = s, task(data, execution, s.precision, seed)
        self.total = torch.zeros((), device=self.task.device)
        every = self.task.batches(s.batch_size, drop_last=True)
        self.ready = list(islice(every, READY)) if ready else None
        self.net, self.opt, self.step, self.losses = small_loss_step(self.task, s)

    def steps(self, count: int) -> None:
        while count > 0:
            batches = cycle(self.ready) if self.ready else self.task.batches(
                self.s.batch_size, drop_last=True)
            for i, x in islice(batches, count):
                self.total += self.step(i, x)
                count -= 1


def ours(bench: Bench, *, compile: bool = False, graph: bool = False,
         ready: bool = False) -> Callable[[], float]:
    """Milliseconds a step of our loop."""
    execution = engine.Execution(str(bench.device), compile=compile, graph=graph)
    loop = Ours(images_of_a_round(bench), recipe(bench), execution, ready)
    # a graph is captured in the fourth step
    loop.steps(max(bench.warm_up, 5 if graph else 1))
    return lambda: 1e3 * bench.seconds(lambda: loop.steps(bench.steps)) / bench.steps


ENTRIES = (Entry(
    "floor",
    "bare loop: ready batches, forward, backward, SGD (on a GPU one CUDA graph)",
    "ms/step", floor),
           Entry("floor_compiled", "bare loop, compiled, in one CUDA graph", "ms/step",
                 partial(floor, compiled=True), gpu=True),
           Entry("ours_step", "our step alone, on ready batches", "ms/step",
                 partial(ours, ready=True)),
           Entry("ours", "our loop: views, normalisation, step, loss table", "ms/step",
                 ours),
           Entry("ours_compiled", "our loop, compiled", "ms/step",
                 partial(ours, compile=True), gpu=True),
           Entry("ours_graph", "our loop, step in one CUDA graph", "ms/step",
                 partial(ours, graph=True), gpu=True),
           Entry("ours_compiled_graph", "our loop, compiled, step in one CUDA graph",
                 "ms/step", partial(ours, compile=True, graph=True), gpu=True),
           )
