"""A node as its client sees it: requests over one connection, tried again while that may help.

Only what can be repeated safely is sent through :meth:`Node.ask`: reads, and writes that name their ids.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import SSLCertVerificationError
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from vectorizer import codec
from vectorizer.client.failures import CommandError, MisuseError
from vectorizer.errors import MASTER_HEADER

URL = "http://127.0.0.1:15002"
KEY_VARIABLE = "VECTORIZER_API_KEY"
JSON = "application/json"
BSON = "application/bson"
PAUSE_SECS = 0.1
PAUSE_SECS_MAX = 5.0
MOVES_IN_A_ROW_MAX = 5
"""So many nodes may send one request on to each other before it waits."""
AGAIN = (408, 429, 502, 503, 504)


class RefusedError(CommandError):
    """The node answered with an error; ``details`` and ``error_type`` are those of its document."""

    def __init__(self, url: str, status: int, document: Any) -> None:
        known = document if isinstance(document, Mapping) else {}
        message = known.get("message") or f"the answer has status {status}"
        super().__init__(f"{url}: {message}")
        self.status = status
        self.message = str(message)
        self.error_type = str(known.get("error_type", ""))
        details = known.get("details")
        self.details: Mapping[str, Any] = details if isinstance(details, Mapping) else {}


class SilentError(CommandError):
    """The node does not answer, or what answers is no node."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node's REST interface is."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From a URL, or host:port; MisuseError if it is neither."""
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise MisuseError(f"{text!r} is not the URL of a node: {error}") from None
        if parts.scheme not in ("http", "https") or not host or not host.isascii():
            raise MisuseError(f"{text!r} is not the URL of a node; one looks like {URL}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
            raise MisuseError(f"{text!r} has more than scheme, host and port; a node's URL looks like {URL}")
        return cls(parts.scheme, host, port or (443 if parts.scheme == "https" else 80))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Node:
    """A connection that is made when it is needed, and made anew when it is lost. Not for two threads."""

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout_secs: float = 90.0, patience_secs: float = 60.0
    ) -> None:
        """``patience_secs``: how long :meth:`ask` goes on after the last answer that was of use."""
        if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
            raise MisuseError("the API key has characters that no API key has")
        self._home = self.endpoint = Endpoint.parse(url)
        self._api_key = api_key
        self._timeout_secs = timeout_secs
        self._patience_secs = patience_secs
        self._connection: HTTPConnection | None = None

    def ask(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, bson: bool = False
    ) -> Any:
        """:meth:`ask_once`, again while the node is away or says "soon"; writes follow the master.

        A master that is lost is asked for at the node that was named first: it may know the next one.
        """
        deadline = time.monotonic() + self._patience_secs
        pause = PAUSE_SECS
        moves = 0
        while True:
            try:
                return self.ask_once(method, path, document, bson=bson)
            except RefusedError as error:
                master = error.details.get("master")
                sent_on = error.error_type == "read_only_replica"
                if sent_on and isinstance(master, str) and moves < MOVES_IN_A_ROW_MAX:
                    moves += 1
                    self._move(Endpoint.parse(master))
                    continue
                if not sent_on and error.status not in AGAIN:
                    raise
                failure: CommandError = error
            except SilentError as error:
                failure = error
            if time.monotonic() + pause > deadline:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_SECS_MAX)
            moves = 0
            self._move(self._home)

    def ask_once(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, *, bson: bool = False
    ) -> Any:
        """The document that is answered. RefusedError for an error, SilentError without an answer."""
        headers = {"Accept": f"{BSON}, {JSON};q=0.5" if bson else JSON}
        if self._api_key is not None:
            headers["X-API-Key"] = self._api_key
        body = None
        if document is not None:
            body = codec.encode(document) if bson else json.dumps(document).encode()
            headers["Content-Type"] = BSON if bson else JSON
        try:
            status, kind, location, data = self._exchange(method, path, body, headers)
        except SSLCertVerificationError as error:
            self.close()
            why = f"{error.verify_message}; SSL_CERT_FILE can name the authority to trust"
            raise CommandError(f"{self.endpoint} shows a certificate that is not trusted: {why}") from None
        except (OSError, HTTPException) as error:
            self.close()
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise SilentError(f"{self.endpoint} does not answer: {what or type(error).__name__}") from None
        except KeyboardInterrupt:
            self.close()
            raise
        answer = self._decoded(kind, data)
        if 200 <= status < 300:
            return answer
        if status in (307, 308) and location:
            answer = {"error_type": "read_only_replica", "details": {"master": _origin(location)}}
        raise RefusedError(str(self.endpoint), status, answer)

    def close(self) -> None:
        """The connection's end; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, str | None, bytes]:
        response = self._send(method, path, body, headers)
        data = response.read()
        if response.will_close:
            self.close()
        location = response.getheader("Location") or response.getheader(MASTER_HEADER)
        return response.status, response.getheader("Content-Type", ""), location, data

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> HTTPResponse:
        if self._connection is None:
            kind = HTTPSConnection if self.endpoint.scheme == "https" else HTTPConnection
            self._connection = kind(self.endpoint.host, self.endpoint.port, timeout=self._timeout_secs)
        try:
            self._connection.request(method, path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            # A body that is refused unread: the answer may lie there already.
            if self._connection.sock is None:
                raise
        return self._connection.getresponse()

    def _decoded(self, kind: str, data: bytes) -> Any:
        try:
            return codec.decode_document(data) if kind.startswith(BSON) else json.loads(data or b"null")
        except (ValueError, codec.CodecError):
            if kind.startswith((JSON, BSON)):
                raise SilentError(f"{self.endpoint} gave an answer that cannot be read") from None
            return None

    def _move(self, endpoint: Endpoint) -> None:
        if endpoint == self.endpoint:
            return
        if self._api_key is not None and (self._home.scheme, endpoint.scheme) == ("https", "http"):
            raise CommandError(f"{self._home} sends on to {endpoint}, where the API key could be overheard")
        self.close()
        self.endpoint = endpoint


def collection_path(name: str, *rest: str, **query: Any) -> str:
    """The path of a collection, or below it, with the parameters that are not None."""
    path = "/".join(["/collections", quote(name, safe=""), *rest])
    given = {key: value for key, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _origin(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc}"
