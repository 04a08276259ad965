"""Search over views: one answer whatever the layout of the rows, exact where it scans, as promised where it
does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rows import ArrayChunk, chunked, clustered, config_of, gaussian, view_of, with_graph
from vectorizer.errors import RequestError
from vectorizer.index import flat
from vectorizer.operations import METRICS, Metric, Vectors
from vectorizer.search import BATCH_QUERIES_MAX, FIXED_COST_US, estimated_cost_us, search
from vectorizer.storage.chunk import LIVE, ChunkView, View
from vectorizer.targets import Hit

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


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> ArrayChunk:
    """A sealed chunk whose graph beats the scan, whatever else the machine did while both were measured."""
    [chunk] = chunked(clustered(8000, 64, 1), [8000])
    with_graph(chunk, tmp_path_factory.mktemp("indexed"), "cosine")
    assert chunk.graph is not None
    chunk.graph.calibration = replace(chunk.graph.calibration, scan_us=1e6, batch_scan_us=1e6)
    return chunk


@pytest.fixture
def chunk(indexed: ArrayChunk) -> Iterator[ArrayChunk]:
    """The same for one test that may delete rows."""
    assert indexed.graph is not None and indexed.graph.calibration.choose(0.95) is not None
    yield indexed
    indexed.deleted_at[:] = LIVE


def exactly(view: View, queries: Vectors, limit: int, **options: Any) -> list[list[Hit]]:
    """The same search without graphs."""
    chunks = [
        ArrayChunk(part.chunk.ids, part.chunk.vectors, part.chunk.name)
        for part in view.chunks
        if isinstance(part.chunk, ArrayChunk)
    ]
    for bare, part in zip(chunks, view.chunks, strict=True):
        bare.deleted_at = part.chunk.deleted_at
    return search(view_of(view.config, *chunks, offset=view.offset), queries, limit, **options)


def recall_of(found: list[list[Hit]], expected: list[list[Hit]]) -> float:
    """Share of the expected ids that were found; scores of what was found are exact."""
    shares = []
    for hits, truth in zip(found, expected, strict=True):
        scores = {hit.id: hit.score for hit in truth}
        assert len(hits) == len(truth)
        assert all(scores.get(hit.id, hit.score) == hit.score for hit in hits)
        shares.append(len(scores.keys() & {hit.id for hit in hits}) / max(1, len(scores)))
    return float(np.mean(shares))


def ask(view: View, queries: Vectors, limit: int, *, together: bool, **options: Any) -> list[list[Hit]]:
    """All queries in one search, or each in its own."""
    if together:
        return search(view, queries, limit, **options)
    return [search(view, query[None, :], limit, **options)[0] for query in queries]


# Recall is an average: each case asks enough queries that chance cannot decide it.
together = pytest.mark.parametrize("together", [True, False])


@together
def test_graph_growing_rows_and_ties_are_merged(chunk: ArrayChunk, together: bool) -> None:
    """Rows outside of the graph are found exactly: those held out, and those of chunks without one."""
    growing = ArrayChunk([b"copy-%d" % row for row in range(50)], chunk.vectors[:50].copy(), "s9")
    view = view_of(config_of(64, "cosine"), chunk, growing)
    assert chunk.graph is not None
    held = np.array(chunk.graph.calibration.holdout)[:200]
    queries = np.concatenate([chunk.vectors[held], growing.vectors])
    found = ask(view, queries, 10, together=together)
    assert recall_of(found, exactly(view, queries, 10)) >= 0.95
    for row, hits in zip(held.tolist(), found, strict=False):
        assert hits[0].id == chunk.ids[row] or b"copy" in hits[1].id
    for row, hits in enumerate(found[len(held) :]):
        assert [hits[0].id, hits[1].id] == [chunk.ids[row], b"copy-%d" % row]


@together
@pytest.mark.parametrize("dead", [0.1, 0.9, 0.999])
def test_dead_neighbours_never_shorten_the_answer(chunk: ArrayChunk, dead: float, together: bool) -> None:
    chunk.deleted_at[np.random.default_rng(3).random(8000) < dead] = 1
    view = view_of(config_of(64, "cosine"), chunk)
    queries = clustered(200, 64, 1)
    found = ask(view, queries, 10, together=together)
    assert recall_of(found, exactly(view, queries, 10)) >= 0.9


def test_a_whole_dead_neighbourhood(chunk: ArrayChunk) -> None:
    """The nearest thousand are dead: the search must look further, in the end at all rows."""
    view = view_of(config_of(64, "cosine"), chunk)
    recalls = []
    for row in range(0, 8000, 400):
        query = chunk.vectors[row : row + 1]
        chunk.deleted_at[:] = LIVE
        for hit in search(view, query, 1000)[0]:
            chunk.deleted_at[hit.row] = 0
        found = search(view, query, 10)
        assert all(chunk.deleted_at[hit.row] == LIVE for hit in found[0])
        recalls.append(recall_of(found, exactly(view, query, 10)))
    assert np.mean(recalls) >= 0.9


@pytest.mark.parametrize("share", [0.003, 0.02, 0.2, 0.7])
@together
def test_filters_beside_a_graph(chunk: ArrayChunk, share: float, together: bool) -> None:
    mask = np.random.default_rng(4).random(8000) < share
    view = view_of(config_of(64, "cosine"), chunk)
    queries = clustered(200, 64, 1)
    found = ask(view, queries, 10, together=together, matching=lambda _: mask)
    assert all(mask[hit.row] for hits in found for hit in hits)
    assert recall_of(found, exactly(view, queries, 10, matching=lambda _: mask)) >= 0.9


def test_a_filter_against_the_query(chunk: ArrayChunk) -> None:
    """Half of the rows match, none of them near: over-fetching goes on until it finds them, or gives up and
    scans.
    """
    view = view_of(config_of(64, "cosine"), chunk)
    recalls = []
    for row in range(0, 8000, 400):
        query = chunk.vectors[row : row + 1]
        mask = np.ones(8000, np.bool_)
        mask[[hit.row for hit in search(view, query, 4000)[0]]] = False
        found = search(view, query, 10, matching=lambda _, mask=mask: mask)
        assert all(mask[hit.row] for hit in found[0])
        expected = exactly(view, query, 10, matching=lambda _, mask=mask: mask)
        recalls.append(recall_of(found, expected))
    assert np.mean(recalls) >= 0.9


def test_a_limit_above_the_rows(chunk: ArrayChunk) -> None:
    view = view_of(config_of(64, "cosine"), chunk)
    [hits] = search(view, chunk.vectors[:1], 9000)
    assert len(hits) == 8000
    assert search(view, chunk.vectors[:1], 9000, ef=50)[0] == hits


@pytest.mark.parametrize("limit", [1, 10, 30, 100])
def test_recall_holds_for_other_limits(chunk: ArrayChunk, limit: int) -> None:
    view = view_of(config_of(64, "cosine"), chunk)
    queries = clustered(300, 64, 1)[100:]
    assert recall_of(search(view, queries, limit), exactly(view, queries, limit)) >= 0.93


def test_ef_overrides_the_choice(chunk: ArrayChunk) -> None:
    view = view_of(config_of(64, "cosine", recall=1.0), chunk)  # a target that no graph can prove: scanned
    queries = clustered(300, 64, 2, clusters=1, spread=1.0)
    truth = exactly(view, queries, 10)
    recalls = [recall_of(search(view, queries, 10, ef=ef), truth) for ef in (10, 40, 2000)]
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recall_of(search(view, queries, 10), truth) == 1.0


def test_cost_with_a_graph(chunk: ArrayChunk) -> None:
    view = view_of(config_of(64, "cosine"), chunk)
    assert chunk.graph is not None
    cheap = estimated_cost_us(view, 1, 10)
    assert cheap < chunk.graph.calibration.scan_us + FIXED_COST_US
    assert estimated_cost_us(view, 1, 10, ef=2000) > cheap
    assert estimated_cost_us(view, 100, 10) > cheap


def test_a_view_from_before_the_chunk_was_full_ignores_its_graph(chunk: ArrayChunk) -> None:
    view = View(config_of(64, "cosine"), 1, (ChunkView(chunk, 5000, 1),), 1)
    queries = clustered(3, 64, 1)
    bare = ArrayChunk(chunk.ids[:5000], chunk.vectors[:5000])
    expected = search(view_of(view.config, bare), queries, 10)
    assert [answers(hits) for hits in search(view, queries, 10)] == [answers(hits) for hits in expected]
