"""`noisylabels train`: one run, from the resolved setting to its final numbers."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, TextIO

from .. import methods, paths, wording
from ..training import runs
from ..wording import Failed
from . import common

DEFAULT_RATE = 0.4
SIGNALS_AGAIN = "it is trained once more, for its signals; the record stays"


def add_arguments(p: argparse.ArgumentParser) -> None:
    what = p.add_argument_group("what is trained")
    what.add_argument("--method", required=True, metavar="M",
                      help=", ".join(methods.NAMES))
    what.add_argument("--dataset", default="digits", metavar="D",
                      help="digits (default), cifar10, cifar100")
    what.add_argument(
        "--noise",
        default="symmetric",
        metavar="N",
        help="symmetric (default), asymmetric, ...; a wrong name lists all",
    )
    what.add_argument(
        "--rate",
        type=common.rate,
        metavar="R",
        help=f"nominal noise rate in [0, 1] (default {DEFAULT_RATE}; none 0, human 1)",
    )
    what.add_argument(
        "--budget",
        metavar="B",
        help=f"{', '.join(runs.BUDGETS)}; default: smoke for digits, else fast with a "
        "GPU and laptop without, then on all images",
    )
    what.add_argument("--network", metavar="NET",
                      help="tiny, small, resnet9, preact18, ...")
    what.add_argument("--epochs", type=common.epochs, metavar="N",
                      help="passes over the training images")
    what.add_argument(
        "--max-samples",
        type=common.whole,
        metavar="N",
        help="train on a class-balanced part of N images; 0: on all",
    )
    what.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other option of the method; may be given often",
    )
    what.add_argument(
        "--trusted-per-class",
        type=common.whole,
        metavar="K",
        help="images a class whose label is known to be right, kept out of training",
    )
    what.add_argument(
        "--val-fraction",
        type=common.rate,
        metavar="F",
        help="share of the images kept out as validation with noisy labels",
    )
    seeds = p.add_argument_group("random draws")
    seeds.add_argument(
        "--seed", type=common.seed, metavar="S", help="all three (default 0)"
    )
    for name, of in (
        ("split", "subset and validation split"),
        ("noise", "wrong labels"),
        ("init", "initialisation, order, views"),
    ):
        seeds.add_argument(f"--{name}-seed", type=common.seed, metavar="S",
                           help=f"of the {of}")
    how = p.add_argument_group("how (no part of the setting)")
    how.add_argument("--device", default="auto",
                     help="auto (default), cpu, cuda, cuda:k")
    common.add_threads(how)
    how.add_argument("--compile", action="store_true", help="use torch.compile")
    how.add_argument("--graph", action="store_true",
                     help="capture the step as a CUDA graph")
    how.add_argument(
        "--signals", action="store_true", help="keep per-sample signals in the record"
    )
    how.add_argument("--again", action="store_true",
                     help="train once more what failed before")
    how.add_argument("--dry-run", action="store_true",
                     help="say what would be done, and stop")


def main(args: argparse.Namespace) -> int:
    from .. import lab, noise
    from ..training import engine

    engine.set_threads(args.threads)
    s = resolve(args)
    execution = engine.Execution(args.device, args.compile, args.graph).resolve()
    there, begun = runs.lookup(s), lab.epochs_begun(s)
    # whether what is there is trained once more; what is not here
    anew, lacks = False, ""
    if there is not None and there.finished:
        plan = f"finished on {there.info.get('date', 'an unknown day')}: it is loaded"
        if args.signals and not there.has_signals:
            anew, begun = args.again, 0
            plan = plan.replace("it is loaded", SIGNALS_AGAIN) if anew else (
                f"{plan}; it was recorded without signals, --again trains it once more for them"
            )
    elif there is not None and not args.again:
        plan = "it failed before; --again trains it once more"
    elif lacks := noise.absent(s.dataset, s.noise):
        plan = "it cannot be trained"
    elif begun:
        plan = f"begun before: it goes on after epoch {begun}"
        if args.signals and lab.lacks_losses(s):
            plan += "; it began without --signals, so the losses of early epochs are missing"
            plan, begun = (("begun before without signals: --again starts it anew",
                            0) if args.again else
                           (f"{plan} (--again starts it anew)", begun))
    else:
        plan = "it will be trained"
    print(announcement(s, execution, plan), flush=True)
    if anew or not (there is not None and there.finished):
        print(
            common.old_facts([("takes", expected(s, execution, begun,
                                             timed=args.dry_run))]), flush=True,
        )
    if lacks:
        raise Failed(f"this run needs what is not here: {lacks}.")
    if args.dry_run:
        return 0
    if there is not None and not there.finished and not args.again:
        raise Failed(
            f"this run failed before: {there.info.get('why', 'no reason recorded')} Change "
            "a setting, or add --again to train it once more.")
    with Progress(sys.stdout, begun) as progress:
        try:
            run = lab.run(
                s,
                execution=execution,
                progress=progress,
                signals=args.signals,
                again=args.again,
                waiting=progress.waiting,
            )
        except KeyboardInterrupt:
            progress.close()
            done = progress.epochs
            print(
                f"noisylabels: stopped after epoch {done}; the same command goes on from there."
                if done else
                "noisylabels: stopped before the end of the first epoch; the same "
                "command starts it anew.", file=sys.stderr,
            )
            return 130
        except lab.TrainingFailed as error:
            raise Failed(
                f"{error} It is recorded as failed in "
                f"{wording.shown(paths.runs_dir() / s.path)}; change a setting, such as "
                "--set lr=0.01.") from error
    if not run.finished:
        raise Failed(f"this run failed: {run.info.get('why', 'no reason recorded')}")
    print(result(run))
    return 0


# ------------------------------------------------------------------- what is to be done


def resolve(args: argparse.Namespace) -> runs.Setting:
    """The setting that the arguments mean. Raises ValueError that names the nearest
    valid word."""
    from .. import lab

    options = given_options(args.set)
    for name in ("network", "epochs"):
        if (value := getattr(args, name)) is not None:
            if name in options:
                raise ValueError(
                    f"{name} is given twice, by --{name} and by --set; give it once.")
            options[name] = value
    budget, max_samples, rate = args.budget, args.max_samples, args.rate
    if args.seed is not None and None not in (args.split_seed, args.noise_seed,
                                              args.init_seed):
        raise ValueError(
            "--seed has nothing to decide beside --split-seed, --noise-seed and --init-seed; "
            "leave it out, or one of the three.")
    if budget is None:
        budget = default_budget(args.dataset, args.device)
        max_samples = 0 if max_samples is None else max_samples
    if args.noise.startswith("human-") and rate not in (None, 1):
        raise ValueError(
            f"--rate {rate:g} goes not with {args.noise}: labels that people gave are taken as "
            "they are; leave --rate out.")
    if rate is None:
        rate = (
            0.0
            if args.noise == "none"
            else (1.0 if args.noise.startswith("human-") else DEFAULT_RATE)
        )
    s = lab.setting(
        args.method,
        args.dataset,
        args.noise,
        rate,
        budget,
        args.seed or 0,
        split_seed=args.split_seed,
        noise_seed=args.noise_seed,
        init_seed=args.init_seed,
        max_samples=max_samples,
        trusted_per_class=args.trusted_per_class,
        val_fraction=args.val_fraction,
        **options,
    )
    return s


def given_options(pairs: list[str], flags: Collection[str] = runs.FLAGS,
                  instead: str = "") -> dict[str, Any]:
    """["q=0.5", ...] as a dict; `lab.setting` reads the values as the method's types.

    `flags`: what this command has an argument for; `instead`: what decides the rest of
    `runs.FLAGS`.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise ValueError(
                f"--set takes KEY=VALUE, such as --set lr=0.1, not {pair!r}.")
        if key in runs.FLAGS and key not in flags:
            raise ValueError(f"{key!r} is no option of a method; {instead}.")
        if key in runs.FLAGS:
            raise ValueError(
                f"{key!r} is no option of a method; use --{key.replace('_', '-')}.")
        if key in options:
            raise ValueError(f"--set {key}=... is given twice; give it once.")
        options[key] = value.strip()
    return options


def default_budget(dataset: str, device: str) -> str:
    """smoke for the digits; else what the device can do."""
    import torch

    if dataset == "digits":
        return "smoke"
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "fast" if gpu else "laptop"


def announcement(s: runs.Setting, execution: Any, plan: str) -> str:
    """The resolved setting, where it goes and what happens, before anything happens."""
    from ..lab import cost
    from ..training import engine

    n = cost.images(s)
    o = dict(s.options)
    data = f"{n.train:,} of {n.all:,} images to train on"
    data += f", {n.val:,} kept as noisy validation" if n.val else ""
    data += f", {n.trusted:,} trusted" if n.trusted else ""
    net = (
        f"{o.pop('network', '?')}, {wording.count(o.pop('epochs', 0), 'epoch')}, batches of "
        f"{o.pop('batch_size', '?')}, {o.pop('precision', '?')}")
    how = [
        engine.hardware(execution.device),
        *(w for w, on in (("compiled", execution.compile),
                          ("CUDA graph", execution.graph)) if on),
    ]
    return f"{s}\n" + common.old_facts(
        [("data", data), ("network", net),
         ("options", " ".join(f"{k}={wording.words_of(v)}" for k, v in o.items())),
         ("seeds", f"split {s.split_seed}, noise {s.noise_seed}, init {s.init_seed}"),
         ("device", ", ".join(how)),
         ("record", wording.shown(paths.runs_dir() / s.path)), ("now", plan),])


def expected(s: runs.Setting, execution: Any, begun: int, timed: bool) -> str:
    """How long it takes: from the records, or by a short timing when there is time for
    one."""
    from ..lab import cost

    share = max(0.0, 1 - begun / max(1, cost.total_epochs(s)))
    if (known := cost.recorded(s, execution.device)) is not None:
        like = wording.count(known[1], "recorded run")
        return f"about {wording.duration(known[0] * share)} (from {like} like it on this machine)"
    if timed:
        o = s.options
        how = dataclasses.replace(execution, compile=False)  # to compile takes longer
        timing = cost.time_steps(o["network"], s.dataset, o["batch_size"],
                                 o["precision"], how)
        if (seconds := cost.of_setting(s, timing)) is not None:
            return f"about {wording.duration(seconds * share)} (by a timing of a few steps)"
    return "not known yet; after the first epoch there is an estimate"


# ----------------------------------------------------------------------------- progress


class Progress:
    """One line an epoch; on a terminal the line of the epoch under way shows its
    time."""

    def __init__(self, stream: TextIO, done: int = 0, tick: float = 1.0) -> None:
        self.stream, self.live, self.tick = stream, common.live(stream), tick
        self.epochs = done
        self.now = f"epoch {done + 1}"
        self._seconds: list[float] = []
        self._since = time.monotonic()
        self._stop, self._writing = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self.live:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop ticking and leave the cursor on a fresh line."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._write("\r\x1b[2K")

    def __call__(self, row: Mapping[str, Any]) -> None:
        self.epochs = int(row["epoch"])
        k, n, stage = int(row["stage_epoch"]), int(row["stage_epochs"]), str(
            row["stage"])
        spent = row["seconds"] + row["seconds_evaluating"]
        self._seconds.append(spent)
        line = (
            f"{stage}  epoch {k:>{len(str(n))}}/{n}  test {wording.percent(row['test']):>8}  "
            f"val {wording.percent(row['val']):>8}  loss {row['loss']:.4f}  "
            f"{wording.duration(spent)}")
        if k < n:
            left = (n - k) * statistics.fmean(self._seconds[-5:])
            line += f"  ETA {wording.duration(left)}"
        self.now = f"{stage}  epoch {k + 1:>{len(str(n))}}/{n}" if k < n else "next stage"
        self._since = time.monotonic()
        self._write(("\r\x1b[2K" if self.live else "") + line + "\n")

    def waiting(self) -> None:
        """Another process trains this very run."""
        self._write(
            ("\r\x1b[2K" if self.live else "")
            + "another process is training this run; waiting for it\n"
        )
        self.now = "waiting"

    def _write(self, text: str) -> None:
        with self._writing:
            self.stream.write(text)
            self.stream.flush()

    def _run(self) -> None:
        for dots in itertools.cycle((".  ", ".. ", "...")):
            if self._stop.wait(self.tick):
                return
            spent = wording.duration(time.monotonic() - self._since)
            width = shutil.get_terminal_size((99, 24)).columns - 1
            self._write("\r\x1b[2K" + f"{self.now}  {spent} {dots}"[:width])


# ------------------------------------------------------------------------------- result


def result(run: runs.Run) -> str:
    """The four numbers of a run, its time and its place."""
    seconds = float(run.info.get("seconds", math.nan))
    each = float(run.info.get("seconds_per_epoch", math.nan))
    test = list(run.last_stage())
    before = len(run.epochs["test"]) - len(test)  # epochs of earlier stages
    # not all have one
    best = max(range(len(test)), key=lambda i: (test[i] == test[i], test[i]))
    last_ten = min(10, len(test))
    val = run.last_stage("val") if "val" in run.epochs else None
    by_val = f"{wording.percent(run.by_validation()):>8}"
    if val is not None and not math.isnan(run.by_validation()):
        chosen = max(range(len(val)), key=lambda i: (val[i] == val[i], val[i]))
        by_val += f"   epoch {chosen + 1 + before}"
    lines = [
        "test accuracy", f"  last epoch          {wording.percent(run.last()):>8}",
        f"  mean of last {last_ten:<2}     {wording.percent(run.mean_last()):>8}",
        f"  by noisy validation {by_val}",
        f"  best on test        {wording.percent(run.best()):>8}   epoch "
        f"{best + 1 + before}; an oracle, nobody can choose it honestly",
        f"noise  {wording.percent(run.info.get('realised_rate', math.nan))} of the "
        "training labels are wrong",
        f"time   {wording.duration(seconds)}, {wording.duration(each)} an epoch, on "
        f"{run.info.get('hardware', 'unknown hardware')}",
        f"record {wording.shown(run.folder) if run.folder else 'none'}",
    ]
    if lack := run.info.get("signals_lack"):
        lines.append(f"signals lack {', '.join(lack)}: the run began without --signals")
    return "\n".join(lines)
