"""From a setting to a run: loaded when it is finished, resumed when it was begun, else
trained."""

from __future__ import annotations

import math
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from .. import methods, paths, ranges
from ..training import engine, runs
from ..training.recorder import (
    Progress,
    Recorder,
    TrainingFailed,
    Truth,
    Watch,
    read_checkpoint,
)
from ..training.runs import Run, Setting
from .recipes import EVERY, settings_of, total_epochs
from .tasks import prepare


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
    desk = s.budget == "desk"
    signals = signals or desk

    def recorded() -> Run | None:
        there = runs.lookup(s)
        if there is None or (not there.finished and again):
            return None
        return None if signals and again and not there.has_signals else there

    if (there := recorded()) is not None:
        return _tidied(there)
    with runs.lock(s, waiting=waiting):
        if (there := recorded()) is not None:
            return _tidied(there)
        there = runs.lookup(s)
        repeats = there is not None and there.finished  # for its signals
        checkpoints = checkpoints_of(s, "-signals" if repeats else "")
        if again and signals and lacks_losses(s):
            shutil.rmtree(checkpoints, ignore_errors=True)
        task, truth = prepare(s, execution)
        epochs = total_epochs(s, len(task))
        info = facts(s, task, truth)
        log = Recorder(task, truth, checkpoints, progress,
                       **kept_of(s, epochs, signals),
                       about={k: info[k] for k in runs.schema.MADE_BY})
        try:
            methods.get(s.method).train(task, settings_of(s), log)
        except TrainingFailed as error:
            if not repeats:
                why = " ".join(str(error).split())[:runs.schema.MOST_TEXT]
                runs.save(s,
                          {**info, "status": "failed", "why": why, "parts": log.parts},
                          log.rows)
            log.finish()
            shutil.rmtree(checkpoints, ignore_errors=True)
            raise
        finally:
            log.finish()
        kept = log.signals() if log.losses_at else None
        if log.history is not None:
            info["losses_of"] = log.history.epochs(len(log.history), len(task))
        if there is not None and repeats:
            result = runs.keep_signals(there, log.rows, kept or {})
        else:
            lack = {"signals_lack": log.lacking} if log.lacking else {}
            result = runs.save(s, {**info, "status": "finished", **summary(log), **lack,
                                   "parts": log.parts}, log.rows, kept)
        shutil.rmtree(checkpoints, ignore_errors=True)
        return result


def kept_of(s: Setting, epochs: int, signals: bool = True) -> dict[str, Any]:
    """What the recorder of a run of so many epochs keeps of single samples, and how
    often it looks at the test images."""
    if s.budget != "desk":
        return {"losses_at": (2, max(2, epochs // 2), epochs) if signals else ()}
    sixths = tuple(
        max(1, round(epochs * part)) for part in (0.05, 0.1, 0.25, 0.5, 0.75, 1))
    return {"losses_at": (epochs,), "history": True, "every": EVERY[s.budget],
            "features_at": sixths if s.method == "cross_entropy" else ()}


def checkpoints_of(s: Setting, kind: str = "") -> Path:
    """Where the checkpoints of a run lie; of its repetition for the signals with
    `-signals`."""
    return paths.cache_dir() / "checkpoints" / f"{s.key}{kind}"


def lacks_losses(s: Setting) -> bool:
    """Whether this run was begun, past its second epoch, without keeping losses. A run
    of the desk budget never is."""
    if s.budget == "desk":
        return False
    newest = max(checkpoints_of(s).glob("block-*.pt"), default=None,
                 key=lambda f: int(f.stem.split("-")[1]))
    if newest is None:
        return False
    held = read_checkpoint(newest)
    return len(held["rows"]) >= 2 and "loss-2" not in held["signals"]


def epochs_begun(s: Setting) -> int:
    """Finished epochs of an interrupted run; 0 when there is nothing to go on from."""
    files = checkpoints_of(s).glob("block-*.pt")
    newest = max(files, key=lambda f: int(f.stem.split("-")[1]), default=None)
    if newest is None:
        return 0
    try:
        return len(read_checkpoint(newest)["rows"])
    except runs.StoreError:  # whatever is wrong with the file, the recorder says it
        return 0


def _tidied(there: Run) -> Run:
    """A recorded run; checkpoints that a kill left behind it are of no more use."""
    left = checkpoints_of(there.setting)
    if there.finished and left.exists():
        shutil.rmtree(left, ignore_errors=True)
    return there


def watch(s: Setting, each: Watch | None = None, *,
          execution: engine.Execution | None = None) -> tuple[Run, Recorder]:
    """Train now, without the store; `each(epoch, recorder)` sees every epoch. For live
    figures."""
    task, truth = prepare(s, execution)
    log = Recorder(task, truth, watch=each)
    methods.get(s.method).train(task, settings_of(s), log)
    columns = dict.fromkeys(c for row in log.rows for c in row)
    epochs = {c: runs.np.array([row.get(c, math.nan) for row in log.rows])
              for c in columns}
    info = {**facts(s, task, truth), "status": "finished", **summary(log),
            "_signals": log.signals()}
    return Run(s, info, epochs), log


def facts(s: Setting, task: engine.Task, truth: Truth) -> dict[str, Any]:
    """What a record says besides its numbers: data, software, hardware."""
    return {
        "samples": len(task), "validation": len(truth.y_val),
        "trusted": 0 if task.trusted is None else len(task.trusted[1]),
        "realised_rate": round(float(truth.wrong.float().mean()), 6),
        **({"noise_note": truth.note} if truth.note else {}),
        **({"noise_redrawn": truth.redrawn} if truth.redrawn else {}),
        **made_by(task),
    }


def made_by(task: engine.Task) -> dict[str, Any]:
    """With what this process trains: everything beside the setting that may move a last
    digit."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if task.device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    return {
        "commit": commit(), "date": runs.now(), "versions": versions,
        "hardware": engine.hardware(task.device), "threads": torch.get_num_threads(),
        "instructions": engine.instructions(),
        "execution": {"compile": task.execution.compile, "graph": task.execution.graph},
        "precision": task.precision,
    }


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


def commit() -> str:
    """The code's commit, with "+" when lib/ had uncommitted changes; "unknown" outside
    git.

    `$NOISYLABELS_COMMIT` names it where the code travels without its history.
    """
    if given := os.environ.get("NOISYLABELS_COMMIT"):
        return given

    checkout = Path(__file__).resolve().parents[3]
    where = checkout if (checkout / "_config.yml").exists() else paths.home()

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(where), *words], capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "lib") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
