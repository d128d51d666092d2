"""Networks by name, for 8x8 digits and 32x32 images.

Every network is one `Network`: a stem, stages, a pooling and a linear head, all within
reach.

    taps(x)      list of maps: after the stem and after each stage (the last: maps(x))
    maps(x)      (B, D, h, w)   last feature map: SANM's activation energy, CAM
    pool(maps)   (B, D)         global average (tiny, resnet9: global maximum)
    features(x)  (B, D)         = pool(maps(x)), D = feature_dim
    head(f)      (B, C)         logits
    forward(x)   (B, C)         = head(features(x))

name      what                                                   parameters, 10 classes
tiny      3 convolutions for 8x8 digits (1 channel)              56,554
small     4 convolutions for 32x32 on a CPU core                 61,338
resnet8   ResNet-8 with a 4x4 stem of stride 2, 32-96-256        974,090
resnet9   Page's DAWNBench network                               6.57 M
preact18  PreAct ResNet-18 as DRPL and DivideMix run it          11.17 M
resnet34  ResNet-34 with the 3x3 CIFAR stem (MixNN, ELR)         21.28 M
resnet29  IEG's bottleneck ResNet-29                             840,730
wrnD-K    wide pre-activation ResNet, depth D = 6n + 4, width K  28-2: 1.47 M,
                                                                 28-10: 36.48 M
"""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDE = 96  # channels from which on a weight gradient is a product; see `by_product`
_NARROW = (torch.bfloat16,)  # the precisions in which it is
MOST_DEPTH, MOST_WIDTH = 202, 32  # of a wide ResNet
NAMES = (
    "tiny", "small", "resnet8", "resnet9", "preact18", "resnet34", "resnet29",
    "wrn16-2", "wrn28-2", "wrn28-10",
)  # fmt: skip


class Network(nn.Module):
    """Stem, stages, pooling and linear head; see the module's table of methods.

    `num_features` is the last map's number of channels, `pooling` "average" or
    "maximum", `logit_scale` a constant the logits are multiplied with.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        num_features: int,
        num_classes: int,
        *,
        pooling: str = "average",
        bias: bool = True,
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.linear = nn.Linear(num_features, num_classes, bias=bias)
        self.feature_dim = num_features
        self.pooling = pooling
        self.logit_scale = logit_scale

    def taps(self, x: Tensor) -> list[Tensor]:
        """Feature maps after the stem and after each stage; the last one is
        `maps(x)`."""
        out, x = [], self.stem(x)
        for stage in self.stages:
            pooled_first = isinstance(next(stage.children()), _PoolRelu)
            out.append(F.relu(x) if pooled_first else x)
            x = stage(x)
        return [*out, x]

    def maps(self, x: Tensor) -> Tensor:
        """Last feature map (B, D, h, w)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def pool(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D)."""
        return maps.mean((2, 3)) if self.pooling == "average" else maps.amax((2, 3))

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (B, D)."""
        return self.pool(self.maps(x))

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        logits = self.linear(features)
        return logits if self.logit_scale == 1.0 else logits * self.logit_scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


# --- layers and blocks
# ------------------------------------------------------------------------


class _ByProduct(torch.autograd.Function):
    """A 3x3 convolution, stride 1, padding 1, whose weight gradient is one matrix
    product.

    x (B, C, H, W), weight (D, C, 3, 3). On small maps oneDNN's own kernel for that
    gradient reaches a tenth of a product's rate. The product sums in float32 and rounds
    once. All orders of derivative, forward mode and vmap come out as those of the
    convolution.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, dweight: Tensor) -> Tensor:
        x, weight = ctx.saved_tensors
        return F.conv2d(dx, weight, padding=1) + F.conv2d(x, dweight, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (dy,), (x, weight), dx, dweight = grads, ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            dx = torch.ops.aten.convolution_backward(dy, x, weight, None, (1, 1),
                                                     (1, 1), (1, 1), False, (0, 0), 1,
                                                     (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            (c_out, c_in), (h, w) = weight.shape[:2], x.shape[2:]
            padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
            seen = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
            columns = torch.cat(seen, 3).reshape(-1, 9 * c_in)
            product = dy.permute(0, 2, 3, 1).reshape(-1, c_out).T @ columns
            dweight = product.reshape(c_out, 3, 3, c_in).permute(0, 3, 1, 2)
        return dx, dweight


class Conv2d(nn.Conv2d):
    """A convolution that may compute in another precision; see `cast_convolutions`.

    In bfloat16 on a CPU the weight gradient may come from a product; see `by_product`.
    """

    compute_dtype: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        if by_product(self, x):
            dtype = _precision(self, x)
            y = _ByProduct.apply(x.to(dtype), self.weight.to(dtype))
            return y if self.compute_dtype is None else y.to(x.dtype)
        if self.compute_dtype is None:
            return super().forward(x)
        weight = self.weight.to(self.compute_dtype)
        y = F.conv2d(x.to(self.compute_dtype), weight, None, self.stride, self.padding)
        return y.to(x.dtype)


def _precision(conv: Conv2d, x: Tensor) -> torch.dtype:
    """In which the convolution of x computes."""
    if conv.compute_dtype is not None:
        return conv.compute_dtype
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def by_product(conv: Conv2d, x: Tensor) -> bool:
    """Whether the weight gradient is to come from a product: where that is faster.

    So it is on a CPU, in bfloat16, for 3x3 kernels of `_WIDE` channels and more on maps
    of at most 8x8, in an eager pass that keeps a graph. With 64 channels there is
    nothing to gain, and the runs recorded with `small` and `tiny` keep their numbers.
    """
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and conv.weight.requires_grad
        and not torch.compiler.is_compiling()
        and conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and min(conv.in_channels, conv.out_channels) >= _WIDE
        and max(x.shape[2:]) <= 8
        and _precision(conv, x) in _NARROW
    )


def cast_convolutions(net: nn.Module, dtype: torch.dtype | None) -> None:
    """Let every convolution of a network of this room compute in `dtype` (None: as it
    comes).

    Input and weight are cast there and the output back, everything else stays as it is.
    For `torch.func.jvp`, which refuses convolutions under autocast; elsewhere autocast
    is faster.
    """
    for m in net.modules():
        if isinstance(m, Conv2d):
            m.compute_dtype = dtype


def _conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> Conv2d:
    return Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


def _conv_bn(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(c_in, c_out, kernel, stride), nn.BatchNorm2d(c_out))


def _conv_bn_relu(c_in: int, c_out: int, pool: bool = False) -> nn.Sequential:
    """With `pool` a maximum over 2x2, taken before the ReLU; see `_PoolRelu`."""
    after = (nn.MaxPool2d(2),) if pool else ()
    return nn.Sequential(*_conv_bn(c_in, c_out), *after, nn.ReLU(inplace=True))


class _PoolRelu(nn.Sequential):
    """The maximum over 2x2, then ReLU: what ReLU, then the maximum gives, bit for bit
    and in all gradients, at a quarter of the ReLUs. What a stage that begins so is fed
    has had none."""

    def __init__(self) -> None:
        super().__init__(nn.MaxPool2d(2), nn.ReLU(inplace=True))


class _Residual(nn.Module):
    """x + f(x): the residual branch of resnet9."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv_bn_relu(width, width),
                                  _conv_bn_relu(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv; the shortcut, also the identity one, leaves after the
    first ReLU.

    The projection (only where the shape changes) has no batch norm. Both as in the code
    of DRPL.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), _conv(c_in, c_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), _conv(c_out, c_out)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else _conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        return self.conv2(F.relu(self.bn2(self.conv1(a)))) + self.shortcut(a)


class _BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, added to the input (1x1 conv-BN where the shape changes),
    ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = _conv(c_out, c_out), nn.BatchNorm2d(c_out)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else _conv_bn(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class _WideBlock(nn.Module):
    """Pre-activation block of the wide ResNet: identity shortcut from the raw input,
    projected shortcut from the activated one."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c_in), _conv(c_in, c_out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_out), _conv(c_out, c_out)
        same = stride == 1 and c_in == c_out
        self.shortcut = None if same else _conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return y + (x if self.shortcut is None else self.shortcut(a))


class _Bottleneck(nn.Module):
    """BN-conv1x1-BN-ReLU-conv3x3-BN-ReLU-conv1x1 of IEG's ResNet-29; raw input on the
    shortcut.

    No ReLU follows the first batch norm: in the released code a variable set for the
    very first block, which has no first batch norm either, is never set back.
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, stride: int,
                 first: bool) -> None:
        super().__init__()
        self.bn1 = nn.Identity() if first else nn.BatchNorm2d(c_in)
        self.conv1 = _conv(c_in, c_mid, 1, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(c_mid), _conv(c_mid, c_mid)
        self.bn3, self.conv3 = nn.BatchNorm2d(c_mid), _conv(c_mid, c_out, 1)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else _conv(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        return self.shortcut(x) + y


def _stages(block: Callable[..., nn.Module], c_in: int, widths: Sequence[int],
            depths: Sequence[int]) -> list[nn.Sequential]:
    """Stages of blocks; every stage but the first halves the map."""
    out = []
    for s, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for b in range(depth):
            blocks.append(block(c_in, width, 2 if s > 0 and b == 0 else 1))
            c_in = width
        out.append(nn.Sequential(*blocks))
    return out


# --- networks
# ---------------------------------------------------------------------------------


def _tiny(num_classes: int, channels: int) -> Network:
    stem = _conv_bn(channels, 32)
    down = nn.Sequential(_PoolRelu(), _conv_bn_relu(32, 64))
    # maximum: with noisy labels it learns the right digits first more plainly than the
    # average
    return Network(stem, [down, _conv_bn_relu(64, 64)], 64, num_classes,
                   pooling="maximum")


def _small(num_classes: int, channels: int, w: int = 16) -> Network:
    stem = _conv_bn(channels, w)
    stages = [
        nn.Sequential(_PoolRelu(), _conv_bn(w, 2 * w)),
        nn.Sequential(_PoolRelu(), _conv_bn(2 * w, 4 * w)),
        nn.Sequential(_PoolRelu(), _conv_bn_relu(4 * w, 4 * w)),
    ]
    return Network(stem, stages, 4 * w, num_classes)


def _resnet8(num_classes: int, channels: int) -> Network:
    """He et al.'s CIFAR ResNet with one block a stage, made for a CPU: the stem halves
    the map (no overlap is lost: 4x4 windows at stride 2), the stages are wide."""
    widths = (32, 96, 256)
    stem = nn.Sequential(Conv2d(channels, widths[0], 4, 2, padding=1, bias=False),
                         nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
    return Network(stem, _stages(_BasicBlock, widths[0], widths, (1, 1, 1)), widths[-1],
                   num_classes)


def _resnet9(num_classes: int, channels: int) -> Network:
    stem = _conv_bn_relu(channels, 64)
    stages = [
        nn.Sequential(_conv_bn_relu(64, 128, pool=True), _Residual(128)),
        _conv_bn_relu(128, 256, pool=True),
        nn.Sequential(_conv_bn_relu(256, 512, pool=True), _Residual(512)),
    ]
    return Network(
        stem, stages, 512, num_classes, pooling="maximum", bias=False, logit_scale=0.125
    )


def _preact18(num_classes: int, channels: int) -> Network:
    stages = _stages(_PreActBlock, 64, (64, 128, 256, 512), (2, 2, 2, 2))
    return Network(_conv_bn_relu(channels, 64), stages, 512, num_classes)


def _resnet34(num_classes: int, channels: int) -> Network:
    stages = _stages(_BasicBlock, 64, (64, 128, 256, 512), (3, 4, 6, 3))
    return Network(_conv_bn_relu(channels, 64), stages, 512, num_classes)


def _resnet29(num_classes: int, channels: int) -> Network:
    stages = []
    c_in = 16
    for s, (c_mid, c_out) in enumerate(((16, 64), (64, 128), (128, 256))):
        blocks = []
        for b in range(3):
            stride = 2 if s > 0 and b == 0 else 1
            blocks.append(_Bottleneck(c_in, c_mid, c_out, stride, first=s + b == 0))
            c_in = c_out
        stages.append(nn.Sequential(*blocks))
    stages[-1].extend((nn.BatchNorm2d(c_in), nn.ReLU(inplace=True)))
    return Network(_conv_bn_relu(channels, 16), stages, c_in, num_classes)


def _wide(num_classes: int, channels: int, depth: int, width: int) -> Network:
    n = (depth - 4) // 6
    widths = (16 * width, 32 * width, 64 * width)
    stages = _stages(_WideBlock, 16, widths, (n, n, n))
    stages[-1].extend((nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True)))
    return Network(_conv(channels, 16), stages, widths[-1], num_classes)


_BUILDERS: dict[str, tuple[Callable[[int, int], Network], str]] = {
    "tiny": (_tiny, "framework"),
    "small": (_small, "framework"),
    "resnet8": (_resnet8, "framework"),
    "resnet9": (_resnet9, "framework"),
    "preact18": (_preact18, "fan-out"),
    "resnet34": (_resnet34, "framework"),
    "resnet29": (_resnet29, "glorot"),
}


def _unknown(name: str, names: tuple[str, ...]) -> ValueError:
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.0)[0]
    return ValueError(
        f"unknown network {name!r}: the nearest name is {near!r}; known are "
        f"{', '.join(names)} and wrnD-K with D = 6n + 4."
    )


def check_name(name: str) -> tuple[int, int] | None:
    """Depth and width of a wide ResNet's name, None for every other network.

    Raises ValueError for an unknown name, and for a wide ResNet that is none or too
    large.
    """
    wide = re.fullmatch(r"wrn(\d{1,6})-(\d{1,6})", str(name))
    if wide is None:
        if name not in _BUILDERS:
            raise _unknown(name, NAMES)
        return None
    depth, width = int(wide[1]), int(wide[2])
    if not 10 <= depth <= MOST_DEPTH or (depth - 4) % 6 or not 1 <= width <= MOST_WIDTH:
        raise ValueError(
            f"{name!r} is no wide ResNet: the depth must be 6n + 4 (10, 16, 22, 28, "
            f"...), at most {MOST_DEPTH}, and the width from 1 to {MOST_WIDTH}.")
    return depth, width


@functools.cache
def last_map(name: str, pixels: int) -> tuple[int, int]:
    """Channels and pixels a side of the network's last map, for square images of that
    side."""
    net, _ = _on_meta(name, 10, 1)
    maps = net.eval().maps(torch.empty(1, 1, pixels, pixels, device="meta"))
    return maps.shape[1], maps.shape[-1]


@functools.cache
def rebuilt(name: str, pixels: int) -> int:
    """Pixels a side of what `decoder(name)` makes of that network's last map of such
    images."""
    channels, side = last_map(name, pixels)
    net = decoder(name, 1).to("meta")
    return net(torch.empty(1, channels, side, side, device="meta")).shape[-1]


def _on_meta(name: str, num_classes: int, in_channels: int) -> tuple[Network, str]:
    """The network without memory or numbers, and the name of its initialisation."""
    wide = check_name(name)
    with torch.device("meta"):
        if wide:
            return _wide(num_classes, in_channels, *wide), "wide"
        make, how = _BUILDERS[name]
        return make(num_classes, in_channels), how


def build(name: str, num_classes: int, in_channels: int = 3, seed: int = 0) -> Network:
    """A freshly initialised network on the CPU, in train mode, memory format
    contiguous.

    The weights depend on `name`, the sizes and `seed` alone; no global random state is
    read or changed. Convolutions: normal with variance 2 / fan-out in preact18 (DRPL)
    and wide ResNets, Glorot in resnet29 (IEG), PyTorch's default elsewhere.

    Raises ValueError for an unknown name, fewer than two classes or no channel.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")
    if in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, not {in_channels}")
    net, init = _on_meta(name, num_classes, in_channels)
    net.to_empty(device="cpu")
    _initialise(net, init, seed)
    return net


@torch.no_grad()
def _initialise(net: nn.Module, how: str, seed: int) -> None:
    """Fill every parameter and buffer of `net` from a generator of its own."""
    gen = torch.Generator("cpu").manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.Conv2d) and how in ("fan-out", "wide"):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu",
                                    generator=gen)
        elif isinstance(m, nn.Conv2d) and how == "glorot":
            nn.init.xavier_normal_(m.weight, generator=gen)
        elif isinstance(m, nn.Linear) and how == "glorot":
            nn.init.xavier_uniform_(m.weight, generator=gen)
            nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            # PyTorch's default: weight and bias uniform within 1 / sqrt(fan-in), where
            # the fan-in is one row of the weight (also of a transposed convolution's)
            bound = 1 / math.sqrt(m.weight[0].numel())
            nn.init.uniform_(m.weight, -bound, bound, generator=gen)
            if m.bias is not None:
                bound = 0.0 if how == "wide" else bound
                nn.init.uniform_(m.bias, -bound, bound, generator=gen)
        elif isinstance(m, nn.BatchNorm2d):
            m.reset_parameters()


# --- SANM's reconstruction decoder
# ------------------------------------------------------------

# Geometry of the three transposed convolutions: kernel, stride, output padding.
_4_TO_32 = ((4, 2, 0), (6, 1, 0), (4, 2, 0))  # 4 -> 10 -> 15 -> 32, SANM on CIFAR
# 7 -> 25 -> 75 -> 224, SANM on Clothing1M
_7_TO_224 = ((6, 3, 1), (2, 3, 1), (2, 3, 0))
_8_TO_32 = ((3, 1, 0), (6, 1, 0), (4, 2, 0))  # 8 -> 10 -> 15 -> 32, ours: the same tail
_4_TO_8 = ((3, 1, 0), (2, 1, 0), (2, 1, 0))  # 4 -> 6 -> 7 -> 8, ours
_DECODERS = {
    "tiny": (64, _4_TO_8),
    "small": (64, _4_TO_32),
    "resnet8": (256, _4_TO_32),
    "resnet9": (512, _4_TO_32),
    "preact18": (512, _4_TO_32),
    "resnet34": (512, _4_TO_32),
    "resnet29": (256, _8_TO_32),
    "resnet50": (2048, _7_TO_224),
}


def decoder(name: str, in_channels: int = 3, seed: int = 0) -> nn.Sequential:
    """Decoder from the last map of `build(name, ...)` to the image: SANM, Eq. (10).

    Three transposed convolutions with bias and nothing between them (a linear map): (B,
    D, h, w) -> (B, in_channels, H, W), 8x8 for tiny, 32x32 for the other networks. The
    4x4 networks have SANM's published kernels (512 channels: 3.28 M parameters).
    "resnet50" is SANM's decoder for 224x224 images (2048 x 7 x 7, 19.0 M); `build` has
    no such network.
    """
    wide = re.fullmatch(r"wrn\d+-(\d+)", str(name))
    if wide:
        c, geometry = 64 * int(wide[1]), _8_TO_32
    elif name in _DECODERS:
        c, geometry = _DECODERS[name]
    else:
        raise _unknown(name, (*NAMES, "resnet50"))
    hidden = (256, 128) if c >= 512 else (c // 2, c // 4)
    sizes = zip((c, *hidden), (*hidden, in_channels), geometry, strict=True)
    with torch.device("meta"):
        net = nn.Sequential(
            *(
                nn.ConvTranspose2d(a, b, kernel, stride, output_padding=pad)
                for a, b, (kernel, stride, pad) in sizes
            )
        )
    net.to_empty(device="cpu")
    _initialise(net, "framework", seed)
    return net
