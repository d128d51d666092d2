"""Nearest neighbours in feature space, of a whole set or within a batch.

Exact search is the default: one matrix product per block of rows and a top-k choose
candidates, whose distances are then computed in float64. Where rounding, or candidates
at equal distances, leave open who belongs to the k nearest of a row, that row is
searched again more exactly. HNSW (hnswlib, CPU) is there because MixNN's text names it;
it is an approximation, slower on a GPU machine, and its misses are measured. Either way
equal rows are searched once. A sample is never its own neighbour, and that goes by its
number, not by a distance of zero: with duplicates the released MixNN code, which drops
the first hit, can drop the wrong one.

Source: MixNN (arXiv 2406.16966), Fig. 3; the code MacLLL/MixNN searches within the
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import pixels

METRICS = ("l2", "cosine")
BACKENDS = ("exact", "hnsw")
# candidates beyond k whose distances are computed: mends rounding of the product
_SPARE = 8
_MEASURED = 48  # rows on which an approximate search is compared with the exact one
_ROWS = 8192  # rows held in float64 at once
# by how much the score of two rows may be off, in parts of (|a| + |a - b|)^2; a closer
# cut is made again. Scores rounded to bfloat16, of float32, of float64
_SLACK = {torch.bfloat16: 2.0**-9, torch.float32: 2.0**-18, torch.float64: 2.0**-44}


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
    least_recall: float = 0.8,
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of features (N, D), nearest first: index and distance.

    queries: None asks for every row; int64 (Q,) for those rows; both leave out the row
    itself, by its number. A float tensor (Q, D) asks for points from outside and leaves
    nothing out. Both results, int64 and float32, are (N or Q, k) on the features'
    device. distance: Euclidean, or 1 - cosine similarity (a zero vector has similarity
    0 with all), computed in float64 at whatever scale the features have, then rounded
    to float32 (infinite beyond its range); of equal distances the lower number comes
    first.

    exact: blocks of `chunk` rows (by default as many as fit in a moderate score
    matrix). `shortlist` ranks by bfloat16 products first and the best max(32, 4k)
    again; default on CUDA, where it is the fast way; without it products have torch's
    own float32 precision. hnsw: `m`, `ef_construction` and `ef` as in hnswlib;
    deterministic with one thread. For up to 48 rows its neighbours are compared with
    the exact ones: ValueError when it found a smaller share of them than `least_recall`
    (0: never). Reads whether all features are finite and which cuts are close, so it
    waits for the device. Raises ValueError for features that are not finite, for k
    outside 1 to N - 1 (N for points from outside) and for unknown names; ImportError
    without hnswlib: nothing else is put in its place.
    """
    _known("metric", metric, METRICS)
    _known("backend", backend, BACKENDS)
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    if not 0 <= least_recall <= 1:
        raise ValueError(f"least_recall is {least_recall}, but must be from 0 to 1")
    raw = _matrix(features)
    outside, own = _queries(raw, queries)
    if len(raw if queries is None else queries) == 0:
        raise ValueError("queries must name at least one row or point")
    most = len(raw) - (own is not None)
    _check_k(k, most)
    largest = 0.0
    for part in (raw,) if outside is None else (raw, outside):
        if not bool(torch.isfinite(part).all()):
            raise ValueError("features must be finite, but some are NaN or infinite")
        largest = max(largest, float(part.abs().max()))
    with torch.autocast(raw.device.type, enabled=False):
        base = _space(raw, metric, largest)
        points = None if outside is None else _space(outside, metric, largest)

        def exact(points: _Space, own: Tensor | None, base: _Space, k: int) -> _Found:
            wide = raw.is_cuda if shortlist is None else shortlist
            return _exact(points, own, base, k, wide, chunk)

        search: _Search = exact
        if backend == "hnsw":
            graph = _graph(m, ef_construction, ef, seed, threads)

            def search(points: _Space, own: Tensor | None, base: _Space,
                       k: int) -> _Found:
                found = graph(points, own, base, k)
                some = torch.arange(min(_MEASURED, len(points)), device=raw.device)
                some = some * len(points) // len(some)
                true = exact(points[some], None if own is None else own[some], base, k)
                hits = float((found[1][some] <= true[1][:, -1:]).float().mean())
                if hits < least_recall:
                    raise ValueError(
                        f"HNSW found {hits:.0%} of the true neighbours of {len(some)} "
                        "rows; raise m or ef, use backend='exact', or lower "
                        f"least_recall (now {least_recall:g})")
                return found

        first, group = _distinct(raw if backend == "exact" else base.single())
        if len(first) < len(raw):
            index, far = _with_copies(search, points, own, base, k, first, group)
        else:
            if points is None:
                points = base if queries is None else base[queries.to(raw.device)]
            index, far = search(points, own, base, k)
        return index, base.reported(far)


def nearest_in_batch(features: Tensor, k: int, *,
                     metric: str = "l2") -> tuple[Tensor, Tensor]:
    """The k nearest other rows for each row of a batch (B, D).

    Index, int64, and distance, (B, k) both. As `nearest`, in one piece, from all B x B
    distances: no waiting for the device, and fit for torch.compile. An eager step on a
    CPU, where reading costs no wait, chooses by products and searches from the
    differences only the rows whose cut is close: 2 to 4 times faster, with the same
    neighbours. Rows that are not finite come last among them instead of raising.
    """
    _known("metric", metric, METRICS)
    raw = _matrix(features)
    _check_k(k, len(raw) - 1)
    with torch.autocast(raw.device.type, enabled=False):
        base = _space(raw, metric)
        if pixels.may_look(raw) and 4 * k < len(base):
            index, far, close = _by_scores(base, k)
            if len(rows := close.nonzero()[:, 0]):
                index[rows], far[rows] = _direct(base[rows], rows, base, k)
        else:
            every = torch.arange(len(base), device=raw.device)
            index, far = _direct(base, every, base, k)
        return index, base.reported(far).nan_to_num(math.inf, math.inf)


def purity(index: Tensor, labels: Tensor, own: Tensor | None = None) -> Tensor:
    """Share of a sample's neighbours that carry its label, float32 (Q,).

    index: (Q, k) numbers of neighbours; labels: (N,) labels of all samples; own: (Q,)
    labels of the samples asked about, by default `labels` itself (then Q = N).
    """
    own = labels if own is None else own
    if len(own) != len(index):
        raise ValueError(
            f"index has {len(index)} rows but there are {len(own)} labels; give the "
            "labels of "
            "the rows as own")
    return (labels[index] == own[:, None]).float().mean(1)


def _known(what: str, name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise ValueError(
            f"{what} is {name!r}; allowed are {', '.join(map(repr, allowed))}")


def _check_k(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(
            f"k is {k}, but {most} candidates are there: k must be 1 to {most}")


def _matrix(features: Tensor) -> Tensor:
    """The features as they are in float32 or float64."""
    if not isinstance(features, Tensor):
        raise ValueError(
            f"features must be a tensor (N, D), not {type(features).__name__}")
    if features.dim() != 2 or not features.is_floating_point() or not features.shape[1]:
        raise ValueError(
            "features must be a floating-point matrix (N, D), "
            f"not {features.dtype} of shape {tuple(features.shape)}"
        )
    features = features.detach()
    return features if features.dtype == torch.float64 else features.float()


def _queries(raw: Tensor,
             queries: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Points from outside (Q, D), or the numbers of the rows asked about."""
    if queries is None:
        return None, torch.arange(len(raw), device=raw.device)
    queries = queries.to(raw.device)
    if queries.dim() == 1 and queries.dtype == torch.int64:
        if bool(((queries < 0) | (queries >= len(raw))).any()):
            raise ValueError(f"queries must be row numbers from 0 to {len(raw) - 1}")
        return None, queries
    points = queries.dim() == 2 and queries.is_floating_point()
    if points and queries.shape[1] == raw.shape[1]:
        return _matrix(queries), None
    raise ValueError(
        "queries must be row numbers, int64 (Q,), or points, float "
        f"(Q, {raw.shape[1]}), "
        f"not {queries.dtype} of shape {tuple(queries.shape)}")


# ------------------------------------------------------------------- rows and distances


@dataclass(frozen=True)
class _Space:
    """Rows in which Euclidean distances order the neighbours.

    `raw` (..., D) times `factor` (...).

    l2: all by one power of two, so that squares stay within the range of numbers.
    cosine: each to length 1, but for rows of zeros (`zero`), which lie at distance
    sqrt(2) of every row.
    """

    raw: Tensor
    factor: Tensor
    zero: Tensor
    metric: str

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, rows: Tensor | slice) -> _Space:
        def pick(x: Tensor) -> Tensor:
            if isinstance(rows, slice):
                return x[rows]
            # much faster than an index of two dimensions
            return x.index_select(0, rows.flatten()).unflatten(0, rows.shape)

        return _Space(pick(self.raw), pick(self.factor), pick(self.zero), self.metric)

    def full(self) -> Tensor:
        """The rows in float64."""
        return self.raw.to(self.factor.dtype, copy=True).mul_(self.factor[..., None])

    def single(self) -> Tensor:
        """The rows (N, D) in float32."""
        return torch.cat([self[rows].full().float() for rows in _blocks(len(self))])

    def distances(self, apart: Tensor) -> Tensor:
        """Of what lies `apart` in this space, that which orders it, float32."""
        if self.metric == "l2":
            return apart.float()
        far = 0.5 * apart * apart
        return torch.where(far < 1e-28, 0.0, far).float()  # rounding of parallel rows

    def reported(self, far: Tensor) -> Tensor:
        """Such distances at the scale of the features."""
        return far if self.metric == "cosine" else (far / self.factor[0]).float()

    def rank(self, points: _Space, among: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates `among` (Q, c) in order, how far they are, and in this space."""
        among = among.sort(1).values  # so that ties go to the lower number
        there = self[among]
        apart = torch.linalg.vector_norm(there.full().sub_(points.full()[:, None]),
                                         dim=2)
        apart = torch.where(there.zero | points.zero[:, None], math.sqrt(2), apart)
        return self.ordered(among, apart)

    def ordered(self, among: Tensor, apart: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of ascending candidates that lie `apart` (Q, c)."""
        far = self.distances(apart)
        order = far.argsort(dim=1, stable=True)
        return among.gather(1, order), far.gather(1, order), apart.gather(1, order)


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, n, _ROWS)]


_Found = tuple[Tensor, Tensor]
_Search = Callable[[_Space, "Tensor | None", _Space, int], _Found]


def _space(raw: Tensor, metric: str, largest: float = 0.5) -> _Space:
    """The rows of `raw`; `largest`: largest magnitude of all that are compared (l2)."""
    # MPS has no float64
    full = torch.float32 if raw.device.type == "mps" else torch.float64
    zero = torch.zeros(len(raw), dtype=torch.bool, device=raw.device)
    if metric == "l2":
        power = max(-1000, min(1000, math.frexp(largest)[1]))
        if full == torch.float32:
            power = max(-100, min(100, power))
        factor = torch.full((len(raw),), 2.0**-power, dtype=full, device=raw.device)
        return _Space(raw, factor, zero, metric)
    factors = []
    for block in raw.split(_ROWS):
        block = block.to(full)
        high = block.abs().amax(1)
        high = torch.where(high < torch.finfo(full).tiny, 0.0, high)
        length = high * (block / high[:, None]).norm(dim=1)
        factors.append(torch.where(high == 0, 0.0, 1 / length))
    factor = torch.cat(factors)
    return _Space(raw, factor, factor == 0, metric)


def _direct(points: _Space, own: Tensor | None, base: _Space, k: int) -> _Found:
    """The k nearest by the distances to all rows, each from the differences."""
    apart = torch.cdist(points.full(), base.full(),
                        compute_mode="donot_use_mm_for_euclid_dist")
    far = base.distances(
        torch.where(points.zero[:, None] | base.zero, math.sqrt(2), apart))
    ranked = far.nan_to_num(
        torch.finfo(far.dtype).max, posinf=torch.finfo(far.dtype).max)
    if own is not None:
        ranked = ranked.scatter(1, own[:, None], math.inf)
    index = ranked.sort(dim=1, stable=True).indices[:, :k]
    return index, far.gather(1, index)


def _by_scores(base: _Space, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest other rows by products in float64, and where the cut is close.

    A score a.b - |b|^2 / 2 about the mean of all rows is off by D 2^-52 (|a| + |a -
    b|)^2 at most. A cut is not close if no such error, nor the distances' rounding to
    float32, can move it.
    """
    full = base.full()
    flat = full - full.mean(0)
    square = flat.square().sum(1)
    half = 0.5 * square
    if base.metric == "cosine":  # a row of zeros is as far from all rows
        half = torch.where(base.zero, 0.5 + half, half)
    scores = torch.mm(flat, flat.T).sub_(half).fill_diagonal_(-math.inf)
    best, among = scores.topk(k + 1)
    near, cut = (square[:, None] - 2 * best[:, k - 1 :]).unbind(1)
    reach = square.sqrt() + cut.clamp(min=0).sqrt()
    error = 2.0**-51 * flat.shape[1] * reach.square() + 2.0**-22 * cut
    sure = (0.5 * (cut - near) > error) & (near > 1e-27) & (cut < 1e70)
    among = among[:, :k].sort(1).values
    there = full.index_select(0, among.flatten()).view(len(full), k, -1)
    apart = torch.linalg.vector_norm(there.sub_(full[:, None]), dim=2)
    if base.metric == "cosine":
        apart = torch.where(base.zero[among], math.sqrt(2), apart)
        sure = sure & ~base.zero
    index, far, _ = base.ordered(among, apart)
    return index, far, ~sure


# -------------------------------------------------------------------------------- exact


def _exact(points: _Space, own: Tensor | None, base: _Space, k: int, wide: bool,
           chunk: int | None) -> _Found:
    """By products of few bits; where too close, of float64; at last directly."""
    levels = [torch.bfloat16 if wide else torch.float32]
    if base.factor.dtype == torch.float64:
        levels.append(torch.float64)
    index, far, close = _by_products(points, own, base, k, levels[0], chunk)
    for level in [*levels[1:], None]:
        rows = close.nonzero()[:, 0]
        if not len(rows):
            break
        some, mine = points[rows], None if own is None else own[rows]
        if level is not None:
            index[rows], far[rows], close[rows] = _by_products(
                some, mine, base, k, level, chunk)
            continue
        step = max(1, _room(base) // 4 // len(base))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            index[rows[part]], far[rows[part]] = _direct(
                some[part], None if mine is None else mine[part], base, k
            )
    return index, far


def _room(base: _Space) -> int:
    """Numbers in the largest block."""
    return 2**28 if base.raw.is_cuda else 2**25


def _by_products(
    points: _Space,
    own: Tensor | None,
    base: _Space,
    k: int,
    level: torch.dtype,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best of the candidates with the best scores, and where the cut is close.

    a.b - |b|^2 / 2 orders the rows b about a as -|a - b|^2 does; about the mean of all
    rows rounding is least.
    """
    few = level == torch.bfloat16
    most = len(base) - (own is not None)
    candidates = min(max(32, 4 * k) if few else k + _SPARE, most)
    if chunk is None:
        chunk = max(1, min(4096, _room(base) // len(base)))
    kind = torch.float32 if few else level
    centre = torch.stack([base[rows].full().sum(0)
                          for rows in _blocks(len(base))]).sum(0)
    centre /= len(base)
    flat = torch.cat([(base[rows].full() - centre).to(kind)
                      for rows in _blocks(len(base))])
    half = 0.5 * (flat * flat).sum(1)
    if base.metric == "cosine":  # a row of zeros is as far from all rows
        half = torch.where(base.zero, (0.5 + 0.5 * centre.square().sum()).to(kind),
                           half)
    against = _rounded(flat, few)
    del flat
    slack = _SLACK[level]
    if level == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        slack = _SLACK[torch.bfloat16]
    # a CPU's cache holds the differences
    numbers = 2**27 if base.raw.is_cuda else 2**20
    depth = max(1, numbers // (candidates * base.raw.shape[1]))
    found = []
    for start in range(0, len(points), chunk):
        block = points[start : start + chunk]
        shifted = (block.full() - centre).to(kind)
        scores = _products(_rounded(shifted, few), against) - half
        if own is not None:
            scores.scatter_(1, own[start : start + chunk, None], -math.inf)
        among = scores.topk(candidates, sorted=False).indices
        reach = shifted.norm(dim=1)
        for at in range(0, len(block), depth):
            part = slice(at, at + depth)
            index, far, apart = base.rank(block[part], among[part])
            last = apart[:, -1]
            gap = 0.5 * (last.square() - apart[:, k - 1].square())
            close = gap <= slack * (reach[part] + last).square()
            close = close | (far[:, k - 1] == far[:, -1])
            close |= block[part].zero
            found.append((index[:, :k], far[:, :k], close & (candidates < most)))
    indices, distances, unsure = zip(*found, strict=True)
    return torch.cat(indices), torch.cat(distances), torch.cat(unsure)


def _rounded(x: Tensor, few: bool) -> Tensor:
    """Rounded to bfloat16 for a shortlist; a CPU multiplies these in float32."""
    if not few:
        return x
    return x.bfloat16() if x.is_cuda else x.bfloat16().float()


def _products(block: Tensor, base: Tensor) -> Tensor:
    """Inner products (Q, N), summed in float32, or in float64 where both have it."""
    if block.dtype == torch.bfloat16:
        return torch.mm(block, base.T, out_dtype=torch.float32)
    return block @ base.T


# --------------------------------------------------------------------------- equal rows


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """First number of each distinct row (U,), ascending; each row's place there."""
    draws = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=draws) * 2 + 1
    weights, sums = weights.to(rows.device), []
    for block in rows.split(_ROWS):
        bits = (block + 0.0).contiguous()  # -0 is 0
        kind = torch.int64 if bits.dtype == torch.float64 else torch.int32
        bits = bits.view(kind).long()
        # wraps round, in any order alike
        sums.append(((bits ^ (bits >> 17)) * weights).sum(1))
    first, group = _groups(torch.cat(sums).unique(return_inverse=True)[1])
    if len(first) < len(rows):
        alike = first[group]
        blocks = torch.arange(len(rows), device=rows.device).split(_ROWS)
        if not all(bool((rows[i] == rows[alike[i]]).all()) for i in blocks):
            return _groups(rows.unique(dim=0, return_inverse=True)[1])
    return first, group


def _groups(group: Tensor) -> tuple[Tensor, Tensor]:
    """Groups numbered by first member: those members, and of each row its group."""
    numbers = torch.arange(len(group), device=group.device)
    first = numbers.new_full((int(group.max()) + 1,), len(group))
    first.scatter_reduce_(0, group, numbers, "amin")
    order = first.argsort()
    return first[order], order.argsort()[group]


def _with_copies(
    search: _Search,
    points: _Space | None,
    own: Tensor | None,
    base: _Space,
    k: int,
    first: Tensor,
    group: Tensor,
) -> _Found:
    """Search among distinct rows; then give each of them in the result its copies."""
    rows = base[first]
    if own is None:
        assert points is not None
        groups, far = search(points, None, rows, min(k, len(rows)))
    else:
        mine, back = group[own].unique(return_inverse=True)
        # copies lie at 0, zeros (cosine) at 1
        itself = rows.zero[mine][:, None].float()
        groups, far = mine[:, None], itself
        if len(rows) > 1:
            other, there = search(rows[mine], mine, rows, min(k, len(rows) - 1))
            groups, far = torch.cat([groups, other], 1), torch.cat([far, there], 1)
    sizes = group.bincount(minlength=len(first))
    # the lowest numbers of each; one may be the row itself
    width = min(k + 1, int(sizes.max()))
    places = torch.arange(width, device=group.device)
    starts = sizes.cumsum(0) - sizes
    at = (starts[:, None] + places).clamp(max=len(group) - 1)
    members = group.argsort(stable=True)[at]
    members = torch.where(places < sizes[:, None], members, len(group))
    asked = torch.arange(len(groups), device=group.device) if own is None else back
    index, distance = [], []
    step = max(1, _room(base) // 8 // (groups.shape[1] * width))
    for start in range(0, len(asked), step):
        i = asked[start : start + step]
        among = members[groups[i]].flatten(1)
        apart = far[i][:, :, None].expand(-1, -1, width).flatten(1)
        if own is not None:
            among = torch.where(among == own[start:start + step, None], len(group),
                                among)
        among, order = among.sort(1)
        apart = apart.gather(1, order).masked_fill(among == len(group), math.inf)
        order = apart.argsort(dim=1, stable=True)[:, :k]
        index.append(among.gather(1, order))
        distance.append(apart.gather(1, order))
    return torch.cat(index), torch.cat(distance)


# --------------------------------------------------------------------------------- HNSW


def _graph(m: int, ef_construction: int, ef: int, seed: int, threads: int) -> _Search:
    """Approximate neighbours by hnswlib."""
    try:
        import hnswlib
    except ImportError as error:
        raise ImportError(
            "backend='hnsw' needs hnswlib: pip install 'noisylabels[knn]' or use "
            "backend='exact'"
        ) from error

    def search(points: _Space, own: Tensor | None, base: _Space, k: int) -> _Found:
        graph = hnswlib.Index(space=base.metric, dim=base.raw.shape[1])
        graph.init_index(len(base), ef_construction=ef_construction, M=m,
                         random_seed=seed)
        graph.set_num_threads(threads)
        graph.add_items(base.single().cpu().numpy())
        count = k + (own is not None)  # one more, for the row itself
        graph.set_ef(max(ef, count))
        try:
            labels = graph.knn_query(points.single().cpu().numpy(), k=count)[0]
        except RuntimeError as error:
            raise ValueError(
                f"HNSW did not reach {count} neighbours of some point; raise m or ef, "
                "or use backend='exact'"
            ) from error
        among = torch.from_numpy(labels.astype("int64")).to(base.raw.device)
        if own is not None:
            # drop the row itself where it was found, else the farthest
            last = (among == own[:, None]).long().argsort(dim=1, stable=True)
            among = among.gather(1, last[:, :k])
        step = max(1, min(1024, _room(base) // (2 * k * base.raw.shape[1])))
        starts = [slice(at, at + step) for at in range(0, len(points), step)]
        found = [base.rank(points[at], among[at])[:2] for at in starts]
        return (torch.cat([index for index, _ in found]),
                torch.cat([far for _, far in found]))

    return search
