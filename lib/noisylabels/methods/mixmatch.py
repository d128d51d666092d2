"""MixMatch (Berthelot et al., NeurIPS 2019) as IEG uses it: the given labels are thrown away.

The trusted set is the labelled data, all noisy images are unlabelled: what is left of IEG when
nothing of a noisy label is used. It shows what those labels, most of them wrong, still add.

    L = L_p + p L_u + k KL        with IEG's mixup, pseudo-labels and, for k > 0, its consistency

k = 0 is MixMatch with IEG's two views; k = 20, the default, is the stronger "MixMatch-KL" of IEG's
comparison (its numbers: 92.4 on CIFAR-10 with 0.1k, 57.6 on CIFAR-100 with 1k trusted samples,
relayed by a third person).
"""

from __future__ import annotations

from dataclasses import dataclass

from . import ieg

published, scaled, trusted_per_class = ieg.published, ieg.scaled, ieg.trusted_per_class


@dataclass(frozen=True)
class Settings(ieg.Settings):
    """IEG's settings without the terms of the given labels."""

    data_weight: float = 0.0


train = ieg.train
