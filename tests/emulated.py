"""CUDA graphs on a CPU: a capture notes each operation with its tensors, a replay runs them again.

As on a GPU, a replay works on the tensors that the capture saw: what was replaced since is not
seen, a Python number is frozen, a read of a value during the capture is an error. So a step that
trains alike eagerly and replayed here makes none of the mistakes that graphs punish in silence.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from noisylabels.kernels import pixels
from noisylabels.training import engine

READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
BY_MASK = ("index", "index_put", "index_put_", "_unsafe_index")  # read only a mask


class CUDAGraph:
    """What `engine.Graphed` needs of a graph."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []
        self.generators: list[torch.Generator] = []
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """An operation of the capture; views need no second run, they share their memory."""
        if func.is_view:
            return
        drawn = kwargs.get("generator")
        assert drawn is None or any(torch.equal(drawn.get_state(), g.get_state())
                                    for g in self.generators), f"{func}: unregistered generator"
        given = {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        fresh = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and id(x) not in given]
        self.calls.append((func, args, kwargs, fresh))

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:
            return  # unlike a GPU's, this capture has already run the step
        for func, args, kwargs, fresh in self.calls:
            out = func(*args, **kwargs)
            if fresh:
                again = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
                for kept, new in zip(fresh, again, strict=True):
                    if not kept._is_zerotensor():  # of forward mode: no memory, always zero
                        kept.copy_(new)


class Capture(TorchDispatchMode):
    """`torch.cuda.graph`."""

    def __init__(self, graph: CUDAGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in BY_MASK:
            reads = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
        else:
            reads = any(tag in func.tags for tag in READS)
        assert not reads, f"{func} reads a value in a capture"
        out = func(*args, **kwargs)
        self.graph.note(func, args, kwargs, out)
        return out


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


@contextmanager
def graphs(monkeypatch: Any):
    """Within, `Execution("cpu", graph=True)` is allowed; yields the graphs that were captured."""
    made: list[CUDAGraph] = []

    def new() -> CUDAGraph:
        made.append(CUDAGraph())
        return made[-1]

    with monkeypatch.context() as m:
        m.setattr(engine.Execution, "resolve", lambda self: self)
        m.setattr(pixels, "may_look", lambda x: False)  # as on a GPU
        m.setattr(torch.cuda, "CUDAGraph", new)
        m.setattr(torch.cuda, "graph", Capture)
        for name in ("Stream", "current_stream"):
            m.setattr(torch.cuda, name, lambda *_: Stream())
        for name in ("stream", "device"):
            m.setattr(torch.cuda, name, lambda *_: nullcontext())
        yield made


class Watched(TorchDispatchMode):
    """Changes nothing. Under any such mode autograd adds some gradients in another order."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def eager(monkeypatch: Any):
    """Within, a step with `graph=True` runs eagerly, its sums in the order of a capture."""
    def plain(function: Any, task: engine.Task) -> Any:
        shapes: list[Any] = []

        def step(*inputs: torch.Tensor) -> torch.Tensor:
            shapes.append([x.shape for x in inputs])
            as_captured = (shapes[-1] == shapes[0]
                           and shapes.count(shapes[0]) > plain.WARM_UP)
            with Watched() if as_captured else nullcontext():
                return function(*inputs)
        return step

    plain.WARM_UP = engine.Graphed.WARM_UP
    with monkeypatch.context() as m:
        m.setattr(engine.Execution, "resolve", lambda self: self)
        m.setattr(pixels, "may_look", lambda x: False)  # as on a GPU
        m.setattr(engine, "Graphed", plain)
        yield
