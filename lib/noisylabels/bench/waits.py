"""How often an epoch waits for the device, step by step, for every method.

On a GPU PyTorch's own warning is counted (`torch.cuda.set_sync_debug_mode`), and every
`torch.cuda.synchronize`. A CPU never waits, so there the operations are counted that
would make a GPU wait: those that PyTorch tags as depending on a value (`.item()`,
`nonzero`, indexing by a mask, ...), and `.cpu()`, `.numpy()`, `.tolist()`. What looks
at indices on a CPU alone takes the way that it takes on a GPU.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .. import lab, methods
from ..kernels import pixels
from ..training import engine
from ..training.recorder import Recorder
from .timing import Bench, Row, find

COPIES = (Tensor.cpu, Tensor.numpy, Tensor.tolist)
SYNC = "called a synchronizing CUDA operation"
TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
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
        """One more, at the innermost line of the library outside this room."""
        if self.deaf:
            return
        self.in_steps += self.depth > 0
        self.elsewhere += self.depth == 0
        frames = [f"{path.name}:{f.lineno}" for f in traceback.extract_stack()
                  if "noisylabels" in (path := Path(f.filename)).parts
                  and path.parent.name != "bench"]
        self.where[f"{what} at {(frames or '?')[-1]}"] += 1


@contextmanager
def counted(device: torch.device) -> Iterator[Count]:
    """Count the waits of everything done within, on that kind of device."""
    count = Count()
    batches = engine.Task.batches

    def marked(*args: Any, **options: Any) -> Iterator[tuple[Tensor, ...]]:
        count.depth += 1
        try:
            for batch in batches(*args, **options):
                count.steps += 1
                yield batch
        finally:
            count.depth -= 1

    within = _on_gpu if device.type == "cuda" else _on_cpu
    with patch.object(engine.Task, "batches", marked), within(count):
        yield count


@contextmanager
def _on_cpu(count: Count) -> Iterator[None]:
    class Operations(TorchDispatchMode):
        """Those whose result a host would have to know."""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (),
                               kwargs: Any = None) -> Any:
            name = func.overloadpacket.__name__
            if any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
                   for i in args[1]) if name in BY_MASK else TAGS & set(func.tags):
                count.add(name)
            return func(*args, **(kwargs or {}))

    class Functions(TorchFunctionMode):
        """Copies to the host, which dispatch does not see on a CPU; without the check
        of its labels that `one_hot` makes on a CPU alone."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (),
                               kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func in COPIES:
                count.add(func.__name__)
            checks = func is one_hot and (len(args) > 1 or "num_classes" in kwargs)
            count.deaf += checks
            try:
                return func(*args, **kwargs)
            finally:
                count.deaf -= checks

    with Functions(), Operations(), patch.object(pixels, "may_look", lambda x: False):
        yield


@contextmanager
def _on_gpu(count: Count) -> Iterator[None]:
    synchronize = torch.cuda.synchronize

    def heard(message: Any, *rest: Any) -> None:
        if SYNC in str(message):
            count.add("wait")

    def waiting(*args: Any) -> None:
        count.add("synchronize")
        synchronize(*args)

    with (warnings.catch_warnings(), patch.object(warnings, "showwarning", heard),
          patch.object(torch.cuda, "synchronize", waiting)):
        warnings.simplefilter("always")
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
    marks = [(0, 0, 0)]

    with counted(device) as count, suppress(_Enough):
        def each(epoch: int, log: Recorder) -> None:
            marks.append((count.in_steps, count.elsewhere, count.steps))
            if len(marks) > epochs:
                raise _Enough

        module.train(task, lab.settings_of(s), Recorder(task, truth, watch=each))
    parts = np.diff(marks, axis=0)
    in_steps, elsewhere, steps = (parts[1:] if len(parts) > 1 else parts).T
    return Waits(float((in_steps / steps.clip(1)).max()), float(elsewhere.max()),
                 len(parts), count.where)


def measure(bench: Bench) -> None:
    """Two rows a method: waits a step, and waits an epoch outside the steps."""

    def count(method: str, step: Row, epoch: Row) -> None:
        found = of_method(method, bench.device, bench.scaled(8, least=2))
        step.values, epoch.values = [found.step], [found.epoch]
        step.note = f"worst of {found.epochs} epochs on the digits"
        often = found.where.most_common(3)
        epoch.note = ", ".join(f"{n} x {what}" for what, n in often)

    for m in methods.NAMES:
        find(bench, "waits", (
            (f"waits_step_{m}", f"{m}: waits for the device a step", "a step"),
            (f"waits_epoch_{m}", f"{m}: waits an epoch, outside its steps",
             "an epoch")), partial(count, m))
