"""`noisylabels bench`: time the parts that cost most."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import wording
from ..bench import GROUPS
from . import common

MOST = 100_000  # of batch, rounds and minutes: more is a slip of the keyboard
app = common.app()


@app.command(cls=common.Command, epilog="example:\n  noisylabels bench --quick")
def main(
    quick: Annotated[bool, typer.Option(
        "--quick", help="tiny work, to see that it runs")] = False,
    only: Annotated[str | None, typer.Option(
        metavar="ROWS",
        help="rows or groups, with commas; groups: " + ", ".join(GROUPS))] = None,
    network: Annotated[str | None, typer.Option(
        metavar="NAME", help="of the training loops (default: preact18, on a CPU "
        "small)")] = None,
    batch_size: Annotated[int, typer.Option(min=8, max=MOST, metavar="N")] = 128,
    rounds: Annotated[int | None, typer.Option(
        min=1, max=MOST, metavar="N", help="of every row (default: 5)")] = None,
    minutes: Annotated[float | None, typer.Option(
        min=0, max=MOST, metavar="M",
        help="begin no further round after that time, and write what there is")] = None,
    out: Annotated[Path | None, typer.Option(
        metavar="FILE.json", help="default: data/bench/HARDWARE.json, in data/cache "
        "when --quick or --only")] = None,
    device: common.Device = "auto",
    teaching: Annotated[bool, typer.Option(
        "--teaching", help="also train ResNet-9 on clean CIFAR-10 (needs a GPU and the "
        "data)")] = False,
) -> int:
    """Time the parts that cost most, and say which goals they meet."""
    import pandas  # noqa: F401  # for the ratios: its lack is said before hours of work
    import torch

    from ..bench import check_row, measure, report, timing
    from ..training import engine, networks

    begun = time.monotonic()
    if out is not None:
        report.check_target(out)
    engine.set_threads(None)
    where = torch.device(engine.Execution(device).resolve().device)
    cuda = where.type == "cuda"
    network = network or ("preact18" if cuda else "small")
    networks.build(network, 10)  # an unknown name is an error that lists the known ones
    words = tuple(w.strip() for w in (only or "").split(",") if w.strip())
    if only is not None and not words:
        raise ValueError(f"--only names no row; groups: {', '.join(GROUPS)}.")
    for word in words:
        check_row(word)
    bench = timing.Bench(
        where, network, batch_size, only=words, rounds=rounds or (2 if quick else 5),
        precision="bfloat16" if engine.has_bfloat16(where) else "float32",
        steps=2 if quick else 60 if cuda else 10,
        warm_up=1 if quick else 20 if cuda else 2, size=0.01 if quick else 1.0,
        until=math.inf if minutes is None else begun + 60 * minutes,
        say=lambda text: print(text, file=sys.stderr, flush=True))
    facts = report.environment(bench)
    file = out or report.default_file(facts["hardware"], not (quick or only))
    try:
        measure(bench, teaching)
        facts["data"] = bench.data
    finally:  # also what an interrupted run has measured
        facts["minutes"] = round((time.monotonic() - begun) / 60, 2)
        found = report.content(bench, facts)
        report.write(file, found)
        show(found)
        print(f"\nwritten to {wording.shown(file)}")
    return 0


def show(found: Mapping[str, Any]) -> None:
    """The tables: a line a row, then what follows from them, then the goals."""
    from ..bench.report import number

    facts = found["environment"]
    print(f"{facts['hardware']}, torch {facts['versions'].get('torch')}, "
          f"{facts['network']}, batch {facts['batch_size']}, {facts['precision']}, "
          f"{facts['clock']}\ninstructions: {facts['instructions']}")
    common.say(common.table(
        ("row", "median", "unit", "range", "note"),
        [(r["row"], number(r["median"]), r["unit"] if r["rounds"] else "",
          f"{number(r['min'])} to {number(r['max'])}" if r["rounds"] > 1 else "",
          r["note"]) for r in (*found["rows"], *found["derived"])],
        left=("row", "unit", "range", "note")))
    print()
    common.say(common.table(
        ("goal", "must", "here", "verdict"),
        [(g["goal"], g["sense"] if g["must"] is None else
          f"{g['sense']} {number(g['must'])}", number(g["value"]), g["verdict"])
         for g in found["goals"]], left=("goal", "verdict")))
