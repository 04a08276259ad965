"""Vectors over REST: writes, reads, pages, deletions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gevent
import gevent.socket
import numpy as np
import pytest
from bson.binary import Binary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.chunks import chunk_of
from tests.unit.rest_client import BSON, RestNode
from vectorizer import codec, frame
from vectorizer.filters import parse_filter
from vectorizer.operations import Delete, Rows, Upsert, decode_entry
from vectorizer.rest import vectors as vectors_module


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestNode]:
    running = RestNode(tmp_path / "data")
    running.start()
    yield running
    running.stop()


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def path_of(collection: str, id_: str) -> str:
    return f"{collection}/vectors/{quote(id_, safe='')}"


# -- upsert --------------------------------------------------------------------------------------------------


def test_upsert_and_get(node: RestNode) -> None:
    one = node.create()
    items = [
        {"id": "a", "vector": [0.1, 2, -3e-8], "payload": {"z": [1, {"y": None}], "a": "é"}},
        {"vector": [1, 0, 0]},
    ]
    answer = node.post(one + "/vectors", {"vectors": items})
    assert answer.status == 200
    assert sorted(answer.body) == ["ids", "offset", "replication_id", "upserted"]
    assert answer.body["upserted"] == 2
    assert answer.body["ids"][0] == "a"
    assert answer.headers["x-replication-offset"] == str(answer.body["offset"]) == str(node.offset)
    assert answer.headers["x-replication-id"] == answer.body["replication_id"]
    got = node.get(one + "/vectors/a")
    assert got.body == {"id": "a", "vector": [0.1, 2.0, -3e-8], "payload": items[0]["payload"]}
    assert b'"vector":[0.1,2.0,-3e-8]' in got.raw
    made = answer.body["ids"][1]
    assert node.get(path_of(one, made)).body == {"id": made, "vector": [1.0, 0.0, 0.0], "payload": None}


def test_an_upsert_replaces_the_whole_row(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3], "payload": {"a": 1}}]})
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [3, 2, 1]}]})
    assert node.get(one + "/vectors/a").body == {"id": "a", "vector": [3.0, 2.0, 1.0], "payload": None}
    assert node.get(one).body["vector_count"] == 1


def test_bson_items_and_columns(node: RestNode) -> None:
    one = node.create()
    items = [
        {"id": "a", "vector": packed(1, 2, 3), "payload": {"k": 1}},
        {"id": "b", "vector": Binary(b"\x27\x00" + packed(4, 5, 6), 9)},
    ]
    answer = node.post(one + "/vectors", {"vectors": items}, kind=BSON, accept=BSON)
    assert answer.headers["content-type"] == BSON
    assert answer.body["ids"] == ["a", "b"]
    columns = {"ids": ["b", "c"], "vectors": packed(7, 8, 9, 10, 11, 12), "payloads": [{"k": 2}, None]}
    answer = node.post(one + "/vectors", columns, kind=BSON)
    assert answer.headers["content-type"] == "application/json"
    assert answer.body["upserted"] == 2
    page = node.get(one + "/vectors", accept=BSON).body
    rows = {
        item["id"]: (np.frombuffer(item["vector"], "<f4").tolist(), item["payload"])
        for item in page["vectors"]
    }
    assert rows == {"a": ([1, 2, 3], {"k": 1}), "b": ([7, 8, 9], {"k": 2}), "c": ([10, 11, 12], None)}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"vectors": []}, "vectors must be a list of 1 to 10000 items, it has 0"),
        ({}, "vectors is missing"),
        ({"vectors": [{"vector": [1, 2, 3]}], "upsert": True}, "unknown field 'upsert'"),
        ({"vectors": [{"vector": [1, 2, 3]}, {"vector": [1, 2]}]}, "vectors[1].vector has 2 dimensions"),
        ({"vectors": [{"vector": [0, 0, 0]}]}, "vectors[0].vector is all zeros"),
        ({"vectors": [{"id": "a", "vector": [1, 2, 3]}] * 2}, "vectors[0].id and vectors[1].id are the same"),
        ([], "the body must be an object"),
    ],
)
def test_a_refused_batch_changes_nothing(node: RestNode, document: Any, sentence: str) -> None:
    one = node.create()
    before = node.offset, node.get(one + "/digest").body
    answer = node.post(one + "/vectors", document)
    assert (answer.status, answer.body["error_type"]) == (400, "validation_error")
    assert sentence in answer.body["message"]
    assert (node.offset, node.get(one + "/digest").body) == before


def test_upsert_needs_its_collection(node: RestNode) -> None:
    answer = node.post("/collections/none/vectors", {"vectors": [{"vector": [1]}]})
    assert (answer.status, answer.body["error_type"]) == (404, "collection_not_found")


def test_a_collection_replaced_while_its_batch_was_read(
    node: RestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = node.create(metric="dot")
    read = vectors_module.rows_of_items

    def slow(*arguments: Any, **options: Any) -> Rows:
        rows = read(*arguments, **options)
        node.database.write(Delete("c", []))
        node.database.node.store.collections.pop("c")
        collection = type(old)(old.config, node.offset, 0)
        node.database.node.store.collections["c"] = collection
        return rows

    old = node.database.collection("c")
    monkeypatch.setattr(vectors_module, "rows_of_items", slow)
    answer = node.post(one + "/vectors", {"vectors": [{"vector": [0, 0, 0]}]})
    assert (answer.status, answer.body["error_type"]) == (409, "conflict")


# -- ids in paths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "id_", ["a/b", "delete", "a%2Fb", "é 𝄞", ".", "..", "?", "#", "x" * 256, " ", "\n", "\0"]
)
def test_ids_of_all_kinds(node: RestNode, id_: str) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": id_, "vector": [1, 2, 3]}]})
    path = path_of(one, id_)
    assert node.get(path).body["id"] == id_
    assert node.put(path, {"payload": {"a": 1}}).body["id"] == id_
    assert node.delete(path).body["id"] == id_
    assert node.get(path).status == 404


def test_literal_slashes_in_ids(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a/b//c", "vector": [1, 2, 3]}]})
    assert node.get(one + "/vectors/a/b//c").body["id"] == "a/b//c"


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("a%FFb", "the id is not UTF-8"),
        ("a%zz", "the id is not correctly percent-encoded"),
        ("", "the id must be a string of 1 to 256 bytes of UTF-8, it has 0 bytes"),
        ("x" * 257, "it has 257 bytes"),
    ],
)
def test_bad_ids_in_paths(node: RestNode, part: str, sentence: str) -> None:
    one = node.create()
    for method, body in (("GET", None), ("PUT", {"payload": None}), ("DELETE", None)):
        answer = node.request(method, f"{one}/vectors/{part}", body)
        assert answer.status == 400
        assert sentence in answer.body["message"]


# -- replace and delete --------------------------------------------------------------------------------------


def test_what_a_held_write_replaces_is_looked_at_when_it_is_let_in(node: RestNode) -> None:
    one, database = node.create(), node.database
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3], "payload": {"n": 1}}]})
    body = b'{"payload":{"n":2}}'
    head = f"PUT {one}/vectors/a HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with gevent.socket.create_connection((node.server.host, node.server.port), timeout=10) as sock:
        sock.sendall(head + body[:5])
        gevent.sleep(0.1)  # it is past the first look at whether writes are taken
        database.hold_writes("a switchover is under way")
        sock.sendall(body[5:])
        gevent.sleep(0.1)
        database.release_writes()
        other = Rows([b"a"], np.array([[4, 5, 6]], np.float32), [b""])
        database.node.commit(Upsert("c", other), 0.0, 0)  # another that waited is first
        database.committed()
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert node.get(one + "/vectors/a").body == {"id": "a", "vector": [4.0, 5.0, 6.0], "payload": {"n": 2}}


def test_replace_vector_payload_or_both(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [0.1, 0.2, 0.3], "payload": {"n": 1}}]})
    path = one + "/vectors/a"
    answer = node.put(path, {"payload": {"n": 2}})
    assert answer.status == 200
    assert answer.body == {
        "id": "a",
        "offset": node.offset,
        "replication_id": node.database.node.replication_id,
    }
    assert answer.headers["x-replication-offset"] == str(node.offset)
    assert node.get(path).body == {"id": "a", "vector": [0.1, 0.2, 0.3], "payload": {"n": 2}}
    node.put(path, {"vector": [1, 2, 3]})
    assert node.get(path).body == {"id": "a", "vector": [1.0, 2.0, 3.0], "payload": {"n": 2}}
    node.put(path, {"payload": None})
    assert node.get(path).body == {"id": "a", "vector": [1.0, 2.0, 3.0], "payload": None}
    node.put(path, {"vector": [3, 2, 1], "payload": {}})
    assert node.get(path).body == {"id": "a", "vector": [3.0, 2.0, 1.0], "payload": {}}
    assert node.get(one).body["vector_count"] == 1


def test_refused_replacements(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3]}]})
    before = node.offset
    for body, sentence in (
        ({}, "neither vector nor payload"),
        ({"vector": None}, "neither vector nor payload"),
        ({"vector": [1]}, "vector has 1 dimensions, the collection has 3"),
        ({"payload": 3}, "payload must be an object or null"),
        ({"vektor": [1]}, "did you mean vector?"),
    ):
        answer = node.put(one + "/vectors/a", body)
        assert answer.status == 400
        assert sentence in answer.body["message"]
    answer = node.put(one + "/vectors/b", {"vector": [1, 2, 3], "payload": {}})
    assert (answer.status, answer.body["error_type"]) == (404, "vector_not_found")
    assert node.offset == before


def test_delete_one(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3]}]})
    answer = node.delete(one + "/vectors/a")
    assert answer.body["deleted"] is True and answer.body["offset"] == node.offset == 3
    answer = node.delete(one + "/vectors/a")
    assert (answer.status, answer.body["details"]) == (404, {"vector": "a"})
    assert node.offset == 3


def test_delete_by_ids(node: RestNode) -> None:
    one = node.create()
    items = [{"id": f"{number}", "vector": [1, 2, number]} for number in range(5)]
    node.post(one + "/vectors", {"vectors": items})
    answer = node.post(one + "/vectors/delete", {"ids": ["1", "3", "3", "none"]})
    assert (answer.body["deleted"], answer.body["offset"]) == (2, 3)
    answer = node.post(one + "/vectors/delete", {"ids": ["1", "none"]})
    assert (answer.body["deleted"], answer.body["offset"]) == (0, 3), "changing nothing takes no offset"
    assert answer.headers["x-replication-offset"] == "3"
    assert [item["id"] for item in node.get(one + "/vectors").body["vectors"]].sort() == [
        "0",
        "2",
        "4",
    ].sort()


def test_delete_by_filter(node: RestNode) -> None:
    one = node.create()
    items = [{"id": f"{n}", "vector": [1, 2, n], "payload": {"n": n, "even": n % 2 == 0}} for n in range(20)]
    node.post(one + "/vectors", {"vectors": items})
    wanted = {"must": [{"key": "even", "match": {"value": True}}, {"key": "n", "range": {"lt": 10}}]}
    answer = node.post(one + "/vectors/delete", {"filter": wanted})
    assert (answer.status, answer.body["deleted"], answer.body["offset"]) == (200, 5, 3)
    left = {int(item["id"]) for item in node.get(one + "/vectors").body["vectors"]}
    assert left == set(range(20)) - {0, 2, 4, 6, 8}
    answer = node.post(one + "/vectors/delete", {"filter": wanted})
    assert (answer.body["deleted"], answer.body["offset"]) == (0, 3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "either ids or filter"),
        ({"ids": ["a"], "filter": {"must": [{"key": "a", "exists": True}]}}, "either ids or filter"),
        ({"ids": []}, "ids must be a list of 1 to"),
        ({"ids": ["a", 3]}, "ids[1] must be a string"),
        ({"ids": [None]}, "ids[0] must be a string of 1 to 256 bytes of UTF-8, not null"),
        ({"filter": {}}, "filter is empty"),
    ],
)
def test_refused_deletions(node: RestNode, body: Any, sentence: str) -> None:
    one = node.create()
    answer = node.post(one + "/vectors/delete", body)
    assert answer.status == 400
    assert sentence in answer.body["message"]


def test_delete_by_filter_spares_rows_that_changed_meanwhile(
    node: RestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = node.create()
    items = [{"id": f"{n}", "vector": [1, 2, n], "payload": {"state": "old"}} for n in range(5)]
    node.post(one + "/vectors", {"vectors": items})
    scan = vectors_module._matching

    def scan_then_change(*arguments: Any) -> Any:
        found = scan(*arguments)
        rows = [
            {"id": "1", "vector": [1, 1, 1], "payload": {"state": "new"}},
            {"id": "2", "vector": [1, 1, 1], "payload": {"state": "old", "more": 1}},
        ]
        limits = vectors_module.RowLimits(3, "cosine", 256, 1000)
        changed = vectors_module.rows_of_items(rows, limits, lambda: None)
        node.database.write(Upsert("c", changed))
        node.database.write(Delete("c", [b"3"]))
        return found

    monkeypatch.setattr(vectors_module, "_matching", scan_then_change)
    wanted = {"must": [{"key": "state", "match": {"value": "old"}}]}
    answer = node.post(one + "/vectors/delete", {"filter": wanted})
    assert answer.body["deleted"] == 3, "0 and 4 as they were, 2 because it matches again"
    assert [item["id"] for item in node.get(one + "/vectors").body["vectors"]] == ["1"]


@pytest.mark.parametrize(("ids_max", "operations"), [(20_000, 1), (40, 3), (31, 3), (30, 4), (1, 93)])
def test_delete_by_filter_over_sealed_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids_max: int, operations: int
) -> None:
    monkeypatch.setattr(vectors_module, "DELETED_IDS_MAX", ids_max)
    node = RestNode(tmp_path / "data", index__segment_rows=16)
    node.start()
    one = node.create()
    for start in range(0, 100, 10):
        items = [{"id": f"{n}", "vector": [1, 2, n], "payload": {"n": n}} for n in range(start, start + 10)]
        node.post(one + "/vectors", {"vectors": items})
    with gevent.Timeout(20):
        while node.get(one).body["indexing_status"]["segments"] == 0:
            gevent.sleep(0.05)
    before = node.database.node.offset
    answer = node.post(one + "/vectors/delete", {"filter": {"must": [{"key": "n", "range": {"gte": 7}}]}})
    assert answer.body["deleted"] == 93
    frames = node.database.node.log.read(before, 1 << 20, answer.body["offset"]) or []
    deletions = [decode_entry(codec.decode(frame.body_of(item))).operation for item in frames]
    assert sum(isinstance(item, Delete) for item in deletions) == operations
    assert sorted(item["id"] for item in node.get(one + "/vectors").body["vectors"]) == [
        f"{n}" for n in range(7)
    ]
    node.stop()


def test_rows_of_a_chunk_that_was_merged_away_are_asked_again(node: RestNode) -> None:
    one = node.create()
    items = [{"id": f"{n}", "vector": [1, 2, n], "payload": {"n": n}} for n in range(4)]
    node.post(one + "/vectors", {"vectors": items})
    collection = node.database.collection("c")
    parsed = parse_filter({"must": [{"key": "n", "range": {"lt": 2}}]}, "filter", 1)
    gone = chunk_of([{"n": 0}, {"n": 1}, {"n": 1}])
    found = vectors_module.Found(gone, np.arange(3), [b"0", b"3", b"none"])
    assert vectors_module._unchanged(collection, parsed, [found]) == [b"0"]


# -- pages ---------------------------------------------------------------------------------------------------


def pages(node: RestNode, one: str, limit: int) -> list[str]:
    ids: list[str] = []
    cursor = ""
    while True:
        body = node.get(f"{one}/vectors?limit={limit}{cursor}").body
        assert len(body["vectors"]) <= limit
        ids.extend(item["id"] for item in body["vectors"])
        if body["next_cursor"] is None:
            return ids
        cursor = f"&cursor={body['next_cursor']}"


def test_pages_give_everything_once_in_a_fixed_order(node: RestNode) -> None:
    one = node.create()
    assert node.get(one + "/vectors").body == {"vectors": [], "next_cursor": None}
    node.post(one + "/vectors", {"vectors": [{"id": f"é/{n}", "vector": [1, 2, n]} for n in range(600)]})
    whole = pages(node, one, 1000)
    assert sorted(whole) == sorted(f"é/{n}" for n in range(600))
    for limit in (1, 7, 600, 599):
        if limit > 1:
            assert pages(node, one, limit) == whole
    first = node.get(one + "/vectors?limit=100").body
    gone = first["vectors"][-1]["id"]
    node.delete(path_of(one, gone))
    rest = node.get(f"{one}/vectors?limit=1000&cursor={first['next_cursor']}").body
    assert [item["id"] for item in rest["vectors"]] == whole[100:]
    assert len(node.get(one + "/vectors").body["vectors"]) == 100, "the default"


def test_a_page_ends_early_when_it_grows_too_large(node: RestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": f"{n}", "vector": [1, 2, n]} for n in range(50)]})
    monkeypatch.setattr(vectors_module, "PAGE_BYTES_MAX", 5000)
    body = node.get(one + "/vectors?limit=50").body
    assert 1 < len(body["vectors"]) < 50
    assert body["next_cursor"] is not None
    assert len(pages(node, one, 50)) == 50


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("limit=0", "query parameter limit must be a whole number from 1 to 10000, not 0"),
        ("limit=10001", "not 10001"),
        ("limit=x", "not 'x'"),
        ("limits=1", "did you mean limit?"),
        ("cursor=%21", "was not given out by this API"),
        ("cursor=a", "was not given out by this API"),
        ("cursor=", "query parameter cursor must be"),
        ("cursor=%FF", "the query string is not UTF-8"),
    ],
)
def test_refused_pages(node: RestNode, query: str, sentence: str) -> None:
    answer = node.get(f"{node.create()}/vectors?{query}")
    assert answer.status == 400
    assert sentence in answer.body["message"]


# -- anything at all -----------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=4), st.sampled_from(["vectors", "vector", "id", "ids", "payload", "filter"])
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


def test_nothing_a_client_sends_is_a_server_error(node: RestNode) -> None:
    one = node.create()
    node.post(one + "/vectors", {"vectors": [{"id": "a", "vector": [1, 2, 3]}]})

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        ANYTHING,
        st.sampled_from(["vectors", "vectors/delete", "search", "search/batch", "vectors/a"]),
        st.booleans(),
    )
    def check(document: Any, path: str, bson: bool) -> None:
        method = "PUT" if path == "vectors/a" else "POST"
        as_bson = bson and isinstance(document, dict) and not any("\0" in key for key in keys(document))
        answer = node.request(method, f"{one}/{path}", document, kind=BSON if as_bson else "application/json")
        assert answer.status < 500, answer.body

    check()


def keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in keys(item))]
    return [key for item in value for key in keys(item)] if isinstance(value, list) else []
