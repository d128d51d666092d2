"""IEG's meta step: one forward-mode pass against double backward, in time and in peak
memory.

Both routes need the gradient of the trial step, the guess's passes, and the gradient of
the trusted loss: `meta_shared`. What is left of each after taking that off is its
meta-gradient. Its memory is the most that was allocated at once, less
`meta_kept_memory`: the graph of the noisy batch's logits, which the training step keeps
for the main loss whatever the route.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from ..kernels import objectives
from ..kernels.meta_gradient import Quiet
from ..methods import ieg
from ..training import networks
from .timing import Bench, Call, Entry, Round


class Problem:
    """A network and made-up batches: weak and strong view, labels; trusted images and
    labels.

    WRN-28-2 and 100 images of 32 x 32 on a GPU, WRN-16-2 and 32 images on a CPU;
    float32.
    """

    def __init__(self, bench: Bench) -> None:
        name, n = ("wrn28-2", 100) if bench.cuda else ("wrn16-2",
                                                       bench.scaled(32, least=2))
        self.x, self.x_s, self.x_t = bench.normal(3, n, 3, 32, 32)
        every = torch.arange(2 * n, device=bench.device) * 7 % 10
        self.y, self.y_t = objectives.one_hot(every, 10).float().chunk(2)
        self.s = ieg.Settings()
        self.quiet = Quiet(networks.build(name, 10).to(bench.device))
        self.momentum = {k: torch.zeros_like(w) for k, w in self.quiet.weights.items()}

    def guess(self) -> tuple[Tensor, Tensor]:
        """Logits of the weak view with their graph, and the pseudo-label."""
        z = self.quiet(self.x)
        with torch.no_grad():
            return z, ieg.pseudo_label(z, self.quiet(self.x_s), self.s)


def shared(p: Problem) -> None:
    """What both routes do."""
    z, g = p.guess()
    weights = list(p.quiet.weights.values())
    mixed = p.s.lambda_0 * p.y + (1 - p.s.lambda_0) * g
    torch.autograd.grad(objectives.soft_cross_entropy(z, mixed), weights)
    torch.autograd.grad(objectives.soft_cross_entropy(p.quiet(p.x_t), p.y_t), weights)


def kept(p: Problem) -> Tensor:
    """The logits of the weak view, with their graph."""
    return p.quiet(p.x)


def forward_mode(p: Problem) -> tuple[Tensor, Tensor]:
    """d omega, d lambda (B,) as IEG trains with them."""
    z, g = p.guess()
    return ieg.meta_gradients(p.quiet, p.momentum, z, p.x, p.x_s, p.y, g, p.x_t, p.y_t,
                              p.s)


def double_backward(p: Problem) -> tuple[Tensor, ...]:
    """The same by differentiating through the trial step."""
    z, g = p.guess()
    s, n = p.s, len(z)
    omega, share = (z.new_full((n,), v, requires_grad=True)
                    for v in (1 / n, s.lambda_0))
    mixed = share[:, None] * p.y + (1 - share[:, None]) * g
    inner = (omega * objectives.soft_cross_entropy(z, mixed, "none")).sum()
    grads = torch.autograd.grad(inner, list(p.quiet.weights.values()),
                                create_graph=True)
    ahead = {k: w - s.look * (d + s.weight_decay * w + s.look_momentum * p.momentum[k])
             for (k, w), d in zip(p.quiet.weights.items(), grads, strict=True)}
    outer = objectives.soft_cross_entropy(p.quiet(p.x_t, ahead), p.y_t)
    decay = torch.stack([w.square().sum() for w in ahead.values()]).sum()
    return torch.autograd.grad(outer + s.weight_decay / 2 * decay, (omega, share))


# -------------------------------------------------------------------------- the entries


def built(bench: Bench, route: Callable[[Problem], object], unit: str) -> Round | Call:
    """The route to be timed, or a round that gives its peak memory in MB."""
    call = partial(route, Problem(bench))
    if unit == "ms":
        return call, 1
    call()
    return lambda: peak_bytes(call, bench.device) / 1e6


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes allocated at once by `call`, beyond those held before it began."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as seen:
        call()
    found = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((e.start_ns(), e.nbytes()) for e in found if e.name() == "[memory]")
    return max(accumulate(n for _, n in events))


ENTRIES = [
    Entry(name, what, unit, partial(built, route=route, unit=unit))
    for name, unit, route, what in (
        ("meta_shared", "ms", shared, "IEG's meta step: what both routes below do"),
        ("meta_forward", "ms", forward_mode,
         "the whole meta step by one forward-mode pass (ours)"),
        ("meta_double", "ms", double_backward,
         "the whole meta step by double backward"),
        ("meta_kept_memory", "MB", kept,
         "memory of the graph that the main loss keeps anyway"),
        ("meta_forward_memory", "MB", forward_mode,
         "peak memory by one forward-mode pass (ours)"),
        ("meta_double_memory", "MB", double_backward,
         "peak memory by double backward"))]
