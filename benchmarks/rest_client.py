"""A lean HTTP client: a kept-alive socket, whole requests as bytes, answers cut by Content-Length.

http.client spends more on a request than the server does; measured with it, the client would be the
bottleneck.
"""

from __future__ import annotations

import socket
from typing import Any

import bson
import orjson

HOST = "127.0.0.1"
JSON = "application/json"
BSON = "application/bson"
TIMEOUT_SECS = 120.0
RECEIVE_BYTES = 1 << 18
_LENGTH = b"content-length:"


class RequestFailed(Exception):
    """The server answered with another status than was expected, or not at all."""


def request_bytes(method: str, path: str, body: bytes | None = None, kind: str = JSON) -> bytes:
    """A whole request, as it goes over the line."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def whole_length(received: bytes | bytearray) -> int:
    """Bytes of the answer that begins here, headers included; 0 = its headers are not complete yet."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return 0
    head = bytes(received[:end]).lower()
    place = head.find(_LENGTH)
    if place < 0:
        raise RequestFailed(f"an answer without Content-Length: {head[:200]!r}")
    length = head[place + len(_LENGTH) :].split(b"\r\n", 1)[0]
    return end + 4 + int(length)


def connect(port: int) -> socket.socket:
    """A connection that does not wait for more to send."""
    sock = socket.create_connection((HOST, port), TIMEOUT_SECS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class RestClient:
    """One kept-alive connection; one request at a time, blocking."""

    def __init__(self, port: int) -> None:
        self._sock = connect(port)
        self._received = bytearray()

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def exchange(self, request: bytes, status: int = 200) -> bytes:
        """Send a whole request, return the body of its answer; RequestFailed for another status."""
        self._sock.sendall(request)
        received, length = self._received, 0
        while not length or len(received) < length:
            piece = self._sock.recv(RECEIVE_BYTES)
            if not piece:
                raise RequestFailed("the connection was closed before the answer was complete")
            received += piece
            length = length or whole_length(received)
        answer = bytes(received[:length])
        del received[:length]
        if int(answer[9:12]) != status:
            raise RequestFailed(answer[:1000].decode(errors="replace"))
        return answer[answer.index(b"\r\n\r\n") + 4 :]

    def get(self, path: str) -> Any:
        """GET; the JSON document of the answer."""
        return orjson.loads(self.exchange(request_bytes("GET", path)))

    def post(self, path: str, document: Any, status: int = 200) -> Any:
        """POST of JSON; the JSON document of the answer."""
        return orjson.loads(self.exchange(request_bytes("POST", path, orjson.dumps(document)), status))

    def post_bson(self, path: str, body: bytes) -> Any:
        """POST of BSON that is encoded already; the document of the answer."""
        return bson.decode(self.exchange(request_bytes("POST", path, body, BSON)))
