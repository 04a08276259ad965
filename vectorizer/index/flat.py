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
  2|q||x|).

Rows whose norm is so small or large that these expressions could leave the range of float32 get an infinite
bound, which means: look at them exactly.
"""

from __future__ import annotations

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
EXACT_COMPONENTS_MAX = 1 << 17
"""Rows are scored exactly in blocks of 1 MiB of float64."""

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
        divisors = np.where(self.lengths > 0.0, self.lengths, 1.0)
        self.unit: Vectors = (self.exact / divisors[:, None]).astype(np.float32)
        # d for the sum of the products, the rest for the norm (summed in float64, then rounded) and the few
        # roundings on the way; 5 % for the terms of second order.
        self.error: float = 1.05 * (self.raw.shape[1] + 32) * _UNIT_ROUNDOFF
        far = self.lengths > _NORM_MAX
        self.unbounded: Mask | None = far if metric == "euclidean" and far.any() else None

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

    A pool of rows with lower and upper bounds of their keys. ``floor``: at least k rows have a key of at
    least this.
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
        upper = keys + errors
        kept = np.flatnonzero(upper >= self.floor)
        if alive is not None:
            kept = kept[alive[kept]]
        if not kept.size:
            return
        self._lower.append((keys - errors)[kept])
        self._upper.append(upper[kept])
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
            place = rows.size - self._k
            self.floor = max(self.floor, float(np.partition(lower, place)[place]))
            kept = upper >= self.floor
            rows, lower, upper = rows[kept], lower[kept], upper[kept]
        self._rows, self._lower, self._upper = [rows], [lower], [upper]
        self._count = rows.size
        return rows


class Keys:
    """Keys of all queries against some rows, ``values`` (n, m) float32, with the bounds of their errors."""

    __slots__ = ("_norms", "_queries", "_unbounded", "values")

    def __init__(self, queries: Queries, vectors: Vectors, norms: npt.NDArray[np.float32]) -> None:
        self._queries = queries
        self._norms = norms
        self._unbounded: Mask | None = None
        if norms.size and not (norms.min() >= _NORM_MIN and norms.max() <= _NORM_MAX):
            self._unbounded = ~((norms >= _NORM_MIN) & (norms <= _NORM_MAX))
        with np.errstate(all="ignore"):  # what overflows here is replaced by zero and an infinite bound
            values: Vectors = np.matmul(queries.unit, vectors.T)
            if queries.metric == "cosine":
                values /= norms
            elif queries.metric == "euclidean":
                values *= (2.0 * queries.lengths).astype(np.float32)[:, None]
                values -= norms * norms
        if self._unbounded is not None:
            values[:, self._unbounded] = 0.0
        if queries.unbounded is not None:
            values[queries.unbounded] = 0.0
        self.values = values

    def errors(self, query: int) -> Vectors | float:
        """Bound of the error of each key of one query: (m,), or one number for all."""
        queries = self._queries
        if queries.unbounded is not None and queries.unbounded[query]:
            return np.inf
        errors: Vectors
        if queries.metric == "cosine":
            if self._unbounded is None:
                return queries.error
            errors = np.full(self._norms.size, queries.error, np.float32)
        else:
            scale = np.float32(queries.error)
            with np.errstate(over="ignore"):
                errors = np.multiply(self._norms, scale)
                if queries.metric == "euclidean":
                    errors *= self._norms + np.float32(2.0 * queries.lengths[query])
        if self._unbounded is not None:
            errors[self._unbounded] = np.inf
        return errors


def scores(queries: Queries, query: int, vectors: Vectors) -> Scores:
    """Exact scores of one query against (m, d) float32 vectors: (m,) float64.

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
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0.0)
    return np.minimum(np.maximum(cosines, -1.0), 1.0)


def scores_of_rows(queries: Queries, query: int, chunk: Chunk, rows: RowNumbers) -> Scores:
    """Exact scores of one query against the given rows of a chunk, in blocks, so that memory is bounded."""
    step = max(1, EXACT_COMPONENTS_MAX // chunk.vectors.shape[1])
    if rows.size <= step:
        return scores(queries, query, chunk.vectors[rows])
    parts = [scores(queries, query, chunk.vectors[rows[at : at + step]]) for at in range(0, rows.size, step)]
    return np.concatenate(parts)


def scan(
    queries: Queries, chunk_view: ChunkView, base: int, selections: list[Selection], mask: Mask | None
) -> None:
    """Offers all live rows of a chunk, numbered from ``base``, to each query's selection; ``mask`` (rows,)
    restricts.
    """
    chunk = chunk_view.chunk
    step = _slice_rows(queries, chunk.vectors.shape[1])
    for start in range(0, chunk_view.rows, step):
        stop = min(start + step, chunk_view.rows)
        alive = chunk.deleted_at[start:stop] > chunk_view.offset
        if mask is not None:
            alive &= mask[start:stop]
        if not alive.any():
            continue
        keys = Keys(queries, chunk.vectors[start:stop], chunk.norms[start:stop])
        offered = None if alive.all() else alive
        for query, selection in enumerate(selections):
            selection.offer(base + start, keys.values[query], keys.errors(query), offered)


def scan_rows(
    queries: Queries, chunk: Chunk, rows: RowNumbers, base: int, selections: list[Selection]
) -> None:
    """Offers the given rows of a chunk (the caller vouches that they are live) to each query's selection."""
    step = _slice_rows(queries, chunk.vectors.shape[1])
    for start in range(0, rows.size, step):
        some = rows[start : start + step]
        keys = Keys(queries, chunk.vectors[some], chunk.norms[some])
        for query, selection in enumerate(selections):
            selection.offer(some + base, keys.values[query], keys.errors(query))


def _slice_rows(queries: Queries, dimension: int) -> int:
    return max(
        1, min(SLICE_ROWS_MAX, SLICE_COMPONENTS_MAX // dimension, BLOCK_KEYS_MAX // max(1, len(queries)))
    )


def _sums(matrix: Scores) -> Scores:
    sums: Scores = np.add.reduce(matrix, axis=1)
    return sums
