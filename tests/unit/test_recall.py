"""The promise of the collection's ``recall``: at least so much of the true ten nearest is found for unseen
queries.

Each case builds a graph as the server does and asks it for neighbours of vectors that are in neither the
graph nor the collection. Where the data have structure the graph must be what answers; on Gaussian data the
scan may win.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.rows import (
    ArrayChunk,
    chunked,
    clustered,
    config_of,
    gaussian,
    low_dimensional,
    view_of,
    with_graph,
)
from vectorizer.operations import METRICS, Metric, Vectors
from vectorizer.search import search
from vectorizer.targets import Hit

Data = Callable[[int, int, int], Vectors]
QUERIES = 1000
EF_MAX = 64
"""Candidates of a graph that is worth asking: the scan looks at all rows."""


def measured_recall(
    chunk: ArrayChunk, metric: Metric, target: float, queries: Vectors, exact: list[list[Hit]]
) -> float:
    """Recall@10 of the search against the exact answers, by ids."""
    view = view_of(config_of(queries.shape[1], metric, target), chunk)
    found = [search(view, query[None, :], 10)[0] for query in queries]
    pairs = zip(found, exact, strict=True)
    return float(np.mean([len({hit.id for hit in a} & {hit.id for hit in b}) / 10 for a, b in pairs]))


def check(
    directory: Path, data: Data, metric: Metric, rows: int, dimension: int, graph_must_win: bool
) -> None:
    vectors = data(rows + QUERIES, dimension, 1)
    [chunk] = chunked(np.ascontiguousarray(vectors[:rows]), [rows])
    exact = search(view_of(config_of(dimension, metric), chunk), vectors[rows:], 10)
    with_graph(chunk, directory, metric, ef_construction=100)
    assert chunk.graph is not None
    calibration = chunk.graph.calibration
    for target in (0.8, 0.95, 0.99):
        assert measured_recall(chunk, metric, target, vectors[rows:], exact) >= target, calibration.points
        if graph_must_win and target <= 0.95:
            # By what it looks at: times measured on a busy machine may favour either.
            reaching = [point.ef for point in calibration.points if point.safe_recall >= target]
            assert reaching and reaching[0] <= EF_MAX, calibration


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("data", "graph_must_win"),
    [(clustered, True), (low_dimensional, True), (gaussian, False)],
    ids=["clustered", "between", "gaussian"],
)
def test_recall_of_unseen_queries_reaches_the_target(
    tmp_path: Path, data: Data, graph_must_win: bool, metric: Metric
) -> None:
    check(tmp_path, data, metric, 12_000, 64, graph_must_win)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fifty_thousand_rows_of_128_dimensions(tmp_path: Path) -> None:
    check(tmp_path, low_dimensional, "cosine", 50_000, 128, graph_must_win=True)
