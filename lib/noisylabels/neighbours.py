"""Nearest neighbours in feature space, of a whole set or within a batch.

Exact search is the default: one matrix product per block of rows and a top-k. HNSW (hnswlib, CPU)
is there because MixNN's text names it; it is an approximation, and slower on a GPU machine.
A sample is never its own neighbour, and that goes by its number, not by a distance of zero: with
duplicates the released MixNN code, which drops the first hit, can drop the wrong one.

Source: MixNN (arXiv 2406.16966), Fig. 3; the code MacLLL/MixNN searches within the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

METRICS = ("l2", "cosine")
BACKENDS = ("exact", "hnsw")
_SPARE = 8  # candidates beyond k whose distances are computed again: mends rounding of the product


def nearest(
    features: Tensor,
    k: int,
    *,
    metric: str = "l2",
    backend: str = "exact",
    queries: Tensor | None = None,
    chunk: int | None = None,
    shortlist: bool | None = None,
    m: int = 16,
    ef_construction: int = 200,
    ef: int = 50,
    seed: int = 0,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of features (N, D), nearest first: index int64 and distance float32.

    queries: None asks for every row; int64 (Q,) for those rows; both leave out the row itself, by
    its number. A float tensor (Q, D) asks for points from outside and leaves nothing out. Both
    results are (N or Q, k) on the features' device. distance: Euclidean, or 1 - cosine similarity
    (a zero vector has similarity 0 with all); of equal distances the lower number comes first.

    exact: blocks of `chunk` rows (by default as many as fit in a moderate score matrix).
    `shortlist` ranks by bfloat16 products first and the best max(32, 4k) again in float32; default
    on CUDA, where it is the fast way; without it products have torch's own float32 precision.
    hnsw: `m`, `ef_construction` and `ef` as in hnswlib; deterministic with one thread.
    Reads whether all features are finite, so it waits for the device once. Raises ValueError for
    features that are not, for k outside 1 to N - 1 (N for points from outside) and for unknown
    names; ImportError without hnswlib: nothing else is put in its place.
    """
    _known("metric", metric, METRICS)
    _known("backend", backend, BACKENDS)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    base = _prepare(features, metric)
    points, own = _queries(base, queries, metric)
    if len(points) == 0:
        raise ValueError("queries must name at least one row or point")
    most = len(base) - (own is not None)
    _check_k(k, most)
    if not bool(torch.isfinite(base).all() & torch.isfinite(points).all()):
        raise ValueError("features must be finite, but some are NaN or infinite")
    if backend == "hnsw":
        return _hnsw(points, own, base, k, metric, m, ef_construction, ef, seed, threads)

    wide = base.is_cuda if shortlist is None else shortlist
    candidates = min(max(32, 4 * k) if wide else k + _SPARE, most)
    if chunk is None:
        room = 2**28 if base.is_cuda else 2**25  # numbers in the largest block
        chunk = max(1, min(4096, room // max(len(base), candidates * base.shape[1])))
    centre = base.mean(0) if metric == "l2" else 0.0  # distances stay, rounding shrinks
    against, half_norms = _rounded(base - centre, wide), _half_norms(base - centre, metric)
    found = []
    with torch.autocast(base.device.type, enabled=False):
        for start in range(0, len(points), chunk):
            block = points[start : start + chunk]
            scores = _products(_rounded(block - centre, wide), against) - half_norms
            if own is not None:
                scores.scatter_(1, own[start : start + chunk, None], -math.inf)
            among = scores.topk(candidates, sorted=False).indices
            found.append(_rank(block, base, among, k, metric))
    return torch.cat([index for index, _ in found]), torch.cat([far for _, far in found])


def nearest_in_batch(features: Tensor, k: int, *, metric: str = "l2") -> tuple[Tensor, Tensor]:
    """The k nearest other rows for each row of a batch (B, D): index int64, distance, (B, k).

    As `nearest`, in one piece: no waiting for the device, and fit for torch.compile. Rows that are
    not finite come last among the neighbours instead of raising.
    """
    _known("metric", metric, METRICS)
    base = _prepare(features, metric)
    _check_k(k, len(base) - 1)
    with torch.autocast(base.device.type, enabled=False):
        shifted = base - base.nan_to_num(0, 0, 0).mean(0) if metric == "l2" else base
        scores = shifted @ shifted.T - _half_norms(shifted, metric)
        scores = torch.where(scores.isfinite(), scores, -3e38)
        own = torch.eye(len(base), dtype=torch.bool, device=base.device)
        scores = scores.masked_fill(own, -math.inf)
        spare = _SPARE if base.is_cuda else 1  # a GPU may multiply in TF32, a CPU does not
        among = scores.topk(min(k + spare, len(base) - 1), sorted=False).indices
        index, far = _rank(base, base, among, k, metric)
        return index, far.nan_to_num(math.inf, math.inf)


def purity(index: Tensor, labels: Tensor, own: Tensor | None = None) -> Tensor:
    """Share of a sample's neighbours that carry its label, float32 (Q,).

    index: (Q, k) numbers of neighbours; labels: (N,) labels of all samples; own: (Q,) labels of
    the samples asked about, by default `labels` itself (then Q = N).
    """
    own = labels if own is None else own
    if len(own) != len(index):
        raise ValueError(
            f"index has {len(index)} rows but there are {len(own)} labels; give the labels of "
            "the rows as own"
        )
    return (labels[index] == own[:, None]).float().mean(1)


def _known(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise ValueError(f"{what} is {name!r}; allowed are {', '.join(map(repr, allowed))}")


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"k is {k}, but {most} candidates are there: k must be 1 to {most}")


def _prepare(features: Tensor, metric: str) -> Tensor:
    if features.dim() != 2 or not features.is_floating_point():
        raise ValueError(
            "features must be a floating-point matrix (N, D), "
            f"not {features.dtype} of shape {tuple(features.shape)}"
        )
    features = features.detach().float()
    return F.normalize(features, dim=1) if metric == "cosine" else features


def _queries(base: Tensor, queries: Tensor | None, metric: str) -> tuple[Tensor, Tensor | None]:
    """The points asked about (Q, D) and, unless they come from outside, their row numbers."""
    if queries is None:
        return base, torch.arange(len(base), device=base.device)
    queries = queries.to(base.device)
    if queries.dim() == 1 and queries.dtype == torch.int64:
        if bool(((queries < 0) | (queries >= len(base))).any()):
            raise ValueError(f"queries must be row numbers from 0 to {len(base) - 1}")
        return base[queries], queries
    if queries.dim() == 2 and queries.is_floating_point() and queries.shape[1] == base.shape[1]:
        return _prepare(queries, metric), None
    raise ValueError(
        f"queries must be row numbers, int64 (Q,), or points, float (Q, {base.shape[1]}), "
        f"not {queries.dtype} of shape {tuple(queries.shape)}"
    )


def _half_norms(base: Tensor, metric: str) -> Tensor | float:
    """a.b - |b|^2 / 2 orders the rows b about a as -|a - b|^2 does; unit vectors need only a.b."""
    return 0.5 * (base * base).sum(1) if metric == "l2" else 0.0


def _rounded(x: Tensor, wide: bool) -> Tensor:
    """Rounded to bfloat16 for a shortlist; a CPU multiplies the rounded numbers in float32."""
    if not wide:
        return x
    return x.bfloat16() if x.is_cuda else x.bfloat16().float()


def _products(block: Tensor, base: Tensor) -> Tensor:
    """Inner products (Q, N) summed and returned in float32."""
    if block.dtype == torch.bfloat16:
        return torch.mm(block, base.T, out_dtype=torch.float32)
    return block @ base.T


def _rank(
    block: Tensor, base: Tensor, among: Tensor, k: int, metric: str
) -> tuple[Tensor, Tensor]:
    """The k best of the candidates `among` (Q, c) by distances computed directly in float32."""
    among = among.sort(1).values  # so that ties go to the lower number
    if metric == "l2":
        far = (base[among] - block[:, None]).square().sum(2).sqrt()
    else:
        far = (1 - (base[among] * block[:, None]).sum(2)).clamp(min=0)
    order = far.argsort(dim=1, stable=True)[:, :k]
    return among.gather(1, order), far.gather(1, order)


def _hnsw(
    points: Tensor,
    own: Tensor | None,
    base: Tensor,
    k: int,
    metric: str,
    m: int,
    ef_construction: int,
    ef: int,
    seed: int,
    threads: int,
) -> tuple[Tensor, Tensor]:
    """Approximate neighbours by hnswlib; distances computed again in float32."""
    try:
        import hnswlib
    except ImportError as error:
        raise ImportError(
            "backend='hnsw' needs hnswlib: pip install 'noisylabels[knn]' or use backend='exact'"
        ) from error
    graph = hnswlib.Index(space=metric, dim=base.shape[1])
    graph.init_index(len(base), ef_construction=ef_construction, M=m, random_seed=seed)
    graph.set_num_threads(threads)
    graph.add_items(base.cpu().numpy())
    count = k + (own is not None)  # one more, for the row itself
    graph.set_ef(max(ef, count))
    try:
        labels = graph.knn_query(points.cpu().numpy(), k=count)[0]
    except RuntimeError as error:
        raise ValueError(
            f"HNSW did not reach {count} neighbours of some point; raise m or ef, "
            "or use backend='exact'"
        ) from error
    among = torch.from_numpy(labels.astype("int64")).to(base.device)
    if own is not None:
        # drop the row itself where it was found, else the farthest
        last = (among == own[:, None]).long().argsort(dim=1, stable=True)
        among = among.gather(1, last[:, :k])
    blocks = zip(points.split(1024), among.split(1024), strict=True)
    found = [_rank(block, base, part, k, metric) for block, part in blocks]
    return torch.cat([index for index, _ in found]), torch.cat([far for _, far in found])
