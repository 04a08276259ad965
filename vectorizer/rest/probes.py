"""Probes: one yes-or-no question each, answered by the status alone, for load balancers and supervisors.

200 is yes, 503 no. They never wait, read nothing from disk and are asked often.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vectorizer.database import Database
from vectorizer.node import Role
from vectorizer.rest.exchange import NO_QUERY, Answer, Request, Route
from vectorizer.rest.schema import Field, Integer, Table
from vectorizer.rest.shapes import BOOLEAN, COUNT, STRING, choice, or_null, record

LAG = Table(
    "ProbeLag",
    {"max_lag_ms": Field(Integer(0, 2**31), "503 if this replica's data is older than that", default=-1)},
)

PROBE = record(
    {"ok": BOOLEAN, "reason": or_null(STRING), "role": choice(*Role), "offset": COUNT, "lag_ms": COUNT},
    ["lag_ms"],
)
ANSWERS = {200: PROBE, 503: PROBE}


class ProbeRoutes:
    """``/primary``, ``/replica``, ``/readiness``, ``/liveness``; HEAD too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            self._route("/primary", self.primary, "200 where writes are taken, else 503."),
            self._route(
                "/replica",
                self.replica,
                "200 on a replica that answers reads and is fresh enough, else 503.",
                LAG,
            ),
            self._route("/readiness", self.readiness, "200 where reads are answered, else 503."),
            self._route("/liveness", self.liveness, "200 unless this node is about to end."),
        ]

    def _route(
        self, path: str, call: Callable[[Request], Answer], text: str, query: Table = NO_QUERY
    ) -> Route:
        return Route("GET", path, call, text, query=query, head=True, answers=ANSWERS)

    def primary(self, request: Request) -> Answer:
        """A master or a standalone node that is not kept from writing."""
        node = self._database.node
        if node.writable:
            return self._answer(None)
        if node.failure is not None:
            return self._answer("failed")
        return self._answer("read_only_replica" if node.role is Role.REPLICA else node.fenced or "deposed")

    def replica(self, request: Request) -> Answer:
        """Whether its link is up does not matter, only the age of its data, if a limit is given."""
        roles = self._database.roles
        if self._database.node.role is not Role.REPLICA or roles is None or roles.replica is None:
            return self._answer("not_a_replica")
        lag_ms = roles.replica.link.lag_ms(time.monotonic())
        limit: int = request.parameters["max_lag_ms"]
        reason = self._unready() or ("too_stale" if 0 <= limit < lag_ms else None)
        return self._answer(reason, lag_ms=lag_ms)

    def readiness(self, request: Request) -> Answer:
        """Any role, with complete data."""
        return self._answer(self._unready())

    def liveness(self, request: Request) -> Answer:
        """That it answers at all says most of it."""
        return self._answer(None if self._database.node.failure is None else "failed")

    def _unready(self) -> str | None:
        if self._database.node.failure is not None:
            return "failed"
        return None if self._database.serves_data() else "syncing"

    def _answer(self, reason: str | None, **more: Any) -> Answer:
        node = self._database.node
        document = {
            "ok": reason is None,
            "reason": reason,
            "role": node.role.value,
            "offset": node.offset,
            **more,
        }
        return Answer(document, 200 if reason is None else 503, {"Cache-Control": "no-store"})
