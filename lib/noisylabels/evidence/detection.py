"""How well what a run kept of single samples finds the wrong labels, epoch by epoch.

Runs of the desk budget keep every sample's loss after every epoch, and those of cross
entropy the features of six epochs (`Run.signals`). What is read here needs no training.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

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


# ------------------------------------------------------------------ scores of suspicion


def scores(run: Run) -> dict[str, np.ndarray]:
    """Every score of suspicion that a run kept: name -> (N,), larger is more suspect.

    `loss, epoch k`: the cross entropy against the given label; `p(clean)`: what the
    method itself says at the end, as one minus it (of two networks their mean); where
    all losses were kept `mean loss`, over all epochs; where features were kept
    `neighbours`, the share of the 20 nearest with another given label at the kept
    epoch nearest to the tenth.
    """
    kept = run.signals
    out: dict[str, np.ndarray] = {}
    if "losses" in kept:
        epochs, losses = loss_history(run)
        chosen = dict.fromkeys([int(np.abs(epochs - 10).argmin()), len(epochs) - 1])
        out |= {f"loss, epoch {epochs[i]}": losses[i] for i in chosen}
        out["mean loss"] = losses.mean(0)
    else:
        found = {int(n.removeprefix("loss-")): v for n, v in kept.items()
                 if n.startswith("loss-")}
        out |= {f"loss, epoch {e}": np.asarray(v, np.float32)
                for e, v in sorted(found.items())}
    said = [np.asarray(v, np.float32) for n, v in kept.items()
            if n.startswith("p_clean")]
    if said:
        out["p(clean)"] = 1 - np.mean(said, axis=0)
    every = features(run)
    if every and "given" in kept:
        epoch = min(every, key=lambda e: abs(e - 10))
        index, _ = neighbours.nearest(torch.from_numpy(every[epoch]), 20)
        given = torch.from_numpy(kept["given"]).long()
        other = given[index] != given[:, None]
        out[f"neighbours, epoch {epoch}"] = other.float().mean(1).numpy()
    return out


def doubt(run: Run) -> tuple[str, np.ndarray]:
    """How much a run doubts each given label in the end: a name, and float64 (N,),
    larger is more doubtful.

    Minus p(label is right) where the method says one (the mean of two networks), else
    the cross entropy of the given label after the last epoch at which it was kept.
    Raises ValueError for a run that kept neither, or not the images' numbers.
    """
    kept = run.signals
    if not kept:
        raise ValueError(
            "this run was recorded without signals; `noisylabels train ... --signals "
            "--again` trains it once more for them.")
    if "index" not in kept or "given" not in kept:
        raise ValueError(
            "the signals of this run were kept before the images' numbers were; "
            "`lab.prepare(run.setting)` makes them anew from the data: [1].index and "
            "[0].y_given.")
    said = [kept[k].astype(np.float64) for k in kept if k.startswith("p_clean")]
    epochs = [int(k[5:]) for k in kept if re.fullmatch(r"loss-\d+", k)]
    if said:
        return "p(right)", -np.mean(said, axis=0)
    if not epochs:
        raise ValueError(
            "the signals of this run hold neither p(label is right) nor losses.")
    name = f"loss-{max(epochs)}"
    return name, kept[name].astype(np.float64)


@dataclass(frozen=True)
class Quality:
    """How well a score finds the wrong labels, each with its 90 % bootstrap interval
    over the images: (value, low, high)."""

    auroc: tuple[float, float, float]
    average_precision: tuple[float, float, float]
    at_100: tuple[float, float, float]
    at_errors: tuple[float, float, float]


def quality(score: np.ndarray, wrong: np.ndarray, draws: int = 200,
            seed: int = 0) -> Quality:
    """Ranking quality of a score (N,) against bool (N,).

    at_100: share of wrong labels among the hundred most suspect (of all where there are
    fewer); at_errors: among as many as there are wrong ones, where precision and recall
    are the same. Of equal scores each counts with its share. Values that are not finite
    count as the most suspect. Raises ValueError where no label is wrong, or all are.
    """
    wrong = np.asarray(wrong, bool)
    s = np.nan_to_num(np.asarray(score, np.float64), nan=np.inf, posinf=np.inf)
    if len(s) != len(wrong):
        raise ValueError(f"{len(s)} scores do not fit {len(wrong)} labels.")
    if wrong.all() or not wrong.any():
        raise ValueError(
            "a score is judged where some labels are wrong and some right.")
    _, rank = np.unique(s, return_inverse=True)  # equal scores, equal ranks
    draw = np.random.default_rng(seed)
    once = _qualities(rank, wrong)
    drawn = np.array([_qualities(rank[i], wrong[i]) for i in
                      draw.integers(0, len(s), (draws, len(s)))])
    low, high = np.nanpercentile(drawn, [5, 95], axis=0)
    return Quality(*((float(v), float(a), float(b))
                     for v, a, b in zip(once, low, high, strict=True)))


def _qualities(rank: np.ndarray,
               wrong: np.ndarray) -> tuple[float, float, float, float]:
    """AUROC, average precision, precision at 100 and at the number of wrong labels."""
    bad = np.bincount(rank, wrong, minlength=rank.max() + 1)[::-1]  # most suspect first
    all_of = np.bincount(rank, minlength=rank.max() + 1)[::-1].astype(float)
    errors, right = bad.sum(), (all_of - bad).sum()
    if not errors or not right:
        return (math.nan,) * 4
    hits, seen = bad.cumsum(), all_of.cumsum()
    good = all_of - bad
    # pairs in order: right ones less suspect, and half of those as suspect
    auroc = float((bad * (right - good.cumsum() + good / 2)).sum() / (errors * right))
    with np.errstate(invalid="ignore"):
        precision = np.where(seen > 0, hits / np.maximum(seen, 1), 0.0)
    average = float((precision * bad).sum() / errors)

    def at(k: float) -> float:
        k = min(k, seen[-1])
        i = int(np.searchsorted(seen, k))
        before = (hits[i - 1], seen[i - 1]) if i else (0.0, 0.0)
        return float((before[0] + (k - before[1]) * bad[i] / all_of[i]) / k)

    return auroc, average, at(100), at(errors)
