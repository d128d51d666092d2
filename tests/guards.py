"""What every method is held to without a GPU: no hidden waiting, one device, no loop over samples.

Each check runs the method's own loop: under fake tensors, where every hidden read of a value
(`.item()`, a boolean index, `nonzero`) is an error; on the meta device, which stands for a GPU,
where a tensor left on the host is found; at two batch sizes, counting dispatched operations;
compiled and eager, comparing losses.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noisylabels import methods
from noisylabels.kernels import pixels, views
from noisylabels.training import engine, networks


class Count(TorchDispatchMode):
    """Counts dispatched operations that do work."""

    def __init__(self):
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops += not func.is_view
        return func(*args, **(kwargs or {}))


class Losses:
    """A recorder that only keeps the losses."""

    def __init__(self):
        self.got: list[torch.Tensor] = []

    def epochs(self, count, *state, **_):
        yield from range(1, count + 1)

    def loss(self, value):
        assert value.shape == ()
        self.got.append(value)

    def note(self, **_):
        pass

    def p_clean(self, values, suffix=""):
        assert values.dim() == 1

    def targets(self, values, suffix=""):
        assert values.dim() == 2

    def signal(self, name, values):
        pass


def a_task(n: int = 64, trusted: int = 0, **changes) -> engine.Task:
    """A small task of random one-channel images, labels 0, 1, 2, ..."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=draw)
    values = dict(images=images, y_given=torch.arange(n) % 10, num_classes=10, mean=(0.3,),
                  std=(0.4,), weak=views.Weak(pad=1, flip=False),
                  strong=views.RandAugment.fixmatch())
    if trusted:
        clean = torch.randint(0, 256, (trusted, 1, 8, 8), dtype=torch.uint8, generator=draw)
        values["trusted"] = (clean, torch.arange(trusted) % 10)
    return engine.Task(**{**values, **changes})


def run(method: str, task: engine.Task, **settings) -> list[torch.Tensor]:
    """The losses of the method's own loop, one tensor a step."""
    module, log = methods.get(method), Losses()
    s = module.Settings(**{"network": "tiny", "epochs": 1, "batch_size": 32, **settings})
    module.train(task, s, log)
    return log.got


def no_hidden_reads(method: str, monkeypatch, trusted: int = 0, **settings) -> None:
    def start(s, task, *, salt=0):  # as engine.start, with fake weights
        with unset_fake_temporarily():
            net = networks.build(s.network, task.num_classes, task.images.shape[1], seed=salt)
        for module in net.modules():
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    if value is not None:
                        fake = mode.from_tensor(value.data)
                        table[name] = torch.nn.Parameter(fake) if value.requires_grad else fake
        return net, engine.sgd(net.parameters(), s, task)

    monkeypatch.setattr(engine, "start", start)
    monkeypatch.setattr(pixels, "may_look", lambda x: False)  # views as on a GPU
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert run(method, a_task(trusted=trusted), **settings)


class MetaGenerator(torch.Generator):
    """A generator that says it draws on the meta device."""

    device = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of both devices, and copies from the host within a step.

    A host tensor without dimensions is a number; every device takes it along.
    """

    COPIES = ("_to_copy", "copy_")

    def __init__(self):
        super().__init__()
        self.in_step = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        out = func(*args, **(kwargs or {}))
        if name in self.COPIES:
            away = any(x.device.type == "cpu" for x in given) and out.device.type == "meta"
            assert not (away and self.in_step), f"{name} from the host within a step"
        else:
            there = {x.device.type for x in given if x.dim() or x.device.type != "cpu"}
            assert len(there) < 2, f"{name} takes tensors of {sorted(there)}"
        return out

    def watch(self, step):
        """`step`, as one during which nothing may come from the host."""
        def watched(*inputs):
            self.in_step = True
            try:
                return step(*inputs)
            finally:
                self.in_step = False
        return watched


class NoTables(TorchFunctionMode):
    """Numbers given as a list are a copy from the host too, which dispatch does not see."""

    def __init__(self, devices: OneDevice):
        super().__init__()
        self.devices = devices

    def __torch_function__(self, func, types, args=(), kwargs=None):
        where = torch.device((kwargs or {}).get("device") or "cpu").type
        assert not (self.devices.in_step and func in (torch.tensor, torch.as_tensor)
                    and where == "meta"), f"{func.__name__} within a step"
        return func(*args, **(kwargs or {}))


def one_device(method: str, monkeypatch, trusted: int = 0, **settings) -> None:
    """Everything on the meta device, the method's code as it is but for what meta lacks."""
    devices, step, sgd = OneDevice(), engine.step, torch.optim.SGD
    autocast, clip = torch.autocast, torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(engine, "step", lambda *a, **k: (
        lambda loss_of: devices.watch(step(*a, **k)(loss_of))))
    monkeypatch.setattr(torch.optim, "SGD", lambda *a, fused, **k: sgd(*a, **k))
    monkeypatch.setattr(torch, "autocast", lambda device, **k: (
        nullcontext() if device == "meta" else autocast(device, **k)))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, c, foreach: clip(p, c))
    monkeypatch.setattr(engine.Task, "rng", lambda self, name: (
        self.generators.setdefault(name, MetaGenerator())))
    task = a_task(trusted=trusted)
    task = dataclasses.replace(
        task, images=task.images.to("meta"), y_given=task.y_given.to("meta"),
        trusted=task.trusted and tuple(x.to("meta") for x in task.trusted),
        transition=torch.eye(10, device="meta"))
    with devices, NoTables(devices):
        losses = run(method, task, **settings)
    assert losses and all(x.device.type == "meta" for x in losses)


def no_loop_over_samples(method: str, trusted: int = 0, **settings) -> None:
    counts = []
    for n in (32, 96):
        task = a_task(n, trusted=trusted)
        with Count() as count:
            run(method, task, **{**settings, "batch_size": n})
        counts.append(count.ops)
    assert counts[0] == counts[1] > 0


def compiled_agrees(method: str, monkeypatch, trusted: int = 0, rtol: float = 1e-5,
                    **settings) -> None:
    """torch.compile without its code generator: the same graph, traced."""
    plain = run(method, a_task(trusted=trusted), **settings)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **_: compile_(f, backend="aot_eager"))
    task = a_task(trusted=trusted, execution=engine.Execution("cpu", compile=True))
    traced = run(method, task, **settings)
    np.testing.assert_allclose(torch.stack(plain), torch.stack(traced), rtol=rtol)
