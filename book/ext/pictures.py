"""Every picture of a page says how large it is and what it shows.

Without its size a page moves while pictures are drawn, and a link to a heading lands screens away
from it. Figures of the library write both themselves; pictures of the prose get their size here.
One without words that describe it is a fault of the page, and the build says so.
"""

from __future__ import annotations

import base64
import io
import re
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
TAG = re.compile(r"<img\b[^>]*>")
FILE_NAME = re.compile(r"\S+\.(?:png|svg|jpe?g|gif|webp)", re.I)


def attribute(tag: str, name: str) -> str | None:
    found = re.search(rf'\s{name}="([^"]*)"', tag)
    return unescape(found[1]) if found else None


def size(data: bytes) -> tuple[int, int]:
    """Width and height of a picture in its own pixels. Raises ValueError for what is none."""
    if b"<svg" in data[:2000]:
        top = ElementTree.fromstring(data)
        told = [re.fullmatch(r"([\d.]+)(px)?", top.get(side, "")) for side in ("width", "height")]
        numbers = [t[1] for t in told if t] if all(told) else top.get("viewBox", "").split()[2:]
        if len(numbers) != 2:
            raise ValueError("the drawing has neither a width and height nor a viewBox")
        return round(float(numbers[0])), round(float(numbers[1]))
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data)).size
    except OSError as error:
        raise ValueError(str(error)) from error


def content(source: str, files: dict[str, Path]) -> bytes:
    """The bytes of a picture: written into the page itself, or one of `files` by its name."""
    if source.startswith("data:"):
        return base64.b64decode(source.partition("base64,")[2])
    name = source.rpartition("/")[2]
    if name not in files:
        raise ValueError(f"no file {source!r}")
    return files[name].read_bytes()


def with_size(tag: str, files: dict[str, Path]) -> str:
    """The tag with width and height. Raises ValueError where the picture is none."""
    if attribute(tag, "width") and attribute(tag, "height"):
        return tag
    width, height = size(content(attribute(tag, "src") or "", files))
    bare = re.sub(r'\s(width|height)="[^"]*"', "", tag)
    return re.sub(r"\s*/?>$", f' width="{width}" height="{height}">', bare)


def on_page(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Complete the pictures of a page's text; warn of those that say nothing."""
    if not doctree or "body" not in context:
        return
    # the book gets its picture files only after its pages are written
    files = {name: Path(app.srcdir, path) for path, name in app.builder.images.items()}

    def complete(found: re.Match[str]) -> str:
        tag = found[0]
        said = (attribute(tag, "alt") or "").strip()
        if not said or FILE_NAME.fullmatch(said):
            LOGGER.warning("a picture has no words that describe it (alt=%r)", said,
                           location=pagename)
        try:
            return with_size(tag, files)
        except (OSError, ValueError) as error:
            LOGGER.warning("a picture's size is not known: %s", error, location=pagename)
            return tag

    context["body"] = TAG.sub(complete, context["body"])


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", on_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
