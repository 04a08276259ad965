"""HTTP on one connection: pywsgi's handler, made strict, bounded and quiet.

What differs from pywsgi's own:

- the request line and the headers together are bounded, in bytes and in time, and parsed without the email
package;
- anything ambiguous about where a body ends is refused, so that no proxy can be made to see other requests
than we;
- every error is JSON, and nothing a client does is logged with a traceback;
- a body that nobody read is read to its end within bounds, so that the client gets its answer instead of a
reset;
- the request target reaches the application as it was sent.
"""

from __future__ import annotations

import re
import socket as stdlib_socket
from collections.abc import Iterator
from http import HTTPStatus
from io import BytesIO
from typing import Any

import gevent
from gevent import GreenletExit, pywsgi

from vectorizer import logs
from vectorizer.rest.bodies import JSON, encode_json
from vectorizer.rest.paths import RAW_TARGET

LINE_BYTES_MAX = 8190
HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers."""
HEADERS_MAX = 100
DRAIN_BYTES_MAX = 64 * 1024 * 1024
"""Of an unread body at most so much is read before the connection is closed."""
DRAIN_SECS = 5.0
SENT_AT_ONCE = 64 * 1024
"""Answers up to this size go out in one call with their headers."""

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\r?\n", re.DOTALL)
_VALUE_BAD = re.compile(r"[\x00\r\n]")

log = logs.get(__name__)


class Headers:
    """The headers of a request, in the form that pywsgi asks for."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self.fields = fields
        self.status = ""

    @property
    def typeheader(self) -> str | None:
        """Content-Type."""
        return self.get("content-type")

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a header."""
        return next((value for key, value in self.fields if key == name.lower()), default)

    getheader = get

    def get_all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.fields if key == name]


class BadRequest(ValueError):
    """The request is not HTTP as it should be; ``status`` is the answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# Its stubs know less than half of what a subclass needs, so it is taken as it is.
_Handler: Any = pywsgi.WSGIHandler


class RestHandler(_Handler):  # type: ignore[misc]
    """Reads requests from one connection, one after the other."""

    wsgi_input: Any
    idle = False
    """True while the connection waits for the next request."""

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        sock.setsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_NODELAY, 1)
        # Bounds each single wait for the client, also for it to take its answer.
        sock.settimeout(server.request_timeout_secs)
        self._head_bytes = 0
        self._deadline: gevent.Timeout | None = None
        super().__init__(sock, address, server)

    def handle(self) -> None:
        """All requests of the connection."""
        self.server.handlers.add(self)
        try:
            super().handle()
        except OSError as error:
            log.debug("connection_lost", client=str(self.client_address), reason=repr(error))
        finally:
            self.server.handlers.discard(self)

    def log_request(self) -> None:
        """Requests are not logged."""

    # -- reading ---------------------------------------------------------------------------------------------

    def handle_one_request(self) -> Any:
        """One request; the deadline covers the wait for it and its head."""
        self.headers = Headers([])
        if self.server.stopping:
            return None
        late = TimeoutError("the request did not arrive in time")
        self._deadline = gevent.Timeout.start_new(self.server.request_timeout_secs, late)
        try:
            return super().handle_one_request()
        finally:
            self._deadline.close()

    def read_requestline(self) -> str:
        """The request line; one empty line before it is passed over."""
        self.idle = True
        try:
            line: bytes = self.rfile.readline(LINE_BYTES_MAX + 1)
            if line in (b"\r\n", b"\n"):
                line = self.rfile.readline(LINE_BYTES_MAX + 1)
        finally:
            self.idle = False
        self._head_bytes = len(line)
        return line.decode("latin-1")

    def read_request(self, raw_requestline: str) -> bool:
        """Parse request line and headers; BadRequest says what is wrong."""
        if self._head_bytes > LINE_BYTES_MAX:
            raise BadRequest(f"the request line has more than {LINE_BYTES_MAX} bytes", 414)
        words = raw_requestline.rstrip("\r\n").split(" ")
        if len(words) != 3 or not raw_requestline.endswith("\n"):
            raise BadRequest(f"not a request line: {raw_requestline[:64]!r}")
        self.command, self.path, self.request_version = words
        if self.request_version not in ("HTTP/1.1", "HTTP/1.0"):
            raise BadRequest(f"HTTP version {self.request_version[:16]!r} is not supported", 505)
        self.requestline = raw_requestline.rstrip()
        self.headers = self._read_headers()
        self.content_length = self._body_length()
        connection = (self.headers.get("connection") or "").lower()
        keeps = connection == "keep-alive" if self.request_version == "HTTP/1.0" else connection != "close"
        self.close_connection = not keeps or self.server.stopping
        return True

    def _read_headers(self) -> Headers:
        fields: list[tuple[str, str]] = []
        while True:
            line: bytes = self.rfile.readline(HEAD_BYTES_MAX - self._head_bytes + 1)
            self._head_bytes += len(line)
            if self._head_bytes > HEAD_BYTES_MAX:
                raise BadRequest(f"request line and headers have more than {HEAD_BYTES_MAX} bytes", 431)
            if line in (b"\r\n", b"\n"):
                return Headers(fields)
            if len(fields) == HEADERS_MAX:
                raise BadRequest(f"there are more than {HEADERS_MAX} headers", 431)
            found = _FIELD.fullmatch(line.decode("latin-1"))
            if found is None or _VALUE_BAD.search(found.group(2)):
                raise BadRequest(f"not a header: {line[:64]!r}")
            fields.append((found.group(1).lower(), found.group(2)))

    def _body_length(self) -> int | None:
        lengths, encodings = self.headers.get_all("content-length"), self.headers.get_all("transfer-encoding")
        if encodings:
            if [encoding.lower() for encoding in encodings] != [
                "chunked"
            ] or self.request_version == "HTTP/1.0":
                raise BadRequest("Transfer-Encoding other than chunked is not supported", 501)
            if lengths:
                raise BadRequest("there are both Content-Length and Transfer-Encoding")
            return None
        if not lengths:
            return None
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths[0]):
            raise BadRequest(f"Content-Length is {', '.join(lengths)[:64]!r}")
        return int(lengths[0])

    def _headers(self) -> Iterator[tuple[str, str]]:
        for key, value in self.headers.fields:
            if "_" not in key and key not in ("content-type", "content-length"):
                yield "HTTP_" + key.replace("-", "_").upper(), value

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environment, with the request target as it was sent."""
        environ: dict[str, Any] = super().get_environ()
        environ[RAW_TARGET] = self.path
        environ["wsgi.input"] = self.wsgi_input  # also where the client asks for another protocol
        return environ

    # -- answering -------------------------------------------------------------------------------------------

    def run_application(self) -> None:
        """Answer, then bring the connection to the end of the request."""
        assert self._deadline is not None
        self._deadline.close()
        try:
            super().run_application()
        finally:
            self._drain()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Tell a client whose connection will not be kept."""
        if self.close_connection or self.server.stopping or self._unread_bytes() > DRAIN_BYTES_MAX:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def _write_with_headers(self, data: bytes) -> None:
        self.headers_sent = True
        self.finalize_headers()
        lines = [b"HTTP/1.1 " + self.status, *(name + b": " + value for name, value in self.response_headers)]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if self.response_use_chunked or len(data) > SENT_AT_ONCE:
            self._sendall(head)
            self._write(data)
        else:
            self._sendall(head + data)

    def _unread_bytes(self) -> int:
        return (self.content_length or 0) - int(self.wsgi_input.position)

    def _drain(self) -> None:
        """Read what is left of the body, within bounds; beyond them the connection ends."""
        body = self.wsgi_input
        if not body.chunked_input and self._unread_bytes() <= 0:
            return
        # A client that waits for "100 Continue" has got its answer and sends nothing more.
        waits = body.socket is not None
        body.send_100_continue_enabled = False
        if waits or not _read_to_end(body):
            self.close_connection = True
            # So that pywsgi does not read on without bounds.
            self.wsgi_input = pywsgi.Input(BytesIO(), 0)  # type: ignore[arg-type]

    # -- errors ----------------------------------------------------------------------------------------------

    def _handle_client_error(self, ex: Exception) -> tuple[str, bytes]:
        status = 408 if isinstance(ex, TimeoutError) else ex.status if isinstance(ex, BadRequest) else 400
        log.debug("bad_request", client=str(self.client_address), reason=str(ex))
        return str(status), raw_error(status, "bad_request", str(ex))

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """What went wrong outside the routes: mostly a client that went away."""
        self.close_connection = True
        if isinstance(v, OSError | GreenletExit):
            log.debug("connection_lost", client=str(self.client_address), reason=repr(v))
            return
        log.error("connection_failed", client=str(self.client_address), error=repr(v))
        if not self.headers_sent:
            self.socket.sendall(raw_error(500, "internal_error", "the server has failed at this request"))


def _read_to_end(body: Any) -> bool:
    """Read and drop a body; False if it is too long, too slow or broken."""
    left = DRAIN_BYTES_MAX
    try:
        with gevent.Timeout(DRAIN_SECS, TimeoutError()):
            while left > 0:
                part = body.read(64 * 1024)
                if not part:
                    return True
                left -= len(part)
    except OSError:  # a timeout, a reset, malformed chunks: all the same here
        return False
    return False


def raw_error(status: int, error_type: str, message: str) -> bytes:
    """A whole answer, for errors that come before there is a request; the connection ends with it."""
    body = encode_json({"error_type": error_type, "message": message, "status_code": status})
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {JSON}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
