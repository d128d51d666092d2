"""The front page says what the runs say, and nothing where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noisylabels.evidence import findings
from noisylabels.training.recorder import Losses
from test_figures import made_up


def group(method, above=0.0, noise="symmetric", rate=0.4, budget="laptop", **more):
    return [made_up([0.5, x + above / 100], method=method, seed=s, budget=budget,
                    dataset=more.pop("dataset", "cifar10"), noise=noise, rate=rate, **more)
            for s, x in enumerate((0.60, 0.62, 0.59))]


def everything():
    names = {"cross_entropy": 0, "mixup": 2, "gce": -3, "elr": 1, "mixnn": 4, "drpl": 0,
             "sanm": 5, "dividemix": 6, "ieg": 9}
    runs = [r for noise in findings.NOISES for m, above in names.items()
            for r in group(m, above, *noise)]
    runs += group("sanm", 4.8, branches="random")
    return runs


def test_without_runs_only_the_claims_are_told():
    (said,) = findings.sentences([])
    assert said.startswith("**Of 69 claims of the four papers 60 have a written rule; none hold")
    assert findings.picture([]) is None


def test_each_sentence_follows_from_its_runs():
    said = findings.sentences(everything())
    assert len(said) == 3, "no digits, no losses kept"
    assert said[0].count("5 of 7 under") == 3, "without IEG, which has trusted images"
    assert "a first look" in said[0]
    assert said[1].startswith("**Where SANM's masks lie makes a difference**: 1 of 1 comparisons")
    assert "the largest difference is +0.2 points" in said[1]
    figure, alt = findings.picture(everything())
    assert len(figure.axes) == 3 and alt.endswith("Highest on average: DivideMix, SANM, MixNN.")


@pytest.mark.parametrize(("apart", "words"), [
    ((2, 2, 2), "neighbours beat random ones"), ((-2, -2, -2), "lose to random ones"),
    ((2, -2, 1), "are not known to beat random ones")])
def test_partners_are_judged_by_the_interval(apart, words):
    runs = []
    for s, d in enumerate(apart):
        where = dict(method="mixnn", seed=s, budget="smoke", dataset="digits", rate=0.6)
        runs += [made_up([0.5, 0.8 + d / 100], **where),
                 made_up([0.5, 0.8], partner="random", **where)]
    said = findings.sentences(runs)
    assert words in said[0] and "n = 3" in said[0]


def test_the_mean_loss_is_told_where_it_finds_more_than_the_last():
    wrong = np.arange(40) < 15
    rows = [np.where(wrong, 3.0, 1.0), np.where(np.arange(40) % 2, 0.1, 0.2)]
    history = Losses()
    for row in rows:
        history.add(torch.tensor(row))
    run = made_up(method="cross_entropy", dataset="cifar10", rate=0.4, budget="desk",
                  info={"losses_of": [1, 2], "_signals": {
                      "losses": history.kept(40), "wrong": wrong}})
    assert "ranks them with an AUROC of 1.00" in findings.sentences([run])[0]
    run.info["_signals"]["losses"] = history.kept(40)[::-1]
    assert len(findings.sentences([run])) == 1, "not where the last epoch ranks as well"
