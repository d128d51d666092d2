"""Figures say what the numbers say, tables never show one number alone, all with alt text."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from noisylabels import lab
from noisylabels.evidence import figures, published, tables
from noisylabels.kernels import mixtures
from noisylabels.training import runs

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """What `show` puts on the page."""
    import IPython.display

    page = []
    monkeypatch.setattr(IPython.display, "display", lambda x: page.append(x))
    return page


def made_up(test=(0.5, 0.9, 0.7), method="cross_entropy", seed=0, status="finished", val=None,
            budget="smoke", dataset="digits", noise="symmetric", rate=0.6, info=None, **options):
    """A run that was never trained; `test` is its test accuracy over the epochs."""
    s = lab.setting(method, dataset, noise, rate, budget, seed=seed, **options)
    test = np.asarray(test, float)
    n = len(test)
    epochs = {"stage": np.array(["train"] * n), "test": test,
              "val": np.full(n, np.nan) if val is None else np.asarray(val, float),
              "clean_fit": np.linspace(0.6, 1, n), "wrong_fit": np.linspace(0, 1, n),
              "wrong_corrected": np.linspace(0.6, 0, n), "loss": np.linspace(2, 0, n)}
    facts = {"status": status, "realised_rate": 0.54, "seconds": 7.0, "hardware": "Some chip",
             **(info or {})}
    return runs.Run(s, facts, epochs)


def lines(figure):
    """Label -> y values of the labelled lines of a figure."""
    return {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()
            if not line.get_label().startswith("_")}


# ------------------------------------------------------------------------------ on the page


def test_show_embeds_a_small_vector_drawing_with_its_alt_text(shown):
    figures.show(figures.memorisation(made_up()), alt='curves "rise" & fall')
    (page,) = shown
    markup = page._repr_html_()
    assert 'alt="curves &quot;rise&quot; &amp; fall"' in markup
    data = re.search(r"data:image/svg\+xml;base64,([^\"]+)", markup)[1]
    assert base64.b64decode(data).lstrip().startswith(b"<?xml")
    assert len(markup) < 150_000
    assert "max-width:min(540px,100%)" in markup  # never wider than a phone
    assert 'width="540" height="340"' in markup and "lazy" not in markup  # a link below it lands
    assert repr(page) == 'curves "rise" & fall'


def test_show_takes_png_for_what_is_heavy_as_svg(shown):
    points = np.random.default_rng(0).normal(size=(3_000, 2))
    figures.show(figures.embedding(points, np.arange(3_000) % 10), alt="points")
    markup = shown[0]._repr_html_()
    assert "data:image/png;base64," in markup and "svg" not in markup
    assert len(markup) < 150_000


def test_show_kind_is_obeyed(shown):
    for kind, mime in (("png", "image/png"), ("svg", "image/svg+xml")):
        figures.show(figures.learning_curves([made_up()]), alt="x", kind=kind)
        assert f"data:{mime};base64," in shown[-1]._repr_html_()


def test_same_figure_same_bytes(shown):
    for _ in range(2):
        figures.show(figures.memorisation(made_up()), alt="x")
    assert shown[0]._repr_html_() == shown[1]._repr_html_()


def test_several_figures_share_a_row_and_have_a_text_each(shown):
    a, b = figures.learning_curves([made_up()]), figures.learning_curves([made_up()], "loss")
    figures.show(a, b.axes[0], alt=["first", "second"])
    markup = shown[0]._repr_html_()
    assert "flex-wrap:wrap" in markup
    assert re.findall(r'alt="(\w*)"', markup) == ["first", "second"]
    figures.show(figures.learning_curves([made_up()]), figures.learning_curves([made_up()]),
                 alt="together")
    assert re.findall(r'alt="([^"]*)"', shown[1]._repr_html_()) == [
        "together", "Picture 2 of 2, described with the first."]


def test_no_figure_comes_to_a_page_without_its_text(shown):
    """A notebook draws, at the end of a cell, what pyplot still holds: it holds none of ours."""
    figures.axes()
    figures.learning_curves([made_up()])
    figures.transition_heatmap(np.eye(3))
    assert plt.get_fignums() == [] and shown == []


@pytest.mark.parametrize(("count", "alt", "kind", "message"), [
    (0, "x", "auto", "at least one figure"),
    (1, "", "auto", "say in words"),
    (1, "  ", "auto", "say in words"),
    (1, ["a", "b"], "auto", "one text a figure"),
    (2, ["a", ""], "auto", "say in words"),
    (1, "x", "jpg", "unknown kind 'jpg'; allowed: auto, svg, png"),
])
def test_show_refuses(count, alt, kind, message):
    made = [figures.learning_curves([made_up()]) for _ in range(count)]
    with pytest.raises(ValueError, match=message):
        figures.show(*made, alt=alt, kind=kind)


def test_roles_are_apart_and_stable():
    assert figures.ROLES == {"right": "#0072B2", "wrong": "#D55E00", "true": "#009E73",
                             "oracle": "#8C8C8C"}
    assert len(set(figures.CLASSES)) == 10 and figures.VERMILLION not in figures.CLASSES
    colours = [colour for _, colour in figures.METHODS.values()]
    assert len(set(colours)) == len(colours) == len(figures.METHODS) >= 9


def test_names_of_methods():
    assert figures.name_of("cross_entropy") == "Cross entropy"
    assert figures.name_of("some_new") == "some new"
    assert figures.colour_of("mixnn") == "#0072B2" and figures.colour_of("some_new") == "#222222"


# ------------------------------------------------------------------------------ over the epochs


def test_learning_curves_draw_mean_and_range_in_per_cent():
    three = [made_up([0.2 + d, 0.8 + d], seed=i) for i, d in enumerate((0.0, 0.1, -0.1))]
    figure = figures.learning_curves(three)
    np.testing.assert_allclose(lines(figure)["Test accuracy"], [20, 80])
    (band,) = figure.axes[0].collections
    y = band.get_paths()[0].vertices[:, 1]
    assert y.min() == pytest.approx(10) and y.max() == pytest.approx(90)
    assert figure.axes[0].get_ylim() == (0, 102)
    std = figures.learning_curves(three, band="std").axes[0].collections[0]
    assert std.get_paths()[0].vertices[:, 1].max() == pytest.approx(80 + 10)  # s = 0.1 (n - 1)
    assert not figures.learning_curves(three, band="none").axes[0].collections


def test_learning_curves_tell_methods_apart_in_a_fixed_order():
    some = [made_up(method=m) for m in ("elr", "cross_entropy", "gce")]
    figure = figures.learning_curves(some)
    assert list(lines(figure)) == ["Cross entropy", "GCE", "ELR"]
    assert [x.get_color() for x in figure.axes[0].get_lines()] == [
        figures.colour_of(m) for m in ("cross_entropy", "gce", "elr")]
    both = figures.learning_curves(some[:2], ("test", "wrong_fit"))
    assert list(lines(both)) == ["Cross entropy: test accuracy",
                                 "Cross entropy: wrong labels learnt", "ELR: test accuracy",
                                 "ELR: wrong labels learnt"]
    assert len({str(x.get_linestyle()) for x in both.axes[0].get_lines()}) == 2


def test_learning_curves_by_another_group_and_of_what_is_no_share():
    figure = figures.learning_curves([made_up(), made_up(rate=0.4)], "loss", title="Loss",
                                     by=lambda r: f"{r.setting.rate:.0%}")
    assert list(lines(figure)) == ["60%", "40%"]
    np.testing.assert_allclose(lines(figure)["60%"], [2, 1, 0])  # not in per cent
    assert figure.axes[0].get_title("left") == "Loss"


def test_runs_of_unequal_length_are_averaged_where_they_are():
    stacked = figures.stack([made_up([0.1, 0.2, 0.4]), made_up([0.3])], "test")
    np.testing.assert_allclose(stacked, [[10, 20, 40], [30, np.nan, np.nan]])
    figure = figures.learning_curves([made_up([0.1, 0.2, 0.4]), made_up([0.3])])
    np.testing.assert_allclose(lines(figure)["Test accuracy"], [20, 20, 40])


@pytest.mark.parametrize("band", ["range", "std", "none"])
def test_nothing_is_drawn_where_nothing_was_measured(band):
    some = [made_up(val=[math.nan, 0.2, math.nan]), made_up(val=[math.nan, 0.4, 0.6], seed=1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.learning_curves(some, "val", band=band)
        figures.memorisation([made_up(), made_up(seed=1)])
    (line,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(line.get_ydata(), [math.nan, 30, 60])
    for drawn in figure.axes[0].collections:
        y = drawn.get_paths()[0].vertices
        wide = {"range": 10, "std": math.sqrt(200)}[band]
        at = {x: y[y[:, 0] == x, 1] for x in (1, 2, 3)}
        assert not len(at[1]) and set(at[3]) == {60}
        assert (at[2].min(), at[2].max()) == pytest.approx((30 - wide, 30 + wide))


def test_learning_curves_refuse():
    with pytest.raises(ValueError, match="no run to draw"):
        figures.learning_curves([])
    with pytest.raises(ValueError, match="unknown band 'all'; allowed: range, std, none"):
        figures.learning_curves([made_up()], band="all")


def test_memorisation_marks_the_oracle_in_grey_and_the_last_epoch():
    figure = figures.memorisation([made_up(), made_up([0.5, 0.8, 0.6], seed=1)], title="T")
    texts = {t.get_text(): t for t in figure.axes[0].texts}
    assert set(texts) == {"best on test 85 % (oracle)", "last\n65 %"}
    drawn = lines(figure)
    assert list(drawn) == ["Right labels learnt", "Wrong labels learnt",
                           "True class said instead", "Test accuracy"]
    colours = {x.get_label(): x.get_color() for x in figure.axes[0].get_lines()}
    assert colours["Right labels learnt"] == figures.ROLES["right"]
    assert colours["Wrong labels learnt"] == figures.ROLES["wrong"]
    assert colours["True class said instead"] == figures.ROLES["true"]
    marks = [x for x in figure.axes[0].get_lines() if x.get_marker() == "o"]
    assert [(x.get_xdata()[0], x.get_color()) for x in marks] == [(2, figures.GREY),
                                                                  (3, "#222222")]


@pytest.mark.filterwarnings("error")
def test_memorisation_where_most_epochs_have_no_test_number():
    """As at the desk budget; epochs 2, 4 and 5 of five were looked at, by both runs."""
    nan = math.nan
    pair = [made_up([nan, 0.8, nan, 0.6, 0.5]), made_up([nan, 0.6, nan, 0.7, 0.5], seed=1)]
    figure = figures.memorisation(pair)
    assert {t.get_text() for t in figure.axes[0].texts} == {"best on test 70 % (oracle)",
                                                            "last\n50 %"}
    marks = [x for x in figure.axes[0].get_lines() if x.get_marker() == "o"]
    assert [(x.get_xdata()[0], round(x.get_ydata()[0], 6)) for x in marks] == [(2, 70), (5, 50)]
    np.testing.assert_allclose(lines(figure)["Test accuracy"], [nan, 70, 67.5, 65, 50])


# ------------------------------------------------------------------------------ losses, matrices


def two_heaps():
    g = torch.Generator().manual_seed(0)
    wrong = torch.arange(1_000) < 400
    low = torch.rand(1_000, generator=g) * 0.4
    return torch.where(wrong, low + 0.55, low), wrong


def test_loss_histogram_counts_every_finite_loss():
    losses, wrong = two_heaps()
    losses[0] = math.inf
    figure = figures.loss_histogram(losses, wrong, title="T")
    right, bad = figure.axes[0].containers
    assert sum(p.get_height() for p in right) == 600
    assert sum(p.get_height() for p in bad) == 399


@pytest.mark.parametrize("fit", [mixtures.fit_gaussians, mixtures.fit_betas])
def test_components_are_weighted_densities(fit):
    losses, _ = two_heaps()
    fitted = fit(losses)
    x = np.linspace(-0.5, 1.5, 20_001)
    low, high = figures._components(fitted, x)
    mass = [np.nansum(y) * (x[1] - x[0]) for y in (low, high)]
    np.testing.assert_allclose(mass, fitted.weights.numpy(), atol=0.01)
    centre = [np.nansum(x * y) / np.nansum(y) for y in (low, high)]
    assert centre[0] < 0.3 and centre[1] > 0.6
    figure = figures.loss_histogram(losses, losses > 0.5, fitted)
    assert list(lines(figure)) == ["Low component", "High component"]


def test_transition_heatmap_writes_per_cent_up_to_twelve_classes():
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.002, 0.998, 0.0], [0.25, 0.25, 0.5]])
    figure = figures.transition_heatmap(matrix, ["cat", "dog", "ship"], title="T")
    words = [t.get_text() for t in figure.axes[0].texts]
    assert words == ["90", "10", "", "", "100", "", "25", "25", "50"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["cat", "dog", "ship"]
    assert figure.axes[0].get_xlabel() == "Given label"
    assert not figures.transition_heatmap(torch.eye(13)).axes[0].texts
    plain = figures.transition_heatmap(torch.eye(2), ["0", "1"]).axes[0]
    assert [t.get_rotation() for t in plain.get_xticklabels()] == [0, 0]


# ------------------------------------------------------------------------------ images, points


def pixels_of(markup):
    found = re.findall(r"data:image/png;base64,([^\"]+)", markup)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(x)))) for x in found]


def test_image_grid_keeps_every_pixel():
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8,
                         generator=torch.Generator().manual_seed(0))
    for images in (grey, grey[:, 0]):
        markup = figures.image_grid(images)._repr_html_()
        for got, want in zip(pixels_of(markup), grey[:, 0].numpy(), strict=True):
            np.testing.assert_array_equal(got, want)
    colour = torch.arange(2 * 3 * 32 * 32).remainder(256).to(torch.uint8).view(2, 3, 32, 32)
    got = pixels_of(figures.image_grid(colour)._repr_html_())[1]
    np.testing.assert_array_equal(got, colour[1].permute(1, 2, 0).numpy())
    assert "image-rendering:pixelated" in markup
    assert re.findall(r'alt="([^"]*)" width="76" height="76"', markup) == [
        "image 1 of 2", "image 2 of 2"]


def test_image_grid_titles_are_text_alt_and_colour(shown):
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    grid = figures.image_grid(images, ["given <3>\ntrue 8", "b"], columns=2,
                              colours=[figures.ROLES["wrong"], figures.ROLES["right"]])
    markup = grid._repr_html_()
    assert 'alt="given &lt;3&gt;, true 8"' in markup and "max-width:172px" in markup
    assert re.findall(r'--nl-tone:([^;]*);color:var\(--nl-said,([^)]*)\)">([^<]*)<', markup) == [
        ("#D55E00", "#D55E00", "given &lt;3&gt;"), ("#D55E00", "#D55E00", "true 8"),
        ("#0072B2", "#0072B2", "b")]
    assert "nl-tone" not in figures.image_grid(images, ["a", "b"])._repr_html_()
    flat = figures.image_grid(torch.zeros(1, 3, 8, 16, dtype=torch.uint8))._repr_html_()
    assert 'width="76" height="38"' in flat  # not stretched to a square
    figures.show(grid, alt="two digits")
    assert 'aria-label="two digits"' in shown[0]._repr_html_()


def test_image_grid_takes_a_colour_for_each_line():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    two = ("red", "blue")
    markup = figures.image_grid(images, ["a\nb", "c"], colours=[two, "green"])._repr_html_()
    assert re.findall(r'--nl-tone:(\w+);[^>]*>([^<]*)<', markup) == [
        ("red", "a"), ("blue", "b"), ("green", "c")]
    with pytest.raises(ValueError, match="image 2 has 1 lines of text and 2 colours"):
        figures.image_grid(images, ["a\nb", "c"], colours=[two, two])


@pytest.mark.parametrize(("images", "titles", "message"), [
    (torch.zeros(2, 1, 8, 8), (), "must be uint8 of shape"),
    (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), (), r"C 1 or 3, not uint8 of shape \(2, 2, 8"),
    (torch.zeros(8, 8, dtype=torch.uint8), (), "must be uint8"),
    (torch.zeros(2, 8, 8, dtype=torch.uint8), ("a",), "2 images take as many titles"),
])
def test_image_grid_refuses(images, titles, message):
    with pytest.raises(ValueError, match=message):
        figures.image_grid(images, titles)


def test_embedding_names_classes_at_their_middle_and_crosses_wrong_points():
    points = np.array([[0, 0], [1, 0], [5, 5], [6, 5], [5, 6]], float)
    labels, wrong = np.array([0, 0, 2, 2, 2]), np.array([False] * 4 + [True])
    axes = figures.embedding(points, labels, ["a", "b", "c"], wrong=wrong, title="T").axes[0]
    assert {t.get_text(): t.get_position() for t in axes.texts} == {"a": (0.5, 0.0),
                                                                    "c": (5.0, 5.0)}
    assert [len(c.get_offsets()) for c in axes.collections] == [2, 2, 1]
    assert axes.get_legend().get_texts()[0].get_text() == "Wrong label"
    assert figures.embedding(points, labels).axes[0].get_legend() is None


def test_bars_show_mean_whisker_and_every_value():
    axes = figures.bars({"GCE": [0.7, 0.8, 0.9], "One": [0.5]}, title="T").axes[0]
    widths = [p.get_width() for c in axes.containers if hasattr(c, "patches")
              for p in c.patches]
    assert widths == pytest.approx([80, 50])
    dots = [x for x in axes.get_lines() if x.get_marker() == "o"]
    assert [len(x.get_xdata()) for x in dots] == [3, 1]
    assert dots[0].get_color() == figures.colour_of("gce")
    assert axes.get_xlim()[0] == 0
    low, high = sorted(axes.collections[0].get_segments()[0][:, 0])
    assert (low, high) == pytest.approx((70, 90))  # 80 +- 10, n - 1
    counts = figures.bars({"a": [3, 5]}, percent=False, xlabel="Images").axes[0]
    assert counts.patches[0].get_width() == 4 and counts.get_xlabel() == "Images"


@pytest.mark.parametrize("values", [{}, {"a": []}])
def test_bars_refuse_nothing(values):
    with pytest.raises(ValueError, match="at least one value for every name"):
        figures.bars(values)


def test_figures_draw_into_given_axes():
    figure, two = plt.subplots(1, 2)
    assert figures.learning_curves([made_up()], ax=two[0]) is figure
    assert figures.bars({"a": [0.5]}, ax=two[1]) is figure


# ------------------------------------------------------------------------------ tables


def text_of(markup):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", markup,
                                                              flags=re.S)))


def test_a_row_is_never_one_number():
    val = [0.3, 0.2, 0.1]
    group = [made_up([0.5, 0.9, 0.7 + d], seed=i, val=val) for i, d in enumerate((0, 0.1, -0.1))]
    row = text_of(figures.summary_table(group)._repr_html_())
    assert "70.0 ±10.0 n = 3" in row  # last epoch
    assert "50.0 ±0.0" in row  # chosen on noisy validation labels: the first epoch
    assert "90.0 ±0.0" in row  # oracle
    assert "54.0 % of labels wrong" in row and "symmetric 60 %" in row
    assert "smoke budget; accuracy in %; on Some chip" in row and row.count("Some chip") == 1
    assert "7 s" in row and "verdict" not in row.lower() and "Published" not in row
    assert 'class="num oracle"' in figures.summary_table(group)._repr_html_()


def test_summary_has_the_sample_standard_deviation_and_the_right_epochs():
    test = [0.1] * 5 + [0.5] * 8 + [0.9, 0.7]  # last ten: 8 of 0.5, 0.9, 0.7
    (cell,) = figures.summaries([made_up(test, seed=s) for s in (0, 1)])
    assert cell.n == 2 and cell.last == pytest.approx((70, 0))
    assert cell.mean_last_10[0] == pytest.approx(56)
    assert cell.best[0] == pytest.approx(90) and math.isnan(cell.by_validation[0])
    assert cell.metric("mean10") == pytest.approx([56, 56])
    assert cell.metric("best") == pytest.approx([90, 90])
    one = figures.summaries([made_up(test)])[0]
    assert math.isnan(one.last[1]) and tables.plus_minus(one.last, 1) == "70.0"


def test_mean_of_last_ten_takes_the_ends_of_cycles():
    test = np.arange(1, 31) / 100
    assert tables.mean_last_10(made_up(test)) == pytest.approx(np.mean(test[-10:]))
    cyclic = made_up(test, schedule="restarts", period=6)  # ends: epochs 6, 12, ... 30
    assert tables.mean_last_10(cyclic) == pytest.approx(np.mean([0.06, 0.12, 0.18, 0.24, 0.30]))
    short = made_up(test[:4], schedule="restarts", period=6)  # no cycle has ended
    assert tables.mean_last_10(short) == pytest.approx(0.025)


def test_not_run_and_failed_are_said():
    wanted = [lab.setting("mixup", rate=0.6), lab.setting("gce", rate=0.6)]
    table = text_of(figures.summary_table([made_up(method="gce", status="failed")],
                                          wanted)._repr_html_())
    assert re.search(r"Mixup digits, symmetric 60 % not run –", table)
    assert "not run, 1 failed" in table
    mixed = [made_up(), made_up(seed=1, status="failed")]
    assert "n = 1, 1 failed" in text_of(figures.summary_table(mixed)._repr_html_())


def test_a_recorded_run_joins_the_cell_that_was_asked_for(tmp_path):
    s = lab.setting("gce", rate=0.6)
    run = runs.save(s, {"status": "finished", "realised_rate": 0.5, "seconds": 1, "hardware": "x"},
                    [{"stage": "train", "test": 0.5, "val": 0.5}], root=tmp_path)
    assert run.setting == s
    (cell,) = figures.summaries([run], [s])
    assert cell.n == 1


def test_budgets_never_share_a_table():
    both = [made_up(), made_up(dataset="cifar10", budget="laptop")]
    markup = figures.summary_table(both[::-1], caption="C")._repr_html_()
    assert markup.count("<table") == 2 and markup.count("<style>") == 1
    first, second = text_of(markup).split("laptop budget; accuracy")
    assert "smoke budget" in first and "digits" in first and "CIFAR-10" not in first
    assert "CIFAR-10" in second and "digits" not in second
    assert "No cell was asked for" in figures.table([])._repr_html_()


def test_rows_that_differ_by_an_option_say_by_which():
    rows = text_of(figures.summary_table([made_up(), made_up(lr=0.1)])._repr_html_())
    assert "lr 0.05" in rows and "lr 0.1" in rows


@pytest.mark.parametrize(("budget", "dataset"), [
    ("smoke", "digits"), ("laptop", "cifar10"), ("fast", "cifar10")])
def test_small_budgets_have_no_badge_and_stand_beside_no_printed_number(budget, dataset):
    group = [made_up([0.5, 0.6], seed=s, dataset=dataset, budget=budget, rate=0.8)
             for s in range(3)]
    markup = figures.summary_table(group, claim_holds=lambda c: True)._repr_html_()
    assert "nl-state" not in re.sub(r"<style>.*?</style>", "", markup, flags=re.S)
    assert "53.82" not in markup and "direction" not in markup and "No paper" not in markup
    assert markup.count('<th scope="col"') == 6


def test_a_table_takes_its_differences_from_the_one_judge():
    where = dict(dataset="cifar10", budget="laptop", rate=0.8)
    plain = [made_up([0.5, 0.6 + s / 100], seed=s, **where) for s in range(3)]
    better = [made_up([0.5, 0.62 + 1.5 * s / 100], seed=s, method="gce", **where)
              for s in range(3)]  # 2, 2.5, 3 points above
    longer = [made_up([0.5, 0.5, 0.62], seed=s, method="elr", **where) for s in range(3)]
    elsewhere = [made_up([0.9, 0.9], seed=s, method="gce", **{**where, "rate": 0.4})
                 for s in range(3)]
    made = figures.summary_table([*plain, *better, *longer, *elsewhere], rival="cross_entropy")
    words = text_of(made._repr_html_())
    assert "Minus Cross entropy" in words
    assert "+2.5 [+1.3, +3.7] yes" in words
    assert "+1.0 [\u22121.5, +3.5] unequal training: 3 epochs against 2" in words
    assert words.count(" yes") == 1 and "+29" not in words, "only with its own noise"
    alone = text_of(figures.summary_table(better, rival="cross_entropy")._repr_html_())
    assert "Minus Cross entropy" in alone and "yes" not in alone


def test_elr_with_restarts_has_a_name_of_its_own():
    assert (figures.name_of("elr"), figures.name_of("elr-cosine")) == ("ELR", "ELR*")
    assert figures.name_of("elr+") == "ELR+" and figures.name_of("c2d-elr+") == "C2D with ELR+"
    both = [made_up(method="elr", schedule=k, seed=s)
            for k in ("steps", "restarts") for s in (0, 1)]
    assert list(lines(figures.learning_curves(both))) == ["ELR", "ELR*"]
    assert re.findall(r"elr\S*(?=: )", repr(figures.summary_table(both))) == ["elr", "elr-cosine"]
    assert tables.method_of(both[2].setting) == "elr-cosine"
    ours = lab.setting("elr", "cifar10", "symmetric", 0.4, "paper")
    assert ours.options["schedule"] == "restarts" and tables.method_of(ours) == "elr-cosine"
    row = text_of(figures.summary_table([], [ours])._repr_html_())
    assert "ELR* CIFAR-10, symmetric 40 % not run" in row and "91.43 ± 0.21" in row
    plain = lab.setting("elr", "cifar10", "asymmetric", 0.4, "paper")
    assert tables.method_of(plain) == "elr"
    row = text_of(figures.summary_table([], [plain])._repr_html_())
    assert "ELR CIFAR-10, asymmetric 40 % not run" in row and "90.12" in row


def test_a_rounded_number_says_so():
    (cell,) = published.load_cells(paper="ieg", method="ieg", published_value=92.0)
    assert tables.printed_number(cell) == "≈ 92 (relayed, epoch not stated)"
    assert "<small>relayed, epoch not stated, resnet29" in tables._printed(cell)


def test_at_the_paper_budget_network_and_options_must_be_the_printed_ones():
    group = [made_up([0.9, 0.54], seed=s, dataset="cifar10", budget="paper", rate=0.8)
             for s in range(3)]
    (cell,) = figures.summaries(group)
    printed = tables.reference(cell.setting)
    assert (printed.published_value, printed.metric, printed.network) == (53.82, "not stated",
                                                                          "resnet34")
    row = text_of(figures.table([cell])._repr_html_())
    assert "53.82 ± 1.04 epoch not stated, resnet34; ELR paper, Table 1" in row
    assert row.rstrip().endswith("reproduced"), "the badge alone; its sentence is a title"
    assert 'title="Ours 54.00 (mean of 3 runs), published 53.82: 0.18 apart, 2.00 allowed."' in (
        figures.table([cell])._repr_html_())
    none = made_up([0.9, 0.54], dataset="cifar100", budget="paper", noise="superclass", rate=0.4)
    assert "No paper prints a number for these settings." in text_of(
        figures.summary_table([none])._repr_html_())
    other = dataclasses.replace(cell.setting, options={**cell.setting.options,
                                                       "network": "preact18"})
    assert tables.reference(other).published_value == 62.9  # the best epoch, on that network
    tiny = dataclasses.replace(cell.setting, options={**cell.setting.options, "network": "small"})
    assert tables.reference(tiny) is None


def test_a_plain_table_escapes_and_checks_its_rows():
    made = figures.plain_table(["A", "B"], [["<b>", 1.5], ["x", 2]], caption="C & D")
    markup = made._repr_html_()
    assert "&lt;b&gt;" in markup and "C &amp; D" in markup and 'class="num"' in markup
    assert repr(made) == "<b>, 1.5; x, 2"
    with pytest.raises(ValueError, match="2 cells"):
        figures.plain_table(["A", "B"], [["x"]])


@pytest.mark.parametrize(("seconds", "words"), [
    (7.4, "7 s"), (89, "89 s"), (400, "7 min"), (5_399, "90 min"), (9_000, "2.5 h")])
def test_durations_in_words(seconds, words):
    assert tables.duration(seconds) == words


def test_hardware_without_trade_marks():
    assert tables._short("Intel(R) Xeon(R) CPU E5, 1 thread") == "Intel Xeon E5, 1 thread"
    assert tables._short("NVIDIA H200") == "H200"


def test_short_gaps_are_bridged_and_long_ones_stay():
    nan = math.nan
    joined = figures._joined(
        np.array([nan, 1.0, nan, nan, 4.0, nan, nan, nan, nan, nan, 9.0, nan]))
    np.testing.assert_array_equal(
        joined, [nan, 1, 2, 3, 4, nan, nan, nan, nan, nan, 9, nan])
