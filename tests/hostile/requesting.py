"""Requests as bytes, given to the application that the server runs: routes, bodies, rows, and the writes.

An input is a line "METHOD target", lines "Header: value", an empty line and a body. What pywsgi would make of
them is made here; everything from the routes down is the server's own, on a data directory on a real disk.
"""

from __future__ import annotations

import atexit
import json
import logging
import re
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import bson
import gevent
import numpy as np

from tests.unit.rest_client import Control, RestNode
from vectorizer.rest.app import RestApp
from vectorizer.rest.paths import RAW_TARGET

ANSWER_BYTES_MAX = 4 << 20
ROWS_MAX = 5000
WAIT_SECS = 0.2
"""So long a request that asks to wait is waited for; no other one waits at all."""
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD")


class Application:
    """One node's application, made anew when its data has grown."""

    def __init__(self) -> None:
        logging.getLogger("vectorizer").setLevel(logging.CRITICAL)
        self._folder = tempfile.TemporaryDirectory()
        atexit.register(self._folder.cleanup)
        self._number = 0
        self._start()

    def _start(self) -> None:
        self._number += 1
        path = Path(self._folder.name, str(self._number))
        self.node = RestNode(path, storage__fsync="never", limits__collections_max=20)
        self.node.database.start()
        self.application = RestApp(self.node.database, Control())
        for request in (_json("POST /collections", {"name": "c", "dimension": 3}), *json_seeds()[1:3]):
            self.answer(request)

    def answer(self, data: bytes) -> tuple[str, dict[str, str], bytes]:
        """Status, headers, body."""
        given: list[Any] = []
        environ = environ_of(data)
        body = self.application(environ, lambda status, headers, *about: given.append((status, headers)))
        content = b"".join(body)
        ((status, headers),) = given
        return status, dict(headers), content

    def renew(self) -> None:
        """A new data directory, if the old one has grown."""
        store = self.node.database.node.store
        rows = sum(collection.appended_rows for collection in store.collections.values())
        if rows > ROWS_MAX or "c" not in store.collections:
            self.node.server.close()
            self.node.database.close()
            self._start()


def environ_of(data: bytes) -> dict[str, Any]:
    """The request as a WSGI server hands it on."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method if method in METHODS else "POST",
        "PATH_INFO": path or "/",
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "15002",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        RAW_TARGET: target,
    }
    for line in lines:
        name, _, value = line.partition(":")
        name = name.strip().upper().replace("-", "_")
        environ[name if name == "CONTENT_TYPE" else f"HTTP_{name}"] = value.strip()
    environ.pop("HTTP_CONTENT_LENGTH", None)
    return environ


def take() -> Any:
    """Any request gets an answer of the interface: never 500, never another form than JSON or BSON."""
    application = Application()

    def take_one(data: bytes) -> None:
        try:
            with gevent.Timeout(WAIT_SECS):
                status, headers, content = application.answer(data)
        except gevent.Timeout:
            asked = environ_of(data)
            assert {"wait", "min_offset", "replication_id"} & set(re.split(r"[/?&=]", asked[RAW_TARGET])), (
                "hangs"
            )
            return
        code = int(status[:3])
        assert 200 <= code < 500 or code in (503, 507), f"{status}: {content[:300]!r}"
        assert len(content) < ANSWER_BYTES_MAX, f"an answer of {len(content)} bytes"
        kind = headers.get("Content-Type", "")
        if content and kind.startswith("application/json"):
            document = json.loads(content)
        elif content and kind == "application/bson":
            document = bson.decode(content)
        else:
            document = {}
        if code >= 400 and content:
            assert document.keys() >= {"error_type", "message", "status_code"}, document
            assert document["status_code"] == code
            assert len(document["message"]) < 2000, "an endless sentence"
        application.renew()

    return take_one


def _json(first: str, document: Any, *headers: str) -> bytes:
    lines = [first, "Content-Type: application/json", *headers]
    return "\n".join(lines).encode() + b"\n\n" + json.dumps(document).encode()


def _bson(first: str, document: Any, *headers: str) -> bytes:
    lines = [first, "Content-Type: application/bson", *headers]
    return "\n".join(lines).encode() + b"\n\n" + bson.encode(document)


_ROWS = [
    {"id": f"id-{number}", "vector": [1.0, number, 0.5], "payload": {"n": number}} for number in range(4)
]
_FILTER = {
    "must": [{"key": "n", "range": {"gte": 1, "lt": 3}}],
    "must_not": [{"key": "n", "match": {"value": 2}}],
}


def json_seeds() -> list[bytes]:
    """A request of each kind."""
    c = "/collections/c"
    return [
        _json("POST /collections", {"name": "d", "dimension": 4, "metric": "dot", "segment_rows": 64}),
        _json(f"POST {c}/vectors", {"vectors": _ROWS}),
        _json(f"POST {c}/vectors?wait=0", {"vectors": [{"id": "x", "vector": [0, 1, 2]}]}),
        _json(f"PUT {c}/vectors/id-1", {"payload": {"also": ["this", {"and": None}]}}),
        _json(f"POST {c}/search", {"vector": [1, 0, 0], "limit": 3, "filter": _FILTER}),
        _json(f"POST {c}/search/batch", {"searches": [{"vector": [1, 0, 0], "limit": 2}] * 3}),
        _json(f"POST {c}/vectors/delete", {"ids": ["id-1", "nobody"]}),
        _json("POST /replication/configure", {"role": "master", "log_size": 10}),
        b"GET /collections/c/vectors?limit=2&cursor=abc\nAccept: application/bson\n\n",
        b"GET /collections/c/vectors/id-2\nX-Min-Offset: 1\n\n",
        b"GET /collections/c\n\n",
        b"DELETE /collections/c/vectors/id-3\n\n",
        b"DELETE /collections/d\n\n",
        b"GET /replication/status\n\n",
        b"GET /openapi.json\n\n",
        b"GET /collections/c/digest\n\n",
    ]


def bson_seeds() -> list[bytes]:
    """The routes that take BSON."""
    c, packed = "/collections/c", np.array([1.0, 2.0, 3.0], "<f4").tobytes()
    rows = [{"id": f"id-{number}", "vector": packed, "payload": {"n": number}} for number in range(4)]
    listed = [{"id": "y", "vector": [1.0, 2.0, 3.0]}]
    return [
        _bson(f"POST {c}/vectors", {"vectors": rows}),
        _bson(f"POST {c}/vectors", {"vectors": listed}, "Accept: application/bson"),
        _bson(f"POST {c}/search", {"vector": packed, "limit": 3, "filter": _FILTER}),
        _bson(f"POST {c}/search/batch", {"searches": [{"vector": packed, "limit": 2}] * 3}),
        _bson(f"PUT {c}/vectors/id-1", {"vector": packed, "payload": {"x": b"binary"}}),
    ]
