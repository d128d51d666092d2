"""A sentence and its check: bounds, margins, arrays, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from noisylabels.evidence.statements import MIME, check, expect, in_words


@pytest.mark.parametrize("value, bounds, slack, holds, safe", [
    (0.5, dict(above=0.2), 0.3, True, True),
    (0.25, dict(above=0.2), 0.05, True, False),
    (0.2, dict(above=0.2), 0.0, False, False),  # a bound itself is outside
    (0.1, dict(above=0.2), -0.1, False, False),
    (0.1, dict(below=0.2), 0.1, True, True),
    (0.3, dict(below=0.2), -0.1, False, False),
    (0.45, dict(above=0.2, below=0.5), 0.05, True, False),
    (0.35, dict(above=0.2, below=0.5), 0.15, True, True),
    (-math.inf, dict(below=0.2), math.inf, True, True),
    (3, dict(above=2), 1, True, True),
])  # fmt: skip
def test_slack_is_how_far_inside_the_bounds_the_value_lies(value, bounds, slack, holds, safe):
    made = check("A sentence.", value, margin=0.0999, **bounds)
    assert made.slack == pytest.approx(slack) and (made.holds, made.safe) == (holds, safe)


@pytest.mark.parametrize("values", [[3.0, 1.5, 2.5], np.array([[3, 1.5]]),
                                    torch.tensor([3.0, 1.5], requires_grad=True)])
def test_of_many_values_the_worst_counts(values):
    made = check("All lie above one.", values, above=1, margin=0.25)
    assert made.value == 1.5 and made.slack == 0.5 and made.safe


def test_no_number_holds_nothing():
    for value in (math.nan, [5.0, math.nan]):
        made = check("It is above one.", value, above=1, margin=0.1)
        assert math.isnan(made.value) and not made.holds and not made.safe
        assert made.record()["value"] == "nan"
        assert in_words(made) == "It is above one (here nan; it should be above 1)."
    bounds = dict(above=-math.inf, below=2.0)  # text in the page's metadata
    assert in_words(check("It is less.", 3, **bounds, margin=0.5).record()) == (
        "It is less (here 3; it should be above -inf and below 2).")


@pytest.mark.parametrize("sentence, value, more, message", [
    (" ", 1, dict(above=0, margin=1), "needs its sentence"),
    ("A.", True, dict(above=0, margin=1), "has a margin, not True"),
    ("A.", [True, False], dict(above=0, margin=1), "has a margin"),
    ("A.", "1", dict(above=0, margin=1), "has a margin, not '1'"),
    ("A.", [], dict(above=0, margin=1), "no value at all"),
    ("A.", 1, dict(margin=1), "a bound, above= or below="),
    ("A.", 1, dict(above=0, margin=0), "positive and finite, not 0"),
    ("A.", 1, dict(above=0, margin=-1), "positive and finite"),
    ("A.", 1, dict(above=0, margin=math.nan), "positive and finite"),
    ("A.", 1, dict(above=0, below=1, margin=0.5), "between 0 and 1 nothing lies 0.5 from both"),
])  # fmt: skip
def test_refused(sentence, value, more, message):
    with pytest.raises(ValueError, match=message):
        check(sentence, value, **more)


def test_in_a_notebook_a_failure_is_seen_and_the_rest_is_not(monkeypatch):
    import IPython.core.getipython
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.core.getipython, "get_ipython", lambda: object())
    monkeypatch.setattr(IPython.display, "display", lambda x, raw: shown.append(x))
    assert expect("It is less.", 1, below=2, margin=0.5) is True
    assert expect("It is more.", 1, above=2, margin=0.5) is False
    assert [set(s) for s in shown] == [{MIME}, {MIME, "text/markdown"}]
    assert shown[1][MIME] == {"sentence": "It is more.", "holds": False, "safe": False,
                              "value": 1.0, "above": 2, "below": None, "margin": 0.5,
                              "slack": -1.0}
    assert shown[1]["text/markdown"].endswith("It is more (here 1; it should be above 2).")


def test_outside_a_notebook_only_the_outcome_is_returned(capsys):
    assert expect("It is less.", 1, below=2, margin=0.5) and capsys.readouterr().out == ""
