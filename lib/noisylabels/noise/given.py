"""Labels that people, or a network, gave: taken as they are, nothing is drawn.

Source of the human labels: CIFAR-10N and CIFAR-100N (Wei et al., ICLR 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..data import datasets
from .kinds import Drawn, Kind, Needs, NoisyLabels, Samples, checked, register


@dataclass(frozen=True)
class Ready(Drawn):
    """A ready label array; `array` names it in `Needs`."""

    array: str = ""

    def fits(self, dataset: str) -> bool:
        return False  # a setting has no array to give

    def share(self, rate: float | None) -> float:
        if rate is not None and rate not in (0, 1):
            raise ValueError(
                f"noise kind {self.name!r} takes its labels as they are: rate must be "
                f"None or 1 (all) or 0 (none), not {rate}")
        return 1.0 if rate is None else float(rate)

    def matrix(self, num_classes: int, needs: Needs) -> np.ndarray:
        raise ValueError(
            f"noise kind {self.name!r} has no matrix: its labels are ready-made")

    def expected_rate(self, rate: float, num_classes: int, needs: Needs) -> None:
        return None

    def draw(self, y: np.ndarray, rate: float | None, num_classes: int,
             seed: int | None, needs: Needs) -> NoisyLabels:
        r, ready = self.share(rate), getattr(needs, self.array)
        if ready is None or ("note" in self.needs and not needs.note):
            raise ValueError(
                f"noise kind {self.name!r} needs {' and '.join(self.needs)}")
        labels = checked(ready, num_classes, self.array)
        if len(labels) != len(y):
            raise ValueError(
                f"{self.array} has {len(labels)} labels but y_true has {len(y)}")
        return NoisyLabels(self.name, None if rate is None else r, num_classes,
                           torch.from_numpy(y.copy()),
                           torch.from_numpy((y if r == 0 else labels).copy()),
                           note=needs.note)


class Human(Kind):
    """One label set of CIFAR-10N or CIFAR-100N: everything was labelled by people."""

    fixed = 1.0  # the realised rate is measured

    def __init__(self, dataset: str, which: str) -> None:
        self.name, self.dataset, self.which = f"human-{which}", dataset, which
        self.says = f"labels that people gave, set {which} of {dataset}"

    def fits(self, dataset: str) -> bool:
        return dataset == self.dataset

    def absent(self, dataset: str) -> str:
        try:
            datasets.human_labels(dataset, self.which)
        except FileNotFoundError:
            return f"human labels of {dataset} (see `noisylabels doctor`)"
        return ""

    def make(self, samples: Samples, rate: float, seed: int,
             execution: object = None) -> NoisyLabels:
        y = datasets.human_labels(self.dataset, self.which, y_true=samples.whole)
        return samples.labels(self, rate, y[samples.chosen])


register(Ready("human", "labels that people gave (CIFAR-10N, CIFAR-100N)", ("y_human",),
               "y_human"))
register(Ready("given",
               "a ready label array with a note on its generator, such as a network's "
               "predictions (IEG's semantic noise, from RoG)", ("y_ready", "note"),
               "y_ready"))
for _dataset, _sets in datasets.HUMAN_LABELS.items():
    for _which in _sets:
        # CIFAR-100N's coarse labels name 20 superclasses, which no run here learns
        if _which != "noisy_coarse":
            register(Human(_dataset, _which))
