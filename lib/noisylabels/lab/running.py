"""From a setting to a run: loaded when it is finished, resumed when it was begun, else
trained."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from .. import ranges
from ..training import engine, recorder, runs
from ..training.provenance import facts
from ..training.recorder import Progress, Recorder, TrainingFailed, Watch
from ..training.runs import Run, Setting
from .budgets import BUDGETS
from .recipes import Plan, check
from .tasks import made


def run(s: Setting, *, execution: engine.Execution | None = None,
        progress: Progress | None = None, signals: bool = False, again: bool = False,
        waiting: Any = None) -> Run:
    """The run of this setting: loaded if recorded, resumed if begun, else trained.

    Args:
        execution: device, compilation; not part of the setting.
        signals: keep the method's per-sample signals with the record (`Run.signals`),
            and the losses after the second, the middle and the last epoch (stages are
            counted through). A run that began without goes on, and its record says
            which losses it lacks. At the desk budget always: there the losses of all
            epochs, in a byte each, and of cross entropy the features of six.
        again: train anew what is recorded as *failed*. With `signals` also what is
            finished without them (they are added where the numbers come out the same;
            the record itself is never replaced) or was begun without them.
        waiting: called once when another process is training this very run; then we
            wait for it.

    Raises:
        recorder.TrainingFailed: training broke down; the failure is recorded and
        counted. runs.StoreError: the record or a checkpoint cannot be written or read.
    """

    if not isinstance(s, Setting):
        raise ValueError(
            f"run takes what lab.setting(...) gives, not {ranges.shown(s)}.")
    signals = signals or BUDGETS[s.budget].follows_all

    def recorded() -> Run | None:
        there = runs.lookup(s)
        if there is None or (not there.finished and again):
            return None
        return None if signals and again and not there.has_signals else there

    if (there := recorded()) is not None:
        return runs.tidied(there)
    with runs.lock(s, waiting=waiting):
        if (there := recorded()) is not None:
            return runs.tidied(there)
        there = runs.lookup(s)
        # a finished one is repeated for its signals, one that failed is replaced
        finished = there if there is not None and there.finished else None
        folder = runs.checkpoints(s, "-signals" if finished else "")
        if again and signals and recorder.lacks_losses(folder):
            shutil.rmtree(folder, ignore_errors=True)
        return _trained(check(s), folder, signals, finished, execution, progress)


def _trained(plan: Plan, folder: Path, signals: bool, finished: Run | None,
             execution: engine.Execution | None, progress: Progress | None) -> Run:
    """Train, and record what came of it; of a `finished` run only the signals are
    added."""
    s, kept = plan.setting, kept_of(plan.setting, plan.epochs, signals)
    task, truth = made(plan, execution)
    info = facts(task, truth)
    log = Recorder(task, truth, folder, progress, **kept,
                   about={k: info[k] for k in runs.schema.MADE_BY})
    try:
        plan.method.train(task, plan.recipe, log)
    except TrainingFailed as error:
        if finished is None:
            why = " ".join(str(error).split())[:runs.schema.MOST_TEXT]
            runs.save(s, {**info, "status": "failed", "why": why, "parts": log.parts},
                      log.rows)
        log.finish()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        log.finish()
    arrays = log.signals() if log.losses_at else None
    if log.history is not None:
        info["losses_of"] = log.history.epochs(len(log.history), len(task))
    if finished is not None:
        result = runs.keep_signals(finished, log.rows, arrays or {})
    else:
        lack = {"signals_lack": log.lacking} if log.lacking else {}
        result = runs.save(s, {**info, "status": "finished", **summary(log), **lack,
                               "parts": log.parts}, log.rows, arrays)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def kept_of(s: Setting, epochs: int, signals: bool = True) -> dict[str, Any]:
    """What the recorder of a run of so many epochs keeps of single samples, and how
    often it looks at the test images."""
    budget = BUDGETS[s.budget]
    if not budget.follows_all:
        return {"losses_at": (2, max(2, epochs // 2), epochs) if signals else (),
                "every": budget.every}
    sixths = tuple(max(1, round(epochs * part))
                   for part in (0.05, 0.1, 0.25, 0.5, 0.75, 1))
    return {"losses_at": (epochs,), "history": True, "every": budget.every,
            "features_at": sixths if s.method == "cross_entropy" else ()}


def checkpoints_of(s: Setting, kind: str = "") -> Path:
    """Where the checkpoints of a run lie; of its repetition for the signals with
    `-signals`."""
    return runs.checkpoints(s, kind)


def lacks_losses(s: Setting) -> bool:
    """Whether this run was begun, past its second epoch, without keeping losses. A run
    that follows all samples never is."""
    if BUDGETS[s.budget].follows_all:
        return False
    return recorder.lacks_losses(runs.checkpoints(s))


def epochs_begun(s: Setting) -> int:
    """Finished epochs of an interrupted run; 0 when there is nothing to go on from."""
    file = recorder.newest(runs.checkpoints(s))
    if file is None:
        return 0
    try:
        return len(recorder.read_checkpoint(file)["rows"])
    except runs.StoreError:  # whatever is wrong with the file, the recorder says it
        return 0


def watch(s: Setting, each: Watch | None = None, *,
          execution: engine.Execution | None = None) -> tuple[Run, Recorder]:
    """Train now, without the store; `each(epoch, recorder)` sees every epoch. For live
    figures."""
    plan = check(s)
    task, truth = made(plan, execution)
    log = Recorder(task, truth, watch=each)
    plan.method.train(task, plan.recipe, log)
    columns = dict.fromkeys(c for row in log.rows for c in row)
    epochs = {c: runs.np.array([row.get(c, math.nan) for row in log.rows])
              for c in columns}
    info = {**facts(task, truth), "status": "finished", **summary(log),
            "_signals": log.signals()}
    return Run(s, info, epochs), log


def summary(log: Recorder) -> dict[str, Any]:
    """The final numbers of a record; `mean_last_10` and `best` are of the last
    stage."""
    test = [row["test"] for row in log.rows if row["stage"] == log.rows[-1]["stage"]
            and not math.isnan(row["test"])]
    seconds = [row["seconds"] for row in log.rows]
    return {
        "epochs": len(log.rows), "last": test[-1],
        "mean_last_10": sum(test[-10:]) / len(test[-10:]), "best": max(test),
        "seconds_per_epoch": sorted(seconds)[len(seconds) // 2],
        "seconds": sum(seconds) + sum(row["seconds_evaluating"] for row in log.rows)
    }
