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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from .. import lab, noise, wording
from ..evidence import ledger, published, tables
from ..evidence.published import MIN_RUNS, Cell, Verdict
from ..evidence.tables import Summary, plus_minus
from ..training import runs
from ..training.runs import Run, StoreError
from .grid import Outcome
from .planning import Group, Selection

LEGEND = (
    "Test accuracy and wrong labels in %, mean ± sample standard deviation over n "
    "seeds. mean10: last ten epochs; by val: epoch chosen on noisy labels; (best): "
    "chosen on the test set, an oracle nobody has; wrong: realised share of wrong "
    "labels.")
RULE = (
    "A direction holds when our last epochs lie on the side of our cross entropy on "
    "which the printed number lies in its own table, by Student's 95 % interval over "
    f"{MIN_RUNS} or more paired seeds.")


class Row(NamedTuple):
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

    @property
    def ours(self) -> list[str]:
        """How many runs, their accuracies, wrong labels, the time of one; see OURS."""
        s = self.summary
        if not s.n:
            return ["0", *("–",) * 6]
        last, mean, val, best = (plus_minus(pair, s.n, 2) for pair in (
            s.last, s.mean_last_10, s.by_validation, s.best))
        return [str(s.n), last, mean, val, f"({best})", f"{s.realised_rate[0]:.2f}",
                wording.duration(s.seconds)]


OURS = ("run", "n", "last", "mean10", "by val", "(best)", "wrong", "a run")


def rows(chosen: Selection, recorded: Sequence[Run], changes: Mapping[str, Any]
         ) -> list[Row]:
    """One row a printed number, or one a setting where there is none; also for what is
    not run. `recorded`: the store's runs, also of other settings."""
    out, wanted = list[Row](), {s.key for s in chosen.settings}
    mine = tables.summaries((r for r in recorded if r.setting.key in wanted),
                            [g.settings[0] for g in chosen.groups])
    for group, summary in zip(chosen.groups, mine, strict=True):
        # no paper has printed a number for the digits
        shown: list[Cell | None] = [
            c for c in group.cells if chosen.budget != "smoke"
            and c.published_value is not None and c.metric in published.METRICS]
        out += [
            Row(group, summary, cell,
                _verdict(chosen.budget, summary, cell, recorded, changes))
            for cell in shown or [None]
        ]
    return out


def _verdict(budget: str, summary: Summary, cell: Cell | None, recorded: Sequence[Run],
             changes: Mapping[str, Any]) -> Verdict:
    if changes and summary.n:
        told = " ".join(f"{k}={wording.words_of(v)}" for k, v in changes.items())
        return Verdict("not judged", f"The settings were changed ({told}): no verdict.")
    if cell is None:
        return published.verdict(budget, summary.metric("last"), None)
    return published.verdict(budget, summary.metric(cell.metric),
                             cell.published_value, cell.published_std,
                             _claim(summary, cell, budget, recorded))


def _claim(summary: Summary, cell: Cell, budget: str, recorded: Sequence[Run]
           ) -> bool | None:
    """Whether our order against cross entropy is the printed one; None where nothing
    says so."""
    like = {k: getattr(cell, k) for k in ("paper", "table", "dataset", "noise", "rate",
                                          "metric")}
    for other in published.load_cells(method="cross_entropy", runnable=True, **like):
        theirs = ledger.judge_cell(other, recorded, budgets=(budget,)).ours
        printed = (cell.published_value or 0) - (other.published_value or 0)
        if other.published_value is not None and printed and theirs:
            above = published.compare(summary.runs, theirs.runs).holds
            return None if above is None else above == (printed > 0)
    return None


# ---------------------------------------------------------------------- on the terminal


def notes(outcome: Outcome) -> list[str]:
    """What became of the runs of this call, one sentence a kind and one a mishap."""
    names = {"finished": "ended", "stopped": "stopped, resume next time",
             "failed": "failed and recorded as failed", "broken": "broke off",
             "busy": "left to another process"}
    said = [
        f"{len(outcome.of(k))} {name}" for k, name in names.items() if outcome.of(k)
    ]
    return ["runs of this call: " + (", ".join(said) or "none"),
            *(f"{how}: {t.setting}: {why}" for how in ("failed", "broken", "busy")
              for t, why in outcome.of(how))]


def text(found: Sequence[Row], budget: str) -> str:
    """The rows with runs, aligned, and the sources they refer to."""
    lines = [f"{budget} budget" + (
        "" if budget == "paper" else ", which shows a direction only"
        if published.decides(budget, published.ORDERS) else ", which gives no verdict")]
    done = [r for r in found if r.summary.n]
    sources = list(dict.fromkeys(r.cell.source for r in done if r.cell))
    if done:
        lines += [wording.table(
            (*OURS, "printed", "as", "verdict"),
            [(r.group.name, *r.ours, r.printed,
              f"{r.cell.metric} [{sources.index(r.cell.source) + 1}]" if r.cell else "",
              r.verdict.state) for r in done], ("run", "as", "verdict")),
            *textwrap.wrap(LEGEND + f" {RULE}" * bool(sources), 99),
            *(f"[{k}] {source}" for k, source in enumerate(sources, 1))]
    if without := len({r.group for r in found if not r.summary.n}):
        lines.append(f"{wording.count(without, 'setting')} not run yet")
    return "\n".join(lines)


# ----------------------------------------------------------------------------- in files

TITLE = "# Runs behind the printed numbers"
FIRST = ("cell", "paper", "table", "method", "dataset")  # columns of the CSV file
PRINTED = {"published": "published_value", "published_std": "published_std",
           "metric": "metric", "published_network": "network", "source": "source"}


def write(folder: Path, found: Sequence[Row], chosen: Selection, told: Sequence[str]
          ) -> list[Path]:
    """The same as `reproduce-<budget>.md` and `.csv` in `folder`, there also what is
    not run."""
    check_free(folder, chosen.budget)  # somebody may have put something there since
    files = {folder / f"reproduce-{chosen.budget}.md": _markdown(found, chosen, told),
             folder / f"reproduce-{chosen.budget}.csv": _csv(found)}
    temporary = folder / f".reproduce-{uuid.uuid4().hex[:6]}.tmp"
    try:
        for file, content in files.items():
            with open(temporary, "x", encoding="utf-8") as f:
                f.write(content)
            os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _no_place(folder, error) from error
    return list(files)


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
    for suffix, begin in {".md": TITLE, ".csv": ",".join(FIRST)}.items():
        taken, ours = folder / f"reproduce-{budget}{suffix}", False
        with suppress(OSError), open(taken, "rb") as f:
            ours = f.read(len(begin)) == begin.encode()
        if os.path.lexists(taken) and not ours:
            raise ValueError(
                f"{taken} is {'a folder' if taken.is_dir() else 'there'} and is no "
                "report of this command; name another folder by --out, or move it.")


def _definition(c: Cell) -> str:
    """How the labels behind a printed number were drawn, in the words of numbers.csv
    where it has any."""
    number = published.number_of(c)
    return (number.definition if number else "") or noise.KINDS.get(c.noise, c.noise)


def _markdown(found: Iterable[Row], chosen: Selection, told: Sequence[str]) -> str:
    header = (*OURS, "printed", "how it was printed", "source", "verdict")
    lines = [f"{TITLE}, {chosen.budget} budget", "",
             f"Made {runs.now()}, commit {lab.commit()}.", "", f"{LEGEND} {RULE}", "",
             "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in found:
        c, failed = row.cell, row.summary.failed
        said = f"**{row.verdict.state}**: {row.verdict.sentence}" + (
            f" {wording.count(failed, 'run')} failed." if failed else "")
        cells = [row.group.name, *row.ours, *(
            (tables.printed_number(c), f"{c.network}; {_definition(c)}", c.source)
            if c else ("–",) * 3), said]
        lines.append("| " + " | ".join(x.replace("|", "\\|") for x in cells) + " |")
    lines += ["", *(f"- {note}" for note in told)]
    if chosen.left_out:
        lines += ["", "## What was left out", "",
                  *(f"- {kind}: {reason} ({n})" for kind, of in chosen.left_out.items()
                    for reason, n in of.most_common())]
    return "\n".join(lines) + "\n"


def _csv(found: Iterable[Row]) -> str:
    table = [_record(row) for row in found]
    out = io.StringIO()
    writer = csv.DictWriter(out, table[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def _record(row: Row) -> dict[str, object]:
    """A row's cells by the columns of the CSV file."""
    s, c = row.summary, row.cell
    of, told = s.setting, c or next(iter(row.group.cells), None)
    pairs = {"last": s.last, "mean10": s.mean_last_10, "by_val": s.by_validation,
             "best_oracle": s.best}
    numbers = {f"{k}{end}": x for k, pair in pairs.items()
               for end, x in zip(("", "_std"), pair, strict=True)}
    numbers |= {"realised_rate": s.realised_rate[0], "minutes_a_run": s.seconds / 60}
    return {
        **{k: getattr(told, k, "") for k in FIRST[:3]}, "method": of.method,
        "dataset": of.dataset, "noise": of.noise, "rate": of.rate, "budget": of.budget,
        "network": of.options["network"], "n": s.n, "failed": s.failed,
        "seeds": " ".join(r.setting.seed for r in s.runs),
        **{k: "" if math.isnan(x) else f"{x:.4f}" for k, x in numbers.items()},
        "hardware": "; ".join(s.hardware),
        **{k: getattr(c, name, "") for k, name in PRINTED.items()},
        "definition": _definition(c) if c else "",
        "verdict": row.verdict.state, "sentence": row.verdict.sentence}
