"""Search over views: one answer whatever the layout of the rows, exact where it scans, as promised where it
does not.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rows import ArrayChunk, chunked, clustered, config_of, gaussian, view_of
from vectorizer.errors import RequestError
from vectorizer.index import flat
from vectorizer.operations import METRICS, Metric, Vectors
from vectorizer.search import BATCH_QUERIES_MAX, Hit, estimated_cost_us, search
from vectorizer.storage.chunk import ChunkView, View

metrics = pytest.mark.parametrize("metric", METRICS)


def answers(hits: list[Hit]) -> list[tuple[bytes, float]]:
    """What a client sees."""
    return [(hit.id, hit.score) for hit in hits]


def brute_force(
    metric: Metric, rows: dict[bytes, Vectors], query: Vectors, limit: int
) -> list[tuple[bytes, float]]:
    """All rows scored exactly, sorted by score, then id."""
    queries = flat.Queries(metric, query[None, :])
    scored = [
        (item, float(flat.scores(queries, 0, vector[None, :])[0]) + 0.0) for item, vector in rows.items()
    ]
    sign = 1.0 if metric == "euclidean" else -1.0
    return sorted(scored, key=lambda entry: (sign * entry[1], entry[0]))[:limit]


def rows_of(chunks: list[ArrayChunk], offset: int = 1) -> dict[bytes, Vectors]:
    """Live rows by id."""
    return {
        item: chunk.vectors[row]
        for chunk in chunks
        for row, item in enumerate(chunk.ids)
        if chunk.deleted_at[row] > offset
    }


@metrics
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_layout_gives_the_same_ids_and_scores(metric: Metric, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    total, dimension = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 20))
    coarse = data.draw(st.booleans())  # few distinct values: many ties
    vectors = (
        generator.integers(-1, 2, (total, dimension)).astype(np.float32)
        if coarse
        else gaussian(total, dimension, seed)
    )
    queries = vectors[generator.integers(0, total, 3)] + np.float32(0 if coarse else 0.1)
    limit = data.draw(st.integers(1, 130))
    config = config_of(dimension, metric)
    expected = None
    for _ in range(3):
        cuts = sorted(generator.integers(0, total + 1, generator.integers(0, 5)).tolist())
        sizes = np.diff([0, *cuts, total]).tolist()
        view = view_of(config, *chunked(vectors, sizes, generator.permutation(total)))
        found = [answers(hits) for hits in search(view, queries, limit)]
        expected = expected or [
            brute_force(metric, rows_of(chunked(vectors, [total])), query, limit) for query in queries
        ]
        assert found == expected
        assert found == [answers(search(view, query[None, :], limit)[0]) for query in queries]


@metrics
def test_dead_rows_and_rows_after_the_view_are_not_found(metric: Metric) -> None:
    chunks = chunked(gaussian(300, 8, 1), [100, 100, 100])
    chunks[0].deleted_at[::2] = 5
    chunks[1].deleted_at[:] = 5
    chunks[2].deleted_at[:50] = 6
    config = config_of(8, metric)
    for offset in (4, 5, 6):
        view = view_of(config, *chunks, offset=offset)
        rows = rows_of(chunks, offset)
        [hits] = search(view, gaussian(1, 8, 2), 300)
        assert answers(hits) == brute_force(metric, rows, gaussian(1, 8, 2)[0], 300)
        assert len(hits) == len(rows)
    growing = View(config, 1, (ChunkView(chunks[0], 31, 4), ChunkView(chunks[2], 0, 4)), 4)
    [hits] = search(growing, gaussian(1, 8, 2), 300)
    assert {hit.id for hit in hits} == {b"%06d" % row for row in range(31)}


@metrics
def test_threshold_cuts_the_worse_side_and_keeps_equality(metric: Metric) -> None:
    view = view_of(config_of(8, metric), *chunked(gaussian(500, 8, 3), [300, 200]))
    query = gaussian(1, 8, 4)
    [hits] = search(view, query, 20)
    border = hits[12].score
    [kept] = search(view, query, 20, threshold=border)
    assert answers(kept) == answers(hits)[:13]
    nothing = 0.0 if metric == "euclidean" else 1e9
    assert search(view, query, 20, threshold=nothing) == [[]]


def test_a_hit_points_at_its_row() -> None:
    chunks = chunked(gaussian(30, 4, 5), [10, 20])
    [hits] = search(view_of(config_of(4, "dot"), *chunks), gaussian(1, 4, 6), 30)
    assert {hit.chunk.name for hit in hits} == {chunk.name for chunk in chunks}
    assert all(hit.chunk.id_at(hit.row) == hit.id for hit in hits)


@metrics
def test_filters(metric: Metric) -> None:
    """Few matching rows, many, none, and a chunk that the filter lets through whole."""
    chunks = chunked(gaussian(900, 8, 7), [300, 300, 300])
    chunks[1].deleted_at[::5] = 1
    queries = gaussian(3, 8, 8)
    masks = {
        chunks[0].name: np.arange(300) % 50 == 0,
        chunks[1].name: np.arange(300) % 5 < 4,
        chunks[2].name: np.zeros(300, np.bool_),
    }
    view = view_of(config_of(8, metric), *chunks)
    found = search(view, queries, 40, matching=lambda chunk_view: masks[chunk_view.chunk.name])
    matching = {
        chunk.ids[row]: chunk.vectors[row]
        for chunk in chunks
        for row in np.flatnonzero(masks[chunk.name] & (chunk.deleted_at > 1)).tolist()
    }
    assert [answers(hits) for hits in found] == [
        brute_force(metric, matching, query, 40) for query in queries
    ]
    assert search(view, queries, 40, matching=lambda _: None) == search(view, queries, 40)


def test_more_queries_than_one_group() -> None:
    view = view_of(config_of(6, "cosine"), *chunked(clustered(400, 6, 9), [150, 250]))
    queries = gaussian(BATCH_QUERIES_MAX * 2 + 3, 6, 10)
    found = search(view, queries, 5)
    assert len(found) == len(queries)
    assert found[-1] == search(view, queries[-1:], 5)[0]
    assert search(view, queries[:0], 5) == []


def test_an_empty_collection_answers_nothing() -> None:
    assert search(view_of(config_of(6, "cosine")), gaussian(2, 6, 1), 5) == [[], []]
    assert estimated_cost_us(view_of(config_of(6, "cosine")), 2, 5) == 0


def test_no_negative_zero_among_scores() -> None:
    chunk = ArrayChunk([b"a", b"b"], np.array([[0, 1], [-1, 0]], np.float32))
    for metric in METRICS:
        [hits] = search(view_of(config_of(2, metric), chunk), np.array([[0, -1]], np.float32), 2)
        assert all(str(hit.score) != "-0.0" for hit in hits)


@pytest.mark.parametrize("shape", [(1, 5), (1, 7), (6,), (1, 1, 6)])
def test_queries_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="dimension 6"):
        search(view_of(config_of(6, "dot")), np.zeros(shape, np.float32), 5)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(RequestError, match="limit is 0"):
        search(view_of(config_of(6, "dot")), gaussian(1, 6, 1), 0)


def test_cost_grows_with_rows_and_queries() -> None:
    small, large = (
        view_of(config_of(64, "dot"), *chunked(gaussian(rows, 64, 1), [rows])) for rows in (100, 20_000)
    )
    assert estimated_cost_us(small, 1, 10) < 100
    assert (
        estimated_cost_us(small, 1, 10) < estimated_cost_us(large, 1, 10) < estimated_cost_us(large, 50, 10)
    )
