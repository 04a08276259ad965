"""Probes: one yes-or-no question each, answered by the status alone, for load balancers and supervisors.

200 is yes, 503 no. They never wait, read nothing from disk and are asked often.
"""

from __future__ import annotations

import time
from typing import Any

from vectorizer.database import Database
from vectorizer.node import Role
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.schema import Field, Integer, Table

LAG = Table(
    "ProbeLag",
    {"max_lag_ms": Field(Integer(0, 2**31), "503 if this replica's data is older than that", default=-1)},
)


class ProbeRoutes:
    """``/primary``, ``/replica``, ``/readiness``, ``/liveness``; HEAD too."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            Route("GET", "/primary", self.primary, "200 where writes are taken, else 503.", head=True),
            Route(
                "GET",
                "/replica",
                self.replica,
                "200 on a replica that answers reads and is fresh enough, else 503.",
                query=LAG,
                head=True,
            ),
            Route("GET", "/readiness", self.readiness, "200 where reads are answered, else 503.", head=True),
            Route("GET", "/liveness", self.liveness, "200 unless this node is about to end.", head=True),
        ]

    def primary(self, request: Request) -> Answer:
        """A master or a standalone node that is not kept from writing."""
        node = self._database.node
        if node.writable:
            return self._answer(None)
        return self._answer("read_only_replica" if node.role is Role.REPLICA else node.fenced or "failed")

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
