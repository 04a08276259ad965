"""Search: the best rows of a view, merged over its chunks.

Each chunk is searched in the cheapest way that keeps the promise: by its graph, where the calibration says
that this reaches the collection's recall for less than a scan costs, exactly otherwise. Rows that a graph
finds are scored exactly at once; rows that a scan sees are kept only if the bounds of their keys allow them
among the best, and scored exactly at the end. So a row's score never depends on where it lies or how it was
found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from math import ceil
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vectorizer.errors import validation
from vectorizer.index import flat, holdout
from vectorizer.index.flat import Mask, Queries, Scores, Selection
from vectorizer.operations import Vectors
from vectorizer.storage.chunk import Chunk, ChunkView, View

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Distances, Found, Graph

Rows = npt.NDArray[np.integer[Any]]
Matching = Callable[[ChunkView], Mask | None]
"""The rows of a chunk that a filter lets through, (rows,) bool, or None for all."""

BATCH_QUERIES_MIN = 8
"""From so many queries on, one pass of a scan serves them together (GEMM) at the calibration's batch price.
"""
BATCH_QUERIES_MAX = 64
"""Queries are searched in groups of so many, which bounds the memory of a search."""
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
FIXED_COST_US = 40
"""Everything around the search of a chunk."""


class Hit(NamedTuple):
    """A found row. ``score``: cosine similarity, dot product, or euclidean distance."""

    id: bytes
    score: float
    chunk: Chunk
    row: int


class _Way(NamedTuple):
    """How one chunk is searched: by its graph with ``ef`` for ``want`` neighbours, or exactly (no graph)."""

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
    targets = _targets(view, matching)
    hits: list[list[Hit]] = []
    for start in range(0, len(queries), BATCH_QUERIES_MAX):
        group = _Group(view, targets, queries[start : start + BATCH_QUERIES_MAX], limit, ef)
        hits.extend(group.hits(query, threshold) for query in range(len(group.queries)))
    return hits


def estimated_cost_us(view: View, n_queries: int, limit: int, ef: int | None = None) -> float:
    """About how many microseconds such a search takes without a filter, by one thread.

    Above 1,000 it belongs in a native thread, not on the event loop.
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
    chosen = calibration.choose(view.config.recall, neighbours) if ef is None else max(ef, neighbours)
    if chosen is None:
        return _Way(exact_us)
    query_us = calibration.query_us(chosen)
    if query_us >= exact_us and (ef is None or matched < rows):
        return _Way(exact_us)
    return _Way(query_us, graph, min(neighbours + spare, max(neighbours, chosen)), chosen)


class _Target:
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


def _targets(view: View, matching: Matching | None) -> list[_Target]:
    targets, base = [], 0
    for chunk_view in view.chunks:
        if chunk_view.rows:
            targets.append(_Target(chunk_view, base, None if matching is None else matching(chunk_view)))
        base += chunk_view.rows
    return [target for target in targets if target.matched]


class _Group:
    """A few queries on their way through the chunks.

    ``_ranked``: for each query the rows that are already scored exactly, by chunk. ``_selections``: those of
    which only bounds are known. Graphs are asked first: what they find raises the floor for the scans.
    """

    def __init__(
        self, view: View, targets: list[_Target], vectors: Vectors, limit: int, ef: int | None
    ) -> None:
        self.queries = Queries(view.config.metric, vectors)
        self._targets = targets
        self._limit = limit
        self._selections = [Selection(limit) for _ in range(len(vectors))]
        self._ranked: list[list[tuple[Chunk, Rows, Scores]]] = [[] for _ in vectors]
        batch = len(vectors) >= BATCH_QUERIES_MIN
        scans: list[_Target] = []
        asked: list[tuple[_Target, _Way, Graph]] = []
        for target in targets:
            way = _way(view, target.chunk_view, limit, ef, batch, target.matched)
            if way.graph is None:
                scans.append(target)
            else:
                asked.append((target, way, way.graph))
        if len(asked) > 1 and len(vectors) == 1:
            self._ask_graphs(asked)
        else:
            for target, way, graph in asked:
                self._ask_graph(target, way, graph)
        for target in scans:
            self._scan(target)

    def _scan(self, target: _Target) -> None:
        chunk_view, base = target.chunk_view, target.base
        if target.mask is not None and target.matched * GATHER_COST < chunk_view.rows:
            rows = np.flatnonzero(target.mask)
            flat.scan_rows(self.queries, chunk_view.chunk, rows, base, self._selections)
        else:
            flat.scan(self.queries, chunk_view, base, self._selections, target.mask)

    def _ask_graphs(self, asked: list[tuple[_Target, _Way, Graph]]) -> None:
        """Ask several graphs for one query, and rank what they find together.

        Their own distances tell which rows can be among the best of all: only these are read and scored.
        """
        pooled: list[tuple[_Target, Graph]] = []
        parts: list[tuple[Chunk, Rows]] = []
        nears: list[Distances] = []
        for target, way, graph in asked:
            found, distances = graph.query_distances(self.queries.raw[0], way.want, way.ef)
            alive = None if target.all_alive else target.alive(found)
            if found.size < self._limit or (alive is not None and np.count_nonzero(alive) < self._limit):
                self._take_answers(target, way, graph, [found])
                continue
            pooled.append((target, graph))
            parts.append((target.chunk_view.chunk, found if alive is None else found[alive]))
            nears.append(distances if alive is None else distances[alive])
        if not pooled:
            return
        near = np.concatenate(nears)
        norm = (
            max(float(chunk.norms[rows].max()) for chunk, rows in parts)
            if self.queries.metric == "dot"
            else 1.0
        )
        worst = _nth(near, self._limit)
        dropped = near > worst + flat.distance_slack(self.queries, worst, norm)
        self._add_parts(_cut(parts, ~dropped))
        self._add_holdouts(pooled)

    def _add_parts(self, parts: list[tuple[Chunk, Rows]]) -> None:
        """Rank rows of several chunks for the only query."""
        ranks, start = flat.ranks_across(self.queries, 0, parts), 0
        for chunk, rows in parts:
            self._ranked[0].append((chunk, rows, ranks[start : start + rows.size]))
            start += rows.size
        self._raise_floor(0, ranks)

    def _ask_graph(self, target: _Target, way: _Way, graph: Graph) -> None:
        queries = self.queries
        if len(queries) == 1:
            answers = [graph.query(queries.raw[0], way.want, way.ef)]
        else:
            answers = graph.query_batch(queries.raw, way.want, way.ef)
        self._take_answers(target, way, graph, answers)

    def _take_answers(self, target: _Target, way: _Way, graph: Graph, answers: list[Found]) -> None:
        """Rank what the graph finds, and the rows that are not in it; where that is too little, scan."""
        chunk, queries = target.chunk_view.chunk, self.queries
        asked: list[int] = []
        if len(answers) > 1 and all(answer.size == way.want for answer in answers):
            together = np.concatenate(answers)
            if (
                target.all_alive or target.alive(together).all()
            ):  # the usual case: 10 us a query less than one by one
                self._rank_together(chunk, together.reshape(len(answers), way.want))
                asked, answers = list(range(len(answers))), []
        for query, answer in enumerate(answers):
            enough = self._enough(query, answer, target, way, graph)
            if enough is None:
                alone, selection = queries.one(query), self._selections[query]
                flat.scan(alone, target.chunk_view, target.base, [selection], target.mask)
            else:
                self._add(query, chunk, enough, flat.ranks(queries, query, chunk.vectors, enough))
                asked.append(query)
        if asked:
            self._add_holdout(target, graph, asked)

    def _enough(self, query: int, answer: Found, target: _Target, way: _Way, graph: Graph) -> Found | None:
        """The live rows of a graph's answer, asked for twice as many until they are enough; None: better
        scan.
        """
        want, ef = way.want, way.ef
        if target.all_alive and answer.size >= self._limit:
            return answer
        while True:
            alive = target.alive(answer)
            count = np.count_nonzero(alive)
            if count >= self._limit:
                return answer if count == answer.size else answer[alive]
            want, ef = 2 * want, 2 * ef
            if want > graph.rows or graph.calibration.query_us(ef) >= graph.calibration.scan_us:
                return None
            answer = graph.query(self.queries.raw[query], want, ef)

    def _rank_together(self, chunk: Chunk, found: Found) -> None:
        """Score the (n, m) rows found for all queries in one go."""
        count, width = found.shape
        whose = np.repeat(np.arange(count), width)
        ranks = flat.ranks(self.queries, whose, chunk.vectors, found.ravel()).reshape(count, width)
        for query in range(count):
            self._add(query, chunk, found[query], ranks[query])

    def _add(self, query: int, chunk: Chunk, rows: Rows, ranks: Scores) -> None:
        self._ranked[query].append((chunk, rows, ranks))
        self._raise_floor(query, ranks)

    def _raise_floor(self, query: int, ranks: Scores) -> None:
        if ranks.size >= self._limit:
            selection = self._selections[query]
            worst = _nth(ranks, self._limit)
            selection.floor = max(selection.floor, flat.floor_of_rank(self.queries, query, worst))

    def _add_holdout(self, target: _Target, graph: Graph, asked: list[int]) -> None:
        """Rank those rows outside of the graph that may beat what it found: mostly none."""
        chunk = target.chunk_view.chunk
        rows, block = holdout.of(chunk, graph)
        keys = flat.Keys(self.queries, block)
        highest = keys.values.max(axis=1).tolist()
        for query in asked:
            errors, floor = keys.errors(query), self._selections[query].floor
            if isinstance(errors, float) and highest[query] + errors < floor - 1e-6 * abs(floor):
                continue
            [better] = (keys.values[query] + errors >= floor).nonzero()
            if better.size:
                some = rows[better]
                some = some[target.alive(some)]
                self._add(query, chunk, some, flat.ranks(self.queries, query, chunk.vectors, some))

    def _add_holdouts(self, asked: list[tuple[_Target, Graph]]) -> None:
        """The same for the only query and several graphs, with one product for all their rows."""
        block = holdout.joined([(target.chunk_view.chunk, graph) for target, graph in asked])
        keys = flat.Keys(self.queries, block)
        better = keys.values[0] + keys.errors(0) >= self._selections[0].floor
        if not better.any():
            return
        held = [
            (target.chunk_view.chunk, holdout.of(target.chunk_view.chunk, graph)[0])
            for target, graph in asked
        ]
        targets = {target.chunk_view.chunk.name: target for target, _ in asked}
        living = [(chunk, rows[targets[chunk.name].alive(rows)]) for chunk, rows in _cut(held, better)]
        left = [(chunk, rows) for chunk, rows in living if rows.size]
        if left:
            self._add_parts(left)

    def hits(self, query: int, threshold: float | None) -> list[Hit]:
        """The best rows of one query, cut by threshold and limit, in order."""
        ranked = self._ranked[query]
        numbers = self._selections[query].rows()
        for target in self._targets if numbers.size else ():
            chunk_view = target.chunk_view
            inside = (numbers >= target.base) & (numbers < target.base + chunk_view.rows)
            if inside.any():
                some, chunk = numbers[inside] - target.base, chunk_view.chunk
                ranked.append((chunk, some, flat.ranks(self.queries, query, chunk.vectors, some)))
        if not ranked:
            return []
        found = sum(part[2].size for part in ranked)
        worst = float("inf")
        if found > self._limit:
            worst = _nth(np.concatenate([part[2] for part in ranked]), self._limit)
        sign = 1.0 if self.queries.metric == "euclidean" else -1.0
        if threshold is not None:
            worst = min(worst, sign * threshold)
        best: list[tuple[float, bytes, int, Chunk]] = []
        for chunk, rows, part_ranks in ranked:
            if worst < float("inf"):
                [kept] = (part_ranks <= worst).nonzero()
                if not kept.size:
                    continue
                rows, part_ranks = rows[kept], part_ranks[kept]
            places = rows.tolist()
            best += zip(part_ranks.tolist(), chunk.ids_at(places), places, repeat(chunk), strict=False)
        best.sort(key=_RANK_AND_ID)
        return [Hit(item, sign * rank + 0.0, chunk, row) for rank, item, row, chunk in best[: self._limit]]


_RANK_AND_ID = itemgetter(0, 1)


def _cut(parts: Sequence[tuple[Chunk, Rows]], kept: Mask) -> list[tuple[Chunk, Rows]]:
    """Those rows of each chunk that are kept, as one mask over all of them says; no chunk without any."""
    left: list[tuple[Chunk, Rows]] = []
    start = 0
    for chunk, rows in parts:
        some = rows[kept[start : start + rows.size]]
        if some.size:
            left.append((chunk, some))
        start += rows.size
    return left


def _nth(ranks: Scores | Distances, n: int) -> float:
    """The n-th best of them."""
    ordered = ranks.copy()
    ordered.partition(n - 1)
    return float(ordered[n - 1])
