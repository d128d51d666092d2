"""Networks: sizes and costs against the published ones, structure, initialisation, precision."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import guards
from noisylabels.training import networks

LIGHT = ("tiny", "small", "resnet8", "resnet29", "wrn10-1")
ALL = (*networks.NAMES, "wrn10-1")


def image(name: str, n: int = 2, device: str = "cpu") -> torch.Tensor:
    channels, side = (1, 8) if name == "tiny" else (3, 32)
    if device == "meta":
        return torch.empty(n, channels, side, side, device=device)
    gen = torch.Generator().manual_seed(5)
    return torch.randn(n, channels, side, side, generator=gen)


def make(name: str, num_classes: int = 10, seed: int = 0) -> networks.Network:
    return networks.build(name, num_classes, 1 if name == "tiny" else 3, seed)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --- sizes and costs --------------------------------------------------------------------------

# name: parameters, GFLOP forward, GFLOP forward and backward of one image, 10 classes.
# preact18, resnet34, wrn and resnet9 are the published sizes; the rest is counted by hand below.
COSTS = {
    "tiny": (56_554, 0.001808, 0.005386),
    "small": (61_338, 0.006784, 0.019468),
    "resnet8": (974_090, 0.0515, 0.1538),
    "resnet9": (6_573_120, 0.759, 2.272),
    "preact18": (11_171_274, 1.111, 3.329),
    "resnet34": (21_282_122, 2.319, 6.953),
    "resnet29": (840_730, 0.196, 0.587),
    "wrn16-2": (691_674, 0.2022, 0.6058),
    "wrn28-2": (1_467_610, 0.429, 1.285),
    "wrn28-10": (36_479_194, 10.487, 31.459),
}


@pytest.mark.parametrize("name", networks.NAMES)
def test_parameters_and_flops(name):
    parameters, forward, both = COSTS[name]
    net = make(name).to("meta")
    assert count(net) == parameters
    with FlopCounterMode(display=False) as counter:
        out = net(image(name, 1, "meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(forward, rel=1e-3)
    with FlopCounterMode(display=False) as counter:
        net(image(name, 1, "meta")).sum().backward()
    assert counter.get_total_flops() / 1e9 == pytest.approx(both, rel=1e-3)
    assert out.shape == (1, 10)


def test_published_sizes():
    """DRPL: 11.17 M (10 classes), 11.22 M (100), 0.555 GMAC at 32x32, 2.22 at 64x64."""
    assert round(count(networks.build("preact18", 100)) / 1e6, 2) == 11.22
    net = make("preact18").to("meta")
    for side, gmac in ((32, 0.5555), (64, 2.22)):
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, side, side, device="meta"))
        assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, rel=2e-3)
    sizes = {"preact18": 11.17, "resnet34": 21.28, "wrn28-10": 36.48, "wrn28-2": 1.47}
    for name, millions in sizes.items():
        assert round(COSTS[name][0] / 1e6, 2) == millions


def test_counts_by_hand():
    tiny = 9 * (1 * 32 + 32 * 64 + 64 * 64) + 2 * (32 + 64 + 64) + 64 * 10 + 10
    assert count(make("tiny")) == tiny
    small = 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 64) + 2 * (16 + 32 + 64 + 64) + 64 * 10 + 10
    assert count(make("small")) == small

    # IEG's ResNet-29: bottlenecks 16 -> 64, 64 -> 128, 128 -> 256; the first has no first BN
    total, c = 9 * 3 * 16 + 2 * 16, 16
    for mid, out in ((16, 64), (64, 128), (128, 256)):
        for b in range(3):
            total += 2 * c + c * mid + 2 * mid + 9 * mid * mid + 2 * mid + mid * out
            total += c * out if b == 0 else 0
            c = out
    total += 2 * 256 + 256 * 10 + 10 - 2 * 16
    assert count(make("resnet29")) == total


@pytest.mark.parametrize("name", ALL)
def test_interface_and_shapes(name):
    shapes = {
        "tiny": [(32, 8), (64, 4), (64, 4)],
        "small": [(16, 32), (32, 16), (64, 8), (64, 4)],
        "resnet8": [(32, 16), (32, 16), (96, 8), (256, 4)],
        "resnet9": [(64, 32), (128, 16), (256, 8), (512, 4)],
        "preact18": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
        "resnet34": [(64, 32), (64, 32), (128, 16), (256, 8), (512, 4)],
        "resnet29": [(16, 32), (64, 32), (128, 16), (256, 8)],
        "wrn10-1": [(16, 32), (16, 32), (32, 16), (64, 8)],
        "wrn16-2": [(16, 32), (32, 32), (64, 16), (128, 8)],
        "wrn28-2": [(16, 32), (32, 32), (64, 16), (128, 8)],
        "wrn28-10": [(16, 32), (160, 32), (320, 16), (640, 8)],
    }[name]
    net, x = make(name, 7).to("meta"), image(name, 3, "meta")
    taps = net.taps(x)
    assert [tuple(t.shape) for t in taps] == [(3, c, s, s) for c, s in shapes]
    assert net.maps(x).shape == taps[-1].shape
    assert net.pool(net.maps(x)).shape == net.features(x).shape == (3, net.feature_dim)
    assert net.feature_dim == shapes[-1][0]
    assert net(x).shape == (3, 7)
    assert networks.decoder(name, x.shape[1]).to("meta")(net.maps(x)).shape == x.shape


@pytest.mark.parametrize("name", (*LIGHT, "preact18"))
def test_parts_agree(name):
    net, x = make(name).eval(), image(name)
    maps, taps = net.maps(x), net.taps(x)
    assert torch.equal(maps, taps[-1])
    assert torch.equal(net.pool(maps), net.features(x))
    assert torch.equal(net.head(net.features(x)), net(x))
    pooled = maps.amax((2, 3)) if name == "tiny" else maps.mean((2, 3))
    torch.testing.assert_close(net.features(x), pooled)


def test_resnet9_ends_in_maximum_and_an_eighth():
    net, x = make("resnet9").eval(), image("resnet9", 1)
    maps = net.maps(x)
    assert torch.equal(net.features(x), maps.amax((2, 3)))
    torch.testing.assert_close(net(x), net.features(x) @ net.linear.weight.T / 8)
    assert net.linear.bias is None


# --- structure --------------------------------------------------------------------------------


def bn(x, m):
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.1, 1e-5)


def stir(module, seed=3):
    """Batch norms that do something, also in eval mode."""
    gen = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t, low in ((m.weight, 0.5), (m.bias, -0.5), (m.running_var, 0.5)):
                t.data = low + torch.rand(t.shape, generator=gen)
            m.running_mean.normal_(generator=gen)
            assert (m.eps, m.momentum) == (1e-5, 0.1)
    return module.eval()


def test_preact_block_shortcut_leaves_after_the_activation():
    net = stir(make("preact18"))
    for block, stride in ((net.stages[0][0], 1), (net.stages[1][0], 2), (net.stages[3][1], 1)):
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        a = F.relu(bn(x, block.bn1))
        y = F.conv2d(a, block.conv1.weight, None, stride, 1)
        y = F.conv2d(F.relu(bn(y, block.bn2)), block.conv2.weight, None, 1, 1)
        side = a if stride == 1 else F.conv2d(a, block.shortcut.weight, None, 2)
        torch.testing.assert_close(block(x), y + side)
    assert isinstance(net.stages[0][0].shortcut, nn.Identity)
    assert isinstance(net.stages[1][0].shortcut, nn.Conv2d)  # a bare projection, no batch norm
    assert net.maps(image("preact18")).min() < 0  # no batch norm or ReLU after the last block


def test_basic_block():
    net = stir(make("resnet34"))
    for block, stride in ((net.stages[0][0], 1), (net.stages[1][0], 2)):
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        y = F.relu(bn(F.conv2d(x, block.conv1.weight, None, stride, 1), block.bn1))
        y = bn(F.conv2d(y, block.conv2.weight, None, 1, 1), block.bn2)
        side = x
        if stride == 2:
            side = bn(F.conv2d(x, block.shortcut[0].weight, None, 2), block.shortcut[1])
        torch.testing.assert_close(block(x), F.relu(y + side))
    assert [len(s) for s in net.stages] == [3, 4, 6, 3]
    assert net.maps(image("resnet34")).min() == 0


def test_wide_block():
    net = stir(make("wrn16-2"))
    for block, stride in ((net.stages[0][0], 1), (net.stages[0][1], 1), (net.stages[1][0], 2)):
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        a = F.relu(bn(x, block.bn1))
        y = F.conv2d(a, block.conv1.weight, None, stride, 1)
        y = F.conv2d(F.relu(bn(y, block.bn2)), block.conv2.weight, None, 1, 1)
        same = block.shortcut is None
        side = x if same else F.conv2d(a, block.shortcut.weight, None, stride)
        torch.testing.assert_close(block(x), y + side)
    assert [b.shortcut is None for b in net.stages[0]][:2] == [False, True]
    maps = net.maps(image("wrn16-2"))
    assert maps.min() == 0 and isinstance(net.stages[-1][-1], nn.ReLU)


def test_bottleneck_has_no_relu_after_its_first_batch_norm():
    net = stir(make("resnet29"))
    first = net.stages[0][0]
    assert isinstance(first.bn1, nn.Identity)
    blocks = [b for s in net.stages for b in s if hasattr(b, "conv3")]
    assert len(blocks) == 9
    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        y = x if block is first else bn(x, block.bn1)
        stride = block.conv1.stride[0]
        y = F.conv2d(y, block.conv1.weight, None, stride)
        y = F.conv2d(F.relu(bn(y, block.bn2)), block.conv2.weight, None, 1, 1)
        y = F.conv2d(F.relu(bn(y, block.bn3)), block.conv3.weight)
        project = isinstance(block.shortcut, nn.Conv2d)
        side = F.conv2d(x, block.shortcut.weight, None, stride) if project else x
        torch.testing.assert_close(block(x), y + side)
    assert [b.conv1.stride[0] for b in blocks] == [1, 1, 1, 2, 1, 1, 2, 1, 1]
    assert net.maps(image("resnet29")).min() == 0


# --- initialisation ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", (*LIGHT, "preact18"))
def test_seed_decides_and_global_state_stays(name):
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    a = make(name, seed=3).state_dict()
    networks.decoder(name, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]

    torch.manual_seed(2)
    with torch.device("meta"):  # a default device of the caller changes nothing
        b = make(name, seed=3).state_dict()
    c = make(name, seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert all(t.device.type == "cpu" and torch.isfinite(t).all() for t in b.values())
    drawn = [k for k in a if k.endswith("weight") and a[k].dim() > 1]
    assert drawn and not any(torch.equal(a[k], c[k]) for k in drawn)


@pytest.mark.parametrize("name", (*LIGHT, "preact18", "resnet9"))
def test_initial_distributions(name):
    for m in make(name, 100).modules():
        if isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all() and (m.bias == 0).all() and (m.running_mean == 0).all()
            assert (m.running_var == 1).all() and m.num_batches_tracked == 0
        if not isinstance(m, nn.Conv2d | nn.Linear):
            continue
        area = m.weight[0, 0].numel() if m.weight.dim() == 4 else 1
        fan_in, fan_out = m.weight.shape[1] * area, m.weight.shape[0] * area
        var = 1 / (3 * fan_in)  # PyTorch's default: uniform within 1 / sqrt(fan-in)
        if isinstance(m, nn.Conv2d) and name in ("preact18", "wrn10-1"):
            var = 2 / fan_out
        elif name == "resnet29":
            var = 2 / (fan_in + fan_out)
        tolerance = 6 / m.weight.numel() ** 0.5  # of a sample standard deviation, generously
        assert m.weight.std().item() == pytest.approx(var**0.5, rel=tolerance)
        assert m.weight.mean().abs() < 5 * (var / m.weight.numel()) ** 0.5
        if isinstance(m, nn.Linear) and m.bias is not None:
            plain = name not in ("resnet29", "wrn10-1")
            assert (m.bias != 0).all() if plain else (m.bias == 0).all()
            assert m.bias.abs().max() <= 1 / fan_in**0.5
        if isinstance(m, nn.Conv2d):
            assert m.bias is None


def test_decoder_initialisation_is_pytorchs():
    ours = networks.decoder("small", seed=1)
    for m in ours:
        torch.manual_seed(0)
        theirs = nn.ConvTranspose2d(m.in_channels, m.out_channels, m.kernel_size)
        for a, b in ((m.weight, theirs.weight), (m.bias, theirs.bias)):
            assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.35)
        assert m.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.05)


# --- decoder ----------------------------------------------------------------------------------


def test_decoder_sizes_are_sanms():
    """SANM: 3.28 M parameters and 153 M MAC on CIFAR, 19.0 M for ResNet-50 at 224."""
    cifar = networks.decoder("preact18").to("meta")
    assert count(cifar) == 3_283_331
    x, sides = torch.empty(1, 512, 4, 4, device="meta"), []
    with FlopCounterMode(display=False) as counter:
        for layer in cifar:
            x = layer(x)
            sides.append(x.shape[-1])
    assert sides == [10, 15, 32] and x.shape == (1, 3, 32, 32)
    assert counter.get_total_flops() / 2e6 == pytest.approx(153, rel=0.01)

    big = networks.decoder("resnet50").to("meta")
    assert round(count(big) / 1e6, 1) == 19.0
    x, sides = torch.empty(1, 2048, 7, 7, device="meta"), []
    for layer in big:
        x = layer(x)
        sides.append(x.shape[-1])
    assert sides == [25, 75, 224] and x.shape == (1, 3, 224, 224)


@pytest.mark.parametrize("name", ("tiny", "small", "wrn10-1"))
def test_decoder_is_linear_and_covers_the_image(name):
    net = networks.decoder(name, 1).double()
    side = 8 if name == "wrn10-1" else 4
    a, b = torch.randn(2, 1, 64, side, side, dtype=torch.float64)
    zero = net(torch.zeros_like(a))
    torch.testing.assert_close(net(2 * a + b) - zero, 2 * (net(a) - zero) + (net(b) - zero))
    assert (net(a) - zero != 0).all()  # every pixel depends on the map
    assert torch.equal(
        networks.decoder(name, 1, 7)[0].weight, networks.decoder(name, 1, 7)[0].weight
    )
    assert not torch.equal(
        networks.decoder(name, 1, 7)[0].weight, networks.decoder(name, 1, 8)[0].weight
    )


# --- precision, layout, functional use --------------------------------------------------------


@pytest.mark.parametrize("name", (*LIGHT, "preact18", "resnet9"))
def test_channels_last_equals_contiguous(name):
    x = image(name).double()
    xl = x.to(memory_format=torch.channels_last)
    plain, last = make(name).double(), make(name).double().to(memory_format=torch.channels_last)
    maps = last.maps(xl)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(maps, plain.maps(x))
    plain(x).square().mean().backward()
    last(xl).square().mean().backward()
    for p, q in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", (*LIGHT, "preact18", "resnet34"))
def test_bf16_autocast_trains(name):
    net = make(name).to(memory_format=torch.channels_last)
    x = image(name, 8).to(memory_format=torch.channels_last)
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        z, d = net(x), networks.decoder(name, x.shape[1])(net.maps(x))
    assert z.dtype == torch.bfloat16 and torch.isfinite(z).all() and torch.isfinite(d).all()
    assert (z.float() - exact).norm() < 0.1 * exact.norm()
    z.float().log_softmax(1).mean().neg().backward()
    for p in net.parameters():
        assert p.grad.dtype == torch.float32 and torch.isfinite(p.grad).all()


def test_train_mode_batch_norm():
    net, x = make("tiny"), image("tiny", 32) * 3 + 1
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    y = net.stem[0](x)
    net(x)
    assert all(m.num_batches_tracked == 1 for m in norms)
    torch.testing.assert_close(norms[0].running_mean, 0.1 * y.mean((0, 2, 3)))
    torch.testing.assert_close(norms[0].running_var, 0.9 + 0.1 * y.var((0, 2, 3)))
    assert not torch.allclose(net(x), net.eval()(x))
    net.features(x)
    assert all(m.num_batches_tracked == 2 for m in norms)  # eval mode counts nothing


@pytest.mark.parametrize("name", (*LIGHT, "resnet9"))
def test_functional_call_and_forward_mode(name):
    """Buffers passed as clones: the derivative along v equals a difference quotient."""
    net = make(name).double()
    x = image(name, 3)[..., :16, :16].double()
    theta = {k: p.detach() for k, p in net.named_parameters()}
    gen = torch.Generator().manual_seed(0)
    v = {k: torch.randn(p.shape, generator=gen).double() * 1e-2 for k, p in theta.items()}
    start = {k: b.clone() for k, b in net.named_buffers()}

    def logits(p):
        buffers = {k: b.clone() for k, b in net.named_buffers()}
        return functional_call(net, {**p, **buffers}, (x,))

    primal, tangent = jvp(logits, (theta,), (v,))
    torch.testing.assert_close(primal, logits(theta))
    h = 1e-7
    up, down = ({k: theta[k] + s * h * v[k] for k in theta} for s in (1, -1))
    torch.testing.assert_close(
        tangent, (logits(up) - logits(down)) / (2 * h), rtol=1e-4, atol=1e-6
    )
    assert all(torch.equal(b, start[k]) for k, b in net.named_buffers())  # nothing moved


@pytest.mark.parametrize("name", ("tiny", "wrn10-1", "resnet29"))
def test_cast_convolutions_allows_forward_mode(name):
    net, x = make(name), image(name, 8)
    theta = {k: p.detach() for k, p in net.named_parameters()}
    v = {k: p * 0.1 for k, p in theta.items() if "linear" in k}  # smooth: no kink is crossed
    v = {k: v.get(k, torch.zeros_like(p)) for k, p in theta.items()}

    def logits(p):
        buffers = {k: b.clone() for k, b in net.named_buffers()}
        return functional_call(net, {**p, **buffers}, (x,))

    exact = jvp(logits, (theta,), (v,))
    networks.cast_convolutions(net, torch.bfloat16)
    primal, tangent = jvp(logits, (theta,), (v,))
    assert primal.dtype == tangent.dtype == torch.float32
    assert not torch.equal(primal, exact[0])
    assert (primal - exact[0]).norm() < 0.05 * exact[0].norm()
    assert (tangent - exact[1]).norm() < 0.05 * exact[1].norm()
    networks.cast_convolutions(net, None)
    assert torch.equal(logits(theta), exact[0])


@pytest.mark.parametrize("name", ("tiny", "resnet29"))
def test_whole_network_is_one_graph(name):
    net, x = make(name), image(name)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ("tiny", "small", "resnet9"))
@pytest.mark.parametrize("narrow", (False, True))
def test_relu_after_pooling_is_relu_before_it_bit_for_bit(name, narrow):
    net, before = (make(name).to(memory_format=torch.channels_last) for _ in range(2))
    swapped = 0
    for m in before.modules():
        for k in range(len(m) - 1 if isinstance(m, nn.Sequential) else 0):
            if isinstance(m[k], nn.MaxPool2d):
                assert isinstance(m[k + 1], nn.ReLU)
                m[k], m[k + 1] = nn.ReLU(), m[k]
                swapped += 1
    assert swapped == {"tiny": 1}.get(name, 3)
    assert list(net.state_dict()) == list(before.state_dict())
    x = image(name, 8)[..., :16, :16].to(memory_format=torch.channels_last)
    x = torch.cat([x, torch.zeros_like(x)])  # equal pixels too
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        z, z_before = net(x), before(x)
        for a, b in zip(net.taps(x), before.taps(x), strict=True):
            assert torch.equal(a, b) and a.min() >= 0
    assert torch.equal(z, z_before)
    for a in (z, z_before):
        a.float().log_softmax(1).square().sum().backward()
    for p, q in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


# --- the weight gradient as a product ---------------------------------------------------------


@pytest.fixture
def products(monkeypatch):
    """Every 3x3 convolution takes it, in any precision; the list counts how often."""
    taken = []
    plain = networks._ByProduct.apply
    monkeypatch.setattr(networks._ByProduct, "apply", lambda *a: taken.append(a[0]) or plain(*a))
    monkeypatch.setattr(networks, "_WIDE", 1)
    monkeypatch.setattr(networks, "_NARROW", (torch.float32, torch.float64, torch.bfloat16))
    return taken


def draws(*shape, seed=0, dtype=torch.float32):
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype)


def layer(c_in, c_out, dtype=torch.float32):
    conv = networks.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    conv.weight.data = draws(c_out, c_in, 3, 3, seed=1, dtype=dtype) / (9 * c_in) ** 0.5
    return conv


def gradients(net, x, y):
    """Of sum(net(x) * y) for the weights and for x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad((net(x) * y).sum(), [*net.parameters(), x])


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(128, 4, 4), (64, 8, 8), (3, 1, 1), (2, 5, 8), (1, 2, 3)])
def test_the_product_is_autograds_gradient(shape, last, products, monkeypatch):
    n, h, w = shape
    conv, x, y = layer(64, 96), draws(n, 64, h, w), draws(n, 96, h, w, seed=2)
    if last:
        conv, x, y = (v.to(memory_format=torch.channels_last) for v in (conv, x, y))
    z = conv(x)
    ours = gradients(conv, x, y)
    assert len(products) == 2
    monkeypatch.setattr(networks, "_NARROW", ())
    assert torch.equal(conv(x), z)  # forwards nothing changes
    theirs = gradients(conv, x, y)
    assert len(products) == 2
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 5e-5 * b.norm() and a.shape == b.shape
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("name", ["resnet9", "preact18", "resnet29", "tiny"])
def test_a_network_has_the_same_gradients(name, products, monkeypatch):
    net = make(name).double().to(memory_format=torch.channels_last)
    x = image(name, 4)[..., :16, :16].double().to(memory_format=torch.channels_last)
    ours = gradients(net, x, draws(4, 10).double())
    assert len(products) >= 2
    monkeypatch.setattr(networks, "_NARROW", ())
    for a, b in zip(ours, gradients(net, x, draws(4, 10).double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_all_orders_of_derivative_of_the_product(products):
    """Backward, forward, batched, twice, and forward over backward: by difference quotients."""
    conv = layer(2, 3, torch.float64)

    def f(x, weight):
        return functional_call(conv, {"weight": weight}, (x,))

    x = draws(2, 2, 3, 4, dtype=torch.float64).requires_grad_()
    given = (x, conv.weight.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(f, given, check_forward_ad=True, check_batched_grad=True,
                                    check_batched_forward_grad=True)
    assert torch.autograd.gradgradcheck(f, given, check_fwd_over_rev=True,
                                        check_batched_grad=True)
    assert products


def test_the_product_within_torch_func_and_checkpoints(products, monkeypatch):
    """jvp, vmap of grad, products with second derivatives, both kinds of checkpoint."""
    net = make("tiny").double().eval()
    x, y = image("tiny", 3).double(), torch.tensor([1, 2, 3])
    theta = {k: p.detach() for k, p in net.named_parameters()}
    v = {k: 1e-2 * draws(*p.shape, seed=3).double() for k, p in theta.items()}

    def loss(p, x, y):
        return F.cross_entropy(functional_call(net, p, (x,)), y)

    def every():
        of_one = torch.func.grad(lambda p, a, b: loss(p, a[None], b[None]))
        out = [*torch.func.vmap(of_one, (None, 0, 0))(theta, x, y).values()]
        for way in jvp(torch.func.grad(lambda p: loss(p, x, y)), (theta,), (v,)):
            out += way.values()
        leaves = {k: p.clone().requires_grad_() for k, p in theta.items()}
        out += jvp(lambda p: loss(p, x, y), (leaves,), (v,))
        first = torch.autograd.grad(loss(leaves, x, y), [*leaves.values()], create_graph=True)
        out += torch.autograd.grad(sum(g.square().sum() for g in first), [*leaves.values()])
        for reentrant in (False, True):
            net.zero_grad()
            checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
            out += [p.grad for p in net.parameters()]
        return out

    ours, often = every(), len(products)
    assert often
    monkeypatch.setattr(networks, "_NARROW", ())
    for a, b in zip(ours, every(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert len(products) == often


@pytest.mark.parametrize("method", ["ieg", "l2r", "cross_entropy"])
def test_methods_of_higher_order_train_alike(method, products, monkeypatch):
    """Look-ahead and forward mode through such layers."""
    def losses():
        task = guards.a_task(64, trusted=0 if method == "cross_entropy" else 20)
        short = {"steps": 0, "cycle": 0} if method == "ieg" else {}
        return torch.stack(guards.run(method, task, batch_size=16, **short))

    ours = losses()
    assert products
    monkeypatch.setattr(networks, "_NARROW", ())
    torch.testing.assert_close(ours, losses(), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("cast", [False, True])
def test_in_bfloat16_the_product_is_the_true_gradient_rounded(cast):
    conv, x, y = layer(128, 128), draws(16, 128, 4, 4), draws(16, 128, 4, 4, seed=2)
    if cast:
        networks.cast_convolutions(conv, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=not cast):
        assert networks.by_product(conv, x)
        z = conv(x)
    assert z.dtype == (torch.float32 if cast else torch.bfloat16)
    (z * y.to(z.dtype)).sum().backward()
    seen, said = x.bfloat16().double(), y.bfloat16().double()
    true = torch.nn.grad.conv2d_weight(seen, conv.weight.shape, said, padding=1)
    assert conv.weight.grad.dtype == torch.float32
    rounded = true.bfloat16().double()
    assert (conv.weight.grad - rounded).norm() < 2e-4 * true.norm()


def test_where_the_product_is_taken():
    """Nowhere in float32, nor in `small` and `tiny`, of which runs are recorded."""
    conv, x = layer(128, 128), draws(2, 128, 8, 8)
    assert not networks.by_product(conv, x)

    def narrow(conv, x):
        with torch.autocast("cpu", torch.bfloat16):
            return networks.by_product(conv, x)

    assert narrow(conv, x) and narrow(layer(512, 256), draws(2, 512, 1, 4))
    assert not narrow(conv, draws(2, 128, 9, 8)) and not narrow(conv, x.to("meta"))
    for other in (layer(64, 128), layer(128, 64), networks.Conv2d(128, 128, 1),
                  networks.Conv2d(128, 128, 3, padding=1),
                  networks.Conv2d(128, 128, 3, 2, padding=1, bias=False),
                  networks.Conv2d(128, 128, 3, padding=1, groups=2, bias=False)):
        assert not narrow(other, x[:, :other.in_channels])
    with torch.no_grad():
        assert not narrow(conv, x)
    assert not narrow(layer(128, 128).requires_grad_(False), x)
    for name in ("tiny", "small"):
        for m in make(name).modules():
            assert not isinstance(m, nn.Conv2d) or min(m.in_channels, m.out_channels) < 96
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(conv, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), conv(x))
        assert "ByProduct" not in type(compiled(x).grad_fn).__name__
    torch._dynamo.reset()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("resnet18", "resnet"),
        ("preact-18", "'preact18'"),
        ("Tiny", "'tiny'"),
        ("wrn-28-10", "'wrn28-10'"),
    ],
)
def test_unknown_name_says_the_nearest(given, near):
    for make_it in (lambda: networks.build(given, 10), lambda: networks.decoder(given)):
        with pytest.raises(ValueError, match=f"unknown network.*nearest name is.*{near}"):
            make_it()


@pytest.mark.parametrize("name", ("wrn27-2", "wrn4-1", "wrn28-0"))
def test_impossible_wide_networks(name):
    with pytest.raises(ValueError, match="6n [+] 4"):
        networks.build(name, 10)


def test_bad_sizes():
    with pytest.raises(ValueError, match="num_classes must be at least 2, not 1"):
        networks.build("tiny", 1)
    with pytest.raises(ValueError, match="in_channels must be at least 1, not 0"):
        networks.build("tiny", 10, 0)


def test_other_wide_networks_follow_the_rule():
    net = networks.build("wrn22-3", 5, 1)
    assert [len([b for b in s if hasattr(b, "conv1")]) for s in net.stages] == [3, 3, 3]
    assert net.feature_dim == 192
