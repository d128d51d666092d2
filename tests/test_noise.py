"""Noise models: exact counts, rates, matrices, and the official draws by their checksums."""

from __future__ import annotations

import hashlib
import json
import random

import numpy as np
import pytest
import torch

from noisylabels import noise

N = 20000
EXACT = ("symmetric", "symmetric-exclusive", "asymmetric", "asymmetric-blocks", "confusion")
COINS = (
    "symmetric-coin",
    "symmetric-exclusive-coin",
    "asymmetric-coin",
    "asymmetric-blocks-coin",
)
OFFICIAL = ("drpl-uniform", "drpl-nonuniform", "dividemix-symmetric", "dividemix-asymmetric")


def labels(num_classes: int, n: int = N) -> np.ndarray:
    """Balanced labels in a shuffled order."""
    return np.random.default_rng(7).permutation(np.arange(n) % num_classes)


def needs(kind: str, num_classes: int = 10, n: int = N) -> dict:
    """Arguments with which every kind runs on `labels`."""
    cycle = (np.arange(num_classes) + 1) % num_classes
    source = np.arange(2 * n) % 30
    return {
        "class_map": "cifar10" if num_classes == 10 else cycle,
        "coarse": labels(num_classes, n) // 5,
        "matrix": np.ones((30 if kind == "ood-confusion" else num_classes, num_classes)),
        "source_labels": source,
        "y_human": labels(num_classes, n)[::-1].copy(),
        "y_ready": labels(num_classes, n)[::-1].copy(),
        "note": "made up",
    }


def draw(kind, rate, num_classes=10, seed=1, n=N, **more):
    y = labels(num_classes, n)
    return noise.corrupt(
        y, kind, rate, num_classes, seed, **{**needs(kind, num_classes, n), **more}
    )


def rate_for(kind, rate):
    return {"none": 0, "human": 1, "given": 1}.get(kind, rate)


# --- every kind -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", noise.KINDS)
def test_every_kind_gives_valid_labels_and_a_proper_matrix(kind):
    out = draw(kind, rate_for(kind, 0.4))
    assert out.kind == kind and out.num_classes == 10
    for t in (out.y_true, out.y_given):
        assert t.dtype == torch.int64 and t.shape == (N,)
    assert 0 <= int(out.y_given.min()) and int(out.y_given.max()) < 10
    assert torch.equal(out.y_true, torch.from_numpy(labels(10)))
    assert out.transition.dtype == torch.float64
    torch.testing.assert_close(out.transition.sum(1), torch.ones(10, dtype=torch.float64))
    assert out.wrong.dtype == torch.bool
    assert out.realised_rate == out.wrong.sum().item() / N
    assert (out.replaced is not None) == kind.startswith("ood-") == (out.source is not None)


@pytest.mark.parametrize("kind", noise.KINDS)
def test_rate_zero_is_the_truth(kind):
    out = draw(kind, 0.0)
    assert torch.equal(out.y_given, out.y_true)
    assert out.realised_rate == 0.0 and not out.wrong.any()
    torch.testing.assert_close(out.transition, torch.eye(10, dtype=torch.float64))
    if out.source is not None:
        assert (out.source == -1).all()


@pytest.mark.parametrize("kind", noise.KINDS)
def test_a_seed_decides_the_draw_and_torch_is_as_good_as_numpy(kind):
    rate = rate_for(kind, 0.5)
    a, b = draw(kind, rate), draw(kind, rate)
    c = draw(kind, rate, seed=2)
    t = noise.corrupt(torch.from_numpy(labels(10)), kind, rate, 10, 1, **needs(kind))
    i = noise.corrupt(labels(10).astype(np.uint8), kind, rate, 10, 1, **needs(kind))
    for other in (b, t, i):
        assert torch.equal(a.y_given, other.y_given)
        assert a.source is None or torch.equal(a.source, other.source)
    drawn = kind not in ("none", "human", "given")
    same = (
        torch.equal(a.y_given, c.y_given) if a.source is None else torch.equal(a.source, c.source)
    )
    assert same != drawn
    assert a.seed == (1 if drawn else None)


def test_the_global_generators_are_left_alone_and_do_not_matter():
    states = np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()
    first = {k: draw(k, rate_for(k, 0.5), n=200).y_given for k in noise.KINDS}
    assert np.array_equal(states[0], np.random.get_state()[1])
    assert states[1] == random.getstate() and torch.equal(states[2], torch.get_rng_state())
    assert all(torch.equal(v, draw(k, rate_for(k, 0.5), n=200).y_given) for k, v in first.items())


def test_the_input_is_not_changed_nor_shared():
    y = labels(10)
    out = noise.corrupt(y, "none", 0, 10)
    out.y_given[0] = 9 - out.y_given[0]
    assert np.array_equal(y, labels(10)) and torch.equal(out.y_true, torch.from_numpy(y))


@pytest.mark.parametrize("kind", (*EXACT, *COINS, "ood-uniform"))
def test_a_larger_rate_keeps_the_choices_of_a_smaller_one(kind):
    low, high = draw(kind, 0.2), draw(kind, 0.7)
    kept = low.wrong
    assert kept.any() and torch.equal(low.y_given[kept], high.y_given[kept])
    if low.source is not None:
        assert torch.equal(low.source[kept], high.source[kept])


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", (2, 10, 100))
@pytest.mark.parametrize("rate", (0.2, 0.5, 0.9, 1.0))
def test_exclusive_kinds_change_exactly_floor_rn_labels(num_classes, rate):
    for kind in ("symmetric-exclusive", "confusion"):
        out = draw(kind, rate, num_classes)
        assert int(out.wrong.sum()) == int(N * rate)
        off = out.transition + torch.eye(num_classes)
        if num_classes < 100:
            assert (off > 0).all()  # every other class is reached
    out = draw("drpl-uniform", rate, num_classes, n=2000)
    assert int(out.wrong.sum()) == int(2000 * rate)


@pytest.mark.parametrize("num_classes", (2, 10, 100))
@pytest.mark.parametrize("rate", (0.5, 0.9, 1.0))
def test_inclusive_noise_chooses_floor_rn_labels_and_leaves_some_right(num_classes, rate):
    out = draw("symmetric", rate, num_classes)
    count = int(N * rate)
    # the same seed chooses the same samples, which the exclusive kind all makes wrong
    chosen = draw("symmetric-exclusive", rate, num_classes).wrong
    assert int(chosen.sum()) == count and not (out.wrong & ~chosen).any()
    expected = rate * (1 - 1 / num_classes)
    sigma = np.sqrt(count / num_classes * (1 - 1 / num_classes)) / N
    assert abs(out.realised_rate - expected) < 5 * sigma
    assert noise.expected_rate("symmetric", rate, num_classes) == pytest.approx(expected)
    drawn = torch.bincount(out.y_given[chosen], minlength=num_classes)
    assert (drawn - count / num_classes).abs().max() < 5.5 * np.sqrt(count / num_classes)


@pytest.mark.parametrize("rate", (0.2, 0.9, 1.0))
def test_asymmetric_noise_chooses_among_all_samples(rate):
    cycle = draw("asymmetric", rate, 100)
    assert int(cycle.wrong.sum()) == int(N * rate)  # every chosen label changes
    blocks = draw("asymmetric-blocks", rate, 100)
    assert int(blocks.wrong.sum()) == int(N * rate)
    two = draw("asymmetric", rate, 2)
    assert int(two.wrong.sum()) == int(N * rate)
    ten = draw("asymmetric", rate, 10)  # only five of the ten classes move
    chosen = draw("symmetric-exclusive", rate, 10).wrong
    moving = torch.isin(ten.y_true, torch.tensor([2, 3, 4, 5, 9]))
    assert torch.equal(ten.wrong, chosen & moving)
    assert abs(ten.realised_rate - rate / 2) < 0.01


def test_the_count_is_floor_and_safe_against_rounding():
    y = np.arange(100) % 10
    for percent in range(101):
        out = noise.corrupt(y, "symmetric-exclusive", percent / 100, 10, 0)
        assert int(out.wrong.sum()) == percent  # 0.29 * 100 is 28.999...
    for rate, count in ((0.5, 3), (0.999, 6), (1.0, 7)):
        assert int(noise.corrupt(y[:7], "symmetric-exclusive", rate, 10, 0).wrong.sum()) == count


@pytest.mark.parametrize("kind", COINS)
@pytest.mark.parametrize("rate", (0.2, 0.9))
def test_coins_fall_about_their_rate(kind, rate):
    rates = [draw(kind, rate, seed=s, class_map="cifar10").realised_rate for s in range(5)]
    expected = noise.expected_rate(kind, rate, 10, class_map="cifar10")
    per_class = noise.expected_transition(kind, rate, 10, class_map="cifar10").diagonal()
    sigma = float((per_class * (1 - per_class)).mean() / N) ** 0.5
    assert all(abs(r - expected) < 4.5 * sigma for r in rates)
    assert len({round(r * N) for r in rates}) > 1  # a coin, not a count
    if kind == "symmetric-exclusive-coin":
        assert int(draw(kind, 1.0).wrong.sum()) == N
    if kind == "asymmetric-coin":
        moving = torch.isin(torch.from_numpy(labels(10)), torch.tensor([2, 3, 4, 5, 9]))
        assert torch.equal(draw(kind, 1.0, class_map="cifar10").wrong, moving)


@pytest.mark.parametrize("kind", [k for k in noise.KINDS if k not in ("human", "given")])
def test_the_realised_matrix_follows_the_expected_one(kind):
    rng = np.random.default_rng(3)
    more = {"matrix": rng.integers(0, 50, (10, 10))} if kind == "confusion" else {}
    more |= {"class_map": "digits"}
    rate = rate_for(kind, 0.6)
    out = draw(kind, rate, **more)
    if "symmetric" in kind or kind.startswith(("drpl", "none", "ood")):
        coarse = None
    else:
        coarse = torch.arange(10) // 5
    expected = noise.expected_transition(kind, rate, 10, coarse=coarse, **more)
    torch.testing.assert_close(expected.sum(1), torch.ones(10, dtype=torch.float64))
    # 2000 samples a class: five standard deviations of a share
    assert (out.transition - expected).abs().max() < 5 * 0.5 / np.sqrt(N / 10)
    assert torch.equal(out.transition > 0, expected > 0) or kind == "confusion"


def test_transition_by_hand_and_a_class_without_samples():
    out = noise.NoisyLabels(
        "given", None, 3, torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 2, 2, 1, 1])
    )
    expected = torch.tensor([[0.25, 0.25, 0.5], [0, 1, 0], [0, 0, 0]], dtype=torch.float64)
    assert torch.equal(out.transition, expected)
    assert out.realised_rate == 0.6
    assert out.wrong.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("kind", "rate", "num_classes", "expected"),
    [
        ("none", 0, 10, 0.0),
        ("symmetric", 0.2, 10, 0.18),
        ("symmetric", 0.4, 10, 0.36),
        ("symmetric", 0.5, 10, 0.45),
        ("symmetric", 0.8, 10, 0.72),
        ("symmetric", 0.9, 10, 0.81),
        ("symmetric", 0.6, 100, 0.594),
        ("symmetric", 0.8, 100, 0.792),
        ("symmetric", 0.9, 100, 0.891),
        ("symmetric-coin", 0.4, 100, 0.396),
        ("symmetric-exclusive", 0.8, 10, 0.8),
        ("symmetric-exclusive-coin", 0.8, 2, 0.8),
        ("asymmetric", 0.4, 10, 0.2),
        ("asymmetric-coin", 0.4, 10, 0.2),
        ("asymmetric-blocks", 0.4, 100, 0.4),
        ("asymmetric-blocks-coin", 0.3, 100, 0.3),
        ("superclass", 0.4, 100, 0.4),
        ("confusion", 0.3, 10, 0.3),
        ("ood-uniform", 0.4, 10, 0.4),
        ("ood-confusion", 0.5, 10, 0.5),
        ("drpl-uniform", 0.8, 10, 0.8),
        ("drpl-nonuniform", 0.4, 10, 0.2),
        ("dividemix-symmetric", 0.8, 10, 0.72),
        ("dividemix-asymmetric", 0.4, 10, 0.2),
    ],
)
def test_expected_rate(kind, rate, num_classes, expected):
    dataset = "cifar10" if num_classes == 10 else "cifar100"
    matrix = np.ones((10, 10)) if kind == "confusion" else None
    got = noise.expected_rate(kind, rate, num_classes, dataset=dataset, matrix=matrix)
    assert got == pytest.approx(expected, abs=1e-12)


def test_no_expectation_for_ready_labels():
    assert noise.expected_rate("human", None, 10) is None
    assert noise.expected_rate("given", None, 10) is None
    for kind in ("human", "given"):
        with pytest.raises(ValueError, match=f"{kind!r} has no matrix"):
            noise.flips(kind, 10)


# --- class maps -------------------------------------------------------------------------------


def test_class_maps():
    assert noise.class_map("cifar10").tolist() == [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]
    assert noise.class_map("digits").tolist() == [0, 1, 7, 8, 4, 6, 6, 1, 8, 4]
    blocks = noise.class_map("cifar100-blocks")
    assert blocks[:10].tolist() == [1, 2, 3, 4, 0, 6, 7, 8, 9, 5]
    assert blocks[95:].tolist() == [96, 97, 98, 99, 95]
    superclasses = noise.class_map("cifar100")
    # aquatic mammals: beaver 4, dolphin 30, otter 55, seal 72, whale 95
    assert superclasses[[4, 30, 55, 72, 95]].tolist() == [30, 55, 72, 95, 4]
    for m in (blocks, superclasses):
        assert sorted(m.tolist()) == list(range(100)) and (m != torch.arange(100)).all()
    assert all(noise.class_map(n).dtype == torch.int64 for n in noise.MAPS)
    assert np.bincount(noise.CIFAR100_SUPERCLASS).tolist() == [5] * 20


def test_asymmetric_noise_reads_the_clean_labels():
    """A map applied class by class to the array it changes would leave 24 % of the cats wrong."""
    y = np.arange(50000) % 10
    share = noise.corrupt(y, "asymmetric", 0.4, 10, 0, dataset="cifar10").transition
    for true, given in noise_pairs():
        assert abs(share[true, given] - 0.4) < 0.03
        assert share[true, true] + share[true, given] == 1
    trap = y.copy()
    rng = np.random.default_rng(0)
    for true, given in noise_pairs():
        index = rng.permutation(np.flatnonzero(trap == true))
        trap[index[: int(0.4 * len(index))]] = given
    assert abs(((y == 3) & (trap == 5)).sum() / 5000 - 0.24) < 0.03
    whole = noise.corrupt(y, "asymmetric", 1.0, 10, 0, dataset="cifar10").y_given
    assert torch.equal(whole, noise.class_map("cifar10")[y])


def noise_pairs():
    return ((2, 0), (3, 5), (4, 7), (5, 3), (9, 1))


def test_the_map_comes_from_the_argument_that_says_most():
    y = labels(10)

    def whole(**kw):
        return noise.corrupt(y, "asymmetric", 1.0, 10, 0, **kw).y_given.numpy()

    shift = (np.arange(10) + 3) % 10
    coarse = y // 5
    assert np.array_equal(whole(class_map=shift, dataset="cifar10", coarse=coarse), shift[y])
    assert np.array_equal(whole(class_map=torch.from_numpy(shift)), shift[y])
    digits = noise.class_map("digits").numpy()
    assert np.array_equal(whole(class_map="digits", dataset="cifar10"), digits[y])
    assert np.array_equal(whole(dataset="digits", coarse=coarse), digits[y])
    cycle = np.array([1, 2, 3, 4, 0, 6, 7, 8, 9, 5])
    assert np.array_equal(whole(coarse=coarse), cycle[y])
    assert np.array_equal(whole(dataset="birds", coarse=torch.from_numpy(coarse)), cycle[y])
    parity = np.array([2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    assert np.array_equal(whole(coarse=y % 2), parity[y])


def test_superclasses_of_cifar100_with_and_without_the_samples_own():
    y = labels(100)[:60]  # some classes have no sample
    coarse = np.array(noise.CIFAR100_SUPERCLASS)[y]
    m = noise.class_map("cifar100")
    for kw in ({}, {"coarse": coarse}):
        out = noise.corrupt(y, "asymmetric-coin", 1.0, 100, 0, dataset="cifar100", **kw)
        assert torch.equal(out.y_given, m[y])
    with pytest.raises(ValueError, match="coarse contradicts the superclasses of dataset"):
        noise.corrupt(y, "superclass", 0.4, 100, 0, dataset="cifar100", coarse=(coarse + 1) % 20)
    with pytest.raises(ValueError, match="must cover every class, but classes"):
        noise.corrupt(y, "superclass", 0.4, 100, 0, coarse=coarse)


def test_uniform_noise_inside_the_superclass():
    y = labels(100, 50000)
    out = noise.corrupt(y, "superclass", 0.4, 100, 5, dataset="cifar100")
    group = torch.tensor(noise.CIFAR100_SUPERCLASS)
    assert int(out.wrong.sum()) == 20000
    assert torch.equal(group[out.y_given], group[out.y_true])
    t = noise.flips("superclass", 100, dataset="cifar100")
    assert ((t > 0).sum(1) == 4).all() and t[t > 0].unique().tolist() == [0.25]
    # four others share the 0.4 equally: 500 samples a class, five standard deviations
    wrong_shares = out.transition[(t > 0)]
    assert (wrong_shares - 0.1).abs().max() < 5 * np.sqrt(0.1 * 0.9 / 500)


def test_a_superclass_of_one_class_keeps_its_labels():
    y = labels(4)
    out = noise.corrupt(y, "superclass", 1.0, 4, 0, coarse=np.array([0, 0, 1, 0])[y])
    assert torch.equal(out.y_given == out.y_true, out.y_true == 2)
    out = noise.corrupt(y, "asymmetric", 1.0, 4, 0, coarse=np.array([0, 0, 1, 0])[y])
    assert torch.equal(out.y_given, torch.tensor([1, 3, 2, 0])[y])


def test_needless_arguments_do_not_matter():
    y = labels(10)
    plain = noise.corrupt(y, "symmetric", 0.4, 10, 0)
    more = noise.corrupt(y, "symmetric", 0.4, 10, 0, coarse=[1], class_map=[7], dataset="x")
    assert torch.equal(plain.y_given, more.y_given)
    plain = noise.corrupt(y, "asymmetric", 0.4, 10, 0, dataset="cifar10")
    more = noise.corrupt(y, "asymmetric", 0.4, 10, 0, dataset="cifar10", coarse=[1])
    assert torch.equal(plain.y_given, more.y_given)


# --- confusion matrices, replaced images, ready labels ------------------------------------------


def test_confusion_matrix_by_hand():
    m = [[5, 3, 1], [0, 9, 0], [2, 2, 0]]
    t = noise.flips("confusion", 3, matrix=m)
    e = 1e-5
    expected = [
        [0, (3 + e) / (4 + 2 * e), (1 + e) / (4 + 2 * e)],
        [0.5, 0, 0.5],  # nothing but the 1e-5 is left
        [0.5, 0.5, 0],
    ]
    torch.testing.assert_close(t, torch.tensor(expected, dtype=torch.float64))
    y = labels(3, 9000)
    for given in (m, np.array(m), torch.tensor(m)):
        out = noise.corrupt(y, "confusion", 1.0, 3, 0, matrix=given)
        assert int(out.wrong.sum()) == 9000
        assert abs(out.transition[0, 1] - 0.75) < 0.04
    # counts or probabilities: the 1e-5 matters to the latter
    small = noise.flips("confusion", 3, matrix=np.array(m) * 1e-5)
    torch.testing.assert_close(small[0], torch.tensor([0, 4 / 6, 2 / 6], dtype=torch.float64))


@pytest.mark.parametrize("matrix, words", [
    ([[1, 2], [3]], "a table of numbers, its rows equally long"),
    ([["a", "b", "c"]] * 3, "a table of numbers"), ([[None] * 3] * 3, "finite numbers from 0 on"),
    ([[1, 2]] * 3, r"shape \(3, 3\), not \(3, 2\)"), (np.ones(3), r"not \(3,\)"),
    (-np.eye(3), "finite numbers from 0 on"), (np.full((3, 3), np.nan), "finite numbers from 0"),
    (np.full((3, 3), np.inf), "finite numbers from 0 on"),
])
def test_a_matrix_that_is_none_is_refused_in_our_words(matrix, words):
    with pytest.raises(ValueError, match=f"^matrix must .*{words}"):
        noise.corrupt(labels(3, 90), "confusion", 0.5, 3, 0, matrix=matrix)


def test_odd_labels_and_rates_are_refused_in_our_words():
    with pytest.raises(ValueError, match="y_true must be a vector .* not rows of unequal length"):
        noise.corrupt([[0], [1, 2]], "symmetric", 0.1, 3, 0)
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\], not 0.1"):
        noise.corrupt([0, 1, 2], "symmetric", "0.1", 3, 0)


def test_replaced_images_uniform():
    out = draw("ood-uniform", 0.4, source_labels=None, source_count=N)
    assert torch.equal(out.y_given, out.y_true) and torch.equal(out.wrong, out.replaced)
    assert int(out.replaced.sum()) == int(0.4 * N) and out.realised_rate == 0.4
    used = out.source[out.replaced]
    assert used.unique().numel() == len(used)  # no repeats
    assert int(used.min()) >= 0 and int(used.max()) < N
    assert (out.source[~out.replaced] == -1).all() and out.redrawn == 0
    everything = draw("ood-uniform", 1.0, source_labels=None, source_count=N)
    assert sorted(everything.source.tolist()) == list(range(N))
    torch.testing.assert_close(out.transition, torch.eye(10, dtype=torch.float64))


def test_replaced_images_by_confusion():
    y = labels(10)
    source = np.random.default_rng(0).integers(0, 4, 3 * N)
    m = np.zeros((4, 10))
    m[0, :5], m[1, 5:] = 100, 300
    m[2, 0], m[3, 0] = 60, 40  # column 0: 0.5, 0, 0.3, 0.2
    out = noise.corrupt(y, "ood-confusion", 0.5, 10, 3, matrix=m, source_labels=source)
    assert int(out.replaced.sum()) == N // 2 and out.redrawn == 0
    used = out.source[out.replaced]
    assert used.unique().numel() == len(used)
    k = torch.from_numpy(source)[used]
    label = out.y_given[out.replaced]
    assert (k[(label > 0) & (label < 5)] == 0).all() and (k[label >= 5] == 1).all()
    share = torch.bincount(k[label == 0], minlength=4) / (label == 0).sum()
    assert (share - torch.tensor([0.5, 0, 0.3, 0.2])).abs().max() < 0.08
    # within a class the images come in a shuffled order, not the source's
    assert not torch.equal(used[k == 1], used[k == 1].sort().values)


def test_a_source_class_that_runs_out_is_redrawn_and_counted():
    y = labels(10, 1000)
    source = np.repeat([0, 1, 2], (50, 400, 600))
    m = np.zeros((4, 10))
    m[0] = 1  # all want class 0, which has 50 images; class 3 has none at all
    m[1, 3] = 1e-3
    out = noise.corrupt(y, "ood-confusion", 1.0, 10, 0, matrix=m, source_labels=source)
    assert out.source.unique().numel() == 1000 and int(out.source.min()) >= 0
    counts = torch.bincount(torch.from_numpy(source)[out.source], minlength=3)
    assert int(counts[0]) == 50
    assert out.redrawn >= 950  # every slot beyond the first 50 was drawn again at least once
    full = noise.corrupt(
        y, "ood-confusion", 1.0, 10, 0, matrix=m, source_labels=np.r_[source[:1000]]
    )
    assert sorted(full.source.tolist()) == list(range(1000))  # down to the last image


def test_ood_needs():
    with pytest.raises(ValueError, match="20 images are to be replaced but the source has only 5"):
        draw("ood-uniform", 0.001, source_labels=None, source_count=5)
    with pytest.raises(ValueError, match="'ood-uniform' needs source_count or source_labels"):
        draw("ood-uniform", 0.1, source_labels=None)
    with pytest.raises(ValueError, match="'ood-confusion' needs matrix and source_labels"):
        draw("ood-confusion", 0.1, source_labels=None, source_count=N)
    with pytest.raises(ValueError, match="'ood-confusion' needs matrix and source_labels"):
        draw("ood-confusion", 0.1, matrix=None)
    with pytest.raises(ValueError, match=r"source_labels must lie in 0\.\.3"):
        draw("ood-confusion", 0.1, matrix=np.ones((4, 10)))
    with pytest.raises(ValueError, match=r"must have shape \(source classes, 10\), not \(30, 9\)"):
        draw("ood-confusion", 0.1, matrix=np.ones((30, 9)))


def test_human_labels_are_taken_as_they_are():
    y = np.arange(1000) % 10
    people = y.copy()
    people[:250] = (people[:250] + 1) % 10
    for rate in (None, 1):
        out = noise.corrupt(y, "human", rate, 10, y_human=people, note="made up")
        assert np.array_equal(out.y_given, people)
        assert out.realised_rate == 0.25 and out.rate == rate and out.note == "made up"
    torch.testing.assert_close(
        out.transition.diagonal(), torch.full((10,), 0.75, dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="rate must be None or 1 .* not 0.4"):
        noise.corrupt(y, "human", 0.4, 10, y_human=people)
    with pytest.raises(ValueError, match="'human' needs y_human"):
        noise.corrupt(y, "human", None, 10)
    with pytest.raises(ValueError, match="y_human has 999 labels but y_true has 1000"):
        noise.corrupt(y, "human", None, 10, y_human=people[1:])
    with pytest.raises(ValueError, match=r"y_human must lie in 0\.\.9, but it spans 0\.\.10"):
        noise.corrupt(y, "human", None, 10, y_human=people + (y == 9))


def test_ready_labels_need_a_note_on_their_generator():
    y = labels(10)
    guess = (y + (np.arange(N) % 4 == 0)) % 10
    out = noise.corrupt(y, "given", None, 10, y_ready=guess, note="ResNet-34 on 5 % of the data")
    assert out.realised_rate == 0.25 and out.note == "ResNet-34 on 5 % of the data"
    for kw in ({"y_ready": guess}, {"note": "x"}):
        with pytest.raises(ValueError, match="'given' needs y_ready and note"):
            noise.corrupt(y, "given", None, 10, **kw)


# --- official draws -----------------------------------------------------------------------------


def md5(y) -> str:
    return hashlib.md5(np.ascontiguousarray(y, dtype="<i8").tobytes()).hexdigest()


DRPL = [  # dataset, kind, rate, wrong, first 10, md5
    ("cifar10", "U", 0.2, 10000, "6 9 9 4 8 1 0 6 8 3", "eb099de001dac892f220ca7443903de4"),
    ("cifar10", "U", 0.4, 20000, "0 8 9 4 8 1 0 6 8 3", "94331b59ac4ce0b58b26f11d11cbdff6"),
    ("cifar10", "U", 0.8, 40000, "0 8 9 8 8 7 0 6 5 3", "af1caa7222a04e2f6778c8a888ffd5a2"),
    ("cifar10", "NU", 0.1, 2470, "6 9 1 4 1 1 2 7 8 3", "40b4f7eb1efc64d66fb724ae030154d2"),
    ("cifar10", "NU", 0.4, 9975, "6 9 1 4 1 1 2 7 8 3", "087465eeeef9429d652ed805d08da7cc"),
    (
        *("cifar100", "U", 0.2, 10000, "19 29 0 11 3 86 75 80 23 31"),
        "17a38232436d1d41c618d71e72f35cda",
    ),
    (
        *("cifar100", "U", 0.6, 30000, "69 50 0 41 3 86 75 80 48 31"),
        "3e63d2f396e45160fc1297d2a41f07f1",
    ),
    (
        *("cifar100", "U", 0.8, 40000, "69 50 0 41 3 71 75 80 48 31"),
        "a876e2628dcc61b2c222d94c1a3bdd5b",
    ),
    (
        *("cifar100", "NU", 0.3, 15247, "19 29 0 11 32 86 90 61 33 31"),
        "67073bcb77467eafed34d2492fb75d50",
    ),
    (
        *("cifar100", "NU", 0.4, 20190, "19 29 0 11 32 86 90 61 33 31"),
        "26d219886745920ec1dcd18babe4a046",
    ),
]


@pytest.mark.parametrize(("name", "kind", "rate", "wrong", "first", "checksum"), DRPL)
def test_drpl_draws_bit_for_bit(request, name, kind, rate, wrong, first, checksum):
    data = request.getfixturevalue(name)
    full = {"U": "drpl-uniform", "NU": "drpl-nonuniform"}[kind]
    c = data.num_classes
    out = noise.corrupt(data.y_train, full, rate, c, None, dataset=name, coarse=data.coarse_train)
    assert int(out.wrong.sum()) == wrong
    assert " ".join(map(str, out.y_given[:10].tolist())) == first
    assert md5(out.y_given) == checksum
    assert out.seed == 42
    direct = noise.official_draw("drpl", data.y_train, rate, kind, num_classes=c, class_map=name)
    assert torch.equal(direct, out.y_given)


def test_clean_labels_are_the_ones_the_checksums_speak_of(cifar10, cifar100):
    assert md5(cifar10.y_train) == "64a7290ac3c358816975e50453f50b5c"
    assert md5(cifar100.y_train) == "a6d83e1ba403abb4d4d51a4851d27312"


def test_superclass_table_is_the_one_of_the_label_files(cifar100):
    table = noise.superclass_of(cifar100.y_train, cifar100.coarse_train, 100)
    assert tuple(table.tolist()) == noise.CIFAR100_SUPERCLASS
    out = [
        noise.corrupt(cifar100.y_train, "asymmetric", 0.4, 100, 3, **kw).y_given
        for kw in ({"coarse": cifar100.coarse_train}, {"dataset": "cifar100"})
    ]
    assert torch.equal(*out)


@pytest.mark.parametrize(
    ("num_classes", "rate", "checksum", "first"),
    [
        (10, 0.2, "2a580d7eb510607a", None),
        (10, 0.5, "adb7a9f08ae066a5", [[0, 8], [1, 5], [5, 8], [6, 3], [8, 6]]),
        (10, 0.9, "9359b12f7e64a721", None),
        (100, 0.5, "b346b4f5015cf845", [[0, 66], [1, 46], [5, 71], [6, 25], [8, 50]]),
        (100, 0.8, "d9d0094dd730f4dc", None),
        (100, 0.9, "96d341552f32f789", None),
    ],
)
def test_dividemix_draws_bit_for_bit(num_classes, rate, checksum, first):
    y = np.arange(50000) % num_classes
    out = noise.official_draw("dividemix", y, rate, num_classes=num_classes)
    # the sorted indices of the noisy samples: the head of the shuffled list
    order = list(range(50000))
    random.Random(123).shuffle(order)
    pairs = [[i, int(out[i])] for i in sorted(order[: int(50000 * rate)])]
    assert hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16] == checksum
    assert first is None or pairs[:5] == first
    untouched = np.setdiff1d(np.arange(50000), [i for i, _ in pairs])
    assert np.array_equal(out.numpy()[untouched], y[untouched])
    full = noise.corrupt(y, "dividemix-symmetric", rate, num_classes)
    assert torch.equal(full.y_given, out) and full.seed == 123
    assert abs(full.realised_rate - rate * (1 - 1 / num_classes)) < 0.01


def test_dividemix_asymmetric_takes_the_same_samples():
    y = np.arange(50000) % 10
    out = noise.corrupt(y, "dividemix-asymmetric", 0.4, 10, dataset="cifar10")
    order = list(range(50000))
    random.Random(123).shuffle(order)
    chosen = np.sort(order[:20000])
    assert np.array_equal(out.y_given[chosen], noise.class_map("cifar10")[y[chosen]])
    assert not out.wrong[np.setdiff1d(np.arange(50000), chosen)].any()
    assert abs(out.realised_rate - 0.2) < 0.01


@pytest.mark.parametrize("kind", OFFICIAL)
def test_official_draws_take_other_seeds_too(kind):
    own = {"drpl": 42, "dividemix": 123}[kind.split("-")[0]]
    default, same = draw(kind, 0.5, seed=None, n=500), draw(kind, 0.5, seed=own, n=500)
    other = draw(kind, 0.5, seed=7, n=500)
    assert torch.equal(default.y_given, same.y_given) and default.seed == own
    assert not torch.equal(default.y_given, other.y_given)


def test_official_draw_names():
    y = labels(10)
    with pytest.raises(ValueError, match="allowed: drpl, dividemix"):
        noise.official_draw("elr", y, 0.2, num_classes=10)
    with pytest.raises(ValueError, match="unknown kind of drpl's draws 'sym'; allowed: U, NU"):
        noise.official_draw("drpl", y, 0.2, "sym", num_classes=10)
    with pytest.raises(ValueError, match="needs a class map"):
        noise.official_draw("drpl", y, 0.2, "NU", num_classes=10)
    uniform = noise.official_draw("drpl", y, 0.2, num_classes=10)
    assert int((uniform.numpy() != y).sum()) == N // 5


def test_imagenet_classes_of_drpl():
    inside, outside = noise.drpl_imagenet_classes()
    assert inside[:10].tolist() == [521, 737, 740, 660, 411, 678, 626, 513, 859, 136]
    assert int(inside[-1]) == 826 and inside.shape == (100,) and outside.shape == (900,)
    assert sorted(torch.cat((inside, outside)).tolist()) == list(range(1000))


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in noise.KINDS if k not in ("none", "human", "given")])
@pytest.mark.parametrize("rate", (-0.1, 1.1, float("nan"), None))
def test_rates_outside_zero_one(kind, rate):
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        draw(kind, rate, n=50)
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        noise.expected_rate(
            kind, rate, 10, class_map="digits", matrix=np.ones((10, 10)), coarse=[0] * 10
        )


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("symetric", "symmetric"),
        ("asym", "asymmetric"),
        ("symmetric-exclusiv", "symmetric-exclusive"),
        ("drpl-unifrom", "drpl-uniform"),
        ("humans", "human"),
    ],
)
def test_unknown_kinds_name_the_nearest(wrong, near):
    for call in (noise.expected_rate, noise.flips):
        with pytest.raises(ValueError, match="unknown noise kind"):
            call(wrong, *((0.2, 10) if call is noise.expected_rate else (10,)))
    with pytest.raises(ValueError) as error:
        noise.corrupt(labels(10), wrong, 0.2, 10, 0)
    assert f"(nearest: {near!r})" in str(error.value)
    assert all(k in str(error.value) for k in noise.KINDS)


def test_far_off_names_get_no_guess():
    with pytest.raises(ValueError, match="unknown noise kind 'qqq'; allowed: none, symmetric"):
        noise.corrupt(labels(10), "qqq", 0.2, 10, 0)
    with pytest.raises(ValueError, match="unknown class map 'cifar' .nearest: 'cifar10'."):
        noise.class_map("cifar")


@pytest.mark.parametrize(
    ("y", "num_classes", "words"),
    [
        ([0, 1, 10], 10, r"y_true must lie in 0\.\.9, but it spans 0\.\.10"),
        ([0, -1, 2], 10, r"y_true must lie in 0\.\.9, but it spans -1\.\.2"),
        ([0, 0], 1, "num_classes must be at least 2, not 1"),
        ([], 10, "y_true must be a vector of at least one integer"),
        ([[0, 1]], 10, r"of shape \(1, 2\)"),
        ([0.0, 1.0], 10, "at least one integer, not float64"),
        ([True, False], 10, "at least one integer, not bool"),
    ],
)
def test_labels_that_do_not_fit(y, num_classes, words):
    with pytest.raises(ValueError, match=words):
        noise.corrupt(np.array(y), "symmetric", 0.2, num_classes, 0)


@pytest.mark.parametrize("seed", (None, -1, 0.5, True, "1"))
def test_seeds_are_explicit(seed):
    with pytest.raises(ValueError, match="explicit seed, an integer from 0 on"):
        noise.corrupt(labels(10), "symmetric", 0.2, 10, seed)


@pytest.mark.parametrize(
    ("kind", "kw", "words"),
    [
        ("asymmetric", {}, "needs a class map: class_map .* digits, cifar10, cifar100"),
        ("asymmetric-coin", {"dataset": "cifar-10"}, "'cifar-10' has none .nearest: 'cifar10'."),
        ("asymmetric", {"class_map": "cifar-10"}, "unknown class map 'cifar-10' .nearest"),
        ("asymmetric", {"dataset": "cifar100"}, r"10 entries in 0\.\.9, but it has 100 up to 99"),
        ("asymmetric", {"class_map": [1, 0]}, r"10 entries in 0\.\.9, but it has 2 up to 1"),
        ("asymmetric", {"class_map": [10] * 10}, r"10 entries in 0\.\.9, but it has 10 up to 10"),
        ("asymmetric", {"class_map": [-1] * 10}, "class_map must lie from 0 on"),
        ("asymmetric", {"coarse": [0, 1]}, f"coarse has 2 labels but y_true has {N}"),
        ("drpl-nonuniform", {}, "needs a class map"),
        ("dividemix-asymmetric", {}, "needs a class map"),
        ("superclass", {}, "needs superclasses: coarse, or dataset='cifar100'"),
        ("superclass", {"dataset": "cifar100"}, "superclasses of 100 classes do not fit .* 10"),
        ("superclass", {"coarse": np.arange(N) % 3}, "one superclass, but a class has several"),
        ("confusion", {}, "'confusion' needs matrix"),
        ("confusion", {"matrix": np.ones((10, 9))}, r"shape \(10, 10\), not \(10, 9\)"),
        ("confusion", {"matrix": np.ones((9, 10))}, r"shape \(10, 10\), not \(9, 10\)"),
        ("confusion", {"matrix": np.ones(10)}, r"shape \(10, 10\), not \(10,\)"),
        ("confusion", {"matrix": -np.ones((10, 10))}, "finite numbers from 0 on"),
        ("confusion", {"matrix": np.full((10, 10), np.nan)}, "finite numbers from 0 on"),
    ],
)
def test_missing_and_unfit_needs(kind, kw, words):
    with pytest.raises(ValueError, match=words):
        noise.corrupt(labels(10), kind, 0.2, 10, 0, **kw)


def test_blocks_need_multiples_of_five():
    with pytest.raises(ValueError, match="num_classes to be a multiple of 5, not 7"):
        noise.corrupt(labels(7), "asymmetric-blocks", 0.2, 7, 0)


def test_none_takes_no_rate():
    y = labels(10)
    for rate in (None, 0):
        assert noise.corrupt(y, "none", rate, 10).rate == 0.0
    with pytest.raises(ValueError, match="'none' takes rate 0 or None, not 0.4"):
        noise.corrupt(y, "none", 0.4, 10)


def test_needs_name_real_kinds():
    assert set(noise.NEEDS) <= set(noise.KINDS)
    for kind, wanted in noise.NEEDS.items():
        assert wanted
        bare = 1 if kind in ("human", "given") else 0.2
        with pytest.raises(ValueError, match="needs"):
            noise.corrupt(labels(10), kind, bare, 10, 0)
    for kind in set(noise.KINDS) - set(noise.NEEDS):
        noise.corrupt(labels(10, 100), kind, rate_for(kind, 0.2), 10, 0)
