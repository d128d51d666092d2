"""Run the pages as other machines would, and tell what comes out differently.

    python book/portable.py [--ways avx2,seed-1] [--pages sanm,drpl] [--jobs 2]

Every way runs every page outside the book, in a copy of data/ of its own, so that nothing is
recorded here. The table tells, for each page and way, whether all sentences about live training
came out as they stand (`ok`), how many lie nearer to a bound than their margin (`near`), how many
came out differently (`differ`), that a page speaks of what is missing on the machine (`misses`),
or that it broke off (`FAILED`). Exit status 1 if anything differs, misses something or broke off.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from build import ROOT, at_least_one, execute, in_words, notebook_names, statements

MOST_SECONDS = 180  # a page is to take no longer
MISSES = re.compile(r"not (?:on|found on) this machine|left out here"
                    r"|no (?:data set|CIFAR)[\w-]* (?:here|at hand)|without CIFAR", re.I)

# Weights start a millionth away from where they would: as far as another processor's rounding
# takes a training within a few steps. Run by the kernel at its start.
NUDGE = '''
import torch
_draw = torch.Generator().manual_seed({number})
def _nudged(plain):
    def init(tensor, *args, **kwargs):
        plain(tensor, *args, **kwargs)
        with torch.no_grad():
            return tensor.mul_(1 + 1e-6 * torch.randn(tensor.shape, generator=_draw))
    return init
for _name in ("kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_",
              "normal_", "uniform_"):
    setattr(torch.nn.init, _name, _nudged(getattr(torch.nn.init, _name)))
'''


@dataclass(frozen=True)
class Way:
    """How another machine, or another reader, would run the pages."""

    about: str
    env: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    nudge: int = 0


NO_DATA = {"NOISYLABELS_DATA": ""}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
WAYS = {
    "own": Way("this processor's own settings, one thread"),
    "avx512": Way("at most AVX-512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "avx2": Way("AVX2 alone, and no data sets on the machine", AVX2 | NO_DATA),
    "sse": Way("no AVX at all in PyTorch and oneDNN",
               {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
    "threads": Way("two threads", {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}),
    "no-cifar": Way("no data sets on the machine", NO_DATA),
    "seed-1": Way("seed 1", parameters={"seed": 1}),
    "seed-2": Way("seed 2", parameters={"seed": 2}),
    "nudge-1": Way("first weights a millionth away", nudge=1),
    "nudge-2": Way("first weights a millionth away, otherwise", nudge=2),
    "nudge-3": Way("first weights a millionth away, otherwise", nudge=3),
}


def same_here(name: str, capability: str) -> str | None:
    """The way that this one comes to where torch's `capability` ("AVX2", "AVX512", ...) has not
    what it takes away; None where it is a way of its own."""
    if name == "avx512" and capability != "AVX512":
        return "own"
    return "no-cifar" if name == "avx2" and capability == "AVX2" else None


def has_parameter(root: Path, page: str, names: set[str]) -> bool:
    """Whether the page's cell of parameters assigns all of them."""
    cells = nbformat.read(root / "notebooks" / f"{page}.ipynb", as_version=4).cells
    source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    own = {line.split(":")[0].split("=")[0].strip() for line in source.splitlines()}
    return names <= own


def home_for(way: Way, root: Path, home: Path) -> dict[str, str]:
    """Lay out a copy of the project at `home`; the environment in which its pages run."""
    shutil.copytree(root / "data", home / "data",
                    ignore=lambda folder, names: {"datasets", "cache"} & set(names)
                    if Path(folder) == root / "data" else set())
    for name in ("notebooks", "lib", "book", "_config.yml"):
        (home / name).symlink_to(root / name)
    env = {"OMP_NUM_THREADS": "1", "NOISYLABELS_HOME": str(home),
           "PYTHONPATH": os.pathsep.join([str(root / "lib"), os.environ.get("PYTHONPATH", "")]),
           "NOISYLABELS_DATA": os.environ.get("NOISYLABELS_DATA") or str(root / "data/datasets")}
    env |= way.env
    env["NOISYLABELS_DATA"] = env["NOISYLABELS_DATA"] or str(home / "no-data")
    if way.nudge:
        start = home / "ipython" / "profile_default" / "startup" / "00-nudge.py"
        start.parent.mkdir(parents=True)
        start.write_text(NUDGE.format(number=way.nudge), "utf-8")
        env["IPYTHONDIR"] = str(home / "ipython")
    return env


@dataclass(frozen=True)
class Tried:
    """How one page fared in one way."""

    page: str
    way: str
    seconds: float
    fault: str | None
    said: list[dict[str, Any]]
    misses: list[str] = field(default_factory=list)

    @property
    def differ(self) -> list[dict[str, Any]]:
        return [s for s in self.said if not s["holds"]]

    @property
    def near(self) -> list[dict[str, Any]]:
        return [s for s in self.said if s["holds"] and not s["safe"]]

    @property
    def cell(self) -> str:
        """The outcome in a word or two."""
        if self.fault:
            return "FAILED"
        words = [f"{len(found)} {word}" for found, word in (
            (self.differ, "differ"), (self.misses, "misses"), (self.near, "near")) if found]
        words += [f"{self.seconds:.0f} s"] if self.seconds > MOST_SECONDS else []
        return ", ".join(words) or "ok"


def attempt(page: str, name: str, home: Path, env: dict[str, str]) -> Tried:
    begun = time.time()
    ran, problem = execute(home, page, f"out/{page}.ipynb", env, WAYS[name].parameters)
    tried = Tried(page, name, time.time() - begun, problem, statements(ran) if ran else [],
                  about_missing(ran) if ran else [])
    print(f"  {page:20} {name:10} {tried.seconds:6.1f} s  {tried.cell}", flush=True)
    return tried


def about_missing(notebook: dict[str, Any]) -> list[str]:
    """Sentences of a run, in its prose and outputs, about what is missing on the machine."""
    texts = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            texts.append("".join(cell["source"]))
        for out in cell.get("outputs", []):
            texts += ["".join(v) for k, v in out.get("data", {}).items() if k.startswith("text/")]
            texts.append("".join(out.get("text", "")))
    plain = [re.sub(r"<[^>]+>", " ", t) for t in texts]
    return [s.strip() for t in plain for s in re.split(r"(?<=[.!?])\s|\n\n", t)
            if MISSES.search(s)]


def table(tried: list[Tried]) -> str:
    """Pages down, ways across."""
    pages, ways = (list(dict.fromkeys(getattr(t, k) for t in tried)) for k in ("page", "way"))
    cells = {(t.page, t.way): t.cell for t in tried}
    grid = [["page", *ways], *([p, *(cells.get((p, w), "-") for w in ways)] for p in pages)]
    wide = [max(len(row[k]) for row in grid) for k in range(len(grid[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, wide, strict=True)).rstrip()
                     for row in grid)


def details(tried: list[Tried]) -> str:
    """What broke off, differs or is near, a line each."""
    lines = [f"{t.page}, {t.way}: FAILED {t.fault}" for t in tried if t.fault]
    lines += [f"{t.page}, {t.way}, {kind}: {in_words(s)}" for kind in ("differ", "near")
              for t in tried for s in getattr(t, kind)]
    lines += [f"{t.page}, {t.way}, misses: {text}" for t in tried for text in t.misses]
    return "\n".join(lines)


def chosen(text: str, allowed: list[str], what: str) -> list[str]:
    """The names in a list parted by commas, each once; all of them for an empty one.

    Raises ValueError for another name.
    """
    names = list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    if unknown := [n for n in names if n not in allowed]:
        raise ValueError(f"unknown {what} {unknown[0]!r}; allowed: {', '.join(allowed)}.")
    return names or list(allowed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="ways: " + "; ".join(f"{n}: {w.about}" for n, w in WAYS.items()))
    parser.add_argument("--ways", default="", help="names of ways, parted by commas (all)")
    parser.add_argument("--pages", default="", help="names of notebooks, parted by commas (all)")
    parser.add_argument("--jobs", type=at_least_one, default=2, help="pages run at a time")
    args = parser.parse_args(argv)
    try:
        ways = chosen(args.ways, list(WAYS), "way")
        pages = chosen(args.pages, notebook_names(ROOT), "page")
    except ValueError as error:
        parser.error(str(error))
    from torch.backends import cpu  # late: help and a wrong name need no PyTorch

    for name in list(ways):
        other = same_here(name, cpu.get_cpu_capability())
        if other in ways:
            print(f"{name}: on this processor the same as {other}")
            ways.remove(name)
    work = [(p, w) for w in ways for p in pages
            if has_parameter(ROOT, p, set(WAYS[w].parameters))]
    if not work:
        parser.error(f"{', '.join(ways)} set a parameter that {', '.join(pages)} has not; take "
                     "another way or page.")
    print(f"{len(work)} runs of {len(pages)} pages in {len(ways)} ways, {args.jobs} at a time",
          flush=True)
    with tempfile.TemporaryDirectory(prefix="portable-") as folder:
        homes = {w: Path(folder, w) for w in ways}
        env = {w: home_for(WAYS[w], ROOT, home) for w, home in homes.items()}
        with ThreadPoolExecutor(args.jobs) as pool:
            tried = list(pool.map(lambda j: attempt(*j, homes[j[1]], env[j[1]]), work))
    print("\n" + table(tried))
    if told := details(tried):
        print("\n" + told)
    return int(any(t.fault or t.differ or t.misses for t in tried))


if __name__ == "__main__":
    sys.exit(main())
