"""`noisylabels page`: run a page's notebook with other parameters, checked before it
starts (`evidence.page_checks`). The output gets its name only when the whole notebook
ran."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import paths, processes, wording
from ..evidence import page_checks
from ..wording import Failed, nearest, shown
from . import common

app = common.app()


@app.command(cls=common.Command, epilog=(
    "example:\n  noisylabels page memorisation -p seed 3 -o mine.ipynb"))
def main(
    name: Annotated[str | None, typer.Argument(
        metavar="NAME|PATH",
        help="a notebook of notebooks/ without .ipynb, or the path of one")] = None,
    parameters: Annotated[list[str] | None, typer.Option(
        "-p", metavar="KEY VALUE", help="set a parameter; may be given often")] = None,
    out: Annotated[str | None, typer.Option(
        "-o", metavar="OUT.ipynb",
        help="where the page goes (default: _build/pages, named by its parameters)",
    )] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="list the pages, and stop")] = False,
    help_parameters: Annotated[bool, typer.Option(
        "--help-parameters",
        help="list the page's parameters with types and defaults, and stop")] = False,
) -> int:
    """Run a page of the book with other parameters."""
    words = parameters or []
    pairs = list(zip(words[::2], words[1::2], strict=False))
    joined = [k for k in words[::2] if "=" in k] + words[len(words) // 2 * 2:]
    if joined:
        raise ValueError(
            f"-p takes two words, KEY VALUE: -p {joined[0].replace('=', ' ', 1)}.")
    if listed:
        if name is not None or pairs or out is not None:
            raise ValueError(
                "--list lists the pages and takes no page, -p or -o; a page's "
                "parameters are listed by `noisylabels page NAME --help-parameters`.")
        list_pages()
        return 0
    if name is None:
        raise ValueError("a page is needed: `noisylabels page NAME`; `noisylabels page "
                         "--list` lists them.")
    source = find(name)
    known = page_checks.parameters_of(source)
    if help_parameters:
        header = ("parameter", "type", "default", "what it is")
        rows = [(p.name, p.type, p.default, p.about) for p in known.values()]
        common.say(common.table(header, rows, header) if rows
                   else f"{source.name} has no parameters.")
        return 0
    values = page_checks.checked(pairs, known, source)
    page_checks.check_runs(values, known, source)
    target = Path(out) if out else default_output(source, values)
    if target.suffix != ".ipynb":
        raise ValueError(f"the output must be named *.ipynb, not {out!r}.")
    if target.exists() and target.samefile(source):
        raise ValueError(
            "the output must not be the notebook itself; name another file with -o.")
    check_output(target.absolute())
    return run(source, target.absolute(), values)


def check_output(out: Path) -> None:
    """Raise ValueError where a page would take the place of what this command has not
    made."""
    for folder in ("notebooks", "book/executed"):
        if out.resolve().is_relative_to((paths.home() / folder).resolve()):
            raise ValueError(
                f"the output must not lie in {folder}/; name another file with -o.")
    for there in (out, _failed(out)):
        if there.exists() and not _made_here(there):
            raise ValueError(
                f"{shown(there)} is there and no page of this command; name another "
                "file with -o.")


def _failed(out: Path) -> Path:
    """Where what ran of a page that failed is kept."""
    return out.with_name(f"{out.stem}.failed.ipynb")


def _made_here(path: Path) -> bool:
    try:
        return "papermill" in page_checks.read(path).get("metadata", {})
    except (OSError, ValueError):
        return False


def _notebooks() -> dict[str, Path]:
    return {p.stem: p for p in sorted((paths.home() / "notebooks").glob("*.ipynb"))}


def find(name: str) -> Path:
    """The notebook of that name or path."""
    known = _notebooks()
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return path.absolute()
    if path.suffix == ".ipynb" or path.name != name:
        raise ValueError(
            f"there is no notebook {name}{nearest(path.stem, known)}; pages are "
            "listed by `noisylabels page --list`.")
    return known[wording.choose("page", name, known)]


def list_pages() -> None:
    """Print every page with its title."""
    rows = [(name, _title(path)) for name, path in _notebooks().items()]
    header = ("page", "title")
    common.say(common.table(header, rows, header) if rows
               else f"no notebooks in {shown(paths.home() / 'notebooks')}")


def _title(path: Path) -> str:
    for cell in page_checks.read(path)["cells"]:
        source = page_checks.source_of(cell)
        if title := re.search(r"^# (.+)$", source, re.MULTILINE):
            return title[1] if cell["cell_type"] == "markdown" else ""
    return ""


def default_output(source: Path, values: Mapping[str, Any]) -> Path:
    """_build/pages/NAME-key-value.ipynb below the project's folder, which git
    ignores."""
    words = [source.stem, *(f"{k}-{v}" for k, v in sorted(values.items()))]
    name = re.sub(r"[^\w.+-]+", "_", "-".join(words))[:120]
    return paths.home() / "_build" / "pages" / f"{name}.ipynb"


# ------------------------------------------------------------------------------ running


def run(source: Path, out: Path, values: Mapping[str, Any]) -> int:
    """papermill in a process of its own, from the project's folder, one thread."""
    import yaml

    if find_spec("papermill") is None:
        raise Failed("papermill is not installed, and it runs the pages; `pip install "
                     "papermill`.")
    part, failed = out.with_name(f".{out.stem}.part.ipynb"), _failed(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise Failed(f"no page can be written to {shown(out.parent)}: "
                     f"{error.strerror}; name another place with -o.") from error
    command = [sys.executable, "-m", "papermill", _as_it_is(source), _as_it_is(part),
               "-k", "python3", "--log-level", "ERROR"]
    if values:
        command += ["-y", yaml.safe_dump(dict(values))]
    told = ", ".join(f"{k}={v!r}" for k, v in values.items()) or "its defaults"
    print(f"running {source.stem} with {told}", flush=True)
    begun = time.monotonic()
    try:
        code, said = _papermill(command)
    except KeyboardInterrupt:
        part.unlink(missing_ok=True)
        raise
    ran, kept = None, ""
    if part.is_file():
        try:
            ran = page_checks.read(part)
        except ValueError:
            kept = "; its output was cut off, so see whether the disk is full"
            part.unlink(missing_ok=True)
    problem = fault(ran) if ran else None
    if code or problem or ran is None:
        if ran is not None:
            part.replace(failed)
            kept = f"; what ran before it is in {shown(failed)}"
        last = (said or "no message").splitlines()[-1]
        raise Failed(f"{source.stem} failed {problem or f'({last})'}{kept}.")
    facts = ran["metadata"].setdefault("papermill", {})
    facts["output_path"] = os.fsencode(out).decode("utf-8", "replace")
    try:
        part.write_text(
            json.dumps(ran, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failed(
            f"{source.stem} ran, but {shown(out)} could not be written: "
            f"{error.strerror}; free the disk or name another place with -o."
        ) from error
    failed.unlink(missing_ok=True)
    spent = wording.duration(math.ceil(time.monotonic() - begun))
    print(f"done in {spent}: {shown(out)}")
    return 0


def _papermill(command: list[str]) -> tuple[int, str]:
    """Its exit code and what it said on standard error, unless a terminal shows it.

    When it is interrupted, its kernel is ended too.
    """
    live = common.live(sys.stderr)
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",  # pages hold more than ASCII, whatever the locale
        "NOISYLABELS_HOME": str(paths.home()),
        # whatever folder it is said from
        "NOISYLABELS_DATA": str(paths.datasets_dir()),
    }
    with processes.interrupted_by(*processes.endings()):
        process = subprocess.Popen(
            [*command, "--progress-bar" if live else "--no-progress-bar"],
            cwd=paths.home(), env=env, text=True, encoding="utf-8", errors="replace",
            stdout=subprocess.DEVNULL, stderr=None if live else subprocess.PIPE,
            # else papermill would print its traceback at Ctrl-C
            **processes.own_group())
        try:
            said = process.communicate()[1] or ""
        except KeyboardInterrupt:
            processes.end_group(process)  # its kernel notices and stops by itself
            try:
                process.wait(15)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                processes.end_group(process, kill=True)
            raise
    return process.returncode, said.strip()


def _as_it_is(path: Path) -> str:
    """For papermill, which puts parameters into braces of its two paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


def fault(notebook: Mapping[str, Any]) -> str | None:
    """The first error of a run, with the code cell in which it happened."""
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    for number, cell in enumerate(code, 1):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                said = " ".join(str(output["evalue"]).split()).rstrip(".")
                return (f"in code cell {number} of {len(code)} with {output['ename']}: "
                        f"{said}")
    return None
