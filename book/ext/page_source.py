"""Buttons and links that lead to the sources.

A page of book/executed is a run of notebooks/NAME.ipynb. Its buttons (Colab, Binder, download,
issue) must open that clean notebook, not the run. `` {source}`lib/noisylabels/noise/maps.py` ``
links to a file or folder of the project, and the directive `clone` shows how to fetch the project.

Where `repository.url` of _config.yml is set, they lead to that address. Where it is empty, the
sources lead to copies inside the book, which can be read offline, and the buttons and the clone
command that need an address are left out. Prose for one of the two cases stands in
`{only} public` or `{only} not public`.
"""

from __future__ import annotations

import html
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

import build_stamp

RUN, CLEAN = "book/executed/", "notebooks/"
COPIES = "_sources"  # the theme's download buttons look here as well
LINKED = "linked_sources"  # a page's metadata: the files that it links to
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{path}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 sans-serif; margin: 1.5rem; }}
h1 {{ font-size: 1.2rem; overflow-wrap: anywhere; }}
pre {{ font-size: 0.85rem; line-height: 1.45; padding: 0.8rem; overflow-x: auto; }}
{light}
@media (prefers-color-scheme: dark) {{ {dark} }}
</style></head><body><h1>{path}</h1>
{body}
<p>A copy, made when the book was. {stamp}</p></body></html>
"""


def address(config: Any) -> str:
    """The public address of the project, or "" where there is none yet."""
    return (config.html_theme_options.get("repository_url") or "").rstrip("/")


def use_address(app: Any, config: Any) -> None:
    """Buttons that lead to the address are shown where there is one."""
    options, known = config.html_theme_options, bool(address(config))
    options["use_repository_button"] = options["use_issues_button"] = known
    if known:
        app.tags.add("public")
    else:
        options["launch_buttons"] = {}


def point_to_source(buttons: list[dict[str, Any]]) -> None:
    """Replace the executed copy by the notebook it came from in every button's address."""
    for button in buttons:
        if "url" in button:
            button["url"] = button["url"].replace(RUN, CLEAN)
        point_to_source(button.get("buttons", []))


def on_page(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if pagename.startswith(RUN):
        point_to_source(context.get("header_buttons", []))


class Source(SphinxRole):
    """`` {source}`PATH` ``: a link to a file or folder of the project, PATH from its root."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path = self.text.strip("/")
        if not Path(self.env.srcdir, path).exists():
            message = self.inliner.reporter.error(f"no such file: {path}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]
        if url := address(self.config):
            branch = self.config.html_theme_options.get("repository_branch") or "main"
            target = f"{url}/blob/{branch}/{path}"
        else:
            self.env.metadata[self.env.docname].setdefault(LINKED, []).append(path)
            target = "../" * self.env.docname.count("/") + f"{COPIES}/{copy_of(path)}"
        literal = nodes.literal(self.text, self.text)
        return [nodes.reference(self.rawtext, "", literal, refuri=target)], []


class Clone(SphinxDirective):
    """The command that fetches the project; nothing where it has no public address."""

    def run(self) -> list[nodes.Node]:
        url = address(self.config)
        text = f"git clone --depth 1 {url}\ncd {url.rsplit('/', 1)[-1]}"
        return [nodes.literal_block(text, text, language="bash")] if url else []


def copy_of(path: str) -> str:
    """Where a file's readable copy lies; a notebook is opened by Jupyter, so it stays itself."""
    return path if path.endswith(".ipynb") else f"{path}.html"


def copy_sources(app: Any, error: Exception | None) -> None:
    """Lay the clean notebooks where the download buttons expect them, and readable copies of the
    files that pages link to."""
    if error is not None or app.builder.format != "html":
        return
    root, target = Path(app.srcdir), Path(app.outdir, COPIES)
    for notebook in (root / CLEAN).glob("*.ipynb"):
        lay(root, target, notebook.relative_to(root).as_posix())
    if not address(app.config):
        linked = {path for data in app.env.metadata.values() for path in data.get(LINKED, [])}
        for path in sorted(linked):
            lay(root, target, path)


def lay(root: Path, target: Path, path: str) -> None:
    """Copy a file, or each file of a folder, and write the page on which it can be read."""
    source, page = root / path, target / copy_of(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        inside = sorted(p.name for p in source.iterdir() if p.is_file() and p.name[0] != ".")
        for name in inside:
            lay(root, target, f"{path}/{name}")
        items = (f'<li><a href="{source.name}/{copy_of(name)}">{name}</a></li>' for name in inside)
        page.write_text(readable(path, f"<ul>{''.join(items)}</ul>", root))
        return
    shutil.copyfile(source, target / path)
    if page.suffix == ".html":
        note = f'<p><a href="{source.name}" download>Download the file itself</a></p>'
        page.write_text(readable(path, note + coloured(source), root))


def coloured(source: Path) -> str:
    """A text file as HTML, coloured by what its name says it is."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import TextLexer, get_lexer_for_filename
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_for_filename(source.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(source.read_text(encoding="utf-8"), lexer, HtmlFormatter())


def readable(path: str, body: str, root: Path) -> str:
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=f"github-{tone}-high-contrast").get_style_defs(".highlight")
                   for tone in ("light", "dark"))
    return PAGE.format(path=html.escape(path), body=body, light=light, dark=dark,
                       stamp=build_stamp.stamp(root))


def setup(app: Any) -> dict[str, bool]:
    app.add_role("source", Source())
    app.add_directive("clone", Clone)
    app.connect("config-inited", use_address)
    app.connect("html-page-context", on_page, priority=900)  # after the theme made its buttons
    app.connect("build-finished", copy_sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
