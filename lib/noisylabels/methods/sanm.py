"""SANM (Tu et al., CVPR 2023): hide what the network looks at, rebuild it.

Self-supervised Adversarial Noisy Masking plugs into a host: here DivideMix,
cross entropy or ELR. A network that learns a wrong label by heart leans on
some spot of the image. SANM finds that spot, paints over it, and takes the
same share from the label, more of both the worse the label. Numbers are the
paper's for that step:

    A_i   = sum_c F_c^2, upsampled to the image; F: last feature map
    m_i   = rho_i + beta (1 - w_i),  rho_i ~ U(tau_l, tau_h),
            w: p(label right)                                          Eq. (2)
    box   = round sqrt(kappa m H W a) x round sqrt(kappa m H W / a),
            a ~ U(0.8, 1.25)                                           Eq. (4)
    x+    = x with the box at argmax A painted over;
            x- the same at argmin A                                    Eq. (5)
    y~    = y^ - m at its top class, + m / (K - 1) at the others,
            y^: the host's target                                      Eq. (7)
    L     = host on (views, y^), (x+, y~), (x-, y~)
            + lambda_rec L_rec                                         Eq. (8)
    L_rec = mse(dec(enc(x+)), x) + mse(dec(enc(x-)), x)               Eq. (10)

The mask is a constant: no gradient flows through F. Masks and labels are made
by `kernels.masks`. Eq. (8) stands for the host DivideMix. The others are our
own recipe; there y^ is the given label, and x- serves L_rec alone:

    L     = soft CE on (x+, y~)  +  lambda_rec L_rec
            + CE on (x, y), or ELR's term on x

All else they have from DivideMix (network, batch, rate, clipped warm-up):
what the masks add is seen against `branches="off"` of the same host, not
against the methods `cross_entropy` and `elr`.

Two networks and the schedule are the host's (see `dividemix`). Four training
views (AutoAugment twice, RandAugment with cutout twice), two guessing views,
of which the first is masked. With the views `weak2`, `branches="off"` and
`clip=0` nothing but DivideMix is left.

Defaults: the official code (commit e22c42f), with logits, not its double
softmax. The paper's text was not available, and its Eq. (2) is simpler than
the code's; where its figure and its users' reports differ from the code (box
centred on the peak, one box, the given label lowered) there is a setting. Not
built: the figure's black box (`fill="zero"` is the mean grey of the data
set), the code's colour jitter and affine views in warm-up (crop and flip
serve).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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

    Only the host DivideMix reads tau, temperature, mix_alpha, lambda_u, ramp
    and views, and tells `refined` from `given`.

    Args:
        tau_l, tau_h, beta: of m, Eq. (2); kappa: of the box, Eq. (4).
        branches: `max+min` (two masked copies), `max`, `random` (two boxes
            anywhere), `plain` (two copies unmasked: the label alone changes)
            or `off` (no copies).
        anchor: the peak is the box's top left corner (code) or its centre
            (paper).
        fill: a random light grey or colour in normalised units (code) or
            zero, which is the mean grey.
        modulate: the host's `refined` target, the `given` label, or `none`.
        clip_targets: no negative entries.
        lambda_rec: weight of L_rec, 0 without decoder.
        views: see above. shear: AutoAugment's, `bicubic` at the `paper`
            budget (code), else by the nearest pixel.
        head: `probs` repeats the released code's double softmax.
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
            raise ValueError(f"tau_l ({self.tau_l:g}) must not exceed tau_h "
                             f"({self.tau_h:g}).")


def published(dataset: str, noise: str, rate: float) -> dict[str, Any]:
    """The host's table, the code's warm-up; ELR's own two numbers."""
    elr = ({"elr_beta": 0.9, "elr_lam": 7.0} if dataset == "cifar100" else
           {"elr_beta": 0.9, "elr_lam": 1.0} if dividemix.one_way(noise) else
           {})
    warm_up = 20 if dataset == "cifar100" else 10
    return {**dividemix.published(dataset, noise, rate), **elr,
            "warm_up": warm_up, "shear": "bicubic"}


def scaled(budget: str, dataset: str, noise: str, rate: float
           ) -> dict[str, Any]:
    """DivideMix's short schedules; shorter on a laptop.

    An epoch costs three of DivideMix's. On a laptop the ramp stays its 4
    epochs, and only 4 follow the warm-up: the weight of the unlabelled loss
    is at three quarters when the last one begins and full only at its end.
    """
    shorter = {"epochs": 8} if budget == "laptop" else {}
    return {**dividemix.scaled(budget, dataset, noise, rate),
            "shear": "nearest", **shorter}


total_epochs = dividemix.total_epochs


def check_data(s: Settings, samples: int, channels: int, pixels: int) -> None:
    """Refuse too few samples for the host, and images no decoder rebuilds."""
    if s.host == "dividemix":
        dividemix.check_data(s, samples, channels, pixels)
    if s.lambda_rec and s.branches != "off":
        side = networks.rebuilt(s.network, pixels)
        if side != pixels:
            raise ValueError(
                f"SANM's decoder of network {s.network!r} makes "
                f"{side}x{side} pixels of images of {pixels}x{pixels}; take "
                "another network, or lambda_rec=0.")


def start(s: Settings, task: engine.Task, salt: int = 0) -> dividemix.Started:
    """Network and optimiser; with `head="probs"` it puts out probabilities.

    All that follows takes them for logits and applies softmax once more, as
    the released code.
    """
    net, optimiser = engine.start(s, task, salt=salt)
    if s.head == "probs":
        logits = net.head
        net.head = lambda h: logits(h).float().softmax(1)  # type: ignore
    return net, optimiser


def see(net: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    """F (B, D, h, w), the last map of x, and p (B, K), without gradient.

    One pass gives the host's prediction and the mask's map: the map is free.
    """
    with torch.no_grad():
        f = net.maps(x)
        return f, net.head(net.pool(f)).float().softmax(1)


def mask(x: Tensor, f: Tensor, w: Tensor, targets: Tensor, u: Tensor,
         s: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """(x+, x-, y~) of `kernels.masks.mask`, which has the shapes, by `s`."""
    plus, minus, changed = masks.mask(
        x, f, w, targets, u, tau_l=s.tau_l, tau_h=s.tau_h, beta=s.beta,
        kappa=s.kappa, at_random=s.branches == "random",
        centred=s.anchor == "center", grey=s.fill == "zero",
        clip=s.clip_targets)
    if s.branches == "plain":  # ablation: the label alone changes
        plus = minus = x
    if s.modulate == "none":  # ablation: the image alone changes
        changed = targets
    return plus, minus, changed


def masked(x: Tensor, f: Tensor, w: Tensor, targets: Tensor, s: Settings,
           draws: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """The copies of x to train on, x+ first, and their changed targets y~.

    x (B, C, H, W): images; f (B, D, h, w): maps of them; w (B,): quality of
    their labels; targets y^ (B, K).
    """
    u = torch.rand(len(x), 4 + 2 * x.shape[1], generator=draws,
                   device=x.device)
    plus, minus, changed = mask(x, f, w, targets, u, s)
    return ([plus] if s.branches == "max" else [plus, minus]), changed


def rebuild(net: Network, decoder: nn.Module, x: Tensor,
            copies: list[Tensor]) -> Tensor:
    """L_rec, a scalar: the whole of x (B, C, H, W), not only the hole.

    copies: masked ones, (B, C, H, W) each; one pass for all of them. Squared
    errors are averaged over pixels and channels. Gradients flow into the
    network too: a signal that no label can spoil.
    """
    again = decoder(net.maps(torch.cat(copies))).float().split(len(x))
    return torch.stack([F.mse_loss(a, x) for a in again]).sum()     # Eq. (10)


def train(task: engine.Task, s: Settings, log: Recorder) -> Network:
    # one stream for masks and host: without masks, the draws are DivideMix's
    draws, channels = task.rng("dividemix"), task.images.shape[1]
    auto = views.Chain((task.weak, views.AutoAugment.sanm(s.shear)))
    # the views of each sample in a step; the last two are the guessing ones
    wanted = ((auto, auto, task.strong, task.strong, auto, auto)
              if s.views == "strong4" else (task.weak, task.weak))
    # dec of Eq. (10), one a network: from the last map back to the image, by
    # transposed convolutions with nothing non-linear between them; it is used
    # in training alone
    decoders: list[nn.Module] = []
    if s.lambda_rec and s.branches != "off":
        decoders = [networks.decoder(s.network, channels, seed=task.seed + k)
                    .to(task.device) for k in (7, 8)]
    if s.host != "dividemix":
        return one_network(task, s, log, decoders, draws)

    def step_for(k, nets, optimiser, lambda_u):
        """The step of network k: DivideMix's, with masked copies as rows."""
        net, peer = nets[k], nets[1 - k]
        if decoders:
            own = list(decoders[k].parameters())
            optimiser.add_param_group({"params": own})

        @engine.step(optimiser, task)
        def step(y, w, w_u, *seen):
            """Loss of B labelled samples (X) and B unlabelled ones (U).

            y: given labels of X, one-hot (B, K); w, w_u (B,): quality of X's
            and U's labels by the other network. DivideMix drops w_u, the mask
            needs it. seen: the views of X, then those of U.
            """
            half = len(seen) // 2
            x, v = list(seen[:half]), list(seen[half:])  # of X, of U
            (x1, x2), (v1, v2) = x[-2:], v[-2:]  # the guessing views
            if s.views == "strong4":
                x, v = x[:4], v[:4]  # the training views

            # the host's targets y^, and the maps F of the first guessing view
            (f_u, p1), (_, p2) = see(net, v1), see(net, v2)
            (_, p3), (_, p4) = see(peer, v1), see(peer, v2)
            p_u = (p1 + p2 + p3 + p4) / 4
            t_u = objectives.sharpen(p_u, s.temperature)            # co-guess
            (f_x, q1), (_, q2) = see(net, x1), see(net, x2)
            p_x = (q1 + q2) / 2
            t_x = dividemix.refine(w, y, p_x, s.temperature)       # co-refine
            # one target for each view
            t, t_v = [t_x] * len(x), [t_u] * len(v)
            l_rec: Tensor | float = 0.0

            if s.branches != "off":
                # the first guessing views of X and U together, 2B images:
                # they are masked, and rebuilt from their masked copies
                whole, f = torch.cat([x1, v1]), torch.cat([f_x, f_u])
                quality = torch.cat([w, w_u])  # the worse, the more is masked
                # the code lowers the host's target, the figure the given one
                before = torch.cat([y if s.modulate == "given" else t_x, t_u])
                copies, changed = masked(  # Eq. (2) to (7)
                    whole, f, quality, before, s, draws)
                if decoders:
                    l_rec = rebuild(net, decoders[k], whole, copies)
                b = len(w)
                for copy in copies:  # x+, x-: further views, with target y~
                    x.append(copy[:b])
                    t.append(changed[:b])
                    v.append(copy[b:])
                    t_v.append(changed[b:])

            # all views and copies of X (6B rows by default), then those of
            # U; any row may be any other's partner in mixup
            rows, targets = torch.cat(x + v), torch.cat(t + t_v)
            host = dividemix.mixmatch_loss(
                net, rows, targets, len(x) * len(w), lambda_u, s, draws)
            return s.lambda_rec * l_rec + host                       # Eq. (8)

        return step

    # two networks from different starts; the epochs are DivideMix's, with
    # these steps and views
    started = [start(s, task, k) for k in (0, 1)]
    return dividemix.co_train(task, s, log, started, step_for, wanted,
                              tuple(decoders))


def one_network(task: engine.Task, s: Settings, log: Recorder,
                decoders: list[nn.Module], draws: torch.Generator) -> Network:
    """The hosts cross entropy and ELR: one network, masks after the warm-up.

    Ours: no code shows another host than DivideMix. As there, the gradient is
    clipped, and entropy penalised, in the warm-up alone. w comes from the
    network itself, since there is no other, anew before each epoch.

    Args:
        decoders: of Eq. (10), the first is used; none: no reconstruction.
        draws: the stream of the masks.
    """
    net, opt = start(s, task)
    if decoders:
        opt.add_param_group({"params": list(decoders[0].parameters())})
    given = objectives.one_hot(task.y_given, task.num_classes).float()  # y^
    w = torch.ones(len(task), device=task.device)  # p(label right)
    # scaled losses of the last epochs
    history = torch.zeros(s.loss_history, len(task), device=task.device)
    # ELR's running mean of predictions, (N, K)
    memory = torch.zeros(len(task), task.num_classes, device=task.device)

    def with_elr(loss, i, z):
        """`loss`, with ELR's term on z (B, K), of the unmasked images.

        If ELR is the host. Its memory is updated first, then used.
        """
        if s.host != "elr":
            return loss
        p = z.float().softmax(1)
        rows = objectives.elr_update(memory[i], p, s.elr_beta)
        memory.index_copy_(0, i, rows)
        return loss + s.elr_lam * objectives.elr_term(rows, p)

    @engine.step(opt, task, clip=s.clip or None)
    def warm_step(i, x):
        """As DivideMix's, on plain weak views: no masks, no decoder yet."""
        z = net(x)
        return with_elr(dividemix.warm_up_loss(z, task.y_given[i], s), i, z)

    @engine.step(opt, task)
    def step(i, x):
        """i: the samples' numbers (B,); x: their weak views (B, ...)."""
        z = net(x)
        loss = objectives.cross_entropy(z, task.y_given[i])
        if s.branches != "off":
            f, _ = see(net, x)
            copies, changed = masked(x, f, w[i], given[i], s, draws)
            # the host trains on x+ with y~, Eq. (8); x- serves L_rec alone
            on_mask = objectives.soft_cross_entropy(net(copies[0]), changed)
            # ELR's cross entropy moves to the masked image, CE's is doubled
            loss = on_mask if s.host == "elr" else on_mask + loss
            if decoders:
                l_rec = rebuild(net, decoders[0], x, copies)
                loss = loss + s.lambda_rec * l_rec
        return with_elr(loss, i, z)

    for epoch in log.epochs(s.epochs, net, opt, memory, w, history,
                            *decoders[:1]):
        engine.set_lr(opt, s.lr_at(epoch))
        since = epoch - s.warm_up  # 1: the first epoch with masks
        if since > 0:
            found, _ = dividemix.clean_probability(net, task, history,
                                                   since - 1)
            w.copy_(found)
            log.p_clean(w)
        for i, x in task.batches(2 * s.batch_size):
            log.loss((step if since > 0 else warm_step)(i, x))
    return net
