"""The ledger on a page: claims that unfold and can be chosen, printed numbers by table.

What is shown is decided in `ledger`; nothing here judges.
"""

from __future__ import annotations

import html
import math
import statistics
from collections import Counter
from collections.abc import Iterable

from . import published
from .ledger import BUDGETS, STATES, Entry, Target
from .published import Cell
from .tables import (
    STYLE,
    Html,
    badge,
    data_name,
    markup,
    name_of,
    noise_name,
    plain_table,
    plus_minus,
    printed_number,
)

PAPERS = {"mixnn": "MixNN", "ieg": "IEG", "drpl": "DRPL", "sanm": "SANM",
          "secondhand": "Other works"}


OPTIONS = {
    "schedule=restarts": "cosine restarts",
    "transition=estimated": "estimated transition matrix",
    "k=0": "without consistency term", "mix=no": "without MixUp",
    "epochs=150": "150 epochs",
}
"""Options of a printed row, in words."""


def overview(entries: Iterable[Entry]) -> Html:
    """How many claims of each paper are in which state."""
    entries = list(entries)
    states = [s for s in STATES if any(e.verdict.state == s for e in entries)]
    papers = [p for p in PAPERS if any(e.claim.paper == p for e in entries)]
    count = {(p, s): sum(e.claim.paper == p and e.verdict.state == s for e in entries)
             for p in papers for s in states}
    rows = [[
        PAPERS[p],
        sum(count[p, s] for s in states), *(count[p, s] for s in states)
    ] for p in papers]
    totals = ["All", len(entries), *(sum(count[p, s] for p in papers) for s in states)]
    return plain_table(["Paper", "Claims", *(s.capitalize() for s in states)],
                       [*rows, totals])


CHOICE = """
(function () {
  var box = document.currentScript.closest(".nl-ledger");
  var picks = box.querySelectorAll("select"), said = box.querySelector("output");
  var all = box.querySelectorAll("details");
  function choose() {
    var shown = 0;
    all.forEach(function (d) {
      var fits = Array.prototype.every.call(picks, function (p) {
        return !p.value || d.getAttribute("data-" + p.name) === p.value;
      });
      d.hidden = !fits;
      shown += fits;
    });
    said.textContent = shown + " of " + all.length + " claims";
  }
  picks.forEach(function (p) { p.addEventListener("change", choose); });
  choose();
})();
"""


def claim_list(entries: Iterable[Entry]) -> Html:
    """Claims that unfold, by state: the state, the claim and what runs show so far;
    inside, what was compared and the source. Of several papers or states one can
    choose."""
    entries = sorted(entries, key=lambda e: STATES.index(e.verdict.state))
    if not entries:
        return Html("<p>No claim is in this state.</p>", "no claim")
    parts = [_claim(e) for e in entries]
    states = list(dict.fromkeys(e.verdict.state for e in entries))
    papers = [p for p in PAPERS if any(e.claim.paper == p for e in entries)]
    picks = [_pick("state", "State", {s: s for s in states}),
             _pick("paper", "Paper", {p: PAPERS[p] for p in papers})]
    choice = "".join(picks) + f"<output>{len(parts)} claims</output>"
    script = f"<script>{CHOICE}</script>"
    if len(states) < 2 and len(papers) < 2:
        choice = script = ""
    return Html(f'{STYLE}<div class="nl-ledger"><p>{choice}</p>{"".join(parts)}{script}'
                "</div>", f"{len(parts)} claims")


def _pick(name: str, label: str, options: dict[str, str]) -> str:
    """A menu of one of the options, or of all; nothing where there is no choice."""
    if len(options) < 2:
        return ""
    listed = "".join(f'<option value="{html.escape(v)}">{html.escape(text)}</option>'
                     for v, text in {"": "all", **options}.items())
    return f'<label>{label} <select name="{name}">{listed}</select></label>&emsp;'


def _claim(e: Entry) -> str:
    c = e.claim
    lines = [("State", f"{e.verdict.sentence} {e.would_take}".strip()),
             ("Printed", c.target), ("What would show it", c.shows),
             ("Where", f"{c.where}. {c.source} ({c.confidence})"), ("Name", c.id)]
    said = [f"<b>{name}:</b> {_text(text)}" for name, text in lines if text]
    links = ", ".join(f'<a href="{html.escape(p)}.html">{html.escape(_title(p))}</a>'
                      for p in c.page.split() if published.PAGE.fullmatch(p))
    if links:
        said.insert(1, f"<b>Looked at outside the rules:</b> {links}")
    inside = "".join(f"<p>{text}</p>" for text in said)
    small = e.budget if e.budget not in (None, BUDGETS[0]) else ""
    seen = f" <small>Seen at {_text(e.finding)}.</small>" if e.finding else ""
    return (f'<details class="nl-fold" data-state="{html.escape(e.verdict.state)}" '
            f'data-paper="{html.escape(c.paper)}"><summary>'
            f"{badge(e.verdict.state, small or '')}"
            f"<b>{html.escape(PAPERS[c.paper])}</b> {_text(c.claim)}{seen}</summary>"
            f"{inside}</details>")


def _text(text: str) -> str:
    """Text for a page, in which a number and its per cent sign stay together."""
    return html.escape(text).replace(" %", "\u00a0%")


def _title(page: str) -> str:
    """What a page is called in a link: `small_loss` is "small loss"."""
    return PAPERS.get(page, page.replace("_", " "))


def target_list(targets: Iterable[Target]) -> Html:
    """Printed numbers: in one table those with runs of ours, the rest folded by the
    table they stand in, one line each."""
    tables: dict[tuple[str, str], list[Target]] = {}
    for t in targets:
        tables.setdefault((t.cell.paper, t.cell.table), []).append(t)
    every = [t for members in tables.values() for t in members]
    beside = [t for t in every if t.ours is not None
              and t.ours.setting.budget == BUDGETS[0]]
    shown = "" if not beside else markup(
        "", ["Method", "Printed", "Ours", "State"], [_target_row(t) for t in beside],
        {"Printed": "num", "Ours": "num"})
    parts = [_folded(name, members) for (_, name), members in tables.items()]
    return Html(STYLE + shown + "".join(parts), f"{len(every)} printed numbers")


def _folded(name: str, members: list[Target]) -> str:
    """A printed table: how many of its numbers have runs, then each in a line."""
    what = "number" if any(t.cell.published_value is not None
                           for t in members) else "setting"
    heads = Counter((_target_head(t.cell), t.cell.metric) for t in members)
    seen = {b: sum(t.ours is not None and t.ours.setting.budget == b for t in members)
            for b in BUDGETS}
    shut = Counter(t.cell.why_not for t in members if not t.cell.runnable)
    said = f"{len(members)} {what}{'s' if len(members) > 1 else ''}, " + (", ".join(
        f"{n} with runs of ours at the {b} budget"
        for b, n in seen.items() if n) or "none with runs of ours")
    said += f", {shut.total()} cannot be run here" if shut else ""
    lines = []
    for t in members:
        method, named = _target_head(t.cell)
        told = f"<b>{html.escape(method)}</b> {html.escape(named)}: "
        told += html.escape(printed_number(t.cell))
        if heads[_target_head(t.cell), t.cell.metric] > 1:
            told += f". {html.escape(t.cell.source)}"
        lines.append(f"<li>{told}</li>")
    notes = ["; ".join(dict.fromkeys(t.cell.source for t in members)),
             *(f"Cannot be run here ({n}): {why}." for why, n in shut.items())]
    return (f'<details class="nl-fold"><summary><b>{html.escape(name)}</b>: {said}'
            f"</summary>{''.join(f'<p>{html.escape(n)}</p>' for n in notes)}"
            f"<ul>{''.join(lines)}</ul></details>")


def _target_head(c: Cell) -> tuple[str, str]:
    """The method as it was printed, and what tells its row from the others of the
    table."""
    name = name_of(c.printed_method)
    pairs = [p for p in c.options.split(";") if p and p != f"network={c.network}"]
    named = [data_name(c.dataset), noise_name(c.noise, c.rate), c.network,
             *(OPTIONS.get(p, p.replace("=", " = ").replace("_", " ")) for p in pairs)]
    if c.trusted_per_class:
        named.append(f"{c.trusted_per_class} trusted per class")
    return name, ", ".join(named)


JUDGED = ("reproduced", "partly", "not reproduced", "too few runs")
"""States of a number whose sentence says more than the table's caption."""


def _target_row(t: Target) -> list[str]:
    """A number with ours beside it, of the paper budget: no other is to be compared."""
    c = t.cell
    assert t.ours is not None
    name, named = _target_head(c)
    values = t.ours.metric(c.metric)
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    ours = (f"{plus_minus((statistics.fmean(values), spread), len(values))}"
            f"<small>n = {len(values)}</small>")
    number, how = (printed_number(c).removesuffix(")").split(" (", 1) + [""])[:2]
    head = (f"{html.escape(name)}<small>{html.escape(named)}</small>"
            f"<small>{html.escape(c.table)}</small>")
    return [head, f"{html.escape(number)}<small>{html.escape(how)}</small>", ours,
            f"{badge(t.verdict.state)}<small>{html.escape(t.verdict.sentence)}</small>"]
