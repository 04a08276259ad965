"""The OpenAPI 3.1 document, made from the table of routes: there is no second description of the API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from vectorizer import __version__
from vectorizer.errors import MASTER_HEADER
from vectorizer.rest.access import needed
from vectorizer.rest.bodies import BSON, JSON
from vectorizer.rest.collections import NAME_PATTERN
from vectorizer.rest.exchange import ID_HEADER, OFFSET_HEADER, Route
from vectorizer.rest.measured import template_of
from vectorizer.rest.schema import Field, Table, Text
from vectorizer.rest.shapes import COUNT, ID, STRING, AnyShape, Named, record
from vectorizer.sections import Limits

SUMMARY = (
    "A vector database that replicates from one master to any number of replicas. Unknown fields and query "
    "parameters are refused; null in an optional field is the same as leaving it out. BSON bodies hold the "
    "same documents as JSON ones, with vectors as packed little-endian float32."
)
ERROR = Named(
    "Error",
    record(
        {
            "error_type": {**STRING, "description": "For programs."},
            "message": {**STRING, "description": "One sentence for a person."},
            "status_code": {"type": "integer", "minimum": 300, "maximum": 599},
            "details": {"type": "object"},
        },
        ["details"],
    ),
)
BSON_TEXT = "The same as JSON, encoded as BSON; vectors are binary, packed little-endian float32."
REASONS = {
    307: "A write on a replica that redirects writes to its master.",
    400: "The request makes no sense as it stands; nothing was changed.",
    401: "A key is needed, and none that is known was shown.",
    403: "The key may not do this, or it is a write on a replica.",
    404: "There is no such collection or vector.",
    408: "The body did not arrive in time.",
    409: "The request contradicts what exists.",
    412: "This node cannot give what min_offset and replication_id ask for, yet or ever.",
    413: "The body, or something in it, is larger than a limit.",
    415: "The body is in a format that is not read here.",
    500: "A bug of the server; its log says more.",
    503: "Not now: no complete data yet, too few replicas, data too old, too busy. Come back soon.",
    507: "No room on disk; nothing was changed, reads go on.",
}
HEADERS: Mapping[int, Mapping[str, AnyShape]] = {
    307: {"Location": STRING, MASTER_HEADER: STRING},
    403: {MASTER_HEADER: STRING},
    503: {"Retry-After": STRING},
}
_PART = re.compile(r"<([^:>]+)[^>]*>")


def document(routes: Sequence[Route], limits: Limits) -> dict[str, Any]:
    """The document about these routes, ready to be written as JSON."""
    return _Document(limits).of(routes)


class _Document:
    def __init__(self, limits: Limits) -> None:
        self._components: dict[str, Any] = {}
        self._parts = {
            "name": Field(Text(128, pattern=NAME_PATTERN), "The collection.", required=True),
            "id": Field(Text(limits.id_bytes_max), "The vector, percent-encoded.", required=True),
        }

    def of(self, routes: Sequence[Route]) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for route in routes:
            path = paths.setdefault(template_of(route.path), {})
            path[route.method.lower()] = self._operation(route, route.method)
            if route.head:
                path["head"] = self._operation(route, "HEAD")
        tags = dict.fromkeys(tag_of(path) for path in paths)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Vectorizer",
                "version": __version__,
                "description": SUMMARY,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": tag} for tag in tags],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._components.items())),
                "securitySchemes": {
                    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                    "bearer": {"type": "http", "scheme": "bearer"},
                },
            },
        }

    # -- operations ------------------------------------------------------------------------------------------

    def _operation(self, route: Route, method: str) -> dict[str, Any]:
        path = template_of(route.path)
        level = needed(route)
        operation: dict[str, Any] = {
            "operationId": "_".join([method.lower(), *re.findall(r"\w+", path)]),
            "summary": route.help,
            "tags": [tag_of(path)],
            # Keys are asked for only where some are set up: {} says that none may be needed.
            "security": [] if level is None else [{}, {"key": []}, {"bearer": []}],
            "parameters": list(self._parameters(route)),
        }
        if route.bodies:
            operation["requestBody"] = {
                "required": not route.body_optional,
                "content": self._body(route),
            }
        operation["responses"] = self._responses(route, head=method == "HEAD")
        return operation

    def _parameters(self, route: Route) -> Iterator[dict[str, Any]]:
        for part in _PART.findall(route.path):
            yield self._parameter(part, self._parts[part], "path")
        for name, field in route.query.fields.items():
            yield self._parameter(name, field, "query")

    def _parameter(self, name: str, field: Field, place: str) -> dict[str, Any]:
        return {
            "name": name,
            "in": place,
            "required": field.required,
            "description": field.help,
            "schema": {**self._placed(field.kind.shape), **field.shown_default},
        }

    def _body(self, route: Route) -> dict[str, Any]:
        packed = [body for body in route.bodies if isinstance(body, Table) and body.packed]
        plain = [body for body in route.bodies if body not in packed]
        content = {JSON: {"schema": self._one_of(plain)}}
        if route.bson:
            content[BSON] = {"schema": _in_bson(self._one_of(route.bodies))}
        return content

    def _one_of(self, bodies: Sequence[Table | Named]) -> dict[str, Any]:
        forms = [self._placed(body.named if isinstance(body, Table) else body) for body in bodies]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}

    # -- answers ---------------------------------------------------------------------------------------------

    def _responses(self, route: Route, head: bool) -> dict[str, Any]:
        responses: dict[int, dict[str, Any]] = {}
        for status in statuses_of_errors(route):
            described = {"description": REASONS[status], **self._headers(HEADERS.get(status, {}))}
            responses[status] = described | ({} if head else {"content": {JSON: self._schema(ERROR)}})
        for status, shape in route.answers.items():
            answer: dict[str, Any] = {"description": HTTPStatus(status).phrase}
            if route.writes:
                answer |= self._headers({OFFSET_HEADER: COUNT, ID_HEADER: ID})
            if not head:
                answer["content"] = {route.media_type: self._schema(shape)}
                if route.bson:
                    answer["content"][BSON] = {"schema": _in_bson(self._placed(shape))}
            responses[status] = answer
        return {str(status): responses[status] for status in sorted(responses)}

    def _headers(self, shapes: Mapping[str, AnyShape]) -> dict[str, Any]:
        return {"headers": {name: self._schema(shape) for name, shape in shapes.items()}} if shapes else {}

    def _schema(self, shape: AnyShape) -> dict[str, Any]:
        return {"schema": self._placed(shape)}

    # -- shapes ----------------------------------------------------------------------------------------------

    def _placed(self, shape: Any) -> Any:
        """The shape with references in place of what has a name, which is noted once."""
        if isinstance(shape, Named):
            return {"$ref": self._reference(shape)}
        if isinstance(shape, Mapping):
            return {
                key: self._reference(value)
                if key == "$ref" and isinstance(value, Named)
                else self._placed(value)
                for key, value in shape.items()
            }
        if isinstance(shape, list | tuple):
            return [self._placed(item) for item in shape]
        return shape

    def _reference(self, named: Named) -> str:
        if named.name not in self._components:
            self._components[named.name] = {}
            self._components[named.name] = self._placed(named.shape)
        elif self._components[named.name] and self._components[named.name] != self._placed(named.shape):
            raise ValueError(f"two shapes are called {named.name}")
        return f"#/components/schemas/{named.name}"


def _in_bson(schema: dict[str, Any]) -> dict[str, Any]:
    return {"contentMediaType": BSON, "contentSchema": schema, "description": BSON_TEXT}


def statuses_of_errors(route: Route) -> list[int]:
    """What may go wrong on a route, as far as it can be said before."""
    statuses = {400, 500, *route.errors}
    if needed(route) is not None:
        statuses |= {401, 403}
    if "<" in route.path:
        statuses.add(404)
    if route.bodies:
        statuses |= {408, 413, 415, 503}
    if route.reads:
        statuses |= {412, 503}
    if route.writes:
        statuses |= {307, 403, 503, 507}
    return sorted(statuses)


def tag_of(path: str) -> str:
    """The group of a path: collections, vectors, search, replication, node."""
    words = path.split("/")
    if words[1] in ("collections", "replication"):
        return words[3] if len(words) > 3 and words[3] in ("vectors", "search") else words[1]
    return "node"
