"""What was run, what came of it, and where it is kept.

A `Setting` says completely what is trained; its hash names the run. A `Run` is a
finished (or failed) run read back from disk. The store is plain text under `data/runs`,
so the book can be built anywhere:

    data/runs/<dataset>/<noise>/<method>/<budget>-<seed>-<hash>/
        run.json, epochs.csv[, signals.npz]

Everything is written under a temporary name and renamed, so what is there is whole.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import hashlib
import io
import json
import math
import numbers
import os
import re
import shutil
import statistics
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import paths
from ..ranges import MOST_SEED, shown
from . import schema

# the arguments of `lab.setting` that are no option of a method
FLAGS = frozenset((
    "method", "dataset", "noise", "rate", "budget", "seed", "split_seed",
    "noise_seed", "init_seed", "max_samples", "trusted_per_class", "val_fraction",
))
BUDGETS = ("smoke", "laptop", "desk", "fast", "paper")
FORMAT = 1  # of run.json; older files of a smaller number stay readable
MOST_IMAGES = 10**9
DIGITS = 6  # of a rate: what is computed and what is typed are one number
DEPTH = 4  # folders from the store to a run; one with a dot is being written
NAMED = re.compile(r"[a-z]+-[0-9.]+-[0-9a-f]{8}")  # a run's folder
# facts of every finished run
NEEDED = ("epochs", "seconds", "realised_rate", "hardware")


class StoreError(RuntimeError):
    """The store cannot be read or written; the message says which file and what to
    do."""


class RecordWarning(UserWarning):
    """A record that is not believed, and so left out; the message names its folder."""


@dataclass(frozen=True)
class Setting:
    """Everything that decides a run's numbers (up to the hardware's rounding).

    Args:
        method: name of a module in `noisylabels.methods`.
        dataset, noise, rate: what is learned from; `rate` is the nominal rate in [0,
            1].
        budget: `smoke` (digits), `laptop` and `desk` (real images on a CPU), `fast` or
            `paper` (one GPU).
        options: the method's settings, resolved to plain values.
        split_seed, noise_seed, init_seed: three seeds apart, so that each can vary
            alone.
        max_samples: train on a class-balanced subset of that many images; None means
            all.
        trusted_per_class: clean samples a class, taken out of training (IEG's trusted
            set).
        val_fraction: share of the training set kept out as validation with *noisy*
            labels.
    """

    method: str
    dataset: str
    noise: str
    rate: float
    budget: str
    options: Mapping[str, Any] = field(default_factory=dict)
    split_seed: int = 0
    noise_seed: int = 0
    init_seed: int = 0
    max_samples: int | None = None
    trusted_per_class: int = 0
    val_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(
                f"unknown budget {self.budget!r}; allowed: {', '.join(BUDGETS)}.")
        for name, low, high in (
                ("split_seed", 0, MOST_SEED), ("noise_seed", 0, MOST_SEED),
                ("init_seed", 0, MOST_SEED), ("trusted_per_class", 0, MOST_IMAGES),
                ("max_samples", 1, MOST_IMAGES)):
            if name != "max_samples" or self.max_samples is not None:
                object.__setattr__(self, name,
                                   _whole(name, getattr(self, name), low, high))
        # one number, however it was computed: 0.1 + 0.2 is 0.3
        object.__setattr__(self, "rate", _share("rate", self.rate))
        object.__setattr__(self, "val_fraction",
                           _share("val_fraction", self.val_fraction))
        if self.val_fraction == 1:
            raise ValueError(
                "val_fraction 1 leaves nothing to train on; allowed: [0, 1).")
        options = {k: tuple(v) if isinstance(v, list) else v
                   for k, v in self.options.items()}
        object.__setattr__(self, "options", dict(sorted(options.items())))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Setting:
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(
                f"a setting has no field {sorted(unknown)[0]!r}; known: {known}.")
        return cls(**values)

    @property
    def key(self) -> str:
        """Eight hex digits over the whole setting: equal settings, equal key."""
        text = json.dumps(self.as_dict(), sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def seed(self) -> str:
        seeds = (self.split_seed, self.noise_seed, self.init_seed)
        return str(seeds[0]) if len(set(seeds)) == 1 else ".".join(map(str, seeds))

    @property
    def path(self) -> Path:
        """The run's folder, relative to the store."""
        noise = f"{self.noise}-{self.rate:.2f}"
        return Path(self.dataset, noise, self.method,
                    f"{self.budget}-{self.seed}-{self.key}")

    @property
    def cell(self) -> Setting:
        """The same setting without its seeds: runs of one cell differ by seed alone."""
        return dataclasses.replace(self, split_seed=0, noise_seed=0, init_seed=0)

    def __hash__(self) -> int:
        return int(self.key, 16)

    def __str__(self) -> str:
        return (f"{self.method} on {self.dataset}, {self.noise} {self.rate:.0%}, "
                f"{self.budget} budget, seed {self.seed}")


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """The value as a plain int, whichever type of whole number it came as."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if low <= int(value) <= high:
            return int(value)
    raise ValueError(
        f"{name} must be a whole number from {low} to {high}, not {shown(value)}.")


def _share(name: str, value: Any) -> float:
    """The value as a plain float in [0, 1], rounded to `DIGITS` decimals."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        if 0 <= float(value) <= 1:
            return round(float(value), DIGITS) + 0.0  # -0.0 is 0.0
    raise ValueError(f"{name} must be a number in [0, 1], not {value!r}.")


class Facts(dict[str, Any]):
    """What `file`, a run.json, says. To ask for a fact that it lacks is a
    StoreError."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str) -> Any:
        raise StoreError(
            f"{self.file} is damaged (it has no {name!r}); delete that folder and "
            f"run it again.")


@dataclass(frozen=True)
class Run:
    """One recorded run: its setting, its facts (`info`), its per-epoch numbers and
    signals.

    `epochs` maps a column to a float array with one entry an epoch: `test`, `val`
    (accuracy in [0, 1] on the test set and on the noisy validation labels), `clean_fit`
    (training samples with a right label: share predicted right), `wrong_fit` (samples
    with a wrong label: share predicted *as given*, i.e. memorised), `wrong_corrected`
    (the same samples: share predicted as their true class, foreign images of no class
    left out), `loss`, `lr`, `seconds`, and what the method noted. A share of nothing is
    NaN. `stage` stays text. A staged method discards the networks of its earlier
    stages: `best`, `mean_last` and `by_validation` look at the last stage alone.
    """

    setting: Setting
    info: Mapping[str, Any]
    epochs: Mapping[str, np.ndarray]
    folder: Path | None = None

    @property
    def finished(self) -> bool:
        return self.info.get("status") == "finished"

    @property
    def has_signals(self) -> bool:
        """Whether per-sample arrays were kept."""
        return bool(self.info.get("_signals")) or (
            self.folder is not None and (self.folder / "signals.npz").exists())

    @property
    def signals(self) -> dict[str, np.ndarray]:
        """Per-sample arrays kept with the run (empty when none were), of N training
        samples.

        `index` (int32) is the image's number in the official train set, `given` (int16)
        the label it was given, `wrong` (bool) whether that label is wrong; then what
        the method handed over (`p_clean`, float32) and the cross entropies
        `loss-<epoch>`. Records of before have none of the first two, and float16, in
        which a p above 0.9998 is 1. Raises StoreError for a file that cannot be read.
        """
        if self.folder is None or not self.has_signals:
            return dict(self.info.get("_signals", {}))
        file = self.folder / "signals.npz"
        try:
            return schema.read_signals(file.read_bytes(), self.info)
        except OSError as error:
            raise _unreadable(file, error) from error
        except ValueError as error:
            raise StoreError(
                f"{file} is damaged ({error}); delete that file, or the folder, and "
                f"run it again.") from error

    def last(self, column: str = "test") -> float:
        return float(self.epochs[column][-1])

    def last_stage(self, column: str = "test") -> np.ndarray:
        """A column at the epochs of the last stage."""
        stage = self.epochs.get("stage")
        values = self.epochs[column]
        return values if stage is None else values[stage == stage[-1]]

    def best(self, column: str = "test") -> float:
        """The best epoch of the last stage *by the test set*: an oracle nobody has;
        always shown in grey."""
        return float(np.nanmax(self.last_stage(column)))

    def mean_last(self, count: int = 10, column: str = "test") -> float:
        """Mean over the last `count` epochs of the last stage (all of them if it has
        fewer)."""
        return float(np.nanmean(self.last_stage(column)[-count:]))

    def by_validation(self, column: str = "test") -> float:
        """`column` at the last stage's epoch with the best noisy-validation accuracy
        (NaN without a split)."""
        val = self.last_stage("val") if "val" in self.epochs else np.array([])
        if np.isnan(val).all():
            return math.nan
        return float(self.last_stage(column)[int(np.nanargmax(val))])


def mean_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1; NaN for one value)."""
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.fmean(values), spread


# ---------------------------------------------------------------------------- the store


def write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put `files` into `folder` in one step, also where something is; a failure leaves
    nothing behind and what was there in its place."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:6]}.tmp")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            with open(temporary / name, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
        if folder.exists():
            os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists():
            os.rename(old, folder)
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(
            f"could not write the run to {folder}: {error.strerror or error}; free the "
            "disk or make the folder writable and repeat the command (earlier runs are "
            "untouched).") from error


def _epochs_csv(rows: list[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(c for row in rows for c in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.7g}" if isinstance(v, float) else v for k, v in row.items()})
    return text.getvalue().encode()


def save(setting: Setting, info: Mapping[str, Any], rows: list[dict[str, Any]],
         signals: Mapping[str, np.ndarray] | None = None,
         root: Path | None = None) -> Run:
    """Record a run. A finished run already there is never replaced: it is returned
    instead."""
    root = paths.runs_dir() if root is None else root
    folder = root / setting.path
    if (folder / "run.json").exists():
        there = load(folder)
        if there.finished:
            return there  # but a failed run gives way to its repetition
    facts = {"format": FORMAT, "setting": setting.as_dict(), **info}
    facts.setdefault("epochs", len(rows))
    files = {"run.json": (json.dumps(facts, indent=1, default=list) + "\n").encode(),
             "epochs.csv": _epochs_csv(rows)}
    if signals:
        files["signals.npz"] = _packed(signals)
    write_all(folder, files)
    return load(folder)


def _packed(signals: Mapping[str, np.ndarray]) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(packed, **dict(signals))  # type: ignore[arg-type]
    return packed.getvalue()


def keep_signals(run: Run, rows: list[dict[str, Any]],
                 signals: Mapping[str, np.ndarray]) -> Run:
    """Add to a finished run the signals of its repetition, whose epochs are `rows`.

    Raises StoreError where the repetition has other numbers than the record (another
    processor, another version): then its signals are not those of the recorded run.
    """
    again = schema.read_epochs(_epochs_csv(rows).decode())
    for name in ("loss", "test"):
        if not np.array_equal(run.epochs.get(name, ()), again.get(name, ())):
            raise StoreError(
                f"the repetition of {run.setting} has other numbers ({name}) than "
                f"the record in {run.folder}, so its signals are not added; the "
                f"record stays as it is.")
    assert run.folder is not None
    temporary = run.folder / f".signals-{uuid.uuid4().hex[:6]}.tmp"
    try:
        with open(temporary, "xb") as f:
            f.write(_packed(signals))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, run.folder / "signals.npz")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"could not write the signals to {run.folder}: {error.strerror}; free "
            f"the disk or make the folder writable and repeat the command.") from error
    return load(run.folder)


def _unreadable(file: Path, error: OSError) -> StoreError:
    """What is there and cannot be read is not damaged: nothing is to be deleted."""
    return StoreError(
        f"{file} cannot be read ({error.strerror or error}); make it readable, then "
        f"repeat the command. Nothing says that it is damaged.")


def load(folder: Path) -> Run:
    """Read one run's folder, checked against `schema` and against the folder's own
    name.

    Raises StoreError when a file is missing, damaged or unreadable, or when the setting
    belongs in another folder (a copy, an edited setting).
    """
    file = folder / "run.json"
    try:
        facts = Facts(schema.check_facts(schema.read_json(file.read_text("utf-8"))),
                      file)
        if facts.get("format", FORMAT) > FORMAT:
            raise StoreError(
                f"the run in {folder} is of format {facts['format']}; known is "
                f"{FORMAT}: take the newer version of this program that wrote it.")
        setting = Setting.from_dict(schema.check_setting(facts["setting"]))
        file = folder / "epochs.csv"
        with open(file, newline="", encoding="utf-8") as f:
            epochs = schema.read_epochs(f.read())
        schema.check_epochs(epochs, facts)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError,
            AttributeError) as error:
        raise StoreError(
            f"the run in {folder} is damaged ({file.name}: {error}); delete that "
            f"folder and run it again.") from error
    except OSError as error:
        raise _unreadable(file, error) from error
    if Path(*folder.absolute().parts[-DEPTH:]) != setting.path:
        raise StoreError(
            f"the run in {folder} is of another setting than its folder says: it "
            f"belongs in {setting.path}. It is a copy or was edited, and does not "
            f"count; delete that folder.")
    run = Run(setting, facts, epochs, folder)
    if "best" in facts and "test" in epochs:  # older records looked at all stages
        facts |= {"best": run.best(), "mean_last_10": run.mean_last()}
    return run


def folders(root: Path | None = None) -> tuple[list[Path], list[StoreError]]:
    """The folders of the store that hold a run, by name, and what stands there without
    being one.

    Raises StoreError where the store is no folder, or a link to a disk that is not
    there.
    """
    asked, root = root, paths.runs_dir() if root is None else root
    if not root.exists():
        if root.is_symlink():
            raise StoreError(
                f"{root} is a link to {os.readlink(root)}, which is not there; mount "
                f"that disk, or delete the link.")
        if asked is not None and root.resolve() != paths.runs_dir():
            raise StoreError(
                f"there is no folder {root}; name one that holds recorded runs.")
        return [], []
    level, problems = [root], list[StoreError]()
    for depth in range(DEPTH):
        below: list[Path] = []
        for folder in level:
            try:
                names = sorted(e.name for e in os.scandir(folder) if e.is_dir())
            except OSError as error:
                problems.append(_unreadable(folder, error))
                continue
            below += [folder / n for n in names
                      if depth < DEPTH - 1 or not n.startswith(".")]
        level = below
    found = []
    for folder in level:
        if os.path.lexists(folder / "run.json"):
            found.append(folder)
        else:
            problems.append(StoreError(f"{folder} has no run.json; delete it."))
    return sorted(found), problems


def scan(root: Path | None = None) -> tuple[list[Run], list[StoreError]]:
    """All runs of the store, failed ones too, by path; and what is left out, with the
    reason."""
    found, problems = [], []
    there, strange = folders(root)
    for folder in there:
        try:
            found.append(load(folder))
        except StoreError as error:
            problems.append(error)
    return found, problems + strange


def find(root: Path | None = None, *, finished: bool = True, **where: Any) -> list[Run]:
    """Runs of the store whose setting has the given field values.

    A value may be a tuple or list of allowed values; a key that is no field of
    `Setting` is looked up in `options`. Sorted by path. `finished=False` also returns
    failed runs. What is not to be believed (see `load`) is left out, with a
    RecordWarning that names it; a given `root` that is not there is a StoreError.
    """
    found = []
    every, problems = scan(root)
    for problem in problems:
        warnings.warn(str(problem), RecordWarning, stacklevel=2)
    for run in every:
        values = {**run.setting.options, **run.setting.as_dict()}
        hit = all(any(_same(values.get(k), one) for one in v)
                  if isinstance(v, (tuple, list, set)) else _same(values.get(k), v)
                  for k, v in where.items())
        if hit and (run.finished or not finished):
            found.append(run)
    return found


def _same(have: Any, wanted: Any) -> bool:
    """Equal; two decimal fractions also where one was computed."""
    if isinstance(have, float) and isinstance(wanted, float):
        return math.isclose(have, wanted, rel_tol=0, abs_tol=0.5 * 10**-DIGITS)
    return bool(have == wanted)


def lookup(setting: Setting, root: Path | None = None) -> Run | None:
    """The recorded run of exactly this setting, or None. A folder that cannot take one
    is a StoreError."""
    folder = (paths.runs_dir() if root is None else root) / setting.path
    if (folder / "run.json").exists():
        return load(folder)
    if folder.exists() and not (folder / "run.json").exists():
        raise StoreError(f"{folder} has no run.json; delete it.")
    return None


def resolve(name: str, root: Path | None = None) -> Run:
    """The run whose path or hash ends in, or contains, `name` (for the command
    line)."""
    root = paths.runs_dir() if root is None else root
    names = {str(f.relative_to(root)): f for f in folders(root)[0]
             if NAMED.fullmatch(f.name)}
    hits = [p for n, p in names.items() if n == name or n.endswith(name) or name in n]
    if len(hits) == 1:
        return load(hits[0])
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    hint = f"; the nearest is {near[0]}" if near and not hits else ""
    raise ValueError(f"{len(hits)} runs match {name!r}, exactly one must{hint} "
                     f"(see `noisylabels runs list`).")


def checkpoints(setting: Setting, kind: str = "") -> Path:
    """Where the checkpoints of a run lie; of its repetition for the signals with
    `-signals`."""
    return paths.cache_dir() / "checkpoints" / f"{setting.key}{kind}"


def tidied(run: Run) -> Run:
    """A recorded run; checkpoints that a kill left behind it are of no more use."""
    left = checkpoints(run.setting)
    if run.finished and left.exists():
        shutil.rmtree(left, ignore_errors=True)
    return run


@contextmanager
def lock(setting: Setting, root: Path | None = None,
         waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold this setting's lock: of two processes asked for one run, one trains, one
    waits.

    The system frees the lock when its process dies, however it dies.
    """
    from filelock import FileLock, Timeout

    def acquired(timeout: float) -> bool:
        try:
            held.acquire(timeout=timeout)
        except Timeout:
            return False
        return True

    folder = (paths.cache_dir() if root is None else root) / "locks"
    file = folder / f"{setting.key}.lock"
    if file.is_symlink():  # it is not followed, and nothing is emptied
        raise StoreError(f"{file} is a link, and no lock of this program; delete it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(file)
        if not acquired(timeout=0):
            if waiting is not None:
                waiting()
            acquired(timeout=-1)
    except OSError as error:
        raise StoreError(
            f"could not make the lock in {folder}: {error.strerror or error}; free "
            f"the disk or make the folder writable.") from error
    try:
        yield
    finally:
        held.release()


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
