"""The loop that public code for noisy labels usually has, written anew to be compared
with ours.

It is our own re-implementation of a common style, not anybody's code: PIL transforms,
one image after another, in the workers of a DataLoader; float32 in PyTorch's default
memory format, eager; the loss read with `.item()` at every step; every sample's loss
stored by a Python loop; at the end of an epoch scikit-learn's Gaussian mixture on these
losses. A second version of the same loop computes in bfloat16, channels last, so that
what precision gains and what structure gains can be told apart. It lives here to be
measured; nothing of the project trains with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import torchvision_guard
from ..training import engine, networks
from . import loops
from .timing import Bench, Entry, Unavailable


class PilImages(Dataset):
    """(transformed image, label, index) of one image at a time."""

    def __init__(self, data: loops.Images, transform: Callable[[Any], Tensor]) -> None:
        self.pixels = data.x.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.y.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        from PIL import Image

        return self.transform(Image.fromarray(
            self.pixels[index])), self.labels[index], index


def transforms(data: loops.Images, strong: bool = False) -> Callable[[Any], Tensor]:
    """Crop, flip (and RandAugment), to a tensor, normalised: torchvision's on PIL
    images."""
    try:
        import PIL  # noqa: F401

        torchvision_guard.import_torchvision()
        from torchvision import transforms as t
    except ImportError as error:
        raise Unavailable(
            f"needs torchvision and Pillow ({error.name} is not here)") from error
    return t.Compose([
        t.RandomCrop(32, padding=4),
        t.RandomHorizontalFlip(), *([t.RandAugment()] * strong),
        t.ToTensor(),
        t.Normalize(data.mean, data.std)
    ])


def workers(bench: Bench, most: int = 8) -> int:
    """Loader processes: none on a CPU, whose cores the training itself needs."""
    return min(most, os.cpu_count() or 1) if bench.cuda else 0


def loader(data: loops.Images, batch_size: int, count: int, pin: bool, seed: int = 0,
           strong: bool = False) -> DataLoader:
    return DataLoader(PilImages(data, transforms(data, strong)), batch_size,
                      shuffle=True, drop_last=True, num_workers=count, pin_memory=pin,
                      persistent_workers=count > 0,
                      generator=torch.Generator().manual_seed(seed))


def endless(made: DataLoader) -> Iterator[Any]:
    while True:
        yield from made


class Loop:
    """The loop in the common style. `steps(n)` trains n steps, `epoch()` one pass over
    the data.

    Its views come from torch's global generator, as in that style; `steps` and `epoch`
    put its state back when they are done.
    """

    def __init__(self, data: loops.Images, s: engine.Recipe, device: torch.device,
                 num_workers: int, fast: bool = False, seed: int = 0) -> None:
        self.device, self.fast = device, fast
        self.loader = loader(data, s.batch_size, num_workers, device.type == "cuda",
                             seed)
        # batches the workers hold ready while others are timed
        self.prefetched = num_workers * 2
        self.net = networks.build(s.network, loops.CLASSES, seed=seed).to(device)
        if fast:
            # type: ignore[call-overload]
            self.net.to(memory_format=torch.channels_last)
        self.opt = torch.optim.SGD(self.net.parameters(), s.lr, s.momentum,
                                   nesterov=s.nesterov, weight_decay=s.weight_decay)
        self.losses = torch.zeros(len(data.y))
        self.seen = self.right = 0
        self.running = 0.0
        self.stream = endless(self.loader)

    def _step(self, x: Tensor, y: Tensor, index: Tensor) -> None:
        x, y = x.to(self.device), y.to(self.device)
        if self.fast:
            x = x.to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.fast):
            z = self.net(x)
        each = F.cross_entropy(z.float(), y, reduction="none")
        loss = each.mean()
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.running += loss.item()
        self.right += (z.argmax(1) == y).sum().item()
        self.seen += len(y)
        for b in range(len(y)):
            self.losses[index[b]] = each[b].item()

    def steps(self, count: int) -> None:
        with torch.random.fork_rng(devices=[]):
            for x, y, index in islice(self.stream, count):
                self._step(x, y, index)

    def epoch(self, lr: float) -> None:
        for group in self.opt.param_groups:
            group["lr"] = lr
        self.net.train()
        self.steps(len(self.loader))


def reference(bench: Bench, fast: bool = False) -> Callable[[], float]:
    """Milliseconds a step of the common style, its loader running."""
    loop = Loop(loops.images_of_a_round(bench), loops.recipe(bench), bench.device,
                workers(bench), fast)
    loop.steps(bench.warm_up)

    def run() -> float:
        # what was made ready in other rows' time is no part of ours
        loop.steps(loop.prefetched)
        return 1e3 * bench.seconds(lambda: loop.steps(bench.steps)) / bench.steps

    return run


def fit_mixture(losses: Any) -> Any:
    """p(clean) as the common style gets it: scikit-learn, 10 iterations, tolerance
    1e-2."""
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise Unavailable("needs scikit-learn") from error
    low, high = losses.min(), losses.max()
    x = ((losses - low) / (high - low)).reshape(-1, 1)
    fit = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4,
                          random_state=0).fit(x)
    return fit.predict_proba(x)[:, fit.means_.argmin()]


def masks(x: Tensor, f: Tensor, w: Tensor, targets: Tensor, u: Tensor, s: Any
          ) -> tuple[Tensor, Tensor, Tensor]:
    """What `kernels.masks.mask` makes by its defaults, in the common style: a loop over
    the samples in which sizes are tensors, positions are read, channels are filled one
    by one and the label is changed through a boolean index."""
    c, (height, width) = x.shape[1], x.shape[2:]
    plus, minus, changed = x.clone(), x.clone(), targets.clone()
    for i in range(len(x)):
        energy = f[i].square().sum(0)
        a = F.interpolate((energy / energy.norm())[None, None], (height, width),
                          mode="bilinear", align_corners=False).flatten()
        a = (a - a.min()) / (a.max() - a.min() + 1e-12)
        hot = int((a >= 1 - 1e-6).nonzero()[0])
        cold = int((255 * a).floor().argmin())
        m = s.tau_l + (s.tau_h - s.tau_l) * u[i, 0] + s.beta * (1 - w[i])
        aspect = 0.8 + 0.45 * u[i, 1]
        tall = max(1, int(torch.sqrt(s.kappa * m * height * width * aspect).round()))
        wide = max(1, int(torch.sqrt(s.kappa * m * height * width / aspect).round()))
        for copy, at, first in ((plus, hot, 2), (minus, cold, 2 + c)):
            row, column = min(at // width, height - tall), min(at % width, width - wide)
            for k in range(c):
                copy[i, k, row:row + tall, column:column + wide] = u[i,
                                                                     first + k].item()
        top = torch.zeros(targets.shape[1], dtype=torch.bool, device=x.device)
        top[int(targets[i].argmax())] = True
        changed[i][top] -= m
        changed[i][~top] += m / (targets.shape[1] - 1)
    return plus, minus, changed


ENTRIES = (Entry("reference", "common style: PIL image by image, float32, Python loops",
                 "ms/step", reference),
           Entry("reference_fast", "the same loop in bfloat16, channels last",
                 "ms/step", partial(reference, fast=True)),
           )
