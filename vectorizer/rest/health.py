"""Whether the process is alive."""

from __future__ import annotations

import time

from vectorizer import __version__
from vectorizer.database import Database
from vectorizer.node import Role
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.shapes import NUMBER, STRING, choice, record

HEALTH = record(
    {"status": choice("ok", "failed"), "role": choice(*Role), "version": STRING, "uptime_seconds": NUMBER}
)


class HealthRoutes:
    """``/health``: 200 as long as the process answers, whatever its data are doing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._started = time.monotonic()

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        text = "Whether the process is alive, its role and version."
        return [Route("GET", "/health", self.health, text, head=True, answers={200: HEALTH})]

    def health(self, request: Request) -> Answer:
        """Status, role, version and uptime."""
        node = self._database.node
        status = "ok" if node.failure is None else "failed"
        return Answer(
            {
                "status": status,
                "role": node.role.value,
                "version": __version__,
                "uptime_seconds": round(time.monotonic() - self._started, 3),
            }
        )
