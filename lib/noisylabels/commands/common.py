"""What the commands share: names, numbers in words, aligned tables. Imports nothing
heavy."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TextIO

from .. import wording
from ..ranges import MOST_SEED

BARS = "▁▂▃▄▅▆▇█"




def sparkline(values: Iterable[float], width: int = 60) -> str:
    """The course of `values` in at most `width` bars between their least and
    greatest."""
    seen = [v for v in values if not math.isnan(v)]
    if not seen:
        return ""
    step = max(1.0, len(seen) / width)
    picked = [
        seen[min(len(seen) - 1, int(i * step))]
        for i in range(math.ceil(len(seen) / step))
    ]
    picked[-1] = seen[-1]
    low, high = min(seen), max(seen)
    ramp = BARS if wording.can_show(BARS) else ".:-=+*%@"
    scale = (len(ramp) - 1) / (high - low) if high > low else 0.0
    return "".join(ramp[round((v - low) * scale)] for v in picked)


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Lines "  name      value", wrapped to the terminal's width."""
    width = max(60, min(110, shutil.get_terminal_size((99, 24)).columns))
    lines: list[str] = []
    for name, value in rows:
        lines += textwrap.wrap(
            wording.plain(" ".join(value.split())),
            width,
            initial_indent=f"  {name:<12}",
            subsequent_indent=" " * 14,
            break_on_hyphens=False,
            break_long_words=False,
        ) or [f"  {name}"]
    return "\n".join(lines)


def whole(text: str) -> int:
    """An argument that is a whole number from 0 on."""
    return least(0, text)


def epochs(text: str) -> int:
    """A number of passes."""
    return least(1, text)


def seed(text: str) -> int:
    """What every generator of random numbers takes."""
    return int(number(text, f"a whole number from 0 to {MOST_SEED}",
                      lambda v: text.strip().isdecimal() and v <= MOST_SEED))


def least(lowest: int, text: str, other: str = "") -> int:
    """An argument that is a whole number from `lowest` on; `other` says what else it
    may be."""
    with suppress(ValueError):
        if (value := int(text)) >= lowest:
            return value
    raise argparse.ArgumentTypeError(
        f"{other}a whole number from {lowest} on is needed, not {text!r}"
    )


def number(text: str, needed: str, fits: Callable[[float], bool]) -> float:
    """An argument that is a number which `fits`; `needed` says which do."""
    with suppress(ValueError, OverflowError):
        if fits(value := float(text)):
            return value
    raise argparse.ArgumentTypeError(f"{needed} is needed, not {text!r}")


def threads(text: str) -> int:
    """A number of CPU threads; far more than cores would end the process."""
    most = 4 * (os.cpu_count() or 1)
    return int(number(text, f"a whole number of threads from 1 to {most}",
                      lambda v: v == int(v) and 1 <= v <= most))


def rate(text: str) -> float:
    """A noise rate or another share."""
    return number(text, "a number from 0 to 1, such as 0.4,", lambda v: 0 <= v <= 1)


def jobs(text: str) -> int:
    """Runs at once; far more than cores would end the machine."""
    most = 4 * (os.cpu_count() or 1)
    return int(number(text, f"auto or a whole number from 1 to {most}",
                      lambda v: v == int(v) and 1 <= v <= most))


def seeds(text: str) -> int:
    """How many seeds each setting is run with."""
    return int(number(text, "a whole number from 1 to 100",
                      lambda v: v == int(v) and 1 <= v <= 100))


def live(stream: TextIO) -> bool:
    """Whether lines of the stream can be rewritten: a terminal that knows how."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def add_threads(p: argparse._ActionsContainer) -> None:
    """The option --threads, for `set_threads`."""
    p.add_argument(
        "--threads", type=threads, metavar="N", help=
        "CPU threads (default: $OMP_NUM_THREADS, else 1: another number rounds differently, "
        "and small networks are slower with it on a busy machine)",
    )
