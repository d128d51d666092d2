"""Which runs stand behind the printed numbers, what each costs here, and which fit into
a time."""

from __future__ import annotations

import csv
import heapq
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import torch

from .. import lab, methods, noise, paths, ranges, wording
from ..evidence import published
from ..evidence.published import Cell
from ..evidence.tables import method_of
from ..lab import cost
from ..training import engine, runs, schema
from ..training.runs import Run, Setting
from ..wording import choose, count, duration

START_UP = 5.0  # seconds until a fresh process trains
TIMED = 0.5  # seconds a timing takes
SHOWN = 3  # settings that do not fit, unless all are to be shown
CANNOT, NOT_BUILT, NO_DATA, NOT_ASKED, REFUSED = (
    "cannot be run here", "method not built yet", "data not here",
    "only when asked for", "these options do not go with it")


# -------------------------------------------------------------------- what is to be run


@dataclass(frozen=True)
class Group:
    """One setting but for its seeds, and the printed numbers that it is run for: or
    none, and the steps of the budget's own plan at which its seeds are due."""

    cells: tuple[Cell, ...]
    settings: tuple[Setting, ...]
    steps: tuple[int, ...] = ()

    @property
    def priority(self) -> int:
        return min((*(c.priority for c in self.cells), *self.steps))

    def due(self, s: Setting) -> int:
        """The priority of one of its settings."""
        return self.steps[self.settings.index(s)] if self.steps else self.priority

    @property
    def name(self) -> str:
        return name_of(self.settings[0], arm=bool(self.steps))


def name_of(s: Setting, arm: bool = False) -> str:
    """A setting without its seeds, short; at the paper budget with its network, and as
    the arm of a plan with the options that are not the usual ones.

    The method as printed numbers name it: `elr-cosine` is `elr` whose learning rate is
    restarted.
    """
    noisy = s.noise if s.noise == "none" or s.noise.startswith("human-") else (
        f"{s.noise} {100 * s.rate:.0f} %")
    more = f", {s.options.get('network')}" if s.budget == "paper" else ""
    if arm:
        usual = lab.setting(s.method, s.dataset, s.noise, s.rate, s.budget).options
        more += "".join(f", {k}={v}" for k, v in s.options.items() if usual[k] != v)
    more += f", {s.trusted_per_class} trusted a class" if s.trusted_per_class else ""
    return f"{method_of(s)}, {s.dataset}, {noisy}{more}"


@dataclass
class Selection:
    """Groups in order of priority; `left_out`: kind of reason -> reason -> printed
    numbers."""

    budget: str = ""
    groups: list[Group] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    cells: int = 0
    plan: str = ""  # the name of the plan by steps, "" for the printed numbers

    @property
    def settings(self) -> list[Setting]:
        return [s for g in self.groups for s in g.settings]

    def leave_out(self, kind: str, reason: str) -> None:
        self.left_out.setdefault(kind, Counter())[reason] += 1


def select(budget: str, seeds: int, *, paper: Sequence[str] = (),
           method: Sequence[str] = (), dataset: Sequence[str] = (),
           changes: Mapping[str, Any] | None = None) -> Selection:
    """The groups behind the printed numbers that pass the filters; empty filters let
    all pass.

    `changes` are further arguments of `lab.setting`. At the smoke budget each pair of
    method and noise is taken once, on the digits; the laptop budget takes CIFAR-10
    alone unless `dataset` names CIFAR-100. A cell whose method refuses the changes is
    left out; when all do, the first refusal is raised (ValueError).
    """
    smoke, cells = budget == "smoke", published.load_cells()
    if other := [d for d in dataset if smoke and d in schema.DATASETS and d != "digits"]:
        raise ValueError(f"the smoke budget runs the digits alone, not {other[0]}; take "
                         "--budget laptop, desk, fast or paper for it.")
    if not smoke and "digits" in dataset:
        raise ValueError("the digits are run by the smoke budget alone: --budget smoke.")
    _check({"paper": paper, "method": method, "dataset": dataset},
           {"paper": published.PAPERS, "method": sorted({c.method for c in cells}),
            "dataset": ["digits"] if smoke else sorted({c.dataset for c in cells})})
    out, absent = Selection(budget), cache(noise.absent)
    refused, members = list[ValueError](), dict[Any, list[Cell]]()
    for cell in sorted(cells, key=lambda c: c.priority):
        if not ((smoke or not dataset or cell.dataset in dataset)
                and (not paper or cell.paper in paper)
                and (not method or cell.method in method)):
            continue
        out.cells += 1
        if reason := _left_out(cell, budget, dataset, absent):
            out.leave_out(*reason)
            continue
        try:
            s = setting(cell, budget, 0, changes)
        except ValueError as error:
            if not changes:
                raise
            refused.append(error)
            out.leave_out(REFUSED, f"{cell.method}: {error}")
            continue
        key = (s.method, s.noise, s.rate) if smoke else s.key
        members.setdefault(key, []).append(cell)
    if refused and not members:
        raise refused[0]
    out.groups = [Group(tuple(of), tuple(setting(of[0], budget, k, changes)
                                         for k in range(seeds)))
                  for of in members.values()]
    return out


def _check(asked: Mapping[str, Sequence[str]], allowed: Mapping[str, Iterable[str]]
           ) -> None:
    for name, values in asked.items():
        for value in values:
            choose(name, value, allowed[name])


def setting(cell: Cell, budget: str, seed: int, changes: Mapping[str, Any] | None = None
            ) -> Setting:
    """The setting of a cell at that budget, on the digits at the smoke budget."""
    arguments = cell.arguments(budget)
    if budget == "smoke":
        arguments["dataset"] = "digits"
    return lab.setting(**{**arguments, "seed": seed, **(changes or {})})


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


# ------------------------------------------------------------------------ plans by steps

COLUMNS = ("step", "budget", "dataset", "noise", "rate", "methods", "options", "seeds")
TAKEN = ("trusted_per_class", "max_samples")  # by `lab.setting` itself, whole numbers
MOST_SEEDS = 1_000  # of a row


class Step(NamedTuple):
    """A row of a plan; `where` says in which line of which file it stands."""

    where: str
    step: int
    budget: str
    dataset: str
    noise: str
    rate: float
    methods: tuple[str, ...]
    options: dict[str, Any]
    seeds: tuple[int, ...]


def plans() -> list[str]:
    """The names of the plans in data/plans."""
    return sorted(file.stem for file in paths.plans_dir().glob("*.csv"))


def select_plan(name: str, seeds: int | None, *, budget: str | None = None,
                paper: Sequence[str] = (), method: Sequence[str] = (),
                dataset: Sequence[str] = (), changes: Mapping[str, Any] | None = None
                ) -> Selection:
    """The settings of data/plans/<name>.csv that pass the filters, each with its seeds
    (below `seeds`, if given) and the steps at which they are due. Raises ValueError as
    `steps_of`, and for what does not go with this plan.
    """
    if name not in (there := plans()):
        raise ValueError(
            f"there is no plan {name!r} in {wording.shown(paths.plans_dir())}; there "
            + (f"are: {', '.join(there)}." if there else "is none."))
    if paper:
        raise ValueError(f"the plan {name} goes by steps and not by papers; choose by "
                         "--method and --dataset.")
    rows = steps_of(name)
    if budget not in (None, rows[0].budget):
        raise ValueError(f"--plan {name} is of the {rows[0].budget} budget, not "
                         f"{budget}; leave --budget out.")
    if rows[0].budget != "smoke" and "digits" in dataset:
        raise ValueError("the digits are run by the smoke budget alone: --budget smoke.")
    _check({"method": method, "dataset": dataset},
           {"method": methods.NAMES, "dataset": sorted({r.dataset for r in rows})})
    out, absent = Selection(rows[0].budget, plan=name), cache(noise.absent)
    due: dict[str, dict[Setting, int]] = {}
    for row in rows:
        if dataset and row.dataset not in dataset:
            continue
        for one in row.methods:
            if method and one not in method:
                continue
            try:
                found = [lab.setting(one, row.dataset, row.noise, row.rate, row.budget,
                                     seed, **{**row.options, **(changes or {})})
                         for seed in row.seeds if seeds is None or seed < seeds]
            except ValueError as error:
                if changes:  # these may be at fault, and are not in the file
                    raise
                raise ValueError(f"{row.where}: {error}") from error
            if why := absent(row.dataset, row.noise):
                out.leave_out(NO_DATA, why)
                continue
            for s in found:
                due.setdefault(s.cell.key, {}).setdefault(s, row.step)
    out.groups = [Group((), tuple(at), tuple(at.values())) for at in due.values()]
    return out


def steps_of(plan: str) -> list[Step]:
    """The rows of data/plans/<plan>.csv, all of one budget.

    A row's `methods` are names or `all`, its `options` pairs KEY=VALUE, its `seeds`
    numbers or a range as 0-19, all parted by spaces. A further column, such as `why`,
    is for the reader. Raises ValueError that names the file, the line and what is
    allowed there.
    """
    file = paths.plans_dir() / f"{plan}.csv"
    name, out = f"the plan {wording.shown(file)}", list[Step]()
    try:
        # a spreadsheet puts a mark first
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, strict=True)
            if lacks := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
                raise ValueError(f"{name} has no column {lacks[0]!r}; its first line must "
                                 f"name {', '.join(COLUMNS)}, parted by commas.")
            for row in reader:
                where = f"{name}, line {reader.line_num}"
                try:
                    out.append(_step(where, row))
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{name} is no table in UTF-8 with cells parted by commas: "
                         f"{error}.") from error
    if not out:
        raise ValueError(f"{name} has no line below its first; each line is a step.")
    if len(budgets := {s.budget: None for s in out}) > 1:
        raise ValueError(f"{name} names {len(budgets)} budgets ({', '.join(budgets)}); a "
                         "plan is of one, so write a file for each.")
    return out


def _step(where: str, row: Mapping[str | None, Any]) -> Step:
    """A row's cells as what they mean, but for what `lab.setting` checks."""
    if None in row or None in row.values():
        raise ValueError(f"it has {'more' if None in row else 'fewer'} cells than the "
                         "first line has names.")
    cell = {c: str(row[c]).strip() for c in COLUMNS}
    if not re.fullmatch(r"[0-9]{1,9}", cell["step"]):
        raise ValueError(f"step must be a whole number from 0 on, not {cell['step']!r}.")
    try:
        rate = runs._share("rate", float(cell["rate"]))
    except ValueError:
        raise ValueError(
            f"rate must be a number from 0 to 1, not {cell['rate']!r}.") from None
    names = methods.NAMES if cell["methods"] == "all" else cell["methods"].split()
    for one in names or [""]:
        choose("method", one, (*methods.NAMES, "all"))
    return Step(where, int(cell["step"]), choose("budget", cell["budget"], runs.BUDGETS),
                cell["dataset"], cell["noise"], rate, tuple(names),
                options_of(cell["options"].split()), tuple(_seeds_of(cell["seeds"])))


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
            raise ValueError(f"{key!r} is no option of a method; the printed numbers, or "
                             "a plan's columns, decide it.")
        if key in out:
            raise ValueError(f"the option {key!r} is given twice.")
        if key in TAKEN and not re.fullmatch(r"[0-9]{1,9}", value):
            raise ValueError(f"{key} must be a whole number from 0 on, not {value!r}.")
        out[key] = int(value) if key in TAKEN else value.strip()
    return out


def _seeds_of(text: str) -> list[int]:
    """The numbers of "0 1 2" or "0-19"."""
    out: list[int] = []
    for word in text.split():
        found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not low <= high <= ranges.MOST_SEED or len(out) + high - low >= MOST_SEEDS:
            raise ValueError("seeds must be numbers such as 0 1 2 or a range that ascends "
                             f"such as 0-19, at most {MOST_SEEDS:,} of them, not {word!r}.")
        out += range(low, high + 1)
    if not out:
        raise ValueError("seeds must name one at least, such as 0 or 0-19.")
    return out


# --------------------------------------------------------------------- what a run costs


@dataclass(frozen=True)
class Cost:
    """Seconds of a whole run and of one of its epochs; `basis`: "measured" or
    "guess"."""

    seconds: float
    epoch: float
    basis: str


def here(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function where the runs are trained: in this process."""
    return function(*args)


class Estimates:
    """What runs cost where they are trained; `ask` calls a function there.

    *measured*: from recorded runs on this hardware, executed in the same way, with the
    same method, network, batch, precision and kind of image; epochs and images are
    scaled. *guess*: a few steps are timed on this device, times the forward and
    backward passes that the method's step is known to make (`cost.FACTORS`).
    """

    def __init__(self, execution: engine.Execution, jobs: int, recorded: Iterable[Run],
                 before: Estimates | None = None,
                 ask: Callable[..., Any] = here) -> None:
        self.execution, self.jobs, self.ask = execution, jobs, ask
        self.hardware: str = before.hardware if before else ask(
            engine.hardware, execution.device)
        self._seen: dict[Any, list[float]] = {}
        self._timings: dict[Any, cost.Timing] = before._timings if before else {}
        for run in recorded:
            self.learn(run)

    def learn(self, run: Run) -> None:
        """Count a recorded run, if it was made like the runs to come."""
        how = {"compile": self.execution.compile, "graph": self.execution.graph}
        if (run.finished and run.info.get("hardware") == self.hardware
                and run.info.get("execution") == how and run.info.get("epochs")):
            epoch = run.info["seconds"] / run.info["epochs"] / _work(run.setting)
            self._seen.setdefault(_kind(run.setting), []).append(epoch)

    def of(self, s: Setting) -> Cost:
        epochs = cost.total_epochs(s)
        if seen := self._seen.get(_kind(s)):
            each = statistics.median(seen) * _work(s)
            return Cost(each * epochs, each, "measured")
        timing = self._timing(s)
        seconds = cost.of_setting(s, timing)
        # the passes of this method's step are not counted: as cross entropy
        if seconds is None:
            each = timing.of(s.options["network"], *cost.SIZES[s.dataset][3:])
            seconds = epochs * _work(s) * each
        if self.execution.device.startswith("cuda"):
            seconds *= self.jobs  # at worst they share the GPU evenly
        return Cost(seconds, seconds / epochs, "guess")

    def _timing(self, s: Setting) -> cost.Timing:
        network, _, precision = (s.options.get(k) for k in cost.OPTIONS_OF_COST)
        batch, image = s.options["batch_size"], cost.SIZES[s.dataset][3:]
        if (key := (network, batch, precision, *image)) not in self._timings:
            # to compile takes longer than it tells
            how = replace(self.execution, compile=False)
            self._timings[key] = self.ask(cost.time_steps, network, s.dataset, batch,
                                          precision, how, TIMED)
            if self.execution.device.startswith("cuda"):
                self.ask(torch.cuda.empty_cache)
        return self._timings[key]


def _kind(s: Setting) -> tuple[Any, ...]:
    """What runs must have in common for one to tell the other's cost."""
    return (s.method, *(s.options.get(k) for k in cost.OPTIONS_OF_COST),
            cost.SIZES[s.dataset][3:])


def _work(s: Setting) -> float:
    """An epoch in images trained on; one that is only looked at counts as a third."""
    n = cost.images(s)
    return n.train + (n.test + min(lab.PROBE, n.train) + n.val) / 3


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
    """The selection against the store. `todo` is in order of worth; `strange`: what
    lies in the store and does not count, with the reason."""

    selection: Selection
    estimates: Estimates
    finished: dict[str, Run]
    failed: dict[str, Run]
    todo: list[Todo]
    strange: list[str] = field(default_factory=list)


def make(selection: Selection, execution: engine.Execution, jobs: int,
         again: bool = False, before: Plan | None = None,
         ask: Callable[..., Any] = here) -> Plan:
    """What is recorded, what is begun, what is to do, in order of worth.

    First what was begun; then by priority, cells of which some seeds are recorded
    first, then the cheapest; the seeds of a cell stay together. In a plan by steps: one
    seed of all cells before the next. Failed runs are to do only with `again`. What was
    timed for a plan `before` is not timed again.
    """
    recorded, problems = runs.scan()
    wanted = {s.key for s in selection.settings}
    estimates = Estimates(execution, jobs, recorded,
                          before.estimates if before else None, ask)
    there = {r.setting.key: r for r in recorded if r.setting.key in wanted}
    finished = {k: r for k, r in there.items() if r.finished}
    failed = {k: r for k, r in there.items() if not r.finished}
    order = []
    for number, group in enumerate(selection.groups):
        partly = any(s.key in finished for s in group.settings)
        for s in group.settings:
            if s.key in finished or (s.key in failed and not again):
                continue
            todo = Todo(s, group, lab.epochs_begun(s), cost.total_epochs(s),
                        estimates.of(s))
            first = s.split_seed if group.steps else not partly
            worth = (not todo.begun, group.due(s), first, todo.cost.seconds, number,
                     s.split_seed)
            order.append((worth, todo))
    order.sort(key=lambda pair: pair[0])
    return Plan(selection, estimates, finished, failed, [t for _, t in order],
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


# ------------------------------------------------------------------------ the plan, told


def text(plan: Plan, everything: bool) -> str:
    """What is to be run in which order, what it costs, what becomes of it, what is left
    out; `everything`: also each reason, and what has no time or nothing to do."""
    chosen, todo = plan.selection, plan.todo
    many = count(len(chosen.groups), "setting")
    seeds = len(chosen.groups[0].settings) if chosen.groups else 0
    lines = [f"{many}, {count(len(chosen.settings), 'run')}: the steps of the plan "
             f"{chosen.plan}, which say the order" if chosen.plan else
             f"{count(chosen.cells, 'printed number')}; {many} x {count(seeds, 'seed')} "
             f"stand for {sum(len(g.cells) for g in chosen.groups)} of them"]
    for kind, reasons in chosen.left_out.items():
        lines.append(f"{reasons.total()} left out, {kind}" + (
            ":" if everything else " (--dry-run says each reason)"))
        lines += [f"  {r} ({n})" for r, n in reasons.most_common() if everything]
    lines += [f"left out of the store: {wording.plain(x)}" for x in plan.strange]
    of = {g: [t for t in todo if t.group is g] for g in chosen.groups}
    place = {id(t): k for k, t in enumerate(todo)}
    rows, late = list[list[object]](), 0
    for g in sorted(of, key=lambda g: min((place[id(t)] for t in of[g]),
                                          default=len(todo))):
        waits = bool(of[g]) and all(t.fate == "waits" for t in of[g])
        late += waits
        if everything or (of[g] and (not waits or late <= SHOWN)):
            rows.append(_row(plan, g, of[g]))
    if rows:
        lines.append(wording.table(
            ("run", "step" if chosen.plan else "priority", "numbers", "recorded",
             "begun", "a run takes", "known by", "in this time"), rows,
            ("run", "known by", "in this time")))
    fates = Counter(t.fate for t in todo)
    work = duration(sum(t.seconds for t in todo if t.fate == "waits"))
    more = 0 if everything else max(0, late - SHOWN)
    lines.append(
        f"{count(len(plan.finished), 'run')} recorded, {len(plan.failed)} failed before; "
        f"{len(todo)} to do: {fates['ends']} will end, {fates['begins']} will begin and "
        f"resume next time, {fates['waits']} do not fit (about {work} of work"
        + (f", {count(more, 'setting')} not listed; --dry-run lists all)" if more else ")"))
    guessed = {t.setting.method for t in todo if t.cost.basis == "guess"}
    if guessed:
        lines.append("measured: by recorded runs like it on this hardware; guess: by a "
                     "timing of a few steps and the passes that the method makes")
    if unknown := [m for m in sorted(guessed) if cost.factor_of(m) is None]:
        lines.append(f"the passes of {' and '.join(unknown)} are not counted: their guess "
                     "is that of cross entropy, and too low")
    return "\n".join(lines)


def _row(plan: Plan, group: Group, todo: Sequence[Todo]) -> list[object]:
    recorded = sum(s.key in plan.finished for s in group.settings)
    failed = sum(s.key in plan.failed for s in group.settings)
    fates = Counter(t.fate for t in todo)
    words = {"ends": "will end", "begins": "begun, resumes next time", "waits": "no time"}
    told = ", ".join(f"{n} {w}" for k, w in words.items() if (n := fates[k]))
    return [group.name, group.priority, len(group.cells) or "–",
            f"{recorded}" + (f" ({failed} failed)" if failed else ""),
            sum(t.begun > 0 for t in todo) or "",
            duration(todo[0].cost.seconds) if todo else "",
            todo[0].cost.basis if todo else "", told or "nothing to do"]
