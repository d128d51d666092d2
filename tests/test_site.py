"""The book's local Sphinx extensions, in small books with and without a public address."""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import subprocess
from types import SimpleNamespace

import pytest
from PIL import Image

import build_stamp
import links
import page_source
import pictures

ADDRESS = "https://github.com/group/book"
INDEX = """# Index

(here)=
## A label

Read {source}`lib/a.py`, {source}`notebooks` and {source}`table.csv`.

```{clone}
```

```{only} public
Known to all.
```

```{only} not public
Known to few.
```

```{figure} drawing.svg
:alt: Two boxes.
:width: 100%

A caption.
```
"""
DRAWING = '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="40"></svg>'


def run_of(*outputs):
    """A run of a notebook of which each cell gave one of the outputs."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Page", "id": "m"}]
    cells += [{"cell_type": "code", "source": "1", "metadata": {}, "execution_count": 1,
               "id": f"c{i}", "outputs": [{"output_type": "display_data", "metadata": {},
                                           "data": data}]} for i, data in enumerate(outputs)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4,
                       "nbformat_minor": 5})


def png(width=3, height=2):
    packed = io.BytesIO()
    Image.new("L", (width, height)).save(packed, "png")
    return base64.b64encode(packed.getvalue()).decode()


def build_book(root, address="", **outputs):
    """A book of two pages, built with the theme and our extensions; returns what was warned of."""
    application = pytest.importorskip("sphinx.application", reason="the extra `book` is missing")
    for path, text in {"index.md": INDEX, "lib/a.py": "x = 1\n", "table.csv": "a,b\n1,<2>\n",
                       "drawing.svg": DRAWING, "notebooks/page.ipynb": "{}",
                       "book/executed/page.ipynb": run_of(*outputs.get("cells", ()))}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "index.md").write_text(INDEX + "\n```{toctree}\nbook/executed/page\n```\n")
    warned = io.StringIO()
    namespace = importlib.import_module("sphinx.util.docutils").docutils_namespace
    with namespace():  # each build registers its nodes anew
        app = application.Sphinx(
            root, None, root / "html", root / "doctrees", "html", status=None, warning=warned,
            confoverrides={
                "extensions": ["myst_nb", "sphinx_book_theme", "build_stamp", "page_source",
                               "pictures"],
                "html_theme": "sphinx_book_theme", "nb_execution_mode": "off", "project": "Small",
                "html_sourcelink_suffix": "", "nb_render_markdown_format": "myst",
                "exclude_patterns": ["notebooks", "html", "doctrees"],
                "html_theme_options": {
                    "repository_url": address, "repository_branch": "main", "path_to_docs": "",
                    "launch_buttons": {"notebook_interface": "jupyterlab",
                                       "colab_url": "https://colab.research.google.com"}},
            })
        app.build(force_all=True)
    assert app.statuscode == 0
    return warned.getvalue()


def test_without_an_address_sources_are_copies_that_can_be_read_offline(tmp_path):
    warned = build_book(tmp_path, cells=[{"text/markdown": "See [there](here)."}])
    assert warned == ""
    book = tmp_path / "html"
    known = links.pages(book)
    assert links.dead(book, known) == []
    page = known[book / "book" / "executed" / "page.html"]
    assert "../../index.html#here" in page.links  # a label in what a cell printed
    assert "../../_sources/notebooks/page.ipynb" in page.links  # the download button
    assert {"_sources/lib/a.py.html", "_sources/notebooks.html", "_sources/table.csv.html"} <= set(
        known[book / "index.html"].links)
    markup = (book / "index.html").read_text()
    assert "Known to few." in markup and "Known to all." not in markup
    assert "clone" not in markup
    for path, found in known.items():
        assert [x for x in found.links if links.outside(x) and "github" in x] == [], path
        assert "colab" not in path.read_text()
    copied = (book / "_sources" / "lib" / "a.py.html").read_text()
    assert 'href="a.py"' in copied and "<h1>lib/a.py</h1>" in copied
    assert "Built from commit unknown." in copied
    assert (book / "_sources" / "lib" / "a.py").read_text() == "x = 1\n"
    assert "1,&lt;2&gt;" in (book / "_sources" / "table.csv.html").read_text()
    assert known[book / "_sources" / "notebooks.html"].links == ["notebooks/page.ipynb"]


def test_with_an_address_everything_leads_there(tmp_path):
    assert build_book(tmp_path, ADDRESS) == ""
    book = tmp_path / "html"
    known = links.pages(book)
    assert links.dead(book, known) == []
    index, page = (known[book / n].links for n in ("index.html", "book/executed/page.html"))
    named = ("lib/a.py", "notebooks", "table.csv")
    assert {f"{ADDRESS}/blob/main/{p}" for p in named} <= set(index)
    assert ADDRESS in index and any(x.startswith(f"{ADDRESS}/issues") for x in page)
    assert ("https://colab.research.google.com/github/group/book/blob/main/notebooks/page.ipynb"
            in page)
    markup = (book / "index.html").read_text()
    assert "Known to all." in markup and "Known to few." not in markup
    assert f"git clone --depth 1 {ADDRESS}\ncd book\n" in re.sub("<[^>]*>", "", markup)
    assert not list(book.glob("_sources/**/*.html"))


def test_a_label_or_a_file_that_does_not_exist_is_an_error_of_the_build(tmp_path):
    warned = build_book(tmp_path, cells=[
        {"text/markdown": "See [there](nowhere) and {source}`lib/b.py`."}])
    assert "'myst' cross-reference target not found: 'nowhere'" in warned
    assert "no such file: lib/b.py" in warned


def test_every_picture_of_a_page_has_a_size_and_words(tmp_path):
    good = f'<img alt="One dot." src="data:image/png;base64,{png(7, 5)}">'
    warned = build_book(tmp_path, cells=[
        {"text/html": good}, {"image/png": png()}, {"text/html": '<img alt="x" src="gone.png">'}])
    assert warned.count("a picture has no words that describe it") == 1  # the figure that leaked
    assert "a picture's size is not known: no file 'gone.png'" in warned
    known = links.pages(tmp_path / "html")
    (drawing,) = known[tmp_path / "html" / "index.html"].pictures
    assert (drawing["alt"], drawing["width"], drawing["height"]) == ("Two boxes.", "120", "40")
    dot, leaked, _ = known[tmp_path / "html" / "book" / "executed" / "page.html"].pictures
    assert (dot["width"], dot["height"]) == ("7", "5")
    assert (leaked["width"], leaked["height"]) == ("3", "2")


@pytest.mark.parametrize(("data", "size"), [
    (b'<svg width="3px" height="4.4"/>', (3, 4)), (b'<svg viewBox="0 0 30 20"/>', (30, 20)),
    (b'<svg width="100%" height="10" viewBox="0 0 6 7"/>', (6, 7)),
    (base64.b64decode(png(9, 8)), (9, 8)),
])
def test_a_picture_tells_its_size(data, size):
    assert pictures.size(data) == size


@pytest.mark.parametrize(("data", "message"), [
    (b'<svg width="100%"/>', "neither a width and height nor a viewBox"), (b"text", "cannot"),
])
def test_what_is_no_picture_has_no_size(data, message):
    with pytest.raises(ValueError, match=message):
        pictures.size(data)


def git(root, *arguments):
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def test_the_stamp_names_commit_day_and_whether_files_differ(tmp_path, monkeypatch):
    assert build_stamp.stamp(tmp_path) == "Built from commit unknown."
    git(tmp_path, "init", "-q")
    assert build_stamp.commit(tmp_path) == "unknown"  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2026-03-04T12:00:00+00:00")
    git(tmp_path, "commit", "-qm", "first")
    number = build_stamp.git(tmp_path, "rev-parse", "HEAD")
    assert build_stamp.commit(tmp_path) == f"{number[:10]} of 2026-03-04"
    (tmp_path / "a").write_text("2")
    assert build_stamp.commit(tmp_path) == f"{number[:10]}+ of 2026-03-04"
    (tmp_path / "inside").mkdir()  # files without git of their own, inside another's checkout
    assert build_stamp.commit(tmp_path / "inside") == "unknown"
    monkeypatch.setenv("PATH", "")
    assert build_stamp.git(tmp_path, "status") is None


def test_the_stamp_stands_at_the_foot_of_every_page(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    build_book(tmp_path)
    told = build_stamp.stamp(tmp_path)
    assert told.endswith(f"+ of {build_stamp.git(tmp_path, 'log', '-1', '--format=%cs')}.")
    for page in ("index", "book/executed/page", "search", "genindex"):
        assert told in (tmp_path / "html" / f"{page}.html").read_text()


def test_source_copies_are_left_out_of_a_failed_build(tmp_path):
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=tmp_path / "out",
                          srcdir=tmp_path)
    page_source.copy_sources(app, RuntimeError())
    assert not list(tmp_path.iterdir())


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a id="x" href="#y"></a><a href="b.html#z"></a><a href="c%20d.txt"></a>'
        '<img src="e.png"><a href="https://example.org/gone"></a><a href="../outside.txt"></a>')
    (tmp_path / "b.html").write_text('<a href="a.html#x" name="z">')
    (tmp_path / "c d.txt").write_text("")
    assert links.dead(tmp_path, links.pages(tmp_path)) == [
        "a.html: #y", "a.html: ../outside.txt", "a.html: e.png"]
