"""`noisylabels runs`: what is recorded. list, show one, compare cells over their
seeds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from .. import methods, paths, wording
from ..training import runs, schema
from ..training.runs import Run
from ..wording import duration, percent, spread
from . import common

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("dataset", "noise", "method", "budget", "name", "seed", "why", "options",
         "stage", "course")
FINALS: dict[str, Callable[[Run], float]] = {
    "last": Run.last, "mean10": Run.mean_last, "by val": Run.by_validation,
    "best*": Run.best}
COURSES = ("test", "val", "clean_fit", "wrong_fit", "wrong_corrected", "label_accuracy",
           "auc")
TABLE_ROWS = 15  # of the per-epoch table, unless --epochs asks for all

Method = Annotated[str | None, typer.Option(metavar="M", help="only this method")]
Dataset = Annotated[str | None, typer.Option(metavar="D", help="only this data set")]
Noise = Annotated[str | None, typer.Option(metavar="N", help="only this noise")]
Rate = Annotated[float | None, typer.Option(
    min=0, max=1, metavar="R", help="only this nominal noise rate")]
Budget = Annotated[str | None, typer.Option(
    metavar="B", help=f"one of {', '.join(runs.BUDGETS)}")]


class Runs(common.Group):
    """`noisylabels runs` means `noisylabels runs list`."""

    implied = "list"


app = common.app(cls=Runs)


def _found(**asked: Any) -> tuple[list[Run], int]:
    """All recorded runs, failed ones too, that the filters let through.

    What is not to be believed is left out and named on standard error; then the exit
    code is 1.
    """
    every, problems = runs.scan()
    for problem in problems:
        print(f"noisylabels: left out: {wording.plain(str(problem))}", file=sys.stderr)
    settings = [r.setting for r in every]
    known: dict[str, Iterable[str]] = {
        "method": {*methods.NAMES, *(s.method for s in settings)},
        "dataset": {*schema.DATASETS, *(s.dataset for s in settings)},
        "noise": {s.noise for s in settings},
        "budget": runs.BUDGETS,
    }
    asked = {k: v for k, v in asked.items() if v is not None}
    for what, allowed in known.items():
        if what in asked and (what != "noise" or settings):
            wording.choose(what, asked[what], sorted(allowed))
    hits = [r for r in every
            if all(getattr(r.setting, k) == v for k, v in asked.items())]
    return hits, int(bool(problems))


def _short(share: float) -> str:
    return percent(share).removesuffix(" %")


@app.command("list", cls=common.Command, epilog=(
    "example:\n  noisylabels runs list --dataset cifar10 --budget laptop"))
def list_runs(
    method: Method = None, dataset: Dataset = None, noise: Noise = None,
    rate: Rate = None, budget: Budget = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="the failed ones, and why")] = False,
) -> int:
    """One line a run."""
    found, code = _found(method=method, dataset=dataset, noise=noise, rate=rate,
                         budget=budget)
    wanted = [r for r in found if r.finished != failed]
    rows = []
    for run in wanted:
        s = run.setting
        said = [run.info.get("why", "")] if failed else [
            *(_short(number(run)) for number in FINALS.values()),
            duration(run.info.get("seconds", math.nan))]
        rows.append([s.dataset, s.noise, f"{s.rate:.2f}", s.method, s.budget, s.seed,
                     len(run.epochs.get("test", ())), *said, s.key])
    header = ["dataset", "noise", "rate", "method", "budget", "seed", "epochs",
              *(("why",) if failed else (*FINALS, "time")), "name"]
    if rows:
        common.say(common.table(header, rows, TEXTS), "")
    left = len(found) - len(wanted)
    print(f"{wording.count(len(wanted), 'failed run' if failed else 'run')} in "
          + wording.shown(paths.runs_dir())
          + (f"; {left} failed (--failed lists them)" if left and not failed else ""))
    return code


# --------------------------------------------------------------------------------- show


@app.command(cls=common.Command, epilog="example:\n  noisylabels runs show 3fa91c2b")
def show(
    name: Annotated[str, typer.Argument(
        metavar="NAME", help="its hash, or any part of its path that no other has")],
    epochs: Annotated[bool, typer.Option(
        "--epochs", help="every epoch, not only some")] = False,
    suspects: Annotated[int | None, typer.Option(
        min=1, metavar="[N=20]", help="instead: the N labels that the run doubts most, "
        "with the images' numbers in the official train set; the run must have kept "
        "its signals")] = None,
) -> int:
    """Setting, facts and numbers of one run."""
    import pandas as pd

    run = runs.resolve(name)
    if suspects is not None:
        show_suspects(run, suspects)
        return 0
    s, info = run.setting, run.info

    def known(key: str) -> str:
        value = info.get(key)
        return ("not recorded" if value is None else
                f"{value:,}" if isinstance(value, int) else str(value))

    subset = f"{s.max_samples:,} images at most" if s.max_samples else "all images"
    common.say(str(s), common.facts([
        ("options", _options(s.options)),
        ("data", f"{subset}; {known('samples')} trained on, {known('validation')} for "
         f"noisy validation, {known('trusted')} trusted"),
        ("seeds", f"split {s.split_seed}, noise {s.noise_seed}, init {s.init_seed}"),
        ("noise", f"{percent(info.get('realised_rate', math.nan))} (nominal "
         f"{s.rate:.0%})"),
        ("code", f"commit {known('commit')}, {known('date')}"),
        ("versions", _versions(info)),
        ("hardware", known("hardware")),
        ("processor", known("instructions")),
        *_parts(info),
        ("folder", wording.shown(run.folder) if run.folder else "none"),
    ]), "")
    if run.finished:
        from .train import result

        common.say(*result(run), "")
    else:
        print(f"FAILED: {wording.plain(info.get('why', 'no reason recorded'))}\n")
    course = pd.DataFrame(run.epochs)
    if total := len(course):
        seen = course[[c for c in COURSES if c in course]].dropna(axis=1, thresh=2)
        rows = [[name, *map(_short, (v.iloc[0], v.iloc[-1], v.min(), v.max()))]
                for name, v in ((c, seen[c].dropna()) for c in seen)]
        if rows:
            header = ("course", "first", "last", "least", "greatest")
            common.say(common.table(header, rows, TEXTS), "")
        most = total if epochs else min(total, TABLE_ROWS)
        common.say(epochs_table(course, most))
        if most < total:
            print(f"{most} of {total} epochs; --epochs shows all")
    return 0


def _options(options: Mapping[str, object]) -> str:
    return " ".join(f"{k}={wording.words_of(v)}" for k, v in options.items())


def _versions(info: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items())


def _parts(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """With what each part of a run was trained that went on in another process."""
    lines = []
    for p in info.get("parts", ()):
        said = [f"commit {p['commit']}" if "commit" in p else "", p.get("date", ""),
                _versions(p), p.get("hardware", ""), p.get("instructions", "")]
        first, last = p.get("epochs", ("?", "?"))
        lines.append((f"epochs {first}-{last}",
                      "; ".join(x for x in said if x) or "not recorded with what"))
    return lines if len(lines) > 1 else []


def show_suspects(run: Run, most: int) -> None:
    """Print the labels that a run doubts most: image, given label, and how much."""
    from ..evidence import detection

    name, doubt = detection.doubt(run)
    kept = run.signals
    order = np.lexsort((kept["index"], -doubt))[:most]
    columns = {"rank": range(1, len(order) + 1), "image": kept["index"][order],
               "given": kept["given"][order],
               name: [f"{abs(d):.7g}" for d in doubt[order]]}
    print(f"{run.setting}\n{len(order)} of {len(doubt):,} labels, the most doubtful "
          "first; image: its number (from 0) in the train set of "
          f"{run.setting.dataset}; given: the class")
    if "wrong" in kept:
        wrong = kept["wrong"] > 0
        columns["in truth"] = np.where(wrong[order], "wrong", "right")
        print(f"{percent(float(wrong[order].mean()))} of these are wrong in truth, "
              f"{percent(float(wrong.mean()))} of all")
    rows = zip(*columns.values(), strict=True)
    common.say("", common.table(list(columns), rows, ("in truth",)))


def epochs_table(course: pd.DataFrame, most: int) -> common.Table:
    """The numbers of `most` evenly chosen epochs with the first and the last."""
    keep = np.unique(np.linspace(0, len(course) - 1, most).round().astype(int))
    columns: dict[str, list[str]] = {}
    for name, v in course.dropna(axis=1, how="all").items():
        if name == "stage":
            columns["stage"] = list(v.iloc[keep])
        elif name != "seconds_evaluating":
            share = (name not in ("epoch", "loss", "lr") and name[:7] != "seconds"
                     and v.min() >= 0 and v.max() <= 1)
            columns[str(name)] = ["–" if math.isnan(x) else f"{100 * x:.2f}" if share
                                  else f"{x:.4g}" for x in v.iloc[keep]]
    return common.table(list(columns), zip(*columns.values(), strict=True), TEXTS)


# ------------------------------------------------------------------------------ compare


@app.command(cls=common.Command, epilog=(
    "example:\n  noisylabels runs compare --dataset digits --rate 0.4"))
def compare(
    names: Annotated[list[str] | None, typer.Argument(
        metavar="NAME", help="runs, as in `runs show`")] = None,
    method: Method = None, dataset: Dataset = None, noise: Noise = None,
    rate: Rate = None, budget: Budget = None,
) -> int:
    """Mean and sample standard deviation over seeds.

    One line a cell: runs that differ in nothing but their seeds. One table a budget.
    """
    asked = dict(method=method, dataset=dataset, noise=noise, rate=rate, budget=budget)
    if names and any(v is not None for v in asked.values()):
        raise ValueError(
            "`runs compare` takes names of runs or filters (--dataset ...), not both.")
    if names:
        code, picked = 0, list({r.setting.key: r
                                for r in map(runs.resolve, names)}.values())
    else:
        picked, code = _found(**asked)
    finished = [r for r in picked if r.finished]
    if not finished:
        raise ValueError(
            f"there is nothing to compare: {len(picked)} recorded runs match and none "
            "of them is finished (see `noisylabels runs list`).")
    for each in runs.BUDGETS:
        if group := [r for r in finished if r.setting.budget == each]:
            common.say(budget_table(each, group), "")
    print("mean ± sample standard deviation over n seeds; test accuracy and wrong "
          "labels in %\nmean10: last ten epochs; by val: epoch chosen on noisy labels; "
          "best*: chosen on the test set, an oracle")
    if left := len(picked) - len(finished):
        print(f"{wording.count(left, 'failed run')} left out "
              "(`noisylabels runs list --failed`)")
    return code


def budget_table(budget: str, group: list[Run]) -> common.Table:
    """One line a cell. `options` says in what cells of one method, data and noise
    differ."""
    from ..evidence.tables import summaries

    cells, rows = summaries(group), []
    for cell in cells:
        s = cell.setting
        rows.append([
            s.dataset, s.noise, f"{s.rate:.2f}", s.method, cell.n,
            _short(cell.over(lambda r: r.info.get("realised_rate", math.nan))[0]),
            *(spread(*cell.over(number)) for number in FINALS.values()),
            duration(cell.over(lambda r: r.info.get("seconds", math.nan))[0]),
            _options(_own(s, [c.setting for c in cells]))])
    header = ["dataset", "noise", "rate", "method", "n", "wrong", *FINALS, "time",
              "options"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return common.table(header, rows, TEXTS, f"{budget} budget")


def _own(cell: runs.Setting, cells: list[runs.Setting]) -> dict[str, object]:
    """The options in which a cell differs from others of its method, data and noise."""

    def flat(s: runs.Setting) -> dict[str, object]:
        also = ("max_samples", "trusted_per_class", "val_fraction")
        return {**s.options, **{k: getattr(s, k) for k in also}}

    def task(s: runs.Setting) -> tuple[object, ...]:
        return s.method, s.dataset, s.noise, s.rate

    like = [flat(s) for s in cells if task(s) == task(cell)]
    return {k: v for k, v in flat(cell).items() if any(o.get(k) != v for o in like)}
