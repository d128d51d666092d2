"""Side by side, from runs that were never trained: differences, ranks, frontier, choices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from noisylabels.evidence import protocol
from noisylabels.evidence.protocol import Condition
from test_figures import made_up

LEVEL = (0.60, 0.62, 0.59)


def group(method, above=0.0, noise="symmetric", rate=0.4, budget="laptop", epochs=2, **more):
    return [made_up([*[0.5] * (epochs - 1), x + above / 100], method=method, seed=s, budget=budget,
                    dataset="cifar10", noise=noise, rate=rate, **more)
            for s, x in enumerate(LEVEL)]


def test_conditions_hold_usual_runs_of_one_budget_by_noise_and_method():
    runs = [*group("cross_entropy"), *group("mixup", 1), *group("mixup", 5, alpha=0.7),
            *group("mixup", 9, budget="desk"), *group("gce", noise="asymmetric")]
    found = protocol.conditions(runs, "laptop", "cifar10")
    assert {k: {m: len(r) for m, r in v.items()} for k, v in found.items()} == {
        ("symmetric", 0.4): {"cross_entropy": 3, "mixup": 3}}
    assert Condition("symmetric", 0.4).name == "symmetric 40\u00a0%"
    with pytest.raises(ValueError, match="no noise has runs of 2 methods at the fast budget"):
        protocol.conditions(runs, "fast", "cifar10")


def test_the_richest_budget_has_every_noise():
    runs = [*group("cross_entropy"), *group("mixup"), *group("cross_entropy", budget="desk"),
            *group("mixup", budget="desk"), *group("cross_entropy", noise="asymmetric"),
            *group("mixup", noise="asymmetric")]
    one, both = [("symmetric", 0.4)], [("symmetric", 0.4), ("asymmetric", 0.4)]
    assert protocol.richest(runs, "cifar10", one, least=2) == "desk"
    assert protocol.richest(runs, "cifar10", both, least=2) == "laptop"
    with pytest.raises(ValueError, match="no budget has runs of 3 methods under all"):
        protocol.richest(runs, "cifar10", one, least=3)


def test_differences_are_paired_and_say_what_they_cost():
    runs = [*group("cross_entropy", epochs=4), *group("mixup", 2, epochs=4),
            *group("dividemix", 3, epochs=2), *group("l2r", -1, epochs=4)]
    found = protocol.conditions(runs, "laptop", "cifar10")
    by = {d.method: d for d in protocol.against(found)}
    assert set(by) == {"mixup", "dividemix", "l2r"}
    assert by["mixup"].paired.mean == pytest.approx(2) and by["mixup"].paired.holds is True
    assert by["l2r"].paired.holds is False and by["l2r"].trusted == 10
    assert by["mixup"].passes == 1 and by["mixup"].epochs == 4
    assert by["dividemix"].passes == pytest.approx(13 * 2 / 4)
    assert math.isnan(by["l2r"].passes), "its passes are not counted"
    assert by["mixup"].seconds == 7
    assert protocol.against(found, "gce") == [], "a rival without runs"
    best = {d.method: d.paired.mean for d in protocol.against(found, number=lambda r: r.best())}
    assert best["mixup"] == pytest.approx(2)


def test_ranks_by_hand_and_their_range():
    runs = [*group("cross_entropy"), *group("mixup", 1), *group("gce", 1), *group("elr", 4)]
    found = protocol.conditions(runs, "laptop", "cifar10")
    got = protocol.ranks(found, ["cross_entropy", "mixup", "gce", "elr"])
    assert list(got) == ["elr", "mixup", "gce", "cross_entropy"]
    assert [r for r, _, _ in got.values()] == [1, 2.5, 2.5, 4], "equal ones share their rank"
    assert all(low == r == high for r, low, high in got.values()), "the same for every draw"
    # mixup is ahead in two of three seeds, behind by far in the third
    for run, x in zip(found["symmetric", 0.4]["mixup"], (0.61, 0.63, 0.40), strict=True):
        run.epochs["test"][-1] = x
    (_, low, high) = protocol.ranks(found, ["cross_entropy", "mixup"])["mixup"]
    assert (low, high) == (1, 2)
    other = protocol.ranks(found, ["cross_entropy", "mixup"], seed=1)
    assert other["mixup"][0] == 2, "draws do not move the rank of the means"
    with pytest.raises(ValueError, match="no noise has runs of all of mixup, ieg"):
        protocol.ranks(found, ["mixup", "ieg"])
    with pytest.raises(ValueError, match="at least one method"):
        protocol.ranks(found, [])


def test_the_frontier_is_what_nothing_beats_in_both():
    points = {"a": (1.0, 50.0), "b": (1.0, 55.0), "c": (2.0, 54.0), "d": (3.0, 60.0),
              "e": (9.0, 60.0)}
    assert protocol.frontier(points) == ["b", "d"]
    assert protocol.frontier({}) == []


def test_the_choice_of_the_epoch_can_change_places():
    falls = made_up([0.5, 0.9, 0.6], val=[0.2, 0.3, 0.4])
    stays = made_up([0.5, 0.7, 0.7])
    got = protocol.choices({"falls": [falls], "stays": [stays]})
    assert got["falls"] == pytest.approx({"last": 60, "mean of the last ten": 200 / 3,
                                          "noisy validation": 60, "oracle": 90})
    assert math.isnan(got["stays"]["noisy validation"])
    assert protocol.moved(got) == [("stays", "falls")]


def test_the_picture_has_a_panel_a_noise_and_full_dots_where_the_sign_is_settled():
    runs = [r for noise in ("symmetric", "asymmetric") for r in (
        *group("cross_entropy", noise=noise), *group("mixup", 2, noise=noise),
        *group("gce", 0, noise=noise))]
    found = protocol.conditions(runs, "laptop", "cifar10")
    figure = protocol.dots(protocol.against(found), ["mixup", "gce"])
    assert len(figure.axes) == 2
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    faces = {tuple(np.ravel(d.get_ydata())): d.get_markerfacecolor() for d in dots}
    assert faces[(0,)] != "white" and faces[(1,)] == "white"
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["Mixup", "GCE"]


def test_an_ingredient_is_the_method_with_it_minus_the_method_without():
    def arm(above, **options):
        return group("mixnn", above, budget="desk", **options)

    runs = [*arm(3), *arm(1, partner="random"), *arm(4, targets="frozen"),
            *group("mixnn", 9, budget="laptop", partner="random")]
    parts = [("partners", "mixnn", "mixnn:partner=random"),
             ("targets", "mixnn", "mixnn:targets=frozen"),
             ("weights", "mixnn", "mixnn:weights=equal")]
    found = protocol.ingredients(runs, parts, "desk", "cifar10", "symmetric", 0.4)
    assert [(i.part, i.method, round(i.paired.mean, 6), i.paired.n) for i in found] == [
        ("partners", "mixnn", 2, 3), ("targets", "mixnn", -1, 3)], "no runs without weights"
    assert found[0].epochs == (2, 2) and found[0].condition == ("symmetric", 0.4)
    ax = protocol.bought(found)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["MixNN: partners", "MixNN: targets"]
    low, high = ax.get_xlim()
    assert low <= -2 and high >= 3


def test_a_very_wide_interval_does_not_squeeze_the_others():
    wide = [made_up([0.5, x], method="mixnn", seed=s, budget="desk", dataset="cifar10",
                    rate=0.4, weights="equal") for s, x in enumerate((0.1, 0.6, 0.9))]
    runs = [*group("mixnn", 3, budget="desk"), *group("mixnn", 1, budget="desk",
                                                      partner="random"), *wide]
    parts = [("partners", "mixnn", "mixnn:partner=random"),
             ("weights", "mixnn", "mixnn:weights=equal")]
    found = protocol.ingredients(runs, parts, "desk", "cifar10", "symmetric", 0.4)
    assert found[1].paired.high > 100
    low, high = protocol._without_the_far(found)
    assert low < 0 and high < 30
