"""Graphs loaded from their files and queried, also by several threads at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gevent.threadpool import ThreadPool

from tests.unit.rows import ArrayChunk, chunked, clustered, gaussian, with_graph
from vectorizer.errors import DamageError
from vectorizer.index.build import GRAPH_FILE
from vectorizer.index.calibration import HOLDOUT_ROWS
from vectorizer.index.flat import Queries, distance_slack, ranks
from vectorizer.index.hnsw import Graph
from vectorizer.operations import METRICS, Metric

ROWS, DIMENSION = 3000, 24


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graph")


@pytest.fixture(scope="module")
def chunk(directory: Path) -> ArrayChunk:
    return with_graph(chunked(clustered(ROWS, DIMENSION, 1), [ROWS])[0], directory, "cosine")


@pytest.fixture(scope="module")
def graph(chunk: ArrayChunk) -> Graph:
    assert chunk.graph is not None
    return chunk.graph


def test_rows_keep_their_numbers_and_those_held_out_are_not_found(chunk: ArrayChunk, graph: Graph) -> None:
    held = set(graph.calibration.holdout)
    assert len(held) == HOLDOUT_ROWS and graph.rows == ROWS - HOLDOUT_ROWS
    for row in range(0, ROWS, 100):
        found = graph.query(chunk.vectors[row], 5, 200)
        assert found.dtype == np.int32
        assert (row in held) != (found[0] == row)
        assert not held.intersection(found.tolist())


def test_a_batch_gives_what_single_queries_give(graph: Graph) -> None:
    queries = clustered(20, DIMENSION, 2)
    batch = graph.query_batch(queries, 7, 50)
    assert [rows.tolist() for rows in batch] == [graph.query(query, 7, 50).tolist() for query in queries]


def test_memory_is_the_file(directory: Path, graph: Graph) -> None:
    assert graph.bytes == (directory / GRAPH_FILE).stat().st_size


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 17, 33])
def test_every_metric_and_dimension(metric: Metric, dimension: int, tmp_path: Path) -> None:
    """nmslib has its own code for dimensions that are multiples of 4 and 16."""
    [chunk] = chunked(gaussian(600, dimension, 3), [600])
    graph = with_graph(chunk, tmp_path, metric).graph
    assert graph is not None
    assert max(point.recall for point in graph.calibration.points) >= 0.98


def test_concurrent_queries_never_run_with_less_than_they_asked_for(graph: Graph) -> None:
    """A stream of tiny searches beside: the answers at a large ef stay what they are alone."""
    queries = gaussian(200, DIMENSION, 4)
    alone = [graph.query(query, 10, 300).tolist() for query in queries]
    stop: list[bool] = []

    def small() -> int:
        rounds = 0
        while not stop:
            graph.query(queries[0], 1, 1)
            assert len(graph.query_batch(queries[:5], 2, 2)) == 5
            rounds += 1
        return rounds

    pool = ThreadPool(3)  # native threads, also where gevent has patched threading
    running = [pool.spawn(small) for _ in range(3)]
    try:
        for _ in range(5):
            assert [graph.query(query, 10, 300).tolist() for query in queries] == alone
    finally:
        stop.append(True)
    assert all(result.get(timeout=30) > 0 for result in running)
    pool.kill()


def test_after_a_large_ef_a_small_one_is_small_again(graph: Graph) -> None:
    queries = gaussian(100, DIMENSION, 5)
    before = [graph.query(query, 3, 3).tolist() for query in queries]
    graph.query(queries[0], 10, 500)
    assert [graph.query(query, 3, 3).tolist() for query in queries] == before
    large = [graph.query(query, 3, 500).tolist() for query in queries]
    assert large != before, "ef makes no difference on these data: the test proves nothing"


def test_files_that_are_no_graph_are_damage(directory: Path, tmp_path: Path, graph: Graph) -> None:
    with pytest.raises(DamageError, match="cannot be loaded"):
        Graph.load(tmp_path / "missing", graph.calibration, "cosine", DIMENSION)
    cut = tmp_path / "cut"
    cut.write_bytes((directory / GRAPH_FILE).read_bytes()[:-1])
    with pytest.raises(
        DamageError, match=f"{graph.bytes - 1} bytes, the graph that was built has {graph.bytes}"
    ):
        Graph.load(cut, graph.calibration, "cosine", DIMENSION)


def test_importing_it_says_nothing() -> None:
    """nmslib's wheel talks about the processor; a server's log has no room for that."""
    program = "import vectorizer.index.hnsw, sys; sys.stderr.write('still there')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("", "still there")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_within_half_the_slack(tmp_path: Path, metric: Metric, scale: float) -> None:
    vectors = clustered(600, 128, 1) * np.float32(scale)
    [chunk] = chunked(vectors, [600])
    graph = with_graph(chunk, tmp_path, metric).graph
    assert graph is not None
    queries = Queries(metric, clustered(30, 128, 1) * np.float32(scale))
    for query in range(len(queries)):
        one = queries.one(query)
        rows, distances = graph.query_distances(one.raw[0], 20, 100)
        exact = ranks(one, 0, vectors, rows)
        exact = {"cosine": 1 + exact, "dot": exact, "euclidean": exact * exact}[metric]
        norm = float(chunk.norms[rows].max())
        for distance, truth in zip(distances.tolist(), exact.tolist(), strict=True):
            assert abs(distance - truth) <= distance_slack(one, distance, norm) / 2
