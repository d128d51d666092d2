"""Labels drawn by the rows of a matrix: most kinds of the four papers, each paper's own
definition explicit.

Two choices hide behind "80 % noise". May a redrawn label be the true one? Then
redrawing 80 % of the labels makes 72 % of them wrong with ten classes. Are exactly
floor(rN) labels redrawn, or is a coin tossed for each? The names answer both:
`symmetric` (true class included, exact count), `symmetric-exclusive` (true class
excluded), `...-coin` (a coin per label). `KINDS` says who uses what.

One rule draws them all. A set of samples is chosen, and a chosen sample of class c gets
a label drawn from row c of a matrix T, which is what the kind stands for (`Flips`):

    y_given[i] ~ T[y_true[i], :]  if i is chosen,  else y_true[i]

so the expected transition matrix is (1 - r) I + r T. T always reads the clean labels:
changing an array class by class while reading it sends cats to dogs and some of them
back (24 % of the cats instead of 40 %).

Nothing but the seed steers a draw. At the same seed a larger rate keeps the choices of
a smaller one, and kinds with the same way of counting choose the same samples.

Sources: DRPL (Ortego et al., ICPR 2020), IEG (Zhang et al., CVPR 2020), MixNN (arXiv
2406.16966), SANM (CVPR 2023) and DivideMix (ICLR 2020), each with its official code;
ELR, C2D.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .kinds import Drawn, Needs, NoisyLabels, counts, register, whole_seed
from .maps import cycle, groups, mapped


@dataclass(frozen=True)
class Flips(Drawn):
    """Chosen samples, their labels redrawn by the rows of a matrix.

    rows: the matrix float64 (C, C) of a kind with so many classes. coin: each sample is
    chosen with probability r, else exactly floor(rN) of them.
    """

    rows: Callable[[Drawn, int, Needs], np.ndarray] = lambda kind, c, needs: np.eye(c)
    coin: bool = False

    def matrix(self, num_classes: int, needs: Needs) -> np.ndarray:
        return self.rows(self, num_classes, needs)

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        r = self.share(rate)
        rng = np.random.default_rng(whole_seed(seed))
        if self.coin:
            chosen = rng.random(len(y)) < r
        else:
            chosen = np.zeros(len(y), bool)
            chosen[slots(rng, len(y), r)] = True
        t = self.matrix(num_classes, dataclasses.replace(needs, y=y))
        given = np.where(chosen, pick(t, y, rng.random(len(y))), y)
        return NoisyLabels(self.name, r, num_classes, torch.from_numpy(y.copy()),
                           torch.from_numpy(given), seed, note=needs.note)


@register
@dataclass(frozen=True)
class Clean(Drawn):
    """No noise at all."""

    name: str = "none"
    says: str = "the true labels, unchanged"

    def share(self, rate: float | None) -> float:
        if rate is not None and rate != 0:
            raise ValueError(f"noise kind 'none' takes rate 0 or None, not {rate}")
        return 0.0

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        r, labels = self.share(rate), torch.from_numpy(y.copy())
        return NoisyLabels(self.name, r, num_classes, labels, labels.clone(),
                           note=needs.note)


# ------------------------------------------------------------------------ the matrices


def among_all(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    return np.full((c, c), 1 / c)


def among_others(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    return (1 - np.eye(c)) / (c - 1)


def by_map(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    return np.eye(c)[mapped(kind.name, c, needs)]


def by_blocks(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    if c % 5:
        raise ValueError(
            f"{kind.name!r} needs num_classes to be a multiple of 5, not {c}")
    return np.eye(c)[cycle(np.arange(c) // 5)]


def in_superclass(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    group = groups(kind.name, c, needs)
    t = (group[:, None] == group[None, :]) & ~np.eye(c, dtype=bool)
    lone = ~t.any(1)  # a superclass of one class has no other to go to
    t[lone, lone] = True
    return t / t.sum(1, keepdims=True)


def by_confusion(kind: Drawn, c: int, needs: Needs) -> np.ndarray:
    """DRPL, NU-ID: add 1e-5, normalise rows, drop the diagonal, normalise again."""
    m = counts(kind, needs.matrix, (c, c)) + 1e-5
    m /= m.sum(1, keepdims=True)
    np.fill_diagonal(m, 0)
    return m / m.sum(1, keepdims=True)


# --------------------------------------------------------------------------- the draws


def slots(rng: np.random.Generator, n: int, rate: float) -> np.ndarray:
    """floor(rN) of N samples, in random order; safe against 0.29 * 100 = 28.999..."""
    return rng.permutation(n)[: int(n * rate + 1e-9)]


def pick(rows: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Inverse transform: for each i the first k whose cumulated rows[y[i], :k+1]
    exceeds u[i]."""
    cumulated = rows.cumsum(1)
    cumulated /= cumulated[:, -1:]
    picked = np.empty(len(y), np.int64)
    order = np.argsort(y, kind="stable")
    bounds = np.searchsorted(y[order], np.arange(len(rows) + 1))
    for c in np.unique(y):
        mine = order[bounds[c] : bounds[c + 1]]
        picked[mine] = np.searchsorted(cumulated[c], u[mine], side="right")
    return picked


# --------------------------------------------------------------------------- the kinds

A_MAP = ("class_map or dataset or coarse",)

for _kind in (
    Flips("symmetric",
          "exactly floor(rN) labels redrawn among all classes, the true one included "
          "(MixNN, DivideMix, SANM): 80 % is 72 % wrong with 10 classes",
          rows=among_all),
    Flips("symmetric-exclusive",
          "exactly floor(rN) labels redrawn among the other classes (DRPL's U-ID): "
          "80 % is 80 % wrong", rows=among_others),
    Flips("symmetric-coin",
          "each label redrawn with probability r among all classes, the true one "
          "included (IEG's uniform noise)", rows=among_all, coin=True),
    Flips("symmetric-exclusive-coin",
          "each label redrawn with probability r among the other classes "
          "(in none of the four papers; it completes the table)", rows=among_others,
          coin=True),
    Flips("asymmetric",
          "exactly floor(rN) of all samples chosen, their labels sent through the "
          "class map (DivideMix, MixNN, SANM on CIFAR-10): 40 % is 20 % wrong there",
          A_MAP, by_map),
    Flips("asymmetric-coin",
          "each label sent through the class map with probability r (DRPL's NU on "
          "CIFAR-10 and CIFAR-100; IEG on CIFAR-10)", A_MAP, by_map, coin=True),
    Flips("asymmetric-blocks",
          "exactly floor(rN) labels sent to the next class, in circular order in "
          "blocks of five consecutive class ids (MixNN on CIFAR-100; not the "
          "superclasses)", rows=by_blocks),
    Flips("asymmetric-blocks-coin",
          "each label sent to the next class of its block of five consecutive "
          "ids with probability r (ELR on CIFAR-100)", rows=by_blocks, coin=True),
    Flips("superclass",
          "exactly floor(rN) labels redrawn uniformly among the other classes of their "
          "superclass (C2D on CIFAR-100; the exact count is DivideMix's, on which C2D "
          "builds)", ("dataset='cifar100' or coarse",), in_superclass),
):
    register(_kind)
