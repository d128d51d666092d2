"""Nearest neighbours against scikit-learn, with duplicates, shortlists and HNSW."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from noisylabels.kernels import neighbours, pixels
from noisylabels.kernels.neighbours import nearest, nearest_in_batch, purity


@pytest.fixture(params=["exact", "hnsw"])
def backend(request):
    if request.param == "hnsw":
        pytest.importorskip("hnswlib")
    return request.param


def clustered(n=1500, dim=64, classes=10, rank=8, seed=0):
    """Features like a network's: clusters of low rank, after a ReLU."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    inner = torch.randn(classes, rank, generator=g)[y] * 2 + torch.randn(n, rank, generator=g)
    x = inner @ torch.randn(rank, dim, generator=g) + 0.1 * torch.randn(n, dim, generator=g)
    return x.relu(), y


def sklearn_neighbours(x, k, metric="euclidean", queries=None):
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute")
    search.fit(x.double().numpy())
    # without points of its own scikit-learn, too, leaves each sample out by its number
    far, index = search.kneighbors(None if queries is None else queries.double().numpy())
    return torch.from_numpy(index), torch.from_numpy(far)


def recall(index, truth):
    return (index[:, :, None] == truth[:, None, :]).any(2).float().mean().item()


# --- the whole set -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 10, 60])
@pytest.mark.parametrize("shortlist", [None, False, True])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_exact_is_sklearns(metric, shortlist, k):
    x, _ = clustered()
    index, far = nearest(x, k, metric=metric, shortlist=shortlist)
    truth, true_far = sklearn_neighbours(x, k, {"l2": "euclidean"}.get(metric, metric))
    assert index.shape == far.shape == (1500, k)
    assert index.dtype == torch.int64 and far.dtype == torch.float32
    assert recall(index, truth) == 1.0
    np.testing.assert_allclose(far, true_far, atol=2e-6 if metric == "cosine" else 2e-5)
    assert (far.diff(dim=1) >= 0).all()
    assert not (index == torch.arange(1500)[:, None]).any()


def test_a_shortlist_alone_would_lose_neighbours():
    """The second ranking in float32 is what makes bfloat16 products harmless."""
    x, _ = clustered()
    truth, _ = nearest(x, 10, shortlist=False)
    rounded = (x - x.mean(0)).bfloat16().float()
    scores = rounded @ rounded.T - 0.5 * (x - x.mean(0)).square().sum(1)
    first = scores.fill_diagonal_(-math.inf).topk(10).indices
    assert recall(first, truth) < 0.995
    assert recall(nearest(x, 10, shortlist=True)[0], truth) == 1.0


def test_features_far_from_the_origin_lose_nothing():
    x, _ = clustered()
    truth, true_far = sklearn_neighbours(x + 300, 5)
    index, far = nearest(x + 300, 5)
    assert recall(index, truth) > 0.9999
    np.testing.assert_allclose(far, true_far, atol=1e-3)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_sample_is_never_its_own_neighbour_even_among_duplicates(backend, metric):
    x, _ = clustered(200)
    x = torch.cat([x, x, x])  # each sample three times
    index, far = nearest(x, 2, backend=backend, metric=metric)
    number = torch.arange(600)
    assert not (index == number[:, None]).any()
    if backend == "exact":  # the two others, at distance 0, the lower number first
        others = (number[:, None] + torch.tensor([200, 400])) % 600
        assert torch.equal(index, others.sort(1).values)
        assert far.max() < 1e-6
    else:  # approximate, but what is found is mostly a duplicate
        assert (index % 200 == (number % 200)[:, None]).float().mean() > 0.95


def test_all_rows_equal():
    x = torch.ones(20, 4)
    for index, far in (nearest(x, 3), nearest(x, 3, shortlist=True), nearest_in_batch(x, 3)):
        assert not (index == torch.arange(20)[:, None]).any()
        assert (far == 0).all()
        assert all(len(set(row)) == 3 for row in index.tolist())


@pytest.mark.parametrize("chunk", [1, 7, 100, 600, 5000])
@pytest.mark.parametrize("shortlist", [False, True])
def test_the_size_of_the_blocks_changes_nothing(chunk, shortlist):
    x, _ = clustered(600)
    index, far = nearest(x, 4, shortlist=shortlist)
    again, again_far = nearest(x, 4, shortlist=shortlist, chunk=chunk)
    assert torch.equal(index, again) and torch.equal(far, again_far)


def test_queries_by_number_leave_themselves_out():
    x, _ = clustered(500)
    index, far = nearest(x, 5)
    rows = torch.tensor([3, 499, 0, 3])
    for chunk in (None, 3):
        some, some_far = nearest(x, 5, queries=rows, chunk=chunk)
        assert torch.equal(some, index[rows]) and torch.equal(some_far, far[rows])


def test_hnsw_queries_by_number_leave_themselves_out():
    pytest.importorskip("hnswlib")
    x, _ = clustered(500)
    rows = torch.tensor([3, 499, 0, 3])
    index, _ = nearest(x, 5, queries=rows, backend="hnsw")
    assert recall(index, nearest(x, 5)[0][rows]) >= 0.9
    assert not (index == rows[:, None]).any()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_queries_from_outside_leave_nothing_out(backend, metric):
    x, _ = clustered(500)
    points = x[:40].clone()
    index, far = nearest(x, 3, queries=points, backend=backend, metric=metric)
    assert torch.equal(index[:, 0], torch.arange(40)) and far[:, 0].max() < 1e-6
    truth, true_far = sklearn_neighbours(x, 3, {"l2": "euclidean"}.get(metric, metric), points)
    assert recall(index, truth) >= 0.99
    if backend == "exact":
        np.testing.assert_allclose(far, true_far, atol=1e-4)
    everything, _ = nearest(x[:9], 9, queries=points, metric=metric)
    assert torch.equal(everything.sort(1).values, torch.arange(9).expand(40, 9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_searched_in_float32(dtype):
    x = clustered(300)[0].to(dtype)
    for search in (nearest, nearest_in_batch):
        index, far = search(x, 3)
        truth, true_far = search(x.float(), 3)
        assert torch.equal(index, truth) and torch.equal(far, true_far)
        assert far.dtype == torch.float32


def test_autocast_does_not_coarsen_the_search():
    x, _ = clustered(300)
    plain, in_batch = nearest(x, 3), nearest_in_batch(x, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(x, 3)[1], plain[1])
        assert torch.equal(nearest_in_batch(x, 3)[1], in_batch[1])


def test_a_zero_vector_has_cosine_distance_one():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    for search in (nearest, nearest_in_batch):
        index, far = search(x, 3, metric="cosine")
        assert far[0].tolist() == [1, 1, 1] and index[0].tolist() == [1, 2, 3]
        assert index[1].tolist() == [2, 0, 3] and far[1].tolist() == [0, 1, 1]


# --- ties, scales, equal rows: against a plain sort in float64 -----------------------------------


def sorted_neighbours(x, k, metric="l2", queries=None):
    """By float64 distances rounded to float32, of equal ones the lower number first."""
    full = x.double()
    if metric == "cosine":  # by the differences of unit vectors; zero has similarity 0 with all
        length = full.norm(dim=1, keepdim=True)
        full = torch.where(length > 0, full / length, 0.0)
    rows = torch.arange(len(x)) if queries is None else queries
    far = torch.stack([(full - full[i]).square().sum(1).sqrt() for i in rows])
    if metric == "cosine":
        zero = (full == 0).all(1)
        far = torch.where(zero | zero[rows, None], 1.0, far.square() / 2)
        far[far < 1e-28] = 0
    far = far.float()
    index = []
    for i, row in zip(rows.tolist(), far.tolist(), strict=True):
        row[i] = math.inf
        index.append(sorted(range(len(row)), key=lambda j: (row[j], j))[:k])
    index = torch.tensor(index)
    return index, far.gather(1, index)


def lattice(n, values, dim=6, seed=0):
    """Rows of a few small whole numbers: many ties, many equal rows, all sums exact."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(values, (n, dim), generator=draws).float()


@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_of_equal_distances_the_lower_number_comes_first(k, shortlist):
    """However many there are: the cut of a top-k among them is arbitrary."""
    other = torch.arange(k)
    truth = torch.stack([other + (other >= i) for i in range(200)])
    for x in (torch.ones(200, 8), torch.eye(200)):  # all rows equal; all at the same distance
        for metric in ("l2", "cosine"):
            index, far = nearest(x, k, metric=metric, shortlist=shortlist)
            assert torch.equal(index, truth)
            assert (far == far[0, 0]).all()
            assert torch.equal(nearest_in_batch(x, k, metric=metric)[0], truth)


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize("values, dim", [(2, 3), (2, 8), (2, 40), (3, 6), (9, 2)])
def test_ties_between_rows_equal_and_different(values, dim, shortlist, k):
    x = lattice(300, values, dim)
    truth, true_far = sorted_neighbours(x, k)
    for chunk in (None, 11):
        index, far = nearest(x, k, shortlist=shortlist, chunk=chunk)
        assert torch.equal(index, truth) and torch.equal(far, true_far)
    rows = torch.tensor([7, 299, 7, 0])
    index, far = nearest(x, k, shortlist=shortlist, queries=rows)
    assert torch.equal(index, truth[rows]) and torch.equal(far, true_far[rows])
    index, far = nearest_in_batch(x, k)
    assert torch.equal(index, truth) and torch.equal(far, true_far)


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
def test_ties_of_points_from_outside_and_of_zero_vectors(search):
    x = torch.cat([torch.zeros(30, 4), lattice(60, 2, 4, seed=3), torch.zeros(30, 4)])
    for k in (3, 20, 100):
        truth, true_far = sorted_neighbours(x, k, "cosine")
        index, far = search(x, k, metric="cosine")
        assert torch.equal(index[:30], truth[:30]) and torch.equal(far[:30], true_far[:30])
        np.testing.assert_allclose(far, true_far, atol=1e-7)
    index, far = nearest(x, 50, queries=torch.zeros(2, 4))
    first = (x == 0).all(1).nonzero()[:50, 0]
    assert torch.equal(index, first.expand(2, -1)) and (far == 0).all()


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
@pytest.mark.parametrize("scale", [1e20, 2.0**-100, 1e-20, 1e-38])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_neighbours_do_not_depend_on_the_scale(metric, scale, search):
    x = clustered(300)[0] * scale
    truth, true_far = sorted_neighbours(x, 5, metric)
    index, far = search(x, 5, metric=metric)
    assert recall(index, truth) == 1.0  # features so small have few bits: ties, lower first
    np.testing.assert_allclose(far.double(), true_far.double(), rtol=1e-6)
    if metric == "l2" and scale == 2.0**-100:
        assert torch.equal(index, search(x / scale, 5)[0])
    if metric == "cosine" and scale == 1e20:  # of each row by itself
        uneven = x * torch.logspace(-30, 10, 300)[:, None]
        assert recall(search(uneven, 5, metric="cosine")[0], truth) > 0.995


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
def test_one_giant_row_takes_nothing_from_the_others(search):
    x = clustered(300)[0]
    truth, _ = sorted_neighbours(x, 5)
    x = torch.cat([x * 1e-5, torch.full((1, 64), 1e30)])
    assert torch.equal(search(x, 5)[0][:300], truth)


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_nearly_equal_rows_keep_their_order(metric, search):
    """Features that all but collapsed: the differences lie in the last bits of float32."""
    x = 1 + 1e-5 * torch.randn(300, 16, generator=torch.Generator().manual_seed(2))
    truth, true_far = sorted_neighbours(x, 6, metric)
    index, far = search(x, 6, metric=metric)
    assert recall(index, truth) == 1.0
    np.testing.assert_allclose(far.double(), true_far.double(), rtol=1e-5)


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
def test_float64_features_are_not_cut_to_float32(search):
    x = 1 + 1e-9 * clustered(200)[0].double()  # all ones in float32
    truth, true_far = sorted_neighbours(x, 5)
    index, far = search(x, 5)
    assert torch.equal(index, truth) and torch.equal(far, true_far)


def test_float64_features_of_any_size():
    x, _ = clustered(200)
    truth, _ = sorted_neighbours(x, 5)
    for scale in (1e200, 1e-200):
        for metric in ("l2", "cosine"):
            index, far = nearest(x.double() * scale, 5, metric=metric)
            if metric == "l2":
                assert torch.equal(index, truth)
                assert (far == (math.inf if scale > 1 else 0)).all()
            else:
                assert torch.equal(index, nearest(x.double(), 5, metric="cosine")[0])


def test_random_features_agree_with_a_sort_in_float64_bit_for_bit():
    x, _ = clustered(800)
    for shortlist in (False, True):
        for metric in ("l2", "cosine"):
            truth, true_far = sorted_neighbours(x, 12, metric)
            index, far = nearest(x, 12, metric=metric, shortlist=shortlist)
            assert torch.equal(index, truth)
            np.testing.assert_allclose(far, true_far, rtol=1e-6, atol=1e-12)


def test_rows_with_the_same_checksum_are_still_told_apart(monkeypatch):
    """Equal rows are found by a checksum; should it fail, by comparing the rows."""
    real = torch.randint
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **more: (
        torch.full(size, -1) if low < -1 else real(low, high, size, **more)))
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [5.0, 5.0], [2.0, 1.0]])
    assert nearest(x, 2)[0].tolist() == sorted_neighbours(x, 2)[0].tolist()


@pytest.mark.parametrize("copies, of", [(250, 500), (200, 2000), (100, 2000)])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_hnsw_with_equal_rows_finds_the_neighbours_of_the_others(metric, copies, of):
    """A graph of equal rows ends in a clique: distinct rows had a recall of .30, .54, .94."""
    pytest.importorskip("hnswlib")
    x = torch.randn(of, 16, generator=torch.Generator().manual_seed(1))
    x[:copies] = 0.5
    x[:copies:2] = -0.25
    truth, _ = nearest(x, 10, metric=metric)
    index, far = nearest(x, 10, metric=metric, backend="hnsw")
    assert recall(index[copies:], truth[copies:]) > 0.97
    assert torch.equal(index[:copies], truth[:copies])  # its copies, the lower numbers first
    assert (far[:copies] == 0).all()
    assert not (index == torch.arange(of)[:, None]).any()


def test_hnsw_that_misses_most_is_refused():
    pytest.importorskip("hnswlib")
    x = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    few = dict(backend="hnsw", m=4, ef=6, ef_construction=20)
    with pytest.raises(ValueError, match=r"HNSW found 2\d% of the true neighbours of 48 rows; "
                                         r"raise m or ef, use .*lower least_recall \(now 0.8\)"):
        nearest(x, 5, **few)
    assert nearest(x, 5, **few, least_recall=0.1)[0].shape == (3000, 5)
    with pytest.raises(ValueError, match="true neighbours of 20 rows"):
        nearest(x, 5, queries=x[:20] + 0.5, **few)


# --- HNSW ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_hnsw_finds_nearly_all(metric):
    pytest.importorskip("hnswlib")
    x, _ = clustered(3000)
    truth, true_far = nearest(x, 10, metric=metric)
    index, far = nearest(x, 10, metric=metric, backend="hnsw", seed=1)
    assert recall(index, truth) >= 0.95
    assert not (index == torch.arange(3000)[:, None]).any()
    assert (far.diff(dim=1) >= 0).all()
    same = index == truth
    assert torch.equal(far[same], true_far[same])  # distances are computed alike
    again, _ = nearest(x, 10, metric=metric, backend="hnsw", seed=1)
    assert torch.equal(index, again)


def test_hnsw_effort_buys_recall():
    pytest.importorskip("hnswlib")
    x = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))  # no clusters: hard
    truth, _ = nearest(x, 5)
    low = recall(nearest(x, 5, backend="hnsw", m=4, ef=6, ef_construction=20,
                         least_recall=0)[0], truth)
    high = recall(nearest(x, 5, backend="hnsw", m=32, ef=400)[0], truth)
    assert low < 0.6 < 0.99 < high


def test_without_hnswlib_the_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(ImportError, match=r"pip install 'noisylabels\[knn\]' or use backend='ex"):
        nearest(torch.rand(10, 3), 2, backend="hnsw")


def test_an_index_that_cannot_answer_says_so(monkeypatch):
    hnswlib = pytest.importorskip("hnswlib")

    class Short:
        def __init__(self, **_):
            pass

        def __getattr__(self, name):
            return lambda *_, **__: None

        def knn_query(self, *_, **__):
            raise RuntimeError("Cannot return the results in a contiguous 2D array.")

    monkeypatch.setattr(hnswlib, "Index", Short)
    with pytest.raises(ValueError, match="did not reach 3 neighbours .* raise m or ef"):
        nearest(torch.rand(10, 3), 2, backend="hnsw")


# --- within a batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("k", [1, 5, 127])
def test_in_batch_is_the_whole_search(metric, k):
    x, _ = clustered(128)
    index, far = nearest_in_batch(x, k, metric=metric)
    truth, true_far = nearest(x, k, metric=metric)
    assert torch.equal(index, truth) and torch.equal(far, true_far)


def test_in_batch_duplicates():
    x, _ = clustered(32)
    index, far = nearest_in_batch(torch.cat([x, x]), 1)
    assert torch.equal(index[:, 0], (torch.arange(64) + 32) % 64)
    assert (far == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_in_batch_rows_that_are_not_finite_come_last(bad):
    x, _ = clustered(40)
    x[7, 3] = bad
    index, far = nearest_in_batch(x, 39)
    healthy = torch.arange(40) != 7
    assert (index[healthy][:, -1] == 7).all() and (far[healthy][:, -1] == math.inf).all()
    assert not far.isnan().any()
    assert not (index == torch.arange(40)[:, None]).any()
    keep = torch.arange(40)[healthy]
    rest, _ = nearest_in_batch(x[healthy], 5)
    assert torch.equal(index[healthy][:, :5], keep[rest])


def batches():
    """(features (B, D), k): continuous, rounded, with equal rows, ties, giants and specks."""
    draws = torch.Generator().manual_seed(5)
    for seed in range(40):
        n, dim, k = 20 + 11 * (seed % 9), (2, 7, 64, 512)[seed % 4], 1 + seed % 3
        x = clustered(n, dim, seed=seed)[0]
        yield x, k
        yield x.bfloat16(), k  # as from a network: few bits
        yield lattice(n, 2 + seed % 3, dim, seed), k
        yield 1 + 10.0 ** -(1 + seed % 12) * x.double(), k
        yield x * 10.0 ** (seed % 13 * 6 - 40), k
        yield torch.cat([x, x[: n // 2], torch.zeros(2, dim), 1e20 * x[:1]]), k
        rows = torch.randint(n, (n,), generator=draws)
        yield x[rows] + 2.0**-20 * torch.randint(2, (n, dim), generator=draws), k


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_in_batch_products_choose_as_the_differences_do(metric, monkeypatch):
    """280 batches: the same numbers, bit for bit, whether a cut may be looked at or not."""
    direct = neighbours._direct
    again = []
    monkeypatch.setattr(neighbours, "_direct",
                        lambda *a: again.append(len(a[1])) or direct(*a))
    looked, far_looked, searched = [], [], 0
    for x, k in batches():
        index, far = nearest_in_batch(x, k, metric=metric)
        looked.append(index)
        far_looked.append(far)
        searched += len(x)
    close = sum(again)
    assert len(looked) == 280 and 0 < close < searched / 2  # most cuts are not close
    monkeypatch.setattr(pixels, "may_look", lambda x: False)
    for (x, k), index, far in zip(batches(), looked, far_looked, strict=True):
        truth, true_far = nearest_in_batch(x, k, metric=metric)
        assert torch.equal(index, truth)
        np.testing.assert_allclose(far, true_far, rtol=2e-7)  # sums in another order
    assert sum(again) == close + searched


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_in_batch_is_a_sort_in_float64(metric):
    for n, (x, k) in enumerate(batches()):
        if n % 7 in (0, 1, 2, 6) and n < 140 and len(x) < 70:
            truth, true_far = sorted_neighbours(x.float(), k, metric)
            index, far = nearest_in_batch(x, k, metric=metric)
            np.testing.assert_allclose(far, true_far, rtol=3e-7, atol=1e-13)
            if metric == "l2":
                assert torch.equal(index, truth)


def test_in_batch_nothing_waits_and_it_compiles(monkeypatch):
    monkeypatch.setattr(pixels, "may_look", lambda x: False)  # as on a GPU
    with FakeTensorMode():
        index, far = nearest_in_batch(torch.rand(128, 16), 2)
        assert index.shape == far.shape == (128, 2)
        assert purity(index, torch.randint(10, (128,))).shape == (128,)
    monkeypatch.undo()
    x, _ = clustered(64)
    compiled = torch.compile(nearest_in_batch, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, 3)[0], nearest_in_batch(x, 3)[0])


def test_no_gradient_leaves_the_search():
    x = torch.rand(30, 4, requires_grad=True)
    assert not nearest(x, 2)[1].requires_grad and not nearest_in_batch(x, 2)[1].requires_grad


# --- purity --------------------------------------------------------------------------------------


def test_purity():
    index = torch.tensor([[1, 2], [0, 2], [3, 0], [2, 2]])
    labels = torch.tensor([5, 5, 5, 6])
    assert purity(index, labels).tolist() == [1, 1, 0.5, 0]
    assert purity(index[3:], labels, own=torch.tensor([5])).tolist() == [1]
    with pytest.raises(ValueError, match="2 rows but there are 4 labels"):
        purity(index[:2], labels)


def test_clusters_are_pure():
    x, y = clustered(1000)
    index, _ = nearest(x, 10)
    shuffled = y[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert purity(index, y).mean() > 0.8
    assert 0.05 < purity(index, shuffled).mean() < 0.15


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
@pytest.mark.parametrize("k", [0, -1, 10, 11])
def test_k_out_of_range(search, k):
    with pytest.raises(ValueError, match=rf"k is {k}, .* k must be 1 to 9"):
        search(torch.rand(10, 3), k)
    assert search(torch.rand(10, 3), 9)[0].shape == (10, 9)


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
@pytest.mark.parametrize("bad", [torch.rand(10), torch.rand(4, 3, 2), torch.rand(4, 0),
                                 torch.ones(4, 3).long()])
def test_features_of_a_wrong_kind(search, bad):
    with pytest.raises(ValueError, match=r"floating-point matrix \(N, D\)"):
        search(bad, 1)


@pytest.mark.parametrize("search", [nearest, nearest_in_batch])
def test_unknown_metric(search):
    with pytest.raises(ValueError, match="metric is 'dot'; allowed are 'l2', 'cosine'"):
        search(torch.rand(10, 3), 1, metric="dot")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"backend": "faiss"}, "backend is 'faiss'; allowed are 'exact', 'hnsw'"),
        ({"least_recall": 1.1}, "least_recall is 1.1, but must be from 0 to 1"),
        ({"chunk": 0}, "chunk must be at least 1, not 0"),
        ({"queries": torch.rand(4, 5)}, r"points, float \(Q, 3\), not torch.float32 of shape"),
        ({"queries": torch.tensor([1, 10])}, "row numbers from 0 to 9"),
        ({"queries": torch.tensor([-1])}, "row numbers from 0 to 9"),
        ({"queries": torch.ones(10, dtype=torch.bool)}, "not torch.bool"),
        ({"queries": torch.empty(0, dtype=torch.int64)}, "at least one row"),
        ({"queries": torch.full((1, 3), math.nan)}, "some are NaN"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        nearest(torch.rand(10, 3), 1, **settings)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite(bad, backend):
    x = torch.rand(10, 3)
    x[4, 1] = bad
    with pytest.raises(ValueError, match="must be finite"):
        nearest(x, 1, backend=backend)


# --- on a GPU ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shortlist", [None, False])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_gpu_finds_the_same(metric, shortlist):
    x, _ = clustered(3000)
    truth, true_far = nearest(x, 10, metric=metric)
    index, far = nearest(x.cuda(), 10, metric=metric, shortlist=shortlist)
    assert index.is_cuda and recall(index.cpu(), truth) == 1.0
    np.testing.assert_allclose(far.cpu(), true_far, atol=2e-5)
    index, _ = nearest_in_batch(x[:128].cuda(), 5, metric=metric)
    assert recall(index.cpu(), nearest(x[:128], 5, metric=metric)[0]) == 1.0
