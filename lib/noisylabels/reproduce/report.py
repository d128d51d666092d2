"""The table at the end of `noisylabels reproduce`: our runs beside the printed
numbers."""

from __future__ import annotations

import csv
import io
import math
import os
import textwrap
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import lab, noise, wording
from ..evidence import published, rules
from ..evidence.published import MIN_RUNS, Cell, Verdict
from ..evidence.tables import Summary
from ..training import runs
from ..training.runs import StoreError
from .planning import Group, Plan, setting

Pair = tuple[float, float]

LEGEND = (
    "Test accuracy and wrong labels in %, mean ± sample standard deviation over n seeds. mean10: "
    "last ten epochs; by val: epoch chosen on noisy labels; (best): chosen on the test set, an "
    "oracle nobody has; wrong: realised share of wrong labels.")
RULE = (
    "A direction holds when our last epochs lie on the side of our cross entropy on which the "
    f"printed number lies in its own table, by more than two standard errors over {MIN_RUNS} or "
    "more paired seeds.")
EPOCH = {
    "last": "last epoch", "best": "best test epoch",
    "mean10": "mean of last ten epochs",
    "not stated": "epoch not stated, held against our last"
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Our runs of one setting beside one printed number, or beside none."""

    group: Group
    summary: Summary
    cell: Cell | None
    verdict: Verdict

    @property
    def printed(self) -> str:
        if self.cell is None or self.cell.published_value is None:
            return "–"
        std = self.cell.published_std
        return f"{self.cell.published_value:.2f}" + ("" if std is None else
                                                     f" ± {std:.2f}")


def rows(plan: Plan, budget: str, changes: Mapping[str, Any]) -> list[Row]:
    """One row a printed number, or one a setting where there is none; also for what is
    not run."""
    out = []
    for group in plan.selection.groups:
        summary = _summary(plan, group)
        # no paper has printed a number for the digits
        shown: list[Cell | None] = [] if budget == "smoke" else [
            c for c in group.cells
            if c.published_value is not None and c.metric in published.METRICS]
        for cell in shown or [None]:
            out.append(
                Row(group, summary, cell, _verdict(plan, summary, cell, budget,
                                                   changes)))
    return out


def _summary(plan: Plan, group: Group) -> Summary:
    found = [plan.finished[s.key] for s in group.settings if s.key in plan.finished]
    failed = sum(s.key in plan.failed for s in group.settings)
    return Summary(group.settings[0].cell, tuple(found), failed)


def _verdict(plan: Plan, summary: Summary, cell: Cell | None, budget: str,
             changes: Mapping[str, Any]) -> Verdict:
    if changes and summary.n:
        told = " ".join(f"{k}={wording.words_of(v)}" for k, v in changes.items())
        return Verdict("not judged", f"The settings were changed ({told}): no verdict.")
    if cell is None:
        ours = [100 * r.last() for r in summary.runs]
        return published.verdict(budget, ours, None)
    holds = _claim(plan, summary, cell, budget) if summary.n else None
    return published.verdict(budget, summary.metric(cell.metric), cell.published_value,
                             cell.published_std, holds)


def _claim(plan: Plan, summary: Summary, cell: Cell, budget: str) -> bool | None:
    """Whether our order against cross entropy is the printed one; None where nothing
    says so."""
    if cell.method == "cross_entropy" or cell.published_value is None:
        return None
    like = ("paper", "table", "dataset", "noise", "rate", "metric")
    for other in published.load_cells(method="cross_entropy", runnable=True):
        if other.published_value is None or any(
                getattr(other, k) != getattr(cell, k) for k in like):
            continue
        seeds = len(plan.selection.groups[0].settings)
        theirs = [
            r for k in range(seeds)
            if (r := _recorded(plan, other, budget, k)) is not None
        ]
        printed = cell.published_value - other.published_value
        above = rules.above(_by_seed(summary.runs), _by_seed(theirs)).holds
        return None if above is None or printed == 0 else above == (printed > 0)
    return None


def _by_seed(found: Iterable[runs.Run]) -> dict[rules.Seeds, runs.Run]:
    return {(s.split_seed, s.noise_seed, s.init_seed): r for r in found
            for s in [r.setting]}


def _recorded(plan: Plan, cell: Cell, budget: str, seed: int) -> runs.Run | None:
    s = setting(cell, budget, seed)
    run = plan.finished.get(s.key) or runs.lookup(s)
    return run if run is not None and run.finished else None


# ---------------------------------------------------------------------- on the terminal


def text(found: Sequence[Row], budget: str) -> str:
    """The rows with runs, aligned, and the sources they refer to."""
    with_runs = [r for r in found if r.summary.n]
    without = len({r.group.settings[0].key for r in found if not r.summary.n})
    lines = [
        f"{budget} budget" +
        ("" if budget == "paper" else ", which shows a direction only"
         if published.decides(budget, published.ORDERS) else ", which gives no verdict")
    ]
    sources: list[str] = []
    table = []
    for row in with_runs:
        s = row.summary
        reference = ""
        if row.cell is not None:
            if row.cell.source not in sources:
                sources.append(row.cell.source)
            reference = f"{row.cell.metric} [{sources.index(row.cell.source) + 1}]"
        table.append((row.group.name, s.n, *_ours(s, _pair), row.printed, reference,
                      row.verdict.state))
    if table:
        lines.append(
            wording.table(("run", "n", "last", "mean10", "by val", "(best)", "wrong",
                           "a run", "printed", "as", "verdict"), table,
                          ("run", "as", "verdict")))
        rule = f" {RULE}" if any(r.cell for r in with_runs) else ""
        lines += textwrap.wrap(LEGEND + rule, 99)
        lines += [f"[{k}] {source}" for k, source in enumerate(sources, 1)]
    if without:
        lines.append(f"{wording.count(without, 'setting')} not run yet")
    return "\n".join(lines)


def _ours(s: Summary, pair: Callable[[Pair], str]) -> tuple[str, ...]:
    """Our numbers of a row: accuracies, wrong labels, time of a run."""
    if not s.n:
        return ("–",) * 6
    return (pair(s.last), pair(s.mean_last_10),
            pair(s.by_validation), f"({pair(s.best)})", f"{s.realised_rate[0]:.2f}",
            wording.duration(s.seconds))


def _pair(values: Pair) -> str:
    return wording.spread(values[0] / 100, values[1] / 100)


# ----------------------------------------------------------------------------- in files

COLUMNS = ("cell", "paper", "table", "method", "dataset", "noise", "rate", "budget",
           "network", "n", "failed", "seeds", "last", "last_std", "mean10",
           "mean10_std", "by_val", "by_val_std", "best_oracle", "best_oracle_std",
           "realised_rate", "minutes_a_run", "hardware", "published", "published_std",
           "metric", "definition", "published_network", "source", "verdict", "sentence"
           )  # fmt: skip


def write(folder: Path, found: Sequence[Row], plan: Plan, budget: str,
          notes: Sequence[str]) -> list[Path]:
    """The same as `reproduce-<budget>.md` and `.csv` in `folder`, there also what is
    not run."""
    definitions = _Definitions()
    files = {
        f"reproduce-{budget}.md": _markdown(found, plan, budget, notes, definitions),
        f"reproduce-{budget}.csv": _csv(found, budget, definitions)
    }
    check_free(folder, budget)  # somebody may have put something there since
    temporary = folder / f".reproduce-{uuid.uuid4().hex[:6]}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with open(temporary, "x", encoding="utf-8") as f:
                f.write(content)
            os.replace(temporary, folder / name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"could not write the report to {folder}: {error.strerror}; name "
            f"another folder by --out (the runs are recorded).") from error
    return [folder / name for name in files]


TITLE = "# Runs behind the printed numbers"


def check_free(folder: Path, budget: str) -> None:
    """Raise ValueError where the report would take the name of what this command did
    not make."""
    begins = {".md": TITLE, ".csv": ",".join(COLUMNS[:5])}
    for suffix, begin in begins.items():
        taken = folder / f"reproduce-{budget}{suffix}"
        if taken.is_dir():
            raise ValueError(
                f"{taken} is a folder, and the report needs that name; name another "
                "folder by --out.")
        if os.path.lexists(taken):
            try:
                with open(taken, "rb") as f:
                    ours = f.read(len(begin)) == begin.encode()
            except OSError:
                ours = False
            if not ours:
                raise ValueError(
                    f"{taken} is there and is no report of this command; name "
                    "another folder by --out, or move that file.")


class _Definitions:
    """How the labels behind a printed number were drawn, in the words of
    numbers.csv."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, ...], set[str]] = {}
        for n in published.load_numbers():
            key = (n.paper, n.table, n.dataset, n.noise)
            self._said.setdefault(key, set()).add(n.definition)

    def of(self, cell: Cell) -> str:
        said = self._said.get((cell.paper, cell.table, cell.dataset, cell.noise), set())
        return said.copy().pop() if len(said) == 1 else noise.KINDS.get(
            cell.noise, cell.noise)


def _markdown(found: Sequence[Row], plan: Plan, budget: str, notes: Sequence[str],
              definitions: _Definitions) -> str:
    header = ("run", "n", "last", "mean10", "by val", "(best)", "wrong", "a run",
              "printed", "how it was printed", "source", "verdict")
    lines = [f"{TITLE}, {budget} budget", "",
             f"Made {runs.now()}, commit {lab.commit()}.", "", f"{LEGEND} {RULE}", "",
             "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in found:
        c = row.cell
        how = source = "–"
        if c is not None:
            how = f"{EPOCH[c.metric]}; {c.network}; {definitions.of(c)}"
            source = c.source
        said = f"**{row.verdict.state}**: {row.verdict.sentence}"
        if row.summary.failed:
            said += f" {wording.count(row.summary.failed, 'run')} failed."
        cells = (row.group.name, row.summary.n, *_ours(row.summary, _pair), row.printed,
                 how, source, said)
        lines.append("| " + " | ".join(str(x).replace("|", "\\|")
                                       for x in cells) + " |")
    lines += ["", *(f"- {note}" for note in notes)]
    if plan.selection.left_out:
        lines += ["", "## Printed numbers that were left out", ""]
        for kind, reasons in plan.selection.left_out.items():
            lines += [
                f"- {kind}: {reason} ({n})" for reason, n in reasons.most_common()
            ]
    return "\n".join(lines) + "\n"


def _csv(found: Sequence[Row], budget: str, definitions: _Definitions) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in found:
        s, c = row.summary, row.cell
        told = c or (row.group.cells[0] if row.group.cells else None)
        values: dict[str, Any] = {
            **({"cell": told.cell, "paper": told.paper,
                "table": told.table} if told else {}), "method": s.setting.method,
            "dataset": s.setting.dataset, "noise": s.setting.noise,
            "rate": s.setting.rate, "budget": budget,
            "network": s.setting.options["network"], "n": s.n, "failed": s.failed,
            "seeds": " ".join(r.setting.seed for r in s.runs),
            "verdict": row.verdict.state, "sentence": row.verdict.sentence
        }
        if s.n:
            for name, pair in (("last", s.last), ("mean10", s.mean_last_10),
                               ("by_val", s.by_validation), ("best_oracle", s.best)):
                values |= {name: _number(pair[0]), f"{name}_std": _number(pair[1])}
            values |= {"realised_rate": _number(s.realised_rate[0]),
                       "minutes_a_run": _number(s.seconds / 60),
                       "hardware": "; ".join(s.hardware)}
        if c is not None:
            values |= {"published": c.published_value, "published_std": c.published_std,
                       "metric": c.metric, "definition": definitions.of(c),
                       "published_network": c.network, "source": c.source}
        writer.writerow(values)
    return out.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
