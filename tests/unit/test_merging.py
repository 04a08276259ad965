"""Plans of merges, and merges whose data changes while they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.stored import StoredNode, content, expected
from vectorizer.errors import RequestError
from vectorizer.operations import Drop, Merge
from vectorizer.storage import merging, sealing


@pytest.fixture
def node(tmp_path: Path) -> StoredNode:
    made = StoredNode(tmp_path)
    made.create()
    return made


def test_segments_of_one_size_become_one_of_the_next(node: StoredNode) -> None:
    node.upsert(*range(24))
    assert merging.plan(node.things, 0.2) is None, "what is not sealed is not planned"
    node.seal()
    assert merging.plan(node.things, 0.2) is None, "three of a size are not enough"
    node.upsert(*range(24, 32))
    node.seal()
    plan = merging.plan(node.things, 0.2)
    assert plan == tuple(f"s{row:016d}" for row in (0, 8, 16, 24))
    node.commit(Merge("things", plan))
    assert merging.plan(node.things, 0.2) is None, "one merge at a time"
    assert node.merge() == 1
    assert [segment.rows for segment in node.things.segments] == [32]
    assert content(node.things) == expected((range(32), 0, None))


def test_no_segment_grows_beyond_the_maximum(node: StoredNode) -> None:
    for part in range(12):
        node.upsert(*range(part * 8, part * 8 + 8))
        node.seal()
        while (plan := merging.plan(node.things, 0.2)) is not None:
            node.commit(Merge("things", plan))
            node.merge()
    assert all(segment.rows <= 64 for segment in node.things.segments)
    assert content(node.things) == expected((range(96), 0, None))


def test_a_collection_at_rest_has_few_segments(node: StoredNode) -> None:
    assert merging.plan_idle(node.things) is None
    for part in range(7):
        node.upsert(*range(part * 8, part * 8 + 8))
        node.seal()
        if plan := merging.plan(node.things, 0.2):
            node.commit(Merge("things", plan))
            node.merge()
    assert [segment.rows for segment in node.things.segments] == [32, 8, 8, 8]
    plan = merging.plan_idle(node.things)
    assert plan == tuple(segment.name for segment in node.things.segments)
    node.commit(Merge("things", plan))
    assert merging.plan_idle(node.things) is None, "one merge at a time"
    node.merge()
    assert [segment.rows for segment in node.things.segments] == [56]
    node.upsert(*range(56, 64))
    node.seal()
    assert merging.plan_idle(node.things) is None, "eight rows are no reason to write 56 again"
    assert content(node.things) == expected((range(64), 0, None))


def test_what_does_not_fit_into_one_segment_stays_apart(node: StoredNode) -> None:
    for part in range(12):
        node.upsert(*range(part * 8, part * 8 + 8))
        node.seal()
        while (plan := merging.plan(node.things, 0.2) or merging.plan_idle(node.things)) is not None:
            node.commit(Merge("things", plan))
            node.merge()
    assert all(segment.rows <= 64 for segment in node.things.segments)
    assert len(node.things.segments) <= 3
    assert content(node.things) == expected((range(96), 0, None))


def test_a_segment_with_dead_rows_is_rewritten(node: StoredNode) -> None:
    node.upsert(*range(8))
    node.seal()
    node.delete(1)
    assert merging.plan(node.things, 0.2) is None
    node.delete(2)
    plan = merging.plan(node.things, 0.2)
    assert plan is not None
    node.commit(Merge("things", plan))
    node.merge()
    assert node.things.segments[0].rows == 6


def test_what_cannot_be_merged_is_refused(node: StoredNode) -> None:
    node.upsert(*range(16))
    node.seal()
    first, second = (segment.name for segment in node.things.segments)
    for names in [(), (first, first), ("s0000000000000099",)]:
        with pytest.raises(RequestError, match="cannot be merged"):
            node.commit(Merge("things", names))
    node.commit(Merge("things", (first,)))
    with pytest.raises(RequestError, match="cannot be merged"):
        node.commit(Merge("things", (first, second)))


def test_deletions_during_a_merge_are_carried_over(node: StoredNode) -> None:
    node.upsert(*range(16))
    node.seal()
    node.commit(Merge("things", tuple(segment.name for segment in node.things.segments)))
    job = merging.next_merge(node.directory, node.node.generation, node.node.store)
    assert job is not None
    job.run()
    node.delete(3)
    node.upsert(5, seed=1)
    job.finish(node.node.store)
    assert merging.install_made(node.node.store, graph_rows_min=0)
    wanted = expected((range(16), 0, None), ([5], 1, None))
    del wanted["id-3"]
    assert content(node.things) == wanted
    assert node.things.segments[0].dead_rows == 2
    node.restart()
    assert content(node.things) == wanted


@pytest.mark.parametrize("again", [False, True])
def test_a_collection_dropped_during_a_merge_or_a_seal(node: StoredNode, again: bool) -> None:
    node.upsert(*range(8))
    seal = sealing.next_seal(node.directory, node.node.generation, node.node.store)
    assert seal is not None
    seal.run()
    seal.run()  # as after a disk that was full: from the start
    seal.finish(node.node.store)
    node.commit(Merge("things", (node.things.segments[0].name,)))
    node.upsert(*range(8, 16))
    merge = merging.next_merge(node.directory, node.node.generation, node.node.store)
    late = sealing.next_seal(node.directory, node.node.generation, node.node.store)
    assert merge is not None
    assert late is not None
    for job in (merge, late):
        job.run()
        job.run()
    node.commit(Drop("things"))
    if again:
        node.create()
        node.upsert(1)
    for job in (merge, late):
        job.finish(node.node.store)
    assert ("things" in node.node.store.collections) == again
    if again:
        assert content(node.things) == expected(([1], 0, None))


def test_a_merge_of_a_merge_that_left_nothing(node: StoredNode) -> None:
    node.upsert(*range(8))
    node.seal()
    node.delete(*range(8))
    first = node.commit(Merge("things", (node.things.segments[0].name,)))
    node.commit(Merge("things", (f"m{first:016d}",)))
    assert node.merge() == 1
    assert (node.things.merges, node.things.segments, node.things.vector_count) == ([], [], 0)
    node.restart()
    assert content(node.things) == {}
