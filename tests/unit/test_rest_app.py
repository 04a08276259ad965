"""Routing, roles and errors of the REST application; health and replication routes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
import orjson
import pytest

from tests.unit.rest_client import BSON, Control, RestNode
from vectorizer import __version__, logs
from vectorizer.node import Role
from vectorizer.rest.app import RestApp
from vectorizer.rest.schema import Table

WRITES = [
    ("POST", "/collections"),
    ("DELETE", "/collections/c"),
    ("POST", "/collections/c/vectors"),
    ("POST", "/collections/c/vectors/delete"),
    ("PUT", "/collections/c/vectors/a%FF"),
    ("DELETE", "/collections/c/vectors/a"),
]
READS = [
    "/collections",
    "/collections/c",
    "/collections/c/vectors",
    "/collections/c/vectors/a",
    "/collections/c/digest",
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RestNode]:
    running = RestNode(tmp_path / "data")
    running.start()
    yield running
    running.stop()


def test_health(node: RestNode) -> None:
    body = node.get("/health").body
    assert body.pop("uptime_seconds") >= 0
    assert body == {"status": "ok", "role": "standalone", "version": __version__}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("HEAD", "/replication/status", "GET"),
        ("PATCH", "/collections", "GET, POST"),
        ("HEAD", "/collections/c", "GET, DELETE"),
        ("OPTIONS", "/collections/c/vectors", "GET, POST"),
        ("PATCH", "/collections/c/vectors/a/b", "GET, PUT, DELETE"),
        ("POST", "/collections/c/vectors/a", "GET, PUT, DELETE"),
        ("PATCH", "/collections/c/vectors/delete", "GET, POST, PUT, DELETE"),
        ("GET", "/collections/c/search", "POST"),
        ("ANY", "/health", "GET, HEAD"),
        ("PROXY", "/health", "GET, HEAD"),
        ("DELETE", "/replication/configure", "POST"),
    ],
)
def test_other_methods(node: RestNode, method: str, path: str, allow: str) -> None:
    answer = node.request(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    if method != "HEAD":
        assert answer.body["error_type"] == "method_not_allowed"
        assert answer.body["details"] == {"allow": allow.split(", ")}


def test_head_tells_the_length_that_get_has(node: RestNode) -> None:
    for path in ("/liveness", "/primary", "/nothing"):
        head, got = node.request("HEAD", path), node.request("GET", path)
        assert (head.status, head.headers["content-length"]) == (got.status, got.headers["content-length"])
        assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/collections/", "/collections/c/", "/collections/c/nothing", "//"]
)
def test_unknown_paths(node: RestNode, path: str) -> None:
    answer = node.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == {
        "error_type": "path_not_found",
        "message": f"there is nothing at {path}",
        "status_code": 404,
    }


def test_collection_names_in_paths(node: RestNode) -> None:
    node.create("c")
    assert node.get("/collections/%63").body["name"] == "c"
    for path, status in (("/collections/a%2Fb", 404), ("/collections/%FF", 400), ("/collections/%zz", 400)):
        assert node.get(path).status == status


def test_unknown_query_parameters_are_refused_everywhere(node: RestNode) -> None:
    node.create("c")
    for path in ["/health", "/replication/status", *READS]:
        answer = node.get(path + "?limt=1")
        assert answer.status == 400, path
        assert "unknown query parameter 'limt'" in answer.body["message"]


@pytest.mark.parametrize(
    ("raw", "kind", "status", "sentence"),
    [
        (b"", "application/json", 400, "the body is empty"),
        (b"{", "application/json", 400, "not valid JSON"),
        (b'{"a":"\xff"}', "application/json", 400, "not valid JSON"),
        (
            b"{}",
            "text/plain",
            415,
            "Content-Type 'text/plain' is not supported here; accepted: application/json",
        ),
        (b"{}", BSON, 415, "accepted: application/json"),
        (b"[" * 40 + b"]" * 40, "application/json", 400, "nested more than 32 levels"),
        (b" " * 9_000_000, "application/json", 413, "the body has 9000000 bytes, the limit is 8388608"),
    ],
)
def test_bodies_that_are_refused(node: RestNode, raw: bytes, kind: str, status: int, sentence: str) -> None:
    answer = node.post("/collections", raw=raw, kind=kind)
    assert answer.status == answer.body["status_code"] == status
    assert sentence in answer.body["message"]
    assert node.offset == 0
    assert node.get("/health").status == 200, "the connection is kept or made anew"


def test_errors_are_json_whatever_is_accepted(node: RestNode) -> None:
    answer = node.request("POST", "/collections/none/vectors", {}, accept=BSON)
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    one = node.create()
    answer = node.post(one + "/vectors", raw=b"\x05\0\0\0", kind=BSON, accept=BSON)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")


def test_a_replica_refuses_writes_before_anything_else(node: RestNode) -> None:
    node.create("c")
    node.database.node.role = Role.REPLICA
    node.database.node.master_url = "http://10.0.0.1:15002"
    for method, path in WRITES:
        answer = node.request(method, path, raw=b"{" if method != "DELETE" else None)
        assert (answer.status, answer.body["error_type"]) == (403, "read_only_replica"), path
        assert answer.headers["x-vectorizer-master"] == "http://10.0.0.1:15002"
        assert answer.body["details"] == {"master": "http://10.0.0.1:15002"}
    for path in READS[:3]:
        assert node.get(path).status == 200
    assert node.offset == 1


def test_a_replica_may_send_writers_to_its_master(tmp_path: Path) -> None:
    node = RestNode(tmp_path / "data", replication__replica_writes="redirect")
    node.start()
    node.database.node.role = Role.REPLICA
    assert node.post("/collections", {}).status == 403, "no master known"
    node.database.node.master_url = "http://10.0.0.1:15002/"
    for method, path in WRITES:
        answer = node.request(method, path + "?a=%20", raw=b"{}")
        assert answer.status == 307
        assert answer.headers["location"] == f"http://10.0.0.1:15002{path}?a=%20"
    node.stop()


def test_without_complete_data_there_are_no_reads(node: RestNode) -> None:
    node.create("c")
    node.database.node.has_complete_data = False
    for path in READS:
        answer = node.get(path)
        assert (answer.status, answer.body["error_type"]) == (503, "syncing"), path
        assert answer.headers["retry-after"] == "1"
    assert node.post("/collections/c/search", {"vector": [1, 2, 3]}).status == 503
    assert node.get("/health").status == node.get("/replication/status").status == 200


def test_a_bug_is_a_500_that_says_nothing_but_is_logged(
    node: RestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(collection: object) -> None:
        raise KeyError("secret")

    node.create("c")
    monkeypatch.setattr("vectorizer.rest.collections.describe", fail)
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    try:
        answer = node.get("/collections")
    finally:
        logs.configure("info", "text")
    assert (answer.status, answer.body["error_type"]) == (500, "internal_error")
    assert b"secret" not in answer.raw
    assert "request_failed method=GET path=/collections error=KeyError('secret')" in stream.getvalue()


def test_replication_routes(node: RestNode) -> None:
    assert node.get("/replication/status").body == {"role": "Standalone", "enabled": False}
    assert node.get("/replication/stats").body == {"asked": "stats"}
    assert node.get("/replication/replicas").body == {"replicas": [], "count": 0}
    answer = node.post("/replication/configure", {"role": "master"})
    assert (answer.status, answer.body) == (200, {"success": True, "role": "master"})
    answer = node.post("/replication/configure", [1])
    assert (answer.status, answer.body["message"]) == (400, "the body must be an object, not a list")
    answer = node.post("/replication/configure", {"rol": "master"})
    assert (answer.status, answer.body["error_type"]) == (400, "validation_error")
    assert "unknown key 'rol'" in answer.body["message"]
    assert answer.body["details"] == {"key": "rol", "accepted": "settings", "nearest": "role"}


def test_requests_at_the_same_time_do_not_meet(node: RestNode) -> None:
    one = node.create()

    def work(worker: int) -> None:
        connection = HTTPConnection(node.server.host, node.server.port, timeout=30)

        def send(method: str, path: str, document: Any = None) -> Any:
            body = None if document is None else orjson.dumps(document)
            connection.request(method, one + path, body, {"Content-Type": "application/json"})
            return orjson.loads(connection.getresponse().read())

        for step in range(25):
            id_ = f"{worker}/{step}"
            vector = [worker + 1.0, step, 0.5]
            written = send("POST", "/vectors", {"vectors": [{"id": id_, "vector": vector}]})
            assert written["ids"] == [id_]
            assert send("PUT", f"/vectors/{id_}", {"payload": {"worker": worker}})["id"] == id_
            got = send("GET", f"/vectors/{id_}")
            assert got == {"id": id_, "vector": vector, "payload": {"worker": worker}}
            found = send("POST", "/search", {"id": id_, "limit": worker + 1})
            assert found["limit"] == worker + 1
        connection.close()

    workers = [gevent.spawn(work, number) for number in range(8)]
    gevent.joinall(workers, raise_error=True)
    assert node.offset == 1 + 8 * 25 * 2
    assert node.get(one).body["vector_count"] == 8 * 25


def test_every_route_is_documented(node: RestNode) -> None:
    text = (Path(__file__).parents[2] / "docs" / "REST.md").read_text(encoding="utf-8")
    for route in RestApp(node.database, Control()).routes:
        path = re.sub(r"<(\w+)[^>]*>", r"{\1}", route.path)
        assert f"`{route.method} {path}" in text, f"docs/REST.md lacks {route.method} {path}"
        assert route.help
        for body in route.bodies:
            # The settings of replication, which are not a table, are described in CONFIGURATION.md.
            for name in body.fields if isinstance(body, Table) else ():
                assert re.search(rf"\b{name}\b", text), f"docs/REST.md lacks the field {name} of {body.name}"
