"""Search: the best rows of a view, merged over its chunks.

Each chunk is searched in the cheapest way that keeps the promise: by its graph, where the calibration says
that this reaches the collection's recall for less than a scan costs, exactly otherwise. Whatever way, rows
are only *offered* with bounds of their keys; one selection a query keeps those that can be among the best of
all chunks, and these few are scored exactly. So a row's score never depends on where it lies or how it was
found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vectorizer.errors import validation
from vectorizer.index import flat
from vectorizer.index.flat import Mask, Queries, RowNumbers, Selection
from vectorizer.operations import Vectors
from vectorizer.storage.chunk import Chunk, ChunkView, View

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Graph

Matching = Callable[[ChunkView], Mask | None]
"""The rows of a chunk that a filter lets through, (rows,) bool, or None for all."""

BATCH_QUERIES_MIN = 8
"""From so many queries on, one pass of a scan serves them together (GEMM) at the calibration's batch price.
"""
BATCH_QUERIES_MAX = 64
"""Queries are searched in groups of so many, which bounds the memory of a search."""
SPARE_NEIGHBOURS = 6
"""Neighbours asked of a graph beyond the limit: free as long as ef is larger, and a few dead ones cost no
second query.
"""
GATHER_COST = 3
"""Reading single rows costs so many times what reading them in sequence does."""
SCAN_COMPONENTS_PER_US = 5_000
"""Speed of a scan where no calibration has measured it: 20 GB/s from cache, 7 from memory; cautious is 20 us
per MB.
"""
FIXED_COST_US = 40
"""Everything around the search of a chunk."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A found row. ``score``: cosine similarity, dot product, or euclidean distance."""

    id: bytes
    score: float
    chunk: Chunk
    row: int


@dataclass(frozen=True, slots=True)
class _Way:
    """How one chunk is searched: by its graph with ``ef`` for ``want`` neighbours, or exactly (``graph`` is
    None).
    """

    cost_us: float
    """Of one query."""
    graph: Graph | None = None
    want: int = 0
    ef: int = 0


def search(
    view: View,
    queries: Vectors,
    limit: int,
    *,
    threshold: float | None = None,
    ef: int | None = None,
    matching: Matching | None = None,
) -> list[list[Hit]]:
    """For each of (n, d) float32 queries up to ``limit`` live rows, best first, ties by id.

    ``threshold`` drops what is worse (a lower similarity or product, a larger distance). ``ef`` overrides the
    choice that follows from the collection's recall. May run in a native thread. Raises RequestError for
    shapes that do not fit.
    """
    if queries.ndim != 2 or queries.shape[1] != view.config.dimension:
        raise validation(f"queries of shape {queries.shape} do not fit dimension {view.config.dimension}")
    if limit < 1:
        raise validation(f"limit is {limit}, it must be at least 1")
    masks = None if matching is None else [matching(chunk_view) for chunk_view in view.chunks]
    hits: list[list[Hit]] = []
    for start in range(0, len(queries), BATCH_QUERIES_MAX):
        group = Queries(view.config.metric, queries[start : start + BATCH_QUERIES_MAX])
        selections = [Selection(limit) for _ in range(len(group))]
        base = 0
        for number, chunk_view in enumerate(view.chunks):
            if chunk_view.rows:
                mask = None if masks is None else masks[number]
                _offer_chunk(view, chunk_view, group, base, selections, limit, ef, mask)
            base += chunk_view.rows
        hits.extend(
            _hits(view, group, query, selections[query], limit, threshold) for query in range(len(group))
        )
    return hits


def estimated_cost_us(view: View, n_queries: int, limit: int, ef: int | None = None) -> float:
    """About how many microseconds such a search takes without a filter: above 1,000 it belongs in a native
    thread.
    """
    batch = n_queries >= BATCH_QUERIES_MIN
    ways = (_way(view, chunk_view, limit, ef, batch, chunk_view.rows) for chunk_view in view.chunks)
    return n_queries * sum(way.cost_us + FIXED_COST_US for way in ways)


def _way(view: View, chunk_view: ChunkView, limit: int, ef: int | None, batch: bool, matched: int) -> _Way:
    """The cheapest way to search a chunk of which ``matched`` rows pass the filter."""
    chunk, rows = chunk_view.chunk, chunk_view.rows
    graph = chunk.graph
    if graph is None or graph.rows + len(graph.calibration.holdout) != rows:
        return _Way(rows * chunk.vectors.shape[1] / SCAN_COMPONENTS_PER_US)
    calibration = graph.calibration
    exact_us = calibration.batch_scan_us if batch else calibration.scan_us
    exact_us = min(exact_us, exact_us * GATHER_COST * matched / rows)
    # Of w neighbours w * matched/rows are expected to match; half as many more, so that mostly one query is
    # enough.
    neighbours = limit if matched == rows else ceil(1.5 * limit * rows / max(1, matched))
    chosen = calibration.choose(view.config.recall, neighbours, batch) if ef is None else max(ef, neighbours)
    if chosen is None:
        return _Way(exact_us)
    query_us = calibration.query_us(chosen)
    if query_us >= exact_us and (ef is None or matched < rows):
        return _Way(exact_us)
    return _Way(query_us, graph, min(neighbours + SPARE_NEIGHBOURS, max(neighbours, chosen)), chosen)


def _offer_chunk(
    view: View,
    chunk_view: ChunkView,
    queries: Queries,
    base: int,
    selections: list[Selection],
    limit: int,
    ef: int | None,
    mask: Mask | None,
) -> None:
    """Offer a chunk's rows, or enough of them, to each query's selection."""
    rows: RowNumbers | None = None
    matched = chunk_view.rows
    if mask is not None:
        rows = np.flatnonzero(mask & chunk_view.live)
        matched = rows.size
        if not matched:
            return
    way = _way(view, chunk_view, limit, ef, len(queries) >= BATCH_QUERIES_MIN, matched)
    if way.graph is not None:
        _offer_graph(way, chunk_view, queries, base, selections, limit, mask)
    elif rows is not None and matched * GATHER_COST < chunk_view.rows:
        flat.scan_rows(queries, chunk_view.chunk, rows, base, selections)
    else:
        flat.scan(queries, chunk_view, base, selections, mask)


def _offer_graph(
    way: _Way,
    chunk_view: ChunkView,
    queries: Queries,
    base: int,
    selections: list[Selection],
    limit: int,
    mask: Mask | None,
) -> None:
    """Offer what the graph finds, and the rows that are not in it; where it finds too few live rows, all
    rows.
    """
    assert way.graph is not None
    chunk = chunk_view.chunk
    if len(queries) == 1:
        answers = [way.graph.query(queries.raw[0], way.want, way.ef)]
    else:
        answers = way.graph.query_batch(queries.raw, way.want, way.ef)
    held_rows, held_vectors, held_norms = _holdout(chunk_view, way.graph)
    held_alive = chunk.deleted_at[held_rows] > chunk_view.offset
    if mask is not None:
        held_alive &= mask[held_rows]
    held_keys = flat.Keys(queries, held_vectors, held_norms)
    for query, selection in enumerate(selections):
        alone = queries.one(query)
        found = _enough(way, chunk_view, alone, answers[query], limit, mask)
        if found is None:
            flat.scan(alone, chunk_view, base, [selection], mask)
            continue
        flat.scan_rows(alone, chunk, found, base, [selection])
        selection.offer(held_rows + base, held_keys.values[query], held_keys.errors(query), held_alive)


def _enough(
    way: _Way,
    chunk_view: ChunkView,
    query: Queries,
    answer: npt.NDArray[np.int32],
    limit: int,
    mask: Mask | None,
) -> RowNumbers | None:
    """The live rows of a graph's answer, asked for twice as many until they are enough; None if a scan is
    cheaper.
    """
    assert way.graph is not None
    calibration = way.graph.calibration
    want, ef = way.want, way.ef
    while True:
        alive = chunk_view.chunk.deleted_at[answer] > chunk_view.offset
        if mask is not None:
            alive &= mask[answer]
        if np.count_nonzero(alive) >= limit:
            return answer[alive].astype(np.int64)
        want, ef = 2 * want, 2 * ef
        if want >= way.graph.rows or calibration.query_us(ef) >= calibration.scan_us:
            return None
        answer = way.graph.query(query.raw[0], want, ef)


def _holdout(chunk_view: ChunkView, graph: Graph) -> tuple[RowNumbers, Vectors, npt.NDArray[np.float32]]:
    """The rows that are not in the graph, with their vectors and norms side by side (kept with the chunk: 256
    rows).
    """
    cache = chunk_view.chunk.cache
    kept = cache.get("search.holdout")
    if kept is None:
        rows = np.array(graph.calibration.holdout, np.int64)
        kept = cache["search.holdout"] = (rows, chunk_view.chunk.vectors[rows], chunk_view.chunk.norms[rows])
    return kept  # type: ignore[return-value]


def _hits(
    view: View, queries: Queries, query: int, selection: Selection, limit: int, threshold: float | None
) -> list[Hit]:
    """The selection's rows scored exactly, cut by threshold and limit, in order."""
    numbers = selection.rows()
    distances = queries.metric == "euclidean"
    ranked: list[tuple[float, bytes, int, Chunk]] = []
    parts: list[tuple[Chunk, RowNumbers, flat.Scores]] = []
    base = 0
    for chunk_view in view.chunks:
        rows = numbers[(numbers >= base) & (numbers < base + chunk_view.rows)] - base
        base += chunk_view.rows
        if rows.size:
            scores = flat.scores_of_rows(queries, query, chunk_view.chunk, rows)
            parts.append((chunk_view.chunk, rows, scores if distances else -scores))
    if not parts:
        return []
    ranks = np.concatenate([part[2] for part in parts])
    worst = np.partition(ranks, limit - 1)[limit - 1] if ranks.size > limit else np.inf
    if threshold is not None:
        worst = min(worst, threshold if distances else -threshold)
    for chunk, rows, part_ranks in parts:
        for place in np.flatnonzero(part_ranks <= worst).tolist():
            row = int(rows[place])
            ranked.append((float(part_ranks[place]), chunk.id_at(row), row, chunk))
    ranked.sort(key=lambda entry: entry[:2])
    sign = 1.0 if distances else -1.0
    return [Hit(item, sign * rank + 0.0, chunk, row) for rank, item, row, chunk in ranked[:limit]]
