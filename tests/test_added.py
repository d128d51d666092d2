"""What a user adds in one file, usable by its name at once: noise, a data set, a method."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from noisylabels import lab, methods, noise
from noisylabels.data import datasets, sets
from noisylabels.methods import cross_entropy
from noisylabels.noise import kinds, matrices
from noisylabels.training import runs, schema


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def forget(monkeypatch):
    """The registers as they were, after the test."""
    for table in (kinds._EVERY, kinds.KINDS, kinds.NEEDS, sets.ABOUT, sets.SIZES,
                  sets.HUMAN_LABELS, methods._MODULES):
        for key in ("next-digit", "two-on", "stripes", "own"):  # removed again when the test ends
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


def stripes(root):
    """Ten classes of 8x8 stripes: row or column of the class is bright."""
    x, y = torch.zeros(250, 1, 8, 8, dtype=torch.uint8), torch.arange(250) % 10
    for k in range(250):
        line = x[k, 0, int(y[k])] if y[k] < 8 else x[k, 0, :, int(y[k]) - 8]
        line.fill_(255 - k // 10)
    return datasets.Dataset("stripes", x[:200], y[:200], x[200:], y[200:],
                            tuple("0123456789"), (0.1,), (0.3,), pad=1, flip=False)


def test_a_data_set_of_ones_own_is_trained_recorded_and_loaded(home, forget):
    datasets.register(datasets.About("stripes", stripes, (20,) * 10, test=50, channels=1,
                                     pixels=8))
    assert "stripes" in datasets.NAMES and datasets.SIZES["stripes"] == (200, 50, 10, 1, 8)
    assert datasets.load("stripes").num_classes == 10 and datasets.absent("stripes") == ""
    assert {"symmetric", "drpl-uniform"} <= set(lab.noise_kinds("stripes"))
    assert not {"ood-uniform", "semantic", "human-worse"} & set(lab.noise_kinds("stripes"))
    with pytest.raises(ValueError, match="the smoke budget is made for the digits"):
        lab.setting("cross_entropy", "stripes")
    with pytest.raises(ValueError, match="'asymmetric' needs a class map"):
        lab.setting("cross_entropy", "stripes", "asymmetric", 0.2, "laptop", network="tiny")
    s = lab.setting("cross_entropy", "stripes", "symmetric", 0.2, "laptop", network="tiny",
                    epochs=2, batch_size=32, precision="float32")
    assert s.max_samples == 10_000 and lab.images(s).train == 180
    run = lab.run(s)
    (found,) = runs.find(dataset="stripes")
    assert found.setting == s and found.last() == run.last()
    assert found.info["samples"] == 180 and str(s.path).startswith("stripes/symmetric-0.20/")
    with pytest.raises(ValueError, match="stripes has no address: there is nothing to download"):
        datasets.download("stripes")


def test_a_taken_data_set_is_refused():
    with pytest.raises(ValueError, match="there is a dataset 'digits' already"):
        datasets.register(datasets.About("digits", stripes))


def test_the_schema_and_the_register_know_the_same_data_sets():
    assert tuple(datasets.NAMES) == schema.DATASETS


def test_a_method_of_ones_own_is_trained_recorded_and_loaded(home, forget):
    own = types.ModuleType("own")
    with pytest.raises(ValueError, match="method 'own' must define Settings"):
        methods.register("own", own)
    own.Settings, own.published = cross_entropy.Settings, cross_entropy.published
    own.train = cross_entropy.train
    methods.register("own", own)
    assert "own" in methods.NAMES and methods.get("own") is own
    asked = dict(rate=0.4, epochs=2, max_samples=200)
    run = lab.run(lab.setting("own", **asked))
    (found,) = runs.find(method="own")
    assert found.last() == run.last() == lab.watch(
        lab.setting("cross_entropy", **asked))[0].last()
    with pytest.raises(ValueError, match="there is a method 'mixup' already"):
        methods.register("mixup", own)


ADDED = {
    "noise/next_digit.py": """
import torch
from .kinds import Kind, register

@register
class NextDigit(Kind):
    name, says = "next-digit", "each label sent to the next digit"

    def make(self, samples, rate, seed, execution=None):
        return samples.labels(self, rate, (samples.y_true + 1) % 10, seed)
""",
    "data/dark.py": """
import torch
from .sets import About, Dataset, register

def read(root):
    x, y = torch.randint(255, (120, 1, 8, 8), dtype=torch.uint8), torch.arange(120) % 10
    return Dataset("dark", x[:100], y[:100], x[100:], y[100:], tuple("0123456789"), (0.5,), (0.3,))

register(About("dark", read, (10,) * 10, test=20, channels=1, pixels=8))
""",
    "methods/own.py": '''
"""Cross entropy under another name."""
from .cross_entropy import Settings, published, train
''',
}


def test_one_file_each_in_the_library_and_nothing_else(tmp_path):
    """A copy of the library with a file more for a noise, a data set and a method."""
    copy = tmp_path / "lib" / "noisylabels"
    shutil.copytree(Path(lab.__file__).parents[1], copy,
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in ADDED.items():
        (copy / name).write_text(text, encoding="utf-8")
    code = ("from noisylabels import lab\n"
            "s = lab.setting('own', 'dark', 'next-digit', 1.0, 'laptop', network='tiny', "
            "epochs=1, batch_size=32)\n"
            "print(lab.run(s).info['realised_rate'], lab.run(s).folder.parts[-4:-1])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "lib"),
                                             "NOISYLABELS_HOME": str(tmp_path)})
    assert done.stdout == "1.0 ('dark', 'next-digit-1.00', 'own')\n", done.stderr
