"""The node: what it refuses, what it takes, and that a refusal changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.stored import DIMENSION, LIMITS, StoredNode, config, content, replica_of, rows
from vectorizer import codec, frame
from vectorizer.errors import ApplyError, RequestError
from vectorizer.node import NodeFailure, Role
from vectorizer.operations import Create, Drop, Rows, Upsert, encode_operation
from vectorizer.replication.history import History


@pytest.fixture
def node(tmp_path: Path) -> StoredNode:
    made = StoredNode(tmp_path / "data")
    made.create()
    return made


@pytest.fixture
def replica(tmp_path: Path, node: StoredNode) -> StoredNode:
    """Holds what the master holds."""
    return replica_of(node, tmp_path / "replica")


def refused(node: StoredNode, operation: object) -> RequestError:
    """The error of a commit that changes nothing."""
    inner = node.node
    before = inner.offset, inner.journal.appended_bytes, len(inner.log), inner.last_checksum
    with pytest.raises(RequestError) as caught:
        inner.commit(operation, 1.0, 1)  # type: ignore[arg-type]
    assert (inner.offset, inner.journal.appended_bytes, len(inner.log), inner.last_checksum) == before
    return caught.value


def test_what_a_commit_refuses(node: StoredNode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(node, Create(config())).status_code == 409
    assert refused(node, Drop("nothing")).status_code == 404
    assert (
        refused(node, Upsert("things", Rows([b"a"], rows([1]).vectors[:, :2].copy(), [b""]))).status_code
        == 400
    )
    twice = Rows([b"a", b"a"], rows([1, 2]).vectors, [b"", b""])
    assert refused(node, Upsert("things", twice)).status_code == 400
    large = Rows([b"a"], rows([1]).vectors, [codec.encode_payload({"x": "y" * (1 << 19)})])
    error = refused(node, Upsert("things", large))
    assert (error.status_code, error.error_type) == (413, "too_large")
    for number in range(9):
        node.create(f"more-{number}")
    error = refused(node, Create(config("too-many")))
    assert (error.status_code, error.error_type) == (409, "too_many_collections")
    with monkeypatch.context() as patch:
        patch.setattr(node.node.journal, "has_room", lambda size: False)
        patch.setattr(node.node.journal, "ensure_room", lambda size: False)
        assert refused(node, Drop("things")).status_code == 507
    node.node.fence("a promotion is under way")
    assert refused(node, Drop("things")).error_type == "writes_held"
    node.node.fence(None)
    node.node.role = Role.REPLICA
    node.node.master_url = "http://master:1"
    error = refused(node, Drop("things"))
    assert (error.status_code, error.headers) == (403, {"X-Vectorizer-Master": "http://master:1"})
    assert not node.node.writable
    node.node.failure = NodeFailure("the disk is gone")
    assert refused(node, Drop("things")).error_type == "failed"


def test_what_a_replica_refuses(
    node: StoredNode, replica: StoredNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = replica.node

    def code(encoded: bytes) -> str:
        with pytest.raises(ApplyError) as caught:
            inner.apply_frame(encoded, 1.0)
        assert inner.offset == 1
        return caught.value.code

    good = encode_operation(Upsert("things", rows([1])), 2, 1, 5)
    assert code(encode_operation(Upsert("things", rows([1])), 3, 1, 5)) == "offset_gap"
    assert code(encode_operation(Upsert("things", rows([1])), 1, 1, 5)) == "offset_gap"
    assert code(encode_operation(Upsert("things", rows([1])), 2, 7, 5)) == "stale_epoch"
    assert code(encode_operation(Drop("nothing"), 2, 1, 5)) == "apply_failed"
    document = {**codec.decode(frame.body_of(good)), "k": "explode"}
    assert code(frame.encode(codec.encode(document))) == "operation_unknown"
    with monkeypatch.context() as patch:
        patch.setattr(inner.journal, "has_room", lambda size: False)
        patch.setattr(inner.journal, "ensure_room", lambda size: False)
        with pytest.raises(RequestError) as caught:
            inner.apply_frame(good, 1.0)
        assert caught.value.status_code == 507
        with pytest.raises(RequestError) as caught:
            inner.promote()
        assert (caught.value.status_code, inner.role) == (507, Role.REPLICA)
        with pytest.raises(RequestError) as caught:
            inner.adopt_history(History())
        assert caught.value.status_code == 507
    assert inner.apply_frame(good, 1.0) == 2
    inner.history = History()
    with pytest.raises(ApplyError, match="expected None"):
        inner.apply_frame(encode_operation(Drop("things"), 3, 1, 5), 1.0)


def test_a_promotion(replica: StoredNode) -> None:
    inner = replica.node
    inner.has_complete_data = False
    with pytest.raises(RequestError) as caught:
        inner.promote()
    assert (caught.value.status_code, inner.role) == (409, Role.REPLICA)
    inner.has_complete_data = True
    inner.promote(Role.STANDALONE)
    assert (inner.role, inner.epoch, inner.replication_id) == (Role.STANDALONE, 2, "r-2")
    assert replica.upsert(5) == 2


def test_the_same_history_again_is_no_news(node: StoredNode, replica: StoredNode) -> None:
    before = replica.node.journal.appended_bytes
    replica.node.adopt_history(node.node.history)
    assert replica.node.journal.appended_bytes == before


def test_what_it_tells(node: StoredNode) -> None:
    inner = node.node
    assert inner.position.offset == 1
    assert inner.checksum_at(1) == inner.last_checksum == inner.position.checksum
    first = inner.last_checksum
    node.upsert(1)
    assert inner.checksum_at(1) == first
    assert inner.checksum_at(77) is None
    assert inner.window == (1, 2)
    inner.set_limits(replace(LIMITS, log_size=1, durable_only=False))
    assert inner.window == (2, 2)
    inner.commit(Upsert("things", rows([2])), 1.0, 1)
    assert (inner.sendable_offset, inner.durable_offset) == (3, 2)
    inner.set_limits(LIMITS)
    assert inner.sendable_offset == 2
    assert inner.describe() == {"offset": 3, "epoch": 1, "replication_id": "m-2"}
    node.write_journal()
    assert len(content(node.things)) == 2
    assert node.things.view(3).chunks[0].chunk.vectors.shape[1] == DIMENSION


def test_an_empty_history_has_no_epoch(tmp_path: Path) -> None:
    assert StoredNode(tmp_path, Role.REPLICA).node.epoch == 0
