"""Exact search: which rows are nearest, proved, and what exactly their scores are.

House rules:

1. A score is a function of the bytes of the row and of the query alone: float64, a fixed order of summation,
   no BLAS. So nodes whose rows lie in different chunks give the same answers (:func:`scores`).
2. BLAS in float32 only proposes. Its result depends on the processor and on the shape of the call, so each
   proposal carries a bound of its error, and a row is dropped only if the bounds prove that k others are
   better (:class:`Selection`).

The theory. With u = 2^-24, any order of summation of d products in float32 is wrong by at most
d*u/(1-d*u) * sum|x_i q_i| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and
sum|x_i q_i| <= |x||q|. Queries are scaled to length 1 first, so that only the row's norm is left in the
bound. Comparisons are made on a *key*, larger is better, with a bound of its error:

- cosine: x.q/|x|, bound c*u;
- dot: x.q (|q| = 1 changes no order), bound c*u*|x|;
- euclidean: 2|q| x.q - |x|^2, the squared distance without |q|^2 and turned around, bound c*u*(|x|^2 +
  2|q||x|), and 2^-48 |q|^2: so much nearer a row can be that has the same score in float64.

Rows whose norm is so small or large that these expressions could leave the range of float32 get an infinite
bound, which means: look at them exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorizer.operations import Metric, Vectors
from vectorizer.storage.chunk import Chunk, ChunkView

Scores = npt.NDArray[np.float64]
RowNumbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SLICE_ROWS_MAX = 65_536
SLICE_COMPONENTS_MAX = 1 << 23
"""A slice of a scan reads at most 32 MiB of vectors in one BLAS call ..."""
BLOCK_KEYS_MAX = 1 << 21
"""... and keeps at most 8 MiB of keys."""
EXACT_COMPONENTS_MAX = 1 << 14
"""Rows are scored exactly in blocks of 128 KiB of float64, which stay in the cache: 3 times as fast as 1 MiB.
"""
FEW_ROWS = 64
"""Up to so many, of one query, numbers are faster than arrays."""

_UNIT_ROUNDOFF = 2.0**-24
_NORM_MIN = 2.0**-60
_NORM_MAX = 2.0**60
_POOL_SLACK = 256


class Queries:
    """The queries of one search in the forms that the kernels need.

    ``raw`` (n, d) float32 as given, ``exact`` the same in float64, ``lengths`` (n,) their L2 norms, ``unit``
    (n, d) float32 scaled to length 1 (zero stays zero). ``error``: the factor c*u of the bounds.
    ``unbounded`` (n,): which queries are so long that euclidean keys would leave the range of float32; None
    if none is.
    """

    __slots__ = ("error", "exact", "lengths", "metric", "raw", "unbounded", "unit")

    def __init__(self, metric: Metric, vectors: Vectors) -> None:
        self.metric: Metric = metric
        self.raw = np.ascontiguousarray(vectors, dtype=np.float32)
        self.exact: Scores = self.raw.astype(np.float64)
        self.lengths: Scores = np.sqrt(_sums(self.exact * self.exact))
        if len(self.raw) == 1:  # by a number: half the time
            units = self.exact / (float(self.lengths[0]) or 1.0)
        else:
            divisors = self.lengths
            if np.count_nonzero(divisors) < divisors.size:  # a sixth of the time of all()
                divisors = np.where(self.lengths > 0.0, self.lengths, 1.0)
            units = self.exact / divisors[:, None]
        self.unit: Vectors = units.astype(np.float32)
        # d for the sum of the products, the rest for the norm (summed in float64, then rounded) and the few
        # roundings on the way; 5 % for the terms of second order.
        self.error: float = 1.05 * (self.raw.shape[1] + 32) * _UNIT_ROUNDOFF
        self.unbounded: Mask | None = None
        if metric == "euclidean" and self.lengths.max(initial=0.0) > _NORM_MAX:
            self.unbounded = self.lengths > _NORM_MAX

    def __len__(self) -> int:
        return len(self.raw)

    def one(self, query: int) -> Queries:
        """One of them alone, sharing its arrays."""
        if len(self) == 1:
            return self
        alone = Queries.__new__(Queries)
        part = slice(query, query + 1)
        alone.metric, alone.error = self.metric, self.error
        alone.raw, alone.exact, alone.lengths, alone.unit = (
            self.raw[part],
            self.exact[part],
            self.lengths[part],
            self.unit[part],
        )
        alone.unbounded = None if self.unbounded is None else self.unbounded[part]
        return alone


class Selection:
    """The rows among those offered that can still be one of the best k, for one query.

    A pool of rows with lower and upper bounds of their keys. ``floor``: at least k rows, of those offered or
    known otherwise, have a key of at least this.
    """

    __slots__ = ("_count", "_k", "_lower", "_rows", "_upper", "floor")

    def __init__(self, k: int) -> None:
        self._k = k
        self._rows: list[RowNumbers] = []
        self._lower: list[Vectors] = []
        self._upper: list[Vectors] = []
        self._count = 0
        self.floor = -np.inf

    def offer(
        self, rows: RowNumbers | int, keys: Vectors, errors: Vectors | float, alive: Mask | None = None
    ) -> None:
        """Offers rows (their numbers, or the number of the first of consecutive ones) with (m,) keys and
        bounds.
        """
        if self.floor == -np.inf and keys.size > self._k:
            # Otherwise all of the first slice would go through the pool, which costs more than its scan.
            lower = keys - errors
            self._raise_floor(lower if alive is None else lower[alive])
        if isinstance(errors, float):
            kept = np.flatnonzero(keys >= self.floor - errors)
        else:
            kept = np.flatnonzero(keys + errors >= self.floor)
        if alive is not None and kept.size:
            kept = kept[alive[kept]]
        if not kept.size:
            return
        keys, errors = keys[kept], errors if isinstance(errors, float) else errors[kept]
        self._lower.append(keys - errors)
        self._upper.append(keys + errors)
        self._rows.append(rows[kept] if isinstance(rows, np.ndarray) else kept + rows)
        self._count += kept.size
        if self._count > 4 * self._k + _POOL_SLACK:
            self.rows()

    def rows(self) -> RowNumbers:
        """Numbers of the rows that can be among the best k; ties with the k-th are all in it."""
        if not self._count:
            return np.empty(0, np.int64)
        rows, lower, upper = self._rows[0], self._lower[0], self._upper[0]
        if len(self._rows) > 1:
            rows = np.concatenate(self._rows)
            lower, upper = np.concatenate(self._lower), np.concatenate(self._upper)
        if rows.size > self._k:
            self._raise_floor(lower)
            kept = upper >= self.floor
            rows, lower, upper = rows[kept], lower[kept], upper[kept]
        self._rows, self._lower, self._upper = [rows], [lower], [upper]
        self._count = rows.size
        return rows

    def _raise_floor(self, lower: Vectors) -> None:
        if lower.size > self._k:
            place = lower.size - self._k
            self.floor = max(self.floor, float(np.partition(lower, place)[place]))


class Block:
    """Some rows as the kernels need them: ``vectors`` (m, d) and ``norms`` (m,) float32.

    ``unbounded`` (m,): rows whose keys could leave the range of float32; None if there are none. ``scaled``:
    rows of a cosine collection are divided by their norms already.
    """

    __slots__ = ("norms", "scaled", "unbounded", "vectors")

    def __init__(self, vectors: Vectors, norms: npt.NDArray[np.float32]) -> None:
        self.vectors = vectors
        self.norms = norms
        self.unbounded: Mask | None = None
        if norms.size and not (norms.min() >= _NORM_MIN and norms.max() <= _NORM_MAX):
            self.unbounded = ~((norms >= _NORM_MIN) & (norms <= _NORM_MAX))
        self.scaled = False

    def for_metric(self, metric: Metric) -> Block:
        """The same rows, once and for all divided by their norms where each search would do it.

        The bound of the keys' errors is the same: a component is rounded instead of the quotient.
        """
        if metric != "cosine" or self.unbounded is not None:
            return self
        block = Block(self.vectors / self.norms[:, None], self.norms)
        block.scaled = True
        return block


class Keys:
    """Keys of all queries against a block's rows, ``values`` (n, m) float32, with bounds of their errors."""

    __slots__ = ("_block", "_queries", "values")

    def __init__(self, queries: Queries, block: Block) -> None:
        self._queries = queries
        self._block = block
        # One query by GEMV: GEMM would first copy the rows into its own order, at half the speed.
        alone = len(queries) == 1
        values: Vectors = (
            np.matmul(block.vectors, queries.unit[0])[None, :]
            if alone
            else np.matmul(queries.unit, block.vectors.T)
        )
        if queries.metric != "dot" and not block.scaled:
            if block.unbounded is None and queries.unbounded is None:
                self._scale(values)
            else:
                with np.errstate(
                    all="ignore"
                ):  # what overflows is replaced by zero and an infinite bound below
                    self._scale(values)
        if block.unbounded is not None:
            values[:, block.unbounded] = 0.0
        if queries.unbounded is not None:
            values[queries.unbounded] = 0.0
        self.values = values

    def _scale(self, values: Vectors) -> None:
        """From products with unit queries to keys, in place."""
        queries, norms = self._queries, self._block.norms
        if queries.metric == "cosine":
            values /= norms
        else:
            values *= (2.0 * queries.lengths).astype(np.float32)[:, None]
            values -= norms * norms

    def errors(self, query: int) -> Vectors | float:
        """Bound of the error of each key of one query: (m,), or one number for all."""
        queries, block = self._queries, self._block
        if queries.unbounded is not None and queries.unbounded[query]:
            return float("inf")
        errors: Vectors
        if queries.metric == "cosine":
            if block.unbounded is None:
                return queries.error
            errors = np.full(block.norms.size, queries.error, np.float32)
        else:
            with np.errstate(over="ignore"):
                errors = np.multiply(block.norms, np.float32(queries.error))
                if queries.metric == "euclidean":
                    length = float(queries.lengths[query])
                    errors *= block.norms + np.float32(2.0 * length)
                    errors += np.float32(2.0**-48 * length * length)  # what the exact score rounds away
        if block.unbounded is not None:
            errors[block.unbounded] = np.inf
        return errors


def floor_of_rank(queries: Queries, query: int, rank: float) -> float:
    """A number that the key of no row with this rank or a better one is below. See :func:`ranks`."""
    length = float(queries.lengths[query])
    if queries.metric == "euclidean":
        key, size = length * length - rank * rank, length * length + rank * rank
    elif queries.metric == "dot":
        key = -rank / length if length else -np.inf
        size = abs(key)
    else:
        key, size = -rank, 1.0
    return key - 2.0**-22 * abs(key) - 2.0**-48 * size  # roundings here, and to float32 when it is compared


def distance_slack(queries: Queries, distance: float, norm: float) -> float:
    """How much more than this float32 distance of a graph that of a row can be which is as near in truth.

    Of one query; no row in question is longer than ``norm``. Four times the bound of a product's error: each
    of two distances has it once for the product and, for cosine, once for the norms that scale both vectors.
    """
    size = {"euclidean": distance, "dot": norm * float(queries.lengths[0]), "cosine": 1.0}
    return 4.0 * queries.error * size[queries.metric]


def scores(queries: Queries, query: int | npt.NDArray[np.intp], vectors: Vectors) -> Scores:
    """Exact scores of (m, d) float32 vectors, each against one query or against its own of (m,): (m,)
    float64.

    Cosine similarity (0 where a vector is zero), dot product, or euclidean distance. Products of float32 are
    exact in float64, and ``add.reduce`` over the last axis sums in an order that depends on d only.
    """
    wide = vectors.astype(np.float64)
    if queries.metric == "euclidean":
        wide -= queries.exact[query]
        wide *= wide
        return np.sqrt(_sums(wide))
    products = _sums(wide * queries.exact[query])
    if queries.metric == "dot":
        return products
    wide *= wide
    lengths = np.sqrt(_sums(wide))
    lengths *= queries.lengths[query]
    if np.count_nonzero(lengths) < lengths.size:
        products[lengths == 0.0] = 0.0
        lengths[lengths == 0.0] = 1.0
    products /= lengths
    return np.minimum(np.maximum(products, -1.0, out=products), 1.0, out=products)


def ranks(
    queries: Queries, query: int | npt.NDArray[np.intp], vectors: Vectors, rows: npt.NDArray[np.integer[Any]]
) -> Scores:
    """Exact scores of the given rows of ``vectors``, negated unless they are distances: smaller is better.

    Goes in blocks, so that memory is bounded.
    """
    step = max(1, EXACT_COMPONENTS_MAX // vectors.shape[1])
    if rows.size <= step:
        found = scores(queries, query, vectors[rows])
    else:
        found = np.empty(rows.size)
        for at in range(0, rows.size, step):
            part = slice(at, at + step)
            whose = query if isinstance(query, int) else query[part]
            found[part] = scores(queries, whose, vectors[rows[part]])
    return _from_scores(queries, found)


def _from_scores(queries: Queries, found: Scores) -> Scores:
    return found if queries.metric == "euclidean" else np.negative(found, out=found)


def ranks_of_one(
    queries: Queries, parts: Sequence[tuple[Chunk, npt.NDArray[np.integer[Any]]]]
) -> list[float]:
    """The ranks of rows of several chunks for the only query, one chunk after the other.

    Few rows are ranked in one pass, whose last steps work on numbers, not on arrays. The operations are the
    same, so the ranks are too, bit by bit: 37 us for ten rows within a request instead of 42.
    """
    if sum(rows.size for _, rows in parts) > FEW_ROWS:
        return [rank for chunk, rows in parts for rank in ranks(queries, 0, chunk.vectors, rows).tolist()]
    gathered = [chunk.vectors[rows] for chunk, rows in parts]
    wide = (gathered[0] if len(gathered) == 1 else np.concatenate(gathered)).astype(np.float64)
    if queries.metric == "euclidean":
        wide -= queries.exact
        wide *= wide
        return list(map(sqrt, _sums(wide).tolist()))
    products: list[float] = _sums(wide * queries.exact).tolist()
    if queries.metric == "dot":
        return [-product for product in products]
    wide *= wide
    length = float(queries.lengths[0])
    found = []
    for product, square in zip(products, _sums(wide).tolist(), strict=True):
        size = sqrt(square) * length
        found.append(-min(max(product / size, -1.0), 1.0) if size else -0.0)
    return found


def scan(
    queries: Queries, chunk_view: ChunkView, base: int, selections: list[Selection], mask: Mask | None
) -> None:
    """Offers all live rows of a chunk, numbered from ``base``, to each query's selection.

    ``mask`` (rows,) restricts them.
    """
    chunk = chunk_view.chunk

    def alive(start: int, stop: int) -> Mask:
        living: Mask = chunk.deleted_at[start:stop] > chunk_view.offset
        return living if mask is None else living & mask[start:stop]

    scan_arrays(queries, chunk.vectors, chunk.norms, chunk_view.rows, alive, base, selections)


def scan_arrays(
    queries: Queries,
    vectors: Vectors,
    norms: npt.NDArray[np.float32],
    rows: int,
    alive: Callable[[int, int], Mask],
    base: int,
    selections: list[Selection],
) -> None:
    """Offers the first ``rows`` rows, in slices; ``alive`` tells which from ``start`` to ``stop`` count."""
    step = _slice_rows(queries, vectors.shape[1])
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        living = alive(start, stop)
        count = np.count_nonzero(living)
        if count:
            offered = None if count == stop - start else living
            keys = Keys(queries, Block(vectors[start:stop], norms[start:stop]))
            for query, selection in enumerate(selections):
                selection.offer(base + start, keys.values[query], keys.errors(query), offered)


def scan_rows(
    queries: Queries, chunk: Chunk, rows: RowNumbers, base: int, selections: list[Selection]
) -> None:
    """Offers the given rows of a chunk (the caller vouches that they are live) to each query's selection."""
    step = _slice_rows(queries, chunk.vectors.shape[1])
    for start in range(0, rows.size, step):
        some = rows[start : start + step]
        keys = Keys(queries, Block(chunk.vectors[some], chunk.norms[some]))
        for query, selection in enumerate(selections):
            selection.offer(some + base, keys.values[query], keys.errors(query))


def _slice_rows(queries: Queries, dimension: int) -> int:
    return max(
        1, min(SLICE_ROWS_MAX, SLICE_COMPONENTS_MAX // dimension, BLOCK_KEYS_MAX // max(1, len(queries)))
    )


def _sums(matrix: Scores) -> Scores:
    sums: Scores = np.add.reduce(matrix, axis=1)
    return sums
