"""Buttons and links that lead to the sources.

A page of book/executed is a run of notebooks/NAME.ipynb. Its buttons (Colab, Binder, download,
issue) must open that clean notebook, not the run. `` {source}`lib/noisylabels/noise.py` `` links
to a file of the repository named in _config.yml.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes

RUN, CLEAN = "book/executed/", "notebooks/"


def point_to_source(buttons: list[dict[str, Any]]) -> None:
    """Replace the executed copy by the notebook it came from in every button's address."""
    for button in buttons:
        if "url" in button:
            button["url"] = button["url"].replace(RUN, CLEAN)
        point_to_source(button.get("buttons", []))


def on_page(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if pagename.startswith(RUN):
        point_to_source(context.get("header_buttons", []))


def copy_notebooks(app: Any, error: Exception | None) -> None:
    """Lay the clean notebooks where the download buttons expect them."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir, "_sources", CLEAN)
        target.mkdir(parents=True, exist_ok=True)
        for notebook in Path(app.srcdir, CLEAN).glob("*.ipynb"):
            shutil.copyfile(notebook, target / notebook.name)


def source_role(name, rawtext, text, lineno, inliner, options=None, content=()):
    """`` {source}`PATH` ``: a link to PATH in the repository."""
    theme = inliner.document.settings.env.config.html_theme_options
    url = f"{theme['repository_url']}/blob/{theme['repository_branch']}/{text}"
    link = nodes.reference(rawtext, "", nodes.literal(text, text), refuri=url)
    return [link], []


def setup(app: Any) -> dict[str, bool]:
    app.add_role("source", source_role)
    app.connect("html-page-context", on_page, priority=900)  # after the theme made its buttons
    app.connect("build-finished", copy_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
