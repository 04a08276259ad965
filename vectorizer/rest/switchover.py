"""Handing the mastership over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.guarantees import TIMEOUT_MS_MAX
from vectorizer.rest.schema import Field, Integer, Table, Text
from vectorizer.rest.shapes import BOOLEAN, COUNT, STRING, or_null, record

NAME_BYTES_MAX = 300
SWITCHOVER = Table(
    "Switchover",
    {
        "target": Field(
            Text(NAME_BYTES_MAX),
            "node id, REST or replication address of the replica that becomes the master; left out, the one "
            "that holds most",
        ),
        "timeout_ms": Field(
            Integer(1, TIMEOUT_MS_MAX),
            "how long writes may be held for the target to catch up",
            default=10_000,
        ),
    },
)
_ADDRESS = or_null(STRING)
HANDED_OVER = record(
    {
        "success": BOOLEAN,
        "switchover": STRING,
        "offset": COUNT,
        "held_ms": COUNT,
        "master": record({"node_id": STRING, "rest_address": _ADDRESS, "replication_address": _ADDRESS}),
        "repointed": COUNT,
        "message": STRING,
    }
)
ABORTED = record({"success": BOOLEAN, "switchover": STRING, "message": STRING})


class SwitchoverControl(Protocol):
    """What the routes need."""

    def switchover(self, target: str | None, timeout_ms: int) -> Mapping[str, Any]:
        """Hand the mastership to a replica; RequestError says why not, and what holds now."""

    def abort_switchover(self) -> Mapping[str, Any]:
        """End a switchover whose promotion was not sent yet."""


class SwitchoverRoutes:
    """``/replication/switchover...``."""

    def __init__(self, control: SwitchoverControl) -> None:
        self._control = control

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            Route(
                "POST",
                "/replication/switchover",
                self.run,
                "Hand the mastership to a replica, without losing a write.",
                bodies=[SWITCHOVER],
                body_optional=True,
                answers={200: HANDED_OVER},
                errors=[409, 503, 507],
            ),
            Route(
                "POST",
                "/replication/switchover/abort",
                self.abort,
                "End a switchover whose promotion was not sent yet.",
                answers={200: ABORTED},
                errors=[409],
            ),
        ]

    def run(self, request: Request) -> Answer:
        """The answer comes when it is over; the body may be left out."""
        values = SWITCHOVER.read(request.document() if request.has_body else {})
        return Answer(self._control.switchover(values["target"], values["timeout_ms"]))

    def abort(self, request: Request) -> Answer:
        """409 if there is none, or it is too late."""
        return Answer(self._control.abort_switchover())
