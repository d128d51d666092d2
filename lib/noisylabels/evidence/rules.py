"""Rules that recorded runs are held against: what is compared, and when it holds.

A row of `data/published/checks.csv` names a rule of `published.RULES`, the runs that it
looks at and the smallest budget whose runs reach what the claim speaks of. Runs are
named by *arms*: `mixnn` is the method with its usual settings,
`mixnn:partner=random,targets=frozen` with other options, and
`cross_entropy@asymmetric/0.4` under another noise than that of the row.

`above` and `within` compare two arms over paired seeds, in a measure (`MEASURES`); the
rules of `EACH` look at one run at a time and hold when they hold in every run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import lab
from ..kernels import mixtures
from ..training.runs import Run, Setting
from . import detection, published
from .published import MARGIN, MIN_RUNS, Check
from .tables import data_name, mean_last_10, method_of, name_of, noise_name

Case = tuple[str, str, str, float]  # arm without its noise, dataset, noise, rate
Seeds = tuple[int, int, int]
Runs = Mapping[Case, Mapping[Seeds, Run]]
COMPARING = ("above", "within")
"""Rules that compare an arm with others; the rest look at one run at a time."""
POINTS = 10.0  # rule `mends`: this far above the given labels
AUC, EARLY = 0.75, 10  # rule `ranks`: at least this, in about this epoch
APART = 2.0  # rule `heaps`: Ashman's D of two heaps that one can tell apart
OUTWEIGH = 2.0  # rule `outweighs`: wrong labels pull at least so much harder
FLIP = 120  # rule `flips_late`: no label changes before this epoch


class Outcome(NamedTuple):
    """One comparison: True, False or None (not settled); `done` False when not run, or
    when `barred` says why its runs cannot decide it."""

    done: bool
    holds: bool | None
    words: str
    barred: str = ""


# ------------------------------------------------------------------------- runs, sorted


def usual(recorded: Iterable[Run]) -> list[Run]:
    """The finished runs whose method has its usual settings for that budget."""
    return [r for r in recorded if r.finished and _is_usual(r)]


def _is_usual(run: Run) -> bool:
    s = run.setting
    case = (s.method, s.dataset, s.noise, round(s.rate, 6))
    return _key(case, s.budget) == s.cell.key


def by_case(recorded: Iterable[Run], budget: str) -> dict[Case, dict[Seeds, Run]]:
    """The runs of one budget, by what was run and by their three seeds: those with
    usual settings, and the arms that a check names."""
    of_budget = [r for r in recorded if r.setting.budget == budget and r.finished]
    arms: dict[str, list[Case]] = {}
    for case in _arms():
        if (key := _key(case, budget)) is not None:
            arms.setdefault(key, []).append(case)
    cases: dict[Case, dict[Seeds, Run]] = {}
    for run in of_budget:
        s = run.setting
        named = list(arms.get(s.cell.key, ()))
        if _is_usual(run):
            named.append((s.method, s.dataset, s.noise, round(s.rate, 6)))
        for case in named:
            cases.setdefault(case, {})[s.split_seed, s.noise_seed, s.init_seed] = run
    return cases


def _arms() -> list[Case]:
    """Every case with options that a check compares."""
    return list(dict.fromkeys(case for check in published.load_checks()
                              for case in cases_of(check) if ":" in case[0]))


@functools.lru_cache(maxsize=4096)
def _key(case: Case, budget: str) -> str | None:
    """The key of a case's setting but for the seeds; None where it cannot be run."""
    try:
        return setting_of(case, budget).cell.key
    except ValueError:  # a data set that is not here, an option that does not fit
        return None


def setting_of(case: Case, budget: str, **more: Any) -> Setting:
    """The setting of a case at that budget. Raises ValueError as `lab.setting`."""
    arm, dataset, noise, rate = case
    method, _, options = arm.partition(":")
    chosen: dict[str, Any] = dict(
        pair.split("=", 1) for pair in options.split(",") if pair)
    if "trusted_per_class" in chosen:
        chosen["trusted_per_class"] = int(chosen["trusted_per_class"])
    where = {"dataset": dataset, "noise": noise, "rate": rate, "budget": budget}
    return lab.setting(method, **{**where, **chosen, **more})


def case_of(arm: str, dataset: str, noise: str, rate: float) -> Case:
    """`mixnn:partner=random@asymmetric/0.4` as a case; without "@" under that noise."""
    name, _, where = arm.partition("@")
    if where:
        noise, _, text = where.partition("/")
        rate = float(text or 1)
    return name, dataset, noise, round(rate, 6)


def cases_of(check: Check) -> list[Case]:
    """Everything that must be run for a check."""
    others = check.others.split() if check.rule in COMPARING else []
    return [case_of(arm, check.dataset, check.noise, float(rate))
            for rate in check.rates.split() for arm in (check.method, *others)]


# --------------------------------------------------------------------------- the rules


def compare(one: Mapping[Seeds, Run], other: Mapping[Seeds, Run], rule: str = "above",
            measure: str = "", limit: float | None = None) -> Outcome:
    """Rule `above` or `within`: `one` against `other` over the seeds that both have.

    Args:
        measure: a name of `MEASURES`; "" is the accuracy after the last epoch, which
            takes equal training (`published.compare`).
        limit: of the measure's unit: `above` asks for more than that (0 by default),
            `within` for no more either way.
    """
    of, scale, unit = MEASURES[measure]
    found = published.Comparison(
        published.paired(_numbers(one, of, scale), _numbers(other, of, scale),
                         unit=unit, digits=1 if scale == 100 else 3),
        published.unequal(one.values(), other.values()) if not measure else "")
    if found.paired.n < MIN_RUNS:
        return Outcome(False, None, f"{found.paired.n} of {MIN_RUNS} paired runs")
    if found.unequal:
        return Outcome(False, None, f"{found.unequal}, {found.paired.numbers}",
                       f"unequal training, {found.unequal}")
    holds = _beyond(found.paired, limit or 0.0) if rule == "above" else _inside(
        found.paired, limit or 0.0)
    answer = {True: "yes", False: "no", None: "not settled"}[holds]
    bound = "" if not limit else (
        f" (more than {limit:g} asked)" if rule == "above" else f" ({limit:g} allowed)")
    return Outcome(True, holds, f"{answer}, {found.paired.numbers}{bound}")


def above(one: Mapping[Seeds, Run], other: Mapping[Seeds, Run]) -> Outcome:
    """Rule `above` in the last epoch's accuracy."""
    return compare(one, other)


def _beyond(d: published.Paired, limit: float) -> bool | None:
    """Whether the difference lies above `limit`: its whole interval, or none of it."""
    low, high = d.low - limit, d.high - limit
    if d.n < MIN_RUNS or low <= published.ROUNDING and high >= -published.ROUNDING:
        return None
    return low > 0


def _inside(d: published.Paired, limit: float) -> bool | None:
    """Whether the difference lies within +-limit: its whole interval, or none of it."""
    if d.n < MIN_RUNS:
        return None
    if -limit - published.ROUNDING <= d.low and d.high <= limit + published.ROUNDING:
        return True
    return False if d.low > limit or d.high < -limit else None


def _numbers(found: Mapping[Seeds, Run], of: Callable[[Run], float], scale: float
             ) -> dict[Seeds, float]:
    """The measure of each run that has it."""
    every = {seeds: scale * of(run) for seeds, run in found.items()}
    return {seeds: value for seeds, value in every.items() if math.isfinite(value)}


def _auc_of_losses(run: Run) -> np.ndarray:
    """Area under the ROC curve of the loss, after each epoch kept; empty without."""
    if "losses" not in run.signals:
        return np.empty(0)
    return detection.auc_of_losses(run)[1]


def _early(run: Run) -> int:
    """Where in the kept epochs epoch ten lies, or the nearest to it."""
    epochs = np.asarray(run.info.get("losses_of", ()))
    return int(np.abs(epochs - EARLY).argmin()) if len(epochs) else 0


def _auc_early(run: Run) -> float:
    found = _auc_of_losses(run)
    return float(found[_early(run)]) if len(found) else math.nan


def _auc_exposed(run: Run) -> float:
    """DRPL: of p(clean) when relabelling ends; any other method: of the loss at the
    end of its training."""
    if run.setting.method == "drpl":
        return _stage_auc(run, "S1")
    found = _auc_of_losses(run)
    return float(found[-1]) if len(found) else math.nan


def _stage_auc(run: Run, stage: str) -> float:
    """The last area that a stage noted (`S2` also names "S2 split"); NaN without."""
    stages = [str(name) for name in run.epochs.get("stage", ())]
    column = np.asarray(run.epochs.get("auc", ()), float)
    values = [v for name, v in zip(stages, column, strict=False)
              if name.startswith(stage) and "warm-up" not in name and np.isfinite(v)]
    return float(values[-1]) if values else math.nan


def _purity(run: Run) -> float:
    """Share of rightly labelled training images whose nearest neighbours' vote in the
    features of the last epoch is their class."""
    if not detection.features(run) or "given" not in run.signals:
        return math.nan
    return list(detection.votes(run).values())[-1]["right"]


def _kept(run: Run) -> float:
    """Share of all training labels that IEG's selector keeps at the end."""
    rate = run.info["realised_rate"]
    return (1 - rate) * _final(run, "p_right") + rate * _final(run, "p_wrong")


MEASURES: dict[str, tuple[Callable[[Run], float], float, str]] = {
    "": (Run.last, 100, "points"),
    "auc early": (_auc_early, 1, "in area"),
    "auc exposed": (_auc_exposed, 1, "in area"),
    "purity": (_purity, 100, "points"),
    "labels kept": (_kept, 100, "points"),
}
"""What `above` and `within` compare: the number of a run, its scale and its unit."""


def _level(run: Run) -> bool:
    return 100 * (run.best() - mean_last_10(run)) <= MARGIN


def _memorises(run: Run) -> bool:
    """Early peak, later fall, wrong labels learnt in between."""
    at = int(np.nanargmax(run.last_stage()))
    falls = 100 * (run.best() - run.last()) > MARGIN
    return falls and run.last("wrong_fit") > float(run.last_stage("wrong_fit")[at])


def _final(run: Run, column: str) -> float:
    """The last value of a column that is a number; NaN without any."""
    values = np.asarray(run.epochs.get(column, ()), float)
    values = values[np.isfinite(values)]
    return float(values[-1]) if len(values) else math.nan


def _mends(run: Run) -> bool:
    given = 100 * (1 - run.info["realised_rate"])
    return 100 * _final(run, "label_accuracy") >= given + POINTS


def _early_auc(run: Run) -> float:
    """Area under the ROC curve of MixNN's w in the tenth epoch, or in the last epoch
    before the corrections of labels where these begin sooner; NaN when not noted.

    After a correction w says that the network agrees with its targets, no longer that a
    label is right. An epoch's w comes from the losses before its first step: in epoch
    10 of the published schedule, after nine epochs of cross entropy. As w falls with
    the loss, but for the lowest losses where the mixture's wider component may come
    back, this is nearly the area of the loss.
    """
    o = run.setting.options
    at = max(o["warm_up"], min(EARLY, o["start_epoch"] - 1))
    values = run.epochs.get("auc", ())
    return float(values[at - 1]) if len(values) >= at else math.nan


def _ranks(run: Run) -> bool:
    return _early_auc(run) >= AUC


def _vote(run: Run) -> dict[str, float]:
    """The neighbours' vote at the kept epoch nearest to the tenth."""
    if not detection.features(run) or "given" not in run.signals:
        return {"right": math.nan, "wrong": math.nan}
    every = detection.votes(run)
    return every[min(every, key=lambda epoch: abs(epoch - EARLY))]


def _pull(run: Run) -> float:
    """How hard wrong labels pull over right ones when the test accuracy is best: the
    ratio of the mean gradient coefficients |p - y| at the given label, 1 -
    exp(-loss)."""
    if "losses" not in run.signals:
        return math.nan
    epochs, losses = detection.loss_history(run)
    best = int(np.nanargmax(run.last_stage())) + 1
    row = 1 - np.exp(-losses[int(np.abs(epochs - best).argmin())])
    wrong = np.asarray(run.signals["wrong"], bool)
    return float(row[wrong].mean() / row[~wrong].mean())


def _heaps(run: Run) -> float:
    """Ashman's D of two Gaussians fitted to the scaled losses at about epoch ten."""
    if "losses" not in run.signals:
        return math.nan
    losses = detection.loss_history(run)[1][_early(run)]
    scaled, _ = mixtures.normalise(torch.from_numpy(losses))
    fit = mixtures.fit_gaussians(scaled, converged=True)
    if bool(mixtures.degenerate(fit.status)):
        return 0.0
    low, high = fit.means.tolist()
    return math.sqrt(2) * abs(high - low) / math.sqrt(float(fit.variances.sum()))


def _flips(run: Run) -> float:
    """The first epoch after which the share of right labels among the targets is not
    what it was at first; NaN where it never changes or was not noted."""
    share = np.asarray(run.epochs.get("label_accuracy", ()), float)
    if not len(share):
        return math.nan
    moved = np.flatnonzero(np.abs(share - share[0]) > 1e-3)
    return float(moved[0]) + 1 if len(moved) else math.nan


def _half(run: Run) -> float:
    """Points between the accuracy half way and that at the end."""
    test = run.last_stage()
    return 100 * abs(float(test[len(test) // 2 - 1]) - run.last())


def _gap(run: Run) -> float:
    return 100 * (_final(run, "p_right") - _final(run, "p_wrong"))


EACH: dict[str, tuple[Callable[[Run], bool], Callable[[Run], float], str, str]] = {
    "level": (_level, lambda r: 100 * (r.best() - mean_last_10(r)),
              "best epoch minus mean of the last ten:",
              f" points; at most {MARGIN:g} allowed"),
    "falls": (lambda r: not _level(r), lambda r: 100 * (r.best() - mean_last_10(r)),
              "best epoch minus mean of the last ten:",
              f" points; more than {MARGIN:g} needed"),
    "memorises": (_memorises, lambda r: 100 * (r.best() - r.last()),
                  "best epoch minus last:",
                  f" points; more than {MARGIN:g} needed, and wrong labels learnt "
                  "since"),
    "mends": (_mends,
              lambda r: 100 *
              (_final(r, "label_accuracy") + r.info["realised_rate"] - 1),
              "share of right labels among the targets minus that among the given "
              "labels:",
              f" points; at least {POINTS:g} needed"),
    "ranks": (_ranks, _early_auc,
              "area under the ROC curve before labels are corrected:",
              f"; at least {AUC:g} needed"),
    "gathers": (lambda r: _vote(r)["right"] > 0.5 > _vote(r)["wrong"],
                lambda r: 100 * _vote(r)["wrong"],
                "wrong labels that the neighbours' vote repeats:",
                " %; less than 50 needed, and more than 50 of right labels"),
    "outweighs": (lambda r: _pull(r) >= OUTWEIGH, _pull,
                  "pull of wrong labels over that of right ones:",
                  f"; at least {OUTWEIGH:g} needed"),
    "heaps": (lambda r: _heaps(r) > APART, _heaps, "Ashman's D of the losses:",
              f"; more than {APART:g} needed"),
    "flips_late": (lambda r: _flips(r) >= FLIP, _flips,
                   "first epoch in which labels change:", f"; {FLIP} or later needed"),
    "selects": (lambda r: _gap(r) > 0, _gap,
                "right labels kept minus wrong labels kept:",
                " points; more than 0 needed"),
    "half_way": (lambda r: _half(r) <= MARGIN, _half,
                 "between half way and the end:",
                 f" points; at most {MARGIN:g} allowed"),
    "exposes": (lambda r: _stage_auc(r, "S1") >= AUC, lambda r: _stage_auc(r, "S1"),
                "area under the ROC curve when relabelling ends:",
                f"; at least {AUC:g} needed"),
    "sharpens": (lambda r: _stage_auc(r, "S2") > _stage_auc(r, "S1"),
                 lambda r: _stage_auc(r, "S2") - _stage_auc(r, "S1"),
                 "area under the ROC curve after the second stage minus after the "
                 "first:",
                 "; more than 0 needed"),
}
"""Rules that look at one run at a time: when they hold, the number that is looked at,
and the words before and behind it."""


def _seen(rule: str, found: Iterable[Run]) -> str:
    """What a rule looked at in each run, in words."""
    _, number, before, behind = EACH[rule]
    values = [number(r) for r in found]
    shown = [
        "not noted" if math.isnan(v) else f"{v:.2f}".replace("-", "\u2212")
        for v in values
    ]
    return f"{before} {', '.join(shown)}{behind}"


def outcomes(check: Check, cases: Runs, budget: str = "paper") -> list[Outcome]:
    """The comparisons of a check, one a rate and, for `above` and `within`, one a
    rival. Not for `number`.

    `budget`: of the runs in `cases`; below `check.decidable_at` it bars every
    comparison.
    """
    out = []
    for rate in check.rates.split():
        at = (check.dataset, check.noise, float(rate))
        my_case = case_of(check.method, *at)
        mine = cases.get(my_case, {})
        if check.rule in COMPARING:
            for arm in check.others.split():
                case = case_of(arm, *at)
                theirs = cases.get(case, {})
                found = compare(mine, theirs, check.rule, check.measure, check.limit)
                word = "over" if check.rule == "above" else "and"
                what = f", {check.measure}" if check.measure else ""
                said = (f"{_arm_name(my_case, mine)} {word} {_arm_name(case, theirs)}, "
                        f"{_where(my_case, case)}{what}: {found.words}")
                out.append(found._replace(words=said))
        else:
            test, number, *_ = EACH[check.rule]
            noted = [r for r in mine.values() if not math.isnan(number(r))]
            hits = [test(r) for r in noted]
            done = len(hits) >= MIN_RUNS
            holds = True if all(hits) else None if any(hits) else False
            said = (f"{_arm_name(my_case, mine)}, {_where(my_case)}: met in "
                    f"{sum(hits)} of {len(mine)} runs "
                    f"({_seen(check.rule, mine.values())})")
            out.append(Outcome(done, holds if done else None, said))
    if published.decides(budget, check.decidable_at):
        return out
    late = f"only the {check.decidable_at} budget reaches what is claimed"
    if check.decidable_at != published.DECIDING[-1]:
        late = (f"the {check.decidable_at} budget is the smallest that reaches what is "
                "claimed")
    return [o._replace(done=False, barred=o.barred or late) if o.done or o.barred else o
            for o in out]


def _arm_name(case: Case, of: Mapping[Any, Run]) -> str:
    """The arm's name on a page: its method's (ELR* where ELR restarts) and options."""
    method, _, options = case[0].partition(":")
    name = name_of(next((method_of(r.setting) for r in of.values()), method))
    return f"{name} ({options.replace(',', ', ')})" if options else name


def _where(one: Case, other: Case | None = None) -> str:
    """The data and the noise of two cases, told once where they are the same."""
    said = [noise_name(case[2], case[3]) for case in (one, other) if case is not None]
    return f"{data_name(one[1])}, {' against '.join(dict.fromkeys(said))}"
