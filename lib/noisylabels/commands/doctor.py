"""`noisylabels doctor`: what is here, whether it works, what to do, and what a run
costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer

from .. import paths, wording
from ..training import leftovers, runs
from . import common

REQUIRED = ("torch", "numpy", "scikit-learn")
OPTIONAL = {  # package -> what is not possible without it
    "torchvision": "CIFAR cannot be downloaded",
    "hnswlib": "neighbours use the exact search",
    "pandas": "pages cannot be run",
    "matplotlib": "no figures",
    "papermill": "pages cannot be run",
    "ipykernel": "pages cannot be run",
    "jupyter-book": "the book cannot be built",
}
LEAST_FREE, ENOUGH_FREE = 100e6, 2e9  # bytes: below the first nothing can be recorded


Finding = tuple[bool, str]
"""Whether it is as it must be, and what was found; else also what to do."""
Check = Callable[[], Iterator[Finding]]

app = common.app()


@app.command(cls=common.Command,
             epilog="example:\n  noisylabels doctor --download cifar10")
def main(
    download: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help="first fetch cifar10 or cifar100 by torchvision")] = None,
    tidy: Annotated[bool, typer.Option(
        "--tidy", help="delete what kills left behind and no run needs")] = False,
    quick: Annotated[bool, typer.Option(
        "--quick", help="do not time this machine")] = False,
    device: common.Device = "auto",
    threads: common.Threads = None,
) -> int:
    """Say what is here, whether it works and what a run costs."""
    for name in download or ():
        wording.choose("--download", name, ("cifar10", "cifar100"))
    broken = look(("python", python), ("packages", packages))
    if importlib.util.find_spec("torch") is None:
        print("\nnothing else can be looked at without torch")
        return 1
    from ..data import datasets
    from ..training import engine

    engine.set_threads(threads)
    execution = engine.Execution(device).resolve()
    for name in download or ():
        print(f"fetching {name} into {wording.shown(paths.datasets_dir())}", flush=True)
        datasets.download(name)
    timings: dict[str, Any] = {}
    broken += look(
        ("processor", processor), ("GPU", gpus), ("data", data), ("disk", disk),
        ("store", partial(store, tidy)),
        *([] if quick else [("speed", partial(speed, execution, timings))]))
    if timings:
        costs(execution, timings)
    if not broken:
        print("\nall that is required works")
        return 0
    mend = [f"  {i}. {wording.plain(text)}" for i, text in enumerate(broken, 1)]
    print(f"\n{wording.count(len(mend), 'thing')} to mend:", *mend, sep="\n",
          file=sys.stderr)
    return 1


def look(*checks: tuple[str, Check]) -> list[str]:
    """Print what each check finds, the name at its first line; what is broken."""
    broken = []
    for name, check in checks:
        for fine, found in check():
            said = found if fine else f"BROKEN: {found}"
            common.say(common.facts([(name, said)], indent=0))
            broken += [] if fine else [found]
            name = ""
    return broken


# ----------------------------------------------------------------- software and machine


def python() -> Iterator[Finding]:
    version = platform.python_version()
    yield True, f"{version}{_outside(version, _declared().get('python', ''))}"


def packages() -> Iterator[Finding]:
    """Those outside the range that pyproject.toml names are marked."""
    declared = _declared()
    for name in (*REQUIRED, *OPTIONAL):
        wanted = declared.get(name, "")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name in OPTIONAL, (
                f"{name}: not installed, so {OPTIONAL[name]}" if name in OPTIONAL else
                f"{name} is not installed; `make setup`, or `pip install "
                f"'{name}{wanted}'`.")
            continue
        note = _outside(found, wanted)
        if name == "torchvision" and importlib.util.find_spec("torch") is not None:
            note += _torchvision_state()
        yield True, f"{name} {found}{note}"


def _declared() -> dict[str, str]:
    """Package -> range, as this package's metadata say, "python" among them; empty when
    it, or what reads ranges, is not installed."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("noisylabels") or []
        own = importlib.metadata.metadata("noisylabels")["Requires-Python"] or ""
    except ImportError:
        return {}
    wanted = map(Requirement, [*lines, f"python{own}"])
    return {r.name.lower(): str(r.specifier) for r in wanted}


def _outside(version: str, wanted: str) -> str:
    """A remark when the version is outside the range."""
    if not wanted:
        return ""
    from packaging.specifiers import SpecifierSet

    fits = SpecifierSet(wanted).contains(version, prereleases=True)
    return "" if fits else f" (outside the tested range {wanted})"


def _torchvision_state() -> str:
    from ..data import torchvision_guard

    try:
        torchvision_guard.import_torchvision()
    except Exception as error:
        return (f", but its import fails ({type(error).__name__}), so CIFAR cannot be "
                "downloaded; install the one that goes with this torch")
    return (", built for another torch: used for downloads only"
            if torchvision_guard._declared else "")


def processor() -> Iterator[Finding]:
    from ..training import engine

    yield True, (f"{engine.hardware('cpu')} of {os.cpu_count()}; "
                 f"{engine.instructions()}")


def gpus() -> Iterator[Finding]:
    import torch

    for k in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(k).total_memory
        yield True, f"{torch.cuda.get_device_name(k)}, {wording.size(memory)}"
    if not torch.cuda.is_available():
        yield True, "none that torch sees"


# ----------------------------------------------------------------------- data and store


def data() -> Iterator[Finding]:
    """Every data set: found and as official, missing (no fault), or damaged."""
    from ..data import datasets

    for name in datasets.NAMES:
        if lacks := datasets.absent(name):
            yield True, f"not here: {lacks}"
            continue
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                d = datasets.load(name)
            except (OSError, ValueError, ImportError) as error:
                yield False, f"{name}: {error}"
                continue
        checked = "" if name == "digits" else ", checksums are the official ones"
        notes = "".join(f"; {w.message}" for w in heard
                        if issubclass(w.category, UserWarning))
        yield True, (f"{name}: {len(d.x_train):,} + {len(d.x_test):,} images"
                     f"{checked}{notes}")
        for which in datasets.HUMAN_LABELS.get(name, ()):
            try:
                given = datasets.human_labels(name, which, y_true=d.y_train)
            except (FileNotFoundError, ValueError) as error:
                absent = isinstance(error, FileNotFoundError)
                yield absent, f"{name}: no human labels" if absent else str(error)
                break
            truth = (d.y_train if d.coarse_train is None or which != "noisy_coarse" else
                     d.coarse_train)
            wrong = given.ne(truth).double().mean()
            yield True, f"  human-{which}: {wording.percent(float(wrong))} wrong"


def disk() -> Iterator[Finding]:
    """Room and permission where runs and checkpoints go."""
    there = [next(p for p in (folder, *folder.parents) if p.exists())
             for folder in (paths.runs_dir(), paths.cache_dir(), paths.home())]
    for folder in dict.fromkeys(there[:2]):
        if not os.access(folder, os.W_OK):
            yield False, (f"{folder} cannot be written to; make it writable, or name "
                          "another project folder by $NOISYLABELS_HOME.")
    free, where = min((shutil.disk_usage(f).free, str(f)) for f in there)
    little = ", little for checkpoints of large networks" * (free <= ENOUGH_FREE)
    yield free >= LEAST_FREE, (
        f"{wording.size(free)} free{little}" if free >= LEAST_FREE else
        f"only {wording.size(free)} free in {where}; free the disk.")


def store(tidy: bool = False) -> Iterator[Finding]:
    """Recorded, failed, damaged and interrupted runs, and what kills left behind."""
    good = failed = 0
    try:
        every, problems = runs.scan()
    except runs.StoreError as error:
        every, problems = [], [error]
    for run in every:
        try:
            for name in runs.NEEDED if run.finished else ():
                _ = run.info[name]  # raises where it is missing
            _ = run.signals  # the same
            good, failed = good + run.finished, failed + (not run.finished)
        except runs.StoreError as error:
            problems.append(error)
    there = {run.setting.key for run in every if run.finished}
    count, shown = wording.count, wording.shown
    yield from ((False, str(problem)) for problem in problems)
    yield True, (f"{count(good, 'finished run')}, {failed} failed, in "
                 f"{shown(paths.runs_dir())}")
    if elsewhere := leftovers.records_elsewhere():
        yield True, (f"{count(len(elsewhere), 'run.json')} in no place of a run, not "
                     f"counted: {shown(elsewhere[0])}")
    if folders := [f for f in leftovers.checkpoints() if f.name not in there]:
        used = sum(f.stat().st_size for folder in folders for f in folder.iterdir())
        yield True, (f"{count(len(folders), 'run')} begun and not finished, "
                     f"{wording.size(used)} of checkpoints in "
                     f"{shown(folders[0].parent)}: the same command goes on")
    else:
        yield True, "no run begun and not finished"
    left = leftovers.useless(there)
    if left and tidy:
        gone = sum(map(leftovers.delete, left))
        yield True, f"deleted {gone} of {len(left)} things that kills left behind"
    elif left:
        yield True, (f"{count(len(left), 'thing')} that a kill left behind, such as "
                     f"{shown(left[0])}; no run needs it, `noisylabels doctor --tidy` "
                     "deletes it")


# -------------------------------------------------------------------------------- speed


def speed(execution: Any, timings: dict[str, Any]) -> Iterator[Finding]:
    """Time a few steps of each budget's network into `timings`."""
    from .. import lab
    from ..lab import cost
    from ..training import engine

    where = engine.hardware(execution.device)
    for budget in ("smoke", "laptop", "desk", "fast"):
        s = lab.setting("cross_entropy", cost.dataset_of(budget), budget=budget)
        timing = timings[budget] = cost.timed(s, execution)
        yield True, (f"{timing.network}: {1 / timing.seconds:,.0f} training images a "
                     f"second, batches of {s.options['batch_size']}, on {where}")


def costs(execution: Any, timings: dict[str, Any]) -> None:
    """Print what one run of each method costs here at each budget."""
    from .. import lab, methods
    from ..lab import cost

    recorded = []
    with suppress(runs.StoreError):  # named above
        recorded = runs.scan()[0]
    estimates = cost.Estimates(execution, recorded=recorded)

    def takes(method: str, budget: str) -> str:
        s = lab.setting(method, cost.dataset_of(budget), budget=budget)
        if known := estimates.measured(s):
            return wording.duration(known.seconds)
        seconds = cost.of_setting(s, timings.get(budget, timings["fast"]))
        return "unknown" if seconds is None else f"{wording.duration(seconds)} ~"

    rows = [[m, *(takes(m, b) for b in runs.BUDGETS)] for m in methods.NAMES]
    print("\nwhat one run costs here (smoke: digits, laptop and desk: 10,000 images of "
          "CIFAR-10, fast and paper: all)")
    common.say(common.table(("method", *runs.BUDGETS), rows, ("method",)))
    print("~ by the timing above and each method's passes through the network; paper "
          "scaled by counted operations, a rough guess; without ~: from recorded runs")
