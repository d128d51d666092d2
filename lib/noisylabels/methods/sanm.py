"""SANM (Tu et al., CVPR 2023): hide what the network looks at, by label quality, and rebuild it.

Self-supervised Adversarial Noisy Masking plugs into a host (here DivideMix, cross entropy or ELR).
A network that learns a wrong label by heart leans on some spot of the image. SANM finds that
spot, paints over it, and takes the same share from the label, more of both the worse the label:

    A_i   = sum_c F_c^2, upsampled to the image         F: last feature map, no gradient      (2.2)
    m_i   = rho_i + beta (1 - w_i),  rho_i ~ U(tau_l, tau_h)      w: p(label right)           (2.3)
    box   = round sqrt(kappa m H W a) x round sqrt(kappa m H W / a),  a ~ U(0.8, 1.25)        (2.4)
    x+    = x with the box at argmax A painted over; x- the same at argmin A
    y~    = y^ - m at its top class, + m / (K - 1) at the others          y^: host's target   (2.5)
    L_rec = mse(dec(enc(x+)), x) + mse(dec(enc(x-)), x)                                       (2.6)
    L     = host on (views, y^) and (x+, y~), (x-, y~)  +  lambda_rec L_rec                   (2.7)

The last line is that of the host DivideMix. The others are our own recipe; there y^ is the given
label, and x- serves L_rec alone:

    L     = soft CE on (x+, y~)  +  lambda_rec L_rec  +  CE on (x, y) or ELR's term on x      (2.9)

All else they have from DivideMix (network, batch, rate, clipped warm-up): what the masks add is
seen against `branches="off"` of the same host, not against the methods `cross_entropy` and `elr`.

Two networks and the schedule are the host's (see `dividemix`). Four training views (AutoAugment
twice, RandAugment with cutout twice), two guessing views, of which the first is masked. With the
views `weak2`, `branches="off"` and `clip=0` nothing but DivideMix is left.

Defaults: the official code (commit e22c42f), with logits, not its double softmax. The paper's text
was not available; where its figure and its users' reports differ from the code (box centred on the
peak, one box, the given label lowered) there is a setting. Not built: the figure's black box
(`fill="zero"` is the mean grey of the data set), the code's colour jitter and affine views in
warm-up (crop and flip serve). (2.2) to (2.9) are the numbers of this docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels import masks, objectives, views
from ..ranges import one_of, within
from ..training import engine, networks
from ..training.networks import Network
from ..training.recorder import Recorder
from . import dividemix


@dataclass(frozen=True)
class Settings(dividemix.Settings):
    """What SANM adds to its host.

    Only the host DivideMix reads tau, temperature, mix_alpha, lambda_u, ramp and views, and tells
    `refined` from `given`.

    Args:
        tau_l, tau_h, beta, kappa: of the mask ratio (2.3) and of the box (2.4).
        branches: `max+min` (two masked copies), `max`, `random` (two boxes anywhere), `plain` (two
            copies unmasked: the label alone changes) or `off` (no copies).
        anchor: the peak is the box's top left corner (code) or its centre (paper); fill: a random
            light grey or colour in normalised units (code) or zero, which is the mean grey.
        modulate: the host's `refined` target, the `given` label, or `none`. clip_targets: no
            negative entries. lambda_rec: weight of L_rec, 0 without decoder.
        views: see above. shear: AutoAugment's, `bicubic` at the `paper` budget (code), else by the
            nearest pixel. head: `probs` repeats the released code's double softmax.
        elr_beta, elr_lam: of the host ELR.
    """

    epochs: int = 361
    clip: float = 1.0
    tau_l: float = within("[0, 1]", 0.02)
    tau_h: float = within("[0, 1]", 0.07)
    beta: float = within("[0, 1]", 0.03)
    kappa: float = within("[0, 100]", 0.5)
    branches: str = one_of("max+min", "max", "random", "plain", "off")
    anchor: str = one_of("topleft", "center")
    fill: str = one_of("random", "zero")
    modulate: str = one_of("refined", "given", "none")
    clip_targets: bool = False
    lambda_rec: float = within("[0, 1000]", 0.02)
    views: str = one_of("strong4", "weak2")
    host: str = one_of("dividemix", "cross_entropy", "elr")
    head: str = one_of("logits", "probs")
    elr_beta: float = within("[0, 1]", 0.7)
    elr_lam: float = within("[0, 1000]", 3.0)
    shear: str = one_of("nearest", "bicubic", later=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau_l > self.tau_h:
            raise ValueError(f"tau_l ({self.tau_l:g}) must not exceed tau_h ({self.tau_h:g}).")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The host's table, the code's 20 warm-up epochs on CIFAR-100; ELR's own two numbers."""
    elr = ({"elr_beta": 0.9, "elr_lam": 7.0} if dataset == "cifar100" else
           {"elr_beta": 0.9, "elr_lam": 1.0} if dividemix.one_way(noise) else {})
    return {**dividemix.published(dataset, noise, rate), **elr,
            "warm_up": 20 if dataset == "cifar100" else 10, "shear": "bicubic"}


def scaled(budget: str, dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """DivideMix's short schedules; shorter on a laptop, where an epoch costs three of its own.

    There the ramp stays DivideMix's 4 epochs, and only 4 follow the warm-up: the weight of the
    unlabelled loss is at three quarters when the last one begins and full only at its end.
    """
    return {**dividemix.scaled(budget, dataset, noise, rate), "shear": "nearest",
            **({"epochs": 8} if budget == "laptop" else {})}


total_epochs = dividemix.total_epochs


def check_data(s: Settings, samples: int, channels: int, pixels: int) -> None:
    """Refuse too few samples for the host, and images that the decoder does not rebuild."""
    if s.host == "dividemix":
        dividemix.check_data(s, samples, channels, pixels)
    if s.lambda_rec and s.branches != "off" and (
            side := networks.rebuilt(s.network, pixels)) != pixels:
        raise ValueError(f"SANM's decoder of network {s.network!r} makes {side}x{side} pixels of "
                         f"images of {pixels}x{pixels}; take another network, or lambda_rec=0.")


def mask(x: Tensor, f: Tensor, w: Tensor, targets: Tensor, u: Tensor, s: Settings
         ) -> tuple[Tensor, Tensor, Tensor]:
    """(x+, x-, y~) of `kernels.masks.mask`, which has the shapes, by these settings."""
    plus, minus, changed = masks.mask(
        x, f, w, targets, u, tau_l=s.tau_l, tau_h=s.tau_h, beta=s.beta, kappa=s.kappa,
        at_random=s.branches == "random", centred=s.anchor == "center",
        grey=s.fill == "zero", clip=s.clip_targets)
    if s.branches == "plain":  # the label alone changes
        plus = minus = x
    if s.modulate == "none":  # the image alone changes
        changed = targets
    return plus, minus, changed


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    draws, channels = task.rng("dividemix"), task.images.shape[1]
    auto = views.Chain((task.weak, views.AutoAugment.sanm(s.shear)))
    wanted = ((auto, auto, task.strong, task.strong, auto, auto) if s.views == "strong4"
              else (task.weak, task.weak))
    decoders = [networks.decoder(s.network, channels, seed=task.seed + 7 + k).to(task.device)
                for k in (0, 1)] if s.lambda_rec and s.branches != "off" else []

    def see(net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        """Last map and prediction, without gradient."""
        with torch.no_grad():
            f = net.maps(x)
            return f, net.head(net.pool(f)).float().softmax(1)

    def masked(x, f, w, targets):
        u = torch.rand(len(x), 4 + 2 * channels, generator=draws, device=x.device)
        plus, minus, changed = mask(x, f, w, targets, u, s)
        return [plus] if s.branches == "max" else [plus, minus], changed

    def rebuild(net, decoder, x, copies):
        again = decoder(net.maps(torch.cat(copies))).float().split(len(x))
        return sum(F.mse_loss(a, x) for a in again)                                    # (2.6)

    def step_for(k, nets, optimiser, lambda_u):
        net, peer = nets[k], nets[1 - k]
        if decoders:
            optimiser.add_param_group({"params": list(decoders[k].parameters())})

        @engine.step(optimiser, task)
        def step(y, w, w_u, *seen):
            x, v = list(seen[:len(seen) // 2]), list(seen[len(seen) // 2:])
            (x1, x2), (v1, v2) = x[-2:], v[-2:]  # the guessing views
            x, v = (x[:4], v[:4]) if s.views == "strong4" else (x, v)
            (f_u, p1), (_, p2), (_, p3), (_, p4) = (
                see(a, b) for a in (net, peer) for b in (v1, v2))
            (f_x, q1), (_, q2) = see(net, x1), see(net, x2)
            t_u = objectives.sharpen((p1 + p2 + p3 + p4) / 4, s.temperature)
            t_x = dividemix.refine(w, y, (q1 + q2) / 2, s.temperature)
            rows, targets, extra = x + v, [t_x] * len(x) + [t_u] * len(v), 0.0
            if s.branches != "off":
                whole, f = torch.cat([x1, v1]), torch.cat([f_x, f_u])
                base = torch.cat([y if s.modulate == "given" else t_x, t_u])
                copies, changed = masked(whole, f, torch.cat([w, w_u]), base)
                if decoders:
                    extra = s.lambda_rec * rebuild(net, decoders[k], whole, copies)
                b, n = len(w), len(copies)
                rows = x + [c[:b] for c in copies] + v + [c[b:] for c in copies]
                targets = ([t_x] * len(x) + [changed[:b]] * n
                           + [t_u] * len(v) + [changed[b:]] * n)
            labelled = len(rows) // 2 * len(w)
            return extra + dividemix.mixmatch_loss(net, torch.cat(rows), torch.cat(targets),
                                                   labelled, lambda_u, s, draws)

        return step

    if s.host == "dividemix":
        started = [start(s, task, k) for k in (0, 1)]
        return dividemix.co_train(task, s, log, started, step_for, wanted, tuple(decoders))
    return one_network(task, s, log, decoders, see, masked, rebuild)


def start(s: Settings, task: engine.Task, salt: int = 0) -> dividemix.Started:
    """Network and optimiser; with `head="probs"` its outputs are probabilities, not logits.

    All that follows takes them for logits and applies softmax once more, as the released code.
    """
    net, optimiser = engine.start(s, task, salt=salt)
    if s.head == "probs":
        logits = net.head
        net.head = lambda features: logits(features).float().softmax(1)  # type: ignore
    return net, optimiser


def one_network(task, s, log, decoders, see, masked, rebuild) -> Network:
    """The hosts cross entropy and ELR (2.9): one network, masks after the warm-up.

    As in DivideMix the gradient is clipped, and entropy penalised, in the warm-up alone.
    """
    net, opt = start(s, task)
    if decoders:
        opt.add_param_group({"params": list(decoders[0].parameters())})
    memory = torch.zeros(len(task), task.num_classes, device=task.device)
    w = torch.ones(len(task), device=task.device)
    history = torch.zeros(s.loss_history, len(task), device=task.device)
    given = objectives.one_hot(task.y_given, task.num_classes).float()

    def step_of(warm: bool):
        @engine.step(opt, task, clip=s.clip if warm and s.clip else None)
        def step(i, x):
            z = net(x)
            loss = (dividemix.warm_up_loss(z, task.y_given[i], s) if warm else
                    objectives.cross_entropy(z, task.y_given[i]))
            if not warm and s.branches != "off":
                f, _ = see(net, x)
                copies, changed = masked(x, f, w[i], given[i])
                on_mask = objectives.soft_cross_entropy(net(copies[0]), changed)
                loss = on_mask + (loss if s.host == "cross_entropy" else 0.0)
                if decoders:
                    loss = loss + s.lambda_rec * rebuild(net, decoders[0], x, copies)
            if s.host == "elr":
                p = z.float().softmax(1)
                rows = objectives.elr_update(memory[i], p, s.elr_beta)
                memory.index_copy_(0, i, rows)
                loss = loss + s.elr_lam * objectives.elr_term(rows, p)
            return loss
        return step

    warm_step, step = step_of(True), step_of(False)
    for epoch in log.epochs(s.epochs, net, opt, memory, w, history, *decoders[:1]):
        engine.set_lr(opt, s.lr_at(epoch))
        if epoch > s.warm_up:
            w.copy_(dividemix.clean_probability(net, task, history, epoch - s.warm_up - 1)[0])
            log.p_clean(w)
        for i, x in task.batches(2 * s.batch_size):
            log.loss((step if epoch > s.warm_up else warm_step)(i, x))
    return net
