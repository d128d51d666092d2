"""Which class is taken for which: the class maps and the superclasses of the data
sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import CIFAR100_COARSE
from .kinds import Labels, Needs, checked, known, near

CIFAR100_SUPERCLASS: tuple[int, ...] = CIFAR100_COARSE
"""Superclass (0..19) of each of the 100 fine classes of CIFAR-100, as in its label
files."""

_PAIRS = {
    # truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse (DRPL, IEG,
    # DivideMix)
    "cifar10": {9: 1, 2: 0, 3: 5, 5: 3, 4: 7},
    # ours, no paper has one: digits that look alike; five of ten classes, as in
    # CIFAR-10
    "digits": {7: 1, 9: 4, 3: 8, 5: 6, 2: 7},
}
MAPS = ("digits", "cifar10", "cifar100", "cifar100-blocks")
"""Names that `class_map` knows."""


def class_map(name: str) -> Tensor:
    """The asymmetric map of a dataset: int64 (C,), class -> the class it is taken for.

    "cifar10": truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
    "cifar100": next fine class of the superclass, in circular order (DRPL).
    "cifar100-blocks": next class in blocks of five consecutive ids (MixNN, ELR).
    "digits": 7 -> 1, 9 -> 4, 3 -> 8, 5 -> 6, 2 -> 7, a choice of ours. Raises
    ValueError for another name.
    """
    known(name, MAPS, "class map")
    if name in _PAIRS:
        m = np.arange(10)
        m[list(_PAIRS[name])] = list(_PAIRS[name].values())
        return torch.from_numpy(m)
    if name == "cifar100":
        return torch.from_numpy(cycle(np.array(CIFAR100_SUPERCLASS)))
    return torch.from_numpy(cycle(np.arange(100) // 5))


def superclass_of(y: Labels, coarse: Labels, num_classes: int) -> Tensor:
    """Superclass of each class, int64 (C,), from the labels and superclasses of the
    samples.

    Raises ValueError when a class has no sample or more than one superclass.
    """
    fine = checked(y, num_classes, "y")
    group = checked(coarse, None, "coarse")
    if len(group) != len(fine):
        raise ValueError(f"coarse has {len(group)} labels but y_true has {len(fine)}")
    table = np.full(num_classes, -1)
    table[fine] = group
    if (table < 0).any():
        missing = np.flatnonzero(table < 0)[:5].tolist()
        raise ValueError(
            f"coarse must cover every class, but classes {missing} have no sample")
    if (table[fine] != group).any():
        raise ValueError(
            "coarse must give each class one superclass, but a class has several")
    return torch.from_numpy(table)


def mapped(kind: str, num_classes: int, needs: Needs) -> np.ndarray:
    """The class that each class is taken for, int64 (C,): by `class_map`, else by the
    map of the data set, else the next class of its superclass."""
    mapping, dataset = needs.class_map, needs.dataset
    if mapping is None and dataset in MAPS:
        if dataset == "cifar100" and needs.y is not None and needs.coarse is not None:
            groups(kind, num_classes, needs)  # those of the samples must be its own
        mapping = dataset
    if mapping is None and needs.coarse is not None:
        return cycle(groups(kind, num_classes, needs))
    if mapping is None:
        hint = "" if dataset is None else (
            f"; dataset {dataset!r} has none{near(dataset, MAPS)}")
        raise ValueError(f"noise kind {kind!r} needs a class map: class_map (an array "
                         f"or one of {', '.join(MAPS)}), a dataset of that name, or "
                         f"coarse{hint}")
    m = checked(class_map(mapping) if isinstance(mapping, str) else mapping, None,
                "class_map")
    if len(m) != num_classes or m.max() >= num_classes:
        raise ValueError(f"class_map must have {num_classes} entries in "
                         f"0..{num_classes - 1}, but it has {len(m)} up to {m.max()}")
    return m


def groups(kind: str, num_classes: int, needs: Needs) -> np.ndarray:
    """Superclass of each class, int64 (C,)."""
    official = needs.dataset == "cifar100"
    if needs.coarse is None and not official:
        raise ValueError(
            f"noise kind {kind!r} needs superclasses: coarse, or dataset='cifar100'")
    if needs.coarse is None:
        table = np.array(CIFAR100_SUPERCLASS)
    elif needs.y is None:
        table = checked(needs.coarse, None, "coarse")
    elif official and num_classes == 100:
        # known, also for classes without a sample
        table = np.array(CIFAR100_SUPERCLASS)
        if not np.array_equal(table[needs.y], checked(needs.coarse, None, "coarse")):
            raise ValueError(
                "coarse contradicts the superclasses of dataset 'cifar100'")
    else:
        table = superclass_of(needs.y, needs.coarse, num_classes).numpy()
    if len(table) != num_classes:
        raise ValueError(
            f"superclasses of {len(table)} classes do not fit num_classes "
            f"{num_classes}")
    return table


def cycle(group: np.ndarray) -> np.ndarray:
    """Each class -> the next one of its group, ids sorted, circular."""
    m = np.arange(len(group))
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        m[members] = np.roll(members, -1)
    return m
