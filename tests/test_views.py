"""views: equal to Pillow pixel by pixel, every sample its own draw, no loop over samples."""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from noisylabels.kernels import pixels, views
from noisylabels.kernels.pixels import CODE, OPS
from noisylabels.kernels.views import (
    AutoAugment,
    Chain,
    Cutout,
    Identity,
    RandAugment,
    Weak,
)

STRONG = Chain((Weak(), RandAugment.fixmatch(), Cutout.fixmatch()))
ALL = {
    "identity": Identity(),
    "weak": Weak(),
    "weak-reflect": Weak(mode="reflect"),
    "weak-fill": Weak(pad=2, flip=False, fill=7),
    "weak-ieg": Weak.ieg_strong(),
    "cutout": Cutout.fixmatch(),
    "cutout-ieg": Cutout.ieg(),
    "randaugment": RandAugment.fixmatch(),
    "randaugment-ieg": RandAugment.ieg(100),
    "autoaugment": AutoAugment(),
    "autoaugment-sanm": AutoAugment.sanm(),
    "autoaugment-ieg": AutoAugment.ieg(),
    "strong": STRONG,
}
SHAPES = [(3, 32, 32), (3, 8, 8), (1, 8, 8), (1, 32, 32), (3, 20, 32), (3, 9, 9)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(c: int, h: int, w: int, n: int = 90) -> torch.Tensor:
    """Random, low-contrast, constant, two-level, gradient and smooth images in equal parts."""
    rng = np.random.RandomState(c * 1000 + h * 10 + w)
    row, col = np.mgrid[:h, :w]
    out = []
    for i in range(n):
        kind = i % 6
        if kind == 0:
            image = rng.randint(0, 256, (c, h, w))
        elif kind == 1:
            image = rng.randint(0, 250) + rng.randint(0, 6, (c, h, w))
        elif kind == 2:
            image = np.broadcast_to(rng.randint(0, 256, (c, 1, 1)), (c, h, w))
        elif kind == 3:
            low, high = sorted(rng.randint(0, 256, 2))
            image = np.where(rng.rand(c, h, w) < rng.rand(), low, high)
        elif kind == 4:
            slope = rng.uniform(-6, 6, (2, c, 1, 1))
            image = (rng.randint(0, 256) + slope[0] * row + slope[1] * col).clip(0, 255)
        else:
            phase, pace = rng.uniform(0, 6, (c, 1, 1)), rng.uniform(0.1, 1, (2, 1, 1))
            image = 127 + 120 * np.sin(pace[0] * row + pace[1] * col + phase)
            image = (image + rng.normal(0, 4, (c, h, w))).clip(0, 255)
        out.append(image)
    return torch.from_numpy(np.stack(out).astype(np.uint8))


def to_pil(x: torch.Tensor) -> Image.Image:
    a = x.permute(1, 2, 0).numpy()
    return Image.fromarray(a[..., 0] if a.shape[2] == 1 else a)


def from_pil(image: Image.Image) -> torch.Tensor:
    a = np.asarray(image)
    return torch.from_numpy((a[..., None] if a.ndim == 2 else a).copy()).permute(2, 0, 1)


def pillow(name: str, image: Image.Image, m: float, fill: int = 0,
           bicubic: bool = False) -> Image.Image:
    """The oracle: one operation on one image, by Pillow."""
    colour = fill if image.mode == "L" else (fill,) * 3
    matrix = {
        "ShearX": (1, m, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, m, 1, 0),
        "TranslateX": (1, 0, m, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, m),
    }
    if name in matrix:
        affine = Image.Transform.AFFINE
        how = (Image.Resampling.BICUBIC if bicubic and name.startswith("Shear")
               else Image.Resampling.NEAREST)
        return image.transform(image.size, affine, matrix[name], how, fillcolor=colour)
    if name == "Rotate":
        return image.rotate(m, fillcolor=colour)
    if name == "Posterize":
        return ImageOps.posterize(image, int(m))
    if name == "Solarize":
        return ImageOps.solarize(image, m)
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(m)
    if name == "Identity":
        return image
    plain = {"AutoContrast": ImageOps.autocontrast, "Equalize": ImageOps.equalize}
    return plain.get(name, ImageOps.invert)(image)


def oracle(names, x: torch.Tensor, magnitude, fill: int = 0, bicubic: bool = False
           ) -> torch.Tensor:
    return torch.stack(
        [
            from_pil(pillow(name, to_pil(image), float(m), fill, bicubic))
            for name, image, m in zip(names, x, magnitude, strict=True)
        ]
    )


def magnitudes(name: str, n: int, side: int, rng: np.random.RandomState) -> np.ndarray:
    """What the policies use, corner cases, and random values of both signs."""
    signed = np.array([-1.0, 1.0])[:, None]
    if name == "Rotate":
        fixed = np.concatenate(
            [(signed * np.r_[0:31:3, 10 / 3 * np.arange(10)]).ravel(), np.r_[-360:361:45, 60, 360]]
        )
        free = rng.uniform(-400, 400, 30)
    elif name.startswith("Shear"):
        fixed = (signed * np.r_[0.03 * np.arange(11), 0.3 * np.arange(10) / 9, 1, 0.5]).ravel()
        free = rng.uniform(-1.5, 1.5, 30)
    elif name.startswith("Translate"):
        parts = np.r_[0:11, 150 / 331 * np.arange(10) / 9 * side, 0.5, 1.5, side - 0.5, side, 1e6]
        fixed = (signed * parts).ravel()
        free = rng.uniform(-1.2 * side, 1.2 * side, 30)
    elif name == "Posterize":
        fixed, free = np.arange(1, 9), rng.randint(1, 9, 8)
    elif name == "Solarize":
        fixed = np.r_[256 - 256 * np.arange(10) / 9, 255 - 255 * np.arange(10) / 9, 0, 1, 255, -3]
        free = rng.uniform(-10, 270, 30)
    else:
        steps = np.r_[
            0.05 + 0.09 * np.arange(11), 1 + 0.1 * np.arange(-9, 10), 0.1 * np.arange(20)
        ]
        fixed, free = np.r_[steps, 3.7, -0.5], rng.uniform(-1, 3, 30)
    pool = np.concatenate([fixed, free]).astype(np.float64)
    return pool[np.arange(n) % len(pool)] if n >= len(pool) else rng.choice(pool, n)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_every_operation_equals_pillow_in_every_pixel(name, shape):
    x = pictures(*shape)
    rng = np.random.RandomState(CODE[name])
    m = torch.from_numpy(np.concatenate([magnitudes(name, 90, shape[2], rng) for _ in range(3)]))
    order = torch.from_numpy(rng.permutation(len(m)))  # so that each kind meets each magnitude
    x, fill = x.repeat(3, 1, 1, 1), int(rng.choice([0, 128]))
    got = views.apply_op(name, x, m[order], fill=fill)
    assert got.dtype == torch.uint8
    assert torch.equal(got, oracle([name] * len(x), x, m[order], fill))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", pixels.SHEARS)
def test_bicubic_shear_equals_pillow_in_every_pixel(name, shape, monkeypatch):
    x = pictures(*shape)
    rng = np.random.RandomState(7)
    m = torch.from_numpy(np.concatenate([magnitudes(name, 90, shape[2], rng) for _ in range(3)]))
    x, code = x.repeat(3, 1, 1, 1), torch.full((len(m),), CODE[name])
    want = oracle([name] * len(x), x, m, 93, bicubic=True)
    for sparse in (True, False):  # images that change, or all, as on an accelerator
        monkeypatch.setattr(pixels, "may_look", lambda x, now=sparse: now)
        assert torch.equal(pixels.operate(x, code, m, 93, OPS, bicubic=True), want)
    assert not torch.equal(pixels.operate(x, code, m, 93, OPS), want) or shape[2] == 1


@pytest.mark.parametrize("sparse", [True, False])
def test_bicubic_is_shear_alone(sparse, monkeypatch):
    """A stage of mixed operations, and whole views with their draws; the rest stays nearest."""
    monkeypatch.setattr(pixels, "may_look", lambda x: sparse)
    x = pictures(3, 32, 32, 120)
    rng = np.random.RandomState(3)
    code = torch.from_numpy(rng.permutation(np.arange(120) % len(OPS)))
    m = torch.tensor([magnitudes(OPS[c], 1, 32, rng)[0] for c in code], dtype=torch.float64)
    names = [OPS[c] for c in code]
    got = pixels.operate(x, code, m, 77, OPS, bicubic=True)
    assert torch.equal(got, oracle(names, x, m, 77, bicubic=True))
    other = [n not in pixels.SHEARS for n in names]
    assert torch.equal(got[other], oracle(names, x, m, 77)[other])
    view, changed = AutoAugment.sanm("bicubic"), 0
    for seed in range(5):
        codes, m = view.draw(len(x), (32, 32), seeded(seed))
        want = x
        for k in (0, 1):
            want = oracle([OPS[c] for c in codes[k]], want, m[k], 128, bicubic=True)
        got = view(x, seeded(seed))
        assert torch.equal(got, want)
        changed += int((got != AutoAugment.sanm()(x, seeded(seed))).flatten(1).any(1).sum())
    assert 5 <= changed <= 40  # 2.8 % of views: 16.8 of 600


def test_the_fourteen_operations_on_real_images(cifar10):
    x = cifar10.x_train[:64]
    rng = np.random.RandomState(1)
    for name in OPS:
        m = torch.from_numpy(magnitudes(name, len(x), 32, rng))
        assert torch.equal(views.apply_op(name, x, m), oracle([name] * len(x), x, m)), name
        if name in pixels.SHEARS:
            code = torch.full((len(x),), CODE[name])
            assert torch.equal(pixels.operate(x, code, m, 0, OPS, bicubic=True),
                               oracle([name] * len(x), x, m, bicubic=True))


def test_a_stage_of_mixed_operations_touches_each_sample_only_by_its_own():
    x = pictures(3, 32, 32, 120)
    rng = np.random.RandomState(3)
    code = torch.from_numpy(rng.permutation(np.arange(120) % len(OPS)))
    m = torch.tensor([magnitudes(OPS[c], 1, 32, rng)[0] for c in code], dtype=torch.float64)
    got = pixels.operate(x, code, m, 77, OPS)
    assert torch.equal(got, oracle([OPS[c] for c in code], x, m, 77))


def test_a_whole_view_equals_pillow_given_its_draws():
    x = pictures(3, 32, 32, 120)
    for view, fill in [
        (RandAugment.fixmatch(), 0),
        (RandAugment.ieg(100), 128),
        (RandAugment(num_ops=3, fill=9), 9),
        (AutoAugment(), 0),
        (AutoAugment.sanm(), 128),
        (AutoAugment.ieg(), 128),
        (AutoAugment(fill=31), 31),
    ]:
        code, m = view.draw(len(x), (32, 32), seeded(5))
        want = x
        for k in range(len(code)):
            want = oracle([OPS[c] for c in code[k]], want, m[k], fill)
        assert torch.equal(view(x, seeded(5)), want), view


def test_operations_on_one_channel_and_on_tiny_images():
    x = pictures(1, 8, 8)
    assert torch.equal(views.apply_op("Color", x, 0.3), x)  # grey has no colour
    assert torch.equal(views.apply_op("Equalize", x), x)  # 64 pixels do not fill 255 steps
    for side in (1, 2, 3):  # nothing or one pixel inside the smoothing's border
        y = pictures(3, side, side, 12)
        assert torch.equal(views.apply_op("Sharpness", y, 0.0)[..., 0, 0], y[..., 0, 0])


def test_apply_op_takes_one_number_or_one_per_sample():
    x = pictures(3, 8, 8, 12)
    each = views.apply_op("Rotate", x, torch.full((12,), 20.0, dtype=torch.float64))
    assert torch.equal(views.apply_op("Rotate", x, 20), each)
    assert torch.equal(views.apply_op("Rotate", x, torch.tensor(20.0)), each)
    assert torch.equal(views.apply_op("Identity", x), x)
    assert views.apply_op("Rotate", x[:0], 5.0).shape == (0, 3, 8, 8)
    assert torch.equal(views.apply_op("Posterize", x, 0), views.apply_op("Posterize", x, 1))
    assert torch.equal(views.apply_op("Posterize", x, 12), x)


# ---------------------------------------------------------------- crop, flip, cutout


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "view",
    [
        Weak(),
        Weak(mode="reflect"),
        Weak(pad=2, fill=128),
        Weak(pad=1, flip=False),
        Weak(pad=0),
        Weak(pad=0, mode="reflect"),
        Weak(pad=7, mode="reflect"),
        Weak.ieg_strong(),
    ],
    ids=str,
)
def test_crop_and_flip_equal_numpy_slicing(view, channels):
    x = pictures(channels, 8, 10, 60)
    top, left, flip = view.draw(len(x), seeded(2))
    ways = {"mode": "reflect"} if view.mode == "reflect" else {"constant_values": view.fill}
    p = view.pad
    want = []
    for image, t, s, mirrored in zip(x.numpy(), top, left, flip, strict=True):
        window = np.pad(image, ((0, 0), (p, p), (p, p)), **ways)[:, t : t + 8, s : s + 10]
        want.append(window[:, :, ::-1] if mirrored else window)
    assert torch.equal(view(x, seeded(2)), torch.from_numpy(np.stack(want)))
    assert flip.any() == view.flip
    assert top.min() >= 0 and top.max() <= 2 * p


def chi_square(values: torch.Tensor, cells: int) -> float:
    counts = torch.bincount(values, minlength=cells).double()
    assert len(counts) == cells
    expected = len(values) / cells
    return float(((counts - expected) ** 2 / expected).sum())


def test_crop_offsets_are_uniform_and_half_the_images_are_mirrored():
    n = 81_000
    top, left, flip = Weak().draw(n, seeded(0))
    assert chi_square(top * 9 + left, 81) < 124.8  # 99.9 % point, 80 degrees of freedom
    assert abs(flip.double().mean().item() - 0.5) < 4 * 0.5 / n**0.5
    assert abs(np.corrcoef(flip, top)[0, 1]) < 4 / n**0.5
    top, left, _ = Weak.ieg_strong().draw(64_000, seeded(0))
    assert chi_square(top * 8 + left, 64) < 103.5  # 63 degrees of freedom; offset 8 never drawn


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 32)], ids=str)
def test_cutout_by_the_corner_equals_pillows_rectangle(shape):
    x = pictures(*shape, 120)
    h, w = shape[1:]
    y, u = torch.tensor([[h], [w]]) * torch.rand(
        (2, 120), generator=seeded(4), dtype=torch.float64
    )
    want = []
    for image, v0, u0 in zip(x, y.tolist(), u.tolist(), strict=True):
        picture = to_pil(image)
        x0, y0 = int(max(0, u0 - 8)), int(max(0, v0 - 8))
        box = (x0, y0, int(min(w, x0 + 16)), int(min(h, y0 + 16)))
        ImageDraw.Draw(picture).rectangle(box, 127 if shape[0] == 1 else (127, 127, 127))
        want.append(from_pil(picture))
    assert torch.equal(Cutout.fixmatch()(x, seeded(4)), torch.stack(want))


def test_cutout_by_the_corner_is_17_wide_and_starts_at_0_in_9_of_32():
    top, bottom, left, right = Cutout.fixmatch().draw(64_000, (32, 32), seeded(0))
    assert set((bottom - top).tolist()) == {17} == set((right - left).tolist())
    for corner in (top, left):
        assert corner.min() == 0 and corner.max() == 23
        assert abs((corner == 0).double().mean().item() - 9 / 32) < 0.008
        assert chi_square(corner[corner > 0] - 1, 23) < 48.3  # 22 degrees of freedom
    blank = Cutout.fixmatch()(torch.zeros(4000, 1, 32, 32, dtype=torch.uint8), seeded(0))
    painted = (blank == 127).flatten(1).sum(1)
    assert painted.max() == 17 * 17 and painted.min() == 9 * 9  # cut short only right and below


def test_cutout_by_the_centre_equals_numpy_slicing():
    view = Cutout.ieg()
    x = pictures(3, 32, 32, 120)
    top, bottom, left, right = view.draw(120, (32, 32), seeded(1))
    want = x.numpy().copy()
    for image, t, b, s, e in zip(want, top, bottom, left, right, strict=True):
        image[:, max(0, t) : min(32, b), max(0, s) : min(32, e)] = 128
    assert torch.equal(view(x, seeded(1)), torch.from_numpy(want))
    many = view.draw(64_000, (32, 32), seeded(2))
    assert chi_square(many[0] + 8, 32) < 61.1 and chi_square(many[2] + 8, 32) < 61.1  # 31 d.o.f.
    assert set((many[1] - many[0]).tolist()) == {16}


# ---------------------------------------------------------------- policies


def drawn(view, n: int = 1, size: tuple[int, int] = (32, 32), seed: int = 0):
    code, magnitude = view.draw(n, size, seeded(seed))
    return code.flatten(), magnitude.flatten()


def levels_of(style: str, name: str, size: tuple[int, int] = (32, 32)) -> list[float]:
    view = RandAugment(style=style, ops=(name,), probability=1.0)
    return sorted(set(drawn(view, 2000, size)[1].tolist()))


def test_fixmatch_magnitudes_are_the_published_ones():
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        assert levels_of("fixmatch", name) == pytest.approx(
            [0.05 + 0.09 * v for v in range(1, 10)]
        )
    bits = Counter(drawn(RandAugment(ops=("Posterize",), probability=1.0), 20_000)[1].tolist())
    assert sorted(bits) == [4, 5, 6, 7]  # levels 1-2, 3-4, 5-7, 8-9
    assert [bits[b] / 40_000 for b in (4, 5, 6, 7)] == pytest.approx(
        [2 / 9, 2 / 9, 3 / 9, 2 / 9], abs=0.012
    )
    assert levels_of("fixmatch", "Rotate") == [s for s in range(-27, 28, 3) if s]
    assert levels_of("fixmatch", "ShearX") == pytest.approx([0.03 * v for v in range(-9, 10) if v])
    assert levels_of("fixmatch", "Solarize") == [26, 52, 77, 103, 128, 154, 180, 205, 231]
    assert levels_of("fixmatch", "TranslateX") == list(range(-8, 9))  # 0.96 of a level, cut to int
    assert levels_of("fixmatch", "TranslateX", (32, 8)) == [-2, -1, 0, 1, 2]
    assert levels_of("fixmatch", "TranslateY", (8, 32)) == [-2, -1, 0, 1, 2]
    assert levels_of("fixmatch", "Equalize") == [0]


def test_ieg_magnitudes_are_the_published_ones():
    assert levels_of("ieg", "Sharpness") == pytest.approx([0.1 + 0.18 * v for v in range(1, 10)])
    assert levels_of("ieg", "Posterize") == [1, 2, 3, 4]
    assert levels_of("ieg", "Rotate") == [s for s in range(-27, 28, 3) if s]
    assert levels_of("ieg", "TranslateY") == [v for v in range(-9, 10) if v]
    assert levels_of("ieg", "TranslateX", (8, 8)) == [-2, -1, 0, 1, 2]
    assert levels_of("ieg", "Solarize") == levels_of("fixmatch", "Solarize")


def test_randaugment_draws_every_sample_its_own_operations_levels_and_signs():
    n = 70_000
    code, _ = RandAugment(probability=1.0).draw(n, (32, 32), seeded(0))
    place = torch.zeros(len(OPS), dtype=torch.int64)
    place[[CODE[name] for name in views.POOL]] = torch.arange(14)
    pair = place[code[0]] * 14 + place[code[1]]
    assert chi_square(pair, 196) < 261.8  # 195 d.o.f.: uniform, with replacement, independent

    code, magnitude = RandAugment.fixmatch().draw(n, (32, 32), seeded(1))
    applied = (code != CODE["Identity"]).double().mean().item()
    assert abs(applied - 0.5 * 13 / 14) < 4 * 0.5 / (2 * n) ** 0.5

    rotate = RandAugment(ops=("Rotate",), probability=1.0).draw(n, (32, 32), seeded(2))[1][0]
    assert chi_square((rotate.abs() / 3).long() - 1, 9) < 26.1  # levels 1..9, 8 d.o.f.
    assert abs((rotate > 0).double().mean().item() - 0.5) < 4 * 0.5 / n**0.5


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_randaugment_probability_at_its_ends(probability):
    view = RandAugment(ops=("Invert",), probability=probability, num_ops=1)
    x = pictures(3, 8, 8, 30)
    assert torch.equal(view(x, seeded()), 255 - x if probability else x)


def test_ieg_shares_operations_and_levels_in_a_batch_but_not_their_application():
    seen, signs = set(), set()
    for seed in range(40):
        code, magnitude = RandAugment.ieg(200).draw(200, (32, 32), seeded(seed))
        for stage in range(2):
            kinds = set(code[stage].tolist()) - {CODE["Identity"]}
            assert len(kinds) <= 1
            assert len(set(magnitude[stage].abs().tolist())) == 1
            signs |= {len(set(magnitude[stage].sign().tolist()))}
            seen |= kinds
            if kinds:
                share = (code[stage] != CODE["Identity"]).double().mean().item()
                assert 0.3 < share < 0.7
    assert seen == {CODE[name] for name in views.POOL} - {CODE["Identity"]}
    assert signs == {1, 2}  # a signed operation goes both ways within one batch


def test_ieg_draws_anew_for_each_batch_of_a_chunk():
    """Two batches of 80 and one of 40 in one call, as an epoch's views are made."""
    together = 0
    for seed in range(30):
        code, magnitude = RandAugment.ieg(80).draw(200, (32, 32), seeded(seed))
        each = [{(c, m) for c, m in zip(code[0, part].tolist(), magnitude[0, part].abs().tolist(),
                                        strict=True) if c != CODE["Identity"]}
                for part in (slice(0, 80), slice(80, 160), slice(160, 200))]
        assert all(len(kinds) <= 1 for kinds in each)
        together += len(set.union(*each)) < 2
    assert together < 10  # the same in all three: by chance alone
    with pytest.raises(ValueError, match="shared must be 1 or more, not 0"):
        RandAugment(shared=0)


def test_autoaugment_draws_the_published_policies_with_their_chances():
    assert len(views.CIFAR10_POLICIES) == 25
    n = 200_000
    code, _ = AutoAugment().draw(n, (32, 32), seeded(0))
    for stage in range(2):
        expected = Counter()
        for pair in views.CIFAR10_POLICIES:
            name, p, _ = pair[stage]
            expected[name] += p / 25
        for name in OPS[1:]:
            share = (code[stage] == CODE[name]).double().mean().item()
            e = expected[name]
            assert abs(share - e) <= 4.5 * (e * (1 - e) / n) ** 0.5, (name, stage)


def test_autoaugment_magnitudes_by_style():
    def values(style: str, name: str) -> list[float]:
        code, m = drawn(AutoAugment(style), 40_000)
        return sorted(set(m[code == CODE[name]].tolist()))

    third, side = 10 / 3, 150 / 331 * 32
    assert values("torchvision", "Rotate") == pytest.approx([-2 * third, 2 * third])
    assert values("sanm", "Rotate") == pytest.approx([2 * third])  # always positive
    assert values("ieg", "Rotate") == [-6, 6]
    assert values("torchvision", "TranslateY") == [-14, -4, 4, 14]
    assert values("sanm", "TranslateY") == pytest.approx([-side, -side / 3, side / 3, side])
    assert values("ieg", "TranslateY") == [-9, -3, 3, 9]
    assert values("torchvision", "Solarize") == pytest.approx(
        [255 * (1 - i / 9) for i in (8, 5, 3, 2)]
    )
    assert values("sanm", "Solarize") == pytest.approx(
        [256 - 28.4444 * i for i in (8, 5, 3, 2)], abs=1e-3
    )
    assert values("ieg", "Solarize") == [52, 128, 180, 205]
    assert values("torchvision", "Posterize") == values("sanm", "Posterize") == [5]
    assert values("ieg", "Posterize") == [2]
    for style in ("torchvision", "sanm"):
        assert values(style, "Contrast") == pytest.approx([0.3, 0.4, 1.6, 1.7])
        assert values(style, "ShearY") == pytest.approx(
            [-0.3 * 8 / 9, -0.3 * 7 / 9, 0.3 * 7 / 9, 0.3 * 8 / 9]
        )
    assert values("ieg", "Contrast") == pytest.approx([0.1 + 0.18 * 6, 0.1 + 0.18 * 7])


def test_the_policy_table_is_the_one_torchvision_documents():
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchvision is not installed: nothing to compare the table with")
    module = Path(spec.submodule_search_locations[0], "transforms", "autoaugment.py")
    text = module.read_text(encoding="utf-8")
    branch = text.split("AutoAugmentPolicy.CIFAR10:", 1)[1].split("return", 1)[1]
    theirs = ast.literal_eval(branch.split("elif", 1)[0].strip())
    bare = [tuple((name, p, i or 0) for name, p, i in pair) for pair in theirs]
    assert tuple(bare) == views.CIFAR10_POLICIES


# ---------------------------------------------------------------- chance, speed guards, chunks


@pytest.mark.parametrize("name", [n for n in ALL if n != "identity"])
def test_the_generator_alone_decides(name):
    view, x = ALL[name], pictures(3, 32, 32, 96)
    keep, before = x.clone(), torch.get_rng_state()
    first = view(x, seeded(1))
    assert torch.equal(first, view(x, seeded(1)))
    assert not torch.equal(first, view(x, seeded(2)))
    g = seeded(1)
    view(x, g)
    assert not torch.equal(first, view(x, g))  # the generator moves on
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(x, keep)


@pytest.mark.parametrize("name", ["weak", "weak-reflect", "cutout", "cutout-ieg", "strong"])
def test_samples_of_one_batch_are_treated_differently(name):
    x = pictures(3, 32, 32, 1).expand(64, -1, -1, -1)  # the same image, and not contiguous
    assert len({bytes(image.numpy()) for image in ALL[name](x, seeded(0))}) > 45


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_every_view_keeps_shape_and_type_also_of_no_images(name, shape):
    for n in (0, 1, 5):
        out = ALL[name](torch.zeros((n, *shape), dtype=torch.uint8), seeded())
        assert out.shape == (n, *shape) and out.dtype == torch.uint8


FREE = ("view", "unsqueeze", "expand", "slice", "unbind", "select", "transpose")  # no data moves


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def accelerator(monkeypatch):
    """Passes over all images, as a GPU makes them."""
    monkeypatch.setattr(pixels, "may_look", lambda x: False)


@pytest.mark.parametrize("name", ALL)
def test_the_number_of_operations_does_not_depend_on_the_batch(name, accelerator):
    counts = []
    for n in (8, 64):
        x = pictures(3, 32, 32, n)
        with Count() as mode:
            ALL[name](x, seeded())
        counts.append(mode.ops)
    assert counts[0] == counts[1]
    assert not any("item" in op or "nonzero" in op for op in counts[0])
    work = [op for op in counts[0] if op.split(".")[1] not in FREE]
    assert len(work) <= {"weak": 30, "cutout": 25}.get(name, 510)  # 28, 23, 502 when written


@pytest.mark.parametrize("name", ALL)
def test_no_view_looks_at_its_data(name, accelerator):
    with FakeTensorMode():  # raises on whatever would need a value on the host
        out = ALL[name](torch.empty((16, 3, 32, 32), dtype=torch.uint8), seeded())
    assert out.shape == (16, 3, 32, 32)
    x = pictures(3, 32, 32, 6)  # nothing fake was kept
    assert torch.equal(ALL[name](x, seeded()), ALL[name](x, seeded()))


def test_the_pixel_work_compiles_into_one_graph():
    x = pictures(3, 32, 32, 45)
    code = torch.arange(45) % len(OPS)
    m = torch.tensor([1.0, 0.1, -0.2, 3.0, -4.5, 20, 1, 1, 1, 5, 99, 0.4, 1.6, 0.3, 1.7]).double()
    m = m.repeat(3)
    torch._dynamo.reset()
    compiled = torch.compile(pixels.operate, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, code, m, 0, OPS), pixels.operate(x, code, m, 0, OPS))
    weak = torch.compile(pixels.crop, backend="eager", fullgraph=True)
    for mode in ("zero", "reflect"):
        args = (x, *Weak().draw(45, seeded()), 4, mode, 0)
        assert torch.equal(weak(*args), pixels.crop(*args))
    erase = torch.compile(pixels.erase, backend="eager", fullgraph=True)
    args = (x, *Cutout().draw(45, (32, 32), seeded()), 127)
    assert torch.equal(erase(*args), pixels.erase(*args))
    torch._dynamo.reset()


def test_a_set_in_chunks():
    x = pictures(3, 32, 32, 50)
    assert torch.equal(views.apply(STRONG, x, seeded(3), 50), STRONG(x, seeded(3)))
    assert torch.equal(views.apply(STRONG, x, seeded(3), 4096), STRONG(x, seeded(3)))
    assert torch.equal(views.apply(STRONG, x, seeded(3)), STRONG(x, seeded(3)))
    g = seeded(3)
    parts = torch.cat([STRONG(x[i : i + 20], g) for i in (0, 20, 40)])
    assert torch.equal(views.apply(STRONG, x, seeded(3), 20), parts)
    assert torch.equal(views.apply(Identity(), x, seeded(), 7), x)
    assert views.apply(STRONG, x[:0], seeded()).shape == (0, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_pixel_work_is_the_same_on_a_gpu():
    x = pictures(3, 32, 32, 450)
    rng = np.random.RandomState(0)
    code = torch.arange(450) % len(OPS)
    m = torch.tensor([magnitudes(OPS[c], 1, 32, rng)[0] for c in code], dtype=torch.float64)
    got = pixels.operate(x.cuda(), code.cuda(), m.cuda(), 5, OPS)
    assert torch.equal(got.cpu(), pixels.operate(x, code, m, 5, OPS))
    g = torch.Generator("cuda").manual_seed(0)
    for view in ALL.values():
        out = view(x.cuda(), g)
        assert out.is_cuda and out.shape == x.shape


# ---------------------------------------------------------------- settings and errors


def test_views_are_values():
    assert Chain((Weak(), Cutout())) == Chain((Weak(), Cutout()))
    assert len({Weak(), Weak(), Weak(pad=1), RandAugment.ieg(100), AutoAugment.ieg()}) == 4
    assert repr(Weak(pad=1, flip=False)).startswith("Weak(pad=1, flip=False")


X = torch.zeros((2, 3, 8, 8), dtype=torch.uint8)
BAD = {
    "float images": (lambda: Weak(pad=1)(X.float(), seeded()), "uint8 tensor, not torch.float32"),
    "no tensor": (lambda: Identity()(X.numpy(), seeded()), "uint8 tensor"),
    "three dimensions": (lambda: Cutout()(X[0], seeded()), r"shape .*not \(3, 8, 8\)"),
    "two channels": (lambda: RandAugment()(X[:, :2], seeded()), "1 or 3 channels"),
    "no pixels": (lambda: AutoAugment()(X[..., :0], seeded()), "1 or 3 channels"),
    "no generator": (lambda: Weak()(X, None), "explicit torch.Generator, not NoneType"),
    "other device": (lambda: Weak()(X.to("meta"), seeded()), "use one device"),
    "unknown operation": (lambda: views.apply_op("Sharpnes", X, 1), "nearest: 'Sharpness'"),
    "no magnitude": (lambda: views.apply_op("Rotate", X), "Rotate needs a magnitude"),
    "three magnitudes": (lambda: views.apply_op("Rotate", X, torch.ones(3)), r"\(2\), not \(3,\)"),
    "apply_op on floats": (lambda: views.apply_op("Invert", X.double()), "uint8"),
    "apply_op fill": (lambda: views.apply_op("Rotate", X, 3, fill=256), "0..255, not 256"),
    "pool": (lambda: RandAugment(ops=("Rotat",)), "nearest: 'Rotate'"),
    "empty pool": (lambda: RandAugment(ops=()), "at least one"),
    "rand style": (lambda: RandAugment(style="fixmach"), "nearest: 'fixmatch'"),
    "auto style": (lambda: AutoAugment("san"), "nearest: 'sanm'"),
    "num_ops": (lambda: RandAugment(num_ops=0), "num_ops must be 1 or more"),
    "probability": (lambda: RandAugment(probability=1.5), "in 0..1, not 1.5"),
    "levels": (lambda: RandAugment(levels=(5, 11)), "within 0..10"),
    "rand fill": (lambda: RandAugment(fill=-1), "0..255, not -1"),
    "auto fill": (lambda: AutoAugment(fill=300), "0..255, not 300"),
    "mode": (lambda: Weak(mode="mirror"), "unknown mode 'mirror'; allowed: zero, reflect"),
    "pad": (lambda: Weak(pad=-1), "pad must be 0 or more"),
    "weak fill": (lambda: Weak(fill=999), "0..255, not 999"),
    "offsets": (lambda: Weak(pad=1, offsets=4), r"1\.\.3 for pad 1, not 4"),
    "reflect too far": (lambda: Weak(pad=8, mode="reflect")(X, seeded()), "images larger than it"),
    "rule": (lambda: Cutout(rule="center"), "nearest: 'centre'"),
    "size": (lambda: Cutout(size=0), "size must be 1 or more"),
    "cutout fill": (lambda: Cutout(fill=-5), "0..255, not -5"),
    "chunk": (lambda: views.apply(Weak(), X, seeded(), 0), "chunk must be 1 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("view", [views.RandAugment.fixmatch(), views.AutoAugment.sanm(),
                                  views.RandAugment(probability=0.0)], ids=repr)
def test_a_pass_over_the_images_it_changes_gives_the_pixels_of_a_pass_over_all(view):
    x = torch.randint(256, (200, 3, 32, 32), dtype=torch.uint8,
                      generator=torch.Generator().manual_seed(0))
    code, magnitude = view.draw(200, (32, 32), torch.Generator().manual_seed(1))
    before = x.clone()
    for k in range(2):
        full = pixels.blend(pixels.look_up(pixels.warp(x, code[k], magnitude[k], 128), code[k],
                                             magnitude[k]), code[k], magnitude[k])
        assert torch.equal(pixels.operate(x, code[k], magnitude[k], 128, pixels.OPS), full)
    assert torch.equal(x, before)  # the images handed over stay as they were
