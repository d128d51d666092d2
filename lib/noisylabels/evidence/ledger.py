"""What our runs say about the papers: a state for every claim and every printed number.

No state is typed by hand. `data/published/checks.csv` says which recorded runs decide a
claim, by the rules of `published.RULES`; `judge` applies them, `judge_cell` holds a
printed number against the runs of its setting. What was not run, or has no check, says
what it would take.

Only runs with a method's usual settings count (`rules.usual`), and the arms that a check
names; any other ablation decides no claim.
Budgets are never mixed; of those that decide, the largest speaks. A budget decides a
check when its runs reach what the claim speaks of (`Check.decidable_at`) and both sides
were trained equally (`published.compare`); runs that do not are told, and the state is
"needs the ... budget".
"""

from __future__ import annotations

import functools
import html
import math
import re
import statistics
from collections import Counter
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
    STYLE,
    Html,
    Summary,
    badge,
    data_name,
    markup,
    name_of,
    noise_name,
    plain_table,
    plus_minus,
    printed_number,
    summaries,
)

BUDGETS = published.DECIDING[::-1]
"""Budgets that can decide a claim, the strongest first; the digits of `smoke` decide none."""
STATES = (*published.STATES, "no check yet")
SHOWN = 3  # comparisons of a claim that are told in full


@dataclass(frozen=True)
class Entry:
    """A claim, its state, the budget that decided it (None: none did) and what it would
    take."""

    claim: Claim
    verdict: Verdict
    budget: str | None = None
    would_take: str = ""


@dataclass(frozen=True)
class Target:
    """A printed number, its state, and the runs that were held against it."""

    cell: Cell
    verdict: Verdict
    ours: Summary | None = None


# --------------------------------------------------------------------------- claims


def judge(claim: Claim, recorded: Iterable[Run]) -> Entry:
    """The state of a claim after the recorded runs.

    A claim with a printed number takes the verdict of its cells at the `paper` budget.
    Any other claim, and every claim at a smaller budget, is a direction: it holds when
    all its comparisons hold, it does not as soon as one fails, and it is not settled
    when one is not. A claim of which comparisons are missing, none of them failing,
    needs a larger budget where runs of a smaller one could not decide it, and else
    counts as not run.
    """
    recorded = list(recorded)
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
        cases = by_case(recorded, budget)
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
        its = f"{len(stopped)} of its {count} comparisons" if count > 1 else "its only comparison"
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
            f"The claim as a whole needs the {least} budget: not all of its comparisons "
            "can be decided below it.")
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
                   recorded: list[Run]) -> Entry | None:
    """The verdict of a claim's printed numbers; None while none of its cells is run in
    full.

    The worst of its cells speaks; cells not run yet leave it at "not run".
    """
    cells = {c.cell: c for c in published.load_cells()}
    names = [n for c in checks if c.rule == "number" for n in c.others.split()]
    cases = by_case(recorded, "paper")
    directions = [o for c in checks if c.rule != "number" for o in outcomes(c, cases)]
    holds = None
    if directions and all(o.done for o in directions):
        held = [o.holds for o in directions]
        holds = False if False in held else None if None in held else True
    said = [
        judge_cell(cells[n], recorded, holds, budgets=("paper",)).verdict for n in names
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
    words = (f"{MIN_RUNS * len(cases)} runs at the {budget} budget: "
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


# --------------------------------------------------------------------------- on a page

PAPERS = {"mixnn": "MixNN", "ieg": "IEG", "drpl": "DRPL", "sanm": "SANM",
          "secondhand": "Other works"}


OPTIONS = {
    "schedule=restarts": "cosine restarts",
    "transition=estimated": "estimated transition matrix",
    "k=0": "without consistency term", "mix=no": "without MixUp",
    "epochs=150": "150 epochs",
}
"""Options of a printed row, in words."""


def recorded(folder: str = "") -> list[Run]:
    """The runs to judge by: of the store, or of a folder that must hold some."""
    if not folder:
        return runs.find()
    if not (found := runs.find(Path(folder).expanduser())):
        raise ValueError(
            f"the folder {folder} holds no finished run; leave it out for the "
            "project's own, data/runs.")
    return found


def overview(entries: Iterable[Entry]) -> Html:
    """How many claims of each paper are in which state."""
    entries = list(entries)
    states = [s for s in STATES if any(e.verdict.state == s for e in entries)]
    papers = [p for p in PAPERS if any(e.claim.paper == p for e in entries)]
    count = {(p, s): sum(e.claim.paper == p and e.verdict.state == s for e in entries)
             for p in papers for s in states}
    rows = [[
        PAPERS[p],
        sum(count[p, s] for s in states), *(count[p, s] for s in states)
    ] for p in papers]
    totals = ["All", len(entries), *(sum(count[p, s] for p in papers) for s in states)]
    return plain_table(["Paper", "Claims", *(s.capitalize() for s in states)],
                       [*rows, totals])


def claim_list(entries: Iterable[Entry]) -> Html:
    """Claims that unfold, by state: the state and the claim; inside, what was compared
    and the source."""
    parts = []
    for e in sorted(entries, key=lambda e: STATES.index(e.verdict.state)):
        c = e.claim
        lines = [("State", f"{e.verdict.sentence} {e.would_take}".strip()),
                 ("Printed", c.target), ("What would show it", c.shows),
                 ("Where", f"{c.where}. {c.source} ({c.confidence})"), ("Name", c.id)]
        said = [f"<b>{name}:</b> {_text(text)}" for name, text in lines if text]
        links = ", ".join(
            f'<a href="{html.escape(p)}.html">{html.escape(_title(p))}</a>'
            for p in c.page.split() if published.PAGE.fullmatch(p))
        if links:
            said.insert(1, f"<b>Looked at outside the rules:</b> {links}")
        inside = "".join(f"<p>{text}</p>" for text in said)
        small = e.budget if e.budget not in (None, BUDGETS[0]) else ""
        parts.append(
            f'<details class="nl-fold"><summary>{badge(e.verdict.state, small or "")}'
            f"{_text(c.claim)}</summary>{inside}</details>")
    return Html(
        STYLE + "".join(parts) if parts else "<p>No claim is in this state.</p>",
        f"{len(parts)} claims")


def _text(text: str) -> str:
    """Text for a page, in which a number and its per cent sign stay together."""
    return html.escape(text).replace(" %", "\u00a0%")


def _title(page: str) -> str:
    """What a page is called in a link: `small_loss` is "small loss"."""
    return PAPERS.get(page, page.replace("_", " "))


def target_list(targets: Iterable[Target]) -> Html:
    """Printed numbers that unfold by the table they stand in, ours beside them."""
    tables: dict[tuple[str, str], list[Target]] = {}
    for t in targets:
        tables.setdefault((t.cell.paper, t.cell.table), []).append(t)
    parts = []
    for (_, name), members in tables.items():
        what = "number" if any(t.cell.published_value is not None
                               for t in members) else "setting"
        heads = Counter((_target_head(t.cell), t.cell.metric) for t in members)
        seen = {
            b: sum(t.ours is not None and t.ours.setting.budget == b for t in members)
            for b in BUDGETS
        }
        seen = {b: n for b, n in seen.items() if n}
        shut = Counter(t.cell.why_not for t in members if not t.cell.runnable)
        said = f"{len(members)} {what}{'s' if len(members) > 1 else ''}, " + (", ".join(
            f"{n} with runs of ours at the {b} budget"
            for b, n in seen.items()) or "none with runs of ours")
        said += f", {shut.total()} cannot be run here" if shut else ""
        rows = [
            _target_row(t, heads[_target_head(t.cell), t.cell.metric] > 1)
            for t in members
        ]
        grid = markup("", ["Method", "Printed", "Ours", "State"], rows,
                      {"Printed": "num", "Ours": "num"})
        notes = ["; ".join(dict.fromkeys(t.cell.source for t in members)),
                 *(f"Cannot be run here ({n}): {why}." for why, n in shut.items())]
        parts.append(
            f'<details class="nl-fold"><summary><b>{html.escape(name)}</b>: {said}'
            f"</summary>{''.join(f'<p>{html.escape(n)}</p>' for n in notes)}{grid}"
            "</details>")
    return Html(STYLE + "".join(parts),
                f"{sum(map(len, tables.values()))} printed numbers")


def _target_head(c: Cell) -> tuple[str, str]:
    """The method as it was printed, and what tells its row from the others of the
    table."""
    name = name_of(c.printed_method)
    pairs = [p for p in c.options.split(";") if p and p != f"network={c.network}"]
    named = [data_name(c.dataset), noise_name(c.noise, c.rate), c.network,
             *(OPTIONS.get(p, p.replace("=", " = ").replace("_", " ")) for p in pairs)]
    if c.trusted_per_class:
        named.append(f"{c.trusted_per_class} trusted per class")
    return name, ", ".join(named)


JUDGED = ("reproduced", "partly", "not reproduced", "too few runs")
"""States of a number whose sentence says more than the table's caption."""


def _target_row(t: Target, twice: bool = False) -> list[str]:
    """`twice`: another row of the table has the same head, so that only the source
    differs. Runs of a smaller budget are not put beside a printed number: the two are
    not to be compared."""
    c = t.cell
    name, named = _target_head(c)
    head = f"{html.escape(name)}<small>{html.escape(named)}</small>"
    if twice:
        head += f"<small>{html.escape(c.source)}</small>"
    ours = "–"
    if t.ours is not None and t.ours.setting.budget == BUDGETS[0]:
        values = t.ours.metric(c.metric)
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        shown = plus_minus((statistics.fmean(values), spread), len(values))
        ours = f"{shown}<small>n = {len(values)}</small>"
    number, how = (printed_number(c).removesuffix(")").split(" (", 1) + [""])[:2]
    state = "cannot be run here" if not c.runnable else t.verdict.state
    told = html.escape(t.verdict.sentence)
    small = f"<small>{told}</small>" if t.verdict.state in JUDGED else ""
    printed = f"{html.escape(number)}<small>{html.escape(how)}</small>"
    return [head, printed, ours, badge(state) + small]
