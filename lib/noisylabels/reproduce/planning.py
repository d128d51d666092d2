"""Which runs stand behind the printed numbers, what each costs here, and which fit into
a time.

Printed numbers and plans by steps end in one list: settings, each with its priority.
"""

from __future__ import annotations

import csv
import heapq
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from .. import lab, methods, noise, paths, ranges, wording
from ..evidence import published
from ..evidence.published import Cell
from ..evidence.tables import method_of
from ..lab import cost
from ..lab.cost import Cost, Estimates
from ..training import runs, schema
from ..training.runs import Run, Setting
from ..wording import choose, count, duration

START_UP = 5.0  # seconds until a fresh process trains
CANNOT, NOT_BUILT, NO_DATA, NOT_ASKED, REFUSED = (
    "cannot be run here", "method not built yet", "data not here",
    "only when asked for", "these options do not go with it")


# -------------------------------------------------------------------- what is to be run


@dataclass(eq=False)
class Group:
    """One setting but for its seeds: when each is due, the lowest first, and the
    printed numbers that it is run for (a plan by steps has none)."""

    name: str
    due: dict[Setting, int]
    cells: list[Cell] = field(default_factory=list)

    @property
    def settings(self) -> list[Setting]:
        return list(self.due)

    @property
    def priority(self) -> int:
        return min(self.due.values())


def name_of(s: Setting, arm: bool = False) -> str:
    """A setting without its seeds, short; at the paper budget with its network, and as
    the arm of a plan with the options that are not the usual ones.

    The method as printed numbers name it: `elr-cosine` is `elr` whose learning rate is
    restarted.
    """
    noisy = s.noise if s.noise == "none" or s.noise.startswith("human-") else (
        f"{s.noise} {100 * s.rate:.0f} %")
    more = [s.options.get("network")] if s.budget == "paper" else []
    if arm:
        usual = lab.setting(s.method, s.dataset, s.noise, s.rate, s.budget).options
        more += [f"{k}={v}" for k, v in s.options.items() if usual[k] != v]
    more += [f"{s.trusted_per_class} trusted a class"] if s.trusted_per_class else []
    return ", ".join(map(str, (method_of(s), s.dataset, noisy, *more)))


@dataclass
class Selection:
    """What is to be run, in order of priority; `cells`: how many printed numbers were
    asked for; `plan`: the name of a plan by steps; `left_out`: kind of reason -> reason
    -> how many."""

    budget: str = ""
    plan: str = ""
    cells: int = 0
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    by_key: dict[Hashable, Group] = field(default_factory=dict)

    @property
    def groups(self) -> list[Group]:
        return list(self.by_key.values())

    @property
    def settings(self) -> list[Setting]:
        return [s for g in self.groups for s in g.settings]

    def add(self, priority: int, s: Setting, key: Hashable = None) -> Group:
        """One more setting, unless it is there; the first of a group names it."""
        key = key or s.cell.key
        if key not in self.by_key:
            self.by_key[key] = Group(name_of(s, arm=bool(self.plan)), {})
        self.by_key[key].due.setdefault(s, priority)
        return self.by_key[key]

    def leave_out(self, kind: str, reason: str) -> None:
        self.left_out.setdefault(kind, Counter())[reason] += 1


def select(budget: str, seeds: int, *, paper: Sequence[str] = (),
           method: Sequence[str] = (), dataset: Sequence[str] = (),
           changes: Mapping[str, Any] | None = None) -> Selection:
    """The settings behind the printed numbers that pass the filters; empty filters let
    all pass.

    `changes` are further arguments of `lab.setting`. At the smoke budget each pair of
    method and noise is taken once, on the digits; the laptop budget takes CIFAR-10
    alone unless `dataset` names CIFAR-100. A cell whose method refuses the changes is
    left out; when all do, the first refusal is raised (ValueError).
    """
    smoke, cells = budget == "smoke", published.load_cells()
    if other := [
            d for d in dataset if smoke and d in schema.DATASETS and d != "digits"
    ]:
        raise ValueError(
            f"the smoke budget runs the digits alone, not {other[0]}; take "
            "--budget laptop, desk, fast or paper for it.")
    _check(budget, {"paper": paper, "method": method, "dataset": dataset},
           {"paper": published.PAPERS, "method": sorted({c.method for c in cells}),
            "dataset": ["digits"] if smoke else sorted({c.dataset for c in cells})})
    asked = {"paper": paper, "method": method, "dataset": () if smoke else dataset}
    out, absent, refused = Selection(budget), cache(noise.absent), list[ValueError]()
    for cell in sorted(cells, key=lambda c: c.priority):
        if any(only and getattr(cell, k) not in only for k, only in asked.items()):
            continue
        out.cells += 1
        if reason := _left_out(cell, budget, dataset, absent):
            out.leave_out(*reason)
            continue
        arguments = cell.arguments(budget) | ({"dataset": "digits"} if smoke else {})
        try:
            found = [lab.setting(**{**arguments, "seed": k, **(changes or {})})
                     for k in range(seeds)]
        except ValueError as error:
            if not changes:
                raise
            refused.append(error)
            out.leave_out(REFUSED, f"{cell.method}: {error}")
            continue
        first = found[0]
        key = (first.method, first.noise, first.rate) if smoke else first.cell.key
        if key not in out.by_key:
            for s in found:
                out.add(cell.priority, s, key)
        out.by_key[key].cells.append(cell)
    if refused and not out.by_key:
        raise refused[0]
    return out


def _check(budget: str, asked: Mapping[str, Sequence[str]],
           allowed: Mapping[str, Iterable[str]]) -> None:
    if budget != "smoke" and "digits" in asked["dataset"]:
        raise ValueError(
            "the digits are run by the smoke budget alone: --budget smoke.")
    for name, values in asked.items():
        for value in values:
            choose(name, value, allowed[name])


def _left_out(cell: Cell, budget: str, asked: Sequence[str],
              absent: Callable[[str, str], str]) -> tuple[str, str] | None:
    """Why a cell is not run, as (kind, reason), or None."""
    data = "digits" if budget == "smoke" else cell.dataset
    if not cell.runnable:
        return CANNOT, cell.why_not
    if cell.method not in methods.NAMES:
        return NOT_BUILT, cell.method
    try:
        if cell.noise not in lab.noise_kinds(data):
            raise ValueError
        if data == "digits":
            noise.corrupt(torch.arange(10), cell.noise, cell.rate, 10, 0, dataset=data)
    except ValueError:
        return CANNOT, f"{data} has no noise {cell.noise}"
    if budget == "laptop" and data != "cifar10" and data not in asked:
        return NOT_ASKED, f"{data} at the laptop budget (--dataset {data})"
    why = absent(data, cell.noise)
    return (NO_DATA, why) if why else None


# ----------------------------------------------------------------------- plans by steps

COLUMNS = ("step", "budget", "dataset", "noise", "rate", "methods", "options", "seeds")
TAKEN = ("trusted_per_class", "max_samples")  # by `lab.setting` itself, whole numbers
MOST_SEEDS = 1_000  # of a row


def select_plan(name: str, seeds: int | None, *, budget: str | None = None,
                paper: Sequence[str] = (), method: Sequence[str] = (),
                dataset: Sequence[str] = (), changes: Mapping[str, Any] | None = None
                ) -> Selection:
    """The settings of data/plans/<name>.csv that pass the filters, each with its seeds
    (below `seeds`, if given) and the steps at which they are due. Raises ValueError as
    `steps_of`, and for what does not go with this plan.
    """
    there = sorted(file.stem for file in paths.plans_dir().glob("*.csv"))
    if name not in there:
        raise ValueError(
            f"there is no plan {name!r} in {wording.shown(paths.plans_dir())}; there "
            + (f"are: {', '.join(there)}." if there else "is none."))
    if paper:
        raise ValueError(f"the plan {name} goes by steps and not by papers; choose by "
                         "--method and --dataset.")
    steps = steps_of(name, changes or {})
    of = steps[0][1].budget
    if budget not in (None, of):
        raise ValueError(f"--plan {name} is of the {of} budget, not {budget}; leave "
                         "--budget out.")
    _check(of, {"method": method, "dataset": dataset},
           {"method": methods.NAMES, "dataset": sorted({s.dataset for _, s in steps})})
    out, absent = Selection(of, name), cache(noise.absent)
    for step, s in steps:
        if (method and s.method not in method or dataset and s.dataset not in dataset
                or seeds is not None and s.split_seed >= seeds):
            continue
        if why := absent(s.dataset, s.noise):
            out.leave_out(NO_DATA, why)
        else:
            out.add(step, s)
    return out


def steps_of(plan: str, changes: Mapping[str, Any]) -> list[tuple[int, Setting]]:
    """(step, setting) of each row, method and seed of data/plans/<plan>.csv, all of one
    budget, with `changes` of their arguments.

    A row's `methods` are names or `all`, its `options` pairs KEY=VALUE, its `seeds`
    numbers or a range as 0-19, all parted by spaces. A further column, such as `why`,
    is for the reader. Raises ValueError that names the file, the line and what is
    allowed there.
    """
    file = paths.plans_dir() / f"{plan}.csv"
    name, out = f"the plan {wording.shown(file)}", list[tuple[int, Setting]]()
    try:
        # a spreadsheet puts a mark first
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            lacks = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} is no table in UTF-8 with cells parted by commas: "
                         f"{error}.") from error
    if lacks:
        raise ValueError(f"{name} has no column {lacks[0]!r}; its first line must name "
                         f"{', '.join(COLUMNS)}, parted by commas.")
    if not rows:
        raise ValueError(f"{name} has no line below its first; each line is a step.")
    budgets = dict.fromkeys(str(row["budget"]).strip() for _, row in rows)
    if len(budgets) > 1:
        raise ValueError(
            f"{name} names {len(budgets)} budgets ({', '.join(budgets)}); a "
            "plan is of one, so write a file for each.")
    for line, row in rows:
        try:
            step, made = _row(row)
            found = [lab.setting(**a) for a in made]
        except ValueError as error:
            raise ValueError(f"{name}, line {line}: {error}") from error
        if changes:  # these may be at fault, and are not in the file
            found = [lab.setting(**{**a, **changes}) for a in made]
        out += [(step, s) for s in found]
    return out


def _row(row: Mapping[Any, Any]) -> tuple[int, list[dict[str, Any]]]:
    """The step of a row, and the arguments of `lab.setting` for its methods and
    seeds."""
    if None in row or None in row.values():
        raise ValueError(f"it has {'more' if None in row else 'fewer'} cells than the "
                         "first line has names.")
    cell = {c: row[c].strip() for c in COLUMNS}
    step = _whole("step", cell["step"])
    try:
        rate = runs._share("rate", float(cell["rate"]))
    except ValueError:
        raise ValueError(
            f"rate must be a number from 0 to 1, not {cell['rate']!r}.") from None
    names = methods.NAMES if cell["methods"] == "all" else cell["methods"].split()
    for one in names or [""]:
        choose("method", one, (*methods.NAMES, "all"))
    same = {"dataset": cell["dataset"], "noise": cell["noise"], "rate": rate,
            "budget": choose("budget", cell["budget"], runs.BUDGETS),
            **options_of(cell["options"].split())}
    seeds = _seeds_of(cell["seeds"])
    return step, [{"method": m, "seed": k, **same} for m in names for k in seeds]


def options_of(pairs: Iterable[str]) -> dict[str, Any]:
    """{"epochs": "3"} of ["epochs=3"]; `lab.setting` reads the values."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not (key and equals):
            raise ValueError(
                f"an option is a pair KEY=VALUE, such as lr=0.1, not {pair!r}.")
        if key in runs.FLAGS - set(TAKEN):
            raise ValueError(
                f"{key!r} is no option of a method; the printed numbers, or "
                "a plan's columns, decide it.")
        if key in out:
            raise ValueError(f"the option {key!r} is given twice.")
        out[key] = _whole(key, value) if key in TAKEN else value.strip()
    return out


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{name} must be a whole number from 0 on, not {text!r}.")
    return int(text)


def _seeds_of(text: str) -> list[int]:
    """The numbers of "0 1 2" or "0-19"."""
    out: list[int] = []
    for word in text.split():
        found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not low <= high <= ranges.MOST_SEED or len(out) + high - low >= MOST_SEEDS:
            raise ValueError(
                "seeds must be numbers such as 0 1 2 or a range that ascends "
                f"such as 0-19, at most {MOST_SEEDS:,} of them, not {word!r}.")
        out += range(low, high + 1)
    if not out:
        raise ValueError("seeds must name one at least, such as 0 or 0-19.")
    return out


# ------------------------------------------------------------------------ what is to do


@dataclass
class Todo:
    """A run still to do: epochs begun of all, its cost, and what the plan says of
    it."""

    setting: Setting
    group: Group
    begun: int
    epochs: int
    cost: Cost
    fate: str = ""  # ends, begins or waits

    @property
    def seconds(self) -> float:
        """What is left of it."""
        return self.cost.epoch * max(0, self.epochs - self.begun)


@dataclass
class Plan:
    """The selection against the store: recorded runs of it by the setting's key, and
    what is to do, in order of worth. `strange`: what lies in the store and does not
    count, with the reason."""

    selection: Selection
    estimates: Estimates
    recorded: dict[str, Run]
    todo: list[Todo]
    strange: list[str]


def make(selection: Selection, estimates: Estimates, again: bool = False) -> Plan:
    """What is recorded, what is begun, what is to do, in order of worth.

    First what was begun; then by priority, cells of which some seeds are recorded
    first, then the cheapest; the seeds of a cell stay together. In a plan by steps: one
    seed of all cells before the next. Failed runs are to do only with `again`.
    """
    found, problems = runs.scan()
    recorded, order = {r.setting.key: r for r in found}, []
    for run in found:
        estimates.learn(run)
    for number, group in enumerate(selection.groups):
        partly = any(s.key in recorded and recorded[s.key].finished for s in group.due)
        for s, due in group.due.items():
            if s.key in recorded and (recorded[s.key].finished or not again):
                continue
            todo = Todo(s, group, lab.epochs_begun(s), cost.total_epochs(s),
                        estimates.of(s))
            first = s.split_seed if selection.plan else not partly
            worth = (not todo.begun, due, first, todo.cost.seconds, number,
                     s.split_seed)
            order.append((worth, todo))
    order.sort(key=lambda pair: pair[0])
    return Plan(selection, estimates, recorded, [t for _, t in order],
                [str(p) for p in problems])


def pick(waiting: Sequence[Todo], seconds: float) -> Todo | None:
    """The first run of which an epoch at least fits into what is left of the time."""
    return next((t for t in waiting if min(t.cost.epoch, t.seconds) <= seconds), None)


def lay_out(todo: Sequence[Todo], jobs: int, seconds: float) -> None:
    """Say of each run what becomes of it within `seconds`: it ends, begins, or
    waits."""
    for t in todo:
        t.fate = "waits"
    free, waiting = [START_UP] * jobs, list(todo)
    while free and waiting:
        now = heapq.heappop(free)
        if (chosen := pick(waiting, seconds - now)) is not None:
            waiting.remove(chosen)
            chosen.fate = "ends" if now + chosen.seconds <= seconds else "begins"
            heapq.heappush(free, min(seconds, now + chosen.seconds))


# ----------------------------------------------------------------------- the plan, told

FATES = {"ends": "will end", "begins": "begun, resumes next time", "waits": "no time"}


def text(plan: Plan, everything: bool) -> str:
    """What is to be run in which order, what it costs, what becomes of it, what is left
    out; `everything`: also each reason, and what has no time or nothing to do."""
    chosen, todo = plan.selection, plan.todo
    many = count(len(chosen.groups), "setting")
    seeds = len(chosen.groups[0].due) if chosen.groups else 0
    lines = [
        f"{many}, {count(len(chosen.settings), 'run')}: the steps of the plan "
        f"{chosen.plan}, which say the order" if chosen.plan else
        f"{count(chosen.cells, 'printed number')}; {many} x {count(seeds, 'seed')} "
        f"stand for {sum(len(g.cells) for g in chosen.groups)} of them"
    ]
    for kind, reasons in chosen.left_out.items():
        lines.append(f"{reasons.total()} left out, {kind}" + (
            ":" if everything else " (--dry-run says each reason)"))
        lines += [f"  {r} ({n})" for r, n in reasons.most_common() if everything]
    lines += [f"left out of the store: {wording.plain(x)}" for x in plan.strange]
    groups = [g for g in dict.fromkeys([*(t.group for t in todo), *chosen.groups])
              if everything or any(t.group is g and t.fate != "waits" for t in todo)]
    if groups:
        lines.append(wording.table(
            ("run", "step" if chosen.plan else "priority", "numbers", "recorded",
             "begun", "a run takes", "known by", "in this time"),
            [_told(plan, g) for g in groups], ("run", "known by", "in this time")))
    fates, there = Counter(t.fate for t in todo), _recorded(plan, chosen.settings)
    work = duration(sum(t.seconds for t in todo if t.fate == "waits"))
    lines.append(
        f"{count(there[True], 'run')} recorded, {there[False]} failed before; "
        f"{len(todo)} to do: {fates['ends']} will end, {fates['begins']} will begin "
        "and "
        f"resume next time, {fates['waits']} do not fit (about {work} of work" +
        ("; --dry-run lists all)" if fates["waits"] and not everything else ")"))
    guessed = {t.setting.method for t in todo if t.cost.basis == "guess"}
    if guessed:
        lines.append("measured: by recorded runs like it on this hardware; guess: by a "
                     "timing of a few steps and the passes that the method makes")
    if unknown := [m for m in sorted(guessed) if cost.factor_of(m) is None]:
        lines.append(
            f"the passes of {' and '.join(unknown)} are not counted: their guess "
            "is that of cross entropy, and too low")
    return "\n".join(lines)


def _recorded(plan: Plan, settings: Iterable[Setting]) -> Counter[bool]:
    """How many of these are recorded, as finished (True) and as failed."""
    return Counter(plan.recorded[s.key].finished for s in settings
                   if s.key in plan.recorded)


def _told(plan: Plan, group: Group) -> list[object]:
    """A group's line of the plan."""
    todo, there = [t for t in plan.todo if t.group is group], _recorded(plan, group.due)
    fates = Counter(t.fate for t in todo)
    return [
        group.name, group.priority,
        len(group.cells) or "–",
        f"{there[True]}" + (f" ({there[False]} failed)" if there[False] else ""),
        sum(t.begun > 0 for t in todo) or "",
        *((duration(todo[0].cost.seconds), todo[0].cost.basis) if todo else ("", "")),
        ", ".join(f"{fates[k]} {words}"
                  for k, words in FATES.items() if fates[k]) or "nothing to do"
    ]
