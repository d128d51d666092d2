"""What every training loop shares: the task, the step, schedules, precision, whole-set
passes.

A method is handed a `Task`: what a user of a real noisy dataset would have, and nothing
else. The true labels are not in it. Images stay on the device as uint8; an epoch's
augmented views are made in large chunks ahead of the steps; a step only normalises, so
nothing in an epoch waits for the host.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import views
from ..ranges import check, named, one_of, within
from . import networks

AUGMENTS = ("weak", "none")
SCHEDULES = ("constant", "steps", "cosine", "restarts", "onecycle")
PRECISIONS = ("float32", "bfloat16", "auto")
EPOCHS = "[1, 100000]"


# --------------------------------------------------------------------------- the recipe


@dataclass(frozen=True)
class Recipe:
    """The settings all methods have in common; a method's own dataclass extends it.

    Args:
        network: a name of `networks.NAMES`.
        epochs, batch_size: passes over the training set; samples a step.
        lr, momentum, nesterov, weight_decay: SGD, as in torch.
        schedule: `constant` · `steps` (x `drop` at the `milestones`) · `cosine` (to
            `lr_floor` at the end) · `restarts` (cosine from `lr` to `lr_floor` every
            `period` epochs) · `onecycle` (linear up over the first fifth, linear down
            to `lr_floor`).
        milestones: 1-based epochs that already use the lower rate.
        precision: `float32`, or `bfloat16` convolutions with float32 weights,
            statistics, losses; `auto`: bfloat16 where the device computes it
            (`has_bfloat16`), float32 elsewhere.
        augment: `weak` (the dataset's crop and flip) or `none`, for the view called
            weak.
    """

    network: str = named(networks.check_name, "resnet34")
    epochs: int = within(EPOCHS, 300)
    batch_size: int = within("[2, 16384]", 128)
    lr: float = within("[0, 1000000000]", 0.02)
    momentum: float = within("[0, 1)", 0.9)
    nesterov: bool = False
    weight_decay: float = within("[0, 1]", 1e-3)
    schedule: str = one_of(*SCHEDULES, default="restarts")
    milestones: tuple[int, ...] = within("[1, 1000000]", ())
    drop: float = within("[0, 1]", 0.1)
    period: int = within(EPOCHS, 10)
    lr_floor: float = within("[0, 1000000000]", 0.001)
    precision: str = one_of(*PRECISIONS)
    augment: str = one_of(*AUGMENTS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        check(self)
        if list(self.milestones) != sorted(set(self.milestones)):
            listed = ", ".join(map(str, self.milestones))
            raise ValueError(f"milestones must ascend, not {listed}.")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0.")
        if self.lr_floor > self.lr and self.schedule in ("cosine", "restarts",
                                                         "onecycle"):
            raise ValueError(
                f"lr_floor ({self.lr_floor:g}) must not exceed lr ({self.lr:g}): "
                f"the schedule {self.schedule} falls to it.")

    def lr_at(self, epoch: int, epochs: int | None = None) -> float:
        """Learning rate of the 1-based `epoch` in a stage of `epochs` (default: all)
        epochs."""
        total = epochs or self.epochs
        if self.schedule == "steps":
            return self.lr * self.drop ** sum(epoch >= m for m in self.milestones)
        if self.schedule == "cosine":
            return _cosine(self.lr, self.lr_floor, (epoch - 1) / total)
        if self.schedule == "restarts":
            return _cosine(self.lr, self.lr_floor,
                           (epoch - 1) % self.period / self.period)
        if self.schedule == "onecycle":
            peak = max(1.0, 0.2 * total)
            up = epoch / peak
            return self.lr * up if up < 1 else max(
                self.lr_floor, self.lr * (total - epoch + 1) / (total - peak + 1))
        return self.lr


def _cosine(high: float, low: float, t: float) -> float:
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * t))


# ------------------------------------------------------------------------ the execution


@dataclass(frozen=True)
class Execution:
    """How a run is executed; none of this is part of its setting.

    Args:
        device: `auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:k`.
        compile: fuse the forward and backward pass by `torch.compile`.
        graph: capture the whole step as one CUDA graph (CUDA only).
    """

    device: str = "auto"
    compile: bool = False
    graph: bool = False

    def resolve(self) -> Execution:
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", str(device)):
            raise ValueError(
                f"unknown device {device!r}; allowed: auto, cpu, cuda, cuda:k.")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"device {device!r} was asked for, but torch sees no GPU; use cpu.")
        if device.startswith("cuda:") and int(
                device[5:]) >= (there := torch.cuda.device_count()):
            raise ValueError(
                f"device {device!r} was asked for, but torch sees GPUs 0 to "
                f"{there - 1} alone.")
        if self.graph and not device.startswith("cuda"):
            raise ValueError(
                "graph=True (--graph) captures CUDA graphs: it needs a GPU.")
        return dataclasses.replace(self, device=device)


# ----------------------------------------------------------------------------- the task


@dataclass
class Task:
    """What a method may see: noisy data, and a trusted set when the setting grants one.

    Args:
        images: uint8 (N, C, H, W) on the device.
        y_given: int64 (N,) labels as given, some of them wrong.
        mean, std: per channel, on the [0, 1] scale.
        weak, strong: the usual views of this dataset (uint8 in and out).
        trusted: (images uint8 (M, C, H, W), labels int64 (M,)) known to be right, or
            None.
        seed: of every random draw of the training (`init_seed` of the setting).
        oracle: bool (N,), which labels are wrong: only for a setting that asks for this
            upper bound by its option `oracle`; None for all others.
        transition: float32 (C, C), the true transition matrix (rows: true class): only
            for a setting whose option `transition` is "true"; None for all others.
    """

    images: Tensor
    y_given: Tensor
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weak: views.View
    strong: views.View
    trusted: tuple[Tensor, Tensor] | None = None
    seed: int = 0
    oracle: Tensor | None = None
    transition: Tensor | None = None
    execution: Execution = field(default_factory=Execution)
    precision: str = "float32"
    generators: dict[str, torch.Generator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision == "auto":
            self.precision = "bfloat16" if has_bfloat16(self.device) else "float32"
        shape = (1, -1, 1, 1)
        self._scale = 1.0 / (255.0 *
                             torch.tensor(self.std, device=self.device)).view(shape)
        self._shift = (torch.tensor(self.mean, device=self.device)
                       / torch.tensor(self.std, device=self.device)).view(shape)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def rng(self, name: str) -> torch.Generator:
        """The random stream of that name, derived from the seed; its state is
        checkpointed."""
        if name not in self.generators:
            seed = zlib.crc32(f"{name}/{self.seed}".encode())
            self.generators[name] = torch.Generator(self.device).manual_seed(seed)
        return self.generators[name]

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32, zero mean and unit variance a channel,
        channels last."""
        last = torch.channels_last
        if x.device.type != "cpu" or x.shape[1] == 1:
            return x.to(torch.float32,
                        memory_format=last).mul_(self._scale).sub_(self._shift)
        # twice as fast on a CPU: bytes change places, and whole rows are multiplied
        y = x.contiguous(memory_format=last).to(torch.float32, memory_format=last)
        n, c, h, w = y.shape
        scale, shift = (v.flatten().repeat(w) for v in (self._scale, self._shift))
        y.permute(0, 2, 3, 1).view(n, h, w * c).mul_(scale).sub_(shift)
        return y

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 convolutions and products when the precision says so."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def batches(self, batch_size: int, *wanted: views.View,
                subset: Tensor | None = None, shuffle: bool = True,
                drop_last: bool = False, least: int | None = None,
                stream: str = "order",
                images: Tensor | None = None) -> Iterator[tuple[Tensor, ...]]:
        """One pass over the training set: (index (B,), one normalised tensor a view
        wanted).

        A remainder of few samples would get the weight of a whole batch in its step and
        in the running statistics: one of less than `least` samples is left out of this
        pass.

        Args:
            least: see above; default `least_batch(batch_size)`, an eighth of a batch.
            drop_last: leave out every remainder.
            wanted: views to draw (default: `weak`); each sample gets its own draw of
                each.
            subset: int64 indices to visit instead of all samples.
            stream: name of the order's random stream; the views draw from `stream +
                "-views"`.
            images: another uint8 image tensor to read from (e.g. the trusted images).
        """
        source = self.images if images is None else images
        index = torch.arange(len(source),
                             device=self.device) if subset is None else subset
        if shuffle:
            index = index[torch.randperm(len(index), generator=self.rng(stream),
                                         device=self.device)]
        if drop_last:
            index = index[: len(index) // batch_size * batch_size]
        else:
            index = index[: visited(len(index), batch_size, least)]
        draws = self.rng(f"{stream}-views")
        # a CPU works best in its caches
        ahead = 50_000 if self.device.type == "cuda" else 512
        for chunk in index.split(max(1, ahead // batch_size) * batch_size):
            seen = source[chunk]
            made = [view(seen, draws) for view in wanted or (self.weak,)]
            for k in range(0, len(chunk), batch_size):
                part = slice(k, k + batch_size)
                yield chunk[part], *(self.normalise(x[part]) for x in made)

    def look(self, index: Tensor, view: views.View | None = None, *,
             stream: str = "look") -> Tensor:
        """A fresh, normalised view (default: weak) of the samples `index` (B,), outside
        a pass."""
        return self.normalise((view or self.weak)(self.images[index], self.rng(stream)))


def least_batch(batch_size: int) -> int:
    """The smallest remainder that is trained as a step of its own: an eighth of a
    batch, and never one sample, of which batch normalisation knows no variance."""
    return max(2, -(-batch_size // 8))


def visited(samples: int, batch_size: int, least: int | None = None) -> int:
    """How many of so many samples a pass visits: all but a remainder below `least`
    (default: `least_batch`); fewer than one batch are visited as they are."""
    rest = samples % batch_size
    short = rest < (least_batch(batch_size) if least is None else least)
    return samples - rest if short and samples > batch_size else samples


def steps_of(samples: int, batch_size: int) -> int:
    """Steps of one pass of `Task.batches` over so many samples."""
    return -(-visited(samples, batch_size) // batch_size)


# ----------------------------------------------------------------------- nets and steps


def start(s: Recipe, task: Task, *, salt: int = 0
          ) -> tuple[networks.Network, torch.optim.SGD]:
    """A fresh network of the recipe on the task's device, and its SGD optimiser.

    `salt` makes the second, third, ... network of a run differ from the first.
    """
    net = networks.build(s.network, task.num_classes, in_channels=task.images.shape[1],
                         seed=task.seed + 1000 * salt)
    net = net.to(  # type: ignore[call-overload]
        task.device, memory_format=torch.channels_last)
    return net, sgd(net.parameters(), s, task)


def sgd(parameters: Any, s: Recipe, task: Task) -> torch.optim.SGD:
    """Fused SGD with the recipe's numbers; inside CUDA graphs the rate lives on the
    device."""
    lr: Any = torch.tensor(s.lr, device=task.device) if task.execution.graph else s.lr
    return torch.optim.SGD(parameters, lr=lr, momentum=s.momentum, nesterov=s.nesterov,
                           weight_decay=s.weight_decay, fused=True)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, in place where it is a device tensor."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def step(optimiser: torch.optim.Optimizer, task: Task, *, clip: float | None = None
         ) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Turn a function that computes a loss into one optimiser step that returns it,
    detached.

    The decorated function gets tensors and returns a scalar loss. It runs under the
    task's precision; then gradients are cleared, computed and applied. `Execution`
    decides whether it is compiled or captured as a CUDA graph; the same function serves
    all three. `clip` bounds the gradient norm.
    """

    def decorate(loss_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
        # dynamic=False: an epoch's shorter last batch gets its own code, the others
        # keep theirs
        compute = torch.compile(loss_of,
                                dynamic=False) if task.execution.compile else loss_of
        weights = [p for group in optimiser.param_groups for p in group["params"]]

        def one_step(*inputs: Tensor) -> Tensor:
            with task.autocast():
                loss = compute(*inputs)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(weights, clip, foreach=True)
            optimiser.step()
            return loss.detach()

        return Graphed(one_step, task) if task.execution.graph else one_step

    return decorate


class Graphed:
    """A step captured as one CUDA graph, for the shape it meets first.

    The first three calls are real steps on a side stream (they warm the allocator and
    build the optimiser's state); the fourth captures; from then on one launch a step.
    Other shapes, such as an epoch's last batch, run eagerly.
    """

    WARM_UP = 3

    def __init__(self, function: Callable[..., Tensor], task: Task) -> None:
        self.function, self.task = function, task
        self.calls = 0
        self.side: torch.cuda.Stream | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.output: Tensor | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = [x.shape for x in inputs]
        if not self.inputs:
            self.inputs = [x.clone() for x in inputs]
        if shapes != [x.shape for x in self.inputs]:
            return self.function(*inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        with torch.cuda.device(self.task.device):
            if self.graph is None and self.calls < self.WARM_UP:
                return self._warm_up()
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                for generator in self.task.generators.values():
                    self.graph.register_generator_state(generator)
                with torch.cuda.graph(self.graph):
                    self.output = self.function(*self.inputs)
            self.graph.replay()
        assert self.output is not None
        return self.output.clone()

    def _warm_up(self) -> Tensor:
        self.calls += 1
        self.side = self.side or torch.cuda.Stream()
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            loss = self.function(*self.inputs)
        torch.cuda.current_stream().wait_stream(self.side)
        return loss


class WeightAverage:
    """Exponential moving average of a network's weights, with TensorFlow's warm-up
    (IEG, 2.8).

    The decay of update t (from 0) is min(decay, (1 + t) / (10 + t)). Buffers are
    copied.
    """

    def __init__(self, net: networks.Network, decay: float = 0.999) -> None:
        self.module = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine, theirs = list(self.module.parameters()), list(net.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)  # type: ignore[arg-type]
        for mine_, theirs_ in zip(self.module.buffers(), net.buffers(), strict=True):
            mine_.copy_(theirs_)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])


# --------------------------------------------------------------------- whole-set passes


@torch.no_grad()
def outputs(net: networks.Network, task: Task, images: Tensor | None = None, *,
            features: bool = False, view: views.View | None = None,
            batch_size: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Logits (N, C) and, when asked, features (N, D) of every image, in evaluation
    mode, float32.

    `view` augments the images first (its draws come from the stream "pass-views").
    """
    source = task.images if images is None else images
    was_training = net.training
    net.eval()
    logits, feats = [], []
    # as large as a GPU likes, or small enough for a CPU's caches
    if batch_size is None:
        batch_size = 2_000 if task.device.type == "cuda" else 128
    for x in source.split(batch_size):
        if view is not None:
            x = view(x, task.rng("pass-views"))
        with task.autocast():
            f = net.features(task.normalise(x))
            z = net.head(f)
        logits.append(z.float())
        if features:
            feats.append(f.float())
    net.train(was_training)
    return torch.cat(logits), torch.cat(feats) if features else None


def losses(net: networks.Network, task: Task, labels: Tensor | None = None, *,
           view: views.View | None = None) -> Tensor:
    """Cross entropy (N,) of every training sample against `labels` (default: as
    given)."""
    logits, _ = outputs(net, task, view=view)
    labels = task.y_given if labels is None else labels
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the device itself multiplies in bfloat16: a GPU, or a processor with AMX
    or AVX-512 BF16 that the environment does not forbid. Others emulate it, at a tenth
    of float32's speed."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not {"AVX512_BF16", "AMX"}.isdisjoint(instructions().split())


def hardware(device: torch.device | str) -> str:
    """The device in words: the GPU's name, or the processor and the threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = "CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            names = [
                line.split(":", 1)[1].strip() for line in f
                if line.startswith("model name")
            ]
        model = names[0] if names else model
    threads = torch.get_num_threads()
    return f"{model}, {threads} thread{'s' if threads > 1 else ''}"


LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
          "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables of the environment that take instructions from the processor: sums round
otherwise."""


def instructions() -> str:
    """The processor's instruction set as torch uses it: "AVX2", "AVX512 AVX512_BF16
    AMX", ...

    First what ATen's own loops use; then what oneDNN may use for bfloat16, without
    which a convolution in bfloat16 is emulated; then every variable of `LIMITS` that is
    set.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get(
        "DNNL_MAX_CPU_ISA") or "ALL"
    newest = most.upper() in ("ALL", "DEFAULT")
    bf16 = newest or any(word in most.upper()
                         for word in ("BF16", "FP16", "AMX", "AVX10"))
    amx = newest or "AMX" in most.upper()
    found = {"AVX512_BF16": bf16 and torch.cpu._is_avx512_bf16_supported(),
             "AMX": amx and torch.cpu._is_amx_tile_supported()}
    return " ".join([torch.backends.cpu.get_cpu_capability(),
                     *(name for name, there in found.items() if there),
                     *(f"{k}={os.environ[k]}" for k in LIMITS if os.environ.get(k))])


def set_threads(wanted: int | None) -> None:
    """Let torch use that many CPU threads; without a wish what the environment says, or
    one."""
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
