"""The parts of an epoch that are no training steps, each alone; and what the hardware
can do at best.

`KERNELS` is a list; another part, such as a method's own, is added by appending one.
Sizes are those of CIFAR on a GPU; on a CPU they are smaller and a rate is still said in
epochs of 50,000 images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..kernels import masks, mixtures, neighbours, views
from . import loops, reference
from .timing import Bench, Call, Entry

Build = Callable[[Bench], Call]


def copy(bench: Bench) -> Call:
    """A copy within the device's memory: bytes read and bytes written both count."""
    a = bench.normal(bench.scaled(2**28 if bench.cuda else 2**24))
    b = torch.empty_like(a)
    return lambda: b.copy_(a), 2 * a.nbytes / 1e9


def matmul(bench: Bench) -> Call:
    """A square matrix product of random numbers, in the loops' precision."""
    n = bench.scaled(8192 if bench.cuda else 1024, least=64)
    a, b = bench.normal(2, n, n).to(getattr(torch, bench.precision))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2 * n**3 / 1e12


CEILINGS = [
    Entry("copy", "copy within the memory, bytes read and written", "GB/s", copy),
    Entry("matmul", "square matrix product, random numbers", "TFLOP/s", matmul)]


def _view(view: views.View) -> Build:
    """A view of all images in the pieces in which an epoch makes them."""

    def build(bench: Bench) -> Call:
        n = loops.EPOCH if bench.cuda else bench.scaled(2_000, least=16)
        x = loops.images(bench, n, 100).x_train.to(bench.device)
        draws = torch.Generator(bench.device).manual_seed(0)
        chunk = loops.EPOCH if bench.cuda else None
        return lambda: views.apply(view, x, draws, chunk), n / loops.EPOCH

    return build


def _pil(strong: bool) -> Build:
    """The same views by Pillow: in 16 loader processes beside a GPU, on a CPU in this
    process."""

    def build(bench: Bench) -> Call:
        count = reference.workers(bench, 16)
        n = bench.scaled(25_600 if count else 1_024, least=64)
        made = reference.loader(loops.images(bench, n, 100), 64, count, strong=strong)
        return lambda: [None for _ in made], 64 * len(made) / loops.EPOCH

    return build


def _clusters(bench: Bench, n: int, d: int) -> Tensor:
    """Ten blurred clusters (n, d), as features are."""
    made = bench.normal(n + 10, d)
    return 2 * made[torch.arange(n, device=bench.device) % 10] + made[10:]


def _neighbours(bench: Bench) -> Call:
    n, d = (loops.EPOCH, 512) if bench.cuda else (bench.scaled(5_000, least=64), 64)
    features = _clusters(bench, n, d)
    return lambda: neighbours.nearest(features, 10), 1


def _in_a_batch(bench: Bench) -> Call:
    features = _clusters(bench, 128, 512)
    return lambda: neighbours.nearest_in_batch(features, 1), 1


def losses(n: int, device: torch.device | str = "cpu", wrong: float = 0.4) -> Tensor:
    """Losses (n,) as they are early in training: low for right labels, high for wrong
    ones."""
    draws = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(n, generator=draws) < wrong
    low, high = (torch.randn(n, generator=draws) for _ in range(2))
    return torch.where(is_wrong, 3.0 + 0.8 * high,
                       0.4 + 0.3 * low.abs()).clamp(min=0).to(device)


def _mixture(fit: Callable[[Any], object]) -> Build:
    def build(bench: Bench) -> Call:
        x = losses(loops.EPOCH, bench.device)
        return lambda: fit(x), 1

    return build


def mask_inputs(n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """What SANM's mask takes: images, maps of PreAct ResNet-18, quality, targets,
    uniforms."""
    draws = torch.Generator().manual_seed(0)
    x, f, y = (torch.randn(n, *shape, generator=draws)
               for shape in ((3, 32, 32), (512, 4, 4), (10,)))
    w, u = (torch.rand(n, *shape, generator=draws) for shape in ((), (10,)))
    return tuple(v.to(device) for v in (x, f, w, y.softmax(1), u))


def _masks(at_once: int) -> Build:
    """SANM's two masks and changed labels of a batch, so many samples at once."""

    def build(bench: Bench) -> Call:
        x, f, w, y, u = (v.split(at_once) for v in
                         mask_inputs(bench.scaled(128, least=8), bench.device))
        return lambda: [masks.mask(*some)
                        for some in zip(x, f, w, y, u, strict=True)], 1

    return build


KERNELS = [Entry(*row) for row in (
    ("views_weak", "weak views (crop, flip)", "epochs/s", _view(views.Weak()), False,
     (">=", 50)),
    ("views_strong", "strong views (crop, flip, RandAugment)", "epochs/s",
     _view(loops.STRONG), False, (">=", 10)),
    ("pil_weak", "weak views by PIL (beside a GPU in 16 processes)", "epochs/s",
     _pil(False)),
    ("pil_strong", "strong views by PIL, likewise", "epochs/s", _pil(True)),
    ("neighbours", "ten nearest neighbours of every sample, 50,000 x 512 (on a CPU "
     "5,000 x 64)", "s", _neighbours, False, ("<=", 0.1)),
    ("neighbours_batch", "the nearest neighbour in a batch, 128 x 512", "ms",
     _in_a_batch),
    ("mixture_gauss", "Gaussian mixture on 50,000 losses", "ms", _mixture(
        lambda x: mixtures.fit_gaussians(mixtures.normalise(x)[0])), False, ("<=", 10)),
    ("mixture_beta", "beta mixture on 50,000 losses", "ms",
     _mixture(mixtures.fit_betas), False, ("<=", 10)),
    ("mixture_sklearn", "Gaussian mixture by scikit-learn, on the CPU", "ms",
     _mixture(reference.fit_mixture)),
    ("masks", "SANM's masks and labels of 128 samples", "ms", _masks(128)),
    ("masks_by_sample", "the same, one sample after another", "ms", _masks(1)))]
"""The parts that are timed alone. Append an `Entry` to add one, such as a method's
own."""
