"""How often an epoch waits for the device, step by step, for every method.

On a GPU PyTorch's own warning is counted (`torch.cuda.set_sync_debug_mode`), and every
`torch.cuda.synchronize`. A CPU never waits, so there the operations are counted that
would make a GPU wait: those that FakeTensorMode refuses because it would have to know a
value (`.item()`, `nonzero`, indexing by a mask, ...), and `.cpu()`, `.numpy()`,
`.tolist()`. What looks at indices on a CPU alone takes the way that it takes on a GPU.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .. import lab, methods
from ..kernels import pixels
from ..training import engine
from ..training.recorder import Recorder
from .timing import NOT_RUN, Bench, Row, noted

COPIES = (Tensor.cpu, Tensor.numpy, Tensor.tolist)
SYNC = "called a synchronizing CUDA operation"
TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
# wait only for a mask as index
BY_MASK = ("index", "index_put", "index_put_", "_unsafe_index")


@dataclass
class Count:
    """Waits seen so far: within the loop over an epoch's batches, and in the rest of
    the epoch.

    steps: batches handed out. depth, deaf: loops over batches that are open, and
    functions whose reads do not count. where: "operation at file:line" -> how often.
    """

    in_steps: int = 0
    elsewhere: int = 0
    steps: int = 0
    depth: int = 0
    deaf: int = 0
    where: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        if self.deaf:
            return
        if self.depth:
            self.in_steps += 1
        else:
            self.elsewhere += 1
        self.where[f"{what} at {_place()}"] += 1


def _place() -> str:
    """The innermost line of the library outside this file."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if "noisylabels" in path.parts and path.parent.name != "bench":
            return f"{path.name}:{frame.lineno}"
    return "?"


class _Operations(TorchDispatchMode):
    """Counts the operations whose result a host would have to know."""

    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in BY_MASK:
            reads = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
                        for i in args[1])
        else:
            reads = any(tag in func.tags for tag in TAGS)
        if reads:
            self.count.add(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Counts the copies to the host, which dispatch does not see on a CPU.

    And keeps out what is read on a CPU alone: `one_hot` checks its labels there, a GPU
    does not.
    """

    def __init__(self, count: Count) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COPIES:
            self.count.add(func.__name__)
        checks = func is one_hot and (len(args) > 1 or "num_classes" in kwargs)
        self.count.deaf += checks
        try:
            return func(*args, **kwargs)
        finally:
            self.count.deaf -= checks


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def counted(device: torch.device) -> Iterator[Count]:
    """Count the waits of everything done within, on that kind of device."""
    count = Count()
    batches = engine.Task.batches

    def marked(self: engine.Task, *args: Any,
               **options: Any) -> Iterator[tuple[Tensor, ...]]:
        count.depth += 1
        try:
            for batch in batches(self, *args, **options):
                count.steps += 1
                yield batch
        finally:
            count.depth -= 1

    with replaced(engine.Task, "batches", marked), (
            _on_gpu(count) if device.type == "cuda" else _on_cpu(count)):
        yield count


@contextmanager
def _on_cpu(count: Count) -> Iterator[None]:
    with _Functions(count), _Operations(count), replaced(pixels, "may_look",
                                                         lambda x: False):
        yield


@contextmanager
def _on_gpu(count: Count) -> Iterator[None]:
    usual, synchronize = warnings.showwarning, torch.cuda.synchronize

    def heard(message: Any, category: Any, filename: str, lineno: int, *rest:
              Any) -> None:
        if SYNC in str(message):
            count.add("wait")
        else:
            usual(message, category, filename, lineno, *rest)

    def waiting(*args: Any) -> None:
        count.add("synchronize")
        synchronize(*args)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with replaced(warnings, "showwarning", heard), replaced(
                torch.cuda, "synchronize", waiting):
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")


class _Enough(Exception):
    """The epochs that were to be counted are over."""


@dataclass
class Waits:
    """The most waits of one step and of one epoch outside its steps; where they
    were."""

    step: float
    epoch: float
    epochs: int
    where: Counter[str]


def of_method(method: str, device: torch.device, epochs: int = 8,
              **options: Any) -> Waits:
    """Train the method on the digits for that many epochs and count.

    The numbers are the worst of the epochs from the second on (the first also sets
    things up; of a single epoch it is itself). Evaluation and record keeping of each
    epoch are counted too.
    """
    module = methods.get(method)
    if hasattr(module, "trusted_per_class") or hasattr(module, "TRUSTED_PER_CLASS"):
        options.setdefault("trusted_per_class", 5)
    s = lab.setting(method, rate=0.4, max_samples=400, **options)
    task, truth = lab.prepare(s, engine.Execution(str(device)))
    marks: list[tuple[int, int, int]] = []

    with counted(device) as count:
        def each(epoch: int, log: Recorder) -> None:
            marks.append((count.in_steps, count.elsewhere, count.steps))
            if len(marks) >= epochs:
                raise _Enough

        try:
            module.train(task, lab.settings_of(s), Recorder(task, truth, watch=each))
        except _Enough:
            pass
    parts = [[b - a for a, b in zip(one, two, strict=True)]
             for one, two in zip([(0, 0, 0), *marks], marks, strict=False)]
    parts = parts[1:] or parts
    return Waits(max(p[0] / max(1, p[2]) for p in parts), max(p[1] for p in parts),
                 len(marks), count.where)


def measure(bench: Bench) -> None:
    """Two rows a method: waits a step, and waits an epoch outside the steps."""
    for method in methods.NAMES:
        names = [f"waits_{kind}_{method}" for kind in ("step", "epoch")]
        if not any(bench.wants(name, "waits") for name in names):
            continue
        step, epoch = rows = [
            Row(names[0], "waits", f"{method}: waits for the device a step", "a step"),
            Row(names[1], "waits", f"{method}: waits an epoch, outside its steps",
                "an epoch")
        ]
        bench.rows += rows
        if bench.late:
            step.note = epoch.note = NOT_RUN
            continue
        bench.say(f"waits: counting {method}")
        with noted(step):
            found = of_method(method, bench.device, bench.scaled(8, least=2))
            step.values.append(found.step)
            epoch.values.append(found.epoch)
            step.note = f"worst of {found.epochs} epochs on the digits"
            epoch.note = ", ".join(f"{n} x {what}"
                                   for what, n in found.where.most_common(3))
        if not step.values:
            epoch.note = step.note
