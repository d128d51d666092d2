"""SANM's masks: paint over the spot a network looks at, take as much off the label.

    A_i = sum_c F_c^2, upsampled to the image          F: last feature map
    m_i = rho_i + beta (1 - w_i),                      rho_i ~ U(tau_l, tau_h)    (2)
    box = round sqrt(kappa m H W a) rows,
          round sqrt(kappa m H W / a) columns,         a ~ U(0.8, 1.25)           (4)
    x+  = x with the box at argmax A painted over;
          x- the same at argmin A                                                 (5)
    y~  = y^ - m at its top class, + m / (K - 1) at the others                    (7)

`mask` does all of it for a batch at once; its parts can be called alone. No loop runs
over samples, nothing is read back to the host, and no draw is made here: uniforms come
in as a tensor.

Source: Tu et al., CVPR 2023, as its released code has it (yuanpengtu/SANM, commit
e22c42f). The numbers are the paper's for the same step; where its formulas or figure
are known to differ from the code, there is an option.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .objectives import one_hot


def extremes(f: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the energy of maps f (B, C, h, w) is largest and smallest in the image.

    Both int64 (B,): row * width + column of a pixel of an image of `size` (height,
    width). Hottest: the first pixel within 1e-6 of the maximum, so that rounding does
    not choose between the equal pixels of a plateau. Coldest: the first minimum of the
    map floored to 0..255, as in the official code.
    """
    a = f.float().square().sum(1, keepdim=True)
    # half-pixel centres; (B, H W)
    a = F.interpolate(a, size, mode="bilinear", align_corners=False).flatten(1)
    low, high = a.amin(1, keepdim=True), a.amax(1, keepdim=True)
    hot = (a >= high - 1e-6 * (high - low)).to(torch.uint8).argmax(1)
    floored = (255 * (a - low) / (high - low + 1e-12)).floor()
    cold = (floored == floored.amin(1, keepdim=True)).to(torch.uint8).argmax(1)
    return hot, cold


def paint(x: Tensor, at: Tensor, sides: tuple[Tensor, Tensor], colour: Tensor, *,
          centred: bool = False) -> Tensor:
    """x (B, C, H, W) with one box painted over in each image.

    at: int64 (B,), row * width + column of the box's top left corner, or of its centre
    if `centred`; a box that would leave the image is shifted back inside, whole.
    sides: rows and columns of the box, int64 (B,) each, at most the image's.
    colour: (B, C), in the units of x.
    """
    def inside(anchor: Tensor, side: Tensor, size: int) -> Tensor:
        """Which of `size` rows (or columns) the box covers, bool (B, size)."""
        start = anchor - side // 2 if centred else anchor
        start = torch.minimum(start.clamp(min=0), size - side)[:, None]
        pixel = torch.arange(size, device=x.device)
        return (pixel >= start) & (pixel < start + side[:, None])

    height, width = x.shape[2:]
    rows = inside(at // width, sides[0], height)
    columns = inside(at % width, sides[1], width)
    box = rows[:, None, :, None] & columns[:, None, None, :]  # (B, 1, H, W)
    return torch.where(box, colour[:, :, None, None].to(x.dtype), x)


def modulate(targets: Tensor, m: Tensor, *, clip: bool = False) -> Tensor:
    """Targets (B, K) with m (B,) moved from the top class to the K - 1 others. Eq. (7)

    Rows still sum to 1. Where a flat target's top class holds less than m it turns
    negative, as in the official code; with `clip` it becomes 0, and the row is scaled
    back to sum 1.
    """
    k = targets.shape[1]
    top = one_hot(targets.argmax(1), k).to(targets.dtype)
    moved = targets + m[:, None] * ((1 - top) / (k - 1) - top)
    if not clip:
        return moved
    return moved.clamp(min=0) / moved.clamp(min=0).sum(1, keepdim=True)


def mask(x: Tensor, f: Tensor, w: Tensor, targets: Tensor, u: Tensor, *,
         tau_l: float = 0.02, tau_h: float = 0.07, beta: float = 0.03,
         kappa: float = 0.5, at_random: bool = False, centred: bool = False,
         grey: bool = False, clip: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """x+ and x- (B, C, H, W), and the changed targets y~ (B, K) that both get.

    The defaults are the official code's on CIFAR.

    Args:
        x: normalised images (B, C, H, W).
        f: a network's last maps of them (B, D, h, w).
        w: label quality (B,), the probability that the label is right.
        targets: what the host would train x on, y^ (B, K), rows of sum 1.
        u: uniforms (B, 2 + 2 C + 2): of rho, of the aspect a, the two boxes' colours,
            two positions (used only `at_random`).
        tau_l, tau_h, beta: of the masked share m, a fraction of the image's area.
        kappa: the part of m that each of the two boxes takes.
        at_random: boxes anywhere, in place of the hottest and the coldest spot.
        centred: the spot is the box's centre (paper), not its top left corner (code).
        grey: boxes of zeros, the data set's mean; else one random colour each, uniform
            on [0, 1] in normalised units.
        clip: no negative targets, see `modulate`.

    Raises:
        ValueError: if u has another number of columns than 4 + 2 C.
    """
    channels, (height, width) = x.shape[1], x.shape[2:]
    if u.shape[1] != 4 + 2 * channels:
        raise ValueError(f"images of {channels} channels need {4 + 2 * channels} "
                         f"uniforms each, not {u.shape[1]}.")
    m = tau_l + (tau_h - tau_l) * u[:, 0] + beta * (1 - w)                    # Eq. (2)
    area, aspect = kappa * m * height * width, 0.8 + 0.45 * u[:, 1]
    sides = ((area * aspect).sqrt().round().long().clamp(1, height),          # Eq. (4)
             (area * (1 / aspect)).sqrt().round().long().clamp(1, width))
    colours = u[:, 2:-2].split(channels, 1)
    if grey:
        colours = (torch.zeros_like(colours[0]),) * 2
    if at_random:
        first, second = (u[:, -2:] * height * width).long().T
        spots = (first.clamp(max=height * width - 1),
                 second.clamp(max=height * width - 1))
    else:
        spots = extremes(f, (height, width))
    plus, minus = (paint(x, at, sides, colour, centred=centred)               # Eq. (5)
                   for at, colour in zip(spots, colours, strict=True))
    return plus, minus, modulate(targets, m, clip=clip)                       # Eq. (7)
