"""`noisylabels reproduce`: the runs behind the printed numbers, within a time that one
names.

The plan first: which settings, what is recorded or begun, what a run costs here, what
fits into the time. Then the runs in order of worth, several at once in processes of
their own; then the table with verdicts. Whatever was begun goes on when the same
command is given again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .. import paths, wording
from ..evidence import published
from ..training import runs, schema
from ..wording import Failed, count, duration
from . import common

if TYPE_CHECKING:
    from ..reproduce.grid import Outcome
    from ..reproduce.planning import Group, Plan, Todo

SHOWN = 3  # settings that do not fit unless --dry-run; reasons twice that unless --why


def add_arguments(p: argparse.ArgumentParser) -> None:
    from .. import methods

    what = p.add_argument_group("which runs")
    what.add_argument(
        "--budget", metavar="B", choices=runs.BUDGETS,
        help=f"{', '.join(runs.BUDGETS)}; default: fast with a GPU, else laptop")
    what.add_argument(
        "--plan", metavar="NAME",
        help="the steps of data/plans/NAME.csv instead of the printed numbers: "
        f"{', '.join(_plans()).replace('%', '%%')} (--budget desk is --plan desk)")
    what.add_argument("--paper", nargs="+", default=[], metavar="P",
                      help=f"only of {', '.join(published.PAPERS)}")
    what.add_argument("--method", nargs="+", default=[], metavar="M",
                      help=f"only of these, such as {', '.join(methods.NAMES)}")
    what.add_argument("--dataset", nargs="+", default=[], metavar="D",
                      help="only on these (laptop: cifar10 alone unless named here)")
    what.add_argument(
        "--seeds", type=common.seeds, default=None, metavar="N",
        help="runs a setting, of seeds 0 to N-1 (default 3; of a plan: as it says)")
    what.add_argument("--max-samples", type=common.whole, metavar="N",
                      help="train on N images (no verdict then); 0: on all")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                      help="change an option of the methods (no verdict then)")
    what.add_argument("--again", action="store_true", help="also what failed before")
    how = p.add_argument_group("how")
    how.add_argument(
        "--minutes", type=_minutes, default=25.0, metavar="T",
        help="train until then (default 25; 0: not at all); the report comes after")
    how.add_argument(
        "--jobs", type=_jobs, default=None, metavar="N",
        help="runs at once; auto (default): the number of cores, or 1 on a GPU")
    how.add_argument("--device", default="auto",
                     help="auto (default), cpu, cuda, cuda:k")
    how.add_argument("--compile", action="store_true", help="use torch.compile")
    how.add_argument("--graph", action="store_true",
                     help="capture the step as a CUDA graph")
    how.add_argument("--signals", action="store_true",
                     help="keep the per-sample signals of seed 0 in the records")
    how.add_argument("--dry-run", action="store_true",
                     help="show the whole plan, and stop")
    how.add_argument("--why", action="store_true",
                     help="say in full why printed numbers are left out")
    out = p.add_argument_group("what comes of it")
    out.add_argument("--out", type=Path, metavar="DIR",
                     help="write the table there, as Markdown and CSV")
    out.add_argument(
        "--pack", nargs="?", type=Path, const=Path(), metavar="FILE",
        help="put these runs and their checkpoints into FILE (default DIR/runs.tar)")
    out.add_argument("--no-checkpoints", action="store_true",
                     help="leave the checkpoints of runs that were begun out of it")
    out.add_argument("--unpack", type=Path, metavar="FILE",
                     help="take in a bundle, and stop")


def _plans() -> list[str]:
    """The names of the plans in data/plans."""
    return sorted(file.stem for file in paths.plans_dir().glob("*.csv"))


def _minutes(text: str) -> float:
    return common.number(text, "a number of minutes from 0 on", lambda t: 0 <= t < 1e6)


def _jobs(text: str) -> int | None:
    return None if text == "auto" else common.jobs(text)


def main(args: argparse.Namespace) -> int:
    begun = time.monotonic()
    if args.unpack is not None:
        return unpack(args)
    if args.out is not None:
        _check_place(args.out)
    target = _target(args)
    from ..reproduce import grid, planning, report
    from ..training import engine
    from .train import default_budget, given_options

    engine.set_threads(None)
    execution = engine.Execution(args.device, args.compile, args.graph).resolve()
    budget = args.budget or default_budget("cifar10", execution.device)
    name = _plan(args)
    changes = given_options(
        args.set, ("max_samples",), "here the tables of printed numbers "
        "decide it; --paper, --method, --dataset, --budget and --seeds choose "
        "among them")
    if args.max_samples is not None:
        changes["max_samples"] = args.max_samples
    if name is not None:
        budget = planning.budget_of(name)
        if args.budget not in (None, budget):
            raise ValueError(
                f"--plan {name} is of the {budget} budget, not {args.budget}; leave "
                "--budget out.")
    choose = _filters(args, budget, name)
    jobs = args.jobs or (1 if execution.device.startswith("cuda") else cores())
    seeds = args.seeds or 3
    if name is not None:
        del choose["paper"]
        selection = planning.select_plan(name, args.seeds, changes=changes, **choose)
    else:
        selection = planning.select(budget, seeds, changes=changes, **choose)
    absent = selection.left_out.get(planning.NO_DATA, Counter())
    hint = ""
    if not selection.groups and absent and not args.dataset:
        hint = f" For more: {'; '.join(sorted(absent))}."
        # what comes with scikit-learn is always here
        if args.budget is None and name is None:
            small = planning.select("smoke", seeds, changes=changes,
                                    **_filters(args, "smoke"))
            if small.groups:
                print(
                    f"{count(sum(absent.values()), 'printed number')} of the {budget} budget "
                    f"need images that are not here. So this plan is for the digits, the smoke "
                    f"budget: it shows that everything runs, and proves nothing about the "
                    f"numbers.{hint}\n")
                budget, selection = "smoke", small
        else:
            hint += " Without any files: --budget smoke, the digits."
    if args.out is not None and not args.dry_run:
        _check_out(args.out, budget)
    plan = planning.make(selection, execution, jobs, args.again)
    ends = begun + 60 * args.minutes
    planning.lay_out(plan.todo, jobs, ends - time.monotonic())
    print(
        f"{budget} budget on {plan.estimates.hardware}, {count(jobs, 'run')} at once, "
        f"{args.minutes:g} minute{'s' * (args.minutes != 1)}\n"
        f"{plan_text(plan, args.dry_run, args.why)}", flush=True)
    if not selection.groups:
        if name is not None and not selection.left_out:
            raise Failed(
                f"there is nothing to run: no step of the plan {name} is of the methods, "
                "data sets and seeds that were asked for.")
        of = "printed number" if name is None else f"step of the plan {name}"
        raise Failed(f"there is nothing to run: every {of} that was asked for is left "
                     f"out (see above).{hint}")
    if args.dry_run:
        return 0
    outcome = grid.Outcome()
    if plan.todo and time.monotonic() < ends:
        print(flush=True)
        with Board(sys.stdout, plan, 60 * args.minutes, begun) as board:
            outcome = grid.train_all(
                plan.todo, plan.estimates, jobs, ends, lambda t: grid.message_of(
                    execution, args.signals and t.setting.init_seed == 0, args.again),
                board)
    notes = outcome_notes(outcome)
    print("\n" + "\n".join(notes), flush=True)
    after = planning.make(selection, execution, jobs,
                          before=plan) if outcome.ended else plan
    found = report.rows(after, budget, changes)
    print("\n" + report.text(found, budget), flush=True)
    if target is not None:
        print(pack(target, args, selection.settings), flush=True)
    if args.out is not None:
        for path in report.write(args.out, found, after, budget, notes):
            print(f"written: {wording.shown(path.absolute())}")
    if outcome.signal is not None:
        return 128 + outcome.signal
    return 1 if outcome.of("failed") or outcome.of("broken") else 0


def cores() -> int:
    """Cores that this process may use."""
    mask = getattr(os, "sched_getaffinity", None)
    return len(mask(0)) if mask else os.cpu_count() or 1


def _plan(args: argparse.Namespace) -> str | None:
    """The plan that is asked for by its name or by its budget; None for the printed
    numbers."""
    name: str | None = args.plan
    if name is None and args.budget == "desk":
        name = "desk"
    if name is None:
        return None
    if name not in (there := _plans()):
        where = wording.shown(paths.plans_dir())
        raise ValueError(f"there is no plan {name!r} in {where}; there "
                         + (f"are: {', '.join(there)}." if there else "is none."))
    if args.paper:
        raise ValueError(
            f"the plan {name} goes by steps and not by papers; choose by --method "
            "and --dataset.")
    return name


def _filters(args: argparse.Namespace, budget: str, plan: str | None = None
             ) -> dict[str, list[str]]:
    """The filters, each name checked against what there is."""
    from .. import methods

    cells = published.load_cells()
    allowed = {
        "paper": list(published.PAPERS), "method": sorted({c.method for c in cells}),
        "dataset": sorted({c.dataset for c in cells})
    }
    if budget == "smoke":
        allowed["dataset"] = ["digits"]
        if other := [d for d in args.dataset if d in schema.DATASETS and d != "digits"]:
            raise ValueError(
                f"the smoke budget runs the digits alone, not {other[0]}; take "
                "--budget laptop, desk, fast or paper for it.")
    elif "digits" in args.dataset:
        raise ValueError(
            "the digits are run by the smoke budget alone: --budget smoke.")
    if plan is not None:
        from ..reproduce import planning

        there = {step.dataset for step in planning.steps_of(plan)}
        allowed |= {"method": list(methods.NAMES), "dataset": sorted(there)}
    return {
        name: [
            wording.choose(name, value, allowed[name]) for value in getattr(args, name)
        ] for name in allowed
    }


# ----------------------------------------------------------------------------- the plan


def plan_text(plan: Plan, everything: bool, why: bool = False) -> str:
    """What is to be run in which order, what it costs, what becomes of it, what is left
    out."""
    from ..lab import cost

    chosen = plan.selection
    seeds = len(chosen.groups[0].settings) if chosen.groups else 0
    many = count(len(chosen.groups), "setting")
    lines = [
        f"{count(chosen.cells, 'printed number')}; {many} x {count(seeds, 'seed')} stand for "
        f"{sum(len(g.cells) for g in chosen.groups)} of them"
    ]
    if chosen.plan:  # a plan of its own: the numbers of seeds differ
        lines = [f"{many}, {count(len(chosen.settings), 'run')}: the steps of the plan "
                 f"{chosen.plan}, which say the order"]
    for kind, reasons in chosen.left_out.items():
        lines += _listed(kind, reasons, why)
    lines += [f"left out of the store: {wording.plain(x)}" for x in plan.strange]
    order = {id(t): k for k, t in enumerate(plan.todo)}
    groups = sorted(chosen.groups, key=lambda g: min(
        (order[id(t)] for t in plan.of(g)), default=len(order)))
    rows: list[Sequence[object]] = []
    late = 0
    for group in groups:
        todo = plan.of(group)
        waits = bool(todo) and all(t.fate == "waits" for t in todo)
        late += waits
        if everything or (todo and (not waits or late <= SHOWN)):
            rows.append(_plan_row(plan, group, todo, waits))
    if rows:
        header = [
            "run", "step" if chosen.plan else "priority", "numbers", "recorded",
            "begun", "a run takes", "known by", "in this time"
        ]
        if chosen.plan:  # no printed numbers stand behind it
            header.remove("numbers")
            rows = [(*row[:2], *row[3:]) for row in rows]
        lines.append(wording.table(header, rows, ("run", "known by", "in this time")))
    fates = Counter(t.fate for t in plan.todo)
    work = sum(t.seconds for t in plan.todo if t.fate == "waits")
    more = 0 if everything else max(0, late - SHOWN)
    lines.append(
        f"{count(len(plan.finished), 'run')} recorded, {len(plan.failed)} failed before; "
        f"{len(plan.todo)} to do: {fates['ends']} will end, {fates['begins']} will begin and "
        f"resume next time, {fates['waits']} do not fit (about {duration(work)} of work"
        +
        (f", {count(more, 'setting')} not listed; --dry-run lists all)" if more else ")"
         ))
    if any(t.cost.basis == "guess" for t in plan.todo):
        lines.append(
            "measured: by recorded runs like it on this hardware; guess: by a timing of "
            "a few steps and the passes that the method makes")
        guessed = {t.setting.method for t in plan.todo if t.cost.basis == "guess"}
        if unknown := [m for m in sorted(guessed) if cost.factor_of(m) is None]:
            lines.append(
                f"the passes of {' and '.join(unknown)} are not counted: their guess is "
                "that of cross entropy, and too low")
    return "\n".join(lines)


def _plan_row(plan: Plan, group: Group, todo: Sequence[Todo],
              waits: bool) -> tuple[object, ...]:
    recorded = sum(s.key in plan.finished for s in group.settings)
    failed = sum(s.key in plan.failed for s in group.settings)
    fates = Counter(t.fate for t in todo)
    words = {
        "ends": "will end", "begins": "begun, resumes next time", "waits": "no time"
    }
    fate = ", ".join(f"{n} {words[k]}" for k in words if (n := fates[k]))
    if waits or not todo:
        fate = "no time" if waits else "nothing to do"
    cost = todo[0].cost if todo else None
    return (group.name, group.priority, len(group.cells),
            f"{recorded}" + (f" ({failed} failed)" if failed else ""),
            sum(t.begun > 0 for t in todo) or "",
            duration(cost.seconds) if cost else "", cost.basis if cost else "", fate)


def _listed(kind: str, reasons: Mapping[str, int], why: bool) -> list[str]:
    """How many are left out for reasons of that kind: the first few shortly, or (`why`)
    all."""
    head = f"{sum(reasons.values())} left out, {kind}:"
    if why:
        return [
            head, *(f"  {reason} ({n})" for reason, n in Counter(reasons).most_common())
        ]
    short: Counter[str] = Counter()
    for reason, n in reasons.items():  # of data not read here, the beginning says what
        short[reason.split(" is not read here:")[0]] += n
    ranked = short.most_common()
    text = "; ".join(_clipped(reason, n) for reason, n in ranked[: 2 * SHOWN])
    left = sum(n for _, n in ranked[2 * SHOWN :])
    folded = left or any(_clipped(r, n) != f"{r} ({n})"
                         for r, n in ranked) or set(short) != set(reasons)
    return [f"{head} {text}" + (f"; and {left} more" if left else "")
            + (" (--why says it in full)" if folded else "")]


def _clipped(reason: str, number: int, most: int = 72) -> str:
    if len(reason) > most:
        reason = reason[:most].rsplit(" ", 1)[0].rstrip(",:;") + " ..."
    return f"{reason} ({number})"


def outcome_notes(outcome: Outcome) -> list[str]:
    """What became of the runs of this call, one sentence a kind and one a mishap."""
    names = {"finished": "ended", "stopped": "stopped, resume next time",
             "failed": "failed and recorded as failed", "broken": "broke off",
             "busy": "left to another process"}
    said = [
        f"{len(outcome.of(k))} {name}" for k, name in names.items() if outcome.of(k)
    ]
    notes = ["runs of this call: " + (", ".join(said) or "none")]
    for how in ("failed", "broken", "busy"):
        notes += [f"{how}: {t.setting}: {why}" for t, why in outcome.of(how)]
    return notes


# ----------------------------------------------------------------------------- progress


class Board:
    """Who is at what: on a terminal one line a run and a total, else a line when things
    happen."""

    def __init__(self, stream: TextIO, plan: Plan, seconds: float, begun: float,
                 every: float = 60.0) -> None:
        self.stream, self.live, self.total = stream, common.live(stream), len(plan.todo)
        self.seconds, self.begun = seconds, begun
        self.at: dict[str, tuple[Todo, dict[str, Any], list[float]]] = {}
        self.ends: Counter[str] = Counter()
        self.drawn = 0
        self.every = 1.0 if self.live else every
        self.last = time.monotonic()

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self._say("")

    def began(self, todo: Todo) -> None:
        self.at[todo.setting.key] = (todo, {"epoch": todo.begun}, [])
        goes = f"goes on after epoch {todo.begun}" if todo.begun else "begins"
        self._say(f"{_name(todo)}: {goes}, about {duration(todo.seconds)}\n")

    def epoch(self, todo: Todo, row: dict[str, Any]) -> None:
        _, _, times = self.at[todo.setting.key]
        times.append(row["seconds"] + row["seconds_evaluating"])
        self.at[todo.setting.key] = (todo, row, times[-5:])
        todo.begun = int(row["epoch"])

    def ended(self, todo: Todo, how: str, why: str) -> None:
        self.at.pop(todo.setting.key, None)
        self.ends[how] += 1
        if how == "finished":
            run = runs.lookup(todo.setting)
            why = "" if run is None else (f"last {wording.percent(run.last())}, "
                                          f"{duration(run.info.get('seconds', 0.0))}")
        if how == "stopped":
            why = f"after epoch {todo.begun}, resumes next time" if todo.begun else (
                "before the end of its first epoch")
        self._say(f"{_name(todo)}: {how}" + (f", {why}" if why else "") + "\n")

    def tick(self) -> None:
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        if self.live:
            self._say("")
        else:
            at = "; ".join(self._line(k) for k in self.at)
            self._say(f"{self._sum()}{'; at work: ' if at else ''}{at}\n")

    def _sum(self) -> str:
        failed = self.ends["failed"] + self.ends["broken"]
        spent = (time.monotonic() - self.begun) / 60
        return (f"{self.ends['finished']} of {count(self.total, 'run')} ended"
                + (f", {failed} failed" if failed else "")
                + f", {spent:.1f} of {self.seconds / 60:g} minutes")

    def _line(self, key: str) -> str:
        todo, row, times = self.at[key]
        line = f"{_name(todo)}  epoch {row['epoch']}/{todo.epochs}"
        if times:
            left = sum(times) / len(times) * (todo.epochs - row["epoch"])
            line += f"  test {wording.percent(row['test'])}  ETA {duration(left)}"
        return line

    def _say(self, text: str) -> None:
        """Print for good; on a terminal above the lines of what is at work."""
        if not self.live:
            self.stream.write(text)
        else:
            import shutil

            width = shutil.get_terminal_size((99, 24)).columns - 1
            lines = [self._line(k)[:width] for k in self.at]
            lines += [self._sum()[:width]] if self.at else []
            up = f"\x1b[{self.drawn}A" if self.drawn else ""
            self.stream.write(f"{up}\r\x1b[J{text}" + "".join(f"{x}\n" for x in lines))
            self.drawn = len(lines)
        self.stream.flush()


def _name(todo: Todo) -> str:
    return f"{todo.group.name}, seed {todo.setting.seed}"


# ------------------------------------------------------------------------------ bundles


def _target(args: argparse.Namespace) -> Path | None:
    """The bundle to write; raises before any training when it cannot be written
    there."""
    if args.pack is None:
        if args.no_checkpoints:
            raise ValueError("--no-checkpoints is about a bundle; add --pack FILE.")
        return None
    target: Path = args.pack
    if target == Path():
        if args.out is None:
            raise ValueError(
                "--pack needs a file, such as --pack runs.tar, or --out DIR.")
        target = args.out / "runs.tar"
    if target.is_dir():
        raise ValueError(
            f"{target} is a folder; --pack takes a file, such as runs.tar.")
    if not args.dry_run:
        from ..reproduce import bundle

        bundle.check_target(target)
    return target


def _check_place(folder: Path) -> None:
    """Raise at once where no report can be: below a file, in what is closed. Makes
    nothing."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents)
                 if os.path.lexists(p))
    why = "" if there.is_dir() else f"{there} is no folder"
    if why or not os.access(there, os.W_OK | os.X_OK):
        raise Failed(
            f"no report can be written to {folder}: {why or 'Permission denied'}; name "
            "another folder by --out.")


def _check_out(folder: Path, budget: str) -> None:
    """Raise before any training where the report cannot be written."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Failed(
            f"no report can be written to {folder}: {error.strerror}; name another "
            "folder by --out.") from error
    from ..reproduce import report

    report.check_free(folder, budget)


def pack(target: Path, args: argparse.Namespace,
         settings: Sequence[runs.Setting]) -> str:
    """Write the bundle and say what is in it."""
    from ..reproduce import bundle

    done = bundle.pack(target, settings, not args.no_checkpoints)
    lines = [f"left out of the bundle: {x}" for x in done.left_out]
    if not done.runs + done.checkpoints:
        return "\n".join([*lines, "nothing to pack yet: no bundle was written"])
    return "\n".join([
        *lines,
        f"packed {count(done.runs, 'run')} and {count(done.checkpoints, 'checkpoint')}, "
        f"{wording.size(target.stat().st_size)}: {wording.shown(target.absolute())}"])


def unpack(args: argparse.Namespace) -> int:
    """Take in a bundle; say what came of each run in it."""
    from ..reproduce import bundle

    if args.pack is not None:
        raise ValueError(
            "--pack and --unpack exclude each other; give one command for each.")
    taken = bundle.unpack(args.unpack, dry_run=args.dry_run)
    for what, listed in (("taken in", taken.runs), ("checkpoint taken in",
                                                    taken.checkpoints),
                         ("not needed", taken.not_needed), ("refused", taken.refused)):
        for setting in listed:
            print(f"{what}: {setting}")
    verb = "would be" if args.dry_run else "were"
    print(
        f"{count(len(taken.runs), 'run')} and {count(len(taken.checkpoints), 'checkpoint')} "
        f"{verb} taken in, {len(taken.same)} were here already, "
        f"{len(taken.not_needed)} not needed, {len(taken.refused)} refused")
    if taken.refused:
        print(f"refused: finished here with other numbers, in "
              f"{wording.shown(paths.runs_dir())}; a finished run is never replaced",
              file=sys.stderr)
    return 1 if taken.refused else 0
