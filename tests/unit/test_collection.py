"""Collections and the store: operations, sealing, merging, deletions meanwhile, pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.unit.chunks import chunk_of
from tests.unit.stored import StoredNode, config, content, expected, rows
from vectorizer.errors import RequestError
from vectorizer.operations import Create, Delete, Drop, Merge, Rows, Upsert
from vectorizer.storage import merging, sealing
from vectorizer.storage.chunk import LIVE
from vectorizer.storage.collection import cursor_of, norms_of, page
from vectorizer.storage.growing import FEW_IDS
from vectorizer.storage.merging import plan


@pytest.fixture
def node(tmp_path: Path) -> StoredNode:
    made = StoredNode(tmp_path / "data")
    made.create()
    return made


def test_few_ids_are_found_as_many_are() -> None:
    chunk = chunk_of([None] * 40)
    chunk.kill(np.array([3, 30], np.int32), 5)
    ids = [b"%d" % number for number in range(50)]
    alive = [number if number < 40 and number not in (3, 30) else -1 for number in range(50)]
    for count in (0, 1, FEW_IDS, FEW_IDS + 1, 50):
        found = chunk.find(np.zeros(count, np.uint64), ids[:count])
        assert found.dtype == np.int32
        assert found.tolist() == alive[:count]


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1000, 128), (3, 20_000), (700, 33)])
def test_norms_are_those_of_float64(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(1).standard_normal(shape).astype(np.float32) * np.float32(1e25)
    norms = norms_of(vectors)
    assert norms.dtype == np.float32
    assert np.isfinite(norms).all()
    assert np.array_equal(norms, np.linalg.norm(vectors.astype(np.float64), axis=1).astype(np.float32))


def test_rows_replace_rows_of_the_same_id(node: StoredNode) -> None:
    node.upsert(1, 2, 3)
    node.upsert(2, seed=1, payload="new")
    assert content(node.things) == expected(([1, 3], 0, None), ([2], 1, "new"))


def test_deletions_of_missing_ids_change_nothing(node: StoredNode) -> None:
    node.upsert(1, 2)
    node.delete(2, 5)
    assert content(node.things) == expected(([1], 0, None))
    assert node.things.existing([b"id-1", b"id-2", b"id-5"]) == [b"id-1"]


def test_a_batch_may_fill_several_chunks(node: StoredNode) -> None:
    node.upsert(*range(20))
    assert [chunk.rows for chunk in node.things.growing] == [8, 8, 4]
    assert node.seal() == 2
    assert [(segment.name, segment.rows) for segment in node.things.segments] == [
        ("s0000000000000000", 8),
        ("s0000000000000008", 8),
    ]
    assert content(node.things) == expected((range(20), 0, None))


def test_a_chunk_takes_memory_for_its_rows_and_not_for_its_capacity() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    chunk = chunk_of([None], capacity=10_000_000)
    assert process.memory_info().rss - before < 8 << 20
    assert (chunk.deleted_at[:1] == LIVE).all()


def test_rows_of_sealed_segments_are_replaced_and_deleted(node: StoredNode) -> None:
    node.upsert(*range(16))
    node.seal()
    node.upsert(3, 9, seed=2)
    node.delete(4, 10)
    assert content(node.things) == expected(
        ([*range(4), *range(5, 10), *range(11, 16)], 0, None), ([3, 9], 2, None)
    )
    assert [segment.dead_rows for segment in node.things.segments] == [2, 2]
    assert node.things.locate(b"id-4") is None
    found = node.things.locate(b"id-3")
    assert found is not None and not found[0].sealed


def test_deletions_during_sealing_are_kept(node: StoredNode) -> None:
    node.upsert(*range(8))
    job = sealing.next_seal(node.directory, node.node.generation, node.node.store)
    assert job is not None
    job.run()
    node.delete(0)
    node.upsert(1, seed=1)
    job.finish(node.node.store)
    assert content(node.things) == expected((range(2, 8), 0, None), ([1], 1, None))


def test_a_collection_dropped_during_sealing_stays_away(node: StoredNode) -> None:
    node.upsert(*range(8))
    job = sealing.next_seal(node.directory, node.node.generation, node.node.store)
    assert job is not None
    node.commit(Drop("things"))
    node.create()
    job.run()
    job.finish(node.node.store)
    assert content(node.things) == {}
    assert node.things.segments == []


def test_a_merge_takes_the_rows_live_at_its_offset_and_carries_deletions_over(node: StoredNode) -> None:
    node.upsert(*range(32))
    node.seal()
    node.delete(0, 9)
    names = plan(node.things, 0.2)
    assert names is not None and len(names) == 4
    offset = node.commit(Merge("things", names))
    job = merging.next_merge(node.directory, node.node.generation, node.node.store)
    assert job is not None
    node.delete(1, 10)
    job.run()
    node.delete(2)
    node.upsert(3, seed=3)
    job.finish(node.node.store)
    assert merging.install_made(node.node.store, graph_rows_min=0)
    assert content(node.things) == expected(([*range(4, 9), *range(11, 32)], 0, None), ([3], 3, None))
    (segment,) = node.things.segments
    assert (segment.name, segment.rows, segment.dead_rows) == (f"m{offset:016d}", 30, 4)


def test_a_segment_with_many_dead_rows_is_rewritten(node: StoredNode) -> None:
    node.upsert(*range(8))
    node.seal()
    assert plan(node.things, 0.2) is None
    node.delete(0, 1)
    names = plan(node.things, 0.2)
    assert names == ("s0000000000000000",)
    node.commit(Merge("things", names))
    assert plan(node.things, 0.2) is None  # not while one is under way
    assert node.merge() == 1
    assert content(node.things) == expected((range(2, 8), 0, None))


def test_a_merge_of_nothing_but_dead_rows_leaves_no_segment(node: StoredNode) -> None:
    node.upsert(*range(8))
    node.seal()
    node.delete(*range(8))
    node.commit(Merge("things", ("s0000000000000000",)))
    assert node.merge() == 1
    assert node.things.segments == []
    assert content(node.things) == {}


def test_merges_stop_at_the_largest_size(node: StoredNode) -> None:
    for start in range(0, 320, 8):
        node.upsert(*range(start, start + 8))
        node.seal()
        while (names := plan(node.things, 0.2)) is not None:
            node.commit(Merge("things", names))
            node.merge()
    assert max(segment.rows for segment in node.things.segments) <= 64
    assert len(node.things.segments) <= 12
    assert content(node.things) == expected((range(320), 0, None))


def test_a_view_does_not_change_while_the_writer_goes_on(node: StoredNode) -> None:
    node.upsert(*range(12))
    node.seal()
    view = node.things.view(node.node.offset)
    node.delete(*range(12))
    node.upsert(*range(5), seed=9)
    assert view.live_count == 12
    assert node.things.view(node.node.offset).live_count == 5


def test_pages_have_a_fixed_order_that_merges_do_not_disturb(node: StoredNode) -> None:
    node.upsert(*range(50))
    seen: list[bytes] = []
    cursor = None
    steps = 0
    while True:
        view = node.things.view(node.node.offset)
        found = page(view, cursor, 7)
        if not found:
            break
        seen.extend(chunk.id_at(row) for chunk, row in found)
        cursor = cursor_of(*found[-1])
        steps += 1
        if steps == 2:
            node.seal()
        if steps == 3:
            names = plan(node.things, 0.2)
            assert names is not None
            node.commit(Merge("things", names))
            node.merge()
        if steps == 4:
            node.upsert(*range(50), seed=4)  # moves every row, changes no place
            node.seal()
    assert sorted(seen) == sorted(b"id-%d" % number for number in range(50))
    assert len(set(seen)) == 50


def test_what_cannot_be_applied_is_refused_before_anything_changes(node: StoredNode) -> None:
    node.upsert(1)
    offset = node.node.offset
    wide = Rows([b"x"], np.zeros((1, 5), np.float32), [b""])
    for operation, status in [
        (Create(config()), 409),
        (Drop("other"), 404),
        (Upsert("other", rows([1])), 404),
        (Delete("other", [b"x"]), 404),
        (Upsert("things", wide), 400),
        (Upsert("things", rows([2, 2])), 400),
        (Merge("things", ("s0000000000000000",)), 409),
        (Merge("things", ()), 409),
    ]:
        with pytest.raises(RequestError) as caught:
            node.commit(operation)
        assert caught.value.status_code == status
    assert node.node.offset == offset
    assert content(node.things) == expected(([1], 0, None))


def test_a_recreated_collection_is_another_one(node: StoredNode) -> None:
    node.upsert(*range(10))
    identity = node.things.identity
    node.commit(Drop("things"))
    node.create()
    assert node.things.identity > identity
    assert content(node.things) == {}
