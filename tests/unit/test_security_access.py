"""Keys at the door of the REST interface: which route needs which, and what is answered without."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.unit.running import wait_until
from tests.unit.served import Served
from tests.unit.test_security_keys import run, written
from vectorizer.errors import ConfigurationError
from vectorizer.keys import ROLES, Level, new_key
from vectorizer.rest.access import OPEN, needed
from vectorizer.rest.app import RestApp
from vectorizer.rest.measured import template_of
from vectorizer.server import Server
from vectorizer.settings import Settings

Serve = Callable[..., Served]


def ask(
    node: Served, method: str, path: str, document: Any = None, **headers: str
) -> tuple[int, dict[str, str], Any]:
    """(status, headers, body); headers are given with _ for -."""
    connection = HTTPConnection(*node.server.rest_address, timeout=10)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None if document is None else orjson.dumps(document)
        connection.request(method, path, body, {"Content-Type": "application/json", **given})
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        data = answer.read()
        return answer.status, names, orjson.loads(data) if names["content-type"].endswith("json") else data
    finally:
        connection.close()


@pytest.fixture
def guarded(serve: Serve, tmp_path: Path) -> tuple[Served, dict[str, str]]:
    """A server with one key for each role, named by it."""
    made = {role: new_key(role, role, 0) for role in ROLES}
    (tmp_path / "one").mkdir()
    written(tmp_path / "one" / "keys", *(key for key, _ in made.values()))
    return serve("one"), {role: token for role, (_, token) in made.items()}


ASKED = [
    ("GET", "/collections", None, Level.READ),
    ("GET", "/replication/status", None, Level.READ),
    ("GET", "/metrics", None, Level.READ),
    ("POST", "/collections/none/search", {"vector": [1]}, Level.READ),
    ("POST", "/collections", {"name": "c", "dimension": 2}, Level.WRITE),
    ("PUT", "/collections/none/vectors/a", {"payload": {}}, Level.WRITE),
    ("DELETE", "/collections/none", None, Level.WRITE),
    ("POST", "/replication/configure", {"log_size": 77}, Level.ADMIN),
    ("POST", "/replication/promote", {}, Level.ADMIN),
    ("POST", "/replication/follow", {}, Level.ADMIN),
]


def test_roles_are_levels(guarded: tuple[Served, dict[str, str]]) -> None:
    node, tokens = guarded
    for method, path, document, level in ASKED:
        status, headers, body = ask(node, method, path, document)
        assert (status, body["error_type"]) == (401, "unauthorized"), path
        assert headers["www-authenticate"] == 'Bearer realm="vectorizer"'
        for role in ROLES:
            status, _, body = ask(node, method, path, document, X_API_Key=tokens[role])
            if Level[role.upper()] >= level:
                assert status not in (401, 403), (path, role, body)
            else:
                assert (status, body["error_type"]) == (403, "forbidden"), (path, role)
                assert body["details"] == {"role": role, "needed": level.word}


def test_health_and_probes_stay_open(guarded: tuple[Served, dict[str, str]]) -> None:
    node, _ = guarded
    for path in ("/health", "/primary", "/readiness", "/liveness"):
        assert ask(node, "GET", path)[0] == 200
    assert ask(node, "GET", "/replica")[0] == 503
    assert ask(node, "GET", "/nothing")[0] == 404
    assert ask(node, "PATCH", "/collections")[0] == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"X_API_Key": ""},
        {"X_API_Key": "vz_00000000_" + "A" * 43},
        {"X_API_Key": "x" * 8000},
        {"X_API_Key": "\xe4\xf6"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer  "},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "TOKEN"},
        {"Authorization": "Bearer TOKEN, Bearer TOKEN"},
        {"X_API_Key": "nonsense", "Authorization": "Bearer TOKEN"},
    ],
)
def test_what_is_no_key(guarded: tuple[Served, dict[str, str]], headers: dict[str, str]) -> None:
    node, tokens = guarded
    sent = {name: value.replace("TOKEN", tokens["admin"]) for name, value in headers.items()}
    status, told, body = ask(node, "GET", "/collections", **sent)
    assert (status, body["error_type"]) == (401, "unauthorized")
    assert told["www-authenticate"].startswith("Bearer")
    assert tokens["admin"] not in str(body)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_bearer_is_as_good(guarded: tuple[Served, dict[str, str]], scheme: str) -> None:
    node, tokens = guarded
    assert ask(node, "GET", "/collections", Authorization=f"{scheme} {tokens['read']}")[0] == 200


def test_without_a_key_nothing_of_the_request_is_looked_at(guarded: tuple[Served, dict[str, str]]) -> None:
    """Not the body, which would never come, nor the query, nor whether the collection exists."""
    node, _ = guarded
    with socket.create_connection(node.server.rest_address, timeout=10) as sock:
        head = (
            "POST /collections/none/vectors?limt=1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        )
        sock.sendall(f"{head}Content-Length: 8000000\r\n\r\n".encode())
        assert sock.recv(1000).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 409),
        ({"Sec_Fetch_Site": "same-origin", "Origin": "https://rewritten.by.a.proxy"}, 409),
        ({"Sec_Fetch_Site": "none"}, 409),
        ({"Origin": "http://node:15002"}, 409),
        ({"Sec_Fetch_Site": "cross-site", "Origin": "http://evil.example"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://node:8000"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_change_nothing(serve: Serve, headers: dict[str, str], status: int) -> None:
    """Not where no key is asked for, either: a browser posts to any address without asking."""
    node = serve("one")
    assert ask(node, "POST", "/replication/switchover", Host="node:15002", **headers)[0] == status
    assert ask(node, "GET", "/collections", Host="node:15002", **headers)[0] == 200


def test_keys_count_as_soon_as_there_are_any_and_no_longer_than_that(serve: Serve, tmp_path: Path) -> None:
    node = serve("one")
    assert ask(node, "GET", "/collections")[0] == 200
    token = run("add", "--name", "r", "--data-dir", str(tmp_path / "one")).stdout.strip()
    wait_until(lambda: ask(node, "GET", "/collections")[0] == 401, 3)
    assert ask(node, "GET", "/collections", X_API_Key=token)[0] == 200
    assert run("revoke", "r", "--data-dir", str(tmp_path / "one")).returncode == 0
    wait_until(lambda: ask(node, "GET", "/collections", X_API_Key=token)[0] == 401, 3)
    node.restart()
    assert ask(node, "GET", "/collections")[0] == 401, "an empty list of keys is not an open door"


def test_require_auth_needs_a_key_on_this_machine_too(serve: Serve) -> None:
    node = serve("one", security__require_auth=True)
    assert ask(node, "GET", "/collections")[0] == 401


def test_require_auth_refuses_to_start_beyond_this_machine_without_keys(tmp_path: Path) -> None:
    values = {"server.port": 0, "server.host": "0.0.0.0", "storage.data_dir": str(tmp_path / "one")}
    with pytest.raises(ConfigurationError, match="holds no API key"):
        Server(Settings().replaced({**values, "security.require_auth": True}))
    assert run("add", "--role", "admin", "--data-dir", str(tmp_path / "one")).returncode == 0
    server = Server(Settings().replaced({**values, "security.require_auth": True}))
    server.start()
    server.stop()


def test_the_level_of_every_route(serve: Serve) -> None:
    """Whoever adds a route finds here who may use it."""
    node = serve("one")
    by_level: dict[Level | None, set[str]] = {None: set(), **{level: set() for level in Level}}
    for route in RestApp(node.server.database, node.server.status).routes:
        by_level[needed(route)].add(f"{route.method} {template_of(route.path)}")
    assert by_level[None] <= {f"GET {path}" for path in OPEN}
    assert all(name.startswith("POST /replication/") for name in by_level[Level.ADMIN])
    assert not any(name.startswith("GET") for name in by_level[Level.WRITE])
    reading = {name for name in by_level[Level.READ] if not name.startswith("GET")}
    assert {name for name in reading if "search" not in name} == set()
