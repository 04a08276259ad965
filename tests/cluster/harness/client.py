"""A keep-alive HTTP client that says which of three things happened: answered, never sent, in doubt.

A test that compares a database with what its clients were told must know the difference between a request
that certainly was not carried out and one of which nobody knows.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import bson
import orjson

JSON = "application/json"
BSON = "application/bson"


class NotSent(OSError):
    """No connection could be made: the request was certainly not carried out."""


class InDoubt(OSError):
    """The request left, no answer came: it may or may not have been carried out."""


class Refused(AssertionError):
    """The server answered with an error status where success was expected."""

    def __init__(self, answer: Answer, request: str) -> None:
        super().__init__(f"{request}: {answer.status} {answer.body}")
        self.answer = answer
        body = answer.body if isinstance(answer.body, dict) else {}
        self.error_type: str = body.get("error_type", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the server; `body` decoded by its Content-Type (else text)."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Client:
    """Requests to one node at (host, port), one kept-alive connection for each thread or greenlet."""

    def __init__(self, host: str, port: int, timeout_secs: float = 15.0) -> None:
        self.host = host
        self.port = port
        self.timeout_secs = timeout_secs
        self.connect: Callable[..., socket.socket] = socket.create_connection
        """How a connection is made; another one where the node lives on another host."""
        self._local = threading.local()

    def request(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        raw: bytes | None = None,
        content_type: str | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request and read its answer; `raw` replaces the encoded `document`."""
        kind = content_type or JSON
        body = raw
        if body is None and document is not None:
            body = bson.encode(document) if kind == BSON else orjson.dumps(document)
        sent_headers = dict(headers or {})
        if body is not None:
            sent_headers["Content-Type"] = kind
        if accept:
            sent_headers["Accept"] = accept
        connection = self._connected()
        try:
            connection.request(method, path, body=body, headers=sent_headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise InDoubt(f"{method} {path}: {error!r}") from error
        if response.will_close:
            self.close()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, _decoded(data, names.get("content-type", "")), names)

    def close(self) -> None:
        """Drop this greenlet's connection; the next request makes a new one."""
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_secs)
            try:
                connection.sock = self.connect((self.host, self.port), self.timeout_secs)
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                raise NotSent(f"connect to {self.host}:{self.port}: {error!r}") from error
            self._local.connection = connection
        return connection

    def get(self, path: str) -> Any:
        """The body of a successful GET; Refused on an error status."""
        return self.ask("GET", path, None)

    def post(self, path: str, document: Any) -> Any:
        """The body of a successful POST; Refused on an error status."""
        return self.ask("POST", path, document)

    def put(self, path: str, document: Any) -> Any:
        """The body of a successful PUT; Refused on an error status."""
        return self.ask("PUT", path, document)

    def delete(self, path: str) -> Any:
        """The body of a successful DELETE; Refused on an error status."""
        return self.ask("DELETE", path, None)

    def post_bson(self, path: str, document: Any) -> Any:
        """POST a BSON body, BSON answer wanted; Refused on an error status."""
        answer = self.request("POST", path, document, content_type=BSON, accept=BSON)
        if answer.status >= 300:
            raise Refused(answer, f"POST {path} (bson)")
        return answer.body

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """The body of a successful answer; Refused on an error status."""
        answer = self.request(method, path, document)
        if answer.status >= 300:
            raise Refused(answer, f"{method} {path}")
        return answer.body


def vector_path(collection: str, vector_id: str) -> str:
    """The path of one vector, its id percent-encoded."""
    return f"/collections/{collection}/vectors/{quote(vector_id, safe='')}"


def _decoded(data: bytes, content_type: str) -> Any:
    if content_type.startswith(BSON):
        return bson.decode(data)
    if content_type.startswith(JSON) and data:
        return orjson.loads(data)
    return data.decode("utf-8", "replace")
