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

import torch
from torch import Tensor

from ..kernels import objectives
from ..kernels.meta_gradient import Quiet
from ..methods import ieg
from ..training import networks
from .timing import Bench, Entry, Unavailable

Route = Callable[["Problem"], object]
MEGABYTE = 1e6


class Problem:
    """A network and made-up batches: weak and strong view, labels; trusted images and
    labels.

    WRN-28-2 and 100 images of 32 x 32 on a GPU, WRN-16-2 and 32 images on a CPU;
    float32.
    """

    def __init__(self, bench: Bench) -> None:
        name, n = ("wrn28-2", 100) if bench.cuda else ("wrn16-2",
                                                       bench.scaled(32, least=2))
        draws = torch.Generator().manual_seed(0)
        x, x_s, x_t = (torch.randn(n, 3, 32, 32, generator=draws).to(bench.device)
                       for _ in range(3))
        y, y_t = (objectives.one_hot(torch.randint(10, (n,), generator=draws),
                                     10).float().to(bench.device) for _ in range(2))
        self.x, self.x_s, self.x_t, self.y, self.y_t = x, x_s, x_t, y, y_t
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
    omega = torch.full((n,), 1 / n, device=z.device, dtype=z.dtype, requires_grad=True)
    share = torch.full((n,), s.lambda_0, device=z.device, dtype=z.dtype,
                       requires_grad=True)
    mixed = share[:, None] * p.y + (1 - share[:, None]) * g
    inner = (omega * objectives.soft_cross_entropy(z, mixed, "none")).sum()
    grads = torch.autograd.grad(inner, list(p.quiet.weights.values()),
                                create_graph=True)
    ahead = {k: w - s.look * (d + s.weight_decay * w + s.look_momentum * p.momentum[k])
             for (k, w), d in zip(p.quiet.weights.items(), grads, strict=True)}
    outer = objectives.soft_cross_entropy(p.quiet(p.x_t, ahead), p.y_t)
    decay = sum((w.square().sum() for w in ahead.values()), torch.zeros_like(outer))
    return torch.autograd.grad(outer + s.weight_decay / 2 * decay, (omega, share))


# -------------------------------------------------------------------------- the entries


def milliseconds(bench: Bench, route: Route) -> Callable[[], float]:
    p = Problem(bench)
    seconds = bench.repeated(partial(route, p))
    return lambda: 1e3 * seconds()


def megabytes(bench: Bench, route: Route) -> Callable[[], float]:
    p = Problem(bench)
    route(p)
    return lambda: peak_bytes(partial(route, p), bench.device) / MEGABYTE


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes allocated at once by `call`, beyond those held before it began."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    results = getattr(seen.profiler, "kineto_results", None)
    events = [e for e in results.events() if e.name() == "[memory]"] if results else []
    if not events:
        raise Unavailable("this PyTorch's profiler reports no memory")
    held = most = 0
    for e in sorted(events, key=lambda e: e.start_ns()):
        held += e.nbytes()
        most = max(most, held)
    return most


ENTRIES = (Entry("meta_shared", "IEG's meta step: what both routes below do", "ms",
                 partial(milliseconds, route=shared)),
           Entry("meta_forward", "the whole meta step by one forward-mode pass (ours)",
                 "ms", partial(milliseconds, route=forward_mode)),
           Entry("meta_double", "the whole meta step by double backward", "ms",
                 partial(milliseconds, route=double_backward)),
           Entry("meta_kept_memory",
                 "memory of the graph that the main loss keeps anyway", "MB",
                 partial(megabytes, route=kept)),
           Entry("meta_forward_memory", "peak memory by one forward-mode pass (ours)",
                 "MB", partial(megabytes, route=forward_mode)),
           Entry("meta_double_memory", "peak memory by double backward", "MB",
                 partial(megabytes, route=double_backward)),
           )
