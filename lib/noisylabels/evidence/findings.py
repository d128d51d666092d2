"""What came out, in a few sentences and one picture: the front page of the book.

Each sentence is made from the recorded runs when the book is built, and is left out
while its runs are not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..training.runs import Run
from . import detection, ledger, protocol, published
from .tables import name_of

NOISES = [("symmetric", 0.4), ("asymmetric", 0.4), ("symmetric", 0.8)]
DIGITS = ("smoke", "digits", "symmetric", 0.6)


def sentences(recorded: Iterable[Run]) -> list[str]:
    """MyST text, one finding each, with a link to its page."""
    recorded = list(recorded)
    made = (find(recorded) for find in (_ahead, _partners, _masks, _suspects, _claims))
    return [text for text in made if text]


def _shown(recorded: list[Run]) -> tuple[str, list[protocol.Difference]] | None:
    """The budget and the differences of the picture; None without enough runs."""
    try:
        budget = protocol.richest(recorded, "cifar10", NOISES)
    except ValueError:
        return None
    found = protocol.conditions(recorded, budget, "cifar10")
    return budget, [d for d in protocol.against(found) if d.condition in NOISES]


def _ahead(recorded: list[Run]) -> str:
    if (shown := _shown(recorded)) is None:
        return ""
    budget, every = shown
    plain = [d for d in every if not d.trusted]
    told = []
    for noise in NOISES:
        here = [d for d in plain if d.condition == noise]
        above = [d for d in here if d.paired.holds]
        told.append(f"{len(above)} of {len(here)} under "
                    f"{protocol.Condition(*noise).name} noise")
    small = "" if published.decides(budget, published.ORDERS) else (
        " These runs are short and the network small, so they are a first look.")
    return ("**Whether a method helps depends on the noise.** Methods without trusted "
            f"images that end above plain cross entropy, settled: {', '.join(told)} "
            f"([one protocol](/book/executed/side_by_side.ipynb)).{small}")


def _one(recorded: list[Run], part: tuple[str, str, str], budget: str, dataset: str,
         noise: str, rate: float) -> protocol.Ingredient | None:
    found = protocol.ingredients(recorded, [part], budget, dataset, noise, rate)
    return found[0] if found else None


def _partners(recorded: list[Run]) -> str:
    found = _one(recorded, ("", "mixnn", "mixnn:partner=random"), *DIGITS)
    if found is None:
        return ""
    say = {True: "beat random ones", False: "lose to random ones",
           None: "are not known to beat random ones"}[found.paired.holds]
    return (f"**MixNN's nearest neighbours {say}** as partners: "
            f"{found.paired.numbers}, on the digits at 60\u00a0% ([what each "
            "ingredient buys](/book/executed/ingredients.ipynb)).")


def _masks(recorded: list[Run]) -> str:
    found = [i for budget in ("desk", "laptop") for noise, rate in NOISES
             if (i := _one(recorded, ("", "sanm", "sanm:branches=random"), budget,
                           "cifar10", noise, rate)) is not None]
    if not found:
        return ""
    sure = [i for i in found if i.paired.settled]
    most = max(found, key=lambda i: abs(i.paired.mean))
    head = ("SANM's masks at the peak are not known to beat masks anywhere" if not sure
            else "Where SANM's masks lie makes a difference")
    size = f"{most.paired.mean:+.1f}".replace("-", "\u2212")
    return (f"**{head}**: {len(sure)} of {len(found)} comparisons on photographs are "
            f"settled, the largest difference is {size} points ([SANM]"
            "(/book/executed/sanm.ipynb)).")


def _suspects(recorded: list[Run]) -> str:
    for run in recorded:
        s = run.setting
        what = (s.budget, s.dataset, s.noise, s.method)
        if what == ("desk", "cifar10", "symmetric",
                    "cross_entropy") and "losses" in run.signals:
            _, losses = detection.loss_history(run)
            wrong = run.signals["wrong"]
            late, mean = (detection.quality(score, wrong, draws=1).auroc[0]
                          for score in (losses[-1], losses.mean(0)))
            return "" if mean <= late else (
                "**Plain training finds most wrong labels itself.** Averaged over all "
                "epochs, the loss of plain cross entropy ranks them with an AUROC of "
                f"{mean:.2f}; that of the last epoch, when they are learnt by heart, "
                f"with {late:.2f} ([finding the wrong labels]"
                "(/book/executed/detection.ipynb)).")
    return ""


def _claims(recorded: list[Run]) -> str:
    entries = ledger.judge_all(published.load_claims(), recorded)
    states = [e.verdict.state for e in entries]
    hold = sum(s in ("reproduced", "direction holds") for s in states)
    fail = sum(s in ("not reproduced", "direction does not hold") for s in states)
    ruled = len(states) - states.count("no check yet")
    return (f"**Of {len(states)} claims of the four papers {ruled} have a written "
            f"rule; {hold or 'none'} hold{'s' * (hold == 1)} so far, {fail or 'none'} "
            f"fail{'s' * (fail == 1)}**, and the rest wait for longer runs "
            "([the ledger](/book/executed/ledger.ipynb)).")


def picture(recorded: Iterable[Run]) -> tuple[Any, str] | None:
    """The first picture of *One protocol* and what it shows, in words; None without
    enough runs."""
    if (shown := _shown(list(recorded))) is None:
        return None
    _, every = shown
    plain = [d for d in every if not d.trusted]
    mean = {m: sum(d.paired.mean for d in plain if d.method == m)
            for m in {d.method for d in plain}}
    rows = sorted(mean, key=lambda m: (-mean[m], m))
    first = ", ".join(name_of(m) for m in rows[:3])
    return protocol.dots(plain, rows), (
        "Three panels, one a noise: for each method a dot with an interval, its points "
        f"above cross entropy. Highest on average: {first}.")
