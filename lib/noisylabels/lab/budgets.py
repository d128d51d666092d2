"""What a run may cost: the budgets, from seconds on the digits to the published
schedule.

Runs of two budgets are never mixed in one column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """What a budget changes of a method's published recipe, and what its runs keep.

    Attributes:
        recipe: settings that it puts in place of the published ones.
        dataset: what it is made for, where `only` that can be trained on.
        scaled: the schedule is not the published one, so that the method's own
            `scaled(budget, ...)` has a say.
        max_samples: of the training set, unless a setting says otherwise; None: all.
        val_fraction: share kept out for validation, unless a setting says otherwise.
        every: test images are looked at after every so many epochs, and the last ten.
        follows_all: the shares of right answers are those of all training samples, and
            the losses of all after every epoch are kept, in a byte each, of cross
            entropy also the features of six epochs.
    """

    recipe: Mapping[str, Any]
    dataset: str = "cifar10"
    only: bool = False
    scaled: bool = True
    max_samples: int | None = None
    val_fraction: float = 0.1
    every: int = 1
    follows_all: bool = False


_COSINE: dict[str, Any] = dict(schedule="cosine", lr_floor=0.0, milestones=(), drop=0.1)

BUDGETS: dict[str, Budget] = {
    # seconds on one CPU core
    "smoke": Budget(
        dict(network="tiny", epochs=30, batch_size=64, lr=0.05, weight_decay=5e-4,
             period=6, augment="none", **_COSINE),
        dataset="digits", only=True),
    # 10,000 real images, a small network, minutes on one CPU core
    # (without augmentation: only so does a network this small learn wrong labels by
    # heart)
    "laptop": Budget(
        dict(network="small", epochs=20, batch_size=128, lr=0.1, weight_decay=1e-4,
             period=5, precision="bfloat16", augment="none", **_COSINE),
        max_samples=10_000),
    # 10,000 real images, augmented, and a network made for a CPU that learns them by
    # heart: under an hour on a core
    "desk": Budget(
        dict(network="resnet8", epochs=64, batch_size=128, lr=0.1, nesterov=True,
             weight_decay=5e-4, period=8, precision="auto", augment="weak", **_COSINE),
        max_samples=10_000, every=4, follows_all=True),
    # all images, a network that learns fast, about a minute on one GPU
    "fast": Budget(
        dict(network="resnet9", epochs=40, batch_size=128, lr=0.05, weight_decay=5e-4,
             period=8, precision="bfloat16", **_COSINE)),
    # the published schedule
    "paper": Budget(dict(precision="bfloat16"), scaled=False, val_fraction=0.0),
}
