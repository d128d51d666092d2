"""Every noise model of the four papers, each paper's own definition explicit.

Two choices hide behind "80 % noise". May a redrawn label be the true one? Then
redrawing 80 % of the labels makes 72 % of them wrong with ten classes. Are exactly
floor(rN) labels redrawn, or is a coin tossed for each? The names answer both:
`symmetric` (true class included, exact count), `symmetric-exclusive` (true class
excluded), `...-coin` (a coin per label). `KINDS` says who uses what.

Nearly all kinds are one rule. A set of samples is chosen, and a chosen sample of class
c gets a label drawn from row c of a matrix T, which is what the kind stands for
(`flips`):

    y_given[i] ~ T[y_true[i], :]  if i is chosen,  else y_true[i]

so the expected transition matrix is (1 - r) I + r T. T always reads the clean labels:
changing an array class by class while reading it sends cats to dogs and some of them
back (24 % of the cats instead of 40 %).

Nothing but the seed steers a draw. At the same seed a larger rate keeps the choices of
a smaller one, and kinds with the same way of counting choose the same samples. The
official draws of DRPL and DivideMix are reproduced bit for bit (`official_draw`).

Sources: DRPL (Ortego et al., ICPR 2020), IEG (Zhang et al., CVPR 2020), MixNN (arXiv
2406.16966), SANM (CVPR 2023) and DivideMix (ICLR 2020), each with its official code;
ELR, C2D; CIFAR-N (Wei et al., ICLR 2022).
"""

from __future__ import annotations

import difflib
import numbers
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Labels = np.ndarray | Tensor | Sequence[int]
Matrix = np.ndarray | Tensor | Sequence[Sequence[float]]

KINDS: dict[str, str] = {
    "none": "the true labels, unchanged", "symmetric":
        "exactly floor(rN) labels redrawn among all classes, the true one included "
        "(MixNN, DivideMix, SANM): 80 % is 72 % wrong with 10 classes",
    "symmetric-exclusive":
        "exactly floor(rN) labels redrawn among the other classes "
        "(DRPL's U-ID): 80 % is 80 % wrong", "symmetric-coin":
            "each label redrawn with probability r among all classes, the true one "
            "included (IEG's uniform noise)", "symmetric-exclusive-coin":
                "each label redrawn with probability r among the other classes "
                "(in none of the four papers; it completes the table)",
    "asymmetric":
        "exactly floor(rN) of all samples chosen, their labels sent through the class "
        "map (DivideMix, MixNN, SANM on CIFAR-10): 40 % is 20 % wrong there",
    "asymmetric-coin":
        "each label sent through the class map with probability r (DRPL's NU on "
        "CIFAR-10 and CIFAR-100; IEG on CIFAR-10)",
    "asymmetric-blocks":
        "exactly floor(rN) labels sent to the next class, in circular order in "
        "blocks of five consecutive class ids (MixNN on CIFAR-100; not the superclasses)",
    "asymmetric-blocks-coin":
        "each label sent to the next class of its block of five consecutive "
        "ids with probability r (ELR on CIFAR-100)",
    "superclass":
        "exactly floor(rN) labels redrawn uniformly among the other classes of their "
        "superclass (C2D on CIFAR-100; the exact count is DivideMix's, on which C2D builds)",
    "confusion":
        "exactly floor(rN) labels redrawn among the other classes by the rows of a "
        "confusion matrix (DRPL's NU-ID)",
    "ood-uniform":
        "labels kept, exactly floor(rN) images replaced by images of another dataset, "
        "without repeats (DRPL's U-OOD)",
    "ood-confusion":
        "labels kept, exactly floor(rN) images replaced by images of classes that a "
        "classifier takes for the label, without repeats (DRPL's NU-OOD)",
    "human": "labels that people gave (CIFAR-10N, CIFAR-100N)", "given":
        "a ready label array with a note on its generator, such as a network's predictions "
        "(IEG's semantic noise, from RoG)",
    "drpl-uniform": "DRPL's own draw of symmetric-exclusive noise, bit for bit (seed 42)",
    "drpl-nonuniform": "DRPL's own draw of asymmetric-coin noise, bit for bit (seed 42)",
    "dividemix-symmetric": "DivideMix's own draw of symmetric noise, bit for bit (seed 123)",
    "dividemix-asymmetric":
        "DivideMix's own choice of samples, sent through the class map "
        "(seed 123)",
    "dividemix-asymmetric-blocks":
        "DivideMix's own choice of samples, sent to the next class in "
        "circular order in blocks of five consecutive ids (MixNN on CIFAR-100, seed 123)",
}
"""Name of each noise kind -> what it does and who uses it."""

NEEDS: dict[str, tuple[str, ...]] = {
    "asymmetric": ("class_map or dataset or coarse",),
    "asymmetric-coin": ("class_map or dataset or coarse",),
    "superclass": ("dataset='cifar100' or coarse",),
    "confusion": ("matrix",),
    "ood-uniform": ("source_count or source_labels",),
    "ood-confusion": ("matrix", "source_labels"),
    "human": ("y_human",),
    "given": ("y_ready", "note"),
    "drpl-nonuniform": ("class_map or dataset or coarse",),
    "dividemix-asymmetric": ("class_map or dataset or coarse",),
}
"""Arguments of `corrupt` that a kind asks for beyond the rate and the seed."""

# kind -> source, its own name, the same rule here
_OFFICIAL: dict[str, tuple[str, str, str]] = {
    "drpl-uniform": ("drpl", "U", "symmetric-exclusive"),
    "drpl-nonuniform": ("drpl", "NU", "asymmetric-coin"),
    "dividemix-symmetric": ("dividemix", "sym", "symmetric"),
    "dividemix-asymmetric": ("dividemix", "asym", "asymmetric"),
    "dividemix-asymmetric-blocks": ("dividemix", "asym", "asymmetric-blocks"),
}
OFFICIAL_SEEDS = {"drpl": 42, "dividemix": 123}
"""Seeds of the official codes."""

CIFAR100_SUPERCLASS: tuple[int, ...] = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
"""Superclass (0..19) of each of the 100 fine classes of CIFAR-100, as in its label files."""

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


@dataclass(frozen=True, eq=False)
class NoisyLabels:
    """A draw of noise over N samples; all tensors lie on the CPU.

    `y_true`, `y_given`: int64 (N,). `replaced` (bool, N) and `source` (int64, N; -1
    where nothing is replaced) are set for out-of-distribution noise alone: sample i
    shows image `source[i]` of the source dataset. `redrawn`: how often a source class
    had run out of images and another was taken. `rate` is the nominal rate, None for
    label arrays taken as they are.
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
    `MAPS`) says the
        map, without that `coarse`, the superclass of each sample (N,): then a class
        goes to the next one of its superclass, in circular order.
    matrix: counts or probabilities, rows = true class, columns = predicted class; (C,
    C) for
        "confusion", (source classes, C) for "ood-confusion". The 1e-5 added to it is
        nothing to counts and much to small probabilities: say in `note` which it was.
    source_labels, source_count: classes of the source dataset's images, or just their
    number. y_human, y_ready: (N,) labels; `note` says where they come from, y_ready
    requires it.

    Raises ValueError for an unknown kind, a rate outside [0, 1], labels or maps that do
    not fit num_classes, and missing needs.
    """
    _known(kind, KINDS, "noise kind")
    y = _labels(y_true, num_classes, "y_true")
    r = _rate(kind, rate)
    given, replaced, source, redrawn = y, None, None, 0
    if kind in ("human", "given"):
        ready = y_human if kind == "human" else y_ready
        name = "y_human" if kind == "human" else "y_ready"
        if ready is None or (kind == "given" and not note):
            raise ValueError(f"noise kind {kind!r} needs {' and '.join(NEEDS[kind])}")
        labels = _labels(ready, num_classes, name)
        if len(labels) != len(y):
            raise ValueError(f"{name} has {len(labels)} labels but y_true has {len(y)}")
        given = y if r == 0 else labels
    elif kind in _OFFICIAL:
        name, own, _ = _OFFICIAL[kind]
        seed = OFFICIAL_SEEDS[name] if seed is None else seed
        maps: dict[str, Any] = {
            "dataset": dataset, "class_map": class_map, "coarse": coarse
        }
        if kind.endswith("-blocks"):
            maps["class_map"] = _flips("asymmetric-blocks", num_classes).argmax(1)
        drawn = official_draw(name, y, r, own, num_classes=num_classes, seed=seed,
                              **maps)
        given = drawn.numpy()
    elif kind != "none":
        rng = np.random.default_rng(_seed(seed))
        if kind.endswith("-coin"):
            chosen = rng.random(len(y)) < r
        else:
            slots = rng.permutation(len(y))[: _exact(len(y), r)]
            chosen = np.zeros(len(y), bool)
            chosen[slots] = True
        if kind.startswith("ood-"):
            replaced, source = chosen, np.full(len(y), -1)
            source[slots], redrawn = _replacements(
                y[slots], kind, num_classes, rng, matrix, source_labels, source_count
            )
        else:
            groups = _sample_groups(kind, y, num_classes, dataset, class_map, coarse)
            t = _flips(kind, num_classes, dataset, class_map, groups, matrix)
            given = np.where(chosen, _pick(t, y, rng.random(len(y))), y)
    return NoisyLabels(
        kind=kind,
        rate=None if rate is None and kind != "none" else r,
        num_classes=num_classes,
        y_true=torch.from_numpy(y.copy()),
        y_given=torch.from_numpy(given.copy()),
        seed=None if kind in ("none", "human", "given") else seed,
        replaced=None if replaced is None else torch.from_numpy(replaced),
        source=None if source is None else torch.from_numpy(source),
        redrawn=redrawn,
        note=note,
    )


def official_draw(
    source: str,
    y_true: Labels,
    rate: float,
    kind: str | None = None,
    *,
    num_classes: int,
    seed: int | None = None,
    dataset: str | None = None,
    class_map: str | Labels | None = None,
    coarse: Labels | None = None,
) -> Tensor:
    """The noisy labels (int64, N) that an official code draws, bit for bit.

    source "drpl", kind "U" (default) or "NU", seed 42: NumPy's legacy generator, one
    permutation. U walks its first int(rN) samples and draws until the label differs
    from the true one; NU walks all of it, one draw each from the class's row (DRPL,
    data set code; NU needs a class map).

    source "dividemix", kind "sym" (default) or "asym", seed 123: Python's generator
    shuffles the indices, the first int(rN) are noisy; then one draw for each noisy
    sample in index order, or the class map (DivideMix's loader, used by MixNN and
    SANM). Other arguments as in `corrupt`.
    """
    _known(source, OFFICIAL_SEEDS, "source of official draws")
    own_kinds = list(
        dict.fromkeys(own for name, own, _ in _OFFICIAL.values() if name == source))
    kind = own_kinds[0] if kind is None else kind
    _known(kind, own_kinds, f"kind of {source}'s draws")
    y = _labels(y_true, num_classes, "y_true")
    r = _rate(source, rate)
    seed = _seed(OFFICIAL_SEEDS[source] if seed is None else seed)
    n, count = len(y), int(len(y) * r)
    given = y.copy()
    t = np.zeros(0)
    if kind in ("NU", "asym"):
        groups = _sample_groups("asymmetric", y, num_classes, dataset, class_map,
                                coarse)
        t = _flips("asymmetric", num_classes, dataset, class_map, groups)
    if source == "drpl":
        legacy = np.random.RandomState(seed)
        order = legacy.permutation(n)
        if kind == "U":
            for i in order[:count]:
                while given[i] == y[i]:
                    given[i] = legacy.randint(num_classes, dtype=np.int32)
        else:
            rows = (1 - r) * np.eye(num_classes) + r * t
            # choice(C, p=row)
            given[order] = _pick(rows, y[order], legacy.random_sample(n))
    else:
        python = random.Random(seed)
        shuffled = list(range(n))
        python.shuffle(shuffled)
        noisy = sorted(shuffled[:count])
        if kind == "sym":
            given[noisy] = [python.randint(0, num_classes - 1) for _ in noisy]
        else:
            given[noisy] = t.argmax(1)[y[noisy]]
    return torch.from_numpy(given)


def class_map(name: str) -> Tensor:
    """The asymmetric map of a dataset: int64 (C,), class -> the class it is taken for.

    "cifar10": truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse.
    "cifar100": next fine class of the superclass, in circular order (DRPL).
    "cifar100-blocks": next class in blocks of five consecutive ids (MixNN, ELR).
    "digits": 7 -> 1, 9 -> 4, 3 -> 8, 5 -> 6, 2 -> 7, a choice of ours. Raises
    ValueError for another name.
    """
    _known(name, MAPS, "class map")
    if name in _PAIRS:
        m = np.arange(10)
        m[list(_PAIRS[name])] = list(_PAIRS[name].values())
        return torch.from_numpy(m)
    if name == "cifar100":
        return torch.from_numpy(_cycle(np.array(CIFAR100_SUPERCLASS)))
    return torch.from_numpy(_cycle(np.arange(100) // 5))


def superclass_of(y: Labels, coarse: Labels, num_classes: int) -> Tensor:
    """Superclass of each class, int64 (C,), from the labels and superclasses of the
    samples.

    Raises ValueError when a class has no sample or more than one superclass.
    """
    fine = _labels(y, num_classes, "y")
    group = _labels(coarse, None, "coarse")
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
    _known(kind, KINDS, "noise kind")
    if kind in ("human", "given"):
        raise ValueError(
            f"noise kind {kind!r} has no matrix: its labels are ready-made")
    kind = _OFFICIAL[kind][2] if kind in _OFFICIAL else kind
    return torch.from_numpy(
        _flips(kind, num_classes, dataset, class_map, coarse, matrix))


def expected_transition(kind: str, rate: float, num_classes: int, **needs) -> Tensor:
    """float64 (C, C): (1 - r) I + r T with T from `flips`, whose keywords it takes."""
    t = flips(kind, num_classes, **needs)
    r = _rate(kind, rate)
    return (1 - r) * torch.eye(num_classes, dtype=torch.float64) + r * t


def expected_rate(kind: str, rate: float, num_classes: int, **needs) -> float | None:
    """Expected share of wrong samples when all classes are equally large; keywords as
    in `flips`.

    "symmetric" 0.8 is 0.72 with 10 classes and 0.792 with 100; out-of-distribution
    noise counts replaced images. None for "human" and "given": theirs can only be
    measured.
    """
    _known(kind, KINDS, "noise kind")
    if kind in ("human", "given"):
        return None
    if kind.startswith("ood-"):
        return _rate(kind, rate)
    stays = flips(kind, num_classes, **needs).diagonal().mean().item()
    return _rate(kind, rate) * (1 - stays)


def drpl_imagenet_classes(seed: int = 42) -> tuple[Tensor, Tensor]:
    """DRPL's 100 in-distribution and 900 out-of-distribution ImageNet class ids, both
    int64.

    Ids count from 0 in the downsampled data's own class list (`map_clsloc.txt`), which
    is not in WordNet order; the new label of an in-distribution class is its position
    here (DRPL, data).
    """
    ids = torch.from_numpy(np.random.RandomState(seed).permutation(1000))
    return ids[:100], ids[100:]


# --- the matrices
# -----------------------------------------------------------------------------


def _flips(
    kind: str,
    num_classes: int,
    dataset: str | None = None,
    mapping: str | Labels | None = None,
    coarse: Labels | None = None,
    matrix: Matrix | None = None,
) -> np.ndarray:
    c = num_classes
    base = kind.removesuffix("-coin")
    if base == "symmetric":
        return np.full((c, c), 1 / c)
    if base == "symmetric-exclusive":
        return (1 - np.eye(c)) / (c - 1)
    if base == "asymmetric":
        return np.eye(c)[_map(kind, c, dataset, mapping, coarse)]
    if base == "asymmetric-blocks":
        if c % 5:
            raise ValueError(
                f"{kind!r} needs num_classes to be a multiple of 5, not {c}")
        return np.eye(c)[_cycle(np.arange(c) // 5)]
    if base == "superclass":
        group = _groups(kind, c, dataset, coarse)
        t = (group[:, None] == group[None, :]) & ~np.eye(c, dtype=bool)
        lone = ~t.any(1)  # a superclass of one class has no other to go to
        t[lone, lone] = True
        return t / t.sum(1, keepdims=True)
    if base == "confusion":
        # DRPL, NU-ID: add 1e-5, normalise rows, drop the diagonal, normalise again
        m = _matrix(kind, matrix, (c, c)) + 1e-5
        m /= m.sum(1, keepdims=True)
        np.fill_diagonal(m, 0)
        return m / m.sum(1, keepdims=True)
    return np.eye(c)  # none, ood-*: the label stays


def _map(kind: str, c: int, dataset: str | None, mapping: str | Labels | None,
         coarse: Labels | None) -> np.ndarray:
    if mapping is None and dataset in MAPS:
        mapping = dataset
    if mapping is None and coarse is not None:
        return _cycle(_groups(kind, c, None, coarse))
    if mapping is None:
        hint = "" if dataset is None else f"; dataset {dataset!r} has none{_near(dataset, MAPS)}"
        raise ValueError(
            f"noise kind {kind!r} needs a class map: class_map (an array or one of "
            f"{', '.join(MAPS)}), a dataset of that name, or coarse{hint}"
        )
    m = _labels(
        class_map(mapping) if isinstance(mapping, str) else mapping, None, "class_map")
    if len(m) != c or m.max() >= c:
        raise ValueError(
            f"class_map must have {c} entries in 0..{c - 1}, but it has {len(m)} up to {m.max()}"
        )
    return m


def _groups(kind: str, c: int, dataset: str | None,
            coarse: Labels | None) -> np.ndarray:
    """Superclass of each class, (C,)."""
    if coarse is None and dataset != "cifar100":
        raise ValueError(
            f"noise kind {kind!r} needs superclasses: coarse, or dataset='cifar100'")
    group = _labels(CIFAR100_SUPERCLASS if coarse is None else coarse, None, "coarse")
    if len(group) != c:
        raise ValueError(
            f"superclasses of {len(group)} classes do not fit num_classes {c}")
    return group


def _sample_groups(
    kind: str,
    y: np.ndarray,
    c: int,
    dataset: str | None,
    mapping: str | Labels | None,
    coarse: Labels | None,
) -> Tensor | None:
    """Superclass of each class (C,) from that of each sample (N,), where the kind reads
    it."""
    base = kind.removesuffix("-coin")
    no_map = mapping is None and (dataset == "cifar100" or dataset not in MAPS)
    if coarse is None or not (base == "superclass" or
                              (base == "asymmetric" and no_map)):
        return None
    if dataset != "cifar100" or c != 100:
        return superclass_of(y, coarse, c)
    table = np.array(CIFAR100_SUPERCLASS)  # known, also for classes without a sample
    if not np.array_equal(table[y], _labels(coarse, None, "coarse")):
        raise ValueError("coarse contradicts the superclasses of dataset 'cifar100'")
    return torch.from_numpy(table)


def _cycle(group: np.ndarray) -> np.ndarray:
    """Each class -> the next one of its group, ids sorted, circular."""
    m = np.arange(len(group))
    for g in np.unique(group):
        members = np.flatnonzero(group == g)
        m[members] = np.roll(members, -1)
    return m


# --- the draws
# --------------------------------------------------------------------------------


def _pick(rows: np.ndarray, y: np.ndarray, u: np.ndarray) -> np.ndarray:
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


def _replacements(
    y: np.ndarray,
    kind: str,
    num_classes: int,
    rng: np.random.Generator,
    matrix: Matrix | None,
    source_labels: Labels | None,
    source_count: int | None,
) -> tuple[np.ndarray, int]:
    """Source image of each slot (given the slots' labels y), and how many slots were
    redrawn."""
    if source_labels is None and (kind == "ood-confusion" or source_count is None):
        raise ValueError(f"noise kind {kind!r} needs {' and '.join(NEEDS[kind])}")
    labels = None if source_labels is None else _labels(source_labels, None,
                                                        "source_labels")
    size = len(labels) if labels is not None else int(source_count or 0)
    if len(y) > size:
        raise ValueError(
            f"{len(y)} images are to be replaced but the source has only {size}")
    shuffled = rng.permutation(size)
    if kind == "ood-uniform":
        return shuffled[: len(y)], 0
    assert labels is not None
    # DRPL, NU-OOD: add 1e-5, normalise each column: P(source class k | label c)
    m = _matrix(kind, matrix, (None, num_classes)) + 1e-5
    m /= m.sum(0, keepdims=True)
    if labels.max() >= len(m):
        raise ValueError(
            f"source_labels must lie in 0..{len(m) - 1}, the rows of matrix, not {labels.max()}"
        )
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels, minlength=len(m))
    starts = counts.cumsum() - counts
    used = np.zeros_like(counts)  # the pointer of each class into its shuffled list
    source, redrawn = np.full(len(y), -1), 0
    pending = np.arange(len(y))
    while len(pending):
        k = _pick((m * (used < counts)[:, None]).T, y[pending],
                  rng.random(len(pending)))
        order = np.argsort(k, kind="stable")
        ks, slots = k[order], pending[order]
        position = used[ks] + np.arange(len(ks)) - np.searchsorted(ks, ks)
        fits = position < counts[ks]
        source[slots[fits]] = by_class[(starts[ks] + position)[fits]]
        used = np.minimum(counts, used + np.bincount(k, minlength=len(m)))
        # their class ran out: drawn again among the others
        pending = np.sort(slots[~fits])
        redrawn += len(pending)
    return source, redrawn


def _exact(n: int, rate: float) -> int:
    """floor(rN), safe against 0.29 * 100 = 28.999..."""
    return int(n * rate + 1e-9)


# --- checks
# -----------------------------------------------------------------------------------


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.4)
    return f" (nearest: {close[0]!r})" if close else ""


def _known(name: str, names: Iterable[str], what: str) -> None:
    if name not in names:
        allowed = ", ".join(names)
        raise ValueError(
            f"unknown {what} {name!r}{_near(name, names)}; allowed: {allowed}")


def _rate(kind: str, rate: float | None) -> float:
    if kind == "none":
        if rate is not None and rate != 0:
            raise ValueError(f"noise kind 'none' takes rate 0 or None, not {rate}")
        return 0.0
    if kind in ("human", "given"):
        if rate is not None and rate not in (0, 1):
            raise ValueError(
                f"noise kind {kind!r} takes its labels as they are: rate must be None or 1 (all) "
                f"or 0 (none), not {rate}")
        return 1.0 if rate is None else float(rate)
    if not isinstance(rate, numbers.Real) or not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], not {rate}")
    return float(rate)


def _seed(seed: int | None) -> int:
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or seed < 0:
        raise ValueError(
            f"noise needs an explicit seed, an integer from 0 on, not {seed!r}")
    return int(seed)


def _labels(y: Labels, num_classes: int | None, name: str) -> np.ndarray:
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
        raise ValueError(
            f"{name} must be a vector of at least one integer, not {a.dtype} of shape {a.shape}"
        )
    if a.min() < 0 or (num_classes is not None and a.max() >= num_classes):
        allowed = "from 0 on" if num_classes is None else f"in 0..{num_classes - 1}"
        raise ValueError(
            f"{name} must lie {allowed}, but it spans {a.min()}..{a.max()}")
    return a.astype(np.int64)


def _matrix(kind: str, matrix: Matrix | None, shape: tuple[int | None,
                                                           int]) -> np.ndarray:
    if matrix is None:
        raise ValueError(f"noise kind {kind!r} needs {' and '.join(NEEDS[kind])}")
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
