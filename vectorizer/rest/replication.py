"""Replication: status, numbers, replicas, and the change of it all while running."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from vectorizer.errors import ConfigurationError, RequestError
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.replication_shapes import CONFIGURED, REPLICAS, STATS, STATUS, configure_body
from vectorizer.rest.schema import Boolean, Field, Table, Text, wrong
from vectorizer.rest.shapes import AnyShape, Named
from vectorizer.sections import TABLE

ADDRESS_BYTES_MAX = 300
PROMOTE = Table(
    "Promote",
    {
        "bind_address": Field(
            Text(ADDRESS_BYTES_MAX), "where replicas connect, host:port; left out, as it is set already"
        ),
        "force": Field(Boolean(), "also where data is missing or another mastership is newer", default=False),
    },
)
FOLLOW = Table(
    "Follow",
    {
        "master_address": Field(
            Text(ADDRESS_BYTES_MAX), "where that master takes replicas, host:port", required=True
        ),
        "force": Field(Boolean(), "also if its history is foreign to the data here", default=False),
    },
)
CONFIGURE = configure_body(row for row in TABLE if row.section == "replication")


class ReplicationControl(Protocol):
    """What the routes need of the replication; documents are made there."""

    def status(self) -> Mapping[str, Any]:
        """Role, numbers, history, links."""

    def stats(self) -> Mapping[str, Any]:
        """The numbers alone; RequestError 400 on a standalone node."""

    def replicas(self) -> Mapping[str, Any]:
        """The replicas of a master; RequestError 400 where there is no such list."""

    def configure(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change settings and role, at once; ConfigurationError or RequestError says why not."""


class ReplicationRoutes:
    """``/replication/...``."""

    def __init__(self, control: ReplicationControl) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            _seen("/replication/status", self.status, "Role, numbers, history, links.", STATUS),
            _seen("/replication/stats", self.stats, "The numbers alone.", STATS),
            _seen("/replication/replicas", self.replicas, "The replicas of this master.", REPLICAS),
            _changed(
                "/replication/configure", self.configure, "Change role and settings, at once.", CONFIGURE
            ),
            _changed("/replication/promote", self.promote, "Make this node the master.", PROMOTE, True),
            _changed("/replication/follow", self.follow, "Follow a master.", FOLLOW),
        ]

    def status(self, request: Request) -> Answer:
        """200 in every role."""
        return Answer(self._control.status())

    def stats(self, request: Request) -> Answer:
        """400 on a standalone node."""
        return Answer(self._control.stats())

    def replicas(self, request: Request) -> Answer:
        """400 where there is no list of replicas."""
        return Answer(self._control.replicas())

    def configure(self, request: Request) -> Answer:
        """What was refused by the settings is the client's mistake here."""
        document = request.document()
        if not isinstance(document, Mapping):
            raise wrong("the body", "an object", document)
        return self._configured(document)

    def promote(self, request: Request) -> Answer:
        """The body may be left out."""
        values = PROMOTE.read(request.document() if request.has_body else {})
        return self._configured({"role": "master", **_given(values)})

    def follow(self, request: Request) -> Answer:
        """``configure`` in the words of an operator."""
        return self._configured({"role": "replica", **_given(FOLLOW.read(request.document()))})

    def _configured(self, values: Mapping[str, Any]) -> Answer:
        try:
            return Answer(self._control.configure(values))
        except ConfigurationError as error:
            details = {
                name: value
                for name, value in (
                    ("key", error.key),
                    ("accepted", error.accepted),
                    ("nearest", error.nearest),
                )
                if value is not None
            }
            raise RequestError(400, "validation_error", str(error), details) from error


def _seen(path: str, call: Callable[[Request], Answer], text: str, shape: AnyShape) -> Route:
    return Route("GET", path, call, text, answers={200: shape})


def _changed(
    path: str,
    call: Callable[[Request], Answer],
    text: str,
    body: Table | Named,
    body_optional: bool = False,
) -> Route:
    return Route(
        "POST",
        path,
        call,
        text,
        bodies=[body],
        body_optional=body_optional,
        answers={200: CONFIGURED},
        errors=[409, 503, 507],
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a body said: settings that it left out stay as they are."""
    return {name: value for name, value in values.items() if value not in (None, False)}
