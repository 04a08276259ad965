"""One request and its answer, between the wire and the routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vectorizer.breathing import Breather
from vectorizer.database import WriteResult
from vectorizer.operations import Vectors
from vectorizer.rest.bodies import (
    BSON,
    JSON,
    BodyLimits,
    announced,
    check_depth,
    decode_body,
    may_have_booleans,
    read_body,
    wants_bson,
)
from vectorizer.rest.budget import Budget
from vectorizer.rest.paths import query_pairs
from vectorizer.rest.schema import Field, Integer, Table, Text
from vectorizer.rest.shapes import COUNT, ID, AnyShape, Named, Shape, record

OFFSET_HEADER = "X-Replication-Offset"
ID_HEADER = "X-Replication-Id"
JSON_FACTOR = 8
BSON_FACTOR = 2
"""Memory that a body takes while it is read and decoded, as a multiple of its size."""
COUNTED_BYTES = 64 * 1024
"""In JSON up to this size the brackets are counted."""

NO_QUERY = Table("NoQuery", {})
_TIMEOUT = Field(Integer(0, 3_600_000), "how long to wait, in milliseconds", default=-1)
FRESHNESS = Table(
    "Freshness",
    {
        "min_offset": Field(Integer(0, 2**63 - 1), "wait until this write can be read, else 412", default=0),
        "replication_id": Field(Text(64), "the mastership of that write: 412 lost_branch if it is lost"),
        "max_lag_ms": Field(Integer(0, 2**31), "503 too_stale if this node is further behind", default=-1),
        "timeout_ms": _TIMEOUT,
    },
)
SAFETY = Table(
    "Safety",
    {
        "wait": Field(Integer(0, 10_000), "answer when so many replicas hold the write durably", default=-1),
        "timeout_ms": _TIMEOUT,
    },
)


@dataclass(frozen=True)
class Answer:
    """What a route gives back: a document, or ``body`` encoded already."""

    document: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True)
class Route:
    """A row of the table of routes. ``path`` is in Bottle's syntax; its parts arrive percent-decoded."""

    method: str
    path: str
    call: Callable[..., Answer]
    help: str
    query: Table = NO_QUERY
    bodies: Sequence[Table | Named] = ()
    """The forms of body that are accepted; none = a body is ignored."""
    body_optional: bool = False
    """The body may be left out."""
    answers: Mapping[int, AnyShape] = field(default_factory=dict)
    """What it answers, by status; errors that follow from the other fields are not listed."""
    errors: Sequence[int] = ()
    """Statuses of errors that do not follow from the other fields."""
    media_type: str = JSON
    """Of its answers; errors are always JSON."""
    list_key: str | None = None
    """The field of the body that may be a very long list."""
    head: bool = False
    """Answers HEAD too."""
    bson: bool = False
    """Reads and writes BSON too."""
    reads: bool = False
    """Reads data, and so takes the parameters of ``FRESHNESS``."""
    writes: bool = False
    """Changes data: refused by a replica before anything else is looked at. Takes those of ``SAFETY``."""

    def __post_init__(self) -> None:
        common = FRESHNESS if self.reads else SAFETY if self.writes else NO_QUERY
        object.__setattr__(self, "query", self.query.extended(common))


@dataclass(frozen=True)
class Bounds:
    """What a request may take; shared by all requests of one server."""

    bodies: BodyLimits
    depth: int
    budget: Budget


class Request:
    """What a route may ask about a request. RequestError 400 if its query string is wrong."""

    def __init__(self, environ: Mapping[str, Any], route: Route, bounds: Bounds) -> None:
        self.environ = environ
        self.route = route
        self.breathe = Breather()
        self.answers_bson = route.bson and wants_bson(environ.get("HTTP_ACCEPT", ""))
        """Whether the answer is to be BSON."""
        query = environ["QUERY_STRING"]
        self.parameters = route.query.read_query(query_pairs(query) if query else ())
        """The checked parameters of the query string."""
        self.has_booleans = True
        """Whether there may be booleans in the document."""
        self._bounds = bounds
        self._reserved = 0

    @property
    def has_body(self) -> bool:
        """Whether a body was announced."""
        return "HTTP_TRANSFER_ENCODING" in self.environ or self.environ.get("CONTENT_LENGTH") not in (
            None,
            "",
            "0",
        )

    def document(self) -> Any:
        """The body, decoded; its form is not checked yet."""
        bounds = self._bounds
        kind, size = announced(self.environ, bounds.bodies, bson=self.route.bson)
        factor = BSON_FACTOR if kind == BSON else JSON_FACTOR
        self._reserved = bounds.budget.reserve(size * factor, bounds.bodies.seconds)
        body = read_body(self.environ, kind, bounds.bodies)
        document = decode_body(kind, body, self.breathe, self.route.list_key)
        # So few brackets cannot be nested too deep, which spares small bodies the walk; in large ones they
        # take longer to count.
        large = len(body) > COUNTED_BYTES
        if kind == BSON or large or body.count(b"[") + body.count(b"{") > bounds.depth:
            check_depth(document, bounds.depth, self.breathe, self.route.list_key)
        self.has_booleans = kind == BSON or may_have_booleans(body)
        return document

    def close(self) -> None:
        """The request is over: give back what it held."""
        if self._reserved:
            self._bounds.budget.release(self._reserved)

    def vector(self, vector: Vectors) -> Any:
        """A vector (d,) as the answer's format holds it."""
        return np.asarray(vector, "<f4").tobytes() if self.answers_bson else np.asarray(vector)


def written_shape(fields: Mapping[str, AnyShape]) -> Shape:
    """The shape of what ``written`` answers."""
    place: Mapping[str, AnyShape] = {"offset": COUNT, "replication_id": ID, "replicas_durable": COUNT}
    return record({**fields, **place}, ["replicas_durable"])


def written(result: WriteResult, status: int = 200, **fields: Any) -> Answer:
    """The answer to a write: what was done, and where it stands in the history, in body and headers."""
    document = {**fields, "offset": result.offset, "replication_id": result.replication_id}
    headers = {OFFSET_HEADER: str(result.offset), ID_HEADER: result.replication_id}
    return Answer(document, status, headers)
