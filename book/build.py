"""Make the book: run the notebooks that are out of date, check them, build the HTML, count it.

    python book/build.py [--jobs 2] [--strict]

A page `book/executed/NAME` of _toc.yml is a papermill run of `notebooks/NAME.ipynb`. Beside each
run lies NAME.json with checksums of all that went into it; a page is run again only when one of
them changed. A run reaches book/executed only as a whole, after papermill ended without an error.

A page's `assert` that fails stops the build. A sentence that rests on live training
(noisylabels.evidence.statements) and came out differently on this machine does not: the page says
so at its top and the build lists it at its end. With --strict, and where $CI is set, it is an
error.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lib"))

from noisylabels.evidence.statements import MIME as STATEMENT  # noqa: E402
from noisylabels.evidence.statements import in_words  # noqa: E402

EXECUTED = "book/executed/"
SHELL = ("_config.yml", "_toc.yml", "book/references.bib", "book/ext", "book/_static")
GENERATED = {"genindex", "search", "py-modindex", "prf-prf"}  # pages that Sphinx adds itself
CELL_SECONDS = 600  # a cell that takes longer hangs


class BookError(Exception):
    """Something that must be mended before there is a book; its text says what."""


def toc_pages(root: Path) -> list[str]:
    """Every page of _toc.yml in order, as a path without suffix."""

    def walk(node: Any) -> Iterable[str]:
        if isinstance(node, list):
            for item in node:
                yield from walk(item)
        elif isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                yield from walk(value)

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))))


def notebook_names(root: Path) -> list[str]:
    """The pages of _toc.yml that are runs of notebooks."""
    return [p.removeprefix(EXECUTED) for p in toc_pages(root) if p.startswith(EXECUTED)]


def source(root: Path, page: str) -> Path:
    """The file that a page of _toc.yml is written in."""
    if page.startswith(EXECUTED):
        return root / "notebooks" / f"{page.removeprefix(EXECUTED)}.ipynb"
    return root / f"{page}.md"


def check_sources(root: Path) -> None:
    missing = [p for p in toc_pages(root) if not source(root, p).is_file()]
    if missing:
        named = ", ".join(f"{source(root, p).relative_to(root)} (page {p})" for p in missing)
        raise BookError(f"_toc.yml lists pages whose source is missing: {named}")


def digest(root: Path, *names: str) -> str:
    """Checksum of files and of whole folders (names and contents; caches and hidden files not)."""
    total = hashlib.sha256()
    for name in names:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(root).parts
            hidden = any(p.startswith(".") or p == "__pycache__" for p in parts)
            if path.is_file() and not hidden and path.suffix not in {".tmp", ".pyc"}:
                total.update("/".join(parts).encode() + b"\0")
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def datasets_dir(root: Path) -> Path:
    """Where the datasets lie, wherever one asks from."""
    given = os.environ.get("NOISYLABELS_DATA")
    return Path(given).expanduser().resolve() if given else root / "data" / "datasets"


def datasets_at_hand(root: Path) -> list[str]:
    """Names of the datasets' folders: a page may show more once real images are there."""
    folder = datasets_dir(root)
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def shared_inputs(root: Path) -> dict[str, Any]:
    """What every page may read, as checksums."""
    read = ("lib/noisylabels", "data/runs", "data/published", "data/bench", "data/noise",
            "data/photographs")
    sums = {n: digest(root, n) for n in read}
    return {**sums, "datasets": datasets_at_hand(root)}


def inputs(root: Path, name: str, shared: dict[str, Any]) -> dict[str, Any]:
    return {"notebook": digest(root, f"notebooks/{name}.ipynb"), **shared}


def out_of_date(root: Path) -> list[str]:
    """The notebooks that have no run, or whose run was made from other inputs."""
    shared = shared_inputs(root)
    stale = []
    for name in notebook_names(root):
        run, stamp = (root / EXECUTED / f"{name}{suffix}" for suffix in (".ipynb", ".json"))
        if not run.is_file() or made_from(stamp) != inputs(root, name, shared):
            stale.append(name)
    return stale


def made_from(stamp: Path) -> Any:
    """The inputs that a run was made from; None where the file does not say."""
    try:
        return json.loads(stamp.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def read_notebook(path: Path) -> dict[str, Any] | None:
    """The notebook in a file; None where there is none or it was cut short."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "cells" in found else None


def strip_stderr(notebook: dict[str, Any]) -> None:
    """Drop what went to stderr (progress bars, warnings): it is no part of a page."""
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if o.get("name") != "stderr"]


def take_statements(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Move the statements of `statements.expect` out of the cells' outputs into the notebook's
    metadata; those that came out differently are named at the top of the page."""
    found = []
    for cell in notebook["cells"]:
        if "outputs" in cell:
            made = [o for o in cell["outputs"] if STATEMENT in o.get("data", {})]
            found += [o["data"][STATEMENT] for o in made]
            cell["outputs"] = [o for o in cell["outputs"] if o not in made]
    notebook["metadata"]["noisylabels"] = {"statements": found}
    if differ := [s for s in found if not s["holds"]]:
        lines = "\n".join(f"- {in_words(s)}" for s in differ)
        note = (":::{warning}\nThis copy of the book was made on a machine on which "
                f"{'a sentence' if len(differ) == 1 else 'some sentences'} of this page came out "
                f"differently:\n\n{lines}\n:::\n")
        notebook["cells"].insert(1, {"cell_type": "markdown", "id": "came-out-differently",
                                     "metadata": {}, "source": note})
    return found


def statements(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The statements of a run that `take_statements` went over."""
    return notebook["metadata"].get("noisylabels", {}).get("statements", [])


def fault(notebook: dict[str, Any]) -> str | None:
    """What went wrong in a run, with the cell in which it did; None for a whole run."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.get("traceback", [])))
                error = trace or f"{output['ename']}: {output['evalue']}"
                return "in the cell\n\n" + "".join(cell["source"]) + "\n\n" + error
    ran = notebook["metadata"].get("papermill")
    if ran is None:
        return "no papermill record: it was not run by papermill"
    return "papermill reports an exception" if ran.get("exception") else None


PAPERMILL = """
import os, runpy, sys
parent = int(sys.argv.pop(1))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)  # SIGKILL when the build dies, however it dies: PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
runpy.run_module("papermill", run_name="__main__", alter_sys=True)
"""
"""papermill in a process that does not outlive the build (on Linux); its kernel follows it."""


def execute(root: Path, name: str, out: str, env: dict[str, str],
            parameters: dict[str, Any] | None = None) -> tuple[dict[str, Any] | None, str | None]:
    """Run a notebook with papermill; the run, its statements taken, and its fault if any.

    `out`, below `root` and relative to it, gets what papermill writes. (papermill formats the
    paths it is given: relative ones without braces stay as they are.)
    """
    path = root / out
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    command = [sys.executable, "-c", PAPERMILL, str(os.getpid()), f"notebooks/{name}.ipynb", out]
    command += ["-k", "python3", "--no-progress-bar", "--execution-timeout", str(CELL_SECONDS)]
    if parameters:
        command += ["-y", json.dumps(parameters)]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONUTF8": "1", **env},
                          capture_output=True, encoding="utf-8", errors="replace")
    ran = read_notebook(path)
    problem = fault(ran) if ran else None
    if (done.returncode or ran is None) and not problem:
        problem = f"papermill ended with {done.returncode}\n{done.stderr[-2000:]}"
    if ran:
        strip_stderr(ran)
        take_statements(ran)
    return ran, problem


def run_notebook(root: Path, name: str, shared: dict[str, Any]) -> str | None:
    """Run one notebook into book/executed and print a line about it; returns the fault if any."""
    begun, read = time.time(), inputs(root, name, shared)
    whole = root / EXECUTED / f"{name}.ipynb"
    part = f"_build/running/{name}-{os.getpid()}.ipynb"
    ran, problem = execute(root, name, part, {
        "OMP_NUM_THREADS": "1", "NOISYLABELS_HOME": str(root),
        "NOISYLABELS_DATA": str(datasets_dir(root))})
    if problem or ran is None:
        print(f"  {name:24} FAILED after {time.time() - begun:.1f} s", flush=True)
        return f"notebooks/{name}.ipynb failed {problem}"
    (root / part).write_text(json.dumps(ran, indent=1, ensure_ascii=False) + "\n", "utf-8")
    whole.parent.mkdir(parents=True, exist_ok=True)
    (root / part).replace(whole)
    whole.with_suffix(".json").write_text(json.dumps(read, indent=1) + "\n", "utf-8")
    print(f"  {name:24} {time.time() - begun:6.1f} s", flush=True)
    return None


def run_notebooks(root: Path, jobs: int = 2) -> None:
    """Bring every run up to date.

    A page may record a run that data/runs did not hold yet; the others are then read again, which
    is quick, so that in the end all pages have seen the same runs.
    """
    for _ in range(3):
        if not (stale := out_of_date(root)):
            break
        print(f"running {len(stale)} notebooks, {jobs} at a time", flush=True)
        shared = shared_inputs(root)
        with ThreadPoolExecutor(jobs) as pool:
            problems = pool.map(lambda name: run_notebook(root, name, shared), stale)  # noqa: B023
        if failed := [p for p in problems if p]:
            raise BookError("\n\n".join(failed))


def check_runs(root: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every notebook page is a whole run; runs of pages that left the book are removed, but no
    folders and no hidden files. Returns what came out differently: the page and the statement."""
    names = notebook_names(root)
    for old in (root / EXECUTED).glob("[!.]*"):
        if old.stem not in names and not old.is_dir():
            old.unlink()
    differ = []
    for name in names:
        ran = read_notebook(root / EXECUTED / f"{name}.ipynb")
        if ran is None:
            raise BookError(f"{EXECUTED}{name}.ipynb is missing or cut short; delete it and build "
                            "again")
        if problem := fault(ran):
            raise BookError(f"{EXECUTED}{name}.ipynb: {problem}")
        differ += [(name, s) for s in statements(ran) if not s["holds"]]
    return differ


def check_html(root: Path) -> int:
    """The HTML has exactly the pages of _toc.yml; returns how many."""
    html, pages = root / "_build" / "html", set(toc_pages(root))
    made = {
        path.relative_to(html).with_suffix("").as_posix()
        for path in html.rglob("*.html")
        if not path.relative_to(html).parts[0].startswith("_")
    } - GENERATED
    if made != pages:
        raise BookError(
            f"the book has {len(made)} pages, _toc.yml has {len(pages)}; "
            f"missing: {sorted(pages - made)}; too many: {sorted(made - pages)}"
        )
    return len(made)


def build_html(root: Path) -> None:
    """Jupyter Book with warnings as errors. Starts afresh when the shell of the book changed."""
    built = root / "_build"
    stamp, now = built / "shell", digest(root, *SHELL)
    if not stamp.is_file() or stamp.read_text("utf-8") != now:
        for folder in ("html", ".doctrees", "jupyter_execute"):
            shutil.rmtree(built / folder, ignore_errors=True)
    stamp.unlink(missing_ok=True)  # a build with warnings must warn again next time
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", ".", "-W", "-n", "--keep-going", "-q"]
    if subprocess.run(command, cwd=root).returncode:
        raise BookError("Jupyter Book reported the errors or warnings above")
    stamp.write_text(now, "utf-8")


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One build of a checkout at a time; a second one waits, and says so."""
    from filelock import FileLock, Timeout

    (root / "_build").mkdir(exist_ok=True)
    lock = FileLock(root / "_build" / "build.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another build of this checkout is under way; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def named(differ: list[tuple[str, dict[str, Any]]]) -> str:
    """The sentences that came out differently, a line each, for a terminal."""
    head = "1 sentence" if len(differ) == 1 else f"{len(differ)} sentences"
    return "\n".join([f"{head} about live training came out differently on this machine:",
                      *(f"  {page}: {in_words(s)}" for page, s in differ)])


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 on is needed, not {text!r}")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=at_least_one, default=2, help="notebooks run at a time")
    parser.add_argument("--strict", action="store_true", default=bool(os.environ.get("CI")),
                        help="a sentence that came out differently is an error (as where $CI is "
                        "set)")
    args = parser.parse_args(argv)
    begun = time.time()
    try:
        with alone(ROOT):
            check_sources(ROOT)
            run_notebooks(ROOT, args.jobs)
            if (differ := check_runs(ROOT)) and args.strict:
                raise BookError(named(differ))
            build_html(ROOT)
            pages = check_html(ROOT)
    except BookError as error:
        print(f"\nno book: {error}", file=sys.stderr)
        return 1
    if differ:
        print(named(differ))
    print(f"{pages} pages in {time.time() - begun:.0f} s: _build/html/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
