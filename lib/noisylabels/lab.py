"""From a setting to a run: load it when it is finished, resume it when it was begun, else train.

`setting(...)` resolves everything a run depends on; `run(setting)` returns its `Run`.
`watch(...)` trains without the store, for figures that are made live.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
import platform
import shutil
import subprocess
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import (
    _sources,
    datasets,
    engine,
    methods,
    networks,
    noise,
    paths,
    ranges,
    runs,
    semantic,
    views,
)
from .recorder import Progress, Recorder, TrainingFailed, Truth, Watch, read_checkpoint
from .runs import Run, Setting, StoreError

# What a budget changes of a method's published recipe. They are never mixed in one column.
BUDGETS: dict[str, dict[str, Any]] = {
    # scikit-learn's digits, seconds on one CPU core
    "smoke": dict(network="tiny", epochs=30, batch_size=64, lr=0.05, schedule="cosine",
                  lr_floor=0.0, weight_decay=5e-4, period=6, augment="none"),
    # 10,000 real images, a small network, minutes on one CPU core
    # (without augmentation: only so does a network this small learn wrong labels by heart)
    "laptop": dict(network="small", epochs=20, batch_size=128, lr=0.1, schedule="cosine",
                   lr_floor=0.0, weight_decay=1e-4, period=5, precision="bfloat16",
                   augment="none"),
    # 10,000 real images, augmented, and a network made for a CPU that learns them by heart: under
    # an hour on a core
    "desk": dict(network="resnet8", epochs=64, batch_size=128, lr=0.1, nesterov=True,
                 schedule="cosine", lr_floor=0.0, weight_decay=5e-4, period=8, precision="auto",
                 augment="weak"),
    # all images, a network that learns fast, about a minute on one GPU
    "fast": dict(network="resnet9", epochs=40, batch_size=128, lr=0.05, schedule="cosine",
                 lr_floor=0.0, weight_decay=5e-4, period=8, precision="bfloat16"),
    # the published schedule
    "paper": dict(precision="bfloat16"),
}
MAX_SAMPLES = {"laptop": 10_000, "desk": 10_000}
VAL_FRACTION = {"smoke": 0.1, "laptop": 0.1, "desk": 0.1, "fast": 0.1, "paper": 0.0}
EVERY = {"desk": 4}  # test images are looked at after every so many epochs, and the last ten
NOT_BY_NAME = ("human", "given")  # need labels from elsewhere
PROBE = 2_500  # training samples whose accuracy is followed, at most


# ----------------------------------------------------------------------------- resolving a setting


def setting(method: str, dataset: str = "digits", noise: str = "symmetric", rate: float = 0.4,
            budget: str = "smoke", seed: int = 0, *, split_seed: int | None = None,
            noise_seed: int | None = None, init_seed: int | None = None,
            max_samples: int | None = None, trusted_per_class: int | None = None,
            val_fraction: float | None = None, **options: Any) -> Setting:
    """The resolved setting of one run.

    Args:
        method, dataset, noise, rate, budget: see `runs.Setting`. At the `paper` budget the
        method's
            published settings hold; the other budgets replace the schedule and the network by the
            rows of `BUDGETS` and whatever the method's own `scaled(budget, ...)` says.
        seed: of the three seeds that are not given themselves.
        max_samples: 0 means all images.
        options: any of the method's settings, by name; strings are read as the field's type.

    Raises:
        ValueError: unknown name or value; the message gives the nearest valid one.
    """
    module = methods.get(method)
    rate = runs._share("rate", rate)
    seed = runs._whole("seed", seed, 0, ranges.MOST_SEED)  # under its own name
    if budget not in tuple(BUDGETS):
        raise ValueError(_unknown("budget", budget, tuple(BUDGETS)))
    if dataset not in datasets.NAMES:
        raise ValueError(_unknown("dataset", dataset, datasets.NAMES))
    if budget == "smoke" and dataset != "digits":
        raise ValueError("the smoke budget is made for the digits; use laptop, desk, fast or "
                         f"paper for {dataset}.")
    known = noise_kinds(dataset)
    if noise not in known:
        raise ValueError(_unknown("noise", noise, known, _elsewhere(noise)))
    if noise.startswith("human-"):
        rate = 1.0  # people labelled everything; the realised rate is measured
    values = dict(module.published(dataset, noise, rate))
    if budget != "paper":
        values |= {"milestones": (), "drop": 0.1} | BUDGETS[budget]
        if hasattr(module, "scaled"):
            values |= module.scaled(budget, dataset, noise, rate)
    else:
        values |= BUDGETS["paper"]
    asked = _typed(module.Settings, options)
    if "epochs" in asked and hasattr(module.Settings, "steps"):
        values["steps"] = 0  # a length in epochs takes the place of one in steps
    values |= asked
    resolved = module.Settings(**values)
    if asked.get("milestones") and resolved.milestones[0] > resolved.epochs and not values.get(
            "steps"):
        raise ValueError(f"milestones ({resolved.milestones[0]}) must not exceed epochs "
                         f"({resolved.epochs}): the rate would never fall.")
    if trusted_per_class is None:
        wanted = getattr(module, "trusted_per_class", None)
        trusted_per_class = 0 if wanted is None else wanted(dataset, budget)
    if max_samples is not None and not isinstance(max_samples, bool) and (
            isinstance(max_samples, numbers.Integral)
            and max_samples >= datasets.SIZES[dataset][0]):
        max_samples = 0  # all images, however many were asked for
    made = Setting(
        method=method, dataset=dataset, noise=noise, rate=rate, budget=budget,
        options=ranges.resolved(resolved),
        split_seed=seed if split_seed is None else split_seed,
        noise_seed=seed if noise_seed is None else noise_seed,
        init_seed=seed if init_seed is None else init_seed,
        max_samples=MAX_SAMPLES.get(budget) if max_samples is None else max_samples or None,
        trusted_per_class=trusted_per_class,
        val_fraction=VAL_FRACTION[budget] if val_fraction is None else val_fraction)
    check(made)
    return made


@dataclasses.dataclass(frozen=True)
class Images:
    """How many images a setting trains on, keeps for validation, trusts, and tests on."""

    train: int
    val: int
    trusted: int
    test: int
    all: int


def images(s: Setting) -> Images:
    """Counted as `datasets.subset` and `datasets.split` do; no data is read."""
    total, test, classes, _, _ = datasets.SIZES[s.dataset]
    chosen = min(total, s.max_samples or total)
    trusted = s.trusted_per_class * classes
    val = round(s.val_fraction * (chosen - trusted))
    return Images(max(0, chosen - trusted - val), val, trusted, test, total)


def check(s: Setting) -> None:
    """Refuse, in one sentence, a setting whose parts do not go together; no data is read.

    Images against the network (and SANM's decoder), the noise against the classes, the number of
    images against classes, trusted samples, validation and batches. Every way to a run passes
    here: `setting`, so the commands and pages, and `prepare`. Raises ValueError.
    """
    module, recipe, n = methods.get(s.method), settings_of(s), images(s)
    total, _, classes, channels, pixels = datasets.SIZES[s.dataset]
    chosen = n.train + n.val + n.trusted
    if min(total, s.max_samples or total) < classes:
        raise ValueError(f"max_samples {s.max_samples} is too few: {s.dataset} has {classes} "
                         f"classes, and each keeps an image at least.")
    if s.trusted_per_class * classes >= min(total, s.max_samples or total):
        raise ValueError(f"{s.trusted_per_class} trusted samples in each of {classes} classes "
                         f"leave none of {min(total, s.max_samples or total):,} images to train "
                         "on; lower trusted_per_class.")
    if hasattr(module, "trusted_per_class") and not s.trusted_per_class:
        raise ValueError(f"{s.method} needs trusted samples: set trusted_per_class to 1 or more.")
    if s.trusted_per_class > (least := datasets.smallest_class(s.dataset, s.max_samples)):
        raise ValueError(f"trusted_per_class {s.trusted_per_class} is too many: the smallest "
                         f"class has only {least} of the images.")
    if n.train < 2:
        raise ValueError(f"{n.train} of {chosen:,} images are left to train on; lower "
                         "val_fraction or trusted_per_class, or raise max_samples.")
    if (side := networks.last_map(recipe.network, pixels)[1]) < 2:
        fit = [name for name in networks.NAMES if networks.last_map(name, pixels)[1] > 1]
        raise ValueError(f"network {recipe.network!r} does not fit the images of {s.dataset}: of "
                         f"{pixels}x{pixels} pixels its last map keeps {side}x{side}; networks "
                         f"that fit: {', '.join(fit)}{_smoke(s)}.")
    if s.noise in noise.KINDS and s.noise not in (*NOT_BY_NAME, *_sources.KINDS):
        noise.corrupt(torch.arange(classes), s.noise, s.rate, classes, 0, dataset=s.dataset)
    if semantic.is_semantic(s.noise) and s.rate == 1:
        raise ValueError(f"noise {s.noise!r} needs clean samples to learn from: its rate must lie "
                         "in [0, 1).")
    if hasattr(module, "check_data"):
        module.check_data(recipe, n.train, channels, pixels)


def settings_of(s: Setting) -> Any:
    """The method's own `Settings` object of a resolved setting."""
    cls = methods.get(s.method).Settings
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in s.options.items()})


def total_epochs(s: Setting, samples: int) -> int:
    """All epochs of all stages, with so many training samples."""
    counted = getattr(methods.get(s.method), "total_epochs", None)
    return int(counted(settings_of(s), samples) if counted else s.options["epochs"])


def noise_kinds(dataset: str) -> tuple[str, ...]:
    """The noise kinds a setting may name for that dataset.

    Not CIFAR-100N's coarse labels: they name 20 superclasses, no run here learns these.
    """
    human = tuple(f"human-{w}" for w in datasets.HUMAN_LABELS.get(dataset, ())
                  if w != "noisy_coarse")
    without = NOT_BY_NAME if dataset in _sources.SOURCES else (*NOT_BY_NAME, *_sources.KINDS)
    return (*(k for k in noise.KINDS if k not in without), *semantic.kinds(dataset), *human)


def _unknown(what: str, name: Any, allowed: Sequence[str], hint: str = "") -> str:
    lower = {a.lower(): a for a in allowed}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    hint = hint or (f" (nearest: {lower[near[0]]})" if near else "")
    return f"unknown {what} {ranges.shown(name)}{hint}; allowed: {', '.join(allowed)}."


def _elsewhere(noise: Any) -> str:
    """Where a noise belongs that a data set does not have: " (of cifar10)", or nothing."""
    if noise == "human":
        each = (", ".join(k for k in noise_kinds(d) if k.startswith("human-")) + f" of {d}"
                for d in datasets.HUMAN_LABELS)
        return f" (people's labels are {' and '.join(each)})"
    others = [d for d in datasets.NAMES if noise in noise_kinds(d)]
    return f" (of {' and '.join(others)})" if others else ""


def _smoke(s: Setting) -> str:
    """How to get a network that fits the digits, where the budget chose one that does not."""
    own = s.options["network"] == BUDGETS[s.budget].get("network")
    return (f"; the smoke budget takes tiny, the {s.budget} budget is made for CIFAR"
            if s.dataset == "digits" and own else "")


def _typed(cls: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`options` as the types of the dataclass's fields; unknown names and wrong types are
    errors."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    out = {}
    for name, value in options.items():
        if name not in fields:
            raise ValueError(_unknown("option", name, tuple(fields)))
        out[name] = _cast(name, value, fields[name])
    return out


def _cast(name: str, value: Any, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:  # Optional
        if value is None or value == "none":
            return None
        return _cast(name, value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        return tuple(_cast(name, p, args[0]) for p in parts if p != "")
    if kind is bool:
        if str(value).lower() in ("true", "false", "1", "0", "yes", "no"):
            return str(value).lower() in ("true", "1", "yes")
    elif kind is str and isinstance(value, str):
        return value
    elif kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number) + 0  # -0.0 is 0.0
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"option {name!r} takes {getattr(kind, '__name__', kind)}, not "
                     f"{ranges.shown(value)}.")


# -------------------------------------------------------------------------------- preparing a task


def prepare(s: Setting, execution: engine.Execution | None = None) -> tuple[engine.Task, Truth]:
    """The task a method sees and the truth that stays with the recorder, on the device."""
    check(s)
    execution = (execution or engine.Execution()).resolve()
    data = datasets.load(s.dataset)
    chosen, y_all = torch.arange(len(data.y_train)), data.y_train
    if s.max_samples is not None and s.max_samples < len(data.y_train):
        data, chosen = datasets.subset(data, s.max_samples, s.split_seed)
    split = datasets.split(data.y_train, data.num_classes, trusted_per_class=s.trusted_per_class,
                           val_fraction=s.val_fraction, seed=s.split_seed)
    noisy = torch.cat([split.train, split.val]).sort().values  # all but the trusted samples
    y_true = data.y_train[noisy]
    labels = noise.corrupt(y_true, **_noise_arguments(s, data, y_all, chosen, noisy, execution))
    images = _sources.replace(s.dataset, data.x_train, noisy, labels)  # out-of-distribution noise
    in_train = torch.isin(noisy, split.train)
    device = torch.device(execution.device)
    recipe = settings_of(s)
    weak: views.View = views.Weak(pad=data.pad, flip=data.flip)
    if recipe.augment == "none":
        weak = views.Identity()
    task = engine.Task(
        images=images[split.train].to(device), y_given=labels.y_given[in_train].to(device),
        num_classes=data.num_classes, mean=data.mean, std=data.std, weak=weak,
        strong=strong_view(data), seed=s.init_seed, execution=execution,
        precision=recipe.precision,
        oracle=labels.wrong[in_train].to(device) if getattr(recipe, "oracle", False) else None,
        transition=labels.transition.float().to(device)
        if getattr(recipe, "transition", "") == "true" else None,
        trusted=None if not len(split.trusted) else (data.x_train[split.trusted].to(device),
                                                     data.y_train[split.trusted].to(device)))
    probe = torch.arange(len(split.train))
    if len(probe) > PROBE and s.budget != "desk":
        draw = torch.Generator().manual_seed(s.split_seed)
        probe = torch.randperm(len(probe), generator=draw)[:PROBE].sort().values
    truth = Truth(
        y_true=y_true[in_train].to(device), wrong=labels.wrong[in_train].to(device),
        x_test=data.x_test.to(device), y_test=data.y_test.to(device),
        x_val=images[split.val].to(device), y_val=labels.y_given[~in_train].to(device),
        probe=probe.to(device), note=labels.note, redrawn=labels.redrawn,
        index=chosen[noisy][in_train].to(device))
    return task, truth


def strong_view(data: datasets.Dataset) -> views.View:
    """RandAugment as in FixMatch after the weak view, then cutout of half the side."""
    return views.Chain((views.Weak(pad=data.pad, flip=data.flip), views.RandAugment.fixmatch(),
                        views.Cutout.fixmatch(size=data.image_size // 2)))


def _noise_arguments(s: Setting, data: datasets.Dataset, y_all: Tensor, chosen: Tensor,
                     noisy: Tensor, execution: engine.Execution) -> dict[str, Any]:
    official = next((v for k, v in noise.OFFICIAL_SEEDS.items() if s.noise.startswith(k)), 0)
    common = dict(rate=s.rate, num_classes=data.num_classes,
                  seed=(official + s.noise_seed) % (ranges.MOST_SEED + 1))
    if s.noise.startswith("human-"):
        human = datasets.human_labels(s.dataset, s.noise.removeprefix("human-"),
                                      y_true=y_all)
        return dict(kind="human", y_human=human[chosen][noisy], **common)
    if semantic.is_semantic(s.noise):
        y_ready, note = semantic.labels(data, noisy, s.noise, s.rate, s.noise_seed, execution)
        return dict(kind="given", y_ready=y_ready, note=note, **{**common, "rate": None})
    coarse = None if data.coarse_train is None else data.coarse_train[noisy]
    return dict(kind=s.noise, dataset=s.dataset, coarse=coarse,
                **_sources.needs(s.dataset, s.noise), **common)


# -------------------------------------------------------------------------------------- running


def run(s: Setting, *, execution: engine.Execution | None = None, progress: Progress | None = None,
        signals: bool = False, again: bool = False, waiting: Any = None) -> Run:
    """The run of this setting: loaded if recorded, resumed if begun, else trained.

    Args:
        execution: device, compilation; not part of the setting.
        signals: keep the method's per-sample signals with the record (`Run.signals`), and the
            losses after the second, the middle and the last epoch (stages are counted through).
            A run that began without goes on, and its record says which losses it lacks. At the
            desk budget always: there the losses of all epochs, in a byte each, and of cross
            entropy the features of six.
        again: train anew what is recorded as *failed*. With `signals` also what is finished
            without them (they are added where the numbers come out the same; the record itself
            is never replaced) or was begun without them.
        waiting: called once when another process is training this very run; then we wait for it.

    Raises:
        recorder.TrainingFailed: training broke down; the failure is recorded and counted.
        runs.StoreError: the record or a checkpoint cannot be written or read.
    """

    if not isinstance(s, Setting):
        raise ValueError(f"run takes what lab.setting(...) gives, not {ranges.shown(s)}.")
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
        log = Recorder(task, truth, checkpoints, progress, **kept_of(s, epochs, signals),
                       about={k: info[k] for k in runs.schema.MADE_BY})
        try:
            methods.get(s.method).train(task, settings_of(s), log)
        except TrainingFailed as error:
            if not repeats:
                why = " ".join(str(error).split())[:runs.schema.MOST_TEXT]
                runs.save(s, {**info, "status": "failed", "why": why, "parts": log.parts},
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
    """What the recorder of a run of so many epochs keeps of single samples, and how often it looks
    at the test images."""
    if s.budget != "desk":
        return {"losses_at": (2, max(2, epochs // 2), epochs) if signals else ()}
    sixths = tuple(max(1, round(epochs * part)) for part in (0.05, 0.1, 0.25, 0.5, 0.75, 1))
    return {"losses_at": (epochs,), "history": True, "every": EVERY[s.budget],
            "features_at": sixths if s.method == "cross_entropy" else ()}


def checkpoints_of(s: Setting, kind: str = "") -> Path:
    """Where the checkpoints of a run lie; of its repetition for the signals with `-signals`."""
    return paths.cache_dir() / "checkpoints" / f"{s.key}{kind}"


def lacks_losses(s: Setting) -> bool:
    """Whether this run was begun, past its second epoch, without keeping losses. A run of the desk
    budget never is."""
    if s.budget == "desk":
        return False
    newest = max(checkpoints_of(s).glob("block-*.pt"), default=None,
                 key=lambda f: int(f.stem.split("-")[1]))
    if newest is None:
        return False
    held = read_checkpoint(newest)
    return len(held["rows"]) >= 2 and "loss-2" not in held["signals"]


def _tidied(there: Run) -> Run:
    """A recorded run; checkpoints that a kill left behind it are of no more use."""
    left = checkpoints_of(there.setting)
    if there.finished and left.exists():
        shutil.rmtree(left, ignore_errors=True)
    return there


def watch(s: Setting, each: Watch | None = None, *, execution: engine.Execution | None = None
          ) -> tuple[Run, Recorder]:
    """Train now, without the store; `each(epoch, recorder)` sees every epoch. For live figures."""
    task, truth = prepare(s, execution)
    log = Recorder(task, truth, watch=each)
    methods.get(s.method).train(task, settings_of(s), log)
    columns = dict.fromkeys(c for row in log.rows for c in row)
    epochs = {c: runs.np.array([row.get(c, float("nan")) for row in log.rows]) for c in columns}
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
    """With what this process trains: everything beside the setting that may move a last digit."""
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
    """The final numbers of a record; `mean_last_10` and `best` are of the last stage."""
    test = [row["test"] for row in log.rows if row["stage"] == log.rows[-1]["stage"]
            and not math.isnan(row["test"])]
    seconds = [row["seconds"] for row in log.rows]
    return {"epochs": len(log.rows), "last": test[-1],
            "mean_last_10": sum(test[-10:]) / len(test[-10:]),
            "best": max(test), "seconds_per_epoch": sorted(seconds)[len(seconds) // 2],
            "seconds": sum(seconds) + sum(row["seconds_evaluating"] for row in log.rows)}


def commit() -> str:
    """The code's commit, with "+" when lib/ had uncommitted changes; "unknown" outside git.

    `$NOISYLABELS_COMMIT` names it where the code travels without its history.
    """
    if given := os.environ.get("NOISYLABELS_COMMIT"):
        return given

    checkout = Path(__file__).resolve().parents[2]
    where = checkout if (checkout / "_config.yml").exists() else paths.home()

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(where), *words], capture_output=True,
                              text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", "lib") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


__all__ = ["BUDGETS", "Setting", "StoreError", "TrainingFailed", "facts", "prepare", "run",
           "setting", "settings_of", "summary", "watch"]
