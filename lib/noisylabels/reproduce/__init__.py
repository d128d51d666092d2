"""The runs behind the printed numbers: which, what they cost, who trains them, what
came of it.

`run(...)` is all of `noisylabels reproduce`, for machines that have PyTorch and nothing
else.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def run(*, budget: str | None = None, plan: str | None = None,
        paper: Sequence[str] = (), method: Sequence[str] = (),
        dataset: Sequence[str] = (), seeds: int | None = None,
        options: Iterable[str] = (), again: bool = False, minutes: float = 25.0,
        jobs: int | None = None, cluster: str = "", device: str = "auto",
        compile: bool = False, graph: bool = False, signals: bool = False,
        dry_run: bool = False, out: str | Path | None = None,
        pack: str | Path | None = None, checkpoints: bool = True) -> int:
    """Do the runs behind the printed numbers, or those of a plan, within `minutes`.

    Args:
        budget, plan, paper, method, dataset, seeds, again: which runs (`planning`).
        options: pairs KEY=VALUE that change the methods' options; no verdict then.
        jobs: processes at work (default: the number of cores, 1 on a GPU); cluster:
            the address of a Dask scheduler, whose workers are taken instead.
        device, compile, graph: as of `engine.Execution`.
        signals: keep the per-sample signals of seed 0.
        dry_run: say the plan, and stop.
        out: folder for the table as Markdown and CSV; pack: file for a bundle.

    Returns 0, 1 when a run broke down, 128 + the signal that ended it. Raises
    ValueError for what is not allowed, wording.Failed where it cannot go on. With Dask
    it starts processes: call it below `if __name__ == "__main__":`.
    """
    from .. import wording
    from ..lab import cost
    from ..training import engine, runs
    from ..wording import Failed, count
    from . import bundle, grid, planning, report
    from .progress import Board

    begun = time.monotonic()
    ends = begun + 60 * minutes
    out, pack = out and Path(out), pack and Path(pack)
    engine.set_threads(None)
    if out and not dry_run:
        report.check_free(out, budget or "")
    if pack and not dry_run:
        bundle.check_target(pack)
    name = "desk" if plan is None and budget == "desk" else plan
    changes = planning.options_of(options)
    there = grid.Dask(address=cluster) if cluster else None
    ask = there.ask if there else cost.here
    execution = ask(engine.Execution(device, compile, graph).resolve)
    gpu = execution.device.startswith("cuda")
    alone = there is None and not grid.has_dask()
    jobs = there.slots() if there else 1 if alone else jobs or (1 if gpu else cores())
    which: dict[str, Any] = {"paper": paper, "method": method, "changes": changes}
    if name is not None:
        chosen = planning.select_plan(name, seeds, budget=budget, dataset=dataset,
                                      **which)
    else:
        chosen = planning.select(budget or ("fast" if gpu else "laptop"), seeds or 3,
                                 dataset=dataset, **which)
    absent = chosen.left_out.get(planning.NO_DATA, Counter())
    hint = f" For more: {'; '.join(sorted(absent))}." if absent and not dataset else ""
    if hint and not chosen.groups and budget is None and name is None:
        # what comes with scikit-learn is always here
        small = planning.select("smoke", seeds or 3, **which)
        if small.groups:
            print(
                f"{count(absent.total(), 'printed number')} of the {chosen.budget} "
                "budget need images that are not here. So this plan is for the digits, "
                "the smoke budget: it shows that everything runs, and proves nothing "
                f"about the numbers.{hint}\n")
            chosen = small
    if out and not dry_run:
        report.check_free(out, chosen.budget)
    made = planning.make(chosen, cost.Estimates(execution, jobs, ask=ask), again)
    planning.lay_out(made.todo, jobs, ends - time.monotonic())
    print(f"{chosen.budget} budget on {made.estimates.hardware}, "
          f"{count(jobs, 'run')} at once" + (f" by {cluster}" * bool(cluster))
          + ", since Dask is not installed" * alone
          + f", {minutes:g} minute{'s' * (minutes != 1)}\n"
          + planning.text(made, dry_run), flush=True)
    if not chosen.groups:
        what = f"step of the plan {name}" if name else "printed number"
        if name and not chosen.left_out:
            raise Failed(f"there is nothing to run: no {what} is of the methods, data "
                         "sets and seeds that were asked for.")
        raise Failed(
            f"there is nothing to run: every {what} that was asked for is left "
            f"out (see above).{hint}" +
            (" Without any files: --budget smoke, the digits." * bool(hint)))
    if dry_run:
        return 0
    outcome = grid.Outcome()
    if made.todo and time.monotonic() < ends:
        print(flush=True)
        crew = there or (grid.Alone() if alone else
                         grid.Dask(min(jobs, len(made.todo))))
        with Board(len(made.todo), minutes, begun) as board:
            outcome = grid.train_all(
                crew, made.todo, made.estimates, ends, lambda t:
                (execution, signals and t.setting.init_seed == 0, again), board)
    notes, found = report.notes(outcome), report.rows(chosen, runs.scan()[0], changes)
    print("\n" + "\n".join(notes) + "\n\n" + report.text(found, chosen.budget),
          flush=True)
    if pack:
        print("\n" + bundle.pack(pack, chosen.settings, checkpoints).told(pack),
              flush=True)
    if out:
        for path in report.write(out, found, chosen, notes):
            print(f"written: {wording.shown(path.absolute())}")
    if outcome.lost:
        raise Failed(outcome.lost)
    if outcome.signal is not None:
        return 128 + outcome.signal
    return 1 if outcome.of("failed") or outcome.of("broken") else 0


def cores() -> int:
    """Cores that this process may use."""
    mask = getattr(os, "sched_getaffinity", None)
    return len(mask(0)) if mask else os.cpu_count() or 1
