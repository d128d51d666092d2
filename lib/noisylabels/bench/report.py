"""What follows from the measured rows: seconds an epoch, ratios, goals; the file and
the table."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import statistics
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import paths
from . import loops
from .kernels import KERNELS
from .timing import Bench, Row, ratio

FORMAT = 1  # of the file
FLOORS = ("floor", "floor_compiled")
OURS = ("ours", "ours_compiled", "ours_graph", "ours_compiled_graph")
COMMON = ("reference", "reference_fast")


def derive(rows: Sequence[Row], bench: Bench) -> list[Row]:
    """Rows of group "derived": computed round by round from those measured, missing
    ones left out.

    epoch_X: seconds for 50,000 images (ours and the common style with one mixture fit).
    tflops_X: counted operations over time. to_floor_X: X over the fastest floor.
    A_over_B: ratios.
    """
    at = {r.name: r for r in rows}
    out: list[Row] = []

    def add(name: str, what: str, unit: str, values: Iterable[float],
            note: str = "") -> None:
        values = list(values)
        if values:
            out.append(Row(name, "derived", what, unit, values, note))

    steps = loops.EPOCH / bench.batch_size
    flops = loops.operations(bench.network)[1] * bench.batch_size
    floor = fastest(rows, FLOORS)
    fits = {name: at.get("mixture_sklearn" if name in COMMON else "mixture_gauss")
            for name in (*OURS, *COMMON)}
    for name in (*FLOORS, *OURS, *COMMON):
        row = at.get(name)
        if row is None or not row.values:
            continue
        fit = fits.get(name)
        extra = (fit.median or 0.0) / 1e3 if fit is not None else 0.0
        add(f"epoch_{name}",
            f"{name}: 50,000 images" + (" and one mixture fit" if extra else ""), "s",
            [v * steps / 1e3 + extra for v in row.values])
        add(f"tflops_{name}", f"{name}: operations counted over time", "TFLOP/s",
            [flops / v / 1e9 for v in row.values])
        if name not in FLOORS and floor is not None:
            add(f"to_floor_{name}", f"{name} over {floor.name}", "x", ratio(row, floor))
    add("to_floor_ours_step", "our step on ready batches over the bare loop", "x",
        ratio(at.get("ours_step"), at.get("floor")))
    epochs = {r.name: r for r in out}
    best = fastest(out, [f"epoch_{name}" for name in OURS])
    for name in COMMON:
        add(f"{name}_over_ours", f"an epoch of {name} over one of ours ({_of(best)})",
            "x", ratio(epochs.get(f"epoch_{name}"), best))
    if floor is not None and at.get("matmul") is not None and at["matmul"].values:
        peak = at["matmul"].median or 1.0
        add("floor_of_matmul",
            f"{floor.name}: its TFLOP/s over those of the matrix product", "x",
            [flops / v / 1e9 / peak for v in floor.values])
    for kind in ("weak", "strong"):
        add(f"{kind}_over_pil", f"{kind} views: ours over PIL", "x",
            ratio(at.get(f"views_{kind}"), at.get(f"pil_{kind}")))
    add("views_strong_gain",
        "strong views on a CPU: only the images that a pass changes over all", "x",
        ratio(at.get("views_strong"), at.get("views_strong_fixed")))
    for name, other, what in (("neighbours_batch", "fixed",
                               "neighbours in a batch: all differences over a product"),
                              ("weight_gradient", "plain",
                               "a wide layer: without over with the product"),
                              ("normalise", "plain",
                               "normalising: pixel by pixel over row by row"),
                              ("relu_pool", "before",
                               "ReLU before over after max pooling")):
        add(f"{name}_gain", what, "x", ratio(at.get(f"{name}_{other}"), at.get(name)))
    add("masks_gain", "SANM's masks: one sample after another over all at once", "x",
        ratio(at.get("masks_by_sample"), at.get("masks")))
    for unit, word in (("", "time"), ("_memory", "memory")):
        base = at.get("meta_kept_memory" if unit else "meta_shared")
        ours, theirs = at.get(f"meta_forward{unit}"), at.get(f"meta_double{unit}")
        add(f"meta_gradient_{word}",
            f"IEG's meta-gradient, {word}: forward mode over double "
            "backward", "x", ratio(beyond(ours, base), beyond(theirs, base)))
        add(f"meta_step_{word}", f"the whole meta step, {word}: the same", "x",
            ratio(ours, theirs))
    weak, near, fit = (at.get(n) for n in ("views_weak", "neighbours", "mixture_gauss"))
    if bench.cuda and best is not None and best.median and weak and near and fit:
        add("share_beside_steps", "weak views, neighbours and mixture, of our epoch",
            "x",
            [(1 / w + n + f / 1e3) / (best.median + n)
             for w, n, f in zip(weak.values, near.values, fit.values, strict=False)])
    for kind in ("streams", "processes"):
        one = at.get(f"{kind}_1")
        for k in (2, 4):
            row = at.get(f"{kind}_{k}")
            add(f"{kind}_{k}_gain",
                f"{k} seeds together over one after another ({kind})", "x",
                [k * r for r in ratio(one, row)])
    for kind in ("step", "epoch"):
        counts = [
            max(r.values) for r in rows
            if r.name.startswith(f"waits_{kind}_") and r.values
        ]
        add(f"waits_{kind}",
            f"the most waits {'a' if kind == 'step' else 'an'} {kind} of any "
            "method", "waits", [max(counts)] if counts else [])
    return out


def beyond(row: Row | None, base: Row | None) -> Row | None:
    """The row less another one, round by round."""
    if row is None or base is None:
        return None
    return dataclasses.replace(row, values=[
        a - b for a, b in zip(row.values, base.values, strict=False)])


def fastest(rows: Iterable[Row], names: Iterable[str]) -> Row | None:
    """The row of least median among `names`."""
    names = set(names)
    there = [r for r in rows if r.name in names and r.values]
    return min(there, key=lambda r: r.median or 0.0, default=None)


def _of(row: Row | None) -> str:
    return row.name.removeprefix("epoch_") if row is not None else ""


# -------------------------------------------------------------------------------- goals


@dataclass(frozen=True)
class Goal:
    """A number that must hold.

    Args:
        what: in words; row: the names of the rows that it is read from (the best of
            them counts).
        sense: "<=" or ">="; must, aim: the bound, and the one that is aimed at.
        where: "gpu", "cpu" or "any": where the number means what the goal says.
        only: settings of the benchmark for which it was set.
    """

    what: str
    row: tuple[str, ...]
    sense: str
    must: float
    aim: float | None = None
    where: str = "gpu"
    only: Mapping[str, Any] | None = None

    def verdict(self, rows: Sequence[Row], bench: Bench) -> dict[str, Any]:
        """The goal with the number measured, if it was, and "met", "missed" or "not
        measured here"."""
        there = [
            statistics.median(r.values) for r in rows if r.name in self.row and r.values
        ]
        fits = self.where in ("any", "gpu" if bench.cuda else "cpu") and all(
            getattr(bench, k) == v for k, v in (self.only or {}).items())
        value = None
        if there and fits:
            value = min(there) if self.sense == "<=" else max(there)
        return {
            "goal": self.what, "sense": self.sense, "must": self.must, "aim": self.aim,
            "value": value if value is None else float(f"{value:.6g}"),
            "verdict": judge(value, self.sense, self.must),
            "aim_met": None if value is None or self.aim is None else judge(
                value, self.sense, self.aim) == "met"
        }


def judge(value: float | None, sense: str, bound: float) -> str:
    """ "met", "missed", or "not measured here" for None."""
    if sense not in ("<=", ">="):
        raise ValueError(f"unknown sense {sense!r}; allowed: <=, >=.")
    if value is None:
        return "not measured here"
    return "met" if (value <= bound if sense == "<=" else value >= bound) else "missed"


PREACT18 = {"network": "preact18", "batch_size": 128}
GOALS = (Goal("our loop over the floor", tuple(f"to_floor_{n}" for n in OURS), "<=",
              1.25, 1.10),
         Goal("our step over the bare loop on a CPU", ("to_floor_ours_step",), "<=",
              1.05, where="cpu"),
         Goal("views, mixture and neighbours, share of an epoch",
              ("share_beside_steps",), "<=", 0.10, 0.05),
         Goal("an epoch of the common style over ours", ("reference_over_ours",), ">=",
              2.0, 2.7),
         Goal("the same, structure alone (both in bfloat16)",
              ("reference_fast_over_ours",), ">=", 1.3),
         Goal("strong views, ours over PIL in 16 processes", ("strong_over_pil",), ">=",
              10, 20),
         Goal("SANM's masks, a loop over the samples over ours", ("masks_gain",), ">=",
              8, where="any"),
         Goal("meta-gradient, time over double backward", ("meta_gradient_time",), "<=",
              0.65, 0.5, where="any"),
         Goal("meta-gradient, peak memory over double backward",
              ("meta_gradient_memory",), "<=", 0.5, 0.4, where="any"),
         Goal("PreAct ResNet-18, batch 128: seconds an epoch",
              tuple(f"epoch_{n}" for n in OURS), "<=", 0.95, 0.70, only=PREACT18),
         Goal("four seeds together over four in a row",
              ("streams_4_gain", "processes_4_gain"), ">=", 1.15, 1.3, only=PREACT18),
         Goal("waits for the device a step", ("waits_step",), "<=", 0, 0, where="any"),
         Goal("waits for the device an epoch", ("waits_epoch",), "<=", 3, 1,
              where="any"),
         )


def goals() -> list[Goal]:
    """All goals, those of the parts that are timed alone among them."""
    parts = [Goal(f"{k.what}, {k.unit}", (k.name,), *k.must) for k in KERNELS if k.must]
    return [*GOALS, *parts]


# ----------------------------------------------------------------------- file and table


def content(bench: Bench, environment: Mapping[str, Any]) -> dict[str, Any]:
    """All that is written: facts, rows, what follows from them, goals."""
    derived = derive(bench.rows, bench)
    judged = [g.verdict([*bench.rows, *derived], bench) for g in goals()]
    return {
        "format": FORMAT, "environment": dict(environment),
        "rows": [r.record()
                 for r in bench.rows], "derived": [r.record() for r in derived],
        "goals": [*judged, parity_goal(bench.rows)]
    }


def parity_goal(rows: Sequence[Row]) -> dict[str, Any]:
    """The goal that both loops learn equally well; its bound is in the row's note."""
    row = next((r for r in rows if r.name == "parity" and r.values), None)
    held = row is not None and row.note.startswith("within")
    return {
        "goal": "our loop learns as well as the common style", "sense": "within",
        "must": None, "aim": None,
        "value": None if row is None else float(f"{row.values[0]:.6g}"),
        "verdict": "not measured here" if row is None else "met" if held else "missed",
        "aim_met": None
    }


def slug(hardware: str) -> str:
    """The hardware as a file name: "NVIDIA H200" -> "nvidia-h200"."""
    plain = re.sub(r"\((r|tm|c)\)|\bcpu\b|@.*?(?=,|$)", " ", hardware.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "unknown"


def folder() -> Path:
    """Where whole results lie: small text, committed."""
    return paths.home() / "data" / "bench"


def default_file(hardware: str, whole: bool) -> Path:
    """A whole result is kept with the project; a quick or partial one is not."""
    where = folder() if whole else paths.cache_dir() / "bench"
    return where / f"{slug(hardware)}.json"


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
    if not os.path.lexists(file):
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        ours = isinstance(there, dict) and {"environment", "rows", "goals"
                                            } <= set(there)
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise ValueError(
            f"{file} is there and is no result of `noisylabels bench`; name another "
            "file by --out.")


def write(file: Path, found: Mapping[str, Any]) -> None:
    """Write the result in one step: a reader sees the old file or the new one,
    whole."""
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    temporary = file.with_name(f".{file.name}-{uuid.uuid4().hex[:6]}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "x", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"could not write {file.name}: {error.strerror}; free the disk "
            "or name another file by --out") from error


def load(root: Path | None = None) -> list[dict[str, Any]]:
    """The recorded results, the newest first. Raises ValueError for a file that is
    damaged."""
    found = []
    for file in sorted((folder() if root is None else root).glob("*.json")):
        try:
            one = json.loads(file.read_text(encoding="utf-8"))
            one["environment"]["date"], one["rows"], one["derived"], one["goals"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"the result {file.name} is damaged ({error}); delete it and run "
                "`noisylabels bench` again.") from error
        found.append(one)
    return sorted(found, key=lambda one: one["environment"]["date"], reverse=True)


def number(value: float | None) -> str:
    """Three digits, as they are read: "0.00312", "4.31", "788", "12,300"; "–" for
    nothing."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    before = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, 2 - before)}f}" if -6 < before < 6 else f"{value:.2e}"


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table as text: a line a row, then what follows from them, then the goals."""
    facts = found["environment"]
    out = [
        f"{facts['hardware']}, torch {facts['versions'].get('torch')}, {facts['network']}, "
        f"batch {facts['batch_size']}, {facts['precision']}, {facts['clock']}",
        f"instructions: {facts.get('instructions', 'not recorded')}"
    ]
    table = []
    for r in (*found["rows"], *found["derived"]):
        spread = "" if r["rounds"] < 2 else f"{number(r['min'])} to {number(r['max'])}"
        table.append((r["row"], number(r["median"]), r["unit"] if r["rounds"] else "",
                      spread, r["note"]))
    out += _aligned(("row", "median", "", "range", "note"), table)
    out += [
        "", *_aligned(("goal", "must", "here", "", ""),
                      [(g["goal"], f"{g['sense']} {number(g['must'])}" if g["must"]
                        is not None else g["sense"], number(g["value"]), g["verdict"] +
                        (", aim too" if g["aim_met"] else ""), "")
                       for g in found["goals"]])
    ]
    return out


def _aligned(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns side by side, the second, which holds numbers, to the right."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header))]
    rule = tuple("-" * w for w in widths)
    return [
        "  ".join(
            cell.rjust(w) if i == 1 else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in (header, rule, *rows)
    ]
