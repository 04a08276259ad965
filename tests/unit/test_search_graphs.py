"""Searches that ask several graphs: put together before they are scored, they answer as one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.rows import ArrayChunk, chunked, clustered, config_of, view_of, with_graph
from vectorizer.operations import METRICS, Metric
from vectorizer.search import search
from vectorizer.storage.chunk import LIVE, ChunkView

ROWS, DIMENSION = 1500, 24
QUERIES = clustered(60, DIMENSION, 1)


@pytest.fixture(scope="module", params=METRICS)
def indexed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Metric, list[ArrayChunk]]:
    """A metric, and three chunks whose graphs are always worth asking."""
    metric: Metric = request.param
    chunks = chunked(clustered(3 * ROWS, DIMENSION, 1), [ROWS] * 3)
    for chunk in chunks:
        with_graph(chunk, tmp_path_factory.mktemp("graph"), metric, ef_construction=60)
        assert chunk.graph is not None
        points = tuple(replace(point, query_us=1.0) for point in chunk.graph.calibration.points)
        chunk.graph.calibration = replace(
            chunk.graph.calibration, points=points, scan_us=1e6, batch_scan_us=1e6
        )
    return metric, chunks


@pytest.fixture
def graphs(indexed: tuple[Metric, list[ArrayChunk]]) -> Iterator[tuple[Metric, list[ArrayChunk]]]:
    """The same for one test that may delete rows."""
    yield indexed
    for chunk in indexed[1]:
        chunk.deleted_at[:] = LIVE


def check_one_by_one(metric: Metric, chunks: list[ArrayChunk], limit: int, **options: object) -> None:
    """A batch asks and ranks graph by graph; each of its queries alone must have the same answer."""
    growing = ArrayChunk([b"growing-%d" % row for row in range(40)], clustered(40, DIMENSION, 1), "s9")
    view = view_of(config_of(DIMENSION, metric, 0.9), *chunks, growing)
    together = search(view, QUERIES, limit, ef=200, **options)  # type: ignore[arg-type]
    alone = [search(view, query[None, :], limit, ef=200, **options)[0] for query in QUERIES]  # type: ignore[arg-type]
    assert alone == together
    assert len({hit.chunk.name for hits in alone for hit in hits}) > 1


@pytest.mark.parametrize("limit", [1, 10, 150, 2000])
def test_graphs_together_answer_as_one_by_one(graphs: tuple[Metric, list[ArrayChunk]], limit: int) -> None:
    check_one_by_one(*graphs, limit)


def test_with_dead_rows(graphs: tuple[Metric, list[ArrayChunk]]) -> None:
    """A few in one chunk, nearly all in another, so that its graph alone gives too little."""
    metric, chunks = graphs
    chance = np.random.default_rng(1).random(ROWS)
    chunks[0].deleted_at[chance < 0.1] = 1
    chunks[1].deleted_at[chance < 0.995] = 1
    check_one_by_one(metric, chunks, 10)


def test_with_a_filter(graphs: tuple[Metric, list[ArrayChunk]]) -> None:
    metric, chunks = graphs
    mask = np.random.default_rng(2).random(ROWS) < 0.6

    def matching(view: ChunkView) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return mask[: view.rows]

    check_one_by_one(metric, chunks, 10, matching=matching)


def test_rows_outside_of_each_graph_are_found(graphs: tuple[Metric, list[ArrayChunk]]) -> None:
    """Also when the chunks of a view change, as a merge changes them, and when such a row is dead."""
    metric, chunks = graphs
    for some in (chunks, chunks[:2], [chunks[0], chunks[2]], chunks):
        view = view_of(config_of(DIMENSION, metric, 0.9), *some)
        for chunk in some:
            assert chunk.graph is not None
            for row in chunk.graph.calibration.holdout[:20]:
                query = chunk.vectors[row : row + 1] * (1000 if metric == "dot" else 1)
                [alone], [one, _] = search(view, query, 10), search(view, np.repeat(query, 2, axis=0), 10)
                assert alone == one
                assert metric == "dot" or alone[0].id == chunk.ids[row]
    row = graphs[1][0].graph.calibration.holdout[0]  # type: ignore[union-attr]
    chunks[0].deleted_at[row] = 1
    view = view_of(config_of(DIMENSION, metric), *chunks)
    [hits] = search(view, chunks[0].vectors[row : row + 1], 10)
    assert chunks[0].ids[row] not in {hit.id for hit in hits}
