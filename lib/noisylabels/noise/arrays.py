"""Noise on plain arrays, without a data set: `corrupt`, and what to expect of it."""

from __future__ import annotations

import torch
from torch import Tensor

from .kinds import Labels, Matrix, Needs, NoisyLabels, checked, drawn


def corrupt(
    y_true: Labels,
    kind: str,
    rate: float | None,
    num_classes: int,
    seed: int | None = None,
    *,
    dataset: str | None = None,
    class_map: str | Labels | None = None,
    coarse: Labels | None = None,
    matrix: Matrix | None = None,
    source_labels: Labels | None = None,
    source_count: int | None = None,
    y_human: Labels | None = None,
    y_ready: Labels | None = None,
    note: str = "",
) -> NoisyLabels:
    """Draw noisy labels of one of `KINDS`.

    y_true: (N,) integers below `num_classes`, numpy or torch. rate: in [0, 1], as the
    kind defines it (`expected_rate` gives the share of wrong labels); None or 0 for
    "none"; None or 1 (all) or 0 for "human" and "given". seed: explicit for every kind
    that draws; only the official draws take None for their own. Arguments that a kind
    does not need are ignored:

    class_map: (C,) integers or a name of `MAPS`. Without it `dataset` (a name of
        `MAPS`) says the map, without that `coarse`, the superclass of each sample (N,):
        then a class goes to the next one of its superclass, in circular order.
    matrix: counts or probabilities, rows = true class, columns = predicted class; (C,
        C) for "confusion", (source classes, C) for "ood-confusion". The 1e-5 added to
        it is nothing to counts and much to small probabilities: say in `note` which it
        was.
    source_labels, source_count: classes of the source dataset's images, or just their
        number.
    y_human, y_ready: (N,) labels; `note` says where they come from, y_ready requires
        it.

    Raises ValueError for an unknown kind, a rate outside [0, 1], labels or maps that do
    not fit num_classes, and missing needs.
    """
    found, y = drawn(kind), checked(y_true, num_classes, "y_true")
    return found.draw(y, rate, num_classes, seed, Needs(
        dataset, class_map, coarse, matrix, source_labels, source_count, y_human,
        y_ready, note))


def flips(
    kind: str,
    num_classes: int,
    *,
    dataset: str | None = None,
    class_map: str | Labels | None = None,
    coarse: Labels | None = None,
    matrix: Matrix | None = None,
) -> Tensor:
    """float64 (C, C): row c is the distribution of a chosen sample's new label, true
    class c.

    coarse is here the superclass of each class (C,), see `superclass_of`; the other
    arguments are those of `corrupt`. Raises ValueError for "human" and "given", whose
    labels follow no matrix.
    """
    needs = Needs(dataset, class_map, coarse, matrix)
    return torch.from_numpy(drawn(kind).matrix(num_classes, needs))


def expected_transition(kind: str, rate: float, num_classes: int, **needs) -> Tensor:
    """float64 (C, C): (1 - r) I + r T with T from `flips`, whose keywords it takes."""
    t = flips(kind, num_classes, **needs)
    r = drawn(kind).share(rate)
    return (1 - r) * torch.eye(num_classes, dtype=torch.float64) + r * t


def expected_rate(kind: str, rate: float, num_classes: int, **needs) -> float | None:
    """Expected share of wrong samples when all classes are equally large; keywords as
    in `flips`.

    "symmetric" 0.8 is 0.72 with 10 classes and 0.792 with 100; out-of-distribution
    noise counts replaced images. None for "human" and "given": theirs can only be
    measured.
    """
    return drawn(kind).expected_rate(rate, num_classes, Needs(**needs))
