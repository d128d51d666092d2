"""The table at the end of `noisylabels reproduce`: our runs beside the printed
numbers."""

from __future__ import annotations

import csv
import io
import math
import os
import tempfile
import textwrap
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import lab, noise, wording
from ..evidence import published, rules
from ..evidence.published import MIN_RUNS, Cell, Verdict
from ..evidence.tables import Summary
from ..training import runs
from ..training.runs import StoreError
from .grid import Outcome
from .planning import Group, Plan, setting

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


def notes(outcome: Outcome) -> list[str]:
    """What became of the runs of this call, one sentence a kind and one a mishap."""
    names = {"finished": "ended", "stopped": "stopped, resume next time",
             "failed": "failed and recorded as failed", "broken": "broke off",
             "busy": "left to another process"}
    said = [f"{len(outcome.of(k))} {name}" for k, name in names.items() if outcome.of(k)]
    return ["runs of this call: " + (", ".join(said) or "none"),
            *(f"{how}: {t.setting}: {why}" for how in ("failed", "broken", "busy")
              for t, why in outcome.of(how))]


def text(found: Sequence[Row], budget: str) -> str:
    """The rows with runs, aligned, and the sources they refer to."""
    lines = [f"{budget} budget" + (
        "" if budget == "paper" else ", which shows a direction only"
        if published.decides(budget, published.ORDERS) else ", which gives no verdict")]
    sources: dict[str, int] = {}
    table = []
    for row in found:
        c = row.cell
        reference = "" if c is None else (
            f"{c.metric} [{sources.setdefault(c.source, len(sources) + 1)}]"
            if row.summary.n else "")
        table += [(row.group.name, *_ours(row.summary), row.printed, reference,
                   row.verdict.state)] if row.summary.n else []
    if table:
        lines += [wording.table((*OURS, "printed", "as", "verdict"), table,
                                ("run", "as", "verdict")),
                  *textwrap.wrap(LEGEND + f" {RULE}" * bool(sources), 99),
                  *(f"[{k}] {source}" for source, k in sources.items())]
    if without := {r.group.settings[0].key for r in found if not r.summary.n}:
        lines.append(f"{wording.count(len(without), 'setting')} not run yet")
    return "\n".join(lines)


OURS = ("run", "n", "last", "mean10", "by val", "(best)", "wrong", "a run")


def _ours(s: Summary) -> tuple[str, ...]:
    """Our numbers of a row: how many, accuracies, wrong labels, time of a run."""
    if not s.n:
        return ("0", *("–",) * 6)
    last, mean, val, best = (wording.spread(a / 100, b / 100) for a, b in (
        s.last, s.mean_last_10, s.by_validation, s.best))
    return (str(s.n), last, mean, val, f"({best})", f"{s.realised_rate[0]:.2f}",
            wording.duration(s.seconds))


# ----------------------------------------------------------------------------- in files

TITLE = "# Runs behind the printed numbers"
COLUMNS = ("cell", "paper", "table", "method", "dataset", "noise", "rate", "budget",
           "network", "n", "failed", "seeds", "last", "last_std", "mean10",
           "mean10_std", "by_val", "by_val_std", "best_oracle", "best_oracle_std",
           "realised_rate", "minutes_a_run", "hardware", "published", "published_std",
           "metric", "definition", "published_network", "source", "verdict", "sentence"
           )  # fmt: skip


def write(folder: Path, found: Sequence[Row], plan: Plan, budget: str,
          told: Sequence[str]) -> list[Path]:
    """The same as `reproduce-<budget>.md` and `.csv` in `folder`, there also what is
    not run."""
    check_free(folder, budget)  # somebody may have put something there since
    defined = _definitions()
    files = {f"reproduce-{budget}.md": _markdown(found, plan, budget, told, defined),
             f"reproduce-{budget}.csv": _csv(found, budget, defined)}
    temporary = folder / f".reproduce-{uuid.uuid4().hex[:6]}.tmp"
    try:
        for name, content in files.items():
            with open(temporary, "x", encoding="utf-8") as f:
                f.write(content)
            os.replace(temporary, folder / name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _no_place(folder, error) from error
    return [folder / name for name in files]


def _no_place(folder: Path, error: OSError) -> StoreError:
    return StoreError(f"no report can be written to {folder}: {error.strerror}; name "
                      "another folder by --out (what is recorded stays).")


def check_free(folder: Path, budget: str) -> None:
    """Raise where the report cannot be written (StoreError), or would take the name of
    what this command did not make (ValueError)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _no_place(folder, error) from error
    for suffix, begin in {".md": TITLE, ".csv": ",".join(COLUMNS[:5])}.items():
        taken, ours = folder / f"reproduce-{budget}{suffix}", False
        with suppress(OSError), open(taken, "rb") as f:
            ours = f.read(len(begin)) == begin.encode()
        if os.path.lexists(taken) and not ours:
            raise ValueError(
                f"{taken} is {'a folder' if taken.is_dir() else 'there'} and is no report "
                "of this command; name another folder by --out, or move it.")


def _definitions() -> Callable[[Cell], str]:
    """How the labels behind a printed number were drawn, in the words of
    numbers.csv, where these are one."""
    said: dict[tuple[str, ...], set[str]] = {}
    for n in published.load_numbers():
        said.setdefault((n.paper, n.table, n.dataset, n.noise), set()).add(n.definition)

    def of(c: Cell) -> str:
        found = said.get((c.paper, c.table, c.dataset, c.noise), set())
        return next(iter(found)) if len(found) == 1 else noise.KINDS.get(c.noise, c.noise)

    return of


def _markdown(found: Sequence[Row], plan: Plan, budget: str, told: Sequence[str],
              defined: Callable[[Cell], str]) -> str:
    header = (*OURS, "printed", "how it was printed", "source", "verdict")
    lines = [f"{TITLE}, {budget} budget", "",
             f"Made {runs.now()}, commit {lab.commit()}.", "", f"{LEGEND} {RULE}", "",
             "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in found:
        c = row.cell
        how = "–" if c is None else f"{EPOCH[c.metric]}; {c.network}; {defined(c)}"
        said = f"**{row.verdict.state}**: {row.verdict.sentence}"
        if row.summary.failed:
            said += f" {wording.count(row.summary.failed, 'run')} failed."
        cells = (row.group.name, *_ours(row.summary), row.printed, how,
                 "–" if c is None else c.source, said)
        lines.append("| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |")
    lines += ["", *(f"- {note}" for note in told)]
    if left := plan.selection.left_out:
        lines += ["", "## Printed numbers that were left out", "",
                  *(f"- {kind}: {reason} ({n})" for kind, reasons in left.items()
                    for reason, n in reasons.most_common())]
    return "\n".join(lines) + "\n"


def _csv(found: Sequence[Row], budget: str, defined: Callable[[Cell], str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found:
        s, c = row.summary, row.cell
        first, told = s.setting, c or next(iter(row.group.cells), None)
        pairs = (s.last, s.mean_last_10, s.by_validation, s.best) if s.n else ()
        numbers = [_number(x) for pair in pairs for x in pair] + (
            [_number(s.realised_rate[0]), _number(s.seconds / 60), "; ".join(s.hardware)]
            if s.n else [""] * 11)
        writer.writerow([
            *((told.cell, told.paper, told.table) if told else ("",) * 3),
            first.method, first.dataset, first.noise, first.rate, budget,
            first.options["network"], s.n, s.failed,
            " ".join(r.setting.seed for r in s.runs), *numbers,
            *((c.published_value, c.published_std, c.metric, defined(c), c.network,
               c.source) if c else ("",) * 6), row.verdict.state, row.verdict.sentence])
    return out.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
