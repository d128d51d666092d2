"""`noisylabels doctor`: what is here, whether it works, what to do, and what a run
costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated

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


class Report:
    """Prints findings under a heading and remembers what is broken."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self._heading = ""

    def say(self, heading: str, text: str) -> None:
        shown = heading if heading != self._heading else ""
        self._heading = heading
        common.say(common.facts([(shown, text)], indent=0))

    def wrong(self, heading: str, text: str) -> None:
        """Something required does not work; `text` also says what to do."""
        self.broken.append(text)
        self.say(heading, f"BROKEN: {text}")


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
    report = Report()
    versions(report)
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
    machine(report, execution)
    data(report)
    disk(report)
    store(report, tidy)
    if not quick:
        speed(report, execution)
    if not report.broken:
        print("\nall that is required works")
        return 0
    mend = [f"  {i}. {wording.plain(text)}" for i, text in enumerate(report.broken, 1)]
    print(f"\n{wording.count(len(mend), 'thing')} to mend:", *mend, sep="\n",
          file=sys.stderr)
    return 1


# ----------------------------------------------------------------- software and machine


def versions(report: Report) -> None:
    """Python and packages, those outside the range that pyproject.toml names marked."""
    declared, python = _declared(), platform.python_version()
    report.say("python", f"{python}{_outside(python, declared.get('python', ''))}")
    for name in (*REQUIRED, *OPTIONAL):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in OPTIONAL:
                report.say("packages", f"{name}: not installed, so {OPTIONAL[name]}")
            else:
                report.wrong("packages", f"{name} is not installed; `make setup`, or "
                             f"`pip install '{name}{declared.get(name, '')}'`.")
            continue
        note = _outside(found, declared.get(name, ""))
        if name == "torchvision" and importlib.util.find_spec("torch") is not None:
            note += _torchvision_state()
        report.say("packages", f"{name} {found}{note}")


def _declared() -> dict[str, str]:
    """Package -> range, as this package's metadata say, "python" among them; empty when
    it is not installed."""
    try:
        lines = importlib.metadata.requires("noisylabels") or []
        python = importlib.metadata.metadata("noisylabels")["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return {}
    parts = (re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*([^;]*)", line) for line in lines)
    return {m[1].lower(): m[2].strip() for m in parts if m} | {"python": python}


def _outside(version: str, wanted: str) -> str:
    """A remark when the version is outside the range; nothing where that cannot be
    told."""
    if not wanted or importlib.util.find_spec("packaging") is None:
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


def machine(report: Report, execution: object) -> None:
    import torch

    from ..training import engine

    report.say(
        "processor",
        f"{engine.hardware('cpu')} of {os.cpu_count()}; {engine.instructions()}")
    for k in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(k).total_memory
        report.say("GPU", f"{torch.cuda.get_device_name(k)}, {wording.size(memory)}")
    if not torch.cuda.is_available():
        report.say("GPU", "none that torch sees")


# ----------------------------------------------------------------------- data and store


def data(report: Report) -> None:
    """Every data set: found and as official, missing (no fault), or damaged."""
    from ..data import datasets

    for name in datasets.NAMES:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                d = datasets.load(name)
            except FileNotFoundError as error:
                if any((paths.datasets_dir() / x).is_dir() for x in _folders(name)):
                    report.wrong("data", str(error))
                else:
                    report.say("data", f"{name}: not here (`noisylabels doctor "
                               f"--download {name}`)")
                continue
            except (ValueError, ImportError) as error:
                report.wrong("data", f"{name}: {error}")
                continue
        checked = "" if name == "digits" else ", checksums are the official ones"
        notes = "".join(f"; {w.message}" for w in heard
                        if issubclass(w.category, UserWarning))
        report.say("data", f"{name}: {len(d.x_train):,} + {len(d.x_test):,} images"
                   f"{checked}{notes}")
        for which in datasets.HUMAN_LABELS.get(name, ()):
            try:
                given = datasets.human_labels(name, which, y_true=d.y_train)
            except FileNotFoundError:
                report.say("data", f"{name}: no human labels")
                break
            except ValueError as error:
                report.wrong("data", str(error))
                break
            truth = (d.y_train if d.coarse_train is None or which != "noisy_coarse" else
                     d.coarse_train)
            wrong = float((given != truth).double().mean())
            report.say("data", f"  human-{which}: {wording.percent(wrong)} wrong")


def _folders(name: str) -> tuple[str, ...]:
    from ..data import cifar

    source = cifar.SOURCES.get(name)
    return (source.binary_folder, source.python_folder) if source else ()


def disk(report: Report) -> None:
    """Room and permission where runs and checkpoints go."""
    folders = (paths.runs_dir(), paths.cache_dir())
    for there in dict.fromkeys(_existing(folder) for folder in folders):
        if not os.access(there, os.W_OK):
            report.wrong("disk", f"{there} cannot be written to; make it writable, or "
                         "name another project folder by $NOISYLABELS_HOME.")
    tops = {_existing(f).stat().st_dev: _existing(f) for f in (*folders, paths.home())}
    free, where = min((shutil.disk_usage(f).free, str(f)) for f in tops.values())
    if free < LEAST_FREE:
        report.wrong("disk", f"only {wording.size(free)} free in {where}; free the "
                     "disk.")
    else:
        little = ", little for checkpoints of large networks" * (free <= ENOUGH_FREE)
        report.say("disk", f"{wording.size(free)} free{little}")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(p for p in (path, *path.parents) if p.exists())


def store(report: Report, tidy: bool = False) -> None:
    """Recorded, failed, damaged and interrupted runs, and what kills left behind."""
    good = failed = 0
    there: set[str] = set()
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
        if run.finished:
            there.add(run.setting.key)
    for problem in problems:
        report.wrong("store", str(problem))
    count, shown = wording.count, wording.shown
    report.say("store", f"{count(good, 'finished run')}, {failed} failed, in "
               f"{shown(paths.runs_dir())}")
    if elsewhere := leftovers.records_elsewhere():
        report.say("store", f"{count(len(elsewhere), 'run.json')} in no place of a "
                   f"run, not counted: {shown(elsewhere[0])}")
    if folders := [f for f in leftovers.checkpoints() if f.name not in there]:
        used = sum(f.stat().st_size for folder in folders for f in folder.iterdir())
        report.say("store", f"{count(len(folders), 'run')} begun and not finished, "
                   f"{wording.size(used)} of checkpoints in "
                   f"{shown(folders[0].parent)}: the same command goes on")
    else:
        report.say("store", "no run begun and not finished")
    left = leftovers.useless(there)
    if left and tidy:
        gone = sum(map(leftovers.delete, left))
        report.say("store",
                   f"deleted {gone} of {len(left)} things that kills left behind")
    elif left:
        report.say("store", f"{count(len(left), 'thing')} that a kill left behind, "
                   f"such as {shown(left[0])}; no run needs it, `noisylabels doctor "
                   "--tidy` deletes it")


# -------------------------------------------------------------------------------- speed


def speed(report: Report, execution: object) -> None:
    """Time a few steps; then what one run of each method costs here at each budget."""
    from .. import lab, methods
    from ..lab import cost
    from ..training import engine

    assert isinstance(execution, engine.Execution)
    where = engine.hardware(execution.device)
    timings = {}
    for budget in ("smoke", "laptop", "desk", "fast"):
        b = lab.BUDGETS[budget].recipe
        timing = timings[budget] = cost.time_steps(
            b["network"], cost.dataset_of(budget), b["batch_size"],
            b.get("precision", "float32"), execution, 0.8)
        report.say("speed", f"{b['network']}: {1 / timing.seconds:,.0f} training "
                   f"images a second, batches of {b['batch_size']}, on {where}")

    def takes(method: str, budget: str) -> str:
        s = lab.setting(method, cost.dataset_of(budget), budget=budget)
        known = None
        with suppress(runs.StoreError):  # a damaged record, named above
            known = cost.recorded(s, execution.device)
        if known:
            return wording.duration(known[0])
        seconds = cost.of_setting(s, timings.get(budget, timing))
        return "unknown" if seconds is None else f"{wording.duration(seconds)} ~"

    rows = [[m, *(takes(m, b) for b in runs.BUDGETS)] for m in methods.NAMES]
    scaled = " and ".join(b for b in runs.BUDGETS if b not in timings)
    print("\nwhat one run costs here (smoke: digits, laptop and desk: 10,000 images of "
          "CIFAR-10, fast and paper: all)")
    common.say(common.table(("method", *runs.BUDGETS), rows, ("method",)))
    print("~ by the timing above and each method's passes through the network"
          + f"; {scaled} scaled by counted operations, a rough guess" * bool(scaled)
          + "; without ~: from recorded runs")
