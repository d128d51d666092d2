"""Speed must not come from doing less: our loop and the common style learn equally
well.

Both train the same network from the same starts, with the same recipe, for a few
epochs; their test accuracies may differ by no more than chance. `teaching` is a whole
training, as an example.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

from .. import lab
from ..training import engine
from ..training.networks import Network
from . import loops, reference
from .timing import NEEDS_GPU, NOT_RUN, Bench, Row, noted

EPOCHS = {True: 5, False: 2}  # on a GPU, on a CPU
SEEDS = {True: 3, False: 2}  # one seed and one epoch when quick


def verdict(ours: Sequence[float], theirs: Sequence[float],
            tested: int) -> tuple[float, float]:
    """(difference of the means, ours less theirs; largest difference that chance
    explains).

    Allowed is the larger of two standard errors of the difference: over the seeds, and
    of shares counted on `tested` images; 0.01 at least. Raises ValueError without
    numbers.
    """
    if not ours or not theirs:
        raise ValueError("parity needs at least one accuracy of each loop.")
    a, b = statistics.fmean(ours), statistics.fmean(theirs)

    def error(values: Sequence[float]) -> float:
        return statistics.variance(values) / len(values) if len(values) > 1 else 0.0

    middle = (a + b) / 2
    chance = middle * (1 - middle) / tested * (1 / len(ours) + 1 / len(theirs))
    return a - b, max(2 * math.sqrt(error(ours) + error(theirs)), 2 * math.sqrt(chance),
                      0.01)


def accuracy(net: Network, where: engine.Task, data: loops.Images) -> float:
    x, y = data.x_test.to(where.device), data.y_test.to(where.device)
    return (engine.outputs(net, where, x)[0].argmax(1) == y).float().mean().item()


def ours(data: loops.Images, s: engine.Recipe, device: torch.device,
         seed: int) -> float:
    """Test accuracy after the recipe's epochs by our loop."""
    loop = loops.Ours(data, s, engine.Execution(str(device)), seed=seed)
    for epoch in range(1, s.epochs + 1):
        engine.set_lr(loop.opt, s.lr_at(epoch))
        loop.steps(len(data.y) // s.batch_size)
    return accuracy(loop.net, loop.task, data)


def theirs(data: loops.Images, s: engine.Recipe, device: torch.device, seed: int,
           workers: int) -> float:
    """Test accuracy after the recipe's epochs by the loop in the common style."""
    loop = reference.Loop(data, s, device, workers, seed=seed)
    for epoch in range(1, s.epochs + 1):
        loop.epoch(s.lr_at(epoch))
    where = loops.task(data, engine.Execution(str(device)), "float32")
    return accuracy(loop.net, where, data)


def measure(bench: Bench) -> None:
    """Rows `parity_ours` and `parity_reference` with an accuracy a seed, and
    `parity`."""
    if not bench.wants("parity", "parity"):
        return
    epochs, seeds = EPOCHS[bench.cuda], SEEDS[bench.cuda]
    if bench.cuda and bench.size < 1:
        epochs = seeds = 1
    n = bench.scaled(loops.EPOCH if bench.cuda else 5_000, least=4 * bench.batch_size)
    mine = Row("parity_ours", "parity",
               f"our loop, {epochs} epochs: test accuracy a seed", "share")
    other = Row("parity_reference", "parity", "common style, likewise", "share")
    both = Row("parity", "parity", "ours less the common style", "share")
    bench.rows += [mine, other, both]
    if bench.late:
        mine.note = other.note = both.note = NOT_RUN
        return
    with noted(both):
        data = loops.images(bench, n,
                            bench.scaled(10_000 if bench.cuda else 2_000, least=100))
        s = loops.recipe(bench, epochs=epochs, schedule="onecycle", lr=0.1,
                         lr_floor=0.0, precision="float32")
        for seed in range(seeds):
            if seed and bench.late:
                break
            bench.say(f"parity: seed {seed + 1} of {seeds}")
            mine.values.append(ours(data, s, bench.device, seed))
            other.values.append(
                theirs(data, s, bench.device, seed, reference.workers(bench)))
        difference, allowed = verdict(mine.values, other.values, len(data.y_test))
        both.values.append(difference)
        both.note = (f"{'within' if abs(difference) <= allowed else 'beyond'} the "
                     f"{100 * allowed:.1f} points that chance explains; {n:,} images, "
                     f"{data.source}")


def teaching(bench: Bench) -> None:
    """Rows `teaching` and `teaching_seconds`: ResNet-9 on clean CIFAR-10, the `fast`
    budget."""
    hit = Row("teaching", "teaching",
              "ResNet-9 on clean CIFAR-10, fast budget: test accuracy", "share")
    took = Row("teaching_seconds", "teaching", "the same, training and evaluation", "s")
    bench.rows += [hit, took]
    if not bench.cuda:
        hit.note = took.note = NEEDS_GPU
        return

    def each(epoch: int, log: object) -> None:
        if epoch % 10 == 0:
            bench.say(f"teaching: epoch {epoch}")

    with noted(hit):
        s = lab.setting("cross_entropy", "cifar10", "none", 0.0, "fast",
                        val_fraction=0.0)
        run, _ = lab.watch(s, each,
                           execution=engine.Execution(str(bench.device), graph=True))
        hit.values.append(run.last())
        took.values.append(run.info["seconds"])
        hit.note = f"{run.info['epochs']} epochs, {run.info['seconds_per_epoch']:.2f} s each"
    if not hit.values:
        took.note = hit.note
