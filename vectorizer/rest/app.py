"""The application: the table of routes on Bottle's router, and errors as JSON.

Bottle finds the route, and answers where there is none. Its request and response are not made for the others:
they are thread-locals full of properties and cost 7 microseconds a request; finding the route takes 0.3.

Rules: a request is answered by its route or by an error of the families in ``errors``, always as JSON. A
write on a replica is refused before its path, query or body is looked at. What a route did not foresee is a
bug here: 500, and a line in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, TypeAlias

import bottle  # type: ignore[import-untyped]

from vectorizer import codec, logs
from vectorizer.database import Database
from vectorizer.errors import RequestError
from vectorizer.rest.access import Access, needed
from vectorizer.rest.bodies import BSON, JSON, BodyLimits, encode_json
from vectorizer.rest.budget import Budget
from vectorizer.rest.collections import CollectionRoutes
from vectorizer.rest.documents import DocumentRoutes
from vectorizer.rest.exchange import BSON_FACTOR, JSON_FACTOR, Bounds, Request, Route
from vectorizer.rest.guarantees import GuaranteeRoutes
from vectorizer.rest.health import HealthRoutes
from vectorizer.rest.paths import RAW_TARGET, decode_part, split_target
from vectorizer.rest.probes import ProbeRoutes
from vectorizer.rest.replication import ReplicationControl, ReplicationRoutes
from vectorizer.rest.search import SearchRoutes
from vectorizer.rest.vectors import VectorRoutes

REDIRECT = 307
LARGE_BODIES = 4
"""Bodies of the largest size that are read at the same time; others wait."""

KNOWN_MAX = 1024
KNOWN_BYTES_MAX = 128
"""At most so many targets, with method of at most so many bytes, are remembered."""

StartResponse: TypeAlias = Callable[..., Any]

log = logs.get(__name__)


class Response(NamedTuple):
    """What goes back to the client."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Callback: TypeAlias = Callable[[dict[str, Any], Mapping[str, str]], Response]
"""What a row of Bottle's table leads to: from environment and parts of the path to the answer."""


class RestApp:
    """The WSGI application of one node."""

    def __init__(
        self,
        database: Database,
        control: ReplicationControl,
        others: Sequence[Route] = (),
        access: Access | None = None,
    ) -> None:
        self._database = database
        self._access = access
        limits = database.settings.limits
        bodies = BodyLimits(
            limits.json_body_bytes_max,
            limits.bson_body_bytes_max,
            database.settings.server.request_timeout_secs,
        )
        largest = max(JSON_FACTOR * bodies.json_bytes, BSON_FACTOR * bodies.bson_bytes)
        self._bounds = Bounds(bodies, limits.json_depth_max, Budget(LARGE_BODIES * largest))
        self._guarantees = GuaranteeRoutes(database)
        self.routes: list[Route] = [
            *HealthRoutes(database).routes(),
            *CollectionRoutes(database).routes(),
            *VectorRoutes(database).routes(),
            *SearchRoutes(database).routes(),
            *ReplicationRoutes(control).routes(),
            *self._guarantees.routes(),
            *ProbeRoutes(database).routes(),
            *others,
        ]
        self.documents = DocumentRoutes(self.routes, limits)
        self.routes += self.documents.routes()
        self._known: dict[tuple[str, str], tuple[str, str, Any, Mapping[str, str]]] = {}
        """Path, query, route and parts of the path, by method and target: finding them takes 7 us between
        searches.
        """
        self._bottle = bottle.Bottle()
        self._bottle.catchall = False
        self._bottle.default_error_handler = _unknown_path
        for route in self.routes:
            methods = [route.method, "HEAD"] if route.head else route.method
            self._bottle.route(route.path, methods, self._callback(route))
        heads = {route.path for route in self.routes if route.head}
        for path in dict.fromkeys(route.path for route in self.routes):
            # Bottle would answer HEAD by GET, and other methods in HTML.
            refused = ["ANY"] if path in heads else ["HEAD", "ANY"]
            self._bottle.route(path, refused, self._method_not_allowed)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        """WSGI."""
        target = environ.get(RAW_TARGET) or environ["PATH_INFO"]
        method: str = environ["REQUEST_METHOD"]
        known = self._known.get((method, target))
        if known is None:
            path, query = split_target(target)
            environ["PATH_INFO"], environ["QUERY_STRING"] = path or "/", query
            try:
                found, parts = self._bottle.router.match(environ)
            except bottle.HTTPError:  # no route has this path: Bottle says so, by ``_unknown_path``
                pieces: list[bytes] = self._bottle(environ, start_response)
                return pieces
            if len(method) + len(target) <= KNOWN_BYTES_MAX:
                if len(self._known) >= KNOWN_MAX:
                    self._known.clear()
                self._known[method, target] = path or "/", query, found, parts
        else:
            environ["PATH_INFO"], environ["QUERY_STRING"], found, parts = known
        environ["bottle.route"] = found
        response: Response = found.callback(environ, parts)
        headers = list(response.headers.items())
        if method == "HEAD":
            start_response(
                _status_line(response.status), [*headers, ("Content-Length", str(len(response.body)))]
            )
            return []
        start_response(_status_line(response.status), headers)
        return [response.body]

    def _callback(self, route: Route) -> Callback:
        level = needed(route)

        def call(environ: dict[str, Any], parts: Mapping[str, str]) -> Response:
            try:
                if self._access is not None:
                    self._access.check(level, environ)
                return self._respond(route, environ, parts)
            except RequestError as error:
                return error_response(error)
            except Exception as error:  # noqa: BLE001  the last resort: nothing a client can do may lead here
                log.error("request_failed", method=route.method, path=environ["PATH_INFO"], error=repr(error))
                return error_response(
                    RequestError(
                        500, "internal_error", "the server has failed at this request; its log says how"
                    )
                )

        return call

    def _respond(self, route: Route, environ: dict[str, Any], parts: Mapping[str, str]) -> Response:
        if route.writes:
            self._guard_writable(environ)
            self._guarantees.before_write()
        decoded = {name: decode_part(part, f"the {name}") for name, part in parts.items()}
        request = Request(environ, route, self._bounds)
        try:
            if route.reads:
                self._guarantees.before_read(request)
            answer = route.call(request, **decoded)
        finally:
            request.close()
        if route.writes:
            answer = self._guarantees.after_write(request, answer)
        if answer.body is not None:
            return _response(answer.status, answer.body, JSON, answer.headers)
        if request.answers_bson:
            return _response(answer.status, codec.encode(answer.document), BSON, answer.headers)
        return _response(answer.status, encode_json(answer.document), JSON, answer.headers)

    def _guard_writable(self, environ: Mapping[str, Any]) -> None:
        node = self._database.node
        try:
            self._database.guard_writable()
        except RequestError as error:
            redirect = self._database.settings.replication.replica_writes == "redirect"
            if error.error_type != "read_only_replica" or not redirect or node.master_url is None:
                raise
            query = environ["QUERY_STRING"]
            target = environ["PATH_INFO"] + (f"?{query}" if query else "")
            raise RequestError(
                REDIRECT,
                error.error_type,
                error.message,
                error.details,
                {**error.headers, "Location": node.master_url.rstrip("/") + target},
            ) from error

    def _method_not_allowed(self, environ: dict[str, Any], parts: Mapping[str, str]) -> Response:
        methods = ("GET", "HEAD", "POST", "PUT", "DELETE")
        allowed = [method for method in methods if self._is_allowed(method, environ)]
        allow = ", ".join(allowed)
        return error_response(
            RequestError(
                405,
                "method_not_allowed",
                f"{environ['REQUEST_METHOD'][:32]} is not allowed here; allowed: {allow}",
                {"allow": allowed},
                {"Allow": allow},
            )
        )

    def _is_allowed(self, method: str, environ: Mapping[str, Any]) -> bool:
        found, _ = self._bottle.router.match({"REQUEST_METHOD": method, "PATH_INFO": environ["PATH_INFO"]})
        return bool(found.method == method and found.callback != self._method_not_allowed)


def error_response(error: RequestError) -> Response:
    """The JSON answer to a request that was not carried out."""
    document = {
        "error_type": error.error_type,
        "message": error.message,
        "status_code": error.status_code,
        **({"details": error.details} if error.details else {}),
    }
    return _response(error.status_code, encode_json(document), JSON, error.headers)


def _response(status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> Response:
    return Response(status, {"Content-Type": kind, **headers}, body)


@lru_cache(64)
def _status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _unknown_path(error: bottle.HTTPError) -> bytes:
    """Bottle's own errors: only 404 for a path that no route has."""
    bottle.response.status = 404
    bottle.response.content_type = JSON
    path = bottle.request.environ["PATH_INFO"][:256]
    return encode_json(
        {"error_type": "path_not_found", "message": f"there is nothing at {path}", "status_code": 404}
    )
