"""Walk every link of a built book without a browser: pages, anchors and files."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

NOT_OURS = {"genindex.html", "search.html"}  # Sphinx's own; their links are made by scripts


class Page(HTMLParser):
    """The anchors of a page, those of its headings, what it links to, and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.sections: list[str] = []
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        told = dict(attrs)
        self.anchors |= {told[k] for k in ("id", "name") if told.get(k)}
        self.links += [told[k] for k in ("href", "src") if told.get(k)]
        if tag == "section" and told.get("id"):
            self.sections.append(told["id"])
        if tag == "img":
            self.pictures.append(told)

    handle_startendtag = handle_starttag


def pages(book: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(book.rglob("*.html"))
            if path.relative_to(book).parts[0] != "_static"}


def outside(link: str) -> bool:
    return bool(urlsplit(link).scheme or urlsplit(link).netloc)


def dead(book: Path, known: dict[Path, Page]) -> list[str]:
    """"PAGE: LINK" for every link inside the book that leads nowhere."""
    found = set()
    for path, page in known.items():
        for link in page.links:
            if outside(link):
                continue
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or not target.is_relative_to(book.resolve()) or (
                    anchor and target in known and anchor not in known[target].anchors):
                found.add(f"{path.relative_to(book)}: {link}")
    return sorted(found)
