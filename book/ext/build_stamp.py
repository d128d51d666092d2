"""Every page says from which commit, and of which day, it was built."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def git(root: Path, *arguments: str) -> str | None:
    """What git says, or None where there is no git, no checkout, or no commit."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit(root: Path) -> str:
    """"1a2b3c4d5e+ of 2026-11-30": the commit, + where files differ from it, and its own date, so
    that the same files give the same page on any day. "unknown" without git."""
    top = git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():  # a copy inside another checkout
        return "unknown"
    said, changed = git(root, "log", "-1", "--format=%H %cs"), git(root, "status", "--porcelain")
    if not said:
        return "unknown"
    number, day = said.split()
    return f"{number[:10]}{'' if changed == '' else '+'} of {day}"


def stamp(root: Path) -> str:
    return f"Built from commit {commit(root)}."


def on_config(app: Any, config: Any) -> None:
    config.build_stamp = stamp(Path(app.srcdir))


def on_page(app: Any, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    before = context.get("theme_extra_footer") or ""
    context["theme_extra_footer"] = f'{before}<p class="build-stamp">{app.config.build_stamp}</p>'


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("build_stamp", "", "html", [str])  # another one: all pages written anew
    app.connect("config-inited", on_config)
    app.connect("html-page-context", on_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
