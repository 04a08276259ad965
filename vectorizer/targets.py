"""What a search looks at: chunks with the rows that count, and the cheapest way through each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from vectorizer.index import flat
from vectorizer.index.flat import Mask, Queries, Selection
from vectorizer.operations import Metric
from vectorizer.storage.chunk import Chunk, ChunkView, View

if TYPE_CHECKING:
    from vectorizer.index.calibration import Calibration
    from vectorizer.index.hnsw import Graph

Rows = npt.NDArray[np.integer[Any]]
Matching = Callable[[ChunkView], Mask | None]
"""The rows of a chunk that a filter lets through, (rows,) bool, or None for all."""

SPARE_NEIGHBOURS = 6
"""Neighbours asked of a graph beyond the limit where some rows are dead or filtered out: cheaper than a
second query (each costs about 2 us), as long as ef is larger.
"""
GATHER_COST = 3
"""Reading single rows costs so many times what reading them in sequence does."""
SCAN_COMPONENTS_PER_US = 5_000
"""Speed of a scan where no calibration has measured it: 20 GB/s from cache, 7 from memory; cautious is 20 us
per MB.
"""
_KEPT_WAYS = "ways"
_KEPT_WAYS_MAX = 64


class Hit(NamedTuple):
    """A found row. ``score``: cosine similarity, dot product, or euclidean distance."""

    id: bytes
    score: float
    chunk: Chunk
    row: int


Candidate = tuple[float, int, Chunk]
"""Rank, row and chunk of a row that is scored exactly."""


class Way(NamedTuple):
    """How one chunk is searched: by its graph with ``ef`` for ``want`` neighbours, or exactly (no graph)."""

    cost_us: float
    """Of one query."""
    graph: Graph | None = None
    want: int = 0
    ef: int = 0


def way_through(
    view: View, chunk_view: ChunkView, limit: int, ef: int | None, batch: bool, matched: int
) -> Way:
    """The cheapest way to search a chunk of which ``matched`` rows pass the filter."""
    chunk, rows = chunk_view.chunk, chunk_view.rows
    graph = chunk.graph
    if graph is None or graph.rows + len(graph.calibration.holdout) != rows:
        return Way(rows * chunk.vectors.shape[1] / SCAN_COMPONENTS_PER_US)
    if ef is not None or matched < rows or chunk.dead_rows:
        return _way_by_graph(view.config.recall, chunk_view, graph, limit, ef, batch, matched)
    # The usual way is kept with the chunk: 3 us, twice in each search, instead of 7.
    kept = cast("dict[Any, tuple[Calibration, Way]]", chunk.cache.setdefault(_KEPT_WAYS, {}))
    key = (view.config.recall, limit, batch)
    found = kept.get(key)
    if found is None or found[0] is not graph.calibration:
        if len(kept) >= _KEPT_WAYS_MAX:
            kept.clear()
        way = _way_by_graph(view.config.recall, chunk_view, graph, limit, None, batch, matched)
        found = kept[key] = graph.calibration, way
    return found[1]


def _way_by_graph(
    recall: float, chunk_view: ChunkView, graph: Graph, limit: int, ef: int | None, batch: bool, matched: int
) -> Way:
    chunk, rows, calibration = chunk_view.chunk, chunk_view.rows, graph.calibration
    exact_us = calibration.batch_scan_us if batch else calibration.scan_us
    neighbours, spare = limit, SPARE_NEIGHBOURS
    if matched < rows:
        exact_us = min(exact_us, exact_us * GATHER_COST * matched / rows)
        # Of w neighbours w * matched/rows are expected to match; half as many more, so that mostly one query
        # is enough.
        neighbours = ceil(1.5 * limit * rows / matched)
    elif chunk.dead_rows:
        neighbours = ceil(limit * rows / max(1, rows - chunk.dead_rows))
    else:
        spare = 0
    chosen = calibration.choose(recall, neighbours) if ef is None else max(ef, neighbours)
    if chosen is None:
        return Way(exact_us)
    query_us = calibration.query_us(chosen)
    if query_us >= exact_us and (ef is None or matched < rows):
        return Way(exact_us)
    return Way(query_us, graph, min(neighbours + spare, max(neighbours, chosen)), chosen)


class Target:
    """A chunk to be searched: its rows are numbered from ``base``; those that match a filter are masked."""

    __slots__ = ("base", "chunk_view", "mask", "matched")

    def __init__(self, chunk_view: ChunkView, base: int, mask: Mask | None) -> None:
        self.chunk_view = chunk_view
        self.base = base
        self.mask = mask
        """Rows that match and are live, None for all."""
        self.matched = chunk_view.rows
        """How many rows can be found at most."""
        if mask is not None:
            self.mask = mask & chunk_view.live if chunk_view.chunk.dead_rows else mask
            self.matched = int(np.count_nonzero(self.mask))

    @property
    def all_alive(self) -> bool:
        """Whether every row is live and matches: a row that the view sees as dead was counted before it was
        made.
        """
        return self.mask is None and not self.chunk_view.chunk.dead_rows

    def alive(self, rows: Rows) -> Mask:
        """Which of these rows are live and match."""
        chunk_view = self.chunk_view
        living: Mask = (
            chunk_view.chunk.deleted_at[rows] > chunk_view.offset if self.mask is None else self.mask[rows]
        )
        return living

    def scan(self, queries: Queries, selections: list[Selection]) -> None:
        """Offer all rows that count to the queries' selections."""
        chunk_view = self.chunk_view
        if self.mask is not None and self.matched * GATHER_COST < chunk_view.rows:
            rows = np.flatnonzero(self.mask)
            flat.scan_rows(queries, chunk_view.chunk, rows, self.base, selections)
        else:
            flat.scan(queries, chunk_view, self.base, selections, self.mask)

    def own(self, numbers: Rows) -> Rows:
        """Those of the numbers that are of this chunk, as its rows."""
        inside = (numbers >= self.base) & (numbers < self.base + self.chunk_view.rows)
        rows: Rows = numbers[inside] - self.base
        return rows


def targets_of(view: View, matching: Matching | None) -> list[Target]:
    """The chunks of a view in which anything can be found."""
    targets, base = [], 0
    for chunk_view in view.chunks:
        if chunk_view.rows:
            target = Target(chunk_view, base, None if matching is None else matching(chunk_view))
            if target.matched:
                targets.append(target)
        base += chunk_view.rows
    return targets


def ways_through(
    view: View, targets: Sequence[Target], limit: int, ef: int | None, batch: bool
) -> tuple[list[tuple[Target, Way, Graph]], list[Target]]:
    """The targets whose graph is asked, with it and the way, and those that are scanned."""
    asked: list[tuple[Target, Way, Graph]] = []
    scans: list[Target] = []
    for target in targets:
        way = way_through(view, target.chunk_view, limit, ef, batch, target.matched)
        if way.graph is None:
            scans.append(target)
        else:
            asked.append((target, way, way.graph))
    return asked, scans


def hits_of(metric: Metric, best: list[Candidate], limit: int, threshold: float | None) -> list[Hit]:
    """The best of the candidates, cut by threshold and limit, in order. Sorts them."""
    sign = 1.0 if metric == "euclidean" else -1.0
    best.sort(key=_RANK)
    if threshold is not None:
        best = [candidate for candidate in best if candidate[0] <= sign * threshold]
    if len(best) > limit:
        worst = best[limit - 1][0]
        best = [candidate for candidate in best if candidate[0] <= worst]
    if not best:
        return []
    ranks, rows, chunks = zip(*best, strict=True)
    scores = [sign * rank + 0.0 for rank in ranks]
    hits = list(map(Hit, _ids(chunks, rows), scores, chunks, rows))
    if len(set(ranks)) < len(ranks):  # ties by id
        hits.sort(key=lambda hit: (sign * hit.score, hit.id))
    return hits if len(hits) <= limit else hits[:limit]


_RANK = itemgetter(0)


def _ids(chunks: Sequence[Chunk], rows: Sequence[int]) -> list[bytes]:
    """The ids of these rows, each of its chunk; those of one chunk, the usual case, are read together."""
    first = chunks[0]
    if all(chunk is first for chunk in chunks):
        return first.ids_at(rows)
    return [chunk.id_at(row) for chunk, row in zip(chunks, rows, strict=True)]
