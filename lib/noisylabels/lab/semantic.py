"""Semantic noise: labels that a network gave which had seen little (IEG's third kind,
from RoG).

A generator network is trained on a small part of the images with their true labels, and
labels all the others by its largest output. Its mistakes are those a classifier makes:
they sit at images that look like another class, and similar images get the same wrong
label. No label is drawn.

In a setting the noise is called `semantic` (the dataset's own small generator) or
`semantic-NETWORK`, such as `semantic-resnet34`, and its rate is the share of labels
that the generator gives: rate 0.95 trains it on 5 % of each class. How many labels are
*wrong* cannot be asked for, only measured; it stands in the record, beside the
generator, its clean fraction and a checksum of the labels. It trains a network, so it
stands here and not in the room `noise`, where it is registered like any other kind.

Source: IEG (Zhang et al., CVPR 2020), slides; RoG (Lee et al., ICML 2019), whose
generators were DenseNet, ResNet and VGG. Their label files were not available, nor were
the clean fractions in the paper's own words; the recipe below is ours. The images that
taught the generator stay in the training set with their true labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import noise, paths
from ..data.datasets import Dataset
from ..kernels import objectives, views
from ..training import engine, networks

NETWORK = {"digits": "tiny", "cifar10": "small", "cifar100": "small"}
"""The generator of `semantic` without a network's name."""
STEPS, BATCH_SIZE, LR, WEIGHT_DECAY = 600, 64, 0.05, 5e-4
FORMAT = 1  # of the cached labels; to be raised when the recipe changes


class Semantic(noise.Kind):
    """The labels of one generator; without a network's name, the data set's own."""

    says = ("labels that a network gave which had learned from a share 1 - r of each "
            "class (IEG's semantic noise, from RoG)")

    def __init__(self, network: str = "") -> None:
        self.network = network
        self.name = f"semantic-{network}" if network else "semantic"

    def fits(self, dataset: str) -> bool:
        """The tiny network is made for the digits, the others for CIFAR."""
        return dataset in NETWORK and (
            not self.network or (self.network == "tiny") == (dataset == "digits"))

    def check(self, dataset: str, rate: float) -> None:
        if rate == 1:
            raise ValueError(
                f"noise {self.name!r} needs clean samples to learn from: its rate must "
                "lie in [0, 1).")

    def make(self, samples: noise.Samples, rate: float, seed: int,
             execution: engine.Execution | None = None) -> noise.NoisyLabels:
        y, note = labels(samples.data, samples.index, self.name, rate, seed, execution)
        return samples.labels(self, rate, y, seed, note=note)


for _kind in (KINDS := tuple(map(Semantic, ("", *networks.NAMES)))):
    noise.register(_kind)


def kinds(dataset: str) -> tuple[str, ...]:
    """The noise names of a dataset: `semantic` and one a network that fits its
    images."""
    return tuple(k.name for k in KINDS if k.fits(dataset))


def is_semantic(kind: str) -> bool:
    """Whether a setting's noise has this room's names."""
    return kind in [k.name for k in KINDS]


def taught(y_true: Tensor, rate: float, num_classes: int, seed: int) -> Tensor:
    """bool (N,): the samples that teach the generator, 1 - rate of each class, at least
    one.

    Raises ValueError for a rate outside [0, 1) or a class without a sample.
    """
    if not 0 <= rate < 1:
        raise ValueError(
            "semantic noise needs clean samples to learn from: its rate, the share "
            f"of labels that the network gives, must lie in [0, 1), not {rate}.")
    counts = torch.bincount(y_true, minlength=num_classes)
    if not counts.all():
        raise ValueError(
            f"no sample of class {int(counts.argmin())} is left to teach the "
            "generator of semantic noise.")
    rng = np.random.default_rng(seed)
    out = torch.zeros(len(y_true), dtype=torch.bool)
    for c in range(num_classes):
        mine = (y_true == c).nonzero()[:, 0]
        keep = max(1, round((1 - rate) * len(mine)))
        out[mine[torch.from_numpy(rng.permutation(len(mine))[:keep])]] = True
    return out


def labels(data: Dataset, index: Tensor, kind: str, rate: float, seed: int,
           execution: engine.Execution | None = None) -> tuple[Tensor, str]:
    """The given labels int64 (N,) of the training images `index` (N,), and a note for
    the record.

    They are kept in data/cache under a checksum of images, labels and settings: the
    generator is trained once on a machine (on another device it may give a few images
    another label). Raises ValueError for a noise or a rate that there is not.
    """
    if kind not in kinds(data.name):
        raise ValueError(
            f"unknown generator {kind!r}; allowed: {', '.join(kinds(data.name))}.")
    network = kind.removeprefix("semantic").lstrip("-") or NETWORK[data.name]
    y_true = data.y_train[index]
    clean = taught(y_true, rate, data.num_classes, seed)
    if clean.all():
        return y_true.clone(), "no label was given by a network"
    what = [FORMAT, data.name, network, rate, seed, STEPS, BATCH_SIZE, LR, WEIGHT_DECAY]
    images = data.x_train[index]
    key = hashlib.sha256(json.dumps(what).encode())
    for part in (images, y_true):
        key.update(part.numpy().tobytes())
    file = paths.cache_dir() / "semantic" / f"{key.hexdigest()[:16]}.npz"
    given = _cached(file, len(y_true))
    if given is None:
        guess = predict(data, images, y_true, clean, network, seed, execution)
        given = torch.where(clean, y_true, guess)
        _keep(file, given)
    return given, note(network, rate, y_true, given, clean)


def note(network: str, rate: float, y_true: Tensor, given: Tensor,
         clean: Tensor) -> str:
    """What a record says about the generator and its labels."""
    theirs = ~clean
    wrong = float((given != y_true)[theirs].float().mean())
    told = hashlib.sha256(given.numpy().tobytes()).hexdigest()[:8]
    return (f"generator {network}, clean fraction {1 - rate:.4g} "
            f"({int(clean.sum())} samples), wrong on {wrong:.4f} of the "
            f"{int(theirs.sum())} it labelled, checksum {told}")


def predict(data: Dataset, images: Tensor, y_true: Tensor, clean: Tensor, network: str,
            seed: int, execution: engine.Execution | None = None) -> Tensor:
    """The generator's label int64 (N,) for every image, after training on the `clean`
    ones.

    images: uint8 (N, C, H, W). Cross entropy, SGD, a cosine over `STEPS` steps, the
    usual crop and flip; the same draws for the same seed.
    """
    execution = (execution or engine.Execution()).resolve()
    # a short training is not worth compiling
    execution = engine.Execution(execution.device)
    device = torch.device(execution.device)
    few = clean.nonzero()[:, 0]
    batch_size = min(BATCH_SIZE, len(few))
    epochs = -(-STEPS // (len(few) // batch_size))
    recipe = engine.Recipe(network=network, epochs=epochs, batch_size=batch_size, lr=LR,
                           schedule="cosine", lr_floor=0.0, weight_decay=WEIGHT_DECAY)
    weak = views.Weak(pad=data.pad, flip=data.flip)
    task = engine.Task(images=images[few].to(device), y_given=y_true[few].to(device),
                       num_classes=data.num_classes, mean=data.mean, std=data.std,
                       weak=weak, strong=weak, seed=seed, execution=execution)
    # never the network that is trained later
    net, opt = engine.start(recipe, task, salt=7)

    @engine.step(opt, task)
    def step(i: Tensor, x: Tensor) -> Tensor:
        return objectives.cross_entropy(net(x), task.y_given[i])

    for epoch in range(1, epochs + 1):
        engine.set_lr(opt, recipe.lr_at(epoch))
        # batch-norm needs whole batches
        for i, x in task.batches(batch_size, drop_last=True):
            step(i, x)
    guess = [engine.outputs(net, task, x.to(device))[0].argmax(1).cpu()
             for x in images.split(10_000)]
    return torch.cat(guess)


def _cached(file: Any, count: int) -> Tensor | None:
    """Labels that were kept, or None; a file that cannot be read is made anew."""
    try:
        with np.load(file) as kept:
            given = torch.from_numpy(kept["given"].astype(np.int64))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return given if len(given) == count else None


def _keep(file: Any, given: Tensor) -> None:
    """Write the labels whole or not at all; a full disk costs only the next
    training."""
    temporary = file.with_name(f".{file.stem}-{uuid.uuid4().hex[:6]}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(temporary, given=given.numpy().astype(np.int16))
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
