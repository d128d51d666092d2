"""The labels that people gave to the images of CIFAR: CIFAR-10N and CIFAR-100N.

Source: J. Wei et al., "Learning with Noisy Labels Revisited: A Study Using Real-World
Human Annotations", ICLR 2022.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cifar
from .cifar100 import CIFAR100_COARSE, CIFAR100_SUPERCLASSES
from .sets import HUMAN_LABELS, SIZES, check_labels, folder, known

COUNT = 50_000  # of labels in a set


def human_labels(
    name: str, which: str, root: Path | None = None, *, y_true: Tensor | None = None
) -> Tensor:
    """The labels that people gave to the train images, int64 (N,), in the order of
    `y_train`.

    CIFAR-10N: which is "aggre", "worse", "random1", "random2" or "random3"; CIFAR-100N:
    "noisy_fine", or "noisy_coarse" (superclasses, 0..19). Read from
    `cifar_n/cifar10n.npz` or from the official `CIFAR-10_human.pt` (for CIFAR-100N
    `cifar100n.npz`, `CIFAR-100_human.pt`) in `root`, default `paths.datasets_dir()`, or
    its folder `cifar_n`.

    y_true: the dataset's whole `y_train`; it is compared with the true labels of the
    file, so that human labels of another order are refused. Raises ValueError for an
    unknown name or a damaged file, FileNotFoundError for a missing one. Source: Wei et
    al., ICLR 2022.
    """
    known(name, HUMAN_LABELS, "dataset with human labels")
    known(which, HUMAN_LABELS[name], f"human labels of {name}")
    root = folder(root)
    packed, official = f"{name}n.npz", f"{cifar.SOURCES[name].title}_human.pt"
    mend = f"get data/{official} from https://github.com/UCSC-REAL/cifar-10-100n"
    tried = (root / "cifar_n" / packed, root / "cifar_n" / official, root / official)
    path = next((p for p in tried if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no human labels of {name} in {root}: expected {official} or "
            f"cifar_n/{packed}; {mend}")
    fine = SIZES[name][2]
    try:
        content = _read_human(path)
        clean = _column(content, "clean_label", fine)
        if which == "noisy_coarse" and "noisy_coarse_label" not in content:
            # the people named a fine class; its superclass is their coarse label
            y = torch.tensor(CIFAR100_COARSE)[_column(content, "noisy_label", fine)]
        else:
            classes = len(CIFAR100_SUPERCLASSES) if which == "noisy_coarse" else fine
            y = _column(content, HUMAN_LABELS[name][which], classes)
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(
            f"{path} cannot be read ({cifar.reason(error, path)}): expected "
            f"{COUNT:,} labels each under {', '.join(HUMAN_LABELS[name].values())} "
            f"and clean_label; {mend}") from error
    if y_true is not None and not torch.equal(clean, y_true.cpu().long()):
        raise ValueError(
            f"{path} is of other images or another order: its clean_label is not "
            f"y_true; {mend}")
    return y


def _read_human(path: Path) -> dict[str, Any]:
    """The arrays of a human label file; a changed byte in a zip archive is an error."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (entry := archive.testzip()) is not None:
                raise cifar.Refused(f"the checksum of its entry {entry} is wrong")
    if path.suffix == ".npz":
        with np.load(path) as file:
            return dict(file)
    # numpy 2 moved it; old files have its old name
    reconstruct = np.empty(0).__reduce__()[0]
    integers = [type(np.dtype(kind)) for kind in ("u1", "i1", "i2", "i4", "i8")]
    allowed: list[Any] = [
        reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct")
    ]
    with torch.serialization.safe_globals([*allowed, np.ndarray, np.dtype, *integers]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _column(content: dict[str, Any], key: str, num_classes: int) -> Tensor:
    if key not in content:
        raise cifar.Refused(f"it has no {key}, only {', '.join(map(str, content))}")
    y = np.asarray(content[key]).reshape(-1)
    if y.dtype.kind not in "iu":
        raise cifar.Refused(f"{key} holds {y.dtype}, not whole numbers")
    labels = torch.from_numpy(y.astype(np.int64))
    try:
        check_labels(labels, num_classes, key, COUNT)
    except ValueError as error:
        raise cifar.Refused(str(error)) from error
    return labels
