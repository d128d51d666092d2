"""Formulas without a network: one MathJax file goes into the book's own static folder.

The file comes from the package sphinx-mathjax-offline (extra `book`), of which only this one file
of 2 MB is used. Where it is not installed Sphinx links to its usual content network instead.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

BUNDLE = "tex-svg-full.js"  # every TeX extension and the glyphs in one file, nothing loaded later


def bundle() -> Path | None:
    """The installed single-file MathJax, or None."""
    try:
        found = files("sphinx-mathjax-offline") or []
    except PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in found if f.name == BUNDLE), None)


def use_bundle(app: Any, config: Any) -> None:
    if bundle() is not None:
        config.mathjax_path = f"mathjax/{BUNDLE}"


def copy_bundle(app: Any, error: Exception | None) -> None:
    source = bundle()
    if error is None and source is not None and app.builder.format == "html":
        target = Path(app.outdir, "_static", "mathjax", BUNDLE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def setup(app: Any) -> dict[str, bool]:
    app.connect("config-inited", use_bundle)
    app.connect("build-finished", copy_bundle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
