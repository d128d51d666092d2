"""Views: random augmentation of whole batches, every sample with its own draw.

A view is a callable `view(x, generator) -> y` on uint8 images (B,C,H,W), C = 1 or 3, on
any device; `generator` lies on the device of `x` and is the only source of chance.
There is no loop over samples and no transfer to the host. Every operation is equal to
Pillow's, pixel by pixel (`pixels` does the work). The settings are frozen dataclasses,
so a view can be compared, hashed and printed.

    weak    Weak(pad=4, flip=True)                     crop and flip by one gather
    strong  Chain((Weak(), RandAugment.fixmatch(), Cutout.fixmatch()))      as in SANM
            Chain((AutoAugment.ieg(), Weak.ieg_strong(), Cutout.ieg()))
                                                            as in IEG, there after weak

Sources: RandAugment with the FixMatch pool and AutoAugment as used by the official code
of SANM (Tu et al. 2023); both with the magnitudes of the official code of IEG (Zhang et
al. 2020); the 25 sub-policies published for CIFAR-10 with AutoAugment (Cubuk et al.
2019).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import pixels
from .pixels import BARE, CODE, OPS

View = Callable[[Tensor, torch.Generator], Tensor]

POOL = ("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Identity",
        "Posterize", "Rotate", "Sharpness", "ShearX", "ShearY", "Solarize",
        "TranslateX", "TranslateY")
"""The 14 operations of FixMatch's RandAugment, which SANM and IEG use as well."""

CIFAR10_POLICIES = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
"""AutoAugment's 25 sub-policies for CIFAR-10: two of (operation, probability, magnitude
index)."""

SHEAR = ("nearest", "bicubic")

Entry = tuple[float, float]  # magnitude = first + random sign * second


def _choose(what: str, value: str, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if value not in names:
        near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown {what} {value!r}; allowed: {', '.join(names)} (nearest: {near!r})"
        )


def _need(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)


def _check_images(x: Tensor) -> None:
    _need(
        isinstance(x, Tensor) and x.dtype == torch.uint8,
        f"images must be a uint8 tensor, not {getattr(x, 'dtype', type(x).__name__)}",
    )
    _need(
        x.dim() == 4 and x.shape[1] in (1, 3) and x.shape[2] > 0 and x.shape[3] > 0,
        "images must have shape (batch, 1 or 3 channels, height, width), not "
        f"{tuple(x.shape)}",
    )


def _check(x: Tensor, generator: torch.Generator) -> None:
    _check_images(x)
    _need(
        isinstance(generator, torch.Generator),
        f"a view needs an explicit torch.Generator, not {type(generator).__name__}",
    )
    _need(
        generator.device.type == x.device.type,
        f"the generator is on {generator.device}, the images are on {x.device}: "
        "use one device",
    )


@dataclass(frozen=True)
class Identity:
    """The images as they are (the same tensor)."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        _check_images(x)
        return x


@dataclass(frozen=True)
class Chain:
    """Views one after another."""

    views: tuple[View, ...]

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        for view in self.views:
            x = view(x, generator)
        return x


@dataclass(frozen=True)
class Weak:
    """Random crop of the padded image and random mirroring, by one gather.

    `pad` pixels on every side, filled with `fill` (mode "zero") or mirrored without
    repeating the border (mode "reflect"); the corner is uniform over `offsets`
    positions per axis (None: all 2*pad+1); mirrored with probability 1/2 if `flip`.
    """

    pad: int = 4
    flip: bool = True
    mode: str = "zero"
    fill: int = 0
    offsets: int | None = None

    def __post_init__(self) -> None:
        _choose("mode", self.mode, ("zero", "reflect"))
        _need(self.pad >= 0, f"pad must be 0 or more pixels, not {self.pad}")
        _need(0 <= self.fill <= 255,
              f"fill must be a grey level in 0..255, not {self.fill}")
        _need(
            self.offsets is None or 1 <= self.offsets <= 2 * self.pad + 1,
            f"offsets must be None or in 1..{2 * self.pad + 1} for pad {self.pad}, "
            f"not {self.offsets}",
        )

    @classmethod
    def ieg_strong(cls) -> Weak:
        """The crop in IEG's strong view: pad 4 in mid-grey, offsets 0..7 (its code)."""
        return cls(pad=4, flip=True, fill=128, offsets=8)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, columns of corners in the padded image, int64; mirrored, bool; (n,)."""
        device = generator.device
        span = 2 * self.pad + 1 if self.offsets is None else self.offsets
        top, left = torch.randint(span, (2, n), generator=generator, device=device)
        flip = torch.rand(n, generator=generator,
                          device=device) < (0.5 if self.flip else 0.0)
        return top, left, flip

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        _check(x, generator)
        _need(
            self.mode == "zero" or self.pad < min(x.shape[2:]),
            f"reflecting pad {self.pad} needs images larger than it, not "
            f"{tuple(x.shape[2:])}",
        )
        top, left, flip = self.draw(len(x), generator)
        return pixels.crop(x, top, left, flip, self.pad, self.mode, self.fill)


@dataclass(frozen=True)
class Cutout:
    """A grey square at a random place of every image.

    rule "corner": the corner is int(max(0, u - size/2)), u uniform over the side, and
    the square is one pixel larger than `size`, since Pillow's rectangle includes its
    end; it is cut short only at the right and bottom (SANM's and FixMatch's 17x17).
    rule "centre": the square reaches size // 2 to either side of a uniform pixel,
    clipped at every border (IEG).
    """

    size: int = 16
    fill: int = 127
    rule: str = "corner"

    def __post_init__(self) -> None:
        _choose("rule", self.rule, ("corner", "centre"))
        _need(self.size > 0, f"size must be 1 or more pixels, not {self.size}")
        _need(0 <= self.fill <= 255,
              f"fill must be a grey level in 0..255, not {self.fill}")

    @classmethod
    def fixmatch(cls, size: int = 16) -> Cutout:
        """Grey 127, nominally 16x16 and 17x17 in effect: FixMatch in PyTorch, SANM."""
        return cls(size, 127, "corner")

    @classmethod
    def ieg(cls, size: int = 16) -> Cutout:
        """16x16, clipped at the borders, grey 128.

        IEG fills 0 of [-1, 1], between 127 and 128.
        """
        return cls(size, 128, "centre")

    def draw(self, n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """First row, row after the last, and columns likewise: (4, n) int64.

        Not yet clipped to the image, `size` its height and width.
        """
        device = generator.device
        side = torch.tensor(size, dtype=torch.float64)[:, None]
        side = side.to(device, non_blocking=True)
        u = side * torch.rand((2, n), generator=generator, device=device,
                              dtype=torch.float64)
        if self.rule == "corner":
            first = (u - self.size / 2).clamp(min=0).to(torch.int64)
            last = first + self.size + 1
        else:
            centre = u.to(torch.int64)
            first, last = centre - self.size // 2, centre + self.size // 2
        return torch.stack((first[0], last[0], first[1], last[1]))

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        _check(x, generator)
        top, bottom, left, right = self.draw(len(x), (x.shape[2], x.shape[3]),
                                             generator)
        return pixels.erase(x, top, bottom, left, right, self.fill)


def _fixmatch(name: str, level: int, side: int) -> Entry:
    """FixMatch's pool at level 0..10.

    Factors .05-.95, 4-8 bits, 30 degrees, .3 of the side.
    """
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return level * 0.9 / 10 + 0.05, 0
    if name.startswith("Translate"):
        return 0, int(level * 0.3 / 10 * side)
    return _common(name, level, bits=4 + int(level * 4 / 10))


def _ieg(name: str, level: int, side: int) -> Entry:
    """IEG's pool at level 0..10.

    Factors .1-1.9, 4-1 bits, 10 pixels of 32 (in proportion).
    """
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return level * 1.8 / 10 + 0.1, 0
    if name.startswith("Translate"):
        return 0, int(level * (10 * side / 32) / 10)
    return _common(name, level, bits=4 - int(level * 4 / 10))


def _common(name: str, level: int, bits: int) -> Entry:
    """What the two pools share: whole degrees and thresholds, shear up to 0.3."""
    if name == "Rotate":
        return 0, int(level * 30 / 10)
    if name.startswith("Shear"):
        return 0, level * 0.3 / 10
    return {"Posterize": (bits, 0),
            "Solarize": (256 - int(level * 256 / 10), 0)}.get(name, (0, 0))


def _torchvision(name: str, index: int, side: int) -> Entry:
    """The bins of torchvision's AutoAugment, index 0..9, signed where it signs them."""
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1, 0.9 * index / 9
    if name.startswith("Translate"):
        return 0, int(150 / 331 * side * index / 9)
    if name.startswith("Shear"):
        return 0, 0.3 * index / 9
    return {
        "Rotate": (0, 30 * index / 9),
        "Posterize": (8 - round(4 * index / 9), 0),
        "Solarize": (255 - 255 * index / 9, 0),
    }.get(name, (0, 0))


def _sanm(name: str, index: int, side: int) -> Entry:
    """SANM's AutoAugment.

    Rotation always positive, translation not rounded, Solarize from 256.
    """
    if name.startswith("Translate"):
        return 0, 150 / 331 * index / 9 * side
    return {
        "Rotate": (30 * index / 9, 0),
        "Solarize": (256 - 256 * index / 9, 0),
    }.get(name, _torchvision(name, index, side))


_RAND_STYLES = {"fixmatch": _fixmatch, "ieg": _ieg}
_AUTO_STYLES = {"torchvision": _torchvision, "sanm": _sanm, "ieg": _ieg}
# grey level outside the image
_HOLES = {"fixmatch": 0, "torchvision": 0, "sanm": 128, "ieg": 128}


def _entry(styles: dict, style: str, name: str, level: int,
           size: tuple[int, int]) -> Entry:
    return styles[style](name, level, size[0] if name.endswith("Y") else size[1])


def _check_fill(fill: int | None) -> None:
    _need(
        fill is None or 0 <= fill <= 255,
        f"fill must be None or a grey level in 0..255, not {fill}",
    )


def _finish(rows: Tensor, applied: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and magnitudes by rows (code, first, second); Identity if not applied."""
    code, first, second = rows.unbind(-1)
    code = torch.where(applied, code.to(torch.int64), CODE["Identity"])
    return code, first + sign * second


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.randint(2, shape, generator=generator, device=generator.device) - 1


@functools.lru_cache(maxsize=64)
def _rand_rows(
    style: str, ops: tuple[str, ...], levels: tuple[int, int], size: tuple[int, int]
) -> tuple:
    return tuple(
        tuple(
            (CODE[name], *_entry(_RAND_STYLES, style, name, level, size))
            for level in range(levels[0], levels[1] + 1)
        )
        for name in ops
    )


@functools.lru_cache(maxsize=64)
def _auto_rows(style: str, size: tuple[int, int]) -> tuple:
    return tuple(
        tuple((p, CODE[name], *_entry(_AUTO_STYLES, style, name, i, size))
              for name, p, i in pair) for pair in CIFAR10_POLICIES)


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations of `ops`, with replacement, each with `probability`.

    The level is a uniform integer in `levels` (both ends in) of 10; rotation, shear and
    translation take a random sign. `style` maps levels to magnitudes: "fixmatch" (as in
    SANM: 4-7 bits, factors .14-.86) or "ieg" (1-4 bits, factors .28-1.72). `fill` is
    the grey level of holes (None: 0 for fixmatch, 128 for ieg). Each `shared` samples
    in a row have the same operations and levels, as IEG's batches do; application and
    sign stay per sample.
    """

    num_ops: int = 2
    style: str = "fixmatch"
    probability: float = 0.5
    levels: tuple[int, int] = (1, 9)
    fill: int | None = None
    shared: int = 1
    ops: tuple[str, ...] = POOL

    def __post_init__(self) -> None:
        _choose("style", self.style, _RAND_STYLES)
        _need(self.num_ops >= 1, f"num_ops must be 1 or more, not {self.num_ops}")
        _need(self.shared >= 1, f"shared must be 1 or more, not {self.shared}")
        _need(0 <= self.probability <= 1,
              f"probability must be in 0..1, not {self.probability}")
        low, high = self.levels
        _need(0 <= low <= high <= 10,
              f"levels must be low <= high within 0..10, not {self.levels}")
        _need(len(self.ops) > 0, "ops must name at least one operation")
        for name in self.ops:
            _choose("operation", name, OPS)
        _check_fill(self.fill)

    @classmethod
    def fixmatch(cls) -> RandAugment:
        """SANM's pool: two of the 14 operations, black holes.

        It goes with `Cutout.fixmatch()`.
        """
        return cls(style="fixmatch")

    @classmethod
    def ieg(cls, batch_size: int) -> RandAugment:
        """IEG's alternative to AutoAugment: the same two operations for a batch.

        Declared difference: holes are mid-grey at once; in the official code a second
        operation still sees them black.
        """
        return cls(style="ieg", shared=batch_size)

    def draw(
        self, n: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Codes into `OPS`, int64, magnitudes in their units, float64: (num_ops,n)."""
        device = generator.device
        drawn, every = (self.num_ops, -(-n // self.shared)), (self.num_ops, n)
        which = torch.randint(len(self.ops), drawn, generator=generator, device=device)
        low, high = self.levels
        level = torch.randint(high - low + 1, drawn, generator=generator, device=device)
        applied = torch.rand(every, generator=generator,
                             device=device) < self.probability
        table = torch.tensor(
            _rand_rows(self.style, self.ops, self.levels, size), dtype=torch.float64
        ).to(device, non_blocking=True)
        rows = table[which, level].repeat_interleave(self.shared, 1)[:, :n]
        return _finish(rows, applied, _signs(every, generator))

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        _check(x, generator)
        code, magnitude = self.draw(len(x), (x.shape[2], x.shape[3]), generator)
        fill = _HOLES[self.style] if self.fill is None else self.fill
        for k in range(self.num_ops):
            x = pixels.operate(x, code[k], magnitude[k], fill, self.ops)
        return x


@dataclass(frozen=True)
class AutoAugment:
    """One of the 25 published CIFAR-10 sub-policies per sample: two operations.

    `style` gives the magnitudes: "torchvision": the bins of torchvision's policy, holes
    black; "sanm": SANM's reading: holes grey 128, rotation always positive, translation
    150/331 of the side at index 9 and not rounded, Solarize threshold 256 - 28.44
    index; "ieg": the index is the level 0..10 of IEG's mapping, holes mid-grey 128.
    Declared difference: IEG draws from 95 sub-policies; the 25 published ones stand in
    for them. `fill` overrides the grey level of the holes. `shear`: ShearX/Y by
    "nearest" pixel, or "bicubic" as in the official code of SANM; everything else is
    nearest in all of them.
    """

    style: str = "torchvision"
    fill: int | None = None
    shear: str = "nearest"

    def __post_init__(self) -> None:
        _choose("style", self.style, _AUTO_STYLES)
        _choose("shear", self.shear, SHEAR)
        _check_fill(self.fill)

    @classmethod
    def sanm(cls, shear: str = "nearest") -> AutoAugment:
        """SANM's views p1, p2, g1, g2 after crop and flip (also for CIFAR-100)."""
        return cls("sanm", shear=shear)

    @classmethod
    def ieg(cls) -> AutoAugment:
        """IEG's strong view, before `Weak.ieg_strong()` and `Cutout.ieg()`."""
        return cls("ieg")

    def draw(
        self, n: int, size: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Codes into `OPS`, int64, magnitudes in their units, float64: (2,n)."""
        device = generator.device
        policy = torch.randint(len(CIFAR10_POLICIES), (n,), generator=generator,
                               device=device)
        table = torch.tensor(_auto_rows(self.style, size), dtype=torch.float64)
        rows = table.to(device, non_blocking=True)[policy].transpose(0, 1)
        u = torch.rand((2, n), generator=generator, device=device, dtype=torch.float64)
        return _finish(rows[..., 1:], u < rows[..., 0], _signs((2, n), generator))

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        _check(x, generator)
        code, magnitude = self.draw(len(x), (x.shape[2], x.shape[3]), generator)
        fill = _HOLES[self.style] if self.fill is None else self.fill
        for k in range(2):
            x = pixels.operate(x, code[k], magnitude[k], fill, OPS,
                               self.shear == "bicubic")
        return x


def apply_op(
    name: str, x: Tensor, magnitude: Tensor | float | None = None, fill: int = 0
) -> Tensor:
    """One named operation (see `OPS`) on all images `x` (B,C,H,W) uint8, as Pillow's.

    `magnitude` is one number or one per sample (B,), in the operation's unit: Rotate
    degrees counter-clockwise; ShearX/Y the factor (ShearX: output (s, t) shows input (s
    + factor t, t)); TranslateX/Y pixels (output s shows input s + pixels); Posterize
    bits kept (1..8, others are clipped); Solarize the level from which pixels are
    inverted; Brightness, Color, Contrast, Sharpness the factor (1 changes nothing; 0
    gives black, grey, the mean level, the smoothed). Identity, AutoContrast, Equalize
    and Invert take none. Holes get the grey level `fill`.
    """
    _choose("operation", name, OPS)
    _check_images(x)
    _check_fill(fill)
    if magnitude is None:
        _need(name in BARE, f"{name} needs a magnitude, one number or one per sample")
        magnitude = 0.0
    value = torch.as_tensor(magnitude, dtype=torch.float64)
    value = value.to(x.device, non_blocking=True)
    _need(
        value.dim() == 0 or value.shape == x.shape[:1],
        f"magnitude must be one number or one per sample ({len(x)}), "
        f"not {tuple(value.shape)}",
    )
    code = torch.full((len(x),), CODE[name], device=x.device)
    return pixels.operate(x, code, value.expand(len(x)), fill, (name,))


def apply(
    view: View, images: Tensor, generator: torch.Generator, chunk: int | None = None
) -> Tensor:
    """A view of a whole set, `chunk` images at a time to bound the memory.

    None: 4096 on an accelerator (few launches), 256 on a CPU (it stays in the cache).
    The draws depend on the chunk, so fix it where a run must be repeated exactly.
    """
    _check(images, generator)
    if chunk is None:
        chunk = 256 if images.device.type == "cpu" else 4096
    _need(chunk >= 1, f"chunk must be 1 or more images, not {chunk}")
    starts = range(0, max(len(images), 1), chunk)
    return torch.cat([view(images[i : i + chunk], generator) for i in starts])
