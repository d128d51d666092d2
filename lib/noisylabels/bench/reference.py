"""The loop that public code for noisy labels usually has, written anew to be compared
with ours.

It is our own re-implementation of a common style, not anybody's code: PIL transforms,
one image after another, in the workers of a DataLoader; float32 in PyTorch's default
memory format, eager; the loss read with `.item()` at every step; every sample's loss
stored by a Python loop; at the end of an epoch scikit-learn's Gaussian mixture on these
losses. A second version of the same loop computes in bfloat16, channels last, so that
what precision gains and what structure gains can be told apart. It lives here to be
measured; nothing of the project trains with it.

Speed must not come from doing less: by `parity` our loop and this one train the same
network from the same starts, with the same recipe, for a few epochs; their test
accuracies may differ by no more than chance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, variance
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import torchvision_guard
from ..data.datasets import Dataset
from ..training import engine, networks
from . import loops
from .timing import Bench, Entry, Round, Row, find


@dataclass
class PilImages:
    """(transformed image, label, index) of one image at a time."""

    pixels: Any  # uint8 (N, 32, 32, 3) of NumPy
    labels: list[int]
    transform: Any

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i], i


def workers(bench: Bench, most: int = 8) -> int:
    """Loader processes: none on a CPU, whose cores the training itself needs."""
    return min(most, os.cpu_count() or 1) if bench.cuda else 0


def loader(data: Dataset, batch_size: int, num_workers: int, seed: int = 0,
           strong: bool = False, **options: Any) -> DataLoader:
    """Crop, flip (and RandAugment), to a tensor, normalised: torchvision's on PIL
    images."""
    import PIL  # noqa: F401

    torchvision_guard.import_torchvision()
    from torchvision import transforms as t

    change = t.Compose([t.RandomCrop(32, padding=4), t.RandomHorizontalFlip(),
                        *([t.RandAugment()] * strong), t.ToTensor(),
                        t.Normalize(data.mean, data.std)])
    pixels = data.x_train.permute(0, 2, 3, 1).contiguous().numpy()
    return DataLoader(PilImages(pixels, data.y_train.tolist(), change),  # type: ignore
                      batch_size, shuffle=True, drop_last=True, num_workers=num_workers,
                      persistent_workers=num_workers > 0,
                      generator=torch.Generator().manual_seed(seed), **options)


def common(data: Dataset, s: engine.Recipe, device: torch.device, num_workers: int,
           fast: bool = False, seed: int = 0) -> loops.Loop:
    """The loop in the common style. Its views come from torch's global generator, as in
    that style."""
    made = loader(data, s.batch_size, num_workers, seed,
                  pin_memory=device.type == "cuda")
    layout = torch.channels_last if fast else torch.contiguous_format
    net = networks.build(s.network, loops.CLASSES, seed=seed).to(
        device, memory_format=layout)  # type: ignore[call-overload]
    opt = torch.optim.SGD(net.parameters(), s.lr, s.momentum, nesterov=s.nesterov,
                          weight_decay=s.weight_decay)
    losses = torch.zeros(len(data.y_train))
    seen = {"loss": 0.0, "right": 0.0}

    def step(x: Tensor, y: Tensor, index: Tensor) -> None:
        x, y = x.to(device, memory_format=layout), y.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            z = net(x)
        each = F.cross_entropy(z.float(), y, reduction="none")
        loss = each.mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        seen["loss"] += loss.item()
        seen["right"] += (z.argmax(1) == y).sum().item()
        for b in range(len(y)):
            losses[index[b]] = each[b].item()

    return loops.Loop(net, opt, step, loops.endless(lambda: made), losses)


def reference(bench: Bench, fast: bool = False) -> Round:
    """Milliseconds a step of the common style, its loader running. What the workers
    made ready in other rows' time, two batches each, is no part of it."""
    count = workers(bench)
    loop = common(loops.images_of_a_round(bench), loops.recipe(bench), bench.device,
                  count, fast)
    return bench.a_step(loop.train, first=2 * count)


def fit_mixture(losses: Tensor) -> Any:
    """p(clean) (N,) as the common style gets it: scikit-learn, 10 iterations, tolerance
    1e-2."""
    from sklearn.mixture import GaussianMixture

    low, high = losses.aminmax()
    x = ((losses - low) / (high - low)).cpu().numpy().reshape(-1, 1)
    fit = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4,
                          random_state=0).fit(x)
    return fit.predict_proba(x)[:, fit.means_.argmin()]


ENTRIES = [Entry("reference", "common style: PIL image by image, float32, Python loops",
                 "ms/step", reference),
           Entry("reference_fast", "the same loop in bfloat16, channels last",
                 "ms/step", partial(reference, fast=True))]


# ------------------------------------------------------------------------------- parity


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
    a, b = fmean(ours), fmean(theirs)
    seeds = sum(variance(v) / len(v) for v in (ours, theirs) if len(v) > 1)
    middle = (a + b) / 2
    chance = middle * (1 - middle) / tested * (1 / len(ours) + 1 / len(theirs))
    return a - b, max(2 * math.sqrt(max(seeds, chance)), 0.01)


def parity(bench: Bench) -> None:
    """Rows `parity_ours` and `parity_reference` with an accuracy a seed, and
    `parity`."""
    # one seed and one epoch when quick on a GPU
    epochs, seeds = ((1, 1) if bench.size < 1 else (5, 3)) if bench.cuda else (2, 2)
    n, tested = (loops.EPOCH, 10_000) if bench.cuda else (5_000, 2_000)
    n = bench.scaled(n, least=4 * bench.batch_size)

    def learn(mine: Row, other: Row, both: Row) -> None:
        s = loops.recipe(bench, epochs=epochs, schedule="onecycle", lr=0.1,
                         lr_floor=0.0, precision="float32")
        device, execution = bench.device, engine.Execution(str(bench.device))
        data = loops.images(bench, n, bench.scaled(tested, least=100))
        where = loops.task(data, execution, s.precision)
        for seed in range(seeds):
            if seed and bench.late:
                break
            for row, loop in (
                    (mine, loops.ours(data, s, execution, seed=seed)),
                    (other, common(data, s, device, workers(bench), seed=seed))):
                for epoch in range(1, epochs + 1):
                    engine.set_lr(loop.opt, s.lr_at(epoch))
                    loop.train(n // s.batch_size)
                z, _ = engine.outputs(loop.net, where, data.x_test.to(device))
                right = z.cpu().argmax(1) == data.y_test
                row.values.append(right.float().mean().item())
        difference, allowed = verdict(mine.values, other.values, len(data.y_test))
        both.values = [difference]
        both.note = (f"{'within' if abs(difference) <= allowed else 'beyond'} the "
                     f"{100 * allowed:.1f} points that chance explains; {n:,} images, "
                     f"{bench.data}")

    find(bench, "parity", (
        ("parity_ours", f"our loop, {epochs} epochs: test accuracy a seed", "share"),
        ("parity_reference", "common style, likewise", "share"),
        ("parity", "ours less the common style", "share")), learn)
