"""The figures and tables of the pages, one look for all.

A figure makes one point. It is drawn by one function here, which returns a matplotlib
`Figure`, and put on the page by `show(figure, alt="what one sees")`. Several figures
given to `show` stand side by side where there is room and one below the other on a
phone.

Colours have fixed roles (Okabe-Ito, told apart by colour-blind readers): blue for right
labels, vermillion for wrong ones, green for the true class, grey for the oracle that
nobody has. Tables of runs are `summary_table` and `table` (in `tables`).
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels import mixtures
from ..training.runs import Run
from .tables import (
    METHODS,
    Html,
    Summary,
    data_name,
    folded,
    method_of,
    name_of,
    plain_table,
    summaries,
    summary_table,
    table,
)

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"
ORANGE, SKY, PURPLE, BLACK = "#E69F00", "#56B4E9", "#CC79A7", "#222222"
ROLES = {"right": BLUE, "wrong": VERMILLION, "true": GREEN, "oracle": GREY}
"""What a colour means, on every page."""
CLASSES = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK, "#B8A500", "#882255", "#6A51A3",
           "#8B5A2B")
"""Ten colours for ten classes; always with the class written beside them."""

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 2)))

# name on a page, colour; those not listed keep theirs
COLUMNS: dict[str, tuple[str, str]] = {
    "test": ("Test accuracy", BLACK),
    "val": ("Accuracy on noisy validation labels", ORANGE), "clean_fit":
        ("Right labels learnt", BLUE), "wrong_fit": ("Wrong labels learnt", VERMILLION),
    "wrong_corrected": ("True class said instead", GREEN), "label_accuracy":
        ("Targets that are right", GREEN), "auc": ("AUC of p_clean", PURPLE), "loss":
            ("Training loss", BLACK), "lr": ("Learning rate", GREY),
}  # fmt: skip
SHARES = ("test", "val", "clean_fit", "wrong_fit", "wrong_corrected", "label_accuracy",
          "auc")

SMALL, WIDE = (4.0, 3.0), (5.4, 3.4)  # inches; a phone shows SMALL nearly at its size
HEAVY = 60_000  # bytes; a drawing that is heavier as svg is shown as png


def colour_of(method: str) -> str:
    """The method's colour in every figure (black for one that is not listed)."""
    return METHODS.get(method, ("", BLACK))[1]


# ------------------------------------------------------------------------- the one look


def style() -> None:
    """Set the look of all figures. Called by every figure here; harmless to call
    again."""
    import seaborn as sns

    sns.set_theme(
        context="notebook", style="ticks", palette=list(CLASSES), rc={
            "figure.figsize": SMALL, "figure.dpi": 110, "savefig.facecolor": "white",
            "font.family": "sans-serif", "font.size": 10.5, "axes.titlesize": 11,
            "axes.titleweight": "bold", "axes.titlelocation": "left",
            "axes.labelsize": 10.5, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5,
            "legend.fontsize": 9.5, "legend.frameon": False, "axes.spines.top": False,
            "axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6",
            "grid.linewidth": 0.8, "lines.linewidth": 1.9,
            "svg.hashsalt": "noisylabels", "svg.fonttype": "path",
            "image.interpolation": "nearest",
        })  # fmt: skip
    try:
        from IPython.core.getipython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:  # a bare Python; figures can still be saved
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg")


def axes(ax: Any = None, size: tuple[float, float] = SMALL) -> Any:
    """`ax` itself, or the axes of a new figure of that size in inches, in our look.

    pyplot does not know the figure, so a notebook never draws it by itself at the end
    of a cell: it comes to a page by `show` alone, with the text that stands in for it.
    """
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    style()
    return Figure(figsize=size, layout="constrained").subplots()


def show(*figures: Any, alt: str | Sequence[str], kind: str = "auto") -> None:
    """Put figures on the page, with the text that stands in for them.

    Args:
        figures: matplotlib figures, or what `image_grid` returns. Several stand side by
            side where the page is wide enough.
        alt: what a reader who cannot see would be told, one sentence a figure: what is
            drawn and what it shows. One text for several figures describes them
            together.
        kind: "svg" for lines, "png" for what has many points; "auto" takes svg unless
            it is heavy.

    Raises ValueError without figures, for an empty alt and for another kind.
    """
    from IPython.display import display

    if not figures:
        raise ValueError("show takes at least one figure.")
    if kind not in ("auto", "svg", "png"):
        raise ValueError(f"unknown kind {kind!r}; allowed: auto, svg, png.")
    said = [alt] if isinstance(alt, str) else list(alt)
    if isinstance(alt, str):  # the others refer to it: no picture is without words
        n = len(figures)
        said += [
            f"Picture {i} of {n}, described with the first." for i in range(2, n + 1)
        ]
    if len(said) != len(figures) or not all(t.strip() for t in said):
        raise ValueError(
            "alt must say in words what the figure shows, one text a figure.")
    parts = [f.html(alt=text) if isinstance(f, Html) else _img(f, text, kind)
             for f, text in zip(figures, said, strict=True)]
    flex = "display:flex;flex-wrap:wrap;gap:0.5rem 1rem;align-items:flex-start"
    display(Html(f'<div style="{flex}">{"".join(parts)}</div>', " ".join(said)))


def markup_of(figure: Any, alt: str, kind: str = "auto") -> str:
    """The figure as HTML, as `show` would draw it, for a page that is no notebook."""
    if not alt.strip():
        raise ValueError("alt must say in words what the figure shows.")
    return _img(figure, alt, kind)


def _img(figure: Any, alt: str, kind: str) -> str:
    """The figure as an <img> that carries its picture and says its size, so that
    nothing on the page moves when the picture is drawn."""
    figure = getattr(figure, "figure", figure)  # axes will do too
    svg = _saved(figure, "svg") if kind != "png" else b""
    use_svg = kind == "svg" or (kind == "auto" and len(svg) <= HEAVY)
    data, mime = (svg, "svg+xml") if use_svg else (_saved(figure, "png"), "png")
    # page pixels
    width, height = (round(inches * 100) for inches in figure.get_size_inches())
    return (f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" '
            f'style="flex:1 1 300px;min-width:0;max-width:min({width}px,100%);'
            'height:auto;background:white" '
            f'src="data:image/{mime};base64,{base64.b64encode(data).decode()}">')


def _saved(figure: Any, kind: str) -> bytes:
    packed = io.BytesIO()
    if kind == "svg":
        figure.savefig(packed, format="svg", metadata={"Date": None})
        return packed.getvalue()
    from PIL import Image

    figure.savefig(packed, format="png", dpi=160)
    # 128 colours are enough for a drawing, at a third of the bytes
    small = io.BytesIO()
    Image.open(packed).convert("RGB").quantize(128).save(small, "png", optimize=True)
    return small.getvalue()


# ---------------------------------------------------------------------- over the epochs


def learning_curves(runs: Iterable[Run], columns: str | Sequence[str] = "test", *,
                    by: Callable[[Run], str] | None = None, band: str = "range",
                    ylabel: str | None = None, title: str = "", ax: Any = None) -> Any:
    """Columns of `Run.epochs` over the epochs: a line for the mean, a band over the
    seeds.

    Args:
        runs: finished runs, any order; `by` gives the group of a run (default: its
            method's name).
        columns: one or more columns. Colour tells groups apart when there are several,
            else columns; dashes tell the other.
        band: "range" (least to greatest), "std" (mean +- sample standard deviation) or
            "none".
    """
    if band not in ("range", "std", "none"):
        raise ValueError(f"unknown band {band!r}; allowed: range, std, none.")
    columns = [columns] if isinstance(columns, str) else list(columns)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(by(run) if by else name_of(method_of(run.setting)),
                          []).append(run)
    if not groups:
        raise ValueError("there is no run to draw; train one first.")
    if by is None:  # the same order in every figure
        order = [name for name, _ in METHODS.values()]
        known = sorted(groups, key=lambda g: order.index(g)
                       if g in order else len(order))
        groups = {g: groups[g] for g in known}
    ax = axes(ax)
    many = len(groups) > 1
    for g, (label, members) in enumerate(groups.items()):
        for c, column in enumerate(columns):
            text, colour = COLUMNS.get(column, (column, CLASSES[c % 10]))
            if many:
                colour = next((k for n, k in METHODS.values() if n == label),
                              CLASSES[g % 10])
                text = label if len(columns) == 1 else f"{label}: {text.lower()}"
            _band(ax, stack(members, column), text, colour,
                  DASHES[(c if many else g) % 5], band)
    _share_axis(ax, columns)
    names = [COLUMNS.get(c, (c, ""))[0] for c in columns]
    ax.set(xlabel="Epoch", ylabel=ylabel or (names[0] if len(names) == 1 else "Share"))
    _legend(ax, title)
    return ax.figure


def stack(runs: Sequence[Run], column: str) -> np.ndarray:
    """The column of several runs, (runs, epochs), in per cent if it is a share; runs
    that are shorter end with NaN."""
    rows = [np.asarray(r.epochs[column], float) for r in runs]
    out = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out * 100 if column in SHARES else out


def _band(ax: Any, y: np.ndarray, label: str, colour: str, dash: Any,
          band: str) -> None:
    x = np.arange(1, y.shape[1] + 1)
    known = np.ma.masked_invalid(y)
    mean, least, greatest = (_joined(np.ma.filled(part, np.nan)) for part in (
        # nothing is drawn where nothing was measured
        known.mean(0), known.min(0), known.max(0)))
    ax.plot(x, mean, color=colour, linestyle=dash, label=label)
    if len(y) > 1 and band != "none":
        wide = np.ma.filled(known.std(0, ddof=1), 0.0)
        low, high = (least, greatest) if band == "range" else (mean - wide, mean + wide)
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _joined(values: np.ndarray, most: int = 5) -> np.ndarray:
    """Values (epochs,) with straight lines over gaps of fewer than `most` epochs: not
    every epoch need have a number. Longer gaps stay."""
    there = np.flatnonzero(np.isfinite(values))
    out = values.copy()
    for a, b in zip(there[:-1], there[1:], strict=True):
        if b - a <= most:
            out[a:b + 1] = np.linspace(values[a], values[b], b - a + 1)
    return out


def _share_axis(ax: Any, columns: Sequence[str]) -> None:
    """Shares are drawn in per cent, from 0 to 100."""
    if all(c in SHARES for c in columns):
        ax.set_ylim(0, 102)
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:.0f} %")


def _legend(ax: Any, title: str = "", lift: float = 0) -> None:
    """The title on top, then the legend, then `lift` points, then the drawing: nothing
    is hidden by them."""
    labels = ax.get_legend_handles_labels()[1]
    rows = 0
    if len(labels) > 1:
        room = (ax.figure.get_figwidth() - 0.7) / (0.07 * max(map(len, labels)) + 0.45)
        ncols = max(1, min(len(labels), 3, int(room)))
        rows = math.ceil(len(labels) / ncols)
        height = ax.figure.get_figheight() * 72 * 0.6
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1 + lift / height), ncols=ncols,
                  borderaxespad=0.2, columnspacing=1.2, handlelength=1.8,
                  labelspacing=0.3)
    if title:
        ax.set_title(title, pad=6 + lift + 14.5 * rows)


def memorisation(runs: Run | Iterable[Run], *, title: str = "", ax: Any = None) -> Any:
    """What is learnt of the right and of the wrong labels, beside the test accuracy.

    Marks, for the mean over the runs, the last epoch and in grey the best one by the
    test set.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    ax = axes(ax, WIDE)
    learning_curves(runs, ("clean_fit", "wrong_fit", "wrong_corrected", "test"),
                    by=lambda r: "all", ax=ax)
    # not every epoch need have a number
    seen = np.ma.masked_invalid(stack(runs, "test"))
    test = np.ma.filled(seen.mean(0), np.nan)
    # earlier stages' networks are gone
    last, final = len(test) - 1, len(runs[0].last_stage())
    best = len(test) - final + int(np.nanargmax(test[-final:]))
    ax.axvline(best + 1, color=GREY, linewidth=1, linestyle=":")
    ax.plot(best + 1, test[best], "o", color=GREY, zorder=4)
    ax.plot(last + 1, test[last], "o", color=BLACK, zorder=4, clip_on=False)
    ax.annotate(f"best on test {test[best]:.0f} % (oracle)", (best + 1, 102), (-3, 2),
                fontsize=9, textcoords="offset points", color="#6B6B6B",
                annotation_clip=False)
    ax.annotate(f"last\n{test[last]:.0f} %", (last + 1, test[last]), (7, 0),
                va="center", textcoords="offset points", fontsize=9,
                annotation_clip=False)
    _legend(ax, title, lift=13)
    ax.set_ylabel("Share of samples")
    return ax.figure


# --------------------------------------------------------------------- losses, matrices


def loss_histogram(losses: Any, wrong: Any, mixture: Any = None, *, bins: int = 40,
                   xlabel: str = "Loss", title: str = "", ax: Any = None) -> Any:
    """How losses of right and of wrong labels are spread, with the components fitted to
    them all.

    Args:
        losses: (N,) on the scale the mixture was fitted on; values that are not finite
            are left out.
        wrong: bool (N,), the given label is wrong.
        mixture: a `GaussianMixture` or `BetaMixture` of these losses, or None.
    """
    ax = axes(ax)
    losses, wrong = _array(losses).astype(float), _array(wrong).astype(bool)
    keep = np.isfinite(losses)
    losses, wrong = losses[keep], wrong[keep]
    edges = np.histogram_bin_edges(losses, bins)
    for mask, label, colour in ((~wrong, "Right label", BLUE), (wrong, "Wrong label",
                                                                VERMILLION)):
        ax.hist(losses[mask], edges, label=label, color=colour, alpha=0.55, linewidth=0)
    if mixture is not None:
        x = np.linspace(edges[0], edges[-1], 400)
        scale = len(losses) * (edges[1] - edges[0])  # from a density to counts
        for density, label, dash in zip(_components(mixture, x), ("Low component",
                                        "High component"), ("-", "--"), strict=True):
            ax.plot(x, density * scale, color=BLACK, linestyle=dash, linewidth=1.5,
                    label=label)
        tallest = max(p.get_height() for p in ax.patches)
        # a component's spike may leave the picture
        ax.set_ylim(0, 1.1 * max(tallest, 1))
    ax.set(xlabel=xlabel, ylabel="Samples")
    _legend(ax, title)
    return ax.figure


def _components(mixture: Any, x: np.ndarray) -> list[np.ndarray]:
    """The two weighted densities of a fitted mixture at x, the component of low losses
    first."""
    w = _array(mixture.weights).astype(float)
    if isinstance(mixture, mixtures.GaussianMixture):
        m, v = (_array(a).astype(float) for a in (mixture.means, mixture.variances))
        return [
            w[k] * np.exp(-((x - m[k])**2) / (2 * v[k])) / math.sqrt(2 * math.pi * v[k])
            for k in (0, 1)
        ]
    a, b = _array(mixture.alphas), _array(mixture.betas)
    low, width = float(mixture.low), float(mixture.high - mixture.low)
    u = (x - low) / width
    inside = (u > 0) & (u < 1)
    u = np.where(inside, u, 0.5)
    norm = [
        math.lgamma(a[k] + b[k]) - math.lgamma(a[k]) - math.lgamma(b[k]) for k in (0, 1)
    ]
    return [np.where(inside, w[k] * np.exp(norm[k] + (a[k] - 1) * np.log(u)
                                           + (b[k] - 1) * np.log1p(-u)) / width, np.nan)
            for k in (0, 1)]


def transition_heatmap(matrix: Any, names: Sequence[str] = (), *, title: str = "",
                       ax: Any = None) -> Any:
    """A transition matrix (C, C) in per cent: rows true classes, columns given ones.

    Up to 12 classes every entry from 0.5 % is written out; beyond, colour alone speaks.
    """
    import seaborn as sns

    share = _array(matrix).astype(float) * 100
    c = len(share)
    few = c <= 12
    ax = axes(ax, (4.6, 4.0))
    words = np.array([[f"{v:.0f}" if v >= 0.5 else "" for v in row] for row in share])
    sns.heatmap(share, ax=ax, vmin=0, vmax=100, cmap="Blues", square=True,
                annot=words if few else None, fmt="", annot_kws={"fontsize": 8.5},
                linewidths=0.5 if few else 0, rasterized=not few,
                cbar_kws={"label": "%", "shrink": 0.8
                          }, xticklabels=list(names) if few and names else few,
                yticklabels=list(names) if few and names else few)
    ax.set(xlabel="Given label", ylabel="True class")
    ax.tick_params(length=0)
    if few and names:
        ax.tick_params(axis="x", rotation=45 if max(map(len, names)) > 2 else 0)
        for label in ax.get_xticklabels():
            label.set(ha="right" if max(map(len, names)) > 2 else "center",
                      rotation_mode="anchor")
        ax.tick_params(axis="y", rotation=0)
    if title:
        ax.set_title(title)
    return ax.figure


# ----------------------------------------------------------------------- images, points


def image_grid(images: Any, titles: Sequence[str] = (), *,
               colours: Sequence[str | Sequence[str]] | None = None, size: int = 76,
               columns: int | None = None) -> Html:
    """Images with a text below each; the grid wraps to the width of the page.

    Args:
        images: uint8 (N, C, H, W) with C 1 or 3, or (N, H, W). Pixels stay sharp
            squares.
        titles: a text for each image; a line break starts a new line. It is the alt
            text too; an image without one is named by its place.
        colours: the texts' colours, such as ROLES["wrong"]: one, or one for each of its
            lines.
        size: width of an image on the page, in pixels.
        columns: at most that many images side by side (default: as many as fit).
    """
    pixels = _array(images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (
            pixels.ndim == 4 and pixels.shape[1] not in (1, 3)):
        raise ValueError(
            "images must be uint8 of shape (N, H, W) or (N, C, H, W) with C 1 or 3, "
            f"not {pixels.dtype} of shape {tuple(pixels.shape)}.")
    titles = list(titles) or [""] * len(pixels)
    colours = list(colours) if colours is not None else ["inherit"] * len(pixels)
    if not len(titles) == len(colours) == len(pixels):
        raise ValueError(f"{len(pixels)} images take as many titles and colours, not "
                         f"{len(titles)} and {len(colours)}.")
    cells = []
    height = round(size * pixels.shape[-2] / pixels.shape[-1])
    for i, (image, title,
            colour) in enumerate(zip(pixels, titles, colours, strict=True), 1):
        alt = title.replace("\n", ", ") or f"image {i} of {len(pixels)}"
        lines = title.split("\n")
        inks = [colour] * len(lines) if isinstance(colour, str) else list(colour)
        if len(inks) != len(lines):
            raise ValueError(
                f"image {i} has {len(lines)} lines of text and {len(inks)} colours; "
                "give one colour, or one a line.")
        text = "<br>".join(
            _toned(line, ink) for line, ink in zip(lines, inks, strict=True))
        cells.append(
            f'<div style="width:{size}px;text-align:center;line-height:1.25;'
            f'font-size:0.8rem"><img alt="{html.escape(alt)}" width="{size}" '
            f'height="{height}" style="image-rendering:pixelated;display:block;'
            'max-width:none" '
            f'src="data:image/png;base64,{_png(image)}">'
            f'{text}</div>')
    most = f"max-width:{columns * (size + 10)}px;" if columns else ""
    return Html(
        '<div role="group" class="nl-thumbs" aria-label="{alt}" style="display:flex;'
        f'flex-wrap:wrap;gap:10px;{most}">' + "".join(cells) + "</div>",
        "; ".join(filter(None, titles)))


def _toned(text: str, colour: str) -> str:
    """The text in its colour, which the book's style sheet adapts to its theme."""
    tone = "" if colour == "inherit" else (
        f' class="nl-tone" style="--nl-tone:{colour};color:var(--nl-said,{colour})"')
    return f"<span{tone}>{html.escape(text)}</span>"


def _png(image: np.ndarray) -> str:
    from PIL import Image

    if image.ndim == 3:
        image = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    packed = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(packed, "png", optimize=True)
    return base64.b64encode(packed.getvalue()).decode()


def embedding(points: Any, labels: Any, names: Sequence[str] = (), *, wrong: Any = None,
              title: str = "", ax: Any = None) -> Any:
    """Points (N, 2) coloured by class (N,), the class written at the middle of its
    points.

    `wrong` (bool, N): those points are drawn as vermillion crosses.
    """
    ax = axes(ax, (4.0, 3.7))
    points, labels = _array(points), _array(labels)
    wrong = np.zeros(len(points), bool) if wrong is None else _array(wrong).astype(bool)
    for c in np.unique(labels):
        own = points[(labels == c) & ~wrong]
        ax.scatter(*own.T, s=9, color=CLASSES[int(c) % 10], alpha=0.7, linewidth=0)
    if wrong.any():
        ax.scatter(*points[wrong].T, s=16, color=VERMILLION, marker="x", linewidth=0.9,
                   label="Wrong label")
    for c in np.unique(labels):
        x, y = np.median(points[labels == c], 0)
        ax.text(
            x, y, names[int(c)] if len(names) else str(c), ha="center", va="center",
            fontsize=9.5, fontweight="bold", bbox=dict(boxstyle="round,pad=0.15",
                                                       facecolor="white", alpha=0.8,
                                                       linewidth=0))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    if wrong.any():
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    if title:
        ax.set_title(title, pad=20 if wrong.any() else 6)
    return ax.figure


def bars(values: Mapping[str, Sequence[float]], *,
         colours: Mapping[str, str] | None = None, xlabel: str = "Test accuracy",
         percent: bool = True, title: str = "", ax: Any = None) -> Any:
    """One bar a name: the mean of its values, a whisker of +- one sample standard
    deviation, and each value as a dot. `percent`: values in [0, 1] are drawn in per
    cent. Bars start at zero."""
    if not values or not all(len(v) for v in values.values()):
        raise ValueError("bars takes at least one value for every name.")
    ax = axes(ax, (SMALL[0] + 0.6, 0.9 + 0.42 * len(values)))
    scale = 100 if percent else 1
    for i, (name, given) in enumerate(values.items()):
        v = np.asarray(given, float) * scale
        colour = (colours or {}).get(name) or next(
            (c for n, c in METHODS.values() if n == name), BLUE)
        spread = v.std(ddof=1) if len(v) > 1 else None
        ax.barh(i, v.mean(), color=colour, alpha=0.35, height=0.65, xerr=spread,
                error_kw=dict(ecolor=colour, capsize=3, linewidth=1.5))
        ax.plot(v, np.full(len(v), i), "o", color=colour, markersize=4)
        if percent:
            ax.text(1, i, f"{v.mean():.1f}", va="center", fontsize=9)
    ax.set(yticks=range(len(values)), yticklabels=list(values), xlabel=xlabel)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    if percent:
        ax.xaxis.set_major_formatter(lambda v, _: f"{v:.0f} %")
        ax.set_xlim(0, max(100, ax.get_xlim()[1]))
    if title:
        ax.set_title(title)
    return ax.figure


def _array(x: Any) -> np.ndarray:
    """A tensor on any device, or anything NumPy takes, as an array."""
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


__all__ = [
    "BLUE", "CLASSES", "COLUMNS", "GREEN", "GREY", "METHODS", "ROLES", "VERMILLION",
    "Html", "Summary", "axes", "bars", "colour_of", "data_name", "embedding",
    "folded", "image_grid", "learning_curves", "loss_histogram", "memorisation",
    "name_of",
    "plain_table", "show", "stack", "style", "summaries", "summary_table", "table",
    "transition_heatmap",
]  # fmt: skip
