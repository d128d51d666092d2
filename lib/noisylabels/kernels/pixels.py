"""The pixel work under `views`: batched, per sample, uint8, as Pillow bit by bit.

Every function takes a whole batch and one parameter per sample, and does the same fixed
number of tensor operations whatever the batch holds: no loop over samples, no transfer
to the host (but for `operate` on a CPU). A stage of RandAugment or AutoAugment has
exactly one active operation per sample, so three passes in a row (`warp`, `look_up`,
`blend`) give any mix of the fifteen; each pass leaves the samples of the other two
untouched.

Three details make the results those of Pillow and not merely close to them: nearest
resampling walks the image in 16.16 fixed point, AutoContrast scales in float64, and the
smoothing under Sharpness rounds to whole grey levels before it is blended in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

SHEARS = ("ShearX", "ShearY")
GEOMETRIC = (*SHEARS, "TranslateX", "TranslateY", "Rotate")
TABULAR = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "Brightness",
           "Contrast")
BLENDED = ("Color", "Sharpness")
OPS = ("Identity", *GEOMETRIC, *TABULAR, *BLENDED)
CODE = {name: code for code, name in enumerate(OPS)}
BARE = ("Identity", "AutoContrast", "Equalize", "Invert")  # these take no magnitude


def select(mask: Tensor, a: Tensor, b: Tensor | int) -> Tensor:
    """where(mask, a, b) for uint8 images, by arithmetic modulo 256.

    The same numbers; on a CPU `where` on bytes takes some twenty times as long.
    """
    return (a - b) * mask.to(torch.uint8) + b


def gather_pixels(x: Tensor, row: Tensor, col: Tensor, fill: int | None) -> Tensor:
    """Pixels (B,C,h,w) of `x` (B,C,H,W) at `row`, `col`, broadcastable to (B,h,w).

    Positions outside the image give `fill`; with None the caller warrants that there
    are none.
    """
    b, c, h, w = x.shape
    index = row.clamp(0, h - 1) * w + col.clamp(0, w - 1)
    rows, cols = index.shape[1:]
    index = index.to(torch.int64).reshape(b, 1, rows * cols).expand(b, c, rows * cols)
    out = x.reshape(b, c, h * w).gather(2, index).view(b, c, rows, cols)
    if fill is None:
        return out
    inside = ((row >= 0) & (row < h)) & ((col >= 0) & (col < w))
    return select(inside[:, None], out, fill)


def crop(
    x: Tensor, top: Tensor, left: Tensor, flip: Tensor, pad: int, mode: str, fill: int
) -> Tensor:
    """Windows of the images' size from their padded form, mirrored where `flip`.

    `top`, `left` (B,) int64 in 0..2*pad are the corner in the padded image, `flip` (B,)
    bool.
    """
    h, w = x.shape[2:]
    j = torch.arange(w, device=x.device)
    col = torch.where(flip[:, None], w - 1 - j, j) + (left[:, None] - pad)
    row = torch.arange(h, device=x.device) + (top[:, None] - pad)
    if mode == "reflect":  # the border pixel itself is not repeated
        row = (h - 1) - ((h - 1) - row.abs()).abs()
        col = (w - 1) - ((w - 1) - col.abs()).abs()
    outside = fill if mode == "zero" and pad > 0 else None
    return gather_pixels(x, row[:, :, None], col[:, None, :], outside)


def erase(
    x: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, fill: int
) -> Tensor:
    """`fill` in rows top..bottom-1 and columns left..right-1, (B,) each."""
    row = torch.arange(x.shape[2], device=x.device)
    col = torch.arange(x.shape[3], device=x.device)
    rows = (row < top[:, None]) | (row >= bottom[:, None])
    cols = (col < left[:, None]) | (col >= right[:, None])
    return select(rows[:, None, :, None] | cols[:, None, None, :], x, fill)


def may_look(x: Tensor) -> bool:
    """Whether indices may be read from x's device at no cost: eagerly, on a CPU."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def operate(x: Tensor, code: Tensor, magnitude: Tensor, fill: int, ops: tuple[str, ...],
            bicubic: bool = False) -> Tensor:
    """One operation per sample: OPS[code[i]] at magnitude[i] on x[i] (B,C,H,W) uint8.

    `code` (B,) int64, `magnitude` (B,) float64 in the operation's own unit, `fill` the
    grey level of the holes a geometric operation leaves, `ops` the names that may occur
    in `code`: a pass that none of them needs is left out. On a CPU a pass goes over the
    images that it changes; an accelerator takes all, so that nothing waits for the
    host. The pixels are the same. `bicubic`: shear interpolates, everything else stays
    nearest neighbour.
    """
    sparse = may_look(x)
    passes: tuple[tuple[tuple[str, ...], Callable[..., Tensor]], ...] = (
        (SHEARS if bicubic else (), functools.partial(shear, fill=fill)),
        (GEOMETRIC[len(SHEARS) * bicubic:],
         functools.partial(warp, fill=fill, bicubic=bicubic)),
        (TABULAR, functools.partial(look_up, ops=ops)),
        (BLENDED, blend))
    for family, work in passes:
        if not any(name in family for name in ops):
            continue
        if not sparse:
            x = work(x, code, magnitude)
            continue
        first, last = CODE[family[0]], CODE[family[-1]]
        acting = ((code >= first) & (code <= last)).nonzero()[:, 0]
        if len(acting):
            x = x.index_copy(0, acting, work(x[acting], code[acting],
                                             magnitude[acting]))
    return x


def _fixed(v: Tensor) -> Tensor:
    """A float64 coordinate as 16.16 fixed point, rounded half up as Pillow does."""
    return (v * 65536.0 + 0.5).floor().to(torch.int32)


def _cubic(a: Tensor, b: Tensor, c: Tensor, d: Tensor, at: Tensor) -> Tensor:
    """Between b (`at` 0) and c (1), in the order of Pillow's sums."""
    last = -a + b - c + d
    return b + at * ((-a + c) + at * ((2 * (a - b) + c - d) + at * last))


def shear(x: Tensor, code: Tensor, magnitude: Tensor, fill: int) -> Tensor:
    """ShearX/Y by bicubic interpolation: 4x4 pixels in float64.

    Borders are repeated, then cut off.

    An image of another operation comes out as it was: nothing is between its pixels.
    """
    h, w = x.shape[2:]
    zero = torch.zeros_like(magnitude)
    a1, a3 = (torch.where(code == CODE[name], magnitude, zero)[:, None, None]
              for name in SHEARS)
    s = torch.arange(w, device=x.device, dtype=torch.float64) + 0.5
    t = torch.arange(h, device=x.device, dtype=torch.float64)[:, None] + 0.5
    u, v = s + a1 * t, a3 * s + t
    inside = (u >= 0) & (u < w) & (v >= 0) & (v < h)
    u, v = u - 0.5, v - 0.5
    left, top = u.floor(), v.floor()
    col, row = left.clamp(-1, w).to(torch.int32), top.clamp(-1, h).to(torch.int32)
    du, dv = (u - left)[:, None], (v - top)[:, None]

    def line(k: int) -> Tensor:
        four = [gather_pixels(x, row + k, col + j, None).double()
                for j in (-1, 0, 1, 2)]
        return _cubic(four[0], four[1], four[2], four[3], du)

    value = _cubic(line(-1), line(0), line(1), line(2), dv)
    value = value.clamp(0, 255).to(torch.uint8)
    return select(inside[:, None], value, fill)


def warp(x: Tensor, code: Tensor, magnitude: Tensor, fill: int,
         bicubic: bool = False) -> Tensor:
    """Pass 1: Rotate, ShearX/Y, TranslateX/Y.

    By degrees counter-clockwise, a factor, pixels. Each is the inverse map (u, v) = (a0
    s + a1 t + a2, a3 s + a4 t + a5) from an output pixel's centre (s, t) to the input,
    nearest neighbour. `bicubic` leaves out ShearX/Y: see `shear`.
    """
    h, w = x.shape[2:]
    zero = torch.zeros_like(magnitude)

    def of(name: str) -> Tensor:
        return torch.where(code == CODE[name], magnitude, zero)

    angle = -torch.deg2rad(of("Rotate"))
    cos, sin = angle.cos(), angle.sin()
    a1, a3 = (sin, -sin) if bicubic else (sin + of("ShearX"), of("ShearY") - sin)
    # rotation is about the centre; a translation goes to the nearest whole pixel
    dx = (of("TranslateX") + 0.5).floor().clamp(-w, w)
    dy = (of("TranslateY") + 0.5).floor().clamp(-h, h)
    a2 = (cos * (-w / 2) + sin * (-h / 2)) + w / 2 + dx
    a5 = ((-sin) * (-w / 2) + cos * (-h / 2)) + h / 2 + dy
    s = torch.arange(w, device=x.device, dtype=torch.int32)
    t = torch.arange(h, device=x.device, dtype=torch.int32)[:, None]

    def walk(start: Tensor, along: Tensor, down: Tensor) -> Tensor:
        first = _fixed(start + along * 0.5 + down * 0.5)[:, None, None]
        per_row = first + _fixed(down)[:, None, None] * t
        return (per_row + _fixed(along)[:, None, None] * s) >> 16

    return gather_pixels(x, walk(a5, a3, cos), walk(a2, cos, a1), fill)


def luminance(x: Tensor) -> Tensor:
    """Grey level (B,1,H,W) int32: Pillow's integer weights for C=3, C=1 as it is."""
    v = x.to(torch.int32)
    if x.shape[1] == 1:
        return v
    return (v[:, :1] * 19595 + v[:, 1:2] * 38470 + v[:, 2:] * 7471 + 0x8000) >> 16


def look_up(x: Tensor, code: Tensor, magnitude: Tensor,
            ops: tuple[str, ...] = OPS) -> Tensor:
    """Pass 2, one 256-entry table per sample and channel, applied by one gather.

    AutoContrast, Equalize, Invert; Posterize (bits kept, 1..8); Solarize (threshold
    from which levels are inverted); Brightness, Contrast (factor, 1 changes nothing).
    """
    b, c, h, w = x.shape
    index = x.reshape(b, c, h * w).to(torch.int64)
    level = torch.arange(256, device=x.device)
    code, magnitude = code[:, None], magnitude[:, None]

    def used(*names: str) -> bool:
        return any(name in ops for name in names)

    # Invert is Solarize from 0 on; Posterize clears the low bits; the rest keep the
    # identity table
    start = torch.where(code == CODE["Solarize"], magnitude, 256.0)
    start = torch.where(code == CODE["Invert"], 0.0, start)
    bits = torch.where(code == CODE["Posterize"], magnitude, 8.0)
    bits = bits.clamp(1, 8).to(torch.int64)
    table = torch.where(level >= start, 255 - level, level) & (256 - (1 << (8 - bits)))
    table = table.to(torch.uint8)
    if used("Brightness", "Contrast"):
        grey = torch.zeros_like(magnitude, dtype=torch.float32)
        if used("Contrast"):  # towards the image's mean grey level, rounded half up
            total = luminance(x).flatten(1).sum(1, dtype=torch.int64)[:, None]
            mean = (2 * total + h * w) // (2 * h * w)
            grey = torch.where(code == CODE["Contrast"], mean.to(torch.float32), grey)
        mixed = (grey + magnitude.to(torch.float32) * (level - grey)).clamp(0, 255)
        linear = (code == CODE["Brightness"]) | (code == CODE["Contrast"])
        table = torch.where(linear, mixed.to(torch.uint8), table)
    table = table[:, None].expand(b, c, 256)
    if used("AutoContrast", "Equalize"):
        # in int32: compiled for a CPU, amin over bytes gives 0 (pytorch issue 191499)
        wide = x.reshape(b, c, h * w).to(torch.int32)
        low, high = (f(wide, 2, keepdim=True) for f in (torch.amin, torch.amax))
        code = code[:, None]
    if used("AutoContrast"):
        lo = low.to(torch.float64)
        # a true division: number / tensor would multiply by a rounded reciprocal
        scale = torch.full_like(lo, 255.0) / (high.to(torch.float64) - lo)
        stretched = (level * scale + -lo * scale).clamp(0, 255).to(torch.uint8)
        table = torch.where((code == CODE["AutoContrast"]) & (high > low), stretched,
                            table)
    if used("Equalize"):
        ones = torch.ones((), dtype=torch.int32, device=x.device).expand_as(index)
        counts = torch.zeros((b, c, 256), dtype=torch.int32, device=x.device)
        counts = counts.scatter_add(2, index, ones)
        step = (h * w - counts.gather(2, high.to(torch.int64))) // 255
        below = counts.cumsum(2, dtype=torch.int32) - counts
        even = (step // 2 + below) // step.clamp(min=1)
        table = torch.where((code == CODE["Equalize"]) & (step > 0),
                            even.clamp(max=255).to(torch.uint8), table)
    return table.gather(2, index).view(x.shape)


def smooth(x: Tensor) -> Tensor:
    """3x3 mean with a fivefold centre (sum 13), rounded; the outermost pixels stay."""
    v = x.to(torch.int16)
    rows = v[:, :, :-2] + v[:, :, 1:-1] + v[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * v[:, :, 1:-1, 1:-1]
    out = x.clone()
    out[:, :, 1:-1, 1:-1] = (total.to(torch.float32) / 13 + 0.5).to(torch.uint8)
    return out


def blend(x: Tensor, code: Tensor, magnitude: Tensor) -> Tensor:
    """Pass 3, base + factor (x - base).

    Color: the base is the luminance; Sharpness: the smoothed image.
    """
    code = code[:, None, None, None]
    base = select(code == CODE["Sharpness"], smooth(x), x)
    if x.shape[1] == 3:
        base = select(code == CODE["Color"], luminance(x).to(torch.uint8), base)
    base = base.to(torch.float32)
    factor = magnitude.to(torch.float32)[:, None, None, None]
    # float32, product and sum rounded apart, then cut off: what Pillow's blend does
    return (base + factor * (x - base)).clamp(0, 255).to(torch.uint8)
