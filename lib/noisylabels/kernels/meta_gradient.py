"""How a trusted loss would change with the weight and the label share of each sample.

A trial step on a batch takes the network from theta to theta^. How does the loss L_t of
trusted samples at theta^ depend on the weight omega_i and the share lambda_i of its
given label with which each sample took part in that step?

    l_i    = CE(lambda_i y_i + (1 - lambda_i) g_i, z_i)      y given, g guessed label
    theta^ = theta - a [grad sum_i omega_i l_i + wd theta + mu momentum]          (LA)
    v      = grad (mean trusted CE + wd/2 |theta|^2) at theta^
    d L_t / d omega_i  = -a     <grad l_i(theta), v>
    d L_t / d lambda_i = -(a/n) <grad d_i(theta), v>,        d_i = CE(y_i - g_i, z_i)

asked at omega_i = 1/n and lambda_i = lambda_0. theta^ is linear in omega, and in lambda
at fixed omega; so no second derivative is needed. Both inner products are derivatives
*along v* at theta, and one forward-mode pass gives them for all samples, exactly.

Sources: L2R (Ren et al., ICML 2018), where omega starts at 0 and theta^ needs no
gradient; IEG (Zhang et al., CVPR 2020), trial step and numbers as in its code. The
trial step must be plain SGD, with momentum as a constant: neither Adam nor clipping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from .objectives import soft_cross_entropy

Weights = Mapping[str, Tensor]
"""A network's parameters, or one tensor for each, by name."""


class Quiet:
    """A network called with given weights, leaving its running statistics alone.

    In the mode it is in: in train mode batch normalisation uses the batch's statistics,
    and moves copies of the running ones. weights: the network's own, by name.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.weights = dict(net.named_parameters())

    def __call__(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """Outputs for x with these weights (default: the network's own)."""
        buffers = {k: b.clone() for k, b in self.net.named_buffers()}
        return functional_call(self.net, {**(weights or self.weights), **buffers}, (x,))


def momentum_of(optimiser: torch.optim.Optimizer, quiet: Quiet) -> dict[str, Tensor]:
    """The optimiser's momentum buffers by name; zeros before its first step."""
    found = {k: optimiser.state.get(w, {}).get("momentum_buffer")
             for k, w in quiet.weights.items()}
    return {k: torch.zeros_like(quiet.weights[k]) if b is None else b
            for k, b in found.items()}


def look_ahead(weights: Weights, gradient: Weights | None, momentum: Weights, *,
               look: float, look_momentum: float, weight_decay: float
               ) -> dict[str, Tensor]:
    """theta^ of (LA): the weights after the trial step, leaves that require gradients.

    gradient: of sum_i omega_i l_i at `weights`; None: every omega_i is 0. momentum: the
    main optimiser's buffers, constants here. look, look_momentum: a and mu.
    """
    ahead = {}
    with torch.no_grad():
        for k, w in weights.items():
            push = weight_decay * w
            if gradient is not None:
                push = gradient[k] + push
            push = push + look_momentum * momentum[k]
            ahead[k] = w - look * push  # theta^
    return {k: t.requires_grad_() for k, t in ahead.items()}


def trusted_direction(quiet: Quiet, ahead: Weights, x_t: Tensor, y_t: Tensor,
                      weight_decay: float) -> dict[str, Tensor]:
    """v: gradient of the trusted loss at theta^, with its decay term.

    ahead: theta^, as from `look_ahead`. x_t (M, ...): trusted images; y_t (M, C): their
    labels, one-hot.
    """
    trusted = soft_cross_entropy(quiet(x_t, ahead), y_t)
    v = torch.autograd.grad(trusted, list(ahead.values()))
    return {k: d + weight_decay * ahead[k].detach()
            for k, d in zip(ahead, v, strict=True)}


def directional(f: Callable[[Weights], tuple[Tensor, ...]], weights: Weights,
                along: Weights) -> tuple[Tensor, ...]:
    """How fast each output of f changes as the weights move along `along`.

    One forward pass, in which every value carries its change (a dual number).
    Shapes are those of the outputs; no graph is left.
    """
    with torch.no_grad(), forward_ad.dual_level():
        dual = {k: forward_ad.make_dual(w.detach(), along[k])
                for k, w in weights.items()}
        return tuple(forward_ad.unpack_dual(t).tangent for t in f(dual))


@torch.compiler.disable  # the compiler knows no forward mode
def meta_gradients(quiet: Quiet, z: Tensor, x: Tensor, y: Tensor, g: Tensor,
                   x_t: Tensor, y_t: Tensor, *, momentum: Weights | None = None,
                   lambda_0: float = 0.9, look: float = 0.1,
                   look_momentum: float = 0.9, weight_decay: float = 0.0,
                   guess: Callable[[Tensor, Weights], Tensor] | None = None
                   ) -> tuple[Tensor, Tensor]:
    """d L_t / d omega and d L_t / d lambda, (B,) each: negative where more would help.

    The numbers' defaults are IEG's, less its weight decay. No graph is left behind.

    Args:
        quiet: the network. Its running statistics stay as they are.
        z: its logits of x (B, C) with their graph, which is kept for the main loss.
        x: images (B, ...); y: their given labels, one-hot (B, C); g: guesses (B, C).
        x_t, y_t: trusted images (M, ...) and their labels, one-hot (M, C).
        momentum: the main optimiser's, see `momentum_of`; None: zeros.
        lambda_0, look, look_momentum, weight_decay: lambda_0, a, mu and wd above.
        guess: (logits of x, weights) -> g. Where it is given, the guess depends on the
            weights too: g must carry its graph then.
    """
    weights, n = quiet.weights, len(x)
    momentum = momentum or {k: torch.zeros_like(w) for k, w in weights.items()}

    def losses_of(z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        mixed = lambda_0 * y + (1 - lambda_0) * g
        return (soft_cross_entropy(z, mixed, "none"),  # l_i
                soft_cross_entropy(z, y - g, "none"))  # d_i

    def at(theta: Weights) -> tuple[Tensor, Tensor]:
        z = quiet(x, theta)
        return losses_of(z, g if guess is None else guess(z, theta))

    trial = losses_of(z, g)[0].mean()  # every omega_i is 1/n
    slopes = torch.autograd.grad(trial, list(weights.values()), retain_graph=True)
    ahead = look_ahead(weights, dict(zip(weights, slopes, strict=True)), momentum,
                       look=look, look_momentum=look_momentum,
                       weight_decay=weight_decay)  # theta^
    del slopes  # as large as the network
    v = trusted_direction(quiet, ahead, x_t, y_t, weight_decay)
    along_l, along_d = directional(at, weights, v)  # <grad l_i, v>, <grad d_i, v>
    return -look * along_l, -look / n * along_d
