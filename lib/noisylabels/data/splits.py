"""Parts of a train set: trusted, validation, and balanced subsets, all by a seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .sets import Dataset, check_labels


@dataclass(frozen=True, eq=False)
class Split:
    """Three sets of indices into the train set, int64, sorted, disjoint, together all
    of it."""

    train: Tensor
    trusted: Tensor
    val: Tensor


def split(
    y_true: Tensor,
    num_classes: int,
    *,
    trusted_per_class: int = 0,
    val_fraction: float = 0.0,
    seed: int = 0,
) -> Split:
    """Set trusted and validation samples apart from the train set.

    y_true: int64 (N,). trusted: `trusted_per_class` random samples of each true class;
    with the same seed a larger number only adds samples. val: a random `val_fraction`
    of the rest, rounded to whole samples (its labels will be noisy: it stands for what
    a user could hold out). Raises ValueError when a class has too few samples or
    nothing is left to train on.
    """
    check_labels(y_true, num_classes, "y_true")
    if trusted_per_class < 0:
        raise ValueError(
            f"trusted_per_class must be 0 or more, got {trusted_per_class}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), got {val_fraction}")
    y, random = y_true.cpu().numpy(), np.random.RandomState(seed)
    counts = np.bincount(y, minlength=num_classes)
    if trusted_per_class > counts.min():
        raise ValueError(
            f"trusted_per_class {trusted_per_class} is too many: class "
            f"{counts.argmin()} has only {counts.min()} samples")
    trusted = draw(y, np.full(num_classes, trusted_per_class), random)
    rest = np.setdiff1d(np.arange(len(y)), trusted)
    held_out = round(val_fraction * len(rest))
    if held_out == len(rest):
        raise ValueError(
            f"nothing is left to train on: {len(y)} samples, {len(trusted)} of them "
            f"trusted, {held_out} for validation")
    rest = random.permutation(rest)
    return Split(
        train=torch.from_numpy(np.sort(rest[held_out:])),
        trusted=torch.from_numpy(trusted),
        val=torch.from_numpy(np.sort(rest[:held_out])),
    )


def subset(dataset: Dataset, max_samples: int, seed: int = 0) -> tuple[Dataset, Tensor]:
    """The dataset with a random part of its train set, and the sorted indices of that
    part, int64.

    Each class keeps its share of the train set (largest remainder); the test set and
    the normalisation stay. With `max_samples` of N or more all samples stay. Raises
    ValueError when `max_samples` is below the number of classes.
    """
    if max_samples < dataset.num_classes:
        raise ValueError(
            f"max_samples must be at least {dataset.num_classes}, one per class of "
            f"{dataset.name}, got {max_samples}")
    y = dataset.y_train.numpy()
    quota = shares(np.bincount(y, minlength=dataset.num_classes),
                    min(max_samples, len(y)))
    index = torch.from_numpy(draw(y, quota, np.random.RandomState(seed)))
    coarse = dataset.coarse_train
    return dataclasses.replace(
        dataset,
        x_train=dataset.x_train[index],
        y_train=dataset.y_train[index],
        coarse_train=None if coarse is None else coarse[index],
    ), index


def shares(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts` by largest remainder; ties: the
    lower class."""
    whole, rest = np.divmod(counts * total, counts.sum())
    order = np.argsort(-rest, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def draw(y: np.ndarray, quota: np.ndarray,
         random: np.random.RandomState) -> np.ndarray:
    """Sorted indices: of each class the first `quota` samples of a random
    permutation."""
    picked = [
        random.permutation(np.flatnonzero(y == c))[:n] for c, n in enumerate(quota)
    ]
    return np.sort(np.concatenate(picked))
