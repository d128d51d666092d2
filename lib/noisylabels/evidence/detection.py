"""How well what a run kept of single samples finds the wrong labels, epoch by epoch.

Runs of the desk budget keep every sample's loss after every epoch, and those of cross
entropy the features of six epochs (`Run.signals`). What is read here needs no training.
"""

from __future__ import annotations

import numpy as np
import torch

from ..kernels import mixtures, neighbours
from ..training import schema
from ..training.recorder import Losses
from ..training.runs import Run


def loss_history(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (E,) and the samples' losses after each of them (E, N), float32, to 2.5 %.

    Raises ValueError for a run that kept none.
    """
    kept = run.signals
    if "losses" not in kept:
        raise ValueError(
            f"{run.setting} kept no losses of all epochs; runs of the desk budget "
            "do.")
    try:
        schema.check_losses(kept["losses"], run.info)
    except ValueError as error:
        raise ValueError(f"the signals of {run.setting} do not fit its record: {error}."
                         ) from error
    return np.asarray(run.info["losses_of"]), Losses.read(kept["losses"])


def _truth(run: Run) -> torch.Tensor:
    """bool (N,): the given label is wrong."""
    if "wrong" not in run.signals:
        raise ValueError(
            f"{run.setting} kept no signals that say which labels are wrong.")
    return torch.from_numpy(run.signals["wrong"]).bool()


def auc_of_losses(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Epochs (E,) and the area under the ROC curve (E,) of the loss as a sign of a
    wrong label: the chance that of one wrong and one right label the wrong one has the
    larger loss. NaN where no label is wrong, or all are. Raises ValueError as
    `loss_history`."""
    epochs, losses = loss_history(run)
    wrong = _truth(run)
    return epochs, np.array(
        [float(mixtures.auc(torch.from_numpy(row), wrong)) for row in losses])


def features(run: Run) -> dict[int, np.ndarray]:
    """Epoch -> the samples' leading principal components (N, 10), in steps of a 255th
    of their range; the epochs ascend. Empty for a run that kept none."""
    found = {int(name.removeprefix("features-")): values.T.astype(np.float32) - 128
             for name, values in run.signals.items() if name.startswith("features-")}
    return dict(sorted(found.items()))


def votes(run: Run, k: int = 20) -> dict[int, dict[str, float]]:
    """Epoch -> how often the vote of the k nearest neighbours is the sample's own given
    label.

    The vote is the most frequent given label among the neighbours in those components
    (of equally frequent ones the smallest class). `right`: share among samples with a
    right label, where the given label is the true class; `wrong`: among those with a
    wrong one, where it repeats the mistake (NaN without such samples). Raises
    ValueError for a run that kept no features.
    """
    kept, every = run.signals, features(run)
    if not every or "given" not in kept:
        raise ValueError(
            f"{run.setting} kept no features with the given labels; runs of cross "
            "entropy at the desk budget do.")
    wrong = _truth(run)
    given = torch.from_numpy(kept["given"]).long()
    classes = int(given.max()) + 1
    out = {}
    for epoch, found in every.items():
        index, _ = neighbours.nearest(torch.from_numpy(found), k)
        counts = torch.zeros(len(given), classes).scatter_add_(
            1, given[index], torch.ones(len(given), k))
        said = counts.argmax(1)
        out[epoch] = {"right": float((said == given)[~wrong].float().mean()),
                      "wrong": float((said == given)[wrong].float().mean())}
    return out
