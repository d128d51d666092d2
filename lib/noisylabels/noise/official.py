"""The draws of the official codes of DRPL and DivideMix, reproduced bit for bit.

They follow the definitions of `matrices`, by other generators and in another order.
DRPL draws by NumPy's legacy generator; DivideMix, whose loader MixNN and SANM use, by
Python's.

Sources: DRPL (Ortego et al., ICPR 2020) and DivideMix (ICLR 2020), official codes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ranges import MOST_SEED
from .kinds import (
    Drawn,
    Labels,
    Needs,
    NoisyLabels,
    Samples,
    checked,
    drawn,
    known,
    register,
    share,
    whole_seed,
)
from .matrices import A_MAP, by_blocks, pick

OFFICIAL_SEEDS = {"drpl": 42, "dividemix": 123}
"""Seeds of the official codes."""
_OWN_KINDS = {"drpl": ("U", "NU"), "dividemix": ("sym", "asym")}


@dataclass(frozen=True)
class Official(Drawn):
    """The same rule as the kind `like`, in the draw of an official code.

    source: "drpl" or "dividemix"; own: the kind's name there. The seed of a setting is
    counted from the official one: seed 0 is the official draw.
    """

    source: str = ""
    own: str = ""
    like: str = ""

    def matrix(self, num_classes: int, needs: Needs) -> np.ndarray:
        return drawn(self.like).matrix(num_classes, needs)

    def make(self, samples: Samples, rate: float, seed: int,
             execution: object = None) -> NoisyLabels:
        first = OFFICIAL_SEEDS[self.source]
        return super().make(samples, rate, (first + seed) % (MOST_SEED + 1), execution)

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        r = self.share(rate)
        seed = OFFICIAL_SEEDS[self.source] if seed is None else seed
        mapping = needs.class_map
        if self.like == "asymmetric-blocks":
            mapping = by_blocks(drawn(self.like), num_classes, needs).argmax(1)
        given = official_draw(
            self.source, y, r, self.own, num_classes=num_classes, seed=seed,
            dataset=needs.dataset, class_map=mapping, coarse=needs.coarse)
        return NoisyLabels(self.name, r, num_classes, torch.from_numpy(y.copy()), given,
                           seed, note=needs.note)


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
    known(source, OFFICIAL_SEEDS, "source of official draws")
    own_kinds = _OWN_KINDS[source]
    kind = own_kinds[0] if kind is None else kind
    known(kind, own_kinds, f"kind of {source}'s draws")
    y = checked(y_true, num_classes, "y_true")
    r = share(rate)
    seed = whole_seed(OFFICIAL_SEEDS[source] if seed is None else seed)
    n, count = len(y), int(len(y) * r)
    given = y.copy()
    t = np.zeros(0)
    if kind in ("NU", "asym"):
        t = drawn("asymmetric").matrix(
            num_classes, Needs(dataset, class_map, coarse, y=y))
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
            given[order] = pick(rows, y[order], legacy.random_sample(n))
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


def drpl_imagenet_classes(seed: int = 42) -> tuple[Tensor, Tensor]:
    """DRPL's 100 in-distribution and 900 out-of-distribution ImageNet class ids, both
    int64.

    Ids count from 0 in the downsampled data's own class list (`map_clsloc.txt`), which
    is not in WordNet order; the new label of an in-distribution class is its position
    here (DRPL, data).
    """
    ids = torch.from_numpy(np.random.RandomState(seed).permutation(1000))
    return ids[:100], ids[100:]


for _kind in (
    Official("drpl-uniform",
             "DRPL's own draw of symmetric-exclusive noise, bit for bit (seed 42)",
             source="drpl", own="U", like="symmetric-exclusive"),
    Official("drpl-nonuniform",
             "DRPL's own draw of asymmetric-coin noise, bit for bit (seed 42)", A_MAP,
             source="drpl", own="NU", like="asymmetric-coin"),
    Official("dividemix-symmetric",
             "DivideMix's own draw of symmetric noise, bit for bit (seed 123)",
             source="dividemix", own="sym", like="symmetric"),
    Official("dividemix-asymmetric",
             "DivideMix's own choice of samples, sent through the class map (seed 123)",
             A_MAP, source="dividemix", own="asym", like="asymmetric"),
    Official("dividemix-asymmetric-blocks",
             "DivideMix's own choice of samples, sent to the next class in circular "
             "order in blocks of five consecutive ids (MixNN on CIFAR-100, seed 123)",
             source="dividemix", own="asym", like="asymmetric-blocks"),
):
    register(_kind)
