"""Nearest neighbours against scikit-learn, with duplicates, shortlists and HNSW."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from noisylabels.neighbours import nearest, nearest_in_batch, purity


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
    low = recall(nearest(x, 5, backend="hnsw", m=4, ef=6, ef_construction=20)[0], truth)
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


def test_in_batch_nothing_waits_and_it_compiles():
    with FakeTensorMode():
        index, far = nearest_in_batch(torch.rand(128, 16), 2)
        assert index.shape == far.shape == (128, 2)
        assert purity(index, torch.randint(10, (128,))).shape == (128,)
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
@pytest.mark.parametrize("bad", [torch.rand(10), torch.rand(4, 3, 2), torch.ones(4, 3).long()])
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
