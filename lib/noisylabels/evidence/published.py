"""What the papers print, and the rule by which our numbers are judged against it.

`data/published` holds five small tables: `numbers.csv` (every printed number with its
source), `claims.csv`, `cells.csv` (settings to run beside those numbers), `checks.csv`
(which recorded runs decide a claim) and `missing.csv`; its README defines the columns
and the scale of confidence. Each loader returns one frozen dataclass a row and takes
filters by column, `load_numbers(method="elr", dataset="cifar10")`. `paired` answers
whether one method is above another, `verdict` holds our runs against a printed number:
the same two functions for every page and for the ledger.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
import math
import re
import statistics
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .. import paths
from ..training.runs import BUDGETS, Run

PAPERS = ("mixnn", "ieg", "drpl", "sanm", "secondhand")
CONFIDENCE = ("confirmed", "printed", "recomputed", "relayed", "inferred", "derived")
METRICS = {
    "last": "last", "best": "best", "mean10": "mean_last_10", "not stated": "last"
}
"""A printed number's metric -> the number of a run's record to hold against it."""
DECIDING = tuple(b for b in BUDGETS if b != "smoke")
"""Budgets that can decide something, the smallest first; the digits of `smoke` decide
nothing."""
ORDERS = "desk"
"""The smallest budget whose order of methods says something about a claim: real
images, and a network and a schedule in which cross entropy learns wrong labels by
heart. (On CIFAR-100 it is `fast`: 90 images a class are too few.)"""


def needs(budget: str) -> str:
    """The state of what no smaller budget than this one can decide."""
    return f"needs the {budget} budget"


STATES = ("reproduced", "partly", "not reproduced", "direction holds",
          "direction does not hold", "direction not settled", "too few runs",
          "no published number", *map(needs, DECIDING[1:]), "not run", "no verdict",
          )  # fmt: skip
RULES = {
    "above":
        "after equal training (as many epochs of the same network; at the paper "
        "budget the published recipe of each) the last epoch of the method lies above "
        "that of each of the others: the 95 % Student interval of the difference over "
        "paired seeds lies above zero",
    "within":
        "after equal training the last epochs of the two differ by no more than the "
        "limit: the 95 % Student interval of the difference over paired seeds lies "
        "within it",
    "number": "each printed number is met, by the verdict rule",
    "level":
        "the mean of the last ten epochs lies at most one point below the best epoch",
    "falls":
        "the mean of the last ten epochs lies more than one point below the best "
        "epoch",
    "memorises":
        "test accuracy ends more than one point below its best, while the share of "
        "wrong labels learnt has risen since",
    "mends":
        "the share of right labels among the targets ends at least ten points above "
        "that among the given labels",
    "ranks":
        "the area under the ROC curve of the clean probability is 0.75 or more in "
        "epoch 10, or in the last epoch before labels are corrected if that comes "
        "sooner",
    "gathers":
        "at about epoch 10 the vote of the 20 nearest neighbours in the features "
        "repeats less than half of the wrong labels, and more than half of the right "
        "ones",
    "outweighs":
        "in the epoch of the best test accuracy the mean gradient coefficient |p - y| "
        "of wrong labels is at least twice that of right ones",
    "heaps":
        "two Gaussians fitted to the losses at about epoch 10 lie apart: Ashman's D "
        "above 2",
    "flips_late": "no label changes before epoch 120, and then some do",
    "selects": "the selector keeps a larger share of right labels than of wrong ones",
    "half_way": "the accuracy half way lies within one point of that at the end",
    "exposes":
        "when relabelling ends, the area under the ROC curve of the clean probability "
        "is 0.75 or more",
    "sharpens": "that area is larger after the second stage than after the first",
}  # fmt: skip
"""Rule of a check -> what must hold in at least three runs. Changed after runs existed:
the epoch of `ranks` (it read the last one, where the probability tells of corrected
labels) and `above` (it took two standard errors in place of Student's interval, and
unequal training). `within` and the rules from `gathers` on, and `falls`, were written
when one run of the desk budget existed."""
MIN_RUNS = 3  # for a verdict, and for an answer of paired runs
MARGIN = 1.0  # points that are always forgiven
CAP = 2.0  # points that are never exceeded by what is forgiven, whatever the spread
LEVEL = 0.95  # of the interval of a paired difference
ROUNDING = 1e-9  # of a difference that is exactly a limit


@dataclass(frozen=True)
class Number:
    """One printed number, in per cent; see the README of data/published for the
    columns."""

    paper: str
    table: str
    method: str
    dataset: str
    noise: str
    rate: float | None
    definition: str
    network: str
    metric: str
    value: float
    std: float | None
    runs: int | None
    source: str
    confidence: str
    note: str

    @property
    def about(self) -> bool:
        """The source has a rounded number ("about 0.92"); its digits are not the
        authors'."""
        return self.note.startswith("about ")

    def shown(self, digits: int = 1) -> str:
        """The number for a cell of a table: `80.2 ± 0.3`; `≈ 92 (relayed)` for a
        rounded one."""
        if self.about:
            return f"≈ {self.value:g} ({self.confidence})"
        std = "" if self.std is None else f" ± {self.std:.{digits}f}"
        return f"{self.value:.{digits}f}{std}"


@dataclass(frozen=True)
class Claim:
    """One claim of a paper: `shows` says what would show it, `kind` is order, number or
    shape, `page` names the notebooks (parted by spaces) that look at it outside the
    rules."""

    paper: str
    id: str
    claim: str
    where: str
    shows: str
    source: str
    confidence: str
    needs: str
    kind: str
    target: str
    page: str


@dataclass(frozen=True)
class Cell:
    """One setting to run, beside the printed number it is to meet (None: not
    available)."""

    cell: str
    paper: str
    table: str
    method: str
    dataset: str
    noise: str
    rate: float | None
    val: float
    trusted_per_class: int
    network: str
    options: str
    metric: str
    published_value: float | None
    published_std: float | None
    source: str
    priority: int
    runnable: bool
    why_not: str
    printed_as: str

    @property
    def printed_method(self) -> str:
        """The method as `numbers.csv` names it: `elr-cosine` for ELR*, which we run as
        `elr`."""
        return self.printed_as or self.method

    def arguments(self, budget: str) -> dict[str, Any]:
        """Keyword arguments of `lab.setting` for this cell at that budget, without the
        seed.

        The cell's own options are added, at the paper budget with its validation share;
        other budgets have a network, schedule, length and weight decay of their own and
        leave these out. Raises ValueError for a cell that cannot be run here (`why_not`
        says why) and for an unknown budget.
        """
        _known("budget", budget, BUDGETS)
        if not self.runnable:
            raise ValueError(f"cell {self.cell!r} cannot be run here: {self.why_not}.")
        out: dict[str, Any] = {name: getattr(self, name) for name in (
            "method", "dataset", "noise", "rate", "trusted_per_class")}  # fmt: skip
        out["budget"] = budget
        options = dict(pair.split("=", 1) for pair in self.options.split(";") if pair)
        if budget == "paper":
            out["val_fraction"] = self.val
        else:
            own = ("network", "schedule", "weight_decay", "epochs")
            options = {k: v for k, v in options.items() if k not in own}
        return out | options


@dataclass(frozen=True)
class Missing:
    """One thing that was not available, and what stands in for it."""

    paper: str
    item: str
    stands_in: str


@dataclass(frozen=True)
class Check:
    """One comparison of recorded runs that a claim rests on; `RULES` says what is
    compared.

    `method` and `others` are arms (`rules`), `others` and `rates` lists parted by
    spaces: arms (for `number`, names of cells) and nominal noise rates. `measure`: what
    is compared ("": the accuracy after the last epoch); `limit`: of the difference.
    `decidable_at`: the smallest budget whose runs reach what the claim speaks of.
    `left_out`: what the claim says beyond it.
    """

    claim: str
    rule: str
    method: str
    others: str
    dataset: str
    noise: str
    rates: str
    decidable_at: str
    left_out: str
    measure: str = ""
    limit: float | None = None


class Verdict(NamedTuple):
    """A state of `STATES`, and the sentence that explains it to a reader."""

    state: str
    sentence: str


Row = TypeVar("Row", Number, Claim, Cell, Missing, Check)
_FILES: dict[type, str] = {
    Number: "numbers.csv", Claim: "claims.csv", Cell: "cells.csv",
    Missing: "missing.csv", Check: "checks.csv",
}  # fmt: skip
_MAY_BE_EMPTY = {  # text columns
    "note", "target", "options", "why_not", "others", "left_out", "page", "printed_as",
    "measure",
}  # fmt: skip
_ALLOWED = {
    "paper": PAPERS, "confidence": CONFIDENCE, "kind": ("order", "number", "shape"),
    "rule": tuple(RULES), "decidable_at": DECIDING,
    "metric": (*METRICS, "top-1", "top-5", "difference"),
}  # fmt: skip
_SHARES = {"rate", "val"}
# a notebook, and so an address beside the ledger's
PAGE = re.compile(r"[a-z][a-z0-9_]*")


# --------------------------------------------------------------------------- the tables


def load_numbers(root: Path | None = None, **filters: Any) -> list[Number]:
    """The printed numbers whose columns equal all `filters`.

    A text filter names a value of its column; an unknown column or value is a
    ValueError that gives the nearest valid one. A number filter (rate=0.4) without a
    match gives an empty list. Raises FileNotFoundError without the file and ValueError
    for a damaged one, with its line. `root`: folder of the tables,
    `paths.published_dir()` by default.
    """
    return _load(Number, root, filters)


def load_claims(root: Path | None = None, **filters: Any) -> list[Claim]:
    """The claims of the papers; filters and errors as in `load_numbers`."""
    return _load(Claim, root, filters)


def load_cells(root: Path | None = None, **filters: Any) -> list[Cell]:
    """The settings to run, first things first; filters and errors as in
    `load_numbers`."""
    return _load(Cell, root, filters)


def load_missing(root: Path | None = None, **filters: Any) -> list[Missing]:
    """What was not available; filters and errors as in `load_numbers`."""
    return _load(Missing, root, filters)


def load_checks(root: Path | None = None, **filters: Any) -> list[Check]:
    """The comparisons that decide claims; filters and errors as in `load_numbers`."""
    return _load(Check, root, filters)


def find(
    method: str,
    dataset: str,
    noise: str,
    rate: float | None = None,
    root: Path | None = None,
    **filters: Any,
) -> list[Number]:
    """The printed numbers of one case, the best confirmed first; empty when none is
    known.

    `rate` None means any; it is ignored for human and web labels, which have no nominal
    rate. Further filters (metric="best", network="preact18", paper="drpl") as in
    `load_numbers`, as is the ValueError for a name that stands nowhere in the table.
    """
    found = load_numbers(root, method=method, dataset=dataset, noise=noise, **filters)
    if rate is not None and not (noise == "web" or noise.startswith("human-")):
        found = [n for n in found if _equal(n.rate, rate)]
    return sorted(found, key=lambda n: CONFIDENCE.index(n.confidence))


def number_of(cell: Cell, root: Path | None = None) -> Number | None:
    """The printed number that a cell is held against, with its note; None where it has
    none."""
    if cell.published_value is None:
        return None
    free = cell.noise == "web" or cell.noise.startswith("human-")  # no nominal rate
    for n in _load(Number, root, {}):
        if (n.paper, n.table, n.method, n.dataset, n.noise, n.metric,
                n.value) == (cell.paper, cell.table, cell.printed_method, cell.dataset,
                             cell.noise, cell.metric,
                             cell.published_value) and (free
                                                        or _equal(n.rate, cell.rate)):
            return n
    return None


def _load(row: type[Row], root: Path | None, filters: dict[str, Any]) -> list[Row]:
    path = (paths.published_dir() if root is None else Path(root)) / _FILES[row]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it comes with the project's files, so set "
            "NOISYLABELS_HOME to the folder of the checkout.")
    stat = path.stat()
    table: Any = row  # mypy does not take a dataclass's own type for hashable
    rows: list[Row] = list(_read(table, path, stat.st_mtime_ns, stat.st_size))
    columns = [f.name for f in dataclasses.fields(row)]
    for name, wanted in filters.items():
        _known("column", name, columns)
        if isinstance(wanted, str) and rows and isinstance(getattr(rows[0], name), str):
            _known(name, wanted, sorted({getattr(r, name) for r in rows}),
                   where=_FILES[row])
    return [
        r for r in rows if all(_equal(getattr(r, k), v) for k, v in filters.items())
    ]


@functools.lru_cache(maxsize=16)
def _read(row: type[Any], path: Path, mtime_ns: int, size: int) -> tuple[Any, ...]:
    """All rows of a table, checked; the last two arguments only tell a changed file."""
    fields = {f.name: str(f.type) for f in dataclasses.fields(row)}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 text; save it as CSV in UTF-8.") from None
    if lines and not lines[-1].endswith(("\n", "\r")):
        raise ValueError(
            f"{path} is cut: its last line does not end; take the whole file (or, if "
            "nothing is missing, end the line).")
    try:
        table = [*_strictly(csv.reader(lines, strict=True))]
    except csv.Error as error:
        raise ValueError(
            f"{path} is no whole table of comma-separated values ({error}); take the "
            "whole file.") from None
    header = table[0][1] if table else []
    allowed = ", ".join(fields)
    if lacking := [name for name in fields if name not in header]:
        raise ValueError(
            f"{path}, line 1: no column {lacking[0]!r}; the columns are {allowed}.")
    if extra := [name for name in header if name not in fields]:
        raise ValueError(
            f"{path}, line 1: unknown column {extra[0]!r}; allowed: {allowed}.")
    if len(set(header)) < len(header):
        raise ValueError(
            f"{path}, line 1: a column stands twice; the columns are {allowed}.")
    rows = []
    for number, cells in table[1:]:
        at = f"{path}, line {number}"
        if not cells:  # a blank line
            continue
        if len(cells) != len(header):
            raise ValueError(f"{at}: {len(cells)} fields where {len(header)} are due.")
        text = dict(zip(header, cells, strict=True))
        rows.append(row(**{k: _cast(at, k, text[k], kind)
                           for k, kind in fields.items()}))
    return tuple(rows)


def _strictly(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line on which they end."""
    for cells in reader:
        yield reader.line_num, cells


def _cast(at: str, name: str, text: str, kind: str) -> Any:
    """The text of a cell as its column's type; what does not fit is an error naming the
    line."""
    text = text.strip()
    if kind == "str":
        if not text and name not in _MAY_BE_EMPTY:
            raise ValueError(f"{at}: {name} is empty.")
        if name == "page" and (bad :=
                               [w for w in text.split() if not PAGE.fullmatch(w)]):
            raise ValueError(f"{at}: page {bad[0]!r} is no name of a notebook.")
        if name in _ALLOWED and text not in _ALLOWED[name]:
            raise ValueError(
                f"{at}: {name} {text!r} is not one of {', '.join(_ALLOWED[name])}.")
        return text
    if kind == "bool":
        if text not in ("yes", "no"):
            raise ValueError(f"{at}: {name} {text!r} is neither yes nor no.")
        return text == "yes"
    if not text and kind.endswith("None"):
        return None
    try:
        number = int(text) if kind.startswith("int") else float(text)
    except ValueError:
        raise ValueError(f"{at}: {name} {text!r} is not a number.") from None
    if not math.isfinite(number) or (name in _SHARES and not 0 <= number <= 1):
        allowed = "[0, 1]" if name in _SHARES else "the finite numbers"
        raise ValueError(f"{at}: {name} {text} is outside {allowed}.")
    return number


def _equal(have: Any, wanted: Any) -> bool:
    if isinstance(have, float) and isinstance(wanted, int | float):
        return math.isclose(have, wanted, abs_tol=1e-9)
    return bool(have == wanted)


def _known(what: str, name: str, allowed: Sequence[str], where: str = "") -> None:
    if name in allowed:
        return
    lower = {a.lower(): a for a in allowed}
    short = len(allowed) <= 20
    near = difflib.get_close_matches(
        str(name).lower(), lower, n=1, cutoff=0.5 if short else 0.0)
    hint = f"; nearest valid: {lower[near[0]]!r}" if near else ""
    listed = f"; allowed: {', '.join(allowed)}" if short else ""
    raise ValueError(
        f"unknown {what} {name!r}{f' in {where}' if where else ''}{hint}{listed}.")


# ------------------------------------------------------------------- paired differences


@dataclass(frozen=True)
class Paired:
    """Differences of two methods over the seeds both have: is the first one higher?

    mean, std: of the `n` differences, sample standard deviation (n - 1); NaN where
    there is none. low, high: two-sided 95 % Student interval of the mean, mean -+ t(n -
    1) std / sqrt(n), with t 4.30 at n = 3 and 2.09 at n = 20; infinite below n = 2.
    unit, digits: for the words alone.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float
    unit: str = "points"
    digits: int = 1

    @property
    def holds(self) -> bool | None:
        """True: the interval lies above zero. False: below. None: it holds zero, or n <
        3."""
        if self.n < MIN_RUNS or self.low <= ROUNDING and self.high >= -ROUNDING:
            return None
        return self.mean > 0

    @property
    def settled(self) -> bool:
        """Whether the sign of the difference is known: three pairs at least, zero not
        in the interval."""
        return self.holds is not None

    @property
    def answer(self) -> str:
        """Is the first one higher: "yes", "no" (it is lower) or "not settled"."""
        return {True: "yes", False: "no", None: "not settled"}[self.holds]

    @property
    def beyond(self) -> float:
        """How far the interval stays away from zero (negative: zero lies that far
        inside)."""
        return max(self.low, -self.high)

    @property
    def short(self) -> str:
        """`+2.0 [+0.4, +3.6]`, for a cell of a table; without an interval below n =
        2."""
        if self.n < 2:
            return "–" if self.n == 0 else self._signed(self.mean)
        mean, low, high = map(self._signed, (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    @property
    def words(self) -> str:
        """`yes: +2.0 points, 95 % interval +0.4 to +3.6, n = 3`. Plain text."""
        return f"{self.answer}: {self.numbers}"

    @property
    def numbers(self) -> str:
        """The words behind the answer: the mean, its interval and n."""
        if self.n == 0:
            return "no seed in common"
        unit = f" {self.unit}" if self.unit else ""
        mean = f"{self._signed(self.mean)}{unit}"
        if self.n < MIN_RUNS:
            return f"{mean}, n = {self.n}; an answer takes {MIN_RUNS} paired runs"
        return (f"{mean}, 95\u00a0% interval {self._signed(self.low)} to "
                f"{self._signed(self.high)}, n = {self.n}")

    def _signed(self, value: float) -> str:
        near = min(abs(self.low), abs(self.high)) < 0.5 * 10.0**-self.digits
        return f"{value:+.{self.digits + near}f}".replace("-", "\u2212")


@dataclass(frozen=True)
class Comparison:
    """Paired runs of two settings; `unequal` says why their order would not be fair (""
    if it is)."""

    paired: Paired
    unequal: str = ""

    @property
    def holds(self) -> bool | None:
        """As `Paired.holds`; None after unequal training."""
        return None if self.unequal else self.paired.holds

    @property
    def words(self) -> str:
        """`yes: +2.5 points, ...` or `unequal training, 8 epochs against 14: +2.5
        points, ...`."""
        if self.unequal:
            return f"unequal training, {self.unequal}: {self.paired.numbers}"
        return self.paired.words


def compare(ours: Iterable[Run], theirs: Iterable[Run]) -> Comparison:
    """Does one setting end above another, after equal training? Rule `above` of the
    ledger.

    Args:
        ours, theirs: the runs of one setting each; the last epochs are paired by their
            seeds.

    Equal is a training of as many epochs of the same network; at the `paper` budget
    each method has its published recipe, and that counts as equal. Raises ValueError as
    `by_seed`.
    """
    ours, theirs = [r for r in ours if r.finished], [r for r in theirs if r.finished]
    return Comparison(paired(by_seed(ours), by_seed(theirs)), unequal(ours, theirs))


def unequal(ours: Iterable[Run], theirs: Iterable[Run]) -> str:
    """In what the trainings of two sets of runs differ, in words; "" when they are
    equal."""
    sides = (list(ours), list(theirs))
    if not all(sides):
        return ""

    def differ(of: Callable[[Run], Any], what: str) -> str:
        one, other = ({of(r) for r in side} for side in sides)
        said = [", ".join(map(str, sorted(values, key=str))) for values in (one, other)]
        return "" if len(one | other) == 1 else what.format(*said)

    if told := differ(lambda r: r.setting.budget, "{} budget against {}"):
        return told
    if sides[0][0].setting.budget == "paper":
        return ""
    return "; ".join(filter(None, (
        differ(lambda r: len(r.epochs["test"]), "{} epochs against {}"),
        differ(lambda r: r.setting.options.get("network"), "network {} against {}"))))


def decides(budget: str, least: str) -> bool:
    """Whether runs of that budget may decide what takes `least` at least; never at
    `smoke`."""
    return budget in DECIDING and DECIDING.index(budget) >= DECIDING.index(least)


def paired(ours: Mapping[Any, float], theirs: Mapping[Any, float], *,
           unit: str = "points", digits: int = 1) -> Paired:
    """Is `ours` higher than `theirs`? The one judge of all pages and of the ledger.

    Args:
        ours, theirs: seed -> number, accuracies in per cent for the usual unit; seeds
            that only one of them has are left out (`by_seed` makes such a mapping of
            runs).
        unit, digits: of the words.

    Raises ValueError for numbers that are not finite.
    """
    both = [seed for seed in ours if seed in theirs]
    return settle([ours[s] - theirs[s] for s in both], unit=unit, digits=digits)


def settle(differences: Iterable[float], *, unit: str = "points",
           digits: int = 1) -> Paired:
    """`paired` of differences that were already taken, one a seed."""
    d = [float(v) for v in differences]
    if not all(math.isfinite(v) for v in d):
        raise ValueError(
            "a comparison takes finite numbers; leave out runs that have none.")
    n = len(d)
    mean = statistics.fmean(d) if d else math.nan
    if n < 2:
        return Paired(mean, math.nan, n, -math.inf, math.inf, unit, digits)
    std = statistics.stdev(d)
    half = student(n) * std / math.sqrt(n)
    return Paired(mean, std, n, mean - half, mean + half, unit, digits)


def by_seed(found: Iterable[Run], number: Callable[[Run], float] = Run.last, *,
            scale: float = 100) -> dict[Hashable, float]:
    """The three seeds of each finished run -> `scale` times its number (per cent), for
    `paired`.

    Raises ValueError where two runs have the same seeds: they are of different
    settings.
    """
    out: dict[Hashable, float] = {}
    for run in found:
        s = run.setting
        seeds = (s.split_seed, s.noise_seed, s.init_seed)
        if not run.finished:
            continue
        if seeds in out:
            raise ValueError(
                f"two runs have the seeds {seeds}; give the runs of one setting.")
        out[seeds] = scale * number(run)
    return out


@functools.lru_cache(maxsize=256)
def student(n: int) -> float:
    """The 97.5 % quantile of Student's t for n values, n - 1 degrees of freedom: 4.303
    at n = 3.

    By bisection of the finite sums for the probability that |t| is smaller (Abramowitz
    and Stegun, 26.7.3 and 26.7.4). Raises ValueError below n = 2.
    """
    if n < 2:
        raise ValueError(f"an interval takes two values at least, not {n}.")
    low, high = 1.9, 13.0  # the normal's is 1.960, that of one degree 12.706
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, n - 1) < LEVEL else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """The probability that Student's |t| with so many degrees of freedom is below t."""
    angle = math.atan(t / math.sqrt(degrees))
    odd, square = degrees % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


# ----------------------------------------------------------------------------- the rule


def verdict(
    budget: str,
    ours: Sequence[float],
    published: float | None,
    published_std: float | None = None,
    claim_holds: bool | None = None,
) -> Verdict:
    """Our runs against a printed number.

    Args:
        budget: of the runs; only `paper` is held against the number. From `ORDERS` on
            the others show a direction, smaller ones nothing.
        ours: one accuracy a seed, in per cent, in the paper's own metric.
        published, published_std: the printed number (None: none is to be had) and its
            standard deviation over runs (None counts as 0).
        claim_holds: whether the claim that the number serves (A above B) holds in our
            runs, by `compare`; None when nothing was compared or it is not settled.

    At the paper budget with n >= 3 runs of mean m and sample standard deviation s (n -
    1): reproduced when |m - published| <= min(2.0, max(1.0, 2 sqrt(s^2 / n +
    published_std^2))), else partly when the claim holds, else not reproduced. (The rule
    was fixed before any run but the cap of 2.0 points.)

    Raises ValueError for an unknown budget and for numbers that are not finite.
    """
    _known("budget", budget, BUDGETS)
    values = [float(v) for v in ours]
    given = [v for v in (published, published_std) if v is not None]
    if not all(math.isfinite(v) for v in values + given):
        raise ValueError(
            "a verdict takes finite numbers in per cent; a failed run has none.")
    if published_std is not None and published_std < 0:
        raise ValueError(
            f"a standard deviation is not negative, but {published_std} was given.")
    n = len(values)
    if n == 0:
        return Verdict("not run", f"Not run at the {budget} budget.")
    mean = statistics.fmean(values)
    shown = f"{mean:.2f} ({_runs(n)})"
    if budget not in DECIDING:
        return Verdict("no verdict",
                       f"The {budget} budget decides nothing; ours: {shown}.")
    if budget != "paper":
        return _direction(budget, n, shown, published, claim_holds)
    if published is None:
        return Verdict("no published number",
                       f"No published number was to be had; ours: {shown}.")
    against = f"ours {shown}, published {published:.2f}"
    if n < MIN_RUNS:
        return Verdict("too few runs",
                       f"{_upper(against)}: a verdict takes {MIN_RUNS} runs.")
    s, s_p = statistics.stdev(values), published_std or 0.0
    # the verdict rule
    allowed = min(CAP, max(MARGIN, 2 * math.sqrt(s**2 / n + s_p**2)))
    off = abs(mean - published)
    apart = f"{_upper(against)}: {off:.2f} apart, {allowed:.2f} allowed"
    if off <= allowed + ROUNDING:
        return Verdict("reproduced", f"{apart}.")
    if claim_holds:
        return Verdict("partly", f"{apart}; the claim it serves holds.")
    why = ("no claim was compared, or its comparison is not settled"
           if claim_holds is None else "the claim it serves does not hold")
    return Verdict("not reproduced", f"{apart}; {why}.")


def _direction(
    budget: str, n: int, shown: str, published: float | None, claim_holds: bool | None
) -> Verdict:
    """The verdict of a budget that is not held against printed numbers."""
    if claim_holds is None and published is None:
        return Verdict("no published number",
                       f"No published number was to be had; ours: {shown}.")
    if claim_holds is None or not decides(budget, ORDERS):
        least = "paper" if claim_holds is None else ORDERS
        what = ("A printed number is judged" if claim_holds is None
                else "An order is judged")
        return Verdict(
            needs(least), f"{what} from the {least} budget on; ours at the {budget} "
            f"budget: {shown}.")
    about = f"The {budget} budget shows a direction only; ours: {shown}"
    if n < MIN_RUNS:
        return Verdict("too few runs", f"{about}; a direction takes {MIN_RUNS} runs.")
    state = "direction holds" if claim_holds else "direction does not hold"
    held = "the claim holds" if claim_holds else "the claim does not hold"
    none = "; no published number was to be had" if published is None else ""
    return Verdict(state, f"{about}; {held}{none}.")


def _runs(n: int) -> str:
    return f"{n} run" if n == 1 else f"mean of {n} runs"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
