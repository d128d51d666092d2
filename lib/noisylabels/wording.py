"""What many rooms say alike: names, numbers and tables as text. Imports nothing
heavy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

OUT_OF_MEMORY = (
    "the GPU has not enough free memory for this; take a smaller network or batch "
    "(--set batch_size=64), or --device cpu."
)


class Failed(RuntimeError):
    """The command could not do its work; the text says why and what to do. Exit code
    1."""


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
    """The text as a terminal may get it: control characters (escape codes, ...) written
    out.

    What comes out of a record, a bundle or an argument goes through here before it is
    printed.
    """
    fine = (c.isprintable() or c == "\xa0" for c in text)
    return "".join(c if good else c.encode("unicode_escape").decode("ascii")
                   for c, good in zip(text, fine, strict=True))


def percent(share: float) -> str:
    """A share in [0, 1] as "71.20 %"; NaN as a dash."""
    return "–" if math.isnan(share) else f"{100 * share:.2f} %"


def spread(mean: float, std: float) -> str:
    """Two shares as "71.20 ± 0.31" in percent; without the spread when there is
    none."""
    if math.isnan(mean):
        return "–"
    return f"{100 * mean:.2f}" + ("" if math.isnan(std) else f" ± {100 * std:.2f}")


def duration(seconds: float) -> str:
    """Seconds in the unit that one would say: "0.4 s", "12 s", "3.4 min", "2.1 h", "4.0
    days"."""
    if math.isnan(seconds):
        return "–"
    for limit, unit, digits in ((10, 1, 1), (100, 1, 0), (5400, 60, 1), (172_800, 3600,
                                                                         1)):
        if seconds < limit:
            name = {1: "s", 60: "min", 3600: "h"}[unit]
            return f"{seconds / unit:.{digits}f} {name}"
    return f"{seconds / 86_400:.1f} days"


def count(number: int, thing: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def size(num_bytes: float) -> str:
    """Bytes as "12.3 GB" or "4.0 MB"."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"


def shown(path: Path) -> str:
    """The path relative to the current folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def words_of(values: object) -> str:
    """An option's value as it would be typed: lists with commas, nothing as "none"."""
    if isinstance(values, (list, tuple)):
        return ",".join(map(str, values)) or "()"
    return ("none" if values is None else
            f"{values:g}" if isinstance(values, float) else str(values))


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], left: Iterable[str] = ()
) -> str:
    """Aligned columns; those named in `left` to the left, all others to the right."""
    cells = [[plain(str(c)) for c in row] for row in rows]
    widths = [
        max(len(c) for c in column) for column in zip(header, *cells, strict=True)
    ]
    flush = [h in set(left) for h in header]

    def line(row: Sequence[str]) -> str:
        parts = (c.ljust(w) if f else c.rjust(w)
                 for c, w, f in zip(row, widths, flush, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join(
        [line(header), "  ".join("-" * w for w in widths), *map(line, cells)])
