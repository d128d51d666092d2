"""Side by side: every method under one protocol, from the recorded runs alone.

The same images, noise files, network and seeds for all; what a method does beside that
(epochs, passes, trusted images) is told with it. `conditions` sorts the runs, `against`
takes paired differences to one of the methods, `ranks` says how sure an order over
several noises is, `choices` what the choice of the epoch changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import lab
from ..lab import cost
from ..training.runs import Run
from . import figures, published, rules
from .published import Paired
from .tables import mean_last_10, name_of, noise_name

Conditions = Mapping["Condition", Mapping[str, Sequence[Run]]]


class Condition(NamedTuple):
    """What all methods of a comparison share."""

    noise: str
    rate: float

    @property
    def name(self) -> str:
        return noise_name(self.noise, self.rate)


@dataclass(frozen=True)
class Difference:
    """A method against another under one noise.

    passes: forward and backward passes of its whole training over those of the other
    (NaN where they were not counted); trusted: images a class whose labels it knows to
    be right.
    """

    condition: Condition
    method: str
    paired: Paired
    epochs: int
    passes: float
    seconds: float
    trusted: int


def conditions(recorded: Iterable[Run], budget: str, dataset: str,
               least: int = 2) -> dict[Condition, dict[str, list[Run]]]:
    """The finished runs with usual settings, by noise and by method.

    `least`: a noise with fewer methods is left out. Raises ValueError where nothing is
    left.
    """
    out: dict[Condition, dict[str, list[Run]]] = {}
    for run in rules.usual(recorded):
        s = run.setting
        if s.budget == budget and s.dataset == dataset:
            where = Condition(s.noise, round(s.rate, 6))
            out.setdefault(where, {}).setdefault(s.method, []).append(run)
    out = {k: dict(sorted(v.items())) for k, v in out.items() if len(v) >= least}
    if not out:
        raise ValueError(
            f"no noise has runs of {least} methods at the {budget} budget on "
            f"{dataset}; "
            f"`noisylabels reproduce --budget {budget}` makes them.")
    return dict(sorted(out.items(), key=lambda kv: (-len(kv[1]), kv[0])))


def richest(recorded: Iterable[Run], dataset: str,
            noises: Sequence[tuple[str, float]], least: int = 8) -> str:
    """The largest budget at which each of `noises` has usual runs of `least` methods,
    cross entropy among them.

    Raises ValueError where there is none.
    """
    recorded = list(recorded)
    for budget in published.DECIDING[::-1]:
        try:
            found = conditions(recorded, budget, dataset, least)
        except ValueError:
            continue
        if all("cross_entropy" in found.get(Condition(*n), ()) for n in noises):
            return budget
    raise ValueError(f"no budget has runs of {least} methods under all of these noises "
                     "on "
                     f"{dataset} yet; `noisylabels reproduce` makes them.")


def against(found: Conditions, rival: str = "cross_entropy",
            number: Callable[[Run], float] = Run.last) -> list[Difference]:
    """Paired differences to `rival`, in points, of every method under every noise that
    the rival has runs of."""
    out = []
    for where, methods in found.items():
        if rival not in methods:
            continue
        base = published.by_seed(methods[rival], number)
        total = _passes(methods[rival][0])
        for name, runs in methods.items():
            if name != rival:
                mine = published.by_seed(runs, number)
                out.append(Difference(
                    where, name, published.paired(mine, base),
                    len(runs[0].epochs["test"]), _passes(runs[0]) / total,
                    float(np.median([r.info["seconds"] for r in runs])),
                    runs[0].setting.trusted_per_class))
    return out


def _passes(run: Run) -> float:
    """Forward and backward passes over the images of a whole training; NaN if the
    method's were not counted."""
    factor = cost.factor_of(run.setting.method)
    if factor is None:
        return math.nan
    return factor * len(run.epochs["test"]) * lab.images(run.setting).train


def ranks(found: Conditions, methods: Sequence[str], draws: int = 2_000,
          seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Method -> its mean rank over the noises (1 is best), and the 5th and 95th
    percentile of that over draws of the seeds with replacement.

    Only noises that all of `methods` have runs of count. Seeds are drawn alike for all
    methods of a noise. Raises ValueError without such a noise.
    """
    if not methods:
        raise ValueError("ranks takes at least one method.")
    tables = []
    for of in found.values():
        if set(methods) <= set(of):
            each = [published.by_seed(of[m]) for m in methods]
            seeds = sorted(set.intersection(*(set(e) for e in each)), key=str)
            if seeds:
                tables.append(np.array([[e[s] for s in seeds] for e in each]))
    if not tables:
        raise ValueError(f"no noise has runs of all of {', '.join(methods)}.")
    draw = np.random.default_rng(seed)

    def order(means: np.ndarray) -> np.ndarray:
        """Rank of each, 1 for the largest; equal ones share theirs."""
        return 0.5 * ((means[:, None] < means).sum(1) + (means[:, None] <= means).sum(1)
                      + 1)

    mean = np.mean([order(t.mean(1)) for t in tables], axis=0)
    drawn = np.array([
        np.mean([order(t[:, draw.integers(0, t.shape[1], t.shape[1])].mean(1))
                 for t in tables], axis=0) for _ in range(draws)])
    low, high = np.percentile(drawn, [5, 95], axis=0)
    rows = zip(methods, mean, low, high, strict=True)
    return {m: (float(r), float(a), float(b))
            for m, r, a, b in sorted(rows, key=lambda row: row[1])}


CHOICES: dict[str, Callable[[Run], float]] = {
    "last": Run.last, "mean of the last ten": mean_last_10,
    "noisy validation": Run.by_validation, "oracle": Run.best,
}
"""How an epoch is chosen -> the accuracy there. The oracle looks at the test set."""


def choices(methods: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, float]]:
    """Method -> choice of the epoch -> mean accuracy in per cent (NaN without a
    split)."""
    return {name: {how: 100 * float(np.mean([of(r) for r in runs]))
                   for how, of in CHOICES.items()} for name, runs in methods.items()}


def moved(of: Mapping[str, Mapping[str, float]], one: str = "last",
          other: str = "oracle") -> list[tuple[str, str]]:
    """Pairs of methods (a, b) with a above b by one choice and below by the other."""
    names = list(of)
    return [(a, b) for a in names for b in names
            if of[a][one] > of[b][one] and of[a][other] < of[b][other]]


# --------------------------------------------------------------------------- pictures


def dots(differences: Sequence[Difference], methods: Sequence[str]) -> Any:
    """A dot and Student's interval for each method, a panel for each noise.

    Filled where the sign of the difference is settled; orange with trusted images.
    `methods`: the rows, from the top.
    """
    from matplotlib.figure import Figure

    figures.style()
    panels = list(dict.fromkeys(d.condition for d in differences))
    figure = Figure(figsize=(2.1 + 2.0 * len(panels), 0.9 + 0.27 * len(methods)),
                    layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        ax.axvline(0, color=figures.GREY, linewidth=1)
        for d in differences:
            if d.condition != panel or d.method not in methods:
                continue
            at, p = methods.index(d.method), d.paired
            colour = figures.ORANGE if d.trusted else figures.BLUE
            if math.isfinite(p.low):
                ax.plot([p.low, p.high], [at, at], color=colour, linewidth=1.6)
            ax.plot(p.mean, at, "o", color=colour, markersize=6,
                    markerfacecolor=colour if p.settled else "white")
        ax.set_title(panel.name.replace("\u00a0", " "), fontsize=9.5)
        ax.set_ylim(len(methods) - 0.5, -0.5)
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(methods)), [name_of(m) for m in methods])
    figure.supxlabel("Points above cross entropy in the last epoch", fontsize=9.5)
    return figure


def price(points: Mapping[str, tuple[float, float]], front: Sequence[str]) -> Any:
    """Accuracy in per cent against cost, with the step line of the frontier."""
    ax = figures.axes(size=(5.4, 4.0))
    most = max(paid for paid, _ in points.values())
    ax.step([points[m][0] for m in front] + [most],
            [points[m][1] for m in front] + [points[front[-1]][1]], where="post",
            color=figures.GREY, linewidth=1)
    floor = -math.inf
    for m, (paid, accuracy) in sorted(points.items(), key=lambda kv: kv[1][1]):
        ax.plot(paid, accuracy, "o", color=figures.BLUE if m in front else figures.GREY)
        floor = max(floor + 0.035 * _span(points), accuracy)  # names do not overlap
        ax.annotate(name_of(m), (paid, floor), (6, -3), textcoords="offset points",
                    fontsize=8.5)
    ticks = [t for t in (1, 2, 3, 5, 10, 20) if t <= 1.2 * most]
    ax.set(xscale="log", xlim=(0.9, 2.0 * most),
           xlabel="Passes of the whole training over cross entropy's",
           ylabel="Test accuracy, last epoch, %")
    ax.set_xticks(ticks, [str(t) for t in ticks], minor=False)
    ax.minorticks_off()
    return ax


def _span(points: Mapping[str, tuple[float, float]]) -> float:
    """How far the accuracies reach, in points."""
    every = [accuracy for _, accuracy in points.values()]
    return max(max(every) - min(every), 1.0)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of (cost, accuracy) pairs that no other beats in both, by rising cost."""
    best, out = -math.inf, []
    for name, (_, accuracy) in sorted(points.items(),
                                      key=lambda kv: (kv[1][0], -kv[1][1])):
        if accuracy > best:
            best = accuracy
            out.append(name)
    return out


# ------------------------------------------------------------------------- ingredients


@dataclass(frozen=True)
class Ingredient:
    """What a part of a method buys: the method with it against the same without it.

    `full` and `without` are arms (`rules`); the difference is `full` minus `without`,
    so above zero the part helps. `epochs`: of both trainings.
    """

    method: str
    part: str
    full: str
    without: str
    condition: Condition
    paired: Paired
    epochs: tuple[int, int]


def ingredients(recorded: Iterable[Run], parts: Iterable[tuple[str, str, str]],
                budget: str, dataset: str, noise: str, rate: float) -> list[Ingredient]:
    """One for each (part, full arm, arm without it) of which both sides have runs."""
    by_key: dict[str, list[Run]] = {}
    for run in recorded:
        if run.finished and run.setting.budget == budget:
            by_key.setdefault(run.setting.cell.key, []).append(run)
    out = []
    for part, full, without in parts:
        cases = [rules.case_of(arm, dataset, noise, rate) for arm in (full, without)]
        keys = [rules.setting_of(case, budget).cell.key for case in cases]
        sides = [by_key.get(key, []) for key in keys]
        if all(sides):
            ours, theirs = (published.by_seed(side) for side in sides)
            out.append(Ingredient(
                full.partition(":")[0], part, full, without,
                Condition(noise, round(rate, 6)), published.paired(ours, theirs),
                (len(sides[0][0].epochs["test"]), len(sides[1][0].epochs["test"]))))
    return out


def bought(found: Sequence[Ingredient]) -> Any:
    """A dot and Student's interval for what each part buys, sorted by method."""
    figures.style()
    rows = [f"{name_of(i.method)}: {i.part}" for i in found]
    ax = figures.axes(size=(6.2, 0.9 + 0.3 * len(found)))
    ax.axvline(0, color=figures.GREY, linewidth=1)
    for at, i in enumerate(found):
        colour = figures.colour_of(i.method)
        if math.isfinite(i.paired.low):
            ax.plot([i.paired.low, i.paired.high], [at, at], color=colour,
                    linewidth=1.6)
        ax.plot(i.paired.mean, at, "o", color=colour, markersize=6,
                markerfacecolor=colour if i.paired.settled else "white")
    ax.set_yticks(range(len(found)), rows)
    ax.set(xlabel="Points that it adds in the last epoch",
           ylim=(len(found) - 0.5, -0.5))
    ax.set_xlim(*_without_the_far(found))
    ax.grid(axis="y", visible=False)
    return ax


def _without_the_far(found: Sequence[Ingredient]) -> tuple[float, float]:
    """Limits that hold all means and the nearer interval ends: a wide interval of three
    seeds would squeeze all others."""
    means = [i.paired.mean for i in found]
    reach = 1.3 * max(map(abs, means), default=1.0) + 2
    ends = [e for i in found for e in (i.paired.low, i.paired.high) if abs(e) <= reach]
    return min([0.0, *means, *ends]) - 1, max([0.0, *means, *ends]) + 1
