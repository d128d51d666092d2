"""`noisylabels reproduce`: the words of `noisylabels.reproduce.run`, and `--unpack`."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import paths, wording
from ..wording import count
from . import common

app = common.app()
Which = functools.partial(typer.Option, rich_help_panel="which runs")
How = functools.partial(typer.Option, rich_help_panel="how")
Out = functools.partial(typer.Option, rich_help_panel="what comes of it")


@app.command(cls=common.Command,
             epilog="example:\n  noisylabels reproduce --minutes 25 "
             "--dry-run")
def main(
    budget: Annotated[
        str | None,
        Which(
            metavar="B",
            help="smoke, laptop, desk, fast, paper; default: fast with a GPU, "
            "else laptop")] = None,
    plan: Annotated[
        str | None,
        Which(
            metavar="NAME",
            help="the steps of data/plans/NAME.csv instead of the printed "
            "numbers, such as desk or digits (--budget desk is --plan desk)")] = None,
    paper: Annotated[list[str] | None,
                     Which(metavar="P...", help="only of these, such as mixnn")] = None,
    method: Annotated[list[str] | None,
                      Which(metavar="M...", help="only of these, such as gce")] = None,
    dataset: Annotated[
        list[str] | None,
        Which(metavar="D...",
              help="only on these (laptop: cifar10 alone unless named here)")] = None,
    seeds: Annotated[int | None,
                     Which(
                         min=1, max=100, metavar="N",
                         help="runs a setting, of seeds 0 to N-1 (default 3; "
                         "of a plan: as it says)")] = None,
    max_samples: Annotated[
        int | None,
        Which(min=0, metavar="N", help="train on N images (no verdict then); 0: on all"
              )] = None,
    set_: Annotated[list[str] | None,
                    Which("--set", metavar="KEY=VALUE",
                          help="change an option of the methods (no verdict "
                          "then)")] = None,
    again: Annotated[bool, Which("--again", help="also what failed before")] = False,
    minutes: Annotated[
        float,
        How(min=0, max=1e6, metavar="T",
            help="train until then (0: not at all); the report "
            "comes after")] = 25.0,
    jobs: Annotated[
        str,
        How(metavar="N", help="runs at once; auto: the number of cores, or 1 on a GPU"
            )] = "auto",
    cluster: Annotated[
        str,
        How(
            metavar="ADDRESS", help="of a Dask scheduler: its workers train, such as "
            "tcp://10.0.0.1:8786")] = "",
    device: Annotated[str, How(metavar="D", help="auto, cpu, cuda, cuda:k")] = "auto",
    compile: Annotated[bool, How("--compile", help="use torch.compile")] = False,
    graph: Annotated[bool,
                     How("--graph", help="capture the step as a CUDA graph")] = False,
    signals: Annotated[
        bool,
        How("--signals", help="keep the per-sample signals of seed 0 in the records"
            )] = False,
    dry_run: Annotated[
        bool,
        How("--dry-run", help="show the whole plan and each reason, and stop")] = False,
    out: Annotated[
        Path | None,
        Out(metavar="DIR", help="write the table there, as Markdown and CSV")] = None,
    pack: Annotated[str | None,
                    Out(
                        metavar="[FILE]",
                        help="put these runs and their checkpoints into FILE (default "
                        "DIR/runs.tar)")] = None,
    no_checkpoints: Annotated[
        bool, Out("--no-checkpoints", help="leave the checkpoints out of it")] = False,
    unpack: Annotated[Path | None,
                      Out(metavar="FILE", help="take in a bundle, and stop")] = None,
) -> int:
    """Do the runs behind the printed numbers within a time that you name. Whatever was
    begun goes on when the same command is given again."""
    if unpack is not None:
        if pack is not None:
            raise ValueError(
                "--pack and --unpack exclude each other; give one command for each.")
        return taken(unpack, dry_run)
    if no_checkpoints and pack is None:
        raise ValueError("--no-checkpoints is about a bundle; add --pack FILE.")
    if pack == "" and out is None:
        raise ValueError("--pack needs a file, such as --pack runs.tar, or --out DIR.")
    most = 4 * (os.cpu_count() or 1)  # more would end the machine
    if jobs != "auto" and not (jobs.isdecimal() and 1 <= int(jobs) <= most):
        raise ValueError(
            f"--jobs: auto or a whole number from 1 to {most} is needed, not "
            f"{jobs!r}.")
    from .. import reproduce
    from ..training import runs

    if budget is not None:
        wording.choose("--budget", budget, runs.BUDGETS)
    options = set_ or []
    for key in {o.partition("=")[0].replace("-", "_") for o in options} & runs.FLAGS:
        use = "; use --max-samples" if key == "max_samples" else ""
        raise ValueError(f"{key!r} is no option of a method{use}.")
    options += [] if max_samples is None else [f"max_samples={max_samples}"]
    return reproduce.run(
        budget=budget, plan=plan, paper=paper or (), method=method or (),
        dataset=dataset or (), seeds=seeds, options=options, again=again,
        minutes=minutes, jobs=None if jobs == "auto" else int(jobs), cluster=cluster,
        device=device, compile=compile, graph=graph, signals=signals, dry_run=dry_run,
        out=out, pack=None if pack is None else Path(pack or f"{out}/runs.tar"),
        checkpoints=not no_checkpoints)


def taken(file: Path, dry_run: bool) -> int:
    """Take in a bundle; say what came of each run in it."""
    from ..reproduce import bundle

    found = bundle.unpack(file, dry_run=dry_run)
    for what, listed in (("taken in", found.runs), ("checkpoint taken in",
                                                    found.checkpoints),
                         ("not needed", found.not_needed), ("refused", found.refused)):
        for setting in listed:
            print(f"{what}: {setting}")
    print(f"{count(len(found.runs), 'run')} and "
          f"{count(len(found.checkpoints), 'checkpoint')} "
          f"{'would be' if dry_run else 'were'} taken in, {len(found.same)} were here "
          f"already, {len(found.not_needed)} not needed, {len(found.refused)} refused")
    if found.refused:
        print(f"refused: finished here with other numbers, in "
              f"{wording.shown(paths.runs_dir())}; a finished run is never replaced",
              file=sys.stderr)
    return 1 if found.refused else 0
