"""Sentences on a page that rest on training while the page is built.

Processors round differently, and a network that is trained on another one ends
elsewhere. A page therefore makes two kinds of statement. What does not depend on
training at build time (arithmetic, recorded runs, printed numbers) is checked with
`assert`, and a failure stops the build. What comes out of live training is written by
code from the outcome, or, where a fixed sentence is wanted, carries a check with a
margin:

    expect("Test accuracy falls after its best epoch.", test[best] - test[-1], above=0,
    margin=0.1)

A check that fails does not stop the build: the page says at its top which sentences
came out differently on this machine. `make book STRICT=1` makes it an error, and `make
portable` tells which values lie nearer to a bound than their margin on some machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MIME = "application/vnd.noisylabels.statement+json"
"""Type of the output by which a statement reaches the book's build; no reader sees
it."""


@dataclass(frozen=True)
class Statement:
    """One checked sentence; `slack` is how far inside its bounds the value lies, in its
    units (negative outside, NaN for a value that is no number)."""

    sentence: str
    value: float
    above: float | None
    below: float | None
    margin: float
    slack: float

    @property
    def holds(self) -> bool:
        """The sentence is true here: the value lies strictly inside its bounds."""
        return self.slack > 0

    @property
    def safe(self) -> bool:
        """The value lies inside its bounds by the margin or more."""
        return self.slack >= self.margin

    def record(self) -> dict[str, Any]:
        """The statement as JSON; numbers that are not finite become text."""
        plain = {k: v if v is None or math.isfinite(v) else str(v) for k, v in (
            ("value", self.value), ("above", self.above), ("below", self.below),
            ("margin", self.margin), ("slack", self.slack))}
        return {
            "sentence": self.sentence, "holds": self.holds, "safe": self.safe, **plain
        }


def check(sentence: str, value: Any, *, above: float | None = None,
          below: float | None = None, margin: float) -> Statement:
    """The statement that `value` lies above and below the bounds given, without showing
    it.

    Args:
        sentence: what the page says, or what its sentence rests on, as one sentence.
        value: a number, or an array of any shape: then every element must lie inside,
            and the one that lies least far inside is kept. A tensor will do.
        above, below: the bounds at which the sentence would turn false; at least one.
        margin: how far inside the bounds, in units of the value, it must lie on the
            machines that the page was tried on, so that rounding elsewhere leaves the
            sentence true.

    Raises ValueError for an empty sentence or value, for a truth value (which has no
    margin), without bounds, for bounds that leave no room for twice the margin, and for
    a margin that is not positive and finite.
    """
    if not sentence.strip():
        raise ValueError("a statement needs its sentence.")
    values = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if values.dtype == bool or not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"a statement needs a number that has a margin, not {value!r}: "
            f"{sentence!r}.")
    if not values.size:
        raise ValueError(f"a statement about no value at all: {sentence!r}.")
    if above is None and below is None:
        raise ValueError(f"a statement needs a bound, above= or below=: {sentence!r}.")
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(
            f"margin must be positive and finite, not {margin!r}: {sentence!r}.")
    low = -math.inf if above is None else above
    high = math.inf if below is None else below
    if not high - low > 2 * margin:
        raise ValueError(
            f"between {low:g} and {high:g} nothing lies {margin:g} from both bounds: "
            f"{sentence!r}.")
    values = values.astype(float).ravel()
    inside = np.full(values.shape, np.inf) if above is None else values - low
    if below is not None:
        inside = np.minimum(inside, high - values)
    inside = np.where(np.isnan(values), np.nan, inside)
    least = int(
        np.isnan(inside).argmax() if np.isnan(inside).any() else inside.argmin())
    return Statement(sentence, float(values[least]), above, below, float(margin),
                     float(inside[least]))


def expect(sentence: str, value: Any, *, above: float | None = None,
           below: float | None = None, margin: float) -> bool:
    """Check a sentence that rests on live training; see `check` for arguments and
    errors.

    In a notebook the outcome goes to the book's build, and a reader who runs the
    notebook alone sees a line where the sentence came out differently. Returns whether
    it holds.
    """
    made = check(sentence, value, above=above, below=below, margin=margin)
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:  # a bare Python
        return made.holds
    if get_ipython() is not None:
        bundle: dict[str, Any] = {MIME: made.record()}
        if not made.holds:
            bundle["text/markdown"] = (
                f"**Came out differently on this machine:** {in_words(made)}")
        display(bundle, raw=True)
    return made.holds


def in_words(s: Statement | dict[str, Any]) -> str:
    """The sentence, the value that it rests on, and where that should lie."""
    r = s.record() if isinstance(s, Statement) else s
    due = [
        f"{word} {float(r[word]):g}" for word in ("above", "below")
        if r[word] is not None
    ]
    value = r["value"] if isinstance(r["value"], str) else f"{r['value']:.4g}"
    wanted = " and ".join(due)
    return f"{r['sentence'].rstrip('.')} (here {value}; it should be {wanted})."
