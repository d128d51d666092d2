"""The papers' numbers, claims and gaps: complete, consistent, sourced; and the verdict rule."""

from __future__ import annotations

import csv
import math
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from noisylabels import lab, noise
from noisylabels.data import datasets
from noisylabels.evidence import published
from noisylabels.evidence.published import (
    Verdict,
    find,
    load_cells,
    load_claims,
    load_missing,
    load_numbers,
    verdict,
)
from noisylabels.training import networks, runs
from test_figures import made_up

ROOT = Path(__file__).resolve().parents[1] / "data" / "published"
METHODS = {
    "cross_entropy", "mixup", "gce", "elr", "dividemix", "mixnn", "ieg", "drpl", "sanm", "l2r",
    "mixmatch", "dynamic_bootstrapping", "joint_optimisation", "forward_correction",
}  # fmt: skip
ROWS = {
    ("mixnn", "ELR Table 1, CIFAR-10"): 56,  # 7 methods x 8 noises
    ("mixnn", "ELR Table 1, CIFAR-100"): 56,
    ("mixnn", "ELR Table 2"): 46,  # 6 x 8 less two empty
    ("mixnn", "DivideMix rows, CIFAR-100, second source"): 6,
    ("mixnn", "ELR, Clothing1M"): 8,
    ("mixnn", "ELR, mini-WebVision"): 28,  # 7 x 2 validation sets x top-1, top-5
    ("mixnn", "CAR, mini-WebVision"): 2,
    ("ieg", "Figure 1, table inside"): 7,
    ("ieg", "Figure 1, fully supervised level"): 1,
    ("ieg", "CIFAR-10, uniform noise"): 18,
    ("ieg", "CIFAR-100, uniform noise"): 8,
    ("ieg", "semantic noise"): 2,
    ("ieg", "WebVision"): 2,
    ("ieg", "Food101N"): 2,
    ("ieg", "Clothing1M"): 1,
    ("ieg", "semi-supervised comparison"): 4,
    ("ieg", "ablation, rows M-9 and M-10"): 4,
    ("ieg", "third-party reruns"): 4,
    ("drpl", "ImageNet32"): 40,  # 5 x 8
    ("drpl", "ImageNet32, row means"): 5,
    ("drpl", "ImageNet32, margin of DRPL"): 8,
    ("drpl", "ImageNet64"): 40,
    ("drpl", "ImageNet64, row means"): 5,
    ("drpl", "ImageNet64, margin of DRPL"): 8,
    ("drpl", "mini-WebVision"): 10,
    ("drpl", "read-me, CIFAR-10"): 8,
    ("drpl", "read-me, CIFAR-100"): 8,
    ("drpl", "MOIT picture, CIFAR-10"): 78,  # 8 x (7 + average) + MOIT, MOIT+ x 7
    ("drpl", "MOIT picture, CIFAR-100"): 64,
    ("sanm", "Table 3, Clothing1M"): 15,
    ("sanm", "Clothing1M rerun"): 1,
    ("sanm", "CIFAR, relayed"): 2,
    ("sanm", "DivideMix family, CIFAR-10"): 69,
    ("sanm", "DivideMix family, CIFAR-100"): 77,
    ("sanm", "Animal-10N"): 6,
    ("secondhand", "SELC in the DULC table"): 6,
    ("secondhand", "DULC, non-uniform noise"): 30,  # 5 x 2 sets x 3 rates
    ("secondhand", "rates 20 to 90, CIFAR-10"): 108,
    ("secondhand", "rates 20 to 90, CIFAR-100"): 85,
    ("secondhand", "rates 40 and 60"): 40,  # 10 x 2 sets x 2 rates
    ("secondhand", "Clothing1M"): 31,
    ("secondhand", "mini-WebVision"): 49,
    ("secondhand", "Animal-10N"): 5,
    ("secondhand", "CIFAR-N leaderboard"): 147,
    ("secondhand", "CIFAR-N rerun"): 140,  # 11 x 6 x 2 + 4 x 2
}


def one(method, dataset, kind, rate=None, **filters):
    found = find(method, dataset, kind, rate, root=ROOT, **filters)
    assert len(found) == 1, found
    return found[0]


# ------------------------------------------------------------------------------------ the numbers


def test_every_table_has_its_cells():
    assert dict(Counter((n.paper, n.table) for n in load_numbers(ROOT))) == ROWS
    assert sum(ROWS.values()) == 1340


@pytest.mark.parametrize(
    ("value", "std", "where"),
    [
        (53.82, 1.04, ("cross_entropy", "cifar10", "symmetric", 0.8, dict(network="resnet34"))),
        (76.74, 0.61, ("gce", "cifar10", "asymmetric", 0.4, {})),
        (80.69, 0.57, ("elr-cosine", "cifar10", "symmetric", 0.8, {})),
        (73.26, 0.64, ("elr", "cifar100", "asymmetric-blocks-coin", 0.4, {})),
        (34.68, 1.1, ("bootstrap", "cifar100", "symmetric", 0.6, {})),
        (78.7, None, ("elr+", "cifar10", "symmetric", 0.9, dict(paper="mixnn", metric="best"))),
        (75.2, None, ("elr+", "cifar10", "symmetric", 0.9, dict(paper="mixnn", metric="last"))),
        (70.29, None, ("elr+", "mini-webvision-ilsvrc12", "web", None,
                       dict(paper="mixnn", metric="top-1"))),
        (70.9, None, ("ieg", "cifar100", "symmetric-coin", 0.9, {})),
        (80.2, 0.3, ("ieg", "cifar100", "symmetric-coin", 0.4,
                     dict(table="CIFAR-100, uniform noise"))),
        (75.5, 0.2, ("ieg", "cifar100", "symmetric-coin", 0.8,
                     dict(table="CIFAR-100, uniform noise"))),
        (93.7, None, ("ieg", "cifar10", "symmetric-coin", 0.8, {})),
        (73.0, None, ("l2r", "cifar10", "symmetric-coin", 0.8, {})),
        (47.1, None, ("ieg-no-mixup", "cifar100", "symmetric-coin", 0.8, {})),
        (54.10, None, ("drpl", "imagenet32", "ood-uniform", 0.8, {})),
        (70.38, None, ("dynamic_bootstrapping", "imagenet64", "ood-confusion", 0.5, {})),
        (82.08, None, ("drpl", "mini-webvision", "web", None, {})),
        (53.04, None, ("drpl", "cifar100", "symmetric-exclusive", 0.8, dict(metric="best"))),
        (52.95, None, ("drpl", "cifar100", "symmetric-exclusive", 0.8, dict(metric="last"))),
        (65.86, None, ("drpl", "cifar100", "asymmetric-coin", 0.4, dict(metric="best"))),
        (65.69, None, ("drpl", "cifar100", "asymmetric-coin", 0.4, dict(metric="last"))),
        (89.21, None, ("drpl", "cifar10", "symmetric-exclusive", 0.6, {})),
        (94.31, None, ("moit+", "cifar10", "asymmetric-coin", 0.3, {})),
        (8.29, None, ("cross_entropy", "cifar100", "symmetric-exclusive", 0.8, {})),
        (75.63, None, ("sanm", "clothing1m", "web", None, dict(paper="sanm"))),
        (94.4, None, ("dividemix", "cifar10", "symmetric", 0.5, dict(metric="mean10"))),
        (87.72, 2.21, ("c2d-dividemix", "cifar10", "symmetric", 0.95, dict(metric="last"))),
        (44.06, 0.84, ("c2d-elr+", "cifar100", "symmetric", 0.95, dict(metric="best"))),
        (72.4, None, ("dividemix", "cifar100", "superclass", 0.4, dict(metric="last"))),
        (74.59, 0.55, ("dividemix", "clothing1m", "web", None,
                       dict(table="Clothing1M rerun"))),
        (78.6, None, ("selc", "cifar10", "symmetric", 0.8, {})),
        (91.7, None, ("dividemix", "cifar10", "asymmetric-coin", 0.4, dict(paper="secondhand"))),
        (93.36, None, ("promix", "cifar10", "symmetric", 0.9, dict(metric="best"))),
        (91.13, None, ("promix", "cifar10", "symmetric", 0.9, dict(metric="last"))),
        (73.58, 0.28, ("famus", "cifar100", "symmetric", 0.6, {})),
        (78.23, None, ("dmlp-dividemix", "clothing1m", "web", None, {})),
        (93.04, 0.10, ("c2d-dividemix", "mini-webvision-ilsvrc12", "web", None,
                       dict(metric="top-5"))),
        (88.5, 0.1, ("s3", "animal10n", "web", None, {})),
        (77.69, 1.55, ("cross_entropy", "cifar10", "human-worse", None,
                       dict(table="CIFAR-N leaderboard"))),
        (71.13, 0.48, ("dividemix", "cifar100", "human-noisy_fine", None,
                       dict(table="CIFAR-N leaderboard"))),
        (68.26, 1.08, ("cross_entropy", "cifar10", "human-worse", None,
                       dict(table="CIFAR-N rerun", metric="last"))),
        (92.68, 0.23, ("dividemix-lambda-u-25", "cifar10", "human-worse", None,
                       dict(metric="best"))),
        (63.35, 0.31, ("sop+", "cifar100", "human-noisy_fine", None, dict(metric="last"))),
    ],
)  # fmt: skip
def test_spot_values(value, std, where):
    *case, filters = where
    got = one(*case, **filters)
    assert (got.value, got.std) == (value, std)


def test_no_number_stands_twice():
    keys = Counter(
        (n.paper, n.table, n.method, n.dataset, n.noise, n.rate, n.network, n.metric, n.source)
        for n in load_numbers(ROOT)
    )
    assert [k for k, count in keys.items() if count > 1] == []


def test_every_number_is_sourced_and_in_range():
    for n in load_numbers(ROOT):
        assert len(n.source) > 8 and "/work" not in n.source and ".md" not in n.source
        assert 0 < n.value < 100 and (n.std is None or 0 < n.std < 10)
        assert (n.noise == "none") == (n.rate == 0), n
        assert n.rate is not None or n.noise in ("web", "semantic", "mean of 7", "mean of 8")
        assert n.metric in {*published.METRICS, "top-1", "top-5", "difference"}
        ours = n.noise in noise.KINDS or n.noise.startswith("human-")
        assert ours or n.noise in ("web", "semantic", "mean of 7", "mean of 8")


def test_the_kind_of_noise_agrees_with_its_definition():
    meaning = {
        "symmetric": "inclusive, exact count", "symmetric-exclusive": "exclusive, exact count",
        "asymmetric-blocks-coin": "next class in blocks of five ids, coin", "none": "no noise",
    }  # fmt: skip
    for n in load_numbers(ROOT):
        assert n.definition == meaning.get(n.noise, n.definition)
        if n.noise.endswith("-coin") and n.definition != "not stated":
            assert "coin" in n.definition
        if n.paper == "drpl" and n.noise == "asymmetric-coin":
            assert n.definition == {
                "cifar10": "class pairs, coin", "cifar100": "next class in the superclass, coin",
            }[n.dataset]  # fmt: skip


def test_published_averages_of_the_moit_table_are_those_of_their_rows():
    """Re-adding each row shows that the digits of the picture were read right."""
    for dataset in ("cifar10", "cifar100"):
        rows = load_numbers(ROOT, paper="drpl", dataset=dataset, metric="last")
        averages = {n.method: n.value for n in rows if n.noise == "mean of 7"}
        assert len(averages) == 8
        for method, average in averages.items():
            cells = [n.value for n in rows if n.method == method and n.noise != "mean of 7"]
            assert len(cells) == 7
            assert abs(sum(cells) / 7 - average) <= 0.005 + 1e-9, (dataset, method)


def test_means_and_margins_of_the_imagenet_tables_follow_from_the_cells():
    drpl_first = 0
    for dataset, title in (("imagenet32", "ImageNet32"), ("imagenet64", "ImageNet64")):
        cells = load_numbers(ROOT, dataset=dataset, table=title)
        for mean in load_numbers(ROOT, dataset=dataset, table=f"{title}, row means"):
            row = [n.value for n in cells if n.method == mean.method]
            assert len(row) == 8 and abs(sum(row) / 8 - mean.value) <= 0.005 + 1e-9
        for margin in load_numbers(ROOT, dataset=dataset, table=f"{title}, margin of DRPL"):
            at = (margin.noise, margin.rate)
            column = {n.method: n.value for n in cells if (n.noise, n.rate) == at}
            ours = column.pop("drpl")
            best = max(column, key=column.__getitem__)
            assert margin.value == pytest.approx(ours - column[best], abs=1e-9)
            assert margin.note == f"best other: {best}"
            drpl_first += 1
    assert drpl_first == 16


def test_the_later_table_of_drpl_is_never_above_the_read_me():
    """Why the read-me is taken as best and the later table as last epoch."""
    pairs = 0
    for best in load_numbers(ROOT, paper="drpl", method="drpl", metric="best"):
        for last in find("drpl", best.dataset, best.noise, best.rate, root=ROOT, metric="last"):
            assert last.value <= best.value
            pairs += 1
    assert pairs == 14


def test_best_is_at_least_last():
    """Of the same runs: in the per-epoch logs and in the tables that print both."""
    rows = load_numbers(ROOT, table="CIFAR-N rerun") + load_numbers(ROOT, method="promix")
    pairs = 0
    for best in rows:
        if best.metric == "best":
            last = [
                n for n in rows if n.metric == "last" and n.source == best.source
                and (n.method, n.dataset, n.noise, n.rate)
                == (best.method, best.dataset, best.noise, best.rate)
            ]  # fmt: skip
            assert all(n.value <= best.value for n in last)
            pairs += len(last)
    assert pairs == 70 + 9


def test_two_prints_of_the_same_number_agree():
    for table in ("rates 20 to 90, CIFAR-10", "rates 20 to 90, CIFAR-100"):
        for n in load_numbers(ROOT, table=table, method="dividemix", metric="best"):
            for kind in ("mixnn", "sanm"):
                same = find(
                    "dividemix", n.dataset, n.noise, n.rate, root=ROOT, paper=kind, metric="best"
                )
                values = [m.value for m in same if "own run" not in m.source]
                assert set(values) <= {n.value}, (kind, n)


def test_ieg_falls_as_the_noise_grows():
    rows = load_numbers(ROOT, table="Figure 1, table inside")
    assert [n.rate for n in rows] == [0.85, 0.9, 0.93, 0.95, 0.96, 0.98, 0.99]
    assert all(a.value > b.value for a, b in pairwise(rows))


# ------------------------------------------------------------------------- claims, cells and gaps


def test_claims():
    claims = load_claims(ROOT)
    assert len({c.id for c in claims}) == len(claims) == 69
    assert Counter(c.paper for c in claims) == {"mixnn": 13, "ieg": 24, "drpl": 22, "sanm": 10}
    assert all(c.id.startswith(f"{c.paper}-") for c in claims)
    assert all(c.target for c in claims if c.kind == "number")
    by_id = {c.id: c for c in claims}
    assert by_id["ieg-c100-80"].target == "75.5 +- 0.2"
    assert "65.86" in by_id["drpl-c100-nu40"].target
    for c in claims:
        assert "/work" not in c.source and ".md" not in c.source


def test_what_is_missing_says_what_stands_in():
    gaps = load_missing(ROOT)
    assert Counter(m.paper for m in gaps) == {
        "mixnn": 11, "ieg": 11, "drpl": 12, "sanm": 8, "secondhand": 3,
    }  # fmt: skip
    assert any("all four tables" in m.item for m in load_missing(ROOT, paper="mixnn"))


def test_cells_are_unique_sorted_and_explained():
    cells = load_cells(ROOT)
    assert len({c.cell for c in cells}) == len(cells) == 815
    assert [c.priority for c in cells] == sorted(c.priority for c in cells)
    for c in cells:
        assert c.runnable == (c.priority < 5) == (not c.why_not), c
        assert (c.published_value is None) == c.source.startswith("not available"), c


def test_cells_name_settings_that_exist():
    human = {f"human-{w}" for sets in datasets.HUMAN_LABELS.values() for w in sets}
    for c in load_cells(ROOT, runnable=True):
        assert c.method in METHODS and c.dataset in ("cifar10", "cifar100")
        assert c.noise in noise.KINDS or c.noise in human
        assert c.rate is not None and (c.rate == 1) == (c.noise in human)
        options = c.arguments("paper")
        assert options.get("network", "preact18") in networks.NAMES
        assert c.trusted_per_class == {"ieg": 10, "mixmatch": 10, "l2r": 100}.get(c.method, 0) or (
            c.table.startswith("ablation") and c.trusted_per_class == 1
        )


def test_cells_repeat_the_published_numbers():
    numbers = Counter(
        (n.paper, n.table, n.dataset, n.noise, n.metric, n.value, n.std, n.source)
        for n in load_numbers(ROOT)
    )
    cells = Counter(
        (c.paper, c.table, c.dataset, c.noise, c.metric, c.published_value, c.published_std,
         c.source)
        for c in load_cells(ROOT) if c.published_value is not None
    )  # fmt: skip
    assert sum(cells.values()) == 815 - 63  # 63 settings have no printed number
    assert all(count <= numbers[key] for key, count in cells.items())


def test_every_table_cell_of_the_four_papers_has_a_setting():
    """Beside row means, margins and other people's reruns."""
    skipped = {"third-party reruns", "Clothing1M rerun", "Figure 1, fully supervised level"}
    for paper in ("mixnn", "ieg", "drpl", "sanm"):
        due = [
            n for n in load_numbers(ROOT, paper=paper)
            if n.confidence != "derived" and not n.noise.startswith("mean of")
            and n.table not in skipped and "a rerun" not in n.note
        ]  # fmt: skip
        have = [c for c in load_cells(ROOT, paper=paper) if c.published_value is not None]
        assert len(have) == len(due), paper


def test_the_cells_each_paper_stands_on_come_first():
    first = {(c.method, c.dataset, c.noise, c.rate) for c in load_cells(ROOT, priority=1)}
    assert {
        ("drpl", "cifar100", "symmetric-exclusive", 0.8),
        ("drpl", "cifar100", "asymmetric-coin", 0.4),
        ("mixnn", "cifar10", "symmetric", 0.8), ("mixnn", "cifar10", "symmetric", 0.4),
        ("mixnn", "cifar10", "asymmetric", 0.4), ("sanm", "cifar10", "symmetric", 0.5),
        ("dividemix", "cifar10", "symmetric", 0.5),
        ("ieg", "cifar10", "symmetric-coin", 0.4), ("ieg", "cifar10", "symmetric-coin", 0.8),
        ("ieg", "cifar100", "symmetric-coin", 0.4), ("ieg", "cifar100", "symmetric-coin", 0.8),
        *((m, "cifar10", "symmetric", r) for r in (0.2, 0.4, 0.6, 0.8)
          for m in ("cross_entropy", "gce", "elr")),
        *(("mixup", "cifar10", "symmetric", r) for r in (0.2, 0.4, 0.5, 0.6, 0.8)),
    } <= first  # fmt: skip
    second = {(c.method, c.dataset, c.noise, c.rate) for c in load_cells(ROOT, priority=2)}
    assert ("elr", "cifar100", "asymmetric-blocks-coin", 0.4) in second
    grid = {
        (c.dataset, c.noise, c.rate) for c in load_cells(ROOT, method="mixnn") if c.runnable
    }
    assert grid == {
        *((d, "symmetric", r) for d in ("cifar10", "cifar100") for r in (0.2, 0.4, 0.6, 0.8)),
        ("cifar10", "asymmetric", 0.4), ("cifar100", "asymmetric-blocks", 0.4),
        ("cifar10", "symmetric-coin", 0.4), ("cifar10", "symmetric-coin", 0.8),  # beside IEG
    }  # fmt: skip


def test_elr_rows_follow_the_authors_loader():
    """45,000 images, the rest held out with noisy labels; cats become dogs before dogs cats."""
    cells = [c for c in load_cells(ROOT, runnable=True)
             if c.table.startswith("ELR Table 1") and c.method == "elr"]
    assert len(cells) == 28 and {c.val for c in cells} == {0.1}
    assert all(c.val == 0 for c in load_cells(ROOT, runnable=True)
               if c.table.startswith("ELR Table 1") and c.method != "elr")
    restarts = [c for c in cells if "elr-cosine-cifar10-asymmetric" in c.cell]
    assert len(restarts) == 4
    for c in cells:  # ELR* has 150 epochs, whatever plain ELR has at this noise
        epochs = lab.setting(**c.arguments("paper")).options["epochs"]
        plain = c.dataset == "cifar10" and c.noise == "asymmetric" and c not in restarts
        assert epochs == (120 if plain else 150), c.cell
    (note,) = (one("elr", "cifar10", "asymmetric", 0.4, table="ELR Table 1, CIFAR-10").note,)
    cats = [0.6 + 0.4 * 0.4, 0.4 * 0.6]  # still cats; right after both turns, wrong
    wrong = (3 * 0.4 + 0.4 + cats[1]) / 10
    assert sum(cats) == pytest.approx(1) and "45,000" in note
    assert f"{cats[1]:.0%}".replace("%", " %") in note and f"{100 * wrong:.1f} %" in note


def test_data_sets_that_are_not_read_say_what_it_would_take():
    cells = [c for c in load_cells(ROOT) if c.dataset not in ("cifar10", "cifar100")]
    assert len(cells) > 150 and not any(c.runnable for c in cells)
    assert all("is not read here: it takes" in c.why_not for c in cells)


def test_arguments_of_a_cell():
    (cell,) = load_cells(ROOT, cell="mixnn-elr2-mixup-cifar10-symmetric-80-best")
    shared = dict(
        method="mixup", dataset="cifar10", noise="symmetric", rate=0.8, trusted_per_class=0
    )
    assert cell.arguments("fast") == shared | {"budget": "fast"}
    assert cell.arguments("paper") == shared | {
        "budget": "paper", "val_fraction": 0.0, "network": "preact18",
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown budget 'papr'; nearest valid: 'paper'"):
        cell.arguments("papr")
    (cell,) = load_cells(
        ROOT, paper="ieg", table="ablation, rows M-9 and M-10", published_value=47.1
    )
    assert cell.options == "mix=no"  # what is measured belongs to every budget
    assert cell.arguments("fast")["mix"] == cell.arguments("paper")["mix"] == "no"
    clothing = load_cells(ROOT, dataset="clothing1m")[0]
    with pytest.raises(ValueError, match="cannot be run here: Clothing1M is not read"):
        clothing.arguments("fast")


def test_budgets_are_those_of_the_store():
    assert published.BUDGETS == runs.BUDGETS


# --------------------------------------------------------------------------------------- look-ups


def test_find_sorts_by_confidence_and_ignores_the_rate_of_human_labels():
    found = find("dividemix", "cifar10", "symmetric", 0.8, root=ROOT)
    order = [published.CONFIDENCE.index(n.confidence) for n in found]
    assert len(found) > 3 and order == sorted(order)
    human = find("elr", "cifar10", "human-worse", 1.0, root=ROOT)
    assert human == find("elr", "cifar10", "human-worse", root=ROOT) and len(human) == 3
    assert find("drpl", "cifar10", "symmetric-exclusive", 0.55, root=ROOT) == []
    assert len(find("drpl", "cifar10", "symmetric-exclusive", root=ROOT)) == 7  # any rate


def test_filters():
    assert all(n.runs == 5 for n in load_numbers(ROOT, runs=5))
    assert len(load_numbers(ROOT, table="ELR Table 1, CIFAR-10", rate=0.1 + 0.2)) == 7
    assert load_numbers(ROOT, rate=0.123) == []
    assert {c.paper for c in load_claims(ROOT, paper="sanm", kind="order")} == {"sanm"}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (dict(method="dividmix"), "unknown method 'dividmix' in numbers.csv.*'dividemix'"),
        (dict(dataset="CIFAR10"), "unknown dataset 'CIFAR10'.*nearest valid: 'cifar10'"),
        (dict(metod="elr"), "unknown column 'metod'; nearest valid: 'method'; allowed: paper"),
        (dict(confidence="A"), "unknown confidence 'A' in numbers.csv; allowed: confirmed"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(filters, message):
    with pytest.raises(ValueError, match=message):
        load_numbers(ROOT, **filters)


def test_the_default_folder_is_the_projects(monkeypatch):
    monkeypatch.setenv("NOISYLABELS_HOME", str(ROOT.parents[1]))
    assert load_missing() == load_missing(ROOT)
    monkeypatch.setenv("NOISYLABELS_HOME", "/nowhere")
    with pytest.raises(FileNotFoundError, match="missing.csv is missing.*NOISYLABELS_HOME"):
        load_missing()


# ---------------------------------------------------------------------------------- damaged tables


@pytest.fixture
def damaged(tmp_path):
    """Write numbers.csv with one cell of its second data row changed; returns the folder."""

    def write(column=None, text="", header=None):
        with (ROOT / "numbers.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[:4]
        if header is not None:
            rows[0] = header(rows[0])
        if column is not None:
            rows[2][rows[0].index(column)] = text
        with (tmp_path / "numbers.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("value", "83,25", r"numbers.csv, line 3: value '83,25' is not a number\."),
        ("value", "", r"line 3: value '' is not a number\."),
        ("value", "nan", r"line 3: value nan is outside the finite numbers\."),
        ("rate", "20", r"line 3: rate 20 is outside \[0, 1\]\."),
        ("runs", "5.5", r"line 3: runs '5.5' is not a number\."),
        ("source", " ", r"line 3: source is empty\."),
        ("confidence", "A", r"line 3: confidence 'A' is not one of confirmed, printed"),
        ("paper", "mix", r"line 3: paper 'mix' is not one of mixnn, ieg"),
    ],
)
def test_a_wrong_cell_is_named_with_its_line(damaged, column, text, message):
    with pytest.raises(ValueError, match=message):
        load_numbers(damaged(column, text))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (lambda h: [*h[:-1], "remark"], "line 1: no column 'note'; the columns are paper, table"),
        (lambda h: [*h, "remark"], "line 1: unknown column 'remark'; allowed: paper"),
        (lambda h: [*h, "note"], "line 1: a column stands twice"),
    ],
)
def test_a_wrong_header_is_named(damaged, header, message):
    with pytest.raises(ValueError, match=message):
        load_numbers(damaged(header=header))


def test_short_rows_blank_lines_byte_marks_and_other_encodings(damaged):
    folder = damaged()
    file = folder / "numbers.csv"
    text = file.read_text(encoding="utf-8")
    assert len(load_numbers(folder)) == 3
    file.write_text("\ufeff" + text + "\n", encoding="utf-8")  # as spreadsheets save it
    assert len(load_numbers(folder)) == 3
    file.write_text(text + "mixnn,only two\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 5: 2 fields where 15 are due"):
        load_numbers(folder)
    file.write_bytes("paper,é\n".encode("latin-1"))
    with pytest.raises(ValueError, match="numbers.csv is not UTF-8 text"):
        load_numbers(folder)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: no column 'paper'"):
        load_numbers(folder)


def test_an_empty_table_is_an_empty_list(damaged):
    file = damaged() / "numbers.csv"
    file.write_text(file.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert load_numbers(file.parent, method="anything") == []


def test_runnable_is_yes_or_no(tmp_path):
    shutil.copy(ROOT / "cells.csv", tmp_path)
    file = tmp_path / "cells.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",yes,", ",maybe,", 1), "utf-8")
    with pytest.raises(ValueError, match="line 2: runnable 'maybe' is neither yes nor no"):
        load_cells(tmp_path)


def test_what_a_loader_returns_is_the_callers_own():
    load_numbers(ROOT).clear()
    assert len(load_numbers(ROOT)) == 1340


# ------------------------------------------------------------------------------ paired differences


def shown(differences, **words):
    got = published.settle(differences, **words)
    return got.answer, got.holds, got.words.replace("\u00a0", " ").replace("\u2212", "-")


def test_the_quantile_is_students_for_the_n_at_hand():
    stats = pytest.importorskip("scipy.stats")
    for n in (*range(2, 40), 100, 101, 1000):
        assert published.student(n) == pytest.approx(stats.t.ppf(0.975, n - 1), abs=1e-9), n
    assert [round(published.student(n), 2) for n in (2, 3, 5, 20)] == [12.71, 4.30, 2.78, 2.09]
    for n in (1, 0, -1):
        with pytest.raises(ValueError, match="takes two values at least"):
            published.student(n)


def test_three_pairs_are_settled_beyond_students_interval():
    # 1, 2, 3: mean 2, s 1, 4.303 / sqrt 3 = 2.484: two standard errors (1.155) would have settled
    got = published.settle([1, 2, 3])
    assert (got.mean, got.std, got.n) == (2, 1, 3)
    assert (got.low, got.high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert got.beyond == pytest.approx(-0.48414, abs=1e-5) and not got.settled
    assert shown([1, 2, 3]) == (
        "not settled", None, "not settled: +2.0 points, 95 % interval -0.5 to +4.5, n = 3")
    # 2, 2.5, 3: s 0.5, +- 1.242
    assert shown([2, 2.5, 3]) == (
        "yes", True, "yes: +2.5 points, 95 % interval +1.3 to +3.7, n = 3")
    assert shown([-2, -2.5, -3]) == (
        "no", False, "no: -2.5 points, 95 % interval -3.7 to -1.3, n = 3")
    assert published.settle([2, 2.5, 3]).short == "+2.5 [+1.3, +3.7]"
    assert published.settle([2, 2.5, 3]).beyond == published.settle([-2, -2.5, -3]).beyond > 1.25


def test_twenty_pairs_settle_a_smaller_difference():
    d = [0.0, 1.0] * 10  # mean 0.5, s^2 = 20 * 0.25 / 19, +- 2.0930 * 0.51299 / sqrt 20 = 0.2401
    got = published.settle(d)
    assert (got.answer, got.n) == ("yes", 20) and got.low == pytest.approx(0.2599, abs=1e-4)
    assert published.settle([v - 0.25 for v in d]).answer == "yes"  # 0.25 > 0.2401
    assert published.settle([v - 0.27 for v in d]).answer == "not settled"
    assert published.settle([-v for v in d]).answer == "no"


def test_fewer_than_three_pairs_settle_nothing():
    assert shown([]) == ("not settled", None, "not settled: no seed in common")
    assert shown([5]) == (
        "not settled", None, "not settled: +5.0 points, n = 1; an answer takes 3 paired runs")
    assert shown([5, 5])[:2] == ("not settled", None)  # no spread, by luck
    none, one, two = (published.settle([5.0] * n) for n in (0, 1, 2))
    assert (none.short, one.short, two.short) == ("–", "+5.0", "+5.0 [+5.0, +5.0]")
    assert math.isnan(none.mean) and math.isnan(one.std) and two.std == 0
    assert (one.low, one.high) == (-math.inf, math.inf)


def test_differences_without_spread():
    assert shown([2, 2, 2])[:2] == ("yes", True)
    assert shown([-2, -2, -2])[:2] == ("no", False)
    assert shown([0, 0, 0])[:2] == ("not settled", None)
    rounding = [100 * (0.1 + 0.2) - 30] * 3  # 4e-15
    assert rounding[0] != 0 and shown(rounding)[:2] == ("not settled", None)


def test_seeds_are_paired_and_those_of_one_side_left_out():
    ours = {2: 60.0, 0: 50.0, 1: 55.0, 7: 99.0}
    theirs = {0: 48.0, 1: 52.5, 2: 57.0, 8: 1.0}
    got = published.paired(ours, theirs)
    assert got == published.settle([3.0, 2.0, 2.5]) and got.answer == "yes"
    assert published.paired(theirs, ours).answer == "no"
    assert published.paired(ours, {8: 1.0}).n == 0
    with pytest.raises(ValueError, match="takes finite numbers"):
        published.paired({0: math.nan}, {0: 1.0})


def test_units_and_digits_are_those_of_the_words():
    assert shown([0.02, 0.025, 0.03], unit="AUC", digits=3)[2] == (
        "yes: +0.025 AUC, 95 % interval +0.013 to +0.037, n = 3")
    assert shown([0.02, 0.025, 0.03], unit="", digits=3)[2].startswith("yes: +0.025, 95 %")
    # an edge that would read "+0.0" has one digit more
    assert published.settle([1.26, 1.76, 1.26 - 0.5]).short == "+1.26 [+0.02, +2.50]".replace(
        "-", "\u2212")


def test_the_runs_of_one_setting_by_their_seeds():
    found = [made_up([0.5, 0.8], seed=0), made_up([0.9, 0.7], seed=1),
             made_up([0.5, 0.6], seed=2, status="failed")]
    assert published.by_seed(found) == {(0, 0, 0): 80.0, (1, 1, 1): 70.0}
    assert published.by_seed(found, runs.Run.best, scale=1) == {(0, 0, 0): 0.8, (1, 1, 1): 0.9}
    with pytest.raises(ValueError, match=r"two runs have the seeds \(0, 0, 0\)"):
        published.by_seed([*found, made_up(seed=0, method="gce")])


# -------------------------------------------------------------------------------- the verdict rule


def test_reproduced_within_one_point():
    # mean 53.0, s = 0: max(1.0, 0) = 1.0; 53.04 is 0.04 away
    got = verdict("paper", [53.0, 53.0, 53.0], 53.04)
    assert got == Verdict(
        "reproduced",
        "Ours 53.00 (mean of 3 runs), published 53.04: 0.04 apart, 1.00 allowed.",
    )
    assert verdict("paper", [53.0] * 3, 54.0).state == "reproduced"  # exactly the limit
    assert verdict("paper", [53.0] * 3, 52.0).state == "reproduced"
    assert verdict("paper", [53.0] * 3, 54.01).state == "not reproduced"
    assert verdict("paper", [53.1] * 3, 54.1).state == "reproduced"  # in spite of rounding


def test_reproduced_within_two_standard_errors():
    # 51, 52, 53: mean 52, s = 1, s^2/n = 1/3; published 0.5: 2 sqrt(1/3 + 0.25) = 1.528
    ours = [51.0, 52.0, 53.0]
    assert 2 * math.sqrt(1 / 3 + 0.25) == pytest.approx(1.5275, abs=1e-4)
    assert verdict("paper", ours, 53.5, 0.5).state == "reproduced"  # 1.50
    assert verdict("paper", ours, 53.6, 0.5).state == "not reproduced"  # 1.60
    # without a printed deviation: 2 sqrt(1/3) = 1.155
    assert verdict("paper", ours, 53.1).state == "reproduced"
    assert verdict("paper", ours, 53.2).state == "not reproduced"
    # more runs, a smaller standard error: three times, s^2 = 6/8, 2 sqrt(6/72) = 0.577, so 1.0
    assert verdict("paper", ours * 3, 53.0).state == "reproduced"
    assert verdict("paper", ours * 3, 53.1).state == "not reproduced"
    assert "1.60 apart, 1.53 allowed" in verdict("paper", ours, 53.6, 0.5).sentence


def test_reproduced_is_never_further_than_two_points():
    # 50, 52, 54 and 1.5 printed: 2 sqrt(4/3 + 2.25) = 3.786, which the cap makes 2
    ours = [50.0, 52.0, 54.0]
    got = verdict("paper", ours, 55.7, 1.5)
    assert got.state == "not reproduced" and "3.70 apart, 2.00 allowed" in got.sentence
    assert verdict("paper", ours, 54.0, 1.5).state == "reproduced"  # exactly the cap
    assert verdict("paper", ours, 54.01, 1.5).state == "not reproduced"
    assert verdict("paper", [40.0, 52.0, 64.0], 49.9, 9.0).state == "not reproduced"
    assert verdict("paper", [40.0, 52.0, 64.0], 50.0, 9.0).state == "reproduced"
    assert (published.MARGIN, published.CAP) == (1.0, 2.0)


def test_partly_when_only_the_claim_holds():
    got = verdict("paper", [45.0, 46.0, 47.0], 53.04, claim_holds=True)
    # s = 1: 2 sqrt(1/3) = 1.155; 7.04 apart
    assert got == Verdict(
        "partly",
        "Ours 46.00 (mean of 3 runs), published 53.04: 7.04 apart, 1.15 allowed; "
        "the claim it serves holds.",
    )
    fails = verdict("paper", [45.0, 46.0, 47.0], 53.04, claim_holds=False)
    assert fails.state == "not reproduced"
    assert fails.sentence.endswith("the claim it serves does not hold.")
    unknown = verdict("paper", [45.0, 46.0, 47.0], 53.04)
    assert unknown.state == "not reproduced"
    assert unknown.sentence.endswith("no claim was compared, or its comparison is not settled.")
    # a number that is met needs no claim
    assert verdict("paper", [53.0] * 3, 53.04, claim_holds=False).state == "reproduced"


def test_too_few_runs():
    for ours in ([53.0], [53.0, 53.1]):
        assert verdict("paper", ours, 53.04, claim_holds=True).state == "too few runs"
    assert verdict("paper", [53.0], 53.04).sentence == (
        "Ours 53.00 (1 run), published 53.04: a verdict takes 3 runs."
    )


def test_no_published_number():
    got = verdict("paper", [90.0, 91.0, 92.0], None, claim_holds=True)
    assert got == Verdict(
        "no published number", "No published number was to be had; ours: 91.00 (mean of 3 runs)."
    )
    assert verdict("paper", [90.0], None).state == "no published number"
    assert verdict("fast", [90.0], None).state == "no published number"


def test_a_small_budget_shows_a_direction_only():
    ours = [53.04] * 3
    assert verdict("fast", ours, 53.04, claim_holds=True).state == "direction holds"
    assert verdict("fast", ours, 53.04, claim_holds=False).state == "direction does not hold"
    assert verdict("fast", ours, 53.04) == Verdict(
        "needs the paper budget", "A printed number is judged from the paper budget on; ours at "
                                  "the fast budget: 53.04 (mean of 3 runs).")
    got = verdict("fast", [60.0] * 3, None, claim_holds=True)
    assert got == Verdict(
        "direction holds",
        "The fast budget shows a direction only; ours: 60.00 (mean of 3 runs); the claim holds; "
        "no published number was to be had.",
    )
    assert verdict("fast", [60.0] * 2, 53.0, claim_holds=True).state == "too few runs"


@pytest.mark.parametrize("holds", [True, False])
def test_a_laptop_decides_no_order_of_methods(holds):
    assert verdict("laptop", [53.04] * 3, 53.04, claim_holds=holds) == Verdict(
        "needs the desk budget", "An order is judged from the desk budget on; ours at the laptop "
                                 "budget: 53.04 (mean of 3 runs).")
    assert verdict("laptop", [53.04], 53.04).state == "needs the paper budget"
    assert verdict("laptop", [53.04], None).state == "no published number"


@pytest.mark.parametrize("holds", [True, False, None])
@pytest.mark.parametrize("printed", [53.04, None])
def test_the_digits_decide_nothing(holds, printed):
    got = verdict("smoke", [53.04] * 3, printed, claim_holds=holds)
    assert got == Verdict("no verdict", "The smoke budget decides nothing; ours: 53.04 (mean of 3 "
                                        "runs).")


def test_what_a_budget_decides():
    least = [published.decides(b, "laptop") for b in ("smoke", "laptop", "fast", "paper")]
    assert least == [False, True, True, True]
    assert [published.decides(b, "paper") for b in published.BUDGETS][-2:] == [False, True]
    assert published.DECIDING == published.BUDGETS[1:] and published.BUDGETS[0] == "smoke"


def test_not_run():
    assert verdict("paper", [], 53.04) == Verdict("not run", "Not run at the paper budget.")
    assert verdict("fast", [], None, claim_holds=True).state == "not run"


def test_every_state_of_a_verdict_is_listed():
    seen = {
        verdict(b, [50.0] * n, p, None, c).state
        for b in published.BUDGETS for n in (0, 1, 3) for p in (None, 50.0, 60.0)
        for c in (None, True, False)
    }  # fmt: skip
    ledgers = {"direction not settled", "needs the fast budget"}
    assert seen | ledgers == set(published.STATES)


def test_a_number_for_a_page():
    (n,) = load_numbers(ROOT, paper="ieg", value=92.0, method="ieg")
    assert n.about and n.shown() == "≈ 92 (relayed)"
    (n,) = load_numbers(ROOT, paper="ieg", value=92.0, method="mentornet")
    assert not n.about and n.shown() == "92.0" and n.shown(2) == "92.00"
    assert one("elr-cosine", "cifar10", "symmetric", 0.4, paper="mixnn").shown() == "91.4 ± 0.2"
    assert [x.method for x in load_numbers(ROOT) if x.about] == ["ieg"]


def test_every_cell_finds_its_printed_number_under_its_printed_name():
    cells = [c for c in load_cells(ROOT) if c.published_value is not None]
    assert len(cells) > 700
    for c in cells:
        n = published.number_of(c, ROOT)
        assert n is not None and n.method == c.printed_method, c.cell
    assert Counter((c.method, c.printed_as) for c in cells if c.printed_as) == {
        ("elr", "elr-cosine"): 16, ("mixmatch", "mixmatch-kl"): 2, ("ieg", "ieg-no-mixup"): 2,
        ("sanm", "sanm-c2d"): 1}
    without = next(c for c in load_cells(ROOT) if c.published_value is None)
    assert published.number_of(without, ROOT) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("papers", [1.0], 1.0), "unknown budget 'papers'; nearest valid: 'paper'; allowed"),
        (("paper", [1.0, math.nan, 2.0], 1.0), "takes finite numbers"),
        (("paper", [1.0, 2.0, 3.0], math.inf), "takes finite numbers"),
        (("paper", [1.0, 2.0, 3.0], 1.0, -0.1), "standard deviation is not negative"),
    ],
)
def test_bad_arguments_of_a_verdict(arguments, message):
    with pytest.raises(ValueError, match=message):
        verdict(*arguments)
