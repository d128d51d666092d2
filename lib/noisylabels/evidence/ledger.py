"""What our runs say about the papers: a state for every claim and every printed number.

No state is typed by hand. `data/published/checks.csv` says which recorded runs decide a
claim, by the rules of `published.RULES`; `judge` applies them, `judge_cell` holds a
printed number against the runs of its setting. What was not run, or has no check, says
what it would take.

Only runs with a method's usual settings count (`rules.usual`), and the arms that a
check names; any other ablation decides no claim.
Budgets are never mixed; of those that decide, the largest speaks. A budget decides a
check when its runs reach what the claim speaks of (`Check.decidable_at`) and both sides
were trained equally (`published.compare`); runs that do not are told, and the state is
"needs the ... budget".
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import lab, methods
from ..training import runs
from ..training.runs import Run
from . import published
from .published import MIN_RUNS, Cell, Check, Claim, Verdict
from .rules import Outcome, by_case, cases_of, outcomes, setting_of
from .tables import (
    Summary,
    data_name,
    name_of,
    summaries,
)

BUDGETS = published.DECIDING[::-1]
"""Budgets that can decide a claim, the strongest first; `smoke` decides none."""
STATES = (*published.STATES, "no check yet")
SHOWN = 3  # comparisons of a claim that are told in full


@dataclass(frozen=True)
class Entry:
    """A claim, its state, the budget that decided it (None: none did) and what it would
    take.

    finding: what the largest budget with runs shows so far, decided or not: "desk: 3
    yes, 1 open", or of a single comparison its numbers.
    """

    claim: Claim
    verdict: Verdict
    budget: str | None = None
    would_take: str = ""
    finding: str = ""


@dataclass(frozen=True)
class Target:
    """A printed number, its state, and the runs that were held against it."""

    cell: Cell
    verdict: Verdict
    ours: Summary | None = None


# --------------------------------------------------------------------------- claims


def judge(claim: Claim, recorded: Iterable[Run]) -> Entry:
    """The state of a claim after the recorded runs, with what they show so far."""
    return judge_all([claim], recorded)[0]


def judge_all(claims: Iterable[Claim], recorded: Iterable[Run]) -> list[Entry]:
    """`judge` for many claims; the runs are sorted once."""
    found = _Sorted(recorded)
    return [dataclasses.replace(_judge(c, found), finding=_finding(c, found))
            for c in claims]


class _Sorted:
    """The recorded runs, and their cases by budget once somebody asks for these."""

    def __init__(self, recorded: Iterable[Run]) -> None:
        self.runs = list(recorded)
        self.cases = functools.cache(lambda budget: by_case(self.runs, budget))


def _finding(claim: Claim, recorded: _Sorted) -> str:
    """The comparisons of the largest budget with runs of some, counted; "" without."""
    checks = [c for c in published.load_checks()
              if c.claim == claim.id and c.rule != "number"]
    for budget in BUDGETS if checks else ():
        found = [o for c in checks for o in outcomes(c, recorded.cases(budget), budget)
                 if o.done or o.barred]
        if found:
            yes, no = (sum(o.holds is said for o in found) for said in (True, False))
            words = {"yes": yes, "no": no, "open": len(found) - yes - no}
            return f"{budget}: " + ", ".join(f"{n} {w}" for w, n in words.items() if n)
    return ""


def _judge(claim: Claim, recorded: _Sorted) -> Entry:
    """The state of a claim after the recorded runs.

    A claim with a printed number takes the verdict of its cells at the `paper` budget.
    Any other claim, and every claim at a smaller budget, is a direction: it holds when
    all its comparisons hold, it does not as soon as one fails, and it is not settled
    when one is not. A claim of which comparisons are missing, none of them failing,
    needs a larger budget where runs of a smaller one could not decide it, and else
    counts as not run.
    """
    checks = published.load_checks(claim=claim.id) if claim.id in _checked() else []
    if not checks:
        needs = re.sub(r"[\w-]+", lambda word: data_name(word[0]), claim.needs)
        words = "No check is written for it yet, so no run can decide it."
        return Entry(claim, Verdict("no check yet", words), None, f"Needs {needs}.")
    numbers = [c for c in checks if c.rule == "number"]
    if numbers and (entry := _judge_numbers(claim, checks, recorded)) is not None:
        return entry
    directions = [c for c in checks if c.rule != "number"]
    partial: tuple[int, str] = (0, "")
    barred: list[tuple[str, list[Outcome], int]] = []
    for budget in BUDGETS if directions else ():
        cases = recorded.cases(budget)
        found = [o for c in directions for o in outcomes(c, cases, budget)]
        done = [o for o in found if o.done]
        failed = [o for o in done if o.holds is False]
        if failed or (done and len(done) == len(found)):
            return Entry(claim, _direction(budget, checks, found, done, failed), budget)
        if len(done) > partial[0]:
            words = f"{_have_runs(budget, len(done), len(found))}, none fails."
            partial = (len(done), " " + words)
        if stopped := [o for o in found if o.barred]:
            barred.append((budget, stopped, len(found)))
    if barred:
        return Entry(claim, _needs_more(checks, barred, partial[1].strip()), None,
                     _would_take(checks))
    return Entry(
        claim,
        Verdict("not run",
                "Not run." if not partial[1] else f"Not run in full.{partial[1]}"),
        None, _would_take(checks))


def _least(checks: Iterable[Check]) -> str:
    """The smallest budget that can decide all the checks."""
    return max(map(_smallest, checks), key=published.DECIDING.index)


@functools.lru_cache(maxsize=256)
def _smallest(check: Check) -> str:
    """The smallest budget that reaches what a check speaks of and trains all its
    methods equally; `paper` where only the published recipes count as that."""
    for budget in published.DECIDING:
        if budget == "paper" or (published.decides(budget, check.decidable_at)
                                 and _equal_settings(check, budget)):
            return budget
    raise AssertionError("paper is the last of the budgets")


def _equal_settings(check: Check, budget: str) -> bool:
    """Whether a budget's usual settings give all methods of a check the same network
    and length; a method that is not built yet is passed over."""
    if check.measure:  # taken while training: an order of methods it is not
        return True
    lengths: dict[tuple[str, str, float], set[Any]] = {}
    for case in cases_of(check):
        if case[0].partition(":")[0] in methods.NAMES:
            s = setting_of(case, budget)
            # a length in steps is the paper budget's alone
            samples = s.max_samples or 50_000
            lengths.setdefault(case[1:], set()).add(
                (s.options.get("network"), lab.total_epochs(s, samples)))
    return all(len(found) == 1 for found in lengths.values())


def _needs_more(checks: list[Check], barred: list[tuple[str, list[Outcome], int]],
                partial: str) -> Verdict:
    """The state of a claim that has runs, but at budgets that cannot decide it."""
    parts = [partial] if partial else []
    for budget, stopped, count in barred:
        why = "; ".join(dict.fromkeys(o.barred for o in stopped))
        its = (f"{len(stopped)} of its {count} comparisons" if count > 1 else
               "its only comparison")
        have = "have" if len(stopped) > 1 else "has"
        parts.append(
            f"At the {budget} budget {its} {have} runs, which cannot decide: {why}.")
    budget, stopped, _ = barred[0]
    told = "; ".join(o.words for o in stopped[:SHOWN])
    more = f"; and {len(stopped) - SHOWN} more" if len(stopped) > SHOWN else ""
    parts.append(f"Seen there, no verdict: {told}{more}.")
    directions = [c for c in checks if c.rule != "number"]
    least = _least(directions)
    if any(_smallest(c) == least != c.decidable_at for c in directions):
        parts.append(
            f"The claim as a whole needs the {least} budget: below it not all of its "
            "methods are trained equally.")
    elif any(c.decidable_at != least for c in directions):
        parts.append(
            f"The claim as a whole needs the {least} budget: not all of its "
            "comparisons can be decided below it.")
    return Verdict(published.needs(least), " ".join(parts))


def _checked() -> set[str]:
    return {c.claim for c in published.load_checks()}


def _direction(budget: str, checks: list[Check], found: list[Outcome],
               done: list[Outcome], failed: list[Outcome]) -> Verdict:
    close = [o for o in done if o.holds is None]
    held = sum(o.holds is True for o in done)
    state = ("direction does not hold" if failed else
             "direction not settled" if close else "direction holds")
    counts = [
        f"{held} hold" + "s" * (held == 1),
        f"{len(failed)} fail" + "s" * (len(failed) == 1), f"{len(close)} not settled"
    ]
    words = f"{_have_runs(budget, len(done), len(found))}: {', '.join(counts)}. "
    if len(found) == 1:
        words = f"At the {budget} budget its only comparison was made. "
    told = failed or close or done
    words += "Against it: " if failed else "Open: " if close else "For it: "
    words += "; ".join(o.words for o in told[:SHOWN])
    words += f"; and {len(told) - SHOWN} more." if len(told) > SHOWN else "."
    left = sorted({c.left_out for c in checks if c.left_out})
    return Verdict(state,
                   words + (f" Not looked at: {'; '.join(left)}." if left else ""))


def _have_runs(budget: str, done: int, found: int) -> str:
    """How many of the comparisons of a claim could be made."""
    every = f"all {found}" if done == found else f"{done} of the {found}"
    return f"At the {budget} budget {every} comparisons have runs"


def _judge_numbers(claim: Claim, checks: list[Check],
                   recorded: _Sorted) -> Entry | None:
    """The verdict of a claim's printed numbers; None while none of its cells is run in
    full.

    The worst of its cells speaks; cells not run yet leave it at "not run".
    """
    cells = {c.cell: c for c in published.load_cells()}
    names = [n for c in checks if c.rule == "number" for n in c.others.split()]
    cases = recorded.cases("paper")
    directions = [o for c in checks if c.rule != "number" for o in outcomes(c, cases)]
    holds = None
    if directions and all(o.done for o in directions):
        held = [o.holds for o in directions]
        holds = False if False in held else None if None in held else True
    said = [
        judge_cell(cells[n], recorded.runs, holds, budgets=("paper",)).verdict
        for n in names
    ]
    run = [v for v in said if v.state != "not run"]
    if not run:
        return None
    order = ("not reproduced", "partly", "too few runs", "no published number",
             "reproduced")
    worst = min(run, key=lambda v: order.index(v.state))
    counted = f"{len(run)} of {len(names)} printed numbers run. {worst.sentence}"
    if len(run) < len(names) and worst.state == "reproduced":
        return Entry(claim, Verdict("not run", f"Not run in full. {counted}"), None,
                     _would_take(checks))
    return Entry(claim, Verdict(worst.state, counted), "paper")


def _would_take(checks: list[Check]) -> str:
    """The runs that a claim rests on, in words."""
    cases = dict.fromkeys(case for c in checks for case in cases_of(c))
    names = list(dict.fromkeys(case[0].partition(":")[0] for case in cases))
    absent = [name_of(n) for n in names if n not in methods.NAMES]
    least = _least([c for c in checks if c.rule != "number"] or checks)
    budget = least if least == BUDGETS[0] else f"{least} or larger"
    settings = "1 setting" if len(cases) == 1 else f"{len(cases)} settings"
    words = (f"It would take {MIN_RUNS * len(cases)} runs at the {budget} budget: "
             f"{', '.join(map(name_of, names))} on "
             f"{' and '.join(dict.fromkeys(data_name(case[1]) for case in cases))} "
             f"({settings}, {MIN_RUNS} seeds each).")
    return words + (f" Not built yet: {', '.join(absent)}." if absent else "")


# ---------------------------------------------------------------------- printed numbers


def judge_cell(cell: Cell, recorded: Iterable[Run], claim_holds: bool | None = None, *,
               budgets: Iterable[str] = BUDGETS) -> Target:
    """The state of one printed number, after the runs of exactly its setting at the
    `paper` budget; without any, after the usual runs of the next smaller budget that
    has some."""
    if not cell.runnable:
        return Target(cell, Verdict("not run", f"{published._upper(cell.why_not)}."))
    if cell.method not in methods.NAMES:
        return Target(cell,
                      Verdict("not run", f"{name_of(cell.method)} is not built yet."))
    recorded = [r for r in recorded if r.setting.method == cell.method
                and r.setting.dataset == cell.dataset and r.setting.noise == cell.noise]
    for budget in budgets if recorded else ():
        wanted = lab.setting(**cell.arguments(budget))
        hits = [r for r in recorded if r.setting.cell.key == wanted.cell.key]
        ours = summaries(hits, [wanted])[0]
        if ours.n:
            said = published.verdict(budget, ours.metric(cell.metric),
                                     cell.published_value, cell.published_std,
                                     claim_holds)
            return Target(cell, said, ours)
    return Target(cell,
                  Verdict("not run", f"It takes {MIN_RUNS} runs at the paper budget."))


def recorded(folder: str = "") -> list[Run]:
    """The runs to judge by: of the store, or of a folder that must hold some."""
    if not folder:
        return runs.find()
    if not (found := runs.find(Path(folder).expanduser())):
        raise ValueError(
            f"the folder {folder} holds no finished run; leave it out for the "
            "project's own, data/runs.")
    return found
