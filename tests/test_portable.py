"""The pages run as on other machines: ways, table, isolation of the record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import portable
from portable import Tried

ROOT = Path(__file__).resolve().parents[1]


def said(slack, margin=0.1):
    return {"sentence": f"S{slack}.", "holds": slack > 0, "safe": slack >= margin, "value": slack,
            "above": 0, "below": None, "margin": margin, "slack": slack}


def test_a_cell_tells_what_came_out():
    def cell(*statements, seconds=1.0, fault=None):
        return Tried("p", "w", seconds, fault, [said(s) for s in statements]).cell

    assert cell() == cell(0.1, 0.5) == "ok"
    assert cell(0.05, 0.5) == "1 near" and cell(-1, 0.05, -2) == "2 differ, 1 near"
    assert cell(fault="x") == "FAILED"
    assert cell(seconds=181) == "181 s" and cell(0.05, seconds=200) == "1 near, 200 s"


@pytest.mark.parametrize("capability, avx512, avx2", [
    ("AVX2", "own", "no-cifar"), ("AVX512", None, None), ("DEFAULT", "own", None)])
def test_a_way_that_takes_nothing_away_is_named_after_the_one_it_comes_to(capability, avx512,
                                                                          avx2):
    assert portable.same_here("avx512", capability) == avx512
    assert portable.same_here("avx2", capability) == avx2
    assert not any(portable.same_here(way, capability) for way in ("own", "sse", "threads"))


def test_the_table_has_pages_down_and_ways_across():
    tried = [Tried("a", "own", 1, None, []), Tried("bb", "own", 1, "x", []),
             Tried("a", "seed-1", 1, None, [said(-1)])]
    assert portable.table(tried).splitlines() == [
        "page  own     seed-1", "a     ok      1 differ", "bb    FAILED  -"]
    assert portable.details(tried).splitlines() == [
        "bb, own: FAILED x", "a, seed-1, differ: S-1 (here -1; it should be above 0)."]


def test_a_page_that_speaks_of_what_is_missing_is_named():
    page = {"cells": [
        {"cell_type": "markdown", "source": ["# Title\n", "All is well. CIFAR-10 is not on this ",
                                             "machine, alas. The end."]},
        {"cell_type": "code", "source": "print('without CIFAR')", "outputs": [
            {"output_type": "stream", "text": ["That number is left out here.\n"]},
            {"output_type": "display_data", "data": {
                "text/html": "<b>No CIFAR files</b> at hand; nothing is missing.",
                "image/png": "without CIFAR"}}]}]}
    found = portable.about_missing(page)
    assert found == ["CIFAR-10 is not on this machine, alas.", "That number is left out here."]
    told = Tried("p", "w", 1, None, [], found)
    assert told.cell == "2 misses"
    assert portable.details([told]).splitlines()[1] == f"p, w, misses: {found[1]}"


def test_no_notebook_asks_whether_data_are_there():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        code = "\n".join(c.source for c in cells if c.cell_type == "code")
        assert "FileNotFoundError" not in code and "datasets_dir" not in code, path.name
        assert not portable.MISSES.search("\n".join(c.source for c in cells)), path.name


def test_names_of_ways_and_pages():
    assert portable.chosen("", ["a", "b"], "way") == ["a", "b"]
    assert portable.chosen("b, a,", ["a", "b"], "way") == ["b", "a"]
    assert portable.chosen("b,b", ["a", "b"], "way") == ["b"]
    with pytest.raises(ValueError, match="unknown way 'c'; allowed: a, b."):
        portable.chosen("a,c", ["a", "b"], "way")


@pytest.mark.parametrize("words, said", [
    (["--ways", "avx3"], "unknown way 'avx3'; allowed: own, "),
    (["--pages", "mixn"], "unknown page 'mixn'; allowed: "),
    (["--jobs", "0"], "a whole number from 1 on is needed, not '0'"),
    (["--ways", "seed-1,seed-2", "--pages", "speed"],
     "seed-1, seed-2 set a parameter that speed has not; take another way or page."),
])
def test_what_cannot_be_run_is_refused_with_exit_code_2(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        portable.main(words)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_way_that_sets_a_parameter_runs_only_pages_that_have_it():
    assert portable.has_parameter(ROOT, "sanm", {"seed"})
    assert not portable.has_parameter(ROOT, "sanm", {"seed", "no_such"})
    assert portable.has_parameter(ROOT, "ledger", set())


PAGE = """
import os, torch
from noisylabels import paths
from noisylabels.training import networks
first = next(networks.build("tiny", 10, 1, seed=0).parameters())
(paths.home() / "data" / "runs").joinpath("trace").write_text("x")
print(os.environ["ONEDNN_MAX_CPU_ISA"] if "ONEDNN_MAX_CPU_ISA" in os.environ else "-")
print(repr(float(first.double().sum())), torch.get_num_threads(), paths.datasets_dir().exists())
"""


@pytest.fixture
def project(tmp_path):
    """A project of one page; the page leaves a trace among its recorded runs."""
    for folder in ("notebooks", "book", "data/runs", "data/cache"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "data" / "cache" / "big").write_text("not copied")
    (tmp_path / "_config.yml").touch()
    (tmp_path / "lib").symlink_to(ROOT / "lib")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(
        "seed: int = 0", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(PAGE)])
    nbformat.write(page, tmp_path / "notebooks" / "p.ipynb")
    return tmp_path


def test_every_way_has_a_home_of_its_own(project, tmp_path_factory):
    printed = {}
    for name in ("own", "avx2", "no-cifar", "nudge-1", "nudge-2"):
        home = tmp_path_factory.mktemp(name)
        env = portable.home_for(portable.WAYS[name], project, home)
        assert not (home / "data" / "cache").exists()
        tried = portable.attempt("p", name, home, env)
        assert tried.fault is None and tried.cell == "ok"
        cells = json.loads((home / "out" / "p.ipynb").read_text())["cells"]
        printed[name] = "".join(cells[-1]["outputs"][0]["text"]).split()
        assert (home / "data" / "runs" / "trace").exists()
    assert not (project / "data" / "runs" / "trace").exists()
    assert printed["avx2"][0] == "AVX2" and printed["own"][0] == os.environ.get(
        "ONEDNN_MAX_CPU_ISA", "-")
    plain = float(printed["own"][1])
    moved = {n: abs(float(printed[n][1]) - plain) for n in ("nudge-1", "nudge-2")}
    assert all(0 < m < 1e-3 for m in moved.values()) and len(set(moved.values())) == 2
    assert printed["avx2"][1] == printed["own"][1] and printed["no-cifar"][3] == "False"


def test_the_command_lists_its_ways():
    done = subprocess.run([sys.executable, str(ROOT / "book" / "portable.py"), "--help"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and all(name in done.stdout for name in portable.WAYS)
