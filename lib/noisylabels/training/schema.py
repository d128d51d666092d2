"""What a record may hold: one schema for run.json, epochs.csv, signals.npz and
checkpoints.

The store, a bundle and a run that goes on all read through here, so that nothing is
believed in one place that is refused in another. Every function raises ValueError with
words that fit behind the name of the file. A fact may be missing (older records have
fewer); one that is there must be of its type and in its range.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

DATASETS = ("digits", "cifar10", "cifar100")
STATUS = ("finished", "failed")
MOST_TEXT = 2_000  # characters of any text of a record
MOST_EPOCHS = 1_000_000
# columns in [0, 1]
SHARES = re.compile(r"(test|val|clean_fit|wrong_fit|wrong_corrected|clean_share"
                    r"|(label_accuracy|auc|p_right|p_wrong)(_\w+)?)")
COLUMN = re.compile(r"[A-Za-z][\w.-]{0,60}", re.ASCII)
FEATURES = re.compile(r"features-[1-9][0-9]{0,6}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}", re.ASCII)  # a part of a path
ROUNDED = 1e-4  # that a share may lie outside [0, 1]


class Kind(NamedTuple):
    """What a value must be, in words, and the test."""

    words: str
    fits: Callable[[Any], bool]


def _number(v: Any) -> bool:
    return isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e300


def _whole(low: int, high: int = 10**12) -> Kind:
    return Kind(
        f"a whole number from {low} on",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high)


def _text(v: Any) -> bool:
    return isinstance(v, str) and len(v) <= MOST_TEXT and v.isprintable()


SHARE = Kind("a number in [0, 1]", lambda v: _number(v) and 0 <= v <= 1)
SECONDS = Kind("a finite number from 0 on", lambda v: _number(v) and v >= 0)
TEXT = Kind("a text without control characters", _text)
WORD = Kind("a name of letters, digits, '_', '-' and '.'",
            lambda v: isinstance(v, str) and bool(NAME.fullmatch(v)))
SWITCHES = Kind("names with true or false", lambda v: isinstance(v, Mapping) and all(
    _text(k) and isinstance(x, bool) for k, x in v.items()))
TEXTS = Kind("names with texts", lambda v: isinstance(v, Mapping) and all(
    _text(k) and _text(x) for k, x in v.items()))
NAMES = Kind("a list of names", lambda v: isinstance(v, list) and all(map(_text, v)))


def _one_of(allowed: Sequence[str]) -> Kind:
    return Kind("one of " + ", ".join(allowed),
                lambda v: isinstance(v, str) and v in allowed)


def _scalar(v: Any) -> bool:
    return v is None or isinstance(v, (bool, int, float)) or _text(v)


OPTIONS = Kind("options with plain values", lambda v: isinstance(v, Mapping) and all(
    _text(k) and (all(map(_scalar, x)) if isinstance(x, (list, tuple)) else _scalar(x))
    for k, x in v.items()))

EPOCHS = Kind("epochs that ascend", lambda v: isinstance(v, list) and all(
    map(_whole(1).fits, v)) and v == sorted(set(v)))

SETTING = {
    "method": WORD, "dataset": WORD, "noise": WORD, "rate": SHARE,
    "budget": WORD, "options": OPTIONS, "split_seed": _whole(0),
    "noise_seed": _whole(0), "init_seed": _whole(0),
    "max_samples": Kind("a whole number from 1 on or null",
                        lambda v: v is None or _whole(1).fits(v)),
    "trusted_per_class": _whole(0), "val_fraction": SHARE,
}  # fmt: skip
MADE_BY = {
    "commit": TEXT, "date": TEXT, "versions": TEXTS, "hardware": TEXT,
    "threads": _whole(1), "instructions": TEXT, "execution": SWITCHES, "precision": TEXT
}
"""With what a run, or a part of one, was made."""
FACTS = {
    **MADE_BY, "format": _whole(1), "status": _one_of(STATUS), "why": TEXT,
    "samples": _whole(0), "validation": _whole(0), "trusted": _whole(0),
    "realised_rate": SHARE, "noise_note": TEXT, "noise_redrawn": _whole(0),
    "epochs": _whole(0, MOST_EPOCHS), "last": SHARE, "mean_last_10": SHARE,
    "best": SHARE, "seconds_per_epoch": SECONDS, "seconds": SECONDS,
    "signals_lack": NAMES, "losses_of": EPOCHS,
}  # fmt: skip
PART = {
    **MADE_BY, "epochs": Kind(
        "the first and the last epoch",
        lambda v: isinstance(v, (list, tuple)) and len(v) == 2 and all(
            map(_whole(1).fits, v)) and v[0] <= v[1])
}


def shown(value: Any) -> str:
    """A value in a message: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check(found: Mapping[str, Any], kinds: Mapping[str, Kind], of: str = "") -> None:
    for name, kind in kinds.items():
        if name in found and not kind.fits(found[name]):
            raise ValueError(
                f"{of}{name} must be {kind.words}, not {shown(found[name])}")


# ----------------------------------------------------------------------------- run.json


def read_json(text: str) -> Any:
    """JSON, however deep; nesting that no record has is a ValueError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_facts(found: Any) -> Mapping[str, Any]:
    """The content of a run.json."""
    if not isinstance(found, Mapping):
        raise ValueError("it does not hold facts by name")
    _check(found, FACTS)
    if hidden := [name for name in found if name.startswith("_")]:
        raise ValueError(f"{shown(hidden[0])} has no place in it")
    parts = found.get("parts", [])
    if not isinstance(parts, list):
        raise ValueError(f"parts must be a list, not {shown(parts)}")
    for part in parts:
        if not isinstance(part, Mapping):
            raise ValueError(f"a part must hold facts by name, not {shown(part)}")
        _check(part, PART, "a part's ")
    return found


def check_setting(found: Any) -> Mapping[str, Any]:
    """The types of a setting; `Setting` itself checks what they mean."""
    if not isinstance(found, Mapping):
        raise ValueError(f"setting must hold fields by name, not {shown(found)}")
    _check(found, SETTING, "setting's ")
    return found


# --------------------------------------------------------------------------- epochs.csv


def read_epochs(text: str) -> dict[str, np.ndarray]:
    """The columns of an epochs.csv: floats, but for `stage`."""
    if text and not text.endswith("\n"):
        raise ValueError("it is cut: its last line does not end")
    try:
        rows = [*csv.reader(io.StringIO(text, newline=""), strict=True)]
        header, *lines = rows or [[]]
    except csv.Error as error:
        raise ValueError(f"it is no table: {error}") from None
    if bad := [c for c in header if not COLUMN.fullmatch(c)]:
        raise ValueError(f"{shown(bad[0])} is no name of a column")
    if len(set(header)) < len(header):
        raise ValueError("a column stands twice")
    if any(len(line) != len(header) for line in lines):
        raise ValueError("its lines are not of one length")
    columns = {c: [line[k] for line in lines]
               for k, c in enumerate(header)} if lines else {}
    return {c: np.array(v if c == "stage" else [_cell(x) for x in v])
            for c, v in columns.items()}


def _cell(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as 10
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text or "nan")


def check_epochs(epochs: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Every column in its range, and as many epochs, with such an end, as run.json
    says."""
    finished = facts.get("status") == "finished"
    test = epochs.get("test", np.array([]))
    rows = len(next(iter(epochs.values()), ()))
    seen = len(test) if finished else rows
    if finished and not seen or facts.get("epochs", rows) != seen:
        raise ValueError(f"test accuracies of {len(test)} epochs, run.json says "
                         f"{facts.get('epochs')}")
    if finished and np.isnan(test if "losses_of" not in facts else test[-1:]).any():
        raise ValueError("the last test accuracy is no number" if "losses_of" in facts
                         else "test must be a number in every epoch of a finished run")
    last = facts.get("last")
    if finished and last is not None and not math.isclose(test[-1], last, abs_tol=1e-6):
        raise ValueError(
            f"the last test accuracy is {test[-1]:g}, run.json says {last:g}")
    if facts.get("losses_of") and facts["losses_of"][-1] > rows:
        raise ValueError(f"losses_of names epoch {facts['losses_of'][-1]} of {rows}")
    for name, column in epochs.items():
        if name == "stage":
            if bad := [x for x in column if not _text(str(x))]:
                raise ValueError(
                    f"stage must be {TEXT.words}, not {shown(str(bad[0]))}")
            continue
        there = column[~np.isnan(column)]
        if SHARES.fullmatch(name):
            bad = there[(there < -ROUNDED) | (there > 1 + ROUNDED)]
            if len(bad):
                raise ValueError(f"{name} must lie in [0, 1], not be {bad[0]:g}")
        elif name.startswith("seconds") and (there < 0).any():
            raise ValueError(f"{name} must be 0 or more, not {there.min():g}")
        elif name == "epoch" and not np.array_equal(
                column, np.arange(1, len(column) + 1)):
            raise ValueError("its epochs are not numbered 1, 2, 3, ...")


# -------------------------------------------------------------------------- signals.npz


def read_signals(content: bytes, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The per-sample arrays of a run: one entry a training sample, along the last axis.

    `index` is the image's number in the official train set, `given` the label it was
    given, and `wrong` says whether that label is wrong. Records of before they were
    kept have none of the first two, and everything in float16.
    """
    samples, rows = facts.get("samples"), facts.get("epochs", 0) + 1
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as z:
            held = z.infolist()
    except Exception as error:  # a damaged archive can raise anything
        raise ValueError(
            f"it is no archive of arrays: {type(error).__name__}") from None
    for info in held:
        if samples is not None and info.file_size > 16 * samples * rows + 4_096:
            raise ValueError(f"{shown(info.filename)} is larger than {samples} samples")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            out = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # numpy's own text advises to read without protection
        raise ValueError(
            f"it is no archive of plain arrays: {type(error).__name__}") from None
    if raw := [name for name, a in out.items() if not isinstance(a, np.ndarray)]:
        raise ValueError(f"{shown(raw[0])} is no array")
    if len(out) < len(held):
        raise ValueError("an array stands twice")
    lengths = {a.shape[-1] if a.ndim in (1, 2) else -1 for a in out.values()}
    if len(lengths | ({samples} - {None})) > 1 or -1 in lengths:
        raise ValueError(
            f"its arrays have {sorted(lengths)} entries, the run has "
            f"{'as many each' if samples is None else samples} training samples")
    for name, a in out.items():
        _check_signal(name, a)
    if "losses" in out:
        check_losses(out["losses"], facts)
    return out


def check_losses(a: np.ndarray, facts: Mapping[str, Any]) -> None:
    """The losses of all samples, (epochs, N) in a byte each, against the epochs that
    run.json names (`losses_of`)."""
    of = facts.get("losses_of")
    if of is None:
        raise ValueError(
            "losses are there, and run.json has no losses_of that says of which "
            "epochs")
    if a.ndim != 2 or a.dtype != np.uint8 or len(a) != len(of):
        raise ValueError(
            f"losses must hold a byte for each sample after each of the {len(of)} "
            f"epochs of losses_of, not {a.dtype} of shape {a.shape}")


def _check_signal(name: str, a: np.ndarray) -> None:
    if not COLUMN.fullmatch(name):
        raise ValueError(f"{shown(name)} is no name of an array")
    if a.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {a.dtype}, no numbers")
    if name in ("index", "given"):
        if a.dtype.kind not in "iu" or (a < 0).any():
            raise ValueError(f"{name} must hold whole numbers from 0 on")
        if name == "index" and len(np.unique(a)) < a.size:
            raise ValueError("index names an image twice")
    elif name.startswith("features-"):
        if not FEATURES.fullmatch(name) or a.ndim != 2:
            raise ValueError(
                f"{shown(name)} must be named by its epoch, as features-3, and hold "
                "a row for each component")
    elif name == "wrong":
        if not np.isin(a, (0, 1)).all():
            raise ValueError("wrong must hold 0 and 1")
    elif a.dtype.kind == "f":
        if np.isnan(a).any():
            raise ValueError(f"{name} is not a number in places")
        if name.startswith("p_clean") and ((a < -ROUNDED) | (a > 1 + ROUNDED)).any():
            raise ValueError(f"{name} must lie in [0, 1]")


# -------------------------------------------------------------------------- checkpoints

NEEDED = ("epoch", "count", "rows", "state", "signals", "generators")  # of a checkpoint


def check_checkpoint(held: Any) -> dict[str, Any]:
    """A checkpoint's content: rows, epochs and stages must agree with one another.

    A KeyError names what it lacks.
    """
    if not isinstance(held, dict):
        raise ValueError("it holds no values by name")
    for name in NEEDED:
        held[name]
    rows, epoch, count = held["rows"], held["epoch"], held["count"]
    if not (_whole(1).fits(epoch) and _whole(1).fits(count) and epoch <= count):
        raise ValueError(f"epoch {shown(epoch)} of {shown(count)} cannot be")
    if not isinstance(rows, list) or not isinstance(held["state"], list):
        raise ValueError("its rows and its state must be lists")
    for name in ("signals", "generators"):
        if not isinstance(held[name], Mapping):
            raise ValueError(f"its {name} must have names")
    for number, row in enumerate(rows, 1):
        _check_row(row, number)
    if len(rows) < epoch or len({row["stage"] for row in rows[len(rows) - epoch:]}) > 1:
        raise ValueError(
            f"it has {len(rows)} rows, of which {epoch} should be of one stage")
    parts = held.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(p, Mapping) for p in parts):
        raise ValueError("its parts must be a list of facts")
    for part in parts:
        _check(part, PART, "a part's ")
    return held


def _check_row(row: Any, number: int) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} holds no values by name")
    if not _text(row.get("stage")) or row.get("epoch") != number:
        raise ValueError(f"row {number} must have a stage and the epoch {number}")
    for name, value in row.items():
        if not (isinstance(name, str) and COLUMN.fullmatch(name)):
            raise ValueError(f"row {number} has a column {shown(name)}")
        if name == "stage":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(
                f"row {number}: {name} must be a number, not {shown(value)}")
        if SHARES.fullmatch(name) and not (
                value != value or -ROUNDED <= value <= 1 + ROUNDED):
            raise ValueError(
                f"row {number}: {name} must lie in [0, 1], not be {value:g}")
        if name.startswith("seconds") and not 0 <= value < math.inf:
            raise ValueError(f"row {number}: {name} must be 0 or more, not {value:g}")
    for name in ("test", "val", "loss", "seconds", "seconds_evaluating"):
        if name not in row:
            raise ValueError(f"row {number} has no {name}")
