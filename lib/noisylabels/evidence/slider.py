"""A picture with a slider over the epochs: a few kilobytes of script, no library.

It works from a file, without a network and on a phone; with the arrow keys too. Without
script, and on paper, the first picture stands.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import numpy as np

from .figures import ROLES
from .tables import Html

WIDTH, HEIGHT, FOOT = 480, 190, 34

SCRIPT = """
(function () {
  var box = document.currentScript.closest("figure"), data = DATA;
  var range = box.querySelector("input"), said = box.querySelector("output");
  var bars = box.querySelectorAll("svg rect");
  function draw() {
    var i = +range.value, row = data.rows[i], n = data.bins;
    said.textContent = data.words[i];
    range.setAttribute("aria-valuetext", data.words[i]);
    for (var b = 0; b < 2 * n; b++) {
      var h = row[b] * data.height / data.most;
      bars[b].setAttribute("height", h);
      bars[b].setAttribute("y", data.height - h);
    }
  }
  range.addEventListener("input", draw);
  draw();
})();
"""


def histograms(values: np.ndarray, wrong: np.ndarray, epochs: Sequence[int],
               words: Sequence[str], *, low: float, high: float, start: int,
               ticks: Sequence[tuple[float, str]], label: str, alt: str,
               bins: int = 30) -> Html:
    """Two histograms, of right and of wrong labels, with a slider over the epochs.

    Args:
        values: (E, N), a number of each sample after each epoch; clipped to [low,
            high].
        wrong: bool (N,).
        epochs: the E epochs; words: what is said under the picture at each of them.
        start: index of the epoch shown first.
        ticks: (place, name) on the axis that `label` names.
        alt: what a reader who cannot see would be told.

    Raises ValueError where the lengths do not fit.
    """
    wrong = np.asarray(wrong, bool)
    if values.shape != (len(epochs), len(wrong)) or len(words) != len(epochs):
        raise ValueError(
            f"values of shape {values.shape}, {len(epochs)} epochs, {len(words)} texts "
            f"and {len(wrong)} samples do not fit together.")
    if not alt.strip():
        raise ValueError("a picture needs a text that stands in for it (alt).")
    clipped = np.clip(values, low, high)
    rows = [[*np.histogram(row[~wrong], bins, (low, high))[0].tolist(),
             *np.histogram(row[wrong], bins, (low, high))[0].tolist()]
            for row in clipped]
    most = max(max(row) for row in rows) or 1
    data = {"rows": rows, "words": list(words), "bins": bins, "height": HEIGHT,
            "most": most}
    step = WIDTH / bins
    bars = []
    for side, colour in enumerate((ROLES["right"], ROLES["wrong"])):
        for b in range(bins):
            tall = rows[start][side * bins + b] * HEIGHT / most
            bars.append(f'<rect x="{b * step:.1f}" width="{step - 1:.1f}" '
                        f'y="{HEIGHT - tall:.1f}" height="{tall:.1f}" fill="{colour}" '
                        'fill-opacity="0.55"/>')
    axis = "".join(
        f'<text x="{(place - low) / (high - low) * WIDTH:.1f}" y="{HEIGHT + 14}" '
        f'text-anchor="middle">{html.escape(name)}</text>' for place, name in ticks)
    svg = (f'<svg viewBox="-12 -4 {WIDTH + 24} {HEIGHT + FOOT + 4}" role="img" '
           f'aria-label="{html.escape(alt)}" '
           f'style="width:100%;max-width:{WIDTH + 24}px;'
           'font:11px sans-serif;fill:currentColor">' + "".join(bars)
           + f'<line x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}" '
           f'stroke="currentColor"/>{axis}<text x="{WIDTH / 2:.0f}" '
           f'y="{HEIGHT + 30}" text-anchor="middle">{html.escape(label)}</text></svg>')
    key = "".join(
        f'<span style="color:{ROLES[role]}">■</span> {role} labels&emsp;'
        for role in ("right", "wrong"))
    control = (f'<input type="range" min="0" max="{len(epochs) - 1}" value="{start}" '
               'step="1" aria-label="Epoch" style="width:100%;max-width:480px">')
    script = SCRIPT.replace("DATA", json.dumps(data, separators=(",", ":"))
                            .replace("</", "<\\/"))
    return Html(
        f'<figure style="margin:0.5rem 0"><div>{key}</div>{svg}<div>{control}</div>'
        f"<output>{html.escape(words[start])}</output><script>{script}</script>"
        "</figure>",
        f"a picture with a slider over {len(epochs)} epochs")
