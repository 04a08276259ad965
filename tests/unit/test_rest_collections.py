"""Collections over REST."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.rest_client import RestNode
from vectorizer.database import WriteResult
from vectorizer.operations import Drop

KEYS = ["created_at", "dimension", "indexing_status", "metric", "name", "size", "vector_count"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestNode]:
    running = RestNode(tmp_path / "data")
    running.start()
    yield running
    running.stop()


def test_create_describe_list_drop(node: RestNode) -> None:
    answer = node.post("/collections", {"name": "a.b-c_1", "dimension": 4, "similarity_metric": "dot"})
    assert answer.status == 201
    assert sorted(answer.body) == sorted([*KEYS, "offset", "replication_id"])
    assert (answer.body["offset"], answer.headers["x-replication-offset"]) == (1, "1")
    got = node.get("/collections/a.b-c_1").body
    assert sorted(got) == KEYS
    assert (got["name"], got["dimension"], got["metric"], got["vector_count"]) == ("a.b-c_1", 4, "dot", 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", got["created_at"])
    assert {"memory_bytes", "disk_bytes"} <= set(got["size"])
    assert {"indexed_fraction", "segments", "recall", "ef"} <= set(got["indexing_status"])
    node.create("a", metric="euclidean")
    listed = node.get("/collections").body
    assert listed["total_collections"] == 2
    assert [item["name"] for item in listed["collections"]] == ["a", "a.b-c_1"]
    assert all(sorted(item) == KEYS for item in listed["collections"])
    dropped = node.delete("/collections/a")
    assert (dropped.status, dropped.body["deleted"], dropped.body["offset"]) == (200, True, 3)
    assert node.get("/collections/a").status == node.delete("/collections/a").status == 404
    assert node.offset == 3


def test_defaults_come_from_the_settings(tmp_path: Path) -> None:
    node = RestNode(tmp_path / "data", index__recall=0.8, index__hnsw_m=8)
    node.start()
    status = node.get(node.create()).body["indexing_status"]
    assert (status["recall"], status["hnsw_m"], status["segment_rows"]) == (0.8, 8, 16_384)
    status = node.get(node.create("d", recall=1, segment_rows=64)).body["indexing_status"]
    assert (status["recall"], status["segment_rows"]) == (1.0, 64)
    node.stop()


def test_a_collection_exists_once(node: RestNode) -> None:
    node.create("a")
    answer = node.post("/collections", {"name": "a", "dimension": 3})
    assert answer.status == 409
    assert "exists already" in answer.body["message"]
    assert node.offset == 1


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"dimension": 3}, "name is missing"),
        ({"name": "a"}, "dimension is missing"),
        ({"name": "", "dimension": 3}, "it has 0 bytes"),
        ({"name": "a/b", "dimension": 3}, "name must be a string of 1 to 128 bytes of UTF-8 that matches"),
        ({"name": ".a", "dimension": 3}, "not '.a'"),
        ({"name": "a\n", "dimension": 3}, "name must be"),
        ({"name": "a" * 129, "dimension": 3}, "it has 129 bytes"),
        ({"name": "a", "dimension": 0}, "dimension must be a whole number from 1 to 16384, not 0"),
        ({"name": "a", "dimension": 99999}, "not 99999"),
        ({"name": "a", "dimension": "3"}, "not a string"),
        (
            {"name": "a", "dimension": 3, "metric": "manhattan"},
            "metric must be one of cosine, euclidean, dot",
        ),
        ({"name": "a", "dimension": 3, "metric": "dot", "similarity_metric": "dot"}, "metric is given twice"),
        (
            {"name": "a", "dimension": 3, "recall": 1.5},
            "recall must be a finite number above 0 and at most 1",
        ),
        ({"name": "a", "dimension": 3, "dimensions": 3}, "did you mean dimension?"),
        ({"name": "a", "dimension": 3, "segment_rows": 999999}, "segment_rows is 999999, it must be at most"),
        (
            {"name": "a", "dimension": 16384, "segment_rows": 20000},
            "has 1310720000 bytes, the limit is 1073741824; give fewer segment_rows",
        ),
    ],
)
def test_refused_collections(node: RestNode, document: Any, sentence: str) -> None:
    answer = node.post("/collections", document)
    assert (answer.status, answer.body["error_type"]) == (400, "validation_error")
    assert sentence in answer.body["message"]
    assert node.offset == 0


def test_number_of_collections_is_bounded(tmp_path: Path) -> None:
    node = RestNode(tmp_path / "data", limits__collections_max=2)
    node.start()
    node.create("a")
    node.create("b")
    assert node.post("/collections", {"name": "c", "dimension": 3}).status == 409
    node.stop()


def test_digests_know_what_is_stored_and_not_how(tmp_path: Path) -> None:
    node = RestNode(tmp_path / "data", index__segment_rows=16)
    node.start()
    first, second = node.create("a"), node.create("b")
    empty = node.get(first + "/digest").body
    assert (empty["digest"], empty["vector_count"], empty["offset"]) == ("0" * 32, 0, 2)
    items = [{"id": f"{n}", "vector": [n, 1, 2], "payload": {"n": n} if n % 2 else None} for n in range(50)]
    node.post(first + "/vectors", {"vectors": items})
    for item in reversed(items):
        node.post(second + "/vectors", {"vectors": [{**item, "vector": [9, 9, 9]}]})
        node.post(second + "/vectors", {"vectors": [item]})
    with gevent.Timeout(20):
        while node.get(second).body["indexing_status"]["segments"] < 2:
            gevent.sleep(0.05)
    digest = node.get(first + "/digest").body
    assert digest["vector_count"] == 50
    assert node.get(second + "/digest").body["digest"] == digest["digest"]
    node.put(second + "/vectors/7", {"payload": {"n": 8}})
    changed = node.get(second + "/digest").body["digest"]
    node.put(second + "/vectors/7", {"payload": {"n": 7}, "vector": [7, 1, 2.5]})
    assert len({changed, digest["digest"], node.get(second + "/digest").body["digest"]}) == 3
    node.put(second + "/vectors/7", {"vector": [7, 1, 2]})
    assert node.get(second + "/digest").body["digest"] == digest["digest"]
    node.stop()


def test_a_new_collection_is_answered_though_it_is_dropped_at_once(
    node: RestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = node.database.write

    def write_and_drop(operation: Any) -> WriteResult:
        result = write(operation)
        write(Drop(operation.collection))
        return result

    monkeypatch.setattr(node.database, "write", write_and_drop)
    answer = node.post("/collections", {"name": "a", "dimension": 3})
    assert (answer.status, answer.body["name"], answer.body["offset"]) == (201, "a", 1)
