"""The parts of an epoch that are no training steps, each alone.

`KERNELS` is a list of `Kernel`s; another part is added by appending one. Sizes are
those of CIFAR on a GPU; on a CPU they are smaller and a rate is still said in epochs of
50,000 images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import masks, mixtures, neighbours, pixels, views
from ..methods import sanm
from ..training import engine, networks
from . import loops, reference
from .timing import Bench, Entry, Unavailable
from .waits import replaced

Built = tuple[Callable[[], object], int]
"""One call, and the images that it makes."""


@dataclass(frozen=True)
class Kernel:
    """A part to be timed.

    Args:
        name, what: the row and its words.
        unit: "epochs/s" (of 50,000 images), "ms" or "s" a call.
        build: (bench) -> (one call, images a call makes); the images count for
            "epochs/s" alone.
        must: (comparison, bound) that has to hold on an H200-class GPU, or None.
        gpu: it cannot be done on a CPU.
    """

    name: str
    what: str
    unit: str
    build: Callable[[Bench], Built]
    must: tuple[str, float] | None = None
    gpu: bool = False

    def entry(self) -> Entry:
        return Entry(self.name, self.what, self.unit, self.rounds, self.gpu)

    def rounds(self, bench: Bench) -> Callable[[], float]:
        call, count = self.build(bench)
        seconds = bench.repeated(call)
        if self.unit == "epochs/s":
            return lambda: count / loops.EPOCH / seconds()
        return lambda: seconds() * {"ms": 1e3, "s": 1.0}[self.unit]


# ---------------------------------------------------------------------------- the parts


def _pixels_and_draws(bench: Bench) -> tuple[Tensor, torch.Generator]:
    n = loops.EPOCH if bench.cuda else bench.scaled(2_000, least=16)
    x = loops.images(bench, n, 100).x.to(bench.device)
    return x, torch.Generator(bench.device).manual_seed(0)


def _view(view: views.View) -> Callable[[Bench], Built]:
    """A view of all images in the pieces in which an epoch makes them."""

    def build(bench: Bench) -> Built:
        x, draws = _pixels_and_draws(bench)
        chunk = loops.EPOCH if bench.cuda else None
        return lambda: views.apply(view, x, draws, chunk), len(x)

    return build


def _compiled_strong(bench: Bench) -> Built:
    """The strong view with its pixel work fused by torch.compile; the draws stay as
    they are."""
    x, draws = _pixels_and_draws(bench)
    operate = torch.compile(pixels.operate, fullgraph=True)
    augment = views.RandAugment.fixmatch()
    weak = views.Weak()

    def call() -> Tensor:
        y = weak(x, draws)
        code, magnitude = augment.draw(len(y), (32, 32), draws)
        for k in range(augment.num_ops):
            y = operate(y, code[k], magnitude[k], 0, augment.ops)
        return y

    return call, len(x)


def _features(bench: Bench) -> Built:
    """Ten nearest neighbours of every row; ten blurred clusters, as features are."""
    n, d = (loops.EPOCH, 512) if bench.cuda else (bench.scaled(5_000, least=64), 64)
    draws = torch.Generator(bench.device).manual_seed(0)
    centres = 2 * torch.randn(10, d, generator=draws, device=bench.device)
    rows = torch.randint(10, (n,), generator=draws, device=bench.device)
    noise = torch.randn(n, d, generator=draws, device=bench.device)
    features = centres[rows] + noise
    return lambda: neighbours.nearest(features, 10), n


def _without_looking(build: Callable[[Bench], Built]) -> Callable[[Bench], Built]:
    """The part as an accelerator has it: no index is read, whatever need not be
    done."""

    def fixed(bench: Bench) -> Built:
        _of_a_cpu(bench)
        call, count = build(bench)

        def without() -> object:
            with replaced(pixels, "may_look", lambda x: False):
                return call()

        return without, count

    return fixed


def _of_a_cpu(bench: Bench) -> None:
    if bench.cuda:
        raise Unavailable("differs on a CPU alone")


def _in_a_batch(bench: Bench) -> Built:
    """The nearest neighbour of each row of a batch of 128; blurred clusters, as
    features are."""
    draws = torch.Generator(bench.device).manual_seed(0)
    centres = 2 * torch.randn(10, 512, generator=draws, device=bench.device)
    rows = torch.randint(10, (128,), generator=draws, device=bench.device)
    features = centres[rows] + torch.randn(128, 512, generator=draws,
                                           device=bench.device)
    return lambda: neighbours.nearest_in_batch(features, 1), 128


def _wide_layer(product: bool) -> Callable[[Bench], Built]:
    """Forward and backward of a 3x3 convolution of 256 channels on 8x8 maps, in
    bfloat16."""

    def build(bench: Bench) -> Built:
        _of_a_cpu(bench)
        n = bench.scaled(32, least=2)
        conv = networks.Conv2d(256, 256, 3, padding=1, bias=False)
        conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(n, 256, 8, 8,
                        generator=draws).to(memory_format=torch.channels_last)
        ones = torch.ones_like(x, dtype=torch.bfloat16)

        def call() -> None:
            precisions = networks._NARROW if product else ()
            with replaced(networks, "_NARROW",
                          precisions), torch.autocast("cpu", torch.bfloat16):
                y = conv(x)
            y.backward(ones)
            conv.zero_grad()

        return call, n

    return build


def _pooled(before: bool) -> Callable[[Bench], Built]:
    """Forward and backward through ReLU and max pooling, in either order."""

    def build(bench: Bench) -> Built:
        draws = torch.Generator(bench.device).manual_seed(0)
        x = torch.randn(bench.scaled(128, least=2), 16, 32, 32, generator=draws,
                        device=bench.device).to(memory_format=torch.channels_last)
        x.requires_grad_()
        steps = list(networks._PoolRelu())
        run = torch.nn.Sequential(*(reversed(steps) if before else steps))
        ones = torch.ones_like(run(x.detach()))

        def call() -> None:
            x.grad = None
            run(x * 1.0).backward(ones)  # of its own: ReLU works in place

        return call, len(x)

    return build


def _normalised(plain: bool) -> Callable[[Bench], Built]:
    """A batch of bytes, as the steps take them; `plain`: pixel by pixel, as on a
    GPU."""

    def build(bench: Bench) -> Built:
        data = loops.images(bench, 128, 100)
        task = loops.task(data, engine.Execution(str(bench.device)), "float32")
        x = task.images
        if not plain:
            return lambda: task.normalise(x), len(x)
        _of_a_cpu(bench)

        def call() -> Tensor:
            y = x.to(torch.float32, memory_format=torch.channels_last)
            return y.mul_(task._scale).sub_(task._shift)

        return call, len(x)

    return build


def losses(n: int, device: torch.device | str = "cpu", wrong: float = 0.4) -> Tensor:
    """Losses (n,) as they are early in training: low for right labels, high for wrong
    ones."""
    draws = torch.Generator().manual_seed(0)
    is_wrong = torch.rand(n, generator=draws) < wrong
    low, high = (torch.randn(n, generator=draws) for _ in range(2))
    return torch.where(is_wrong, 3.0 + 0.8 * high,
                       0.4 + 0.3 * low.abs()).clamp(min=0).to(device)


def _gaussians(bench: Bench) -> Built:
    x = losses(loops.EPOCH, bench.device)
    return lambda: mixtures.fit_gaussians(mixtures.normalise(x)[0]), len(x)


def _betas(bench: Bench) -> Built:
    x = losses(loops.EPOCH, bench.device)
    return lambda: mixtures.fit_betas(x), len(x)


def _sklearn(bench: Bench) -> Built:
    x = losses(loops.EPOCH).numpy()
    return lambda: reference.fit_mixture(x), len(x)


def mask_inputs(n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
    """What SANM's mask takes: images, maps of PreAct ResNet-18, quality, targets,
    uniforms."""
    draws = torch.Generator().manual_seed(0)
    made = (torch.randn(n, 3, 32, 32, generator=draws),
            torch.randn(n, 512, 4, 4, generator=draws), torch.rand(n, generator=draws),
            torch.randn(n, 10,
                        generator=draws).softmax(1), torch.rand(n, 10, generator=draws))
    return tuple(v.to(device) for v in made)


def _masks(by_sample: bool) -> Callable[[Bench], Built]:
    """SANM's two masks and changed labels of a batch: all at once, or one after
    another."""

    def build(bench: Bench) -> Built:
        made = mask_inputs(bench.scaled(128, least=8), bench.device)
        x, f, w, targets, u = made
        if by_sample:
            s = sanm.Settings()
            return lambda: reference.masks(x, f, w, targets, u, s), len(x)
        return lambda: masks.mask(x, f, w, targets, u), len(x)

    return build


def _pil(strong: bool) -> Callable[[Bench], Built]:
    """The same views by Pillow: in 16 loader processes beside a GPU, on a CPU in this
    process."""

    def build(bench: Bench) -> Built:
        count = reference.workers(bench, 16)
        data = loops.images(bench, bench.scaled(25_600 if count else 1_024, least=64),
                            100)
        made = reference.loader(data, 64, count, False, strong=strong)

        def one_pass() -> None:
            with torch.random.fork_rng(devices=[]):
                for _ in made:
                    pass

        return one_pass, 64 * len(made)

    return build


KERNELS: list[Kernel] = [
    Kernel("views_weak", "weak views (crop, flip)", "epochs/s", _view(views.Weak()),
           (">=", 50)),
    Kernel("views_strong", "strong views (crop, flip, RandAugment)", "epochs/s",
           _view(loops.STRONG), (">=", 10)),
    Kernel("views_strong_fixed", "the same, every pass over every image, as on a GPU",
           "epochs/s", _without_looking(_view(loops.STRONG))),
    Kernel("views_strong_compiled", "the same, compiled", "epochs/s", _compiled_strong,
           gpu=True),
    Kernel("pil_weak", "weak views by PIL (beside a GPU in 16 processes)", "epochs/s",
           _pil(False)),
    Kernel("pil_strong", "strong views by PIL, likewise", "epochs/s", _pil(True)),
    Kernel(
        "neighbours", "ten nearest neighbours of every sample, 50,000 x 512 "
        "(on a CPU 5,000 x 64)", "s", _features, ("<=", 0.1)),
    Kernel("neighbours_batch", "the nearest neighbour in a batch, 128 x 512", "ms",
           _in_a_batch),
    Kernel("neighbours_batch_fixed", "the same from all differences, as on a GPU", "ms",
           _without_looking(_in_a_batch)),
    Kernel(
        "weight_gradient",
        "3x3 convolution of 256 channels on 8x8 maps in bfloat16, forward "
        "and backward, its weight gradient a product", "ms", _wide_layer(True)),
    Kernel("weight_gradient_plain", "the same without the product", "ms",
           _wide_layer(False)),
    Kernel("normalise", "bytes to normalised numbers, 128 images of a step", "ms",
           _normalised(False)),
    Kernel("normalise_plain", "the same, pixel by pixel, as on a GPU", "ms",
           _normalised(True)),
    Kernel("relu_pool",
           "ReLU after max pooling, 128 x 16 maps of 32x32, forward and backward", "ms",
           _pooled(False)),
    Kernel("relu_pool_before", "the same, ReLU before the pooling", "ms",
           _pooled(True)),
    Kernel("mixture_gauss", "Gaussian mixture on 50,000 losses", "ms", _gaussians,
           ("<=", 10)),
    Kernel("mixture_beta", "beta mixture on 50,000 losses", "ms", _betas, ("<=", 10)),
    Kernel("mixture_sklearn", "Gaussian mixture by scikit-learn, on the CPU", "ms",
           _sklearn),
    Kernel("masks", "SANM's masks and labels of 128 samples", "ms", _masks(False)),
    Kernel("masks_by_sample", "the same, one sample after another", "ms", _masks(True)),
]
"""The parts that are timed alone. Append a `Kernel` to add one, such as a method's own."""
