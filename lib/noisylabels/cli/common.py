"""What the commands share: names, numbers in words, aligned tables. Imports nothing heavy."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from ..ranges import MOST_SEED

BARS = "▁▂▃▄▅▆▇█"


OUT_OF_MEMORY = (
    "the GPU has not enough free memory for this; take a smaller network or batch "
    "(--set batch_size=64), or --device cpu."
)


class Failed(RuntimeError):
    """The command could not do its work; the text says why and what to do. Exit code 1."""


def deliberate(error: BaseException) -> bool:
    """Whether our own code raised it: then its text is the whole message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return name.split(".")[0] == "noisylabels" or name == "__main__"


def nearest(name: str, allowed: Iterable[object]) -> str:
    """ " (nearest: 'x')" for the allowed name that is most like `name`, or nothing."""
    known = {str(a).lower(): str(a) for a in allowed}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f" (nearest: {known[close[0]]!r})" if close else ""


def choose(what: str, name: str, allowed: Iterable[str]) -> str:
    """`name` when it is allowed; else a ValueError with the nearest name that is."""
    names = list(allowed)
    if name not in names:
        raise ValueError(
            f"unknown {what} {name!r}{nearest(name, names)}; "
            f"allowed: {', '.join(names) or 'none here yet'}."
        )
    return name


def plain(text: str) -> str:
    """The text as a terminal may get it: control characters (escape codes, ...) written out.

    What comes out of a record, a bundle or an argument goes through here before it is printed.
    """
    fine = (c.isprintable() or c == "\xa0" for c in text)
    return "".join(c if good else c.encode("unicode_escape").decode("ascii")
                   for c, good in zip(text, fine, strict=True))


def percent(share: float) -> str:
    """A share in [0, 1] as "71.20 %"; NaN as a dash."""
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"


def spread(mean: float, std: float) -> str:
    """Two shares as "71.20 ± 0.31" in percent; without the spread when there is none."""
    if math.isnan(mean):
        return "–"
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def duration(seconds: float) -> str:
    """Seconds in the unit that one would say: "0.4 s", "12 s", "3.4 min", "2.1 h", "4.0 days"."""
    if math.isnan(seconds):
        return "–"
    for limit, unit, digits in ((10, 1, 1), (100, 1, 0), (5400, 60, 1), (172_800, 3600, 1)):
        if seconds < limit:
            name = {1: "s", 60: "min", 3600: "h"}[unit]
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def count(number: int, thing: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def size(num_bytes: float) -> str:
    """Bytes as "12.3 GB" or "4.0 MB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def shown(path: Path) -> str:
    """The path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], left: Iterable[str] = ()
) -> str:
    """Aligned columns; those named in `left` to the left, all others to the right."""
    cells = [[plain(str(c)) for c in row] for row in rows]
    widths = [max(len(c) for c in column) for column in zip(header, *cells, strict=True)]
    flush = [h in set(left) for h in header]

    def line(row: Sequence[str]) -> str:
        parts = (
            c.ljust(w) if f else c.rjust(w) for c, w, f in zip(row, widths, flush, strict=True)
        )
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, cells)])


def sparkline(values: Iterable[float], width: int = 60) -> str:
    """The course of `values` in at most `width` bars between their least and greatest."""
    seen = [v for v in values if not math.isnan(v)]
    if not seen:
        return ""
    step = max(1.0, len(seen) / width)
    picked = [seen[min(len(seen) - 1, int(i * step))] for i in range(math.ceil(len(seen) / step))]
    picked[-1] = seen[-1]
    low, high = min(seen), max(seen)
    ramp = BARS if can_show(BARS) else ".:-=+*%@"
    scale = (len(ramp) - 1) / (high - low) if high > low else 0.0
    return "".join(ramp[round((v - low) * scale)] for v in picked)


def can_show(text: str) -> bool:
    """Whether standard output can carry these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Lines "  name      value", wrapped to the terminal's width."""
    width = max(60, min(110, shutil.get_terminal_size((99, 24)).columns))
    lines: list[str] = []
    for name, value in rows:
        lines += textwrap.wrap(
            plain(" ".join(value.split())),
            width,
            initial_indent=f"  {name:<12}",
            subsequent_indent=" " * 14,
            break_on_hyphens=False,
            break_long_words=False,
        ) or [f"  {name}"]
    return "\n".join(lines)


def words_of(values: object) -> str:
    """An option's value as it would be typed: lists with commas, nothing as "none"."""
    if isinstance(values, (list, tuple)):
        return ",".join(map(str, values)) or "()"
    return (
        "none" if values is None else f"{values:g}" if isinstance(values, float) else str(values)
    )


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
    """An argument that is a whole number from `lowest` on; `other` says what else it may be."""
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


def absent(dataset: str, noise: str = "") -> str:
    """What is not here of a data set and of its human labels, with the command that brings it;
    "" where all is. Files are looked for, not read."""
    from .. import _cifar, datasets, paths

    if (source := _cifar.SOURCES.get(dataset)) is not None:
        folders = (source.binary_folder, source.python_folder)
        if not any((paths.datasets_dir() / f).is_dir() for f in folders):
            return f"{dataset} (`noisylabels doctor --download {dataset}`)"
    if noise.startswith("human-"):
        try:
            datasets.human_labels(dataset, noise.removeprefix("human-"))
        except FileNotFoundError:
            return f"human labels of {dataset} (see `noisylabels doctor`)"
    return ""


def live(stream: TextIO) -> bool:
    """Whether lines of the stream can be rewritten: a terminal that knows how."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def add_threads(p: argparse._ActionsContainer) -> None:
    """The option --threads, for `set_threads`."""
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="CPU threads (default: $OMP_NUM_THREADS, else 1: another number rounds differently, "
        "and small networks are slower with it on a busy machine)",
    )


def set_threads(wanted: int | None) -> None:
    """Let torch use that many CPU threads; without a wish what the environment says, or one."""
    import torch

    if wanted is not None:
        torch.set_num_threads(wanted)
    elif not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)
