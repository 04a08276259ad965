"""Search: the best rows of a view, merged over its chunks.

Each chunk is searched in the cheapest way that keeps the promise: by its graph, where the calibration says
that this reaches the collection's recall for less than a scan costs, exactly otherwise. Rows that a graph
finds are scored exactly at once; rows that a scan sees are kept only if the bounds of their keys allow them
among the best, and scored exactly at the end. So a row's score never depends on where it lies or how it was
found.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from vectorizer.errors import validation
from vectorizer.index import flat, holdout
from vectorizer.index.flat import Queries, Scores, Selection
from vectorizer.lone_search import LoneSearch
from vectorizer.operations import Vectors
from vectorizer.storage.chunk import Chunk, View
from vectorizer.targets import (
    Candidate,
    Hit,
    Matching,
    Rows,
    Target,
    Way,
    hits_of,
    targets_of,
    way_through,
    ways_through,
)

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Found, Graph

BATCH_QUERIES_MIN = 8
"""From so many queries on, one pass of a scan serves them together (GEMM) at the calibration's batch price.
"""
BATCH_QUERIES_MAX = 64
"""Queries are searched in groups of so many, which bounds the memory of a search."""
FIXED_COST_US = 40
"""Everything around the search of a chunk."""


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
    targets = targets_of(view, matching)
    hits: list[list[Hit]] = []
    if len(queries) == 1:
        return [LoneSearch(view, targets, queries, limit, ef).hits(threshold)]
    for start in range(0, len(queries), BATCH_QUERIES_MAX):
        group = _Group(view, targets, queries[start : start + BATCH_QUERIES_MAX], limit, ef)
        hits.extend(group.hits(query, threshold) for query in range(len(group.queries)))
    return hits


def estimated_cost_us(view: View, n_queries: int, limit: int, ef: int | None = None) -> float:
    """About how many microseconds such a search takes without a filter, by one thread.

    Above 1,000 it belongs in a native thread, not on the event loop.
    """
    batch = n_queries >= BATCH_QUERIES_MIN
    cost_us = 0.0
    for chunk_view in view.chunks:
        cost_us += way_through(view, chunk_view, limit, ef, batch, chunk_view.rows).cost_us + FIXED_COST_US
    return n_queries * cost_us


class _Group:
    """A few queries on their way through the chunks.

    ``_ranked``: for each query the rows that are already scored exactly, by chunk. ``_selections``: those of
    which only bounds are known. Graphs are asked first: what they find raises the floor for the scans.
    """

    def __init__(
        self, view: View, targets: list[Target], vectors: Vectors, limit: int, ef: int | None
    ) -> None:
        self.queries = Queries(view.config.metric, vectors)
        self._targets = targets
        self._limit = limit
        self._selections = [Selection(limit) for _ in range(len(vectors))]
        self._ranked: list[list[tuple[Chunk, Rows, Scores]]] = [[] for _ in vectors]
        batch = len(vectors) >= BATCH_QUERIES_MIN
        asked, scans = ways_through(view, targets, limit, ef, batch)
        for target, way, graph in asked:
            self._ask_graph(target, way, graph)
        for target in scans:
            target.scan(self.queries, self._selections)

    def _ask_graph(self, target: Target, way: Way, graph: Graph) -> None:
        self._take_answers(target, way, graph, graph.query_batch(self.queries.raw, way.want, way.ef))

    def _take_answers(self, target: Target, way: Way, graph: Graph, answers: list[Found]) -> None:
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

    def _enough(self, query: int, answer: Found, target: Target, way: Way, graph: Graph) -> Found | None:
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
        worst: list[float] = []
        if width >= self._limit:
            worst = np.partition(ranks, self._limit - 1)[:, self._limit - 1].tolist()
        for query in range(count):
            self._ranked[query].append((chunk, found[query], ranks[query]))
            if worst:
                self._raise_floor(query, worst[query])

    def _add(self, query: int, chunk: Chunk, rows: Rows, ranks: Scores) -> None:
        self._ranked[query].append((chunk, rows, ranks))
        if ranks.size >= self._limit:
            self._raise_floor(query, float(np.partition(ranks, self._limit - 1)[self._limit - 1]))

    def _raise_floor(self, query: int, worst: float) -> None:
        """``worst``: as many rows as are wanted have this rank or a better one."""
        selection = self._selections[query]
        selection.floor = max(selection.floor, flat.floor_of_rank(self.queries, query, worst))

    def _add_holdout(self, target: Target, graph: Graph, asked: list[int]) -> None:
        """Rank those rows outside of the graph that may beat what it found: mostly none."""
        chunk = target.chunk_view.chunk
        rows, block = holdout.of(chunk, graph, self.queries.metric)
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

    def hits(self, query: int, threshold: float | None) -> list[Hit]:
        """The best rows of one query, cut by threshold and limit, in order."""
        ranked = self._ranked[query]
        numbers = self._selections[query].rows()
        for target in self._targets if numbers.size else ():
            some, chunk = target.own(numbers), target.chunk_view.chunk
            if some.size:
                ranked.append((chunk, some, flat.ranks(self.queries, query, chunk.vectors, some)))
        candidates: list[Candidate] = []
        for chunk, rows, ranks in ranked:
            candidates += zip(ranks.tolist(), rows.tolist(), repeat(chunk), strict=False)
        return hits_of(self.queries.metric, candidates, self._limit, threshold)
