"""The project's shell: environment, contents, notebooks, book build, Makefile, citation."""

from __future__ import annotations

import ast
import json
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import address
import build
import noisylabels
import offline_math
import page_source

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# ------------------------------------------------------------------------------- environment.yml


@pytest.fixture(scope="module")
def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def test_environment_python_is_one_the_project_allows(environment):
    (python,) = [d for d in environment if str(d).startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])


def test_environment_names_only_python_and_pip(environment):
    names = {d.split("=")[0] for d in environment if isinstance(d, str)}
    assert names == {"python", "pip"}


def test_environment_pip_part_is_the_project_with_known_extras(environment):
    (pip,) = [d["pip"] for d in environment if isinstance(d, dict)]
    (entry,) = pip
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", entry)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


def test_every_dependency_has_an_upper_limit():
    named = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    open_ended = [n for n in named if not re.search(r"<|==", str(Requirement(n).specifier))]
    assert open_ended == []


# ------------------------------------------------------------------------- contents and notebooks


def test_every_page_of_the_contents_has_a_source():
    build.check_sources(ROOT)
    pages = build.toc_pages(ROOT)
    assert pages[0] == "index" and len(pages) == len(set(pages))


def test_prose_pages_are_all_in_the_contents():
    prose = {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    assert prose <= set(build.toc_pages(ROOT))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_clean_parameterised_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not c.outputs and c.execution_count is None for c in code)
    assert sum("parameters" in c.metadata.get("tags", []) for c in code) == 1
    # the hidden first cell fetches the project on Colab; it is the same in every notebook
    speed = nbformat.read(ROOT / "notebooks" / "speed.ipynb", as_version=4).cells
    assert "COLAB_RELEASE_TAG" in speed[1].source and code[0].source == speed[1].source
    assert code[0].metadata.tags == ["remove-cell"]
    lines = [c.source.count("\n") + 1 for c in code]
    assert max(lines) <= 40
    assert statistics.median(lines) <= 15
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


# ------------------------------------------------------------------------------------ book build


def notebook(*sources):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": [],
              "execution_count": None, "id": f"cell-{i}"} for i, source in enumerate(sources)]
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def book(tmp_path):
    """A project of two pages: one prose, one notebook."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "lib" / "noisylabels").mkdir(parents=True)
    (tmp_path / "lib" / "noisylabels" / "a.py").write_text("x = 1\n")
    chapters = [{"file": "book/executed/tiny"}]
    toc = {"format": "jb-book", "root": "index", "parts": [{"caption": "A", "chapters": chapters}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    (tmp_path / "index.md").write_text("# Index\n")
    write(tmp_path, notebook("import sys\nprint('out')\nprint('noise', file=sys.stderr)"))
    return tmp_path


def write(root, content):
    (root / "notebooks" / "tiny.ipynb").write_text(json.dumps(content))


def pretend_run(root):
    """Lay a run of the notebook beside its checksums, as run_notebook would."""
    run = root / "book" / "executed" / "tiny.ipynb"
    run.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads((root / "notebooks" / "tiny.ipynb").read_text())
    content["metadata"]["papermill"] = {"exception": None}
    run.write_text(json.dumps(content))
    made_from = build.inputs(root, "tiny", build.shared_inputs(root))
    run.with_suffix(".json").write_text(json.dumps(made_from))
    return run


def test_contents_are_read_in_order_at_any_depth(book):
    toc = {"root": "index", "parts": [{"chapters": [{"file": "a", "sections": [{"file": "b"}]}]},
                                      {"chapters": [{"file": "book/executed/c"}]}]}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert build.toc_pages(book) == ["index", "a", "b", "book/executed/c"]
    assert build.notebook_names(book) == ["c"]
    with pytest.raises(build.BookError, match=r"a\.md.*b\.md.*notebooks/c\.ipynb \(page book/ex"):
        build.check_sources(book)


def test_a_page_is_out_of_date_exactly_when_something_it_reads_changed(book, monkeypatch):
    monkeypatch.delenv("NOISYLABELS_DATA", raising=False)
    assert build.out_of_date(book) == ["tiny"]
    pretend_run(book)
    assert build.out_of_date(book) == []

    (book / "index.md").write_text("# Other prose\n")
    cache = book / "lib" / "noisylabels" / "__pycache__"
    cache.mkdir()
    (cache / "a.pyc").write_bytes(b"x")
    (book / "data" / "runs" / "digits").mkdir(parents=True)
    (book / "data" / "runs" / "digits" / "half.tmp").write_text("x")
    assert build.out_of_date(book) == []

    for change in ("lib/noisylabels/a.py", "lib/noisylabels/b.py", "notebooks/tiny.ipynb",
                   "data/runs/digits/run.json", "data/published/numbers.csv"):
        path = book / change
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "{}") + " ")
        assert build.out_of_date(book) == ["tiny"], change
        pretend_run(book)
        assert build.out_of_date(book) == [], change
    (book / "data" / "datasets" / "cifar-10-batches-py").mkdir(parents=True)
    assert build.out_of_date(book) == ["tiny"]
    pretend_run(book)
    (book / "book" / "executed" / "tiny.json").unlink()
    assert build.out_of_date(book) == ["tiny"]


def test_a_renamed_file_changes_the_checksum(book):
    before = build.digest(book, "lib/noisylabels")
    (book / "lib" / "noisylabels" / "a.py").rename(book / "lib" / "noisylabels" / "b.py")
    assert build.digest(book, "lib/noisylabels") != before


def test_a_notebook_is_run_once_and_its_stderr_dropped(book, capsys):
    build.run_notebooks(book, jobs=1)
    assert re.search(r"running 1 notebooks.*\n +tiny +\d+\.\d s\n", capsys.readouterr().out)
    run = json.loads((book / "book" / "executed" / "tiny.ipynb").read_text())
    assert [o["text"] for o in run["cells"][0]["outputs"]] == [["out\n"]]
    assert run["metadata"]["papermill"]["exception"] is None
    build.run_notebooks(book, jobs=1)
    assert capsys.readouterr().out == ""
    build.check_runs(book)


def test_a_failing_notebook_stops_the_book_and_shows_cell_and_error(book, capsys):
    write(book, notebook("fine = 1", "answer = fine / 0", "never = 1"))
    with pytest.raises(build.BookError) as error:
        build.run_notebooks(book, jobs=1)
    assert "notebooks/tiny.ipynb failed in the cell\n\nanswer = fine / 0" in str(error.value)
    assert "ZeroDivisionError: division by zero" in str(error.value)
    assert "FAILED" in capsys.readouterr().out
    assert not (book / "book" / "executed" / "tiny.ipynb").exists()
    assert build.out_of_date(book) == ["tiny"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_a_killed_build_leaves_nothing_that_writes_on(book):
    write(book, notebook("import os, pathlib, time\npathlib.Path('pid').write_text("
                         "str(os.getpid()))\ntime.sleep(60)"))
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'book')!r}); import build, pathlib; "
            f"build.run_notebooks(pathlib.Path({str(book)!r}), jobs=1)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    while not (book / "pid").exists() and time.monotonic() - begun < 60:
        time.sleep(0.1)
    time.sleep(0.2)
    kernel = Path("/proc", (book / "pid").read_text(encoding="utf-8"), "stat")

    def at_work() -> bool:
        try:
            return kernel.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    process.kill()
    process.wait()
    begun = time.monotonic()
    while at_work() and time.monotonic() - begun < 20:
        time.sleep(0.1)
    assert not at_work()
    assert not (book / "book" / "executed" / "tiny.ipynb").exists()


def test_a_build_under_the_c_locale_reads_and_writes_utf_8(book):
    write(book, notebook("print('gr\u00f6\u00dfer')"))
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    code = (f"import sys; sys.path.insert(0, {str(ROOT / 'book')!r}); import build, pathlib; "
            f"root = pathlib.Path({str(book)!r}); build.run_notebooks(root, jobs=1); "
            "build.check_runs(root)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env={
        **bare, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.returncode == 0, done.stderr[-500:]
    run = json.loads((book / "book" / "executed" / "tiny.ipynb").read_text(encoding="utf-8"))
    assert run["cells"][0]["outputs"][0]["text"] == ["gr\u00f6\u00dfer\n"]


def test_papermill_that_ends_badly_without_a_cell_error_is_reported(book):
    (book / "notebooks" / "tiny.ipynb").write_text("no notebook")
    with pytest.raises(build.BookError, match=r"papermill ended with 1\n(?s:.)*NotJSONError"):
        build.run_notebooks(book, jobs=1)


STATED = """
from noisylabels.evidence.statements import expect
kept = expect("Nine is more than two.", 9, above=2, margin=1)
lost = expect("Nine is less than two.", 9, below=2, margin=1)
print(kept, lost)
"""


@pytest.fixture
def stated(book):
    """A page of two sentences, one of which comes out differently."""
    lib = book / "lib" / "noisylabels"
    (lib / "__init__.py").touch()
    (lib / "evidence").mkdir()
    source = ROOT / "lib" / "noisylabels" / "evidence"
    for name in ("__init__.py", "statements.py"):
        (lib / "evidence" / name).write_text((source / name).read_text())
    page = notebook(STATED)
    page["cells"].insert(0, {"cell_type": "markdown", "source": "# A page", "metadata": {},
                             "id": "title"})
    write(book, page)
    return book


def test_a_sentence_that_came_out_differently_is_told_on_the_page_and_by_the_build(stated):
    build.run_notebooks(stated)
    ran = nbformat.read(stated / "book" / "executed" / "tiny.ipynb", as_version=4)
    title, note, code = ran["cells"]
    assert title["source"] == "# A page" and note["cell_type"] == "markdown"
    assert "Nine is less than two (here 9; it should be below 2)." in note["source"]
    assert "more than two" not in note["source"]
    assert [o["output_type"] for o in code["outputs"]] == ["stream"]  # no trace in the cell
    assert code["outputs"][0]["text"] == "True False\n"
    both = build.statements(ran)
    assert [(s["holds"], s["slack"], s["margin"]) for s in both] == [(True, 7, 1), (False, -7, 1)]
    ((page, told),) = build.check_runs(stated)
    assert page == "tiny" and told["sentence"] == "Nine is less than two."
    assert build.named([(page, told)]).splitlines() == [
        "1 sentence about live training came out differently on this machine:",
        "  tiny: Nine is less than two (here 9; it should be below 2)."]
    nbformat.validate(ran)


@pytest.mark.parametrize("strict, ends", [((), 0), (("--strict",), 1)])
def test_what_came_out_differently_is_an_error_only_where_one_asks(
        stated, monkeypatch, capsys, strict, ends):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(build, "ROOT", stated)
    built = []
    monkeypatch.setattr(build, "build_html", built.append)
    monkeypatch.setattr(build, "check_html", lambda root: 2)
    assert build.main(list(strict)) == ends
    shown = capsys.readouterr()
    assert ("tiny: Nine is less than two" in shown.out) == (ends == 0)
    assert ("no book: 1 sentence" in shown.err) == bool(built == []) == (ends == 1)
    monkeypatch.setenv("CI", "true")
    assert build.main([]) == 1


def test_a_second_build_waits_for_the_first(book, capsys):
    import threading

    with build.alone(book):
        second = threading.Thread(target=lambda: build.alone(book).__enter__())
        second.start()
        second.join(0.5)
        assert second.is_alive() and "waiting for it" in capsys.readouterr().out
    second.join(10)
    assert not second.is_alive()


@pytest.mark.parametrize("text", ["", '{"cells": [', "[]", "{}"])
def test_a_run_that_was_cut_short_is_named(book, text):
    pretend_run(book).write_text(text)
    with pytest.raises(build.BookError, match=r"tiny\.ipynb is missing or cut short; delete it"):
        build.check_runs(book)


def test_a_checkout_below_braces_runs_its_pages(tmp_path, book):
    braces = tmp_path / "a {1} b"
    braces.mkdir()
    for name in ("notebooks", "lib", "_toc.yml", "index.md"):
        (book / name).rename(braces / name)
    build.run_notebooks(braces)
    assert build.check_runs(braces) == []


def test_fault_sees_errors_exceptions_and_missing_records():
    whole = notebook("a = 1")
    assert "no papermill record" in build.fault(whole)
    whole["metadata"]["papermill"] = {"exception": None}
    assert build.fault(whole) is None
    assert "exception" in build.fault({**whole, "metadata": {"papermill": {"exception": True}}})
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'k'", "traceback": []}
    whole["cells"][0]["outputs"] = [error]
    assert build.fault(whole) == "in the cell\n\na = 1\n\nKeyError: 'k'"


def test_gate_refuses_a_bad_or_missing_run_and_removes_old_ones(book):
    with pytest.raises(build.BookError, match="tiny.ipynb is missing"):
        build.check_runs(book)
    run = pretend_run(book)
    old = run.with_name("gone.ipynb")
    old.write_text("{}")
    build.check_runs(book)
    assert run.exists() and not old.exists()
    bad = json.loads(run.read_text())
    bad["metadata"]["papermill"]["exception"] = True
    run.write_text(json.dumps(bad))
    with pytest.raises(build.BookError, match="papermill reports an exception"):
        build.check_runs(book)


def test_html_must_have_exactly_the_pages_of_the_contents(book):
    html = book / "_build" / "html"
    (html / "book" / "executed").mkdir(parents=True)
    (html / "_static").mkdir()
    for name in ("index", "search", "genindex", "_static/webpack"):
        (html / f"{name}.html").write_text("")
    with pytest.raises(build.BookError, match=r"missing: \['book/executed/tiny'\]"):
        build.check_html(book)
    (html / "book" / "executed" / "tiny.html").write_text("")
    assert build.check_html(book) == 2
    (html / "book" / "old.html").write_text("")
    with pytest.raises(build.BookError, match=r"too many: \['book/old'\]"):
        build.check_html(book)


def test_a_build_with_warnings_warns_again_and_a_changed_shell_starts_afresh(book, monkeypatch):
    codes = iter([1, 0, 0, 0])
    monkeypatch.setattr(build.subprocess, "run",
                        lambda *a, **k: SimpleNamespace(returncode=next(codes)))
    left = book / "_build" / ".doctrees" / "left"

    def kept():
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_text("")
        build.build_html(book)
        return left.exists()

    with pytest.raises(build.BookError, match="warnings above"):
        kept()
    assert kept() is False  # the failed build left nothing to trust
    assert kept() is True
    (book / "_toc.yml").write_text((book / "_toc.yml").read_text() + "# changed\n")
    assert kept() is False


def test_a_stamp_that_cannot_be_read_is_out_of_date(book):
    for content in (b"", b"{", b"\xff", b"[]"):
        pretend_run(book).with_suffix(".json").write_bytes(content)
        assert build.out_of_date(book) == ["tiny"]
    pretend_run(book)
    assert build.out_of_date(book) == []


def test_the_gate_leaves_hidden_files_and_folders(book):
    run = pretend_run(book)
    (run.parent / ".ipynb_checkpoints").mkdir()
    (run.parent / ".gitkeep").write_text("")
    (run.parent / "figures").mkdir()
    (run.parent / "gone.json").write_text("{}")
    build.check_runs(book)
    assert {p.name for p in run.parent.iterdir()} == {
        ".ipynb_checkpoints", ".gitkeep", "figures", "tiny.ipynb", "tiny.json"}


def test_pages_find_the_datasets_wherever_the_build_was_started(book, monkeypatch):
    (book / "elsewhere" / "images").mkdir(parents=True)
    monkeypatch.chdir(book)
    monkeypatch.setenv("HOME", str(book))
    seen = []
    monkeypatch.setattr(build.subprocess, "run", lambda *a, env, **k: seen.append(env) or (
        SimpleNamespace(returncode=1, stderr="")))
    for said in ("elsewhere", "~/elsewhere"):
        monkeypatch.setenv("NOISYLABELS_DATA", said)
        assert build.datasets_at_hand(book) == ["images"]
        build.run_notebook(book, "tiny", {})
    monkeypatch.delenv("NOISYLABELS_DATA")
    assert build.datasets_at_hand(book) == []
    build.run_notebook(book, "tiny", {})
    assert [env["NOISYLABELS_DATA"] for env in seen] == [
        *[str((book / "elsewhere").resolve())] * 2, str(book / "data" / "datasets")]


@pytest.mark.parametrize("jobs", ["0", "-1", "x", "1.5"])
def test_a_build_needs_a_job_at_least(capsys, jobs):
    with pytest.raises(SystemExit) as end:
        build.main([f"--jobs={jobs}"])
    said = capsys.readouterr().err
    assert end.value.code == 2 and f"a whole number from 1 on is needed, not '{jobs}'" in said


def test_main_reports_a_book_error_on_stderr(monkeypatch, capsys, book):
    monkeypatch.setattr(build, "ROOT", book)
    (book / "index.md").unlink()
    assert build.main([]) == 1
    assert "no book: _toc.yml lists pages whose source is missing: index.md (page index)" in (
        capsys.readouterr().err
    )


# ------------------------------------------------------------------------------ Sphinx extensions


def test_buttons_of_a_run_lead_to_its_clean_notebook():
    launch = "https://host/blob/main/book/executed/tiny.ipynb"
    buttons = [{"buttons": [{"url": launch}, {"javascript": "print()"}]},
               {"url": "../../_sources/book/executed/tiny.ipynb"}]
    page_source.on_page(None, "book/glossary", "", {"header_buttons": buttons}, None)
    assert buttons[0]["buttons"][0]["url"] == launch
    page_source.on_page(None, "book/executed/tiny", "", {"header_buttons": buttons}, None)
    assert buttons[0]["buttons"][0]["url"] == "https://host/blob/main/notebooks/tiny.ipynb"
    assert buttons[1]["url"] == "../../_sources/notebooks/tiny.ipynb"


def html_app(source, out):
    config = SimpleNamespace(html_theme_options={})
    return SimpleNamespace(srcdir=source, outdir=out, builder=SimpleNamespace(format="html"),
                           config=config, env=SimpleNamespace(metadata={}))


def test_clean_notebooks_lie_where_the_download_button_looks(book):
    page_source.copy_sources(html_app(book, book / "out"), None)
    copied = book / "out" / "_sources" / "notebooks" / "tiny.ipynb"
    assert copied.read_text() == (book / "notebooks" / "tiny.ipynb").read_text()
    page_source.copy_sources(html_app(book, book / "failed"), RuntimeError())
    assert not (book / "failed").exists()


def test_math_is_local_when_the_bundle_is_installed(tmp_path, monkeypatch):
    config = SimpleNamespace(mathjax_path="https://content.network/mathjax.js")
    monkeypatch.setattr(offline_math, "files", lambda name: None)
    offline_math.use_bundle(None, config)
    offline_math.copy_bundle(html_app(tmp_path, tmp_path), None)
    assert config.mathjax_path.startswith("https://") and not list(tmp_path.iterdir())

    (tmp_path / "tex.js").write_text("bundle")
    monkeypatch.setattr(offline_math, "bundle", lambda: tmp_path / "tex.js")
    offline_math.use_bundle(None, config)
    offline_math.copy_bundle(html_app(tmp_path, tmp_path), None)
    assert (tmp_path / "_static" / config.mathjax_path).read_text() == "bundle"


def test_the_book_extra_brings_the_bundle():
    pytest.importorskip("jupyter_book", reason="the extra `book` is not installed")
    assert offline_math.bundle().stat().st_size < 3_000_000


# ------------------------------------------------------------------------- rooms of the library

LIB = ROOT / "lib" / "noisylabels"
MODULES = sorted(LIB.rglob("*.py"))


def room(path):
    """The room a file belongs to: its folder, such as `methods`, or its name on the ground."""
    return path.relative_to(LIB).with_suffix("").parts[0]


def own_imports(path):
    """The rooms that a module imports, wherever in the file it does."""
    folder = path.parent.relative_to(LIB).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = folder[: len(folder) + 1 - node.level]
            for name in node.names:
                yield [*above, *(node.module or name.name).split(".")][0]


def test_rooms_import_only_the_rooms_on_lower_floors():
    rows = re.findall(r"^\| (\d) \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.M)
    floor = {name: int(n) for n, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert sorted(floor) == sorted({room(p) for p in MODULES} - {"__init__", "__main__"})
    arrows = {(room(p), to) for p in MODULES for to in own_imports(p)
              if not room(p).startswith("__")}
    assert len(arrows) > 30
    assert {(a, b) for a, b in arrows if a != b and floor.get(b, 0) >= floor[a] > 0} == set()
    assert {b for a, b in arrows if not floor[a]} - {n for n in floor if not floor[n]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(LIB).as_posix())
def test_a_room_imports_only_torch_and_numpy_when_it_is_loaded(path):
    loaded = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            loaded |= {n.name.split(".")[0] for n in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            loaded.add(node.module.split(".")[0])
    more = {"typer", "rich"} if room(path) in ("commands", "__main__") else set()
    assert loaded - set(sys.stdlib_module_names) <= {"torch", "numpy", "noisylabels", *more}


def test_the_truth_never_enters_a_method():
    methods = list((LIB / "methods").glob("*.py"))
    assert len(methods) > 1
    assert [p.name for p in methods if re.search(r"\by_(true|test)\b", p.read_text())] == []


# ----------------------------------------------------------------------- the project's files


def test_make_without_a_target_lists_all_targets():
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert sorted(re.findall(r"^  make (\w+) ", listed, re.M)) == sorted(declared)


def test_citation_agrees_with_the_package_and_the_book():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == noisylabels.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert citation.get("repository-code", "") == config["repository"]["url"]


def test_the_public_address_stands_in_one_place_and_its_copies_agree(tmp_path, capsys):
    assert {p.name for p, text in address.copies(ROOT).items() if p.read_text() != text} == set()

    for name in ("_config.yml", "CITATION.cff", "notebooks/speed.ipynb", "notebooks/sanm.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    before = {p: p.read_text() for p in address.copies(tmp_path)}

    def set_address(url):
        config = yaml.safe_load((ROOT / "_config.yml").read_text())
        config["repository"]["url"] = url
        (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
        return address.main(tmp_path)

    assert set_address("https://example.org/group/book") == 0
    assert "3 files changed; address: https://example.org/group/book" in capsys.readouterr().out
    citation = yaml.safe_load((tmp_path / "CITATION.cff").read_text())
    assert citation["repository-code"] == "https://example.org/group/book"
    cell = nbformat.read(tmp_path / "notebooks" / "sanm.ipynb", as_version=4).cells[1].source
    assert 'address = "https://example.org/group/book"  # of the public' in cell
    assert set_address("") == 0 and before == {p: p.read_text() for p in before}

    capsys.readouterr()
    assert set_address("github.com/group/book") == 1
    assert "must be empty or read https://HOST/OWNER/NAME, not 'github" in capsys.readouterr().err
    (tmp_path / "notebooks" / "sanm.ipynb").write_text("{}")
    assert set_address("") == 1
    assert "sanm.ipynb must have one line for the address, not 0" in capsys.readouterr().err


def test_files_named_in_the_readme_exist():
    named = re.findall(r"^\| (`[^|]*) \|", (ROOT / "README.md").read_text(), re.M)
    paths = [p for row in named for p in re.findall(r"`([^`$]+)`", row)]
    absent = [p for p in paths if not (ROOT / p).exists()]
    assert len(paths) >= 10
    assert set(absent) <= {"data/datasets/", "data/cache/", "data/runs/"}


def test_no_file_in_git_names_a_folder_of_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    machine = re.compile(r"(?<![\w.>])/(work|farm|root|home/\w+|Users/\w+)/")
    named = []
    for name in listed.split("\n"):
        path = ROOT / name
        if path.is_file() and path.suffix not in {".npz", ".png", ".webp"}:
            named += [name] if machine.search(path.read_text(errors="ignore")) else []
    assert named == []
