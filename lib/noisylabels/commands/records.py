"""`noisylabels runs`: what is recorded. list, show one, compare cells over their
seeds."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import methods, paths, wording
from ..training import runs, schema
from ..training.runs import Run
from ..wording import percent, spread
from . import common

NAMES_LEFT = ("dataset", "noise", "method", "budget", "name", "seed", "why", "options",
              "stage")
SUSPECTS = 20
TABLE_ROWS = 15  # of the per-epoch table, unless --epochs asks for all


def add_arguments(p: argparse.ArgumentParser) -> None:
    actions = p.add_subparsers(dest="action", metavar="ACTION", required=True)
    words: dict[str, Any] = dict(
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = actions.add_parser(
        "list",
        help="one line a run",
        description="One line a run.",
        epilog="example:\n  noisylabels runs list --dataset cifar10 --budget laptop",
        **words,
    )
    _filters(every)
    every.add_argument("--failed", action="store_true",
                       help="the failed runs and why, instead")
    one = actions.add_parser(
        "show",
        help="setting, facts and numbers of one run",
        description="Setting, facts and numbers of one run.",
        epilog="example:\n  noisylabels runs show 3fa91c2b",
        **words,
    )
    one.add_argument("name",
                     help="a run's hash, or any part of its path that no other run has")
    one.add_argument("--epochs", action="store_true", help="every epoch, not only some")
    one.add_argument(
        "--suspects", nargs="?", type=_some, const=SUSPECTS, metavar="N", help=
        f"instead: the N labels that the run doubts most (default {SUSPECTS}), with the "
        "images' numbers in the official train set; the run must have kept its signals",
    )
    several = actions.add_parser(
        "compare", help="mean and spread over seeds, one line a cell", description=
        "Mean and sample standard deviation over seeds. One line a cell: runs that "
        "differ in nothing but their seeds. One table a budget.",
        epilog="example:\n  noisylabels runs compare --dataset digits --rate 0.4",
        **words,
    )
    several.add_argument("names", nargs="*", metavar="NAME",
                         help="runs, as in `runs show`")
    _filters(several)


def _some(text: str) -> int:
    return common.least(1, text)


def _filters(p: argparse.ArgumentParser) -> None:
    p.add_argument("--method", metavar="M", help="only this method")
    p.add_argument("--dataset", metavar="D", help="only this data set")
    p.add_argument("--noise", metavar="N", help="only this noise")
    p.add_argument("--rate", type=common.rate, metavar="R",
                   help="only this nominal noise rate")
    p.add_argument("--budget", metavar="B", help=f"one of {', '.join(runs.BUDGETS)}")


def main(args: argparse.Namespace) -> int:
    return {"list": list_runs, "show": show, "compare": compare}[args.action](args)


def _found(args: argparse.Namespace) -> tuple[list[Run], int]:
    """All recorded runs, failed ones too, that the filters let through.

    What is not to be believed is left out and named on standard error; then the exit
    code is 1.
    """
    every, problems = runs.scan()
    for problem in problems:
        print(f"noisylabels: left out: {wording.plain(str(problem))}", file=sys.stderr)
    settings = [r.setting for r in every]
    known = {
        "method": {*methods.NAMES, *(s.method for s in settings)},
        "dataset": {*schema.DATASETS, *(s.dataset for s in settings)},
        "noise": {s.noise for s in settings},
        "budget": set(runs.BUDGETS),
    }
    asked = {k: v for k in (*known, "rate") if (v := getattr(args, k)) is not None}
    for what, allowed in known.items():
        if what in asked and (what != "noise" or settings):
            wording.choose(what, asked[what], sorted(allowed))
    hits = [
        r for r in every if all(getattr(r.setting, k) == v for k, v in asked.items())
    ]
    return hits, int(bool(problems))


# --------------------------------------------------------------------------------- list


def list_runs(args: argparse.Namespace) -> int:
    found, code = _found(args)
    failed = [r for r in found if not r.finished]
    wanted = failed if args.failed else [r for r in found if r.finished]
    rows: list[Sequence[object]] = []
    for run in wanted:
        s = run.setting
        who = (s.dataset, s.noise, f"{s.rate:.2f}", s.method, s.budget, s.seed)
        if args.failed:
            rows.append((*who, len(run.epochs.get("test",
                                                  ())), run.info.get("why", ""), s.key))
        else:
            rows.append(
                (
                    *who,
                    len(run.epochs["test"]),
                    *map(_short, _finals(run)),
                    wording.duration(run.info.get("seconds", math.nan)),
                    s.key,
                )
            )
    who_header = ("dataset", "noise", "rate", "method", "budget", "seed", "epochs")
    header = (*who_header, *(("why",) if args.failed else (*FINALS, "time")), "name")
    if rows:
        print(wording.table(header, rows, NAMES_LEFT) + "\n")
    print(f"{wording.count(len(wanted), 'failed run' if args.failed else 'run')} in "
          f"{wording.shown(paths.runs_dir())}" +
          (f"; {len(failed)} failed (--failed lists them)"
           if failed and not args.failed else ""))
    return code


FINALS = ("last", "mean10", "by val", "best*")


def _finals(run: Run) -> tuple[float, float, float, float]:
    return run.last(), run.mean_last(), run.by_validation(), run.best()


def _short(share: float) -> str:
    return percent(share).removesuffix(" %")


# --------------------------------------------------------------------------------- show


def show(args: argparse.Namespace) -> int:
    run = runs.resolve(args.name)
    s, info = run.setting, run.info
    if args.suspects is not None:
        print(suspects(run, args.suspects))
        return 0
    print(s)
    options = " ".join(f"{k}={wording.words_of(v)}" for k, v in s.options.items())
    subset = f"{s.max_samples:,} images at most" if s.max_samples else "all images"
    about = [
        ("options", options),
        ("data",
         f"{subset}; {_known(info, 'samples')} trained on, {_known(info, 'validation')} "
         f"for noisy validation, {_known(info, 'trusted')} trusted",
         ),
        ("seeds", f"split {s.split_seed}, noise {s.noise_seed}, init {s.init_seed}"),
        ("noise",
         percent(info.get("realised_rate", math.nan)) + f" (nominal {s.rate:.0%})",
         ), ("code", f"commit {_known(info, 'commit')}, {_known(info, 'date')}"),
        ("versions", ", ".join(f"{k} {v}"
                               for k, v in info.get("versions", {}).items())),
        ("hardware", _known(info, "hardware")),
        ("processor", _known(info, "instructions")), *_parts(info),
        ("folder", wording.shown(run.folder) if run.folder else "none"),
    ]
    print(common.old_facts(about) + "\n")
    if not run.finished:
        print(f"FAILED: {info.get('why', 'no reason recorded')}\n")
    else:
        from .train import result

        print(result(run) + "\n")
    if not len(run.epochs.get("test", ())):
        return 0
    for name in (
        "test",
        "val",
        "clean_fit",
        "wrong_fit",
        "wrong_corrected",
        "label_accuracy",
        "auc",
    ):
        column = run.epochs.get(name)
        seen = [v for v in column if not math.isnan(v)] if column is not None else []
        if len(seen) > 1 and (line := common.sparkline(seen)):
            print(f"{name:<16}{line}  {_short(seen[0])} to {_short(seen[-1])}")
    print("\n" + epochs_table(run, everything=args.epochs))
    return 0


def _parts(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """With what each part of a run was trained that went on in another process."""
    parts = info.get("parts", ())
    if len(parts) < 2:
        return []
    lines = []
    for p in parts:
        versions = ", ".join(f"{k} {v}" for k, v in p.get("versions", {}).items())
        said = [
            f"commit {p['commit']}" if "commit" in p else "",
            p.get("date", ""), versions,
            p.get("hardware", ""),
            p.get("instructions", "")
        ]
        first, last = p.get("epochs", ("?", "?"))
        lines.append((f"epochs {first}-{last}",
                      "; ".join(x for x in said if x) or "not recorded with what"))
    return lines


def suspects(run: Run, most: int) -> str:
    """The labels that a run doubts most: image, given label, and how much it doubts.

    By p(label is right) where the method says one (the mean of two networks), else by
    the cross entropy of the given label after the last epoch at which it was kept.
    Equal ones by number.
    """
    kept = run.signals
    if not kept:
        raise ValueError(
            "this run was recorded without signals; `noisylabels train ... --signals "
            "--again` trains it once more for them.")
    if "index" not in kept or "given" not in kept:
        raise ValueError(
            "the signals of this run were kept before the images' numbers were; "
            "`lab.prepare(run.setting)` makes them anew from the data: [1].index and "
            "[0].y_given.")
    by_p = [kept[k].astype(np.float64) for k in kept if k.startswith("p_clean")]
    losses = sorted((k for k in kept if re.fullmatch(r"loss-\d+", k)),
                    key=lambda k: int(k[5:]))
    if not by_p and not losses:
        raise ValueError(
            "the signals of this run hold neither p(label is right) nor losses.")
    name = "p(right)" if by_p else losses[-1]
    doubt = -np.mean(by_p, axis=0) if by_p else kept[losses[-1]].astype(np.float64)
    order = np.lexsort((kept["index"], -doubt))[:most]
    header = ["rank", "image", "given", name
              ] + (["in truth"] if "wrong" in kept else [])
    rows = []
    for rank, i in enumerate(order, 1):
        truth = ["wrong" if kept["wrong"][i] else "right"] if "wrong" in kept else []
        rows.append(
            [rank, kept["index"][i], kept["given"][i], f"{abs(doubt[i]):.7g}", *truth])
    said = (
        f"{run.setting}\n{len(rows)} of {len(doubt):,} labels, the most doubtful first; "
        f"image: its number (from 0) in the train set of {run.setting.dataset}; given: the "
        f"class")
    if "wrong" in kept:
        share = np.mean([bool(kept["wrong"][i]) for i in order])
        said += (f"\n{percent(float(share))} of these are wrong in truth, "
                 f"{percent(float(np.mean(kept['wrong'] > 0)))} of all")
    return said + "\n\n" + wording.table(header, rows, ("in truth",))


def _known(info: Mapping[str, Any], key: str) -> str:
    value = info.get(key)
    return ("not recorded" if value is None else
            f"{value:,}" if isinstance(value, int) else str(value))


def epochs_table(run: Run, everything: bool) -> str:
    """The epochs' numbers: all, or evenly chosen ones with the first and the last."""
    total = len(run.epochs["test"])
    keep = list(range(total))
    if not everything and total > TABLE_ROWS:
        keep = sorted(
            {round(i * (total - 1) / (TABLE_ROWS - 1)) for i in range(TABLE_ROWS)})
    columns = {
        k: v for k, v in run.epochs.items()
        if k == "stage" or (k != "seconds_evaluating" and any(not math.isnan(x)
                                                              for x in v))
    }
    shares = {
        k
        for k, v in columns.items()
        if k not in ("stage", "epoch", "loss", "lr")
        and not k.startswith("seconds")
        and all(math.isnan(x) or 0 <= x <= 1 for x in v)
    }

    def cell(name: str, i: int) -> str:
        value = columns[name][i]
        if name == "stage":
            return str(value)
        if math.isnan(value):
            return "–"
        return f"{100 * value:.2f}" if name in shares else f"{value:.4g}"

    text = wording.table(list(columns), [[cell(c, i) for c in columns] for i in keep],
                         NAMES_LEFT)
    left_out = f"\n{len(keep)} of {total} epochs; --epochs shows all" if len(
        keep) < total else ""
    return text + left_out


# ------------------------------------------------------------------------------ compare


def compare(args: argparse.Namespace) -> int:
    asked = any(
        getattr(args, k) is not None
        for k in ("method", "dataset", "noise", "rate", "budget"))
    if args.names and asked:
        raise ValueError(
            "`runs compare` takes names of runs or filters (--dataset ...), not both."
        )
    if args.names:
        picked = list({r.setting.key: r
                       for r in map(runs.resolve, args.names)}.values())
        code = 0
    else:
        picked, code = _found(args)
    finished = [r for r in picked if r.finished]
    if not finished:
        raise ValueError(
            f"there is nothing to compare: {len(picked)} recorded runs match and none "
            "of them is finished (see `noisylabels runs list`)."
        )
    print(
        "\n\n".join(
            budget_table(budget, group)
            for budget in runs.BUDGETS
            if (group := [r for r in finished if r.setting.budget == budget])
        )
    )
    print(
        "\nmean ± sample standard deviation over n seeds; test accuracy and wrong labels in %"
        "\nmean10: last ten epochs; by val: epoch chosen on noisy labels; best*: chosen on the "
        "test set, an oracle")
    if left := len(picked) - len(finished):
        print(
            f"{wording.count(left, 'failed run')} left out (`noisylabels runs list --failed`)"
        )
    return code


def budget_table(budget: str, group: list[Run]) -> str:
    """One line a cell. `options` says in what the cells of one method differ."""
    cells: dict[str, list[Run]] = {}
    for run in group:
        cells.setdefault(run.setting.cell.key, []).append(run)
    differing = _differing([members[0] for members in cells.values()])
    rows: list[Sequence[object]] = []
    for members in cells.values():
        s = members[0].setting
        numbers = [
            runs.mean_std(list(v)) for v in zip(*map(_finals, members), strict=True)
        ]
        wrong, _ = runs.mean_std(
            [r.info.get("realised_rate", math.nan) for r in members])
        time, _ = runs.mean_std([r.info.get("seconds", math.nan) for r in members])
        values = _flat(members[0])
        rows.append(
            (s.dataset, s.noise, f"{s.rate:.2f}", s.method,
             len(members), _short(wrong), *(spread(m, d) for m, d in numbers),
             wording.duration(time), " ".join(f"{k}={wording.words_of(values[k])}"
                                              for k in differing[s.method]
                                              if k in values),
             ))
    header = [
        "dataset", "noise", "rate", "method", "n", "wrong", *FINALS, "time", "options"
    ]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return f"{budget} budget\n" + wording.table(header, rows, NAMES_LEFT)


def _flat(run: Run) -> dict[str, object]:
    s = run.setting
    return {
        **s.options,
        "max_samples": s.max_samples,
        "trusted_per_class": s.trusted_per_class,
        "val_fraction": s.val_fraction,
    }


def _differing(firsts: list[Run]) -> dict[str, list[str]]:
    """Method -> the options in which its cells (on one data set and noise) are not all
    alike."""
    out: dict[str, list[str]] = {}
    for run in firsts:
        like = [
            _flat(r)
            for r in firsts
            if r.setting.method == run.setting.method
            and (r.setting.dataset, r.setting.noise, r.setting.rate)
            == (run.setting.dataset, run.setting.noise, run.setting.rate)
        ]
        mine = _flat(run)
        keys = [k for k in mine if any(other.get(k) != mine[k] for other in like)]
        out[run.setting.method] = list(
            dict.fromkeys([*out.get(run.setting.method, []), *keys]))
    return out
