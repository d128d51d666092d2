"""What follows from the measured rows: seconds an epoch, ratios, goals; and the
file."""

from __future__ import annotations

import json
import math
import operator
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from .. import lab, paths
from ..training import engine, runs
from . import loops
from .kernels import KERNELS
from .timing import Bench, Row, rounded

FORMAT = 1  # of the file
FLOORS = ("floor", "floor_compiled")
OURS = ("ours", "ours_compiled", "ours_graph", "ours_compiled_graph")
COMMON = ("reference", "reference_fast")
FITS = dict.fromkeys(OURS, "mixture_gauss") | dict.fromkeys(COMMON, "mixture_sklearn")

RATIOS = [
    ("to_floor_ours_step", "our step on ready batches over the bare loop",
     "ours_step / floor"),
    ("weak_over_pil", "weak views: ours over PIL", "views_weak / pil_weak"),
    ("strong_over_pil", "strong views: ours over PIL", "views_strong / pil_strong"),
    ("masks_gain", "SANM's masks: one sample after another over all at once",
     "masks_by_sample / masks"),
    ("meta_gradient_time", "IEG's meta-gradient, time: forward mode over double "
     "backward", "(meta_forward - meta_shared) / (meta_double - meta_shared)"),
    ("meta_step_time", "the whole meta step, time: the same",
     "meta_forward / meta_double"),
    ("meta_gradient_memory", "IEG's meta-gradient, memory: forward mode over double "
     "backward", "(meta_forward_memory - meta_kept_memory) / "
     "(meta_double_memory - meta_kept_memory)"),
    ("meta_step_memory", "the whole meta step, memory: the same",
     "meta_forward_memory / meta_double_memory"),
    ("processes_2_gain", "2 seeds together over one after another",
     "2 * processes_1 / processes_2"),
    ("processes_4_gain", "4 seeds together over one after another",
     "4 * processes_1 / processes_4")]
"""Name, words, and the formula of rows."""


def derive(rows: Sequence[Row], bench: Bench) -> list[Row]:
    """Rows of group "derived": computed round by round from those measured, missing
    ones left out.

    epoch_X: seconds for 50,000 images (ours and the common style with one mixture fit).
    tflops_X: counted operations over time. to_floor_X: X over the fastest floor.
    A_over_B: ratios.
    """
    import pandas as pd

    at = pd.DataFrame({r.name: pd.Series(r.values) for r in rows if r.values})
    out: list[Row] = []

    def add(name: str, what: str, formula: str, unit: str = "x") -> None:
        with suppress(NameError):  # a row that was not measured
            found = at.eval(formula, engine="python")
            found = found.replace([math.inf, -math.inf], math.nan).dropna()
            if len(found):
                at[name] = found
                out.append(Row(name, "derived", what, unit, found.tolist()))

    def fastest(names: Iterable[str]) -> str:
        return min((n for n in names if n in at), key=lambda n: at[n].median(),
                   default="none")

    steps = loops.EPOCH / bench.batch_size
    flops = loops.operations(bench.network)[1] * bench.batch_size
    floor = fastest(FLOORS)
    for name in (*FLOORS, *OURS, *COMMON):
        fit = float(at[FITS[name]].median()) if FITS.get(name) in at else 0.0  # ms
        add(f"epoch_{name}", f"{name}: 50,000 images" + " and one mixture fit"
            * (fit > 0), f"({name} * {steps} + {fit}) / 1e3", "s")
        add(f"tflops_{name}", f"{name}: operations counted over time",
            f"{flops} / {name} / 1e9", "TFLOP/s")
        if name not in FLOORS:
            add(f"to_floor_{name}", f"{name} over {floor}", f"{name} / {floor}")
    best = fastest(f"epoch_{name}" for name in OURS)
    for name in COMMON:
        add(f"{name}_over_ours", f"an epoch of {name} over one of ours "
            f"({best.removeprefix('epoch_')})", f"epoch_{name} / {best}")
    if "matmul" in at:
        add("floor_of_matmul", f"{floor}: its TFLOP/s over those of the matrix product",
            f"tflops_{floor} / {at['matmul'].median()}")
    for ratio in RATIOS:
        add(*ratio)
    if bench.cuda:
        add("share_beside_steps", "weak views, neighbours and mixture, of our epoch",
            "(1 / views_weak + neighbours + mixture_gauss / 1e3) / "
            f"({best} + neighbours)")
    for a, kind in (("a", "step"), ("an", "epoch")):
        counts = at.filter(like=f"waits_{kind}_")
        if counts.size:
            out.append(Row(f"waits_{kind}", "derived", f"the most waits {a} {kind} of "
                           "any method", "waits", [float(counts.max(axis=None))]))
    return out


# -------------------------------------------------------------------------------- goals

SENSES = {"<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Goal:
    """A number that must hold.

    Args:
        what: in words; row: the names of the rows that it is read from (the best of
            them counts).
        sense: "<=", ">=" or "within"; must: the bound, None where the row's note says
            whether it holds.
        where: "cuda", "cpu" or "any": where the number means what the goal says.
        only: settings of the benchmark for which it was set.
    """

    what: str
    row: tuple[str, ...]
    sense: str
    must: float | None
    where: str = "cuda"
    only: Mapping[str, Any] = field(default_factory=dict)

    def verdict(self, rows: Sequence[Row], bench: Bench) -> dict[str, Any]:
        """The goal with the number measured, if it was, and "met", "missed" or "not
        measured here"."""
        there = {r.median or 0.0: r.note for r in rows
                 if r.name in self.row and r.values}
        fits = self.where in ("any", bench.device.type) and all(
            getattr(bench, k) == v for k, v in self.only.items())
        best = (max if self.sense == ">=" else min)(there, default=math.nan)
        value = rounded(best) if fits else None
        met = value is not None and (
            there[best].startswith("within") if self.must is None else
            SENSES[self.sense](value, self.must))
        return {"goal": self.what, "sense": self.sense, "must": self.must,
                "value": value, "verdict": "not measured here" if value is None else
                "met" if met else "missed"}


PREACT18 = {"network": "preact18", "batch_size": 128}
GOALS = [
    Goal("our loop over the floor", tuple(f"to_floor_{n}" for n in OURS), "<=", 1.25),
    Goal("our step over the bare loop on a CPU", ("to_floor_ours_step",), "<=", 1.05,
         "cpu"),
    Goal("views, mixture and neighbours, share of an epoch", ("share_beside_steps",),
         "<=", 0.10),
    Goal("an epoch of the common style over ours", ("reference_over_ours",), ">=", 2),
    Goal("the same, structure alone (both in bfloat16)", ("reference_fast_over_ours",),
         ">=", 1.3),
    Goal("strong views, ours over PIL in 16 processes", ("strong_over_pil",), ">=", 10),
    Goal("SANM's masks, a loop over the samples over ours", ("masks_gain",), ">=", 8,
         "any"),
    Goal("meta-gradient, time over double backward", ("meta_gradient_time",), "<=",
         0.65, "any"),
    Goal("meta-gradient, peak memory over double backward", ("meta_gradient_memory",),
         "<=", 0.5, "any"),
    Goal("PreAct ResNet-18, batch 128: seconds an epoch",
         tuple(f"epoch_{n}" for n in OURS), "<=", 0.95, only=PREACT18),
    Goal("four seeds together over four in a row", ("processes_4_gain",), ">=", 1.15,
         only=PREACT18),
    Goal("waits for the device a step", ("waits_step",), "<=", 0, "any"),
    Goal("waits for the device an epoch", ("waits_epoch",), "<=", 3, "any")]
PARITY = Goal("our loop learns as well as the common style", ("parity",), "within",
              None, "any")


def goals() -> list[Goal]:
    """All goals, those of the parts that are timed alone among them."""
    return GOALS + [Goal(f"{k.what}, {k.unit}", (k.name,), *k.must)
                    for k in KERNELS if k.must]


# ----------------------------------------------------------------------------- the file

PACKAGES = ("torch", "torchvision", "triton", "numpy", "scikit-learn", "pillow")


def environment(bench: Bench) -> dict[str, Any]:
    """What a reader must know to judge the numbers."""
    here = {d.name: d.version for p in PACKAGES for d in distributions(name=p)}
    facts: dict[str, Any] = {
        "hardware": engine.hardware(bench.device), "device": bench.device.type,
        "instructions": engine.instructions(), "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **here},
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "commit": lab.commit(), "date": runs.now(), "clock": bench.clock,
        **{k: getattr(bench, k) for k in ("network", "batch_size", "precision", "steps",
                                          "warm_up", "rounds")}}
    # programs that wanted the CPU at the start
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 1:
        facts |= {"load": round(load, 2), "remark": "other programs were running: "
                  "trust the ratios more than the times"}
    return facts


def content(bench: Bench, environment: Mapping[str, Any]) -> dict[str, Any]:
    """All that is written: facts, rows, what follows from them, goals."""
    derived = derive(bench.rows, bench)
    judged = [g.verdict([*bench.rows, *derived], bench) for g in (*goals(), PARITY)]
    return {"format": FORMAT, "environment": dict(environment),
            "rows": [r.record() for r in bench.rows],
            "derived": [r.record() for r in derived], "goals": judged}


def default_file(hardware: str, whole: bool) -> Path:
    """A whole result is kept with the project, by the hardware's name ("NVIDIA H200" ->
    "nvidia-h200.json"); a quick or partial one is not."""
    plain = re.sub(r"\((r|tm|c)\)|\bcpu\b|@.*?(?=,|$)", " ", hardware.lower())
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unknown"
    where = paths.home() / "data" if whole else paths.cache_dir()
    return where / "bench" / f"{name}.json"


def check_target(file: Path) -> None:
    """Raise ValueError where the result would take the place of what `bench` did not
    make."""
    if file.is_dir():
        raise ValueError(
            f"{file} is a folder; --out takes a file, such as result.json.")
    above = next(p for p in file.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(
            f"{file} cannot be written: {above} is no folder that may be written to; "
            "name another file by --out.")
    try:
        if os.path.lexists(file):
            read(file)
    except (OSError, ValueError):
        raise ValueError(
            f"{file} is there and is no result of `noisylabels bench`; name another "
            "file by --out.") from None


def write(file: Path, found: Mapping[str, Any]) -> None:
    """Write the result in one step: a reader sees the old file or the new one,
    whole."""
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    temporary = file.with_name(f".{file.name}-{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"could not write {file.name}: {error.strerror}; "
                      "free the disk or name another file by --out") from error


def read(file: Path) -> dict[str, Any]:
    """A result. Raises ValueError for a file that is none, or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        found["environment"], found["rows"], found["goals"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"the result {file.name} is damaged ({error}); delete it and run "
            "`noisylabels bench` again.") from error
    return found


def load() -> list[dict[str, Any]]:
    """The recorded results, the newest first. Raises ValueError for a file that is
    damaged."""
    files = sorted((paths.home() / "data" / "bench").glob("*.json"))
    return sorted(map(read, files), key=lambda one: one["environment"]["date"],
                  reverse=True)


def number(value: float | None) -> str:
    """Three digits, as they are read: "0.00312", "4.31", "788", "12,300"; "–" for
    nothing."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    before = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, 2 - before)}f}" if -6 < before < 6 else f"{value:.2e}"
