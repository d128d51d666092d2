"""`noisylabels bench`: time the parts that cost most."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import common

if TYPE_CHECKING:
    from ..bench.timing import Bench


def add_arguments(p: argparse.ArgumentParser) -> None:
    from ..bench import GROUPS

    p.add_argument("--quick", action="store_true",
                   help="tiny work, to see that it runs")
    p.add_argument(
        "--only", metavar="ROWS",
        help="names of rows or groups, with commas; groups: " + ", ".join(GROUPS))
    p.add_argument(
        "--network", help="network of the training loops (default: preact18, on a CPU "
        "small)")
    p.add_argument("--batch-size", type=common.whole, default=128, metavar="N")
    p.add_argument("--rounds", type=common.whole, metavar="N",
                   help="rounds of every row (default: 5)")
    p.add_argument(
        "--minutes", type=_minutes, metavar="M",
        help="begin no further round after that time, and write what there is")
    p.add_argument(
        "--out", type=Path, metavar="FILE.json",
        help="default: data/bench/HARDWARE.json, in data/cache when --quick or --only")
    p.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    p.add_argument(
        "--teaching", action="store_true",
        help="also train ResNet-9 on clean CIFAR-10 (needs a GPU and the data)")


def _minutes(text: str) -> float:
    return common.number(text, f"a number of minutes from 0 to {MOST}",
                         lambda m: 0 <= m <= MOST)


MOST = 100_000  # of batch, rounds and minutes: more is a slip of the keyboard


def main(args: argparse.Namespace) -> int:
    from ..bench import ceilings, measure, report

    begun = time.monotonic()
    if args.out is not None:
        report.check_target(args.out)
    bench = prepare(args)
    facts = ceilings.environment(bench)
    whole = not (args.quick or args.only)
    file = args.out or report.default_file(facts["hardware"], whole)
    try:
        measure(bench, args.teaching)
        facts["data"] = _source(bench)
    finally:  # also what an interrupted run has measured
        facts["minutes"] = round((time.monotonic() - begun) / 60, 2)
        found = report.content(bench, facts)
        report.write(file, found)
        print("\n".join(report.lines(found)))
        print(f"\nwritten to {_shown(file)}")
    return 0


def prepare(args: argparse.Namespace) -> Bench:
    """The benchmark that the arguments ask for. Raises ValueError for a value that is
    not allowed."""
    import torch

    from ..bench import GROUPS, check_row
    from ..bench.timing import Bench
    from ..training import engine, networks

    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
    for name, least in (("batch_size", 8), ("rounds", 1), ("minutes", 0)):
        value = getattr(args, name)
        if value is not None and not least <= value <= MOST:
            raise ValueError(
                f"--{name.replace('_', '-')} must lie in [{least}, {MOST}], not "
                f"{value}.")
    device = torch.device(engine.Execution(args.device).resolve().device)
    cuda = device.type == "cuda"
    network = args.network or ("preact18" if cuda else "small")
    networks.build(network, 10)  # an unknown name is an error that lists the known ones
    narrow = cuda or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    only = tuple(w.strip() for w in (args.only or "").split(",") if w.strip())
    if args.only is not None and not only:
        raise ValueError(f"--only names no row; groups: {', '.join(GROUPS)}.")
    for word in only:
        check_row(word)
    return Bench(device=device, network=network, batch_size=args.batch_size,
                 precision="bfloat16" if narrow else "float32",
                 steps=2 if args.quick else 60 if cuda else 10,
                 warm_up=1 if args.quick else 20 if cuda else 2, rounds=args.rounds
                 or (2 if args.quick else 5), size=0.01 if args.quick else 1.0,
                 until=begun_plus(args.minutes), only=only,
                 say=lambda text: print(text, file=sys.stderr, flush=True))


def begun_plus(minutes: float | None) -> float:
    return float("inf") if minutes is None else time.monotonic() + 60 * minutes


def _source(bench: Bench) -> str:
    """Which images the loops were fed."""
    if "cifar10" not in bench.shared:
        return "none"
    return "made-up images" if bench.shared["cifar10"] is None else "CIFAR-10"


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
