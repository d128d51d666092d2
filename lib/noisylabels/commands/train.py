"""`noisylabels train`: one run, from the resolved setting to its final numbers."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, TextIO

import numpy as np
import rich.progress
import typer

from .. import methods, paths, wording
from ..ranges import MOST_SEED
from ..training import runs
from ..wording import Failed, duration, percent
from . import common

DEFAULT_RATE = 0.4

app = common.app()
what = partial(typer.Option, rich_help_panel="What is trained")
draws = partial(typer.Option, rich_help_panel="Random draws",
                min=0, max=MOST_SEED)
how = partial(typer.Option, rich_help_panel="How (no part of the setting)")
EXAMPLE = """example:
  noisylabels train --method cross_entropy --dataset cifar10 --noise symmetric \
--rate 0.4 --network small --epochs 1"""


@app.command(cls=common.Command, epilog=EXAMPLE)
def main(
    method: Annotated[str, what(help=", ".join(methods.NAMES))],
    dataset: Annotated[str, what(help="digits, cifar10, cifar100")] = "digits",
    noise: Annotated[str, what(help="a wrong name lists all")] = "symmetric",
    rate: Annotated[float | None, what(
        min=0, max=1,
        help=f"nominal noise rate (default {DEFAULT_RATE}; none 0, human 1)")] = None,
    budget: Annotated[str | None, what(
        help=f"{', '.join(runs.BUDGETS)}; default: smoke for digits, else fast with a "
        "GPU and laptop without, then on all images")] = None,
    network: Annotated[str | None, what(help="tiny, small, resnet9, ...")] = None,
    epochs: Annotated[int | None, what(min=1, help="passes over the images")] = None,
    max_samples: Annotated[int | None, what(
        min=0, help="train on a class-balanced part of so many; 0: on all")] = None,
    option: Annotated[list[str] | None, what(
        "--set", metavar="KEY=VALUE",
        help="any other option of the method; may be given often")] = None,
    trusted_per_class: Annotated[int | None, what(
        min=0, help="images a class with a label known to be right, kept out")] = None,
    val_fraction: Annotated[float | None, what(
        min=0, max=1, help="share kept out as validation with noisy labels")] = None,
    seed: Annotated[int | None, draws(help="all three (default 0)")] = None,
    split_seed: Annotated[int | None, draws(help="of subset and validation")] = None,
    noise_seed: Annotated[int | None, draws(help="of the wrong labels")] = None,
    init_seed: Annotated[int | None, draws(help="of start, order and views")] = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    compile: Annotated[bool, how("--compile", help="use torch.compile")] = False,
    graph: Annotated[bool, how("--graph", help="step as a CUDA graph")] = False,
    signals: Annotated[bool, how("--signals", help="keep per-sample signals")] = False,
    again: Annotated[bool, how("--again", help="once more what failed")] = False,
    dry_run: Annotated[bool, how("--dry-run", help="only say what would be")] = False,
) -> int:
    """Train one run, or go on with one that was interrupted."""
    from .. import lab
    from ..noise import absent
    from ..training import engine

    engine.set_threads(threads)
    s = resolve(method, dataset, noise, rate, budget, device, seed, option,
                network=network, epochs=epochs, max_samples=max_samples,
                split_seed=split_seed, noise_seed=noise_seed, init_seed=init_seed,
                trusted_per_class=trusted_per_class, val_fraction=val_fraction)
    execution = engine.Execution(device, compile, graph).resolve()
    there, begun = runs.lookup(s), lab.epochs_begun(s)
    done = there if there is not None and there.finished else None
    failed = there is not None and done is None and not again
    lacks = "" if done or failed else absent(s.dataset, s.noise)
    without = signals and (not done.has_signals if done else
                           begun > 0 and lab.lacks_losses(s))
    anew = without and again
    plan = (
        f"finished on {done.info.get('date', 'an unknown day')}: " + (
            "it is trained once more, for its signals; the record stays" if anew else
            "it is loaded" + "; it was recorded without signals, --again trains it "
            "once more for them" * without) if done else
        "it failed before; --again trains it once more" if failed else
        "it cannot be trained" if lacks else
        "it will be trained" if not begun else
        "begun before without signals: --again starts it anew" if anew else
        f"begun before: it goes on after epoch {begun}" + "; it began without "
        "--signals, so the losses of early epochs are missing (--again starts it anew)"
        * without)
    begun = 0 if anew else begun
    common.say(str(s), announcement(s, execution, plan))
    if anew or not done:
        takes = expected(s, execution, begun, timed=dry_run)
        common.say(common.facts([("takes", takes)]))
    if lacks:
        raise Failed(f"this run needs what is not here: {lacks}.")
    if dry_run:
        return 0
    if there is not None and failed:
        raise Failed(
            f"this run failed before: {there.info.get('why', 'no reason recorded')} "
            "Change a setting, or add --again to train it once more.")
    progress = Progress(sys.stdout, begun)
    try:
        with progress.bar:
            run = lab.run(s, execution=execution, progress=progress, signals=signals,
                          again=again, waiting=progress.waiting)
    except KeyboardInterrupt:
        said = (f"stopped after epoch {progress.epochs}; the same command goes on from "
                "there." if progress.epochs else "stopped before the end of the first "
                "epoch; the same command starts it anew.")
        print(f"noisylabels: {said}", file=sys.stderr)
        return 130
    except lab.TrainingFailed as error:
        raise Failed(
            f"{error} It is recorded as failed in "
            f"{wording.shown(paths.runs_dir() / s.path)}; change a setting, such as "
            "--set lr=0.01.") from error
    if not run.finished:
        raise Failed(f"this run failed: {run.info.get('why', 'no reason recorded')}")
    common.say(*result(run))
    return 0


# ------------------------------------------------------------------- what is to be done


def resolve(method: str, dataset: str, noise: str, rate: float | None,
            budget: str | None, device: str, seed: int | None,
            option: list[str] | None, **given: Any) -> runs.Setting:
    """The setting that the arguments mean; `given`: those with the names and meaning of
    `lab.setting`'s. Raises ValueError that names the nearest valid word."""
    import torch

    from .. import lab

    options = given_options(option or [])
    for name in ("network", "epochs"):
        if (value := given.pop(name)) is not None:
            if name in options:
                raise ValueError(
                    f"{name} is given twice, by --{name} and by --set; give it once.")
            options[name] = value
    if seed is not None and None not in (given["split_seed"], given["noise_seed"],
                                         given["init_seed"]):
        raise ValueError(
            "--seed has nothing to decide beside --split-seed, --noise-seed and "
            "--init-seed; leave it out, or one of the three.")
    if budget is None:  # what the device can do
        gpu = device.startswith("cuda") or (
            device == "auto" and torch.cuda.is_available())
        budget = "smoke" if dataset == "digits" else "fast" if gpu else "laptop"
        given["max_samples"] = given["max_samples"] or 0
    human = noise.startswith("human-")
    if human and rate not in (None, 1):
        raise ValueError(
            f"--rate {rate:g} goes not with {noise}: labels that people gave are taken "
            "as they are; leave --rate out.")
    if rate is None:
        rate = 0.0 if noise == "none" else 1.0 if human else DEFAULT_RATE
    return lab.setting(method, dataset, noise, rate, budget, seed or 0, **given,
                       **options)


def given_options(pairs: list[str]) -> dict[str, Any]:
    """["q=0.5", ...] as a dict; `lab.setting` reads the values as the method's
    types."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise ValueError(
                f"--set takes KEY=VALUE, such as --set lr=0.1, not {pair!r}.")
        if key in runs.FLAGS:
            raise ValueError(f"{key!r} is no option of a method; use "
                             f"--{key.replace('_', '-')}.")
        if key in options:
            raise ValueError(f"--set {key}=... is given twice; give it once.")
        options[key] = value.strip()
    return options


def announcement(s: runs.Setting, execution: Any, plan: str) -> common.Table:
    """The resolved setting, where it goes and what happens, before anything happens."""
    from ..lab import cost
    from ..training import engine

    n = cost.images(s)
    o = dict(s.options)
    data = f"{n.train:,} of {n.all:,} images to train on"
    data += f", {n.val:,} kept as noisy validation" if n.val else ""
    data += f", {n.trusted:,} trusted" if n.trusted else ""
    net = (f"{o.pop('network', '?')}, {wording.count(o.pop('epochs', 0), 'epoch')}, "
           f"batches of {o.pop('batch_size', '?')}, {o.pop('precision', '?')}")
    return common.facts([
        ("data", data), ("network", net),
        ("options", " ".join(f"{k}={wording.words_of(v)}" for k, v in o.items())),
        ("seeds", f"split {s.split_seed}, noise {s.noise_seed}, init {s.init_seed}"),
        ("device", engine.hardware(execution.device)
         + ", compiled" * execution.compile + ", CUDA graph" * execution.graph),
        ("record", wording.shown(paths.runs_dir() / s.path)), ("now", plan)])


def expected(s: runs.Setting, execution: Any, begun: int, timed: bool) -> str:
    """How long it takes: from the records, or by a short timing when there is time for
    one."""
    from ..lab import cost

    share = max(0.0, 1 - begun / max(1, cost.total_epochs(s)))
    if known := cost.Estimates(execution, recorded=runs.scan()[0]).measured(s):
        return (f"about {duration(known.seconds * share)} (from "
                f"{wording.count(known.runs, 'recorded run')} like it on this machine)")
    if timed and (seconds := cost.of_setting(s, cost.timed(s, execution))) is not None:
        return f"about {duration(seconds * share)} (by a timing of a few steps)"
    return "not known yet; after the first epoch there is an estimate"


# -------------------------------------------------------------- progress and its result


class Progress:
    """One line an epoch; on a terminal a bar below them, with the time of the epoch
    under way. Use `with progress.bar`."""

    def __init__(self, stream: TextIO, done: int = 0) -> None:
        self.epochs = done
        self._seconds: list[float] = []
        self.bar = rich.progress.Progress(
            "{task.description}", rich.progress.BarColumn(),
            rich.progress.TimeElapsedColumn(), console=common.console(stream),
            transient=True, disable=not common.live(stream))
        self._task = self.bar.add_task(f"epoch {done + 1}", total=None)

    def __call__(self, row: Mapping[str, Any]) -> None:
        self.epochs = int(row["epoch"])
        k, n, stage = int(row["stage_epoch"]), int(row["stage_epochs"]), row["stage"]
        self._seconds.append(row["seconds"] + row["seconds_evaluating"])
        line = (f"{stage}  epoch {k:>{len(str(n))}}/{n}  "
                f"test {percent(row['test']):>8}  "
                f"val {percent(row['val']):>8}  loss {row['loss']:.4f}  "
                f"{duration(self._seconds[-1])}")
        if k < n:
            left = (n - k) * statistics.fmean(self._seconds[-5:])
            line += f"  ETA {duration(left)}"
        self._say(line, f"{stage}  epoch {k + 1}/{n}" if k < n else "next stage",
                  total=n, completed=k)

    def waiting(self) -> None:
        """Another process trains this very run."""
        self._say("another process is training this run; waiting for it", "waiting")

    def _say(self, line: str, now: str, total: int | None = None,
             completed: int = 0) -> None:
        self.bar.console.print(line, soft_wrap=True)
        self.bar.reset(self._task, total=total, completed=completed, description=now)


def result(run: runs.Run) -> list[Any]:
    """For `common.say`: the four numbers of a run, its time and its place."""
    info, test, by_val = run.info, run.last_stage(), run.by_validation()

    def of(column: str) -> str:
        """The epoch at which it is best, those of earlier stages counted too."""
        before = len(run.epochs["test"]) - len(test)
        return f", epoch {np.nanargmax(run.last_stage(column)) + 1 + before}"

    place = wording.shown(run.folder) if run.folder else "none"
    ends = [("noise", f"{percent(info.get('realised_rate', math.nan))} of the training "
             "labels are wrong"),
            ("time", f"{duration(float(info.get('seconds', math.nan)))}, "
             f"{duration(float(info.get('seconds_per_epoch', math.nan)))} an epoch, on "
             f"{info.get('hardware', 'unknown hardware')}"), ("record", place)]
    if lack := info.get("signals_lack"):
        ends.append(("signals", f"lack {', '.join(lack)}: the run began without "
                     "--signals"))
    return ["test accuracy", common.facts([
        ("last epoch", percent(run.last())),
        (f"mean of last {min(10, len(test))}", percent(run.mean_last())),
        ("by noisy validation", percent(by_val)
         + ("" if math.isnan(by_val) else of("val"))),
        ("best on test", f"{percent(run.best())}{of('test')}; an oracle, nobody can "
         "choose it honestly")]), common.facts(ends, indent=0)]
