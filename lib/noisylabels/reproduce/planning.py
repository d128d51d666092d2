"""Which runs stand behind the printed numbers, what each costs here, and which fit into
a time."""

from __future__ import annotations

import csv
import heapq
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .. import lab, methods, noise, paths, ranges, wording
from ..evidence import published
from ..evidence.published import Cell
from ..evidence.tables import method_of
from ..lab import cost
from ..training import engine, runs
from ..training.runs import Run, Setting

START_UP = 5.0  # seconds until a fresh process trains
TIMED = 0.5  # seconds a timing takes


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
        usual = lab.setting(s.method, s.dataset, s.noise, s.rate, s.budget)
        more += "".join(f", {k}={v}" for k, v in s.options.items()
                        if usual.options[k] != v)
    more += f", {s.trusted_per_class} trusted a class" if s.trusted_per_class else ""
    return f"{method_of(s)}, {s.dataset}, {noisy}{more}"


@dataclass
class Selection:
    """Groups in order of priority; `left_out`: kind of reason -> reason -> printed
    numbers."""

    groups: list[Group] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    cells: int = 0
    plan: str = ""  # the name of the plan by steps, "" for the printed numbers

    @property
    def settings(self) -> list[Setting]:
        return [s for g in self.groups for s in g.settings]


COLUMNS = ("step", "budget", "dataset", "noise", "rate", "methods", "options", "seeds")
TAKEN = ("trusted_per_class", "max_samples")  # by `lab.setting` itself, whole numbers
MOST_SEEDS = 1_000  # of a row


@dataclass(frozen=True)
class Step:
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


def steps_of(plan: str) -> list[Step]:
    """The rows of data/plans/<plan>.csv, all of one budget.

    A row's `methods` are names or `all`, its `options` pairs KEY=VALUE, its `seeds`
    numbers or a range as 0-19, all parted by spaces. A further column, such as `why`,
    is for the reader. Raises ValueError that names the file, the line and what is
    allowed there.
    """
    file = paths.plans_dir() / f"{plan}.csv"
    name, out = f"the plan {wording.shown(file)}", []
    try:
        # a spreadsheet puts a mark first
        with open(file, newline="", encoding="utf-8-sig") as f:
            reader = csv.DictReader(f, strict=True)
            if lacks := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
                raise ValueError(
                    f"{name} has no column {lacks[0]!r}; its first line must name "
                    f"{', '.join(COLUMNS)}, parted by commas.")
            for row in reader:
                out.append(_step(f"{name}, line {reader.line_num}", row))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{name} is no table in UTF-8 with cells parted by commas: {error}."
        ) from error
    if not out:
        raise ValueError(f"{name} has no line below its first; each line is a step.")
    if len(budgets := {s.budget: None for s in out}) > 1:
        raise ValueError(
            f"{name} names {len(budgets)} budgets ({', '.join(budgets)}); a plan is "
            "of one, so write a file for each.")
    return out


def _step(where: str, row: Mapping[str | None, Any]) -> Step:
    """A row's cells as what they mean, but for what `lab.setting` checks."""
    if None in row or None in row.values():
        raise ValueError(
            f"{where}: it has {'more' if None in row else 'fewer'} cells than the "
            "first line has names.")
    cell = {c: str(row[c]).strip() for c in COLUMNS}
    try:
        if not re.fullmatch(r"[0-9]{1,9}", cell["step"]):
            raise ValueError(
                f"step must be a whole number from 0 on, not {cell['step']!r}.")
        try:
            rate = runs._share("rate", float(cell["rate"]))
        except ValueError:
            raise ValueError(
                f"rate must be a number from 0 to 1, not {cell['rate']!r}.") from None
        names = methods.NAMES if cell["methods"] == "all" else cell["methods"].split()
        for one in names or [""]:
            wording.choose("method", one, (*methods.NAMES, "all"))
        return Step(where, int(cell["step"]), wording.choose("budget", cell["budget"],
                                                            runs.BUDGETS),
                    cell["dataset"], cell["noise"], rate, tuple(names),
                    _options_of(cell["options"]), tuple(_seeds_of(cell["seeds"])))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _options_of(text: str) -> dict[str, Any]:
    """{"epochs": "3"} of "epochs=3"."""
    out: dict[str, Any] = {}
    for pair in text.split():
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(
                f"options must be pairs KEY=VALUE, such as lr=0.1, not {pair!r}.")
        if key in runs.FLAGS - set(TAKEN):
            raise ValueError(
                f"{key!r} is no option of a method; it is said by the columns "
                f"{', '.join(COLUMNS)}.")
        if key in out:
            raise ValueError(f"the option {key!r} is given twice.")
        if key in TAKEN and not re.fullmatch(r"[0-9]{1,9}", value):
            raise ValueError(f"{key} must be a whole number from 0 on, not {value!r}.")
        out[key] = int(value) if key in TAKEN else value
    return out


def budget_of(plan: str) -> str:
    """The one budget of a plan."""
    return steps_of(plan)[0].budget


def select_plan(name: str, seeds: int | None, *, method: Sequence[str] = (),
                dataset: Sequence[str] = (), changes: Mapping[str, Any] | None = None
                ) -> Selection:
    """The settings of data/plans/<name>.csv that pass the filters, each with its seeds
    (below `seeds`, if given) and the steps at which they are due. Raises ValueError as
    `steps_of`.
    """
    out, absent = Selection(plan=name), _Absent()
    due: dict[str, dict[Setting, int]] = {}
    for row in steps_of(name):
        if dataset and row.dataset not in dataset:
            continue
        for one in row.methods:
            if method and one not in method:
                continue
            try:
                found = [
                    lab.setting(one, row.dataset, row.noise, row.rate, row.budget, seed,
                                **{**row.options, **(changes or {})})
                    for seed in row.seeds if seeds is None or seed < seeds
                ]
            except ValueError as error:
                if changes:  # these may be at fault, and are not in the file
                    raise
                raise ValueError(f"{row.where}: {error}") from error
            if why := absent.why(row.dataset, row.noise):
                out.left_out.setdefault(NO_DATA, Counter())[why] += 1
                continue
            for s in found:
                due.setdefault(s.cell.key, {}).setdefault(s, row.step)
    for settings in due.values():
        out.groups.append(Group((), tuple(settings), tuple(settings.values())))
    return out


def _seeds_of(text: str) -> list[int]:
    """The numbers of "0 1 2" or "0-19"."""
    out: list[int] = []
    for word in text.split():
        found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not low <= high <= ranges.MOST_SEED or len(out) + high - low >= MOST_SEEDS:
            raise ValueError(
                "seeds must be numbers such as 0 1 2 or a range that ascends such as "
                f"0-19, at most {MOST_SEEDS:,} of them, not {word!r}.")
        out += range(low, high + 1)
    if not out:
        raise ValueError("seeds must name one at least, such as 0 or 0-19.")
    return out


REFUSED = "these options do not go with it"
CANNOT, NOT_BUILT, NO_DATA, NOT_ASKED = ("cannot be run here", "method not built yet",
                                         "data not here", "only when asked for")


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
    out, absent = Selection(), _Absent()
    refused: list[ValueError] = []
    members: dict[Any, list[Cell]] = {}
    for cell in sorted(published.load_cells(), key=lambda c: c.priority):
        there = budget == "smoke" or not dataset or cell.dataset in dataset
        if not (there and (not paper or cell.paper in paper)
                and (not method or cell.method in method)):
            continue
        out.cells += 1
        if reason := _left_out(cell, budget, dataset, absent):
            out.left_out.setdefault(reason[0], Counter())[reason[1]] += 1
        else:
            try:
                s = setting(cell, budget, 0, changes)
            except ValueError as error:
                if not changes:
                    raise
                refused.append(error)
                out.left_out.setdefault(REFUSED,
                                        Counter())[f"{cell.method}: {error}"] += 1
                continue
            key = (s.method, s.noise, s.rate) if budget == "smoke" else s.key
            members.setdefault(key, []).append(cell)
    if refused and not members:
        raise refused[0]
    for cells in members.values():
        out.groups.append(Group(tuple(cells), tuple(
            setting(cells[0], budget, k, changes) for k in range(seeds))))
    return out


def setting(cell: Cell, budget: str, seed: int, changes: Mapping[str, Any] | None = None
            ) -> Setting:
    """The setting of a cell at that budget, on the digits at the smoke budget."""
    arguments = cell.arguments(budget)
    if budget == "smoke":
        arguments["dataset"] = "digits"
    return lab.setting(**{**arguments, "seed": seed, **(changes or {})})


def _left_out(cell: Cell, budget: str, asked: Sequence[str], absent: _Absent
              ) -> tuple[str, str] | None:
    """Why a cell is not run, as (kind, reason), or None."""
    if not cell.runnable:
        return CANNOT, cell.why_not
    if cell.method not in methods.NAMES:
        return NOT_BUILT, cell.method
    data = "digits" if budget == "smoke" else cell.dataset
    if cell.noise not in lab.noise_kinds(data):
        return CANNOT, f"{data} has no noise {cell.noise}"
    if budget == "smoke" and not _fits_digits(cell):
        return CANNOT, f"digits has no noise {cell.noise}"
    if budget == "laptop" and data != "cifar10" and data not in asked:
        return NOT_ASKED, f"{data} at the laptop budget (--dataset {data})"
    if why := absent.why(data, cell.noise):
        return NO_DATA, why
    return None


def _fits_digits(cell: Cell) -> bool:
    try:
        noise.corrupt(torch.arange(10), cell.noise, cell.rate, 10, 0, dataset="digits")
    except ValueError:
        return False
    return True


class _Absent:
    """Whether the files of a data set are here; each is looked for once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def why(self, dataset: str, noise_kind: str) -> str:
        name = f"{dataset}/{noise_kind}"
        if name not in self._known:
            self._known[name] = noise.absent(dataset, noise_kind)
        return self._known[name]


# --------------------------------------------------------------------- what a run costs


@dataclass(frozen=True)
class Cost:
    """Seconds of a whole run and of one of its epochs; `basis`: "measured" or
    "guess"."""

    seconds: float
    epoch: float
    basis: str


class Estimates:
    """What runs cost here.

    *measured*: from recorded runs on this hardware, executed in the same way, with the
    same method, network, batch, precision and kind of image; epochs and images are
    scaled. *guess*: a few steps are timed on this device, times the forward and
    backward passes that the method's step is known to make (`cost.FACTORS`).
    """

    def __init__(self, execution: engine.Execution, jobs: int, recorded: Iterable[Run],
                 before: Estimates | None = None) -> None:
        self.execution, self.jobs = execution, jobs
        self.hardware = engine.hardware(execution.device)
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
        network, _, precision = _options(s)
        batch = s.options["batch_size"]
        _, _, _, channels, pixels = cost.SIZES[s.dataset]
        key = (network, batch, precision, channels, pixels)
        if key not in self._timings:
            # to compile takes longer than it tells
            how = replace(self.execution, compile=False)
            self._timings[key] = cost.time_steps(network, s.dataset, batch, precision,
                                                 how, TIMED)
            if self.execution.device.startswith("cuda"):
                torch.cuda.empty_cache()
        return self._timings[key]


def _options(s: Setting) -> tuple[Any, ...]:
    return tuple(s.options.get(k) for k in cost.OPTIONS_OF_COST)


def _kind(s: Setting) -> tuple[Any, ...]:
    """What runs must have in common for one to tell the other's cost."""
    return s.method, *_options(s), cost.SIZES[s.dataset][3:]


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

    def of(self, group: Group) -> list[Todo]:
        return [t for t in self.todo if t.group is group]


def make(selection: Selection, execution: engine.Execution, jobs: int,
         again: bool = False, before: Plan | None = None) -> Plan:
    """What is recorded, what is begun, what is to do, in order of worth.

    First what was begun; then by priority, cells of which some seeds are recorded
    first, then the cheapest; the seeds of a cell stay together. In a plan by steps: one
    seed of all cells before the next. Failed runs are to do only with `again`. What was
    timed for a plan `before` is not timed again.
    """
    recorded, problems = runs.scan()
    wanted = {s.key for s in selection.settings}
    estimates = Estimates(execution, jobs, recorded,
                          before.estimates if before else None)
    finished = {
        r.setting.key: r for r in recorded if r.finished and r.setting.key in wanted
    }
    failed = {
        r.setting.key: r for r in recorded if not r.finished and r.setting.key in wanted
    }
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
