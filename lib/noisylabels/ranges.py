"""What a setting may be, declared once where the field is defined, and checked before
any work.

    @dataclass(frozen=True)
    class Settings(engine.Recipe):
        q: float = within("(0, 1]", 0.7)
        boot: str = one_of("soft", "hard")

`check(settings)` refuses the first field that lies outside, in one sentence. A subclass
may give a field another default; what it allows stays. Every number is finite and every
range has two ends: a value past them is a slip of the keyboard, and would end in an
error of its own much later.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_SEED = 2**32 - 1  # what numpy's generators take


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`; `open_low`, `open_high`: without that end."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    @classmethod
    def parse(cls, text: str) -> Interval:
        """"(0, 1]": a square bracket takes its end in, a round one leaves it out."""
        found = re.fullmatch(r"([\[(])\s*(\S+),\s*(\S+)\s*([\])])", text)
        if found is None:
            raise ValueError(f"no interval: {text!r}")
        return cls(float(found[2]), float(found[3]), found[1] == "(", found[4] == ")")

    def __contains__(self, value: Any) -> bool:
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        return (
            f"{'(' if self.open_low else '['}{_plain(self.low)}, {_plain(self.high)}"
            f"{')' if self.open_high else ']'}")


def _plain(number: float) -> str:
    return f"{number:,.0f}".replace(",", "") if number == int(number) else f"{number:g}"


def within(interval: str, default: Any) -> Any:
    """A field whose number, or each number of a tuple, lies in the interval.

    None passes where the field's type has it.
    """
    return dataclasses.field(default=default,
                             metadata={"allowed": Interval.parse(interval)})


def one_of(*allowed: str, default: str | None = None, later: bool = False) -> Any:
    """A field that takes one of these words, the first by default.

    `later`: it came when runs were recorded already, which were made with the default;
    see `resolved`.
    """
    return dataclasses.field(default=allowed[0] if default is None else default,
                             metadata={"allowed": allowed, "later": later})


def resolved(settings: Any) -> dict[str, Any]:
    """Every field by name, but for those that came later and have their default: so the
    runs that were recorded before keep their settings, and their keys."""
    return {f.name: v for f in dataclasses.fields(settings)
            if (v := getattr(settings, f.name)) != f.default
            or not f.metadata.get("later")}


def named(check: Callable[[str], object], default: str) -> Any:
    """A field that takes a name which `check` knows (it raises ValueError for
    another)."""
    return dataclasses.field(default=default, metadata={"allowed": check})


def allowed(cls: type, name: str) -> Any:
    """What the field of a dataclass allows: an `Interval`, words, or a function that
    knows names; None where nothing is declared, as for a truth value."""
    for base in cls.__mro__:
        own = vars(base).get("__dataclass_fields__", {}).get(name)
        if own is not None and "allowed" in own.metadata:
            return own.metadata["allowed"]
    return None


def check(settings: Any) -> None:
    """Refuse, with one ValueError, the first field of a dataclass that is not what it
    allows."""
    cls = type(settings)
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        value, kind, rule = getattr(settings, f.name), hints[f.name], allowed(
            cls, f.name)
        if type(None) in typing.get_args(kind):
            if value is None:
                continue
            kind = next(a for a in typing.get_args(kind) if a is not type(None))
        if kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{f.name} must be true or false, not {value!r}.")
        elif isinstance(rule, tuple):
            if value not in rule:
                raise ValueError(
                    f"unknown {f.name} {value!r}; allowed: {', '.join(rule)}.")
        elif isinstance(rule, Interval):
            many = typing.get_origin(kind) is tuple
            kind = typing.get_args(kind)[0] if many else kind
            for number in value if many else (value,):
                _check_number(f.name, number, kind is int, rule, many)
        elif rule is not None:
            rule(value)


def _check_number(name: str, value: Any, whole: bool, rule: Interval,
                  many: bool) -> None:
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(
            value, kind) or not math.isfinite(value) or (value not in rule):
        what = "a whole number" if whole else "a number"
        what = f"{what}s".removeprefix("a ") if many else what
        raise ValueError(f"{name} must be {what} in {rule}, not {shown(value)}.")


def shown(value: Any) -> str:
    """A value as a message shows it; a huge one stays short."""
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 40 else f"{text[:12]}... ({len(text)} characters)"
