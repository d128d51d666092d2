"""Tables of runs as HTML: a cell is never one number.

Runs that differ by seed alone are one row. Each budget has a table of its own, so that
budgets never share a column. A table scrolls by itself on a narrow page; its first
column stays.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..training.runs import BUDGETS, Run, Setting, mean_std
from . import published

Pair = tuple[float, float]
NOT_AVAILABLE = "not available"

METHODS: dict[str, tuple[str, str]] = {  # name on a page, colour
    "cross_entropy": ("Cross entropy", "#222222"), "mixup": ("Mixup", "#56B4E9"),
    "cross_entropy_averaged": ("CE, strong views, averaged", "#6E6E6E"),
    "gce": ("GCE", "#E69F00"),
    "elr": ("ELR", "#CC79A7"), "elr-cosine": ("ELR*", "#E0479E"),
    "dividemix": ("DivideMix", "#8B5A2B"), "mixnn": ("MixNN", "#0072B2"),
    "cross_entropy_trusted": ("CE with trusted", "#B8A500"), "l2r": ("L2R", "#882255"),
    "mixmatch": ("MixMatch", "#44AA99"),
    "joint_optimisation": ("Joint optimisation", "#6A51A3"),
    "dynamic_bootstrapping": ("Dynamic bootstrapping", "#117733"),
    "forward_correction": ("Forward correction", "#999933"),
    "ieg": ("IEG", "#009E73"), "drpl": ("DRPL", "#D55E00"), "sanm": ("SANM", "#7A5195"),
}  # fmt: skip

PRINTED = {"mixmatch-kl": "MixMatch-KL", "ieg-no-mixup": "IEG without MixUp",
           "sanm-c2d": "SANM with C2D", "elr+": "ELR+", "c2d-elr+": "C2D with ELR+",
           "c2d-dividemix": "C2D with DivideMix", "mentornet": "MentorNet",
           "self-learning": "Self-learning"}
"""Names of methods that are printed and that we run as another with options, or not at
all."""

DATASETS = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet32": "ImageNet32",
    "imagenet64": "ImageNet64", "clothing1m": "Clothing1M", "animal10n": "Animal-10N",
    "food101n": "Food101N", "mini-webvision": "mini-WebVision",
    "mini-webvision-ilsvrc12": "mini-WebVision, tested on ILSVRC12",
}  # fmt: skip


def name_of(method: str) -> str:
    """The method's name on a page: `cross_entropy` is "Cross entropy", and
    `elr-cosine`, as `published.Number.method` and `Cell.printed_method` say it,
    "ELR*"."""
    return METHODS.get(method, (PRINTED.get(method, method.replace("_", " ")), ""))[0]


def method_of(s: Setting) -> str:
    """The method of our run as a printed table would name it: `elr` whose learning rate
    is restarted is `elr-cosine`, ELR*."""
    restarts = s.method == "elr" and s.options.get("schedule") == "restarts"
    return "elr-cosine" if restarts else s.method


def data_name(dataset: str) -> str:
    """The data set's name on a page: `cifar10` is "CIFAR-10"."""
    return DATASETS.get(dataset, dataset)


def noise_name(kind: str, rate: float | None) -> str:
    """A kind of noise with its rate; human labels have none to name."""
    if kind == "none":
        return "no noise"
    return kind if rate is None or "human" in kind else f"{kind} {100 * rate:g}\u00a0%"


class Html:
    """A piece of a page. Shown by a notebook as it is; `text` stands in for it
    elsewhere."""

    def __init__(self, markup: str, text: str = "") -> None:
        self.markup, self.text = markup, text

    def html(self, alt: str = "") -> str:
        return self.markup.replace("{alt}", html.escape(alt or self.text, quote=True))

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.text or "(a table or figure, shown on the page)"


@dataclass(frozen=True)
class Summary:
    """The finished runs of one cell, summed up; accuracies in per cent as (mean, sample
    std).

    setting: the cell, a setting without its seeds. runs: may be empty (not run).
    failed: how many runs broke down. by_validation: at the epoch chosen on noisy
    labels. best: the oracle. All but the last epoch look at the last stage alone.
    """

    setting: Setting
    runs: tuple[Run, ...]
    failed: int = 0

    @property
    def n(self) -> int:
        return len(self.runs)

    def over(self, number: Callable[[Run], float]) -> Pair:
        """Mean and sample standard deviation over the runs of a number; NaN where one
        has none."""
        values = [number(r) for r in self.runs]
        known = values and not any(math.isnan(v) for v in values)
        return mean_std(values) if known else (math.nan, math.nan)

    @property
    def last(self) -> Pair:
        return self.over(lambda r: 100 * r.last())

    @property
    def mean_last_10(self) -> Pair:
        return self.over(lambda r: 100 * mean_last_10(r))

    @property
    def by_validation(self) -> Pair:
        return self.over(lambda r: 100 * r.by_validation())

    @property
    def best(self) -> Pair:
        return self.over(lambda r: 100 * r.best())

    @property
    def realised_rate(self) -> Pair:
        return self.over(lambda r: 100 * r.info["realised_rate"])

    @property
    def seconds(self) -> float:
        """Mean wall time of a run."""
        return self.over(lambda r: r.info["seconds"])[0]

    @property
    def hardware(self) -> list[str]:
        return sorted({str(r.info["hardware"]) for r in self.runs})

    def metric(self, name: str) -> list[float]:
        """One accuracy a seed in per cent, in a printed number's metric (see
        `published.METRICS`)."""
        read: dict[str, Callable[[Run], float]] = {
            "last": Run.last, "best": Run.best, "mean_last_10": mean_last_10}
        return [100 * read[published.METRICS[name]](r) for r in self.runs]


def mean_last_10(run: Run) -> float:
    """Mean test accuracy of the last stage's last ten epochs; of its last ten ends of a
    cycle where the learning rate is restarted."""
    test = run.last_stage()
    if run.setting.options.get("schedule") == "restarts":
        period = int(run.setting.options["period"])
        ends = test[period - 1 :: period]
        test = ends if len(ends) else test
    return float(np.mean(test[-10:]))


def summaries(runs: Iterable[Run], wanted: Iterable[Setting] = ()) -> list[Summary]:
    """Runs grouped by cell; the cells of `wanted` come first and stand even without a
    run."""
    # by key: a setting that was read back holds lists where a new one holds tuples
    cells: dict[str, tuple[Setting,
                           list[Run]]] = {s.cell.key: (s.cell, []) for s in wanted}
    for run in runs:
        cell = run.setting.cell
        cells.setdefault(cell.key, (cell, []))[1].append(run)
    return [
        Summary(cell, tuple(r for r in members if r.finished),
                sum(not r.finished for r in members))
        for cell, members in cells.values()
    ]


def reference(s: Setting) -> published.Cell | None:
    """The printed number that this cell is to be held against, or None.

    At the paper budget its network and options are the printed ones; other budgets have
    their own, so any printed number of the same method, data and noise will do, first
    things first.
    """
    if s.dataset not in {c.dataset for c in published.load_cells()}:
        return None
    for cell in published.load_cells():
        same = (cell.method, cell.dataset, cell.noise) == (s.method, s.dataset, s.noise)
        rate = cell.rate is None or math.isclose(cell.rate, s.rate, abs_tol=1e-9)
        fits = cell.published_value is not None and cell.metric in published.METRICS
        if same and rate and fits and (s.budget != "paper" or _as_printed(cell, s)):
            return cell
    return None


def _as_printed(cell: published.Cell, s: Setting) -> bool:
    options = dict(pair.split("=", 1) for pair in cell.options.split(";") if pair)
    network = s.options.get("network") == cell.network
    return (network and cell.trusted_per_class == s.trusted_per_class
            and all(str(s.options.get(k)) == v for k, v in options.items()))


# ------------------------------------------------------------------------------- markup

STYLE = """<style>
.nl-scroll{overflow-x:auto;max-width:100%;margin:0.4rem 0 1rem}
.nl-scroll table.nl{display:table;border-collapse:collapse;width:auto;
max-width:none;margin:0;font-size:0.82rem;line-height:1.35;overflow:visible}
.nl-scroll table.nl caption{caption-side:top;text-align:left;font-weight:600;
padding:0.2rem 0}
.nl th,.nl td{padding:0.3rem 0.45rem;text-align:left;vertical-align:top;border:0;
border-bottom:1px solid var(--pst-color-border,#ddd);background:none}
.nl thead th{border-bottom-width:2px;vertical-align:bottom;min-width:3.2rem}
.nl td.num{white-space:nowrap;font-variant-numeric:tabular-nums}
.nl tbody th{position:sticky;left:0;font-weight:600;min-width:6.8rem;max-width:10rem;
background:var(--pst-color-background,#fff)}
.nl small{display:block;font-size:0.92em;font-weight:400;
color:var(--pst-color-text-muted,#555)}
.nl .oracle{color:var(--pst-color-text-muted,#6b6b6b);font-weight:400}
.nl .wide{min-width:13rem}.nl .half{min-width:7rem}.nl .said{min-width:10.5rem}
.nl-fold{border-bottom:1px solid var(--pst-color-border,#ddd);padding:0.35rem 0;
line-height:1.45}
.nl-fold summary{cursor:pointer}
.nl-fold p{margin:0.3rem 0 0.3rem 1.1rem;font-size:0.9rem}
.nl-state{display:inline-block;border-radius:0.6rem;padding:0 0.55rem;
margin-right:0.45rem;font-size:0.8rem;font-weight:600;white-space:nowrap;
color:#222;background:#dcdcdc}
.nl-state.good{color:#fff;background:#00734f}
.nl-state.bad{color:#fff;background:#b54a00}
.nl-state.half{color:#222;background:#f0c468}
.nl-state.good.soft{color:#00452f;background:#cdebdd}
.nl-state.bad.soft{color:#7a3200;background:#fbdcc6}
.nl-state.open{color:inherit;background:none;box-shadow:inset 0 0 0 1px #8c8c8c}
.nl-note{font-size:0.82rem;margin-top:-0.7rem}
</style>"""


def markup(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]],
           classes: Mapping[str, str] | None = None) -> str:
    """A table that scrolls by itself; its cells are HTML, the first of a row is its
    head. `STYLE` must stand once before it."""
    kinds = [(classes or {}).get(h, "") for h in header]
    head = "".join(f'<th scope="col" class="{k}">{h}</th>'
                   for h, k in zip(header, kinds, strict=True))
    body = ""
    for row in rows:
        cells = "".join(f'<td class="{k}">{c}</td>'
                        for c, k in zip(row[1:], kinds[1:], strict=True))
        body += f'<tr><th scope="row">{row[0]}</th>{cells}</tr>'
    top = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="nl-scroll" tabindex="0"><table class="nl">{top}<thead><tr>{head}'
        f"</tr></thead><tbody>{body}</tbody></table></div>")


def plain_table(header: Sequence[str], rows: Iterable[Sequence[object]], *,
                caption: str = "", wide: Sequence[str] = ()) -> Html:
    """A table of texts, a row a sequence. Columns of numbers have even figures; those
    named in `wide` hold sentences. Nothing in a cell is read as HTML. Raises ValueError
    for a row of another length than the header."""
    raw = [[str(cell) for cell in row] for row in rows]
    words = [[html.escape(cell) for cell in row] for row in raw]
    if any(len(row) != len(header) for row in words):
        raise ValueError(f"every row must have {len(header)} cells, as the header has.")
    number = re.compile(r"[-+\u2013]?[\d.,]*( \u00b1 [\d.]+)?(\s?%)?|\u2013")
    names = [html.escape(name) for name in header]
    kinds = {name: "num" for i, name in enumerate(names)
             if all(number.fullmatch(row[i]) for row in words)}
    kinds |= {html.escape(name): "wide" for name in wide}
    text = "; ".join(", ".join(row) for row in raw)
    return Html(STYLE + markup(html.escape(caption), names, words, kinds), text)


def folded(summary: str, inner: Html) -> Html:
    """A table that a reader opens."""
    return Html(
        f'{STYLE}<details class="nl-fold"><summary>{html.escape(summary)}</summary>'
        f"{inner._repr_html_()}</details>", summary)


def plus_minus(pair: Pair, n: int, digits: int = 1) -> str:
    """`87.1 ± 0.3` of a mean and a standard deviation; a dash where there is no
    number."""
    mean, std = pair
    if n == 0 or math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if n > 1 else "")


def badge(state: str, budget: str = "", told: str = "") -> str:
    """A state of `ledger.STATES` with a colour of its own; the word always says it too.

    A direction is paler than a verdict on a number; `budget` is named in brackets,
    `told` is the sentence behind the state.
    """
    kinds = {
        "reproduced": "good", "direction holds": "good soft", "not reproduced": "bad",
        "direction does not hold": "bad soft", "partly": "half", "no check yet": "open"
    }
    said = f"{state} ({budget})" if budget else state
    title = f' title="{html.escape(told, quote=True)}"' if told else ""
    return (f'<span class="nl-state {kinds.get(state, "")}"{title}>'
            f'{html.escape(said)}</span>')


def printed_number(cell: published.Cell) -> str:
    """A printed number with the definition it was printed with: `53.04 ± 1.04 (best
    epoch)`, or `≈ 92 (relayed, epoch not stated)` where the source has rounded it."""
    if cell.published_value is None:
        return NOT_AVAILABLE
    how = {
        "mean10": "mean of last ten epochs", "not stated": "epoch not stated",
        "top-1": "top-1 accuracy, epoch not stated",
        "top-5": "top-5 accuracy, epoch not stated"
    }.get(cell.metric, f"{cell.metric} epoch")
    number = published.number_of(cell)
    if number is not None and number.about:
        return f"≈ {cell.published_value:g} ({number.confidence}, {how})"
    std = f" ± {cell.published_std:.2f}" if cell.published_std is not None else ""
    return f"{cell.published_value:.2f}{std} ({how})"


def duration(seconds: float) -> str:
    """Seconds in words: `7 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def table(cells: Iterable[Summary], *, caption: str = "", rival: str = "",
          claim_holds: Callable[[Summary], bool | None] = lambda s: None) -> Html:
    """Summed-up cells as tables, one a budget; the caption names the budget and the
    hardware.

    A row holds the realised noise rate, the last epoch (the headline), the mean of the
    last ten epochs, the epoch chosen on noisy validation labels, the oracle in grey and
    the time. At the paper budget also the paper's number with its own metric and
    source, and the verdict: other budgets are not held against printed numbers.

    Args:
        rival: a method of the table; a column then has the difference of each other
            method to it, last epoch, over the seeds both have, with its 95 % interval
            and answer (`published.compare`).
        claim_holds: whether the claim that a cell's printed number serves holds (None:
            nothing was compared, or it is not settled), for "partly" at the paper
            budget.
    """
    cells = list(cells)
    parts = []
    for budget in sorted({c.setting.budget for c in cells}, key=BUDGETS.index):
        chosen = [c for c in cells if c.setting.budget == budget]
        hardware = sorted({_short(h) for c in chosen for h in c.hardware})
        title = (f"{caption + ', ' if caption else ''}{budget} budget; accuracy in %"
                 + (f"; on {'; '.join(hardware)}" if hardware else ""))
        header = [
            "Method", "Last epoch", "Mean of last 10", "By noisy val.", "Best (oracle)",
            "A run takes"
        ]
        kinds = dict.fromkeys(header[1:5], "num") | {"Best (oracle)": "num oracle"}
        rows = [_row(c, _name(c, chosen)) for c in chosen]
        if rival:
            header.append(f"Minus {name_of(rival)}")
            kinds[header[-1]] = "half"
            rows = [[*row, _minus(c, rival, chosen)]
                    for row, c in zip(rows, chosen, strict=True)]
        printed = [reference(c.setting) if budget == "paper" else None for c in chosen]
        if any(printed):
            header += ["Published", "Verdict"]
            kinds |= {"Published": "half"}
            rows = [[*row, _printed(ref), _verdict(c, ref, claim_holds(c))]
                    for row, c, ref in zip(rows, chosen, printed, strict=True)]
        parts.append(
            markup(html.escape(title), list(map(html.escape, header)), rows, kinds))
        if budget == "paper" and not any(printed):
            parts.append(
                '<p class="nl-note">No paper prints a number for these settings.</p>')
    text = "; ".join(f"{method_of(c.setting)}: {plus_minus(c.last, c.n)}"
                     for c in cells)
    return Html(STYLE + "".join(parts) if parts else "<p>No cell was asked for.</p>",
                text)


def summary_table(
        runs: Iterable[Run], wanted: Iterable[Setting] = (), *, caption: str = "",
        rival: str = "", claim_holds: Callable[[Summary],
                                               bool | None] = lambda s: None) -> Html:
    """`table` of runs grouped by cell; cells of `wanted` that have no run say "not
    run"."""
    return table(summaries(runs, wanted), caption=caption, rival=rival,
                 claim_holds=claim_holds)


def _row(c: Summary, name: str) -> list[str]:
    failed = f", {c.failed} failed" if c.failed else ""
    if c.n == 0:
        return [name, f"not run{failed}", "–", "–", "–", "–"]
    validation = plus_minus(c.by_validation, c.n)
    return [
        name,
        f"{_stacked(plus_minus(c.last, c.n), 'b')}<small>n = {c.n}{failed}</small>",
        _stacked(plus_minus(c.mean_last_10, c.n)),
        _stacked(validation) if validation != "–" else "–<small>no split</small>",
        _stacked(plus_minus(c.best, c.n)),
        duration(c.seconds)
    ]


def _minus(c: Summary, rival: str, among: Sequence[Summary]) -> str:
    """The cell of a row in the column of differences to a rival of the same data and
    noise."""
    s = c.setting
    others = [o for o in among if o.setting.method == rival and o.n
              and (o.setting.dataset, o.setting.noise, o.setting.rate) == (
                  s.dataset, s.noise, s.rate)]
    if s.method == rival or not others or not c.n:
        return "–"
    found = published.compare(c.runs, others[0].runs)
    said = (f"unequal training: {found.unequal}" if found.unequal
            else found.paired.answer)
    return f"{found.paired.short}<small>{html.escape(said)}</small>"


def _verdict(c: Summary, printed: published.Cell | None, holds: bool | None) -> str:
    """The badge of a row; its sentence shows when the mouse is on it."""
    ours = c.metric(printed.metric) if printed else [100 * r.last() for r in c.runs]
    said = published.verdict(c.setting.budget, ours,
                             printed.published_value if printed else None,
                             printed.published_std if printed else None, holds)
    return badge(said.state, told=said.sentence)


def _stacked(text: str, tag: str = "span") -> str:
    """A mean with its standard deviation below it, so that the column stays narrow."""
    mean, mark, std = text.partition(" ± ")
    return f"<{tag}>{mean}</{tag}>" + (f"<small>±{std}</small>" if mark else "")


def _printed(cell: published.Cell | None) -> str:
    if cell is None:
        return NOT_AVAILABLE
    number, how = printed_number(cell).removesuffix(")").split(" (", 1)
    told = html.escape(f"{how}, {cell.network}; {cell.source}")
    return f"{html.escape(number)}<small>{told}</small>"


def _name(c: Summary, among: Sequence[Summary]) -> str:
    """The method, and below it what tells this row from the others of its table."""
    s = c.setting
    said = [data_name(s.dataset), noise_name(s.noise, s.rate)]
    for other in among:
        o = other.setting
        if o.key != s.key and (o.method, o.dataset, o.noise, o.rate) == (
                s.method, s.dataset, s.noise, s.rate):
            said += _differences(s, o)
    if c.n:
        said.append(f"{c.realised_rate[0]:.1f} % of labels wrong")
    return (f"{html.escape(name_of(method_of(s)))}"
            f"<small>{html.escape(', '.join(dict.fromkeys(said)))}</small>")


def _differences(s: Setting, o: Setting) -> list[str]:
    fields = ("max_samples", "trusted_per_class", "val_fraction")
    out = [f"{f} {getattr(s, f)}" for f in fields if getattr(s, f) != getattr(o, f)]
    return out + [f"{k} {v}" for k, v in s.options.items() if o.options.get(k) != v]


def _short(hardware: str) -> str:
    """A processor's or GPU's name without its trade marks."""
    words: dict[str, Any] = {
        "(R)": "", "(TM)": "", "NVIDIA ": "", " CPU": "", " Processor": ""
    }
    for long, short in words.items():
        hardware = hardware.replace(long, short)
    return " ".join(hardware.split())
