"""What a kind of noise is: one object that says what it is called, what it needs, and
how it makes labels.

`register` makes a kind usable by its name, in a setting and on the command line; a
module of this room is found by itself. The least is a name, words, and `make`:

    @noise.register
    class NextDigit(noise.Kind):
        name, says = "next-digit", "each label sent to the next digit at probability r"

        def make(self, samples, rate, seed, execution=None):
            y = samples.y_true
            draw = torch.Generator().manual_seed(seed)
            hit = torch.rand(len(y), generator=draw) < rate
            return samples.labels(self, rate, torch.where(hit, (y + 1) % 10, y), seed)

A kind that needs no more than arrays is `Drawn`: `noise.corrupt` draws it too, and its
`make` only says where the arrays come from (`ask`).
"""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data import datasets
from ..data.datasets import Dataset

Labels = np.ndarray | Tensor | Sequence[int]
Matrix = np.ndarray | Tensor | Sequence[Sequence[float]]


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """A draw of noise over N samples; all tensors lie on the CPU.

    `y_true`, `y_given`: int64 (N,). `replaced` (bool, N) and `source` (int64, N; -1
    where nothing is replaced) are set for out-of-distribution noise alone: sample i
    shows image `source[i]` of the source dataset. `redrawn`: how often a source class
    had run out of images and another was taken. `rate` is the nominal rate, None for
    label arrays taken as they are. `images`: uint8 (N, C, H, W) where the noise changed
    them and they were at hand, else None.
    """

    kind: str
    rate: float | None
    num_classes: int
    y_true: Tensor
    y_given: Tensor
    seed: int | None = None
    replaced: Tensor | None = None
    source: Tensor | None = None
    redrawn: int = 0
    note: str = ""
    images: Tensor | None = None

    @property
    def wrong(self) -> Tensor:
        """bool (N,): the label differs from the true one, or the image was replaced."""
        different = self.y_given != self.y_true
        return different if self.replaced is None else different | self.replaced

    @property
    def realised_rate(self) -> float:
        """Share of wrong samples, in [0, 1]."""
        return int(self.wrong.sum()) / len(self.y_true)

    @property
    def transition(self) -> Tensor:
        """float64 (C, C): share of true class (row) with given label (column).

        The row of a class without samples is zero. Replaced images keep their label
        here.
        """
        c = self.num_classes
        pairs = torch.bincount(self.y_true * c + self.y_given, minlength=c * c)
        counts = pairs.view(c, c).double()
        return counts / counts.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, eq=False)
class Samples:
    """The training samples that are to get noise, and all that a kind may know of them.

    data: the data set, or the `subset` of it that is trained on. index: int64 (N,), the
    samples among its training images; trusted ones are not there. whole: the data set's
    own `y_train`, and chosen: int64 (N,), the samples' numbers in it.
    """

    data: Dataset
    index: Tensor
    whole: Tensor
    chosen: Tensor

    @property
    def y_true(self) -> Tensor:
        """int64 (N,)."""
        return self.data.y_train[self.index]

    @property
    def images(self) -> Tensor:
        """uint8 (N, C, H, W), a copy."""
        return self.data.x_train[self.index]

    @property
    def coarse(self) -> Tensor | None:
        """The superclass of each sample, int64 (N,), where the data set has them."""
        coarse = self.data.coarse_train
        return None if coarse is None else coarse[self.index]

    def labels(self, kind: Kind, rate: float | None, y_given: Tensor,
               seed: int | None = None, **more: Any) -> NoisyLabels:
        """These samples with the labels int64 (N,) that a kind gave them; `more` as in
        `NoisyLabels`."""
        return NoisyLabels(kind.name, rate, self.data.num_classes, self.y_true, y_given,
                           seed, **more)


@dataclass(frozen=True, eq=False)
class Needs:
    """What `corrupt` takes beyond labels, rate and seed; a kind reads what it needs.

    `coarse` is the superclass of each sample of `y` (N,), without `y` that of each
    class (C,); the others as in `corrupt`.
    """

    dataset: str | None = None
    class_map: str | Labels | None = None
    coarse: Labels | None = None
    matrix: Matrix | None = None
    source_labels: Labels | None = None
    source_count: int | None = None
    y_human: Labels | None = None
    y_ready: Labels | None = None
    note: str = ""
    y: np.ndarray | None = None


class Kind:
    """A kind of noise that a setting may name, by what it needs and makes.

    Attributes:
        name: in a setting, and in the folders of its runs.
        says: what it does and who uses it.
        fixed: the one rate it has, where there is none to ask for; else None.
    """

    name: str
    says: str
    fixed: float | None = None

    def fits(self, dataset: str) -> bool:
        """Whether a setting of that data set may name it."""
        return True

    def check(self, dataset: str, rate: float) -> None:
        """Refuse, by a ValueError, what cannot be drawn; no data is read."""

    def absent(self, dataset: str) -> str:
        """What it needs and is not here, with the command that brings it; "" if
        nothing. Files are looked for, not read."""
        return ""

    def make(self, samples: Samples, rate: float, seed: int,
             execution: Any = None) -> NoisyLabels:
        """The samples with their noise.

        Args:
            rate: the setting's, in [0, 1]; seed: its noise seed.
            execution: an `engine.Execution`, for a kind that trains a network.
        """
        raise NotImplementedError(f"{type(self).__name__} must define make")


@dataclass(frozen=True)
class Drawn(Kind):
    """A kind that is drawn from arrays alone, so by `noise.corrupt` too.

    needs: the arguments of `corrupt` that it asks for beyond the rate and the seed.
    """

    name: str
    says: str
    needs: tuple[str, ...] = ()

    def share(self, rate: float | None) -> float:
        """The rate, checked; a ValueError for one that it does not take."""
        return share(rate)

    def check(self, dataset: str, rate: float) -> None:
        self.share(rate)
        self.matrix(datasets.SIZES[dataset][2], Needs(dataset=dataset))

    def ask(self, samples: Samples) -> dict[str, Any]:
        """Those arguments, for the samples of a setting."""
        return {}

    def make(self, samples: Samples, rate: float, seed: int,
             execution: Any = None) -> NoisyLabels:
        needs = {"dataset": samples.data.name, "coarse": samples.coarse,
                 **self.ask(samples)}
        return self.draw(samples.y_true.numpy(), rate, samples.data.num_classes, seed,
                         Needs(**needs))

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        """The noisy labels of y, int64 (N,), as `corrupt` says."""
        raise NotImplementedError(f"{type(self).__name__} must define draw")

    def matrix(self, num_classes: int, needs: Needs) -> np.ndarray:
        """float64 (C, C): row c is the distribution of a chosen sample's new label,
        true class c."""
        return np.eye(num_classes)

    def expected_rate(self, rate: float, num_classes: int,
                      needs: Needs) -> float | None:
        """Expected share of wrong samples of equally large classes; None where it can
        only be measured."""
        stays = self.matrix(num_classes, needs).diagonal().mean().item()
        return self.share(rate) * (1 - stays)


# ------------------------------------------------------------------------ the register

KINDS: dict[str, str] = {}
"""Name of each kind that `corrupt` draws -> what it does and who uses it."""
NEEDS: dict[str, tuple[str, ...]] = {}
"""Arguments of `corrupt` that a kind asks for beyond the rate and the seed."""
_EVERY: dict[str, Kind] = {}
K = TypeVar("K", bound="Kind | type[Kind]")


def register(kind: K) -> K:
    """Make a kind, or a class of one, usable by its name.

    Raises ValueError for a name that is taken; a class of `__main__` may be defined
    anew, as a notebook does.
    """
    made = kind() if isinstance(kind, type) else kind
    if type(_EVERY.get(made.name)).__module__ not in ("builtins", "__main__"):
        raise ValueError(f"there is a noise kind {made.name!r} already.")
    _EVERY[made.name] = made
    if isinstance(made, Drawn):
        KINDS[made.name] = made.says
        if made.needs:
            NEEDS[made.name] = made.needs
    return kind


def named(name: str) -> Kind:
    """The kind of that name; an unknown one is a ValueError that names the nearest."""
    known(name, _EVERY, "noise kind")
    return _EVERY[name]


def drawn(name: str) -> Drawn:
    """The same among `KINDS`."""
    known(name, KINDS, "noise kind")
    kind = _EVERY[name]
    assert isinstance(kind, Drawn)
    return kind


def absent(dataset: str, noise: str = "") -> str:
    """What is not here of a data set and of what its noise needs, with the command that
    brings it; "" where all is. Files are looked for, not read."""
    lacks = datasets.absent(dataset)
    return lacks or (_EVERY[noise].absent(dataset) if noise in _EVERY else "")


def every(dataset: str) -> tuple[str, ...]:
    """The names of all kinds that a setting of the data set may name."""
    return tuple(name for name, kind in _EVERY.items() if kind.fits(dataset))


# ------------------------------------------------------------------------------ checks


def near(name: str, names: Iterable[str]) -> str:
    """A hint at the name that was meant, or nothing."""
    close = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.4)
    return f" (nearest: {close[0]!r})" if close else ""


def known(name: str, names: Iterable[str], what: str) -> None:
    """Refuse a name that is none of these."""
    if name not in names:
        allowed = ", ".join(names)
        raise ValueError(
            f"unknown {what} {name!r}{near(name, names)}; allowed: {allowed}")


def share(rate: float | None) -> float:
    """The rate as a float in [0, 1]."""
    if not isinstance(rate, numbers.Real) or not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], not {rate}")
    return float(rate)


def whole_seed(seed: int | None) -> int:
    """The seed as an int from 0 on."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            f"noise needs an explicit seed, an integer from 0 on, not {seed!r}")
    return int(seed)


def checked(y: Labels, num_classes: int | None, name: str) -> np.ndarray:
    """int64 (N,), checked to lie in 0..num_classes-1 (from 0 on when num_classes is
    None)."""
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, not {num_classes}")
    try:
        a = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    except ValueError:
        raise ValueError(
            f"{name} must be a vector of at least one integer, not rows of unequal "
            "length") from None
    if a.ndim != 1 or a.size == 0 or a.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a vector of at least one integer, not "
                         f"{a.dtype} of shape {a.shape}")
    if a.min() < 0 or (num_classes is not None and a.max() >= num_classes):
        allowed = "from 0 on" if num_classes is None else f"in 0..{num_classes - 1}"
        raise ValueError(
            f"{name} must lie {allowed}, but it spans {a.min()}..{a.max()}")
    return a.astype(np.int64)


def counts(kind: Drawn, matrix: Matrix | None,
           shape: tuple[int | None, int]) -> np.ndarray:
    """The matrix that a kind asks for, float64 of that shape (None: any), a copy."""
    if matrix is None:
        raise ValueError(f"noise kind {kind.name!r} needs {' and '.join(kind.needs)}")
    raw = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else matrix
    try:
        m = np.array(raw, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            "matrix must be a table of numbers, its rows equally long") from None
    rows = "source classes" if shape[0] is None else shape[0]
    if m.ndim != 2 or m.shape[1] != shape[1] or shape[0] not in (None, m.shape[0]):
        raise ValueError(f"matrix must have shape ({rows}, {shape[1]}), not {m.shape}")
    if not np.isfinite(m).all() or (m < 0).any():
        raise ValueError("matrix must hold finite numbers from 0 on")
    return m
