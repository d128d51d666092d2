"""What a user adds in one file: a kind of noise, usable by its name at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noisylabels import lab, noise
from noisylabels.noise import kinds, matrices
from noisylabels.training import runs


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def forget(monkeypatch):
    """The registers as they were, after the test."""
    for name in ("_EVERY", "KINDS", "NEEDS"):
        table = getattr(kinds, name)
        for key in ("next-digit", "two-on"):  # removed again when the test ends
            monkeypatch.setitem(table, key, None)
            monkeypatch.delitem(table, key)


class NextDigit(noise.Kind):
    """The example of the room's own words."""

    name, says = "next-digit", "each label sent to the next digit at probability r"

    def make(self, samples, rate, seed, execution=None):
        y = samples.y_true
        draw = torch.Generator().manual_seed(seed)
        hit = torch.rand(len(y), generator=draw) < rate
        return samples.labels(self, rate, torch.where(hit, (y + 1) % 10, y), seed)


def test_a_kind_of_ones_own_is_trained_recorded_and_loaded(home, forget):
    with pytest.raises(ValueError, match="unknown noise 'next-digit'"):
        lab.setting("cross_entropy", noise="next-digit")
    noise.register(NextDigit)
    assert "next-digit" in lab.noise_kinds("digits")
    s = lab.setting("cross_entropy", noise="next-digit", rate=0.3, epochs=2, max_samples=300)
    task, truth = lab.prepare(s)
    wrong = task.y_given != truth.y_true
    assert torch.equal(task.y_given[wrong], (truth.y_true[wrong] + 1) % 10)
    assert 0.2 < float(wrong.float().mean()) < 0.4 and torch.equal(wrong, truth.wrong)
    run = lab.run(s)
    assert str(s.path).startswith("digits/next-digit-0.30/cross_entropy/smoke-0-")
    (found,) = runs.find(noise="next-digit")
    assert found.setting == s and found.info["realised_rate"] == run.info["realised_rate"]
    assert found.info["realised_rate"] == pytest.approx(float(wrong.float().mean()), abs=1e-6)
    with pytest.raises(ValueError, match="unknown noise kind 'next-digit'"):
        noise.corrupt([0, 1, 2], "next-digit", 0.3, 10, 0)  # it asks for more than arrays


def test_a_matrix_of_ones_own_is_drawn_from_arrays_too(forget):
    noise.register(matrices.Flips(
        "two-on", "floor(rN) labels sent two classes on",
        rows=lambda kind, c, needs: np.roll(np.eye(c), 2, axis=1)))
    assert noise.KINDS["two-on"].startswith("floor(rN)")
    drawn = noise.corrupt(np.arange(10).repeat(10), "two-on", 0.3, 10, 0)
    assert int(drawn.wrong.sum()) == 30 and noise.expected_rate("two-on", 0.3, 10) == 0.3
    assert torch.equal(drawn.y_given[drawn.wrong], (drawn.y_true[drawn.wrong] + 2) % 10)
    _, truth = lab.prepare(lab.setting("cross_entropy", noise="two-on", rate=0.5,
                                       max_samples=100, val_fraction=0))
    assert int(truth.wrong.sum()) == 50


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="there is a noise kind 'symmetric' already"):
        noise.register(matrices.Flips("symmetric", "something else"))


def test_a_kind_refuses_what_it_cannot_draw_before_any_data_are_read():
    for kind, words in (("superclass", "needs superclasses"),):
        with pytest.raises(ValueError, match=words):
            lab.setting("cross_entropy", noise=kind)
    with pytest.raises(ValueError, match=r"takes rate 0 or None, not 0.4"):
        lab.setting("cross_entropy", noise="none", rate=0.4)
    with pytest.raises(ValueError, match=r"its rate must lie in \[0, 1\)"):
        lab.setting("cross_entropy", noise="semantic", rate=1.0)
