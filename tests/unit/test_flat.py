"""Exact search: scores that depend on nothing but the bytes, and bounds that never lose a row."""

from __future__ import annotations

from math import fsum, sqrt

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.rows import ArrayChunk, chunked, clustered, gaussian
from vectorizer.index import flat
from vectorizer.index.flat import Block, Keys, Queries, Selection
from vectorizer.operations import METRICS, Metric, Vectors
from vectorizer.storage.chunk import ChunkView

metrics = pytest.mark.parametrize("metric", METRICS)


def exact_score(metric: Metric, query: Vectors, row: Vectors) -> float:
    """Correctly rounded sums, one component after the other."""
    pairs = [(float(q), float(x)) for q, x in zip(query, row, strict=True)]
    if metric == "euclidean":
        return sqrt(fsum((q - x) ** 2 for q, x in pairs))
    product = fsum(q * x for q, x in pairs)
    if metric == "dot":
        return product
    lengths = sqrt(fsum(q * q for q, _ in pairs)) * sqrt(fsum(x * x for _, x in pairs))
    return product / lengths if lengths else 0.0


def all_scores(queries: Queries, query: int, chunk: ArrayChunk) -> dict[int, float]:
    """The exact kernel on every row, one at a time."""
    return {
        row: float(flat.scores(queries, query, chunk.vectors[row : row + 1])[0])
        for row in range(len(chunk.ids))
    }


def selected(queries: Queries, chunk: ArrayChunk, k: int) -> list[set[int]]:
    """Rows that a scan leaves for each query."""
    selections = [Selection(k) for _ in range(len(queries))]
    flat.scan(queries, ChunkView(chunk, len(chunk.ids), 1), 0, selections, None)
    return [set(selection.rows().tolist()) for selection in selections]


def must_select(queries: Queries, query: int, chunk: ArrayChunk, k: int) -> set[int]:
    """The best k rows with all ties of the k-th."""
    sign = -1.0 if queries.metric == "euclidean" else 1.0
    keys = {row: sign * score for row, score in all_scores(queries, query, chunk).items()}
    worst = sorted(keys.values(), reverse=True)[: max(1, k)][-1]
    return {row for row, key in keys.items() if key >= worst}


@metrics
@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 8, 9, 64, 127, 128, 129, 300, 1536])
def test_scores_are_right_and_do_not_depend_on_the_rows_beside_them(metric: Metric, dimension: int) -> None:
    rows, queries = gaussian(301, dimension, 1), Queries(metric, gaussian(3, dimension, 2))
    together = flat.scores(queries, 2, rows)
    for count in (1, 2, 3, 5, 8, 17):
        for start in (0, 1, 100, 301 - count):
            part = flat.scores(queries, 2, np.ascontiguousarray(rows[start : start + count]))
            assert part.tobytes() == together[start : start + count].tobytes()
    for row in (0, 7, 300):
        assert together[row] == pytest.approx(
            exact_score(metric, queries.raw[2], rows[row]), rel=1e-12, abs=1e-12
        )


@metrics
def test_ranks_of_many_rows_come_in_blocks_with_the_same_result(metric: Metric) -> None:
    vectors = gaussian(300, 1024, 1)
    queries, rows = Queries(metric, gaussian(2, 1024, 2)), np.arange(299, -1, -1)
    assert vectors.size > flat.EXACT_COMPONENTS_MAX
    sign = 1.0 if metric == "euclidean" else -1.0
    expected = [sign * flat.scores(queries, query, vectors)[::-1] for query in range(2)]
    assert flat.ranks(queries, 1, vectors, rows).tobytes() == expected[1].tobytes()
    each_its_own = flat.ranks(queries, rows % 2, vectors, rows)
    assert each_its_own.tobytes() == np.where(rows % 2, expected[1], expected[0]).tobytes()


@metrics
@pytest.mark.parametrize("count", [1, 10, flat.FEW_ROWS, flat.FEW_ROWS + 1])
def test_ranks_of_the_only_query_are_the_same_bit_by_bit(metric: Metric, count: int) -> None:
    vectors = np.concatenate([gaussian(count, 37, 3), np.zeros((1, 37), np.float32)])
    chunk = ArrayChunk([b"%d" % row for row in range(len(vectors))], vectors, "s0")
    rows = np.arange(len(vectors) - 1, -1, -1)
    for query in (gaussian(1, 37, 4), vectors[:1], -vectors[:1]):
        queries = Queries(metric, query)
        expected = flat.ranks(queries, 0, vectors, rows)
        for cut in (0, len(rows) // 2):
            found = flat.ranks_of_one(queries, [(chunk, rows[:cut]), (chunk, rows[cut:])])
            assert np.array(found).tobytes() == expected.tobytes()


def test_cosine_is_zero_for_a_zero_vector_and_never_outside_its_range() -> None:
    rows = np.array([[0, 0], [3, 4], [-3, -4], [1e-38, 0]], np.float32)
    assert flat.scores(Queries("cosine", rows[1:2]), 0, rows).tolist() == [0.0, 1.0, -1.0, pytest.approx(0.6)]
    assert flat.scores(Queries("cosine", rows[:1]), 0, rows).tolist() == [0.0] * 4
    many = gaussian(500, 3, 5)
    for query in range(0, 500, 50):
        cosines = flat.scores(Queries("cosine", many), query, np.concatenate([many, -many]))
        assert cosines.max() <= 1.0 and cosines.min() >= -1.0


@metrics
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("dimension", [1, 16, 128, 2000])
def test_bounds_hold(metric: Metric, dimension: int, scale: float) -> None:
    """The true key lies within its bounds, for data of all sizes, also mixed."""
    rows = gaussian(400, dimension, 3) * np.float32(scale)
    rows[::3] *= np.float32(1000)
    [chunk] = chunked(rows, [400])
    queries = Queries(metric, gaussian(4, dimension, 4) * np.float32(scale))
    keys = Keys(queries, Block(chunk.vectors, chunk.norms))
    wide = rows.astype(np.float64)
    for query in range(4):
        products = wide @ queries.exact[query]
        if metric == "cosine":
            true = products / (np.linalg.norm(wide, axis=1) * queries.lengths[query])
        elif metric == "dot":
            true = products / queries.lengths[query]
        else:
            true = 2 * products - (wide * wide).sum(axis=1)
        wrong = np.abs(keys.values[query].astype(np.float64) - true)
        assert (wrong <= keys.errors(query)).all()


@metrics
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_no_key_of_a_row_as_good_is_below_the_floor_of_its_rank(
    metric: Metric, scale: float, offset: float
) -> None:
    """What a graph found, turned into a floor for scans: rows of that rank and better pass it."""
    rows = ((gaussian(300, 16, 5) + np.float32(offset)) * np.float32(scale)).astype(np.float32)
    rows[::10] *= np.float32(1e-6)
    [chunk] = chunked(rows, [300])
    queries = Queries(metric, rows[100:103] * np.float32(1.01))
    keys = Keys(queries, Block(chunk.vectors, chunk.norms))
    for query in range(3):
        ranks = flat.ranks(queries, query, rows, np.arange(300))
        upper = keys.values[query].astype(np.float64) + keys.errors(query)
        for rank in np.sort(ranks)[[0, 1, 9, 150, 299]].tolist():
            floor = np.float32(flat.floor_of_rank(queries, query, rank))
            assert (upper[ranks <= rank] >= floor).all()
    assert flat.floor_of_rank(Queries("dot", np.zeros((1, 16), np.float32)), 0, -1.0) == -np.inf


@metrics
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_a_scan_leaves_the_best_and_little_else(metric: Metric, count: int, k: int) -> None:
    [chunk] = chunked(clustered(700, 32, 7), [700])
    queries = Queries(metric, clustered(count, 32, 8))
    for query, rows in enumerate(selected(queries, chunk, k)):
        expected = must_select(queries, query, chunk, k)
        assert expected <= rows
        assert len(rows) <= len(expected) + 20


@metrics
def test_rows_that_float32_cannot_tell_apart_are_all_kept(metric: Metric) -> None:
    """Differences of one unit in the last place, far from the origin: BLAS sees noise, the bounds know it."""
    generator = np.random.default_rng(9)
    rows = np.full((600, 64), 1000.0, np.float32)
    rows.view(np.int32)[...] += generator.integers(0, 3, rows.shape, dtype=np.int32)
    [chunk] = chunked(rows, [600])
    queries = Queries(metric, rows[:3] * np.float32(1.001))
    for query, found in enumerate(selected(queries, chunk, 10)):
        assert must_select(queries, query, chunk, 10) <= found


@metrics
def test_ties_with_the_last_are_all_kept(metric: Metric) -> None:
    rows = np.repeat(gaussian(40, 16, 10), 25, axis=0)
    [chunk] = chunked(rows, [1000])
    queries = Queries(metric, rows[:1])
    expected = must_select(queries, 0, chunk, 10)
    assert len(expected) == 25
    assert expected <= selected(queries, chunk, 10)[0]


@metrics
def test_extreme_sizes_are_looked_at_exactly(metric: Metric) -> None:
    """Norms whose squares or quotients leave float32, zero vectors, and a query as long."""
    rows = gaussian(64, 8, 11)
    rows[::4] *= np.float32(1e37)
    rows[1::4] *= np.float32(1e-37)
    rows[2::8] = 0.0
    [chunk] = chunked(rows, [64])
    for scale in (1.0, 1e37, 1e-37, 0.0):
        queries = Queries(metric, gaussian(2, 8, 12) * np.float32(scale))
        for query, found in enumerate(selected(queries, chunk, 5)):
            assert must_select(queries, query, chunk, 5) <= found


@metrics
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 80), dimension=st.integers(1, 9), k=st.integers(1, 90)
)
@example(seed=0, rows=9, dimension=1, k=2)  # a query so long that rows of different keys have one score
def test_nothing_is_lost_whatever_the_numbers(
    metric: Metric, seed: int, rows: int, dimension: int, k: int
) -> None:
    """Few distinct small whole numbers make many ties; random bit patterns make all sizes."""
    generator = np.random.default_rng(seed)
    if seed % 2:
        vectors = generator.integers(-2, 3, (rows + 2, dimension)).astype(np.float32)
    else:
        patterns = generator.integers(0, 2**32, (rows + 2, dimension), dtype=np.uint32).view(np.float32)
        vectors = np.where(np.isfinite(patterns), patterns, np.float32(1))
    [chunk] = chunked(vectors[2:], [rows])
    queries = Queries(metric, vectors[:2])
    for query, found in enumerate(selected(queries, chunk, k)):
        assert must_select(queries, query, chunk, min(k, rows)) <= found


def test_a_scan_skips_dead_and_masked_rows_and_goes_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "SLICE_ROWS_MAX", 64)
    [chunk] = chunked(gaussian(1000, 4, 13), [1000])
    chunk.deleted_at[::3] = 1
    chunk.deleted_at[1::3] = 2  # after the view
    chunk.deleted_at[64:128] = 1  # a whole slice
    mask = np.arange(1000) % 2 == 0
    queries, selection = Queries("euclidean", gaussian(1, 4, 14)), Selection(2000)
    flat.scan(queries, ChunkView(chunk, 900, 1), 5000, [selection], mask)
    live = {row for row in range(0, 900, 2) if row % 3 and not 64 <= row < 128}
    assert set(selection.rows().tolist()) == {5000 + row for row in live}


def test_given_rows_only() -> None:
    [chunk] = chunked(gaussian(500, 4, 15), [500])
    queries, selection = Queries("dot", gaussian(1, 4, 16)), Selection(1000)
    rows = np.array([3, 77, 499])
    flat.scan_rows(queries, chunk, rows, 100, [selection])
    assert sorted(selection.rows().tolist()) == [103, 177, 599]


def test_an_empty_selection_has_no_rows() -> None:
    assert Selection(3).rows().size == 0


def test_memory_of_a_selection_stays_near_k() -> None:
    selection, keys = Selection(10), np.arange(100_000, dtype=np.float32)
    for start in range(0, 100_000, 1000):
        selection.offer(start, keys[start : start + 1000], 0.5)
        assert selection.rows().size <= 12
