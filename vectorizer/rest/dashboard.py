"""``/dashboard``: a page that shows a node to people, and what only it needs to ask.

The page is static: three files of this package put into one. It asks the other routes for what it shows,
with the key that its user gives it, so it may do exactly what that key may. Its headers let it talk to its
own node only, and run no script but its own, whatever data it shows.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cached_property
from importlib import resources
from typing import Any

from vectorizer.events import EVENTS_MAX, Event, EventRing
from vectorizer.keys import ROLES
from vectorizer.rest.access import Access
from vectorizer.rest.documents import HTML
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.schema import Field, Integer, Table
from vectorizer.rest.shapes import BOOLEAN, COUNT, STRING, TIME, choice, list_of, map_of, or_null, record

AFTER = Table(
    "EventsAfter",
    {
        "after": Field(Integer(0, 2**63 - 1), "only events with a higher number", default=0),
        "limit": Field(Integer(1, EVENTS_MAX), "at most so many, the newest", default=EVENTS_MAX),
    },
)
EVENT = record(
    {
        "number": COUNT,
        "time": TIME,
        "level": choice("info", "warning", "error", "critical"),
        "event": STRING,
        "fields": map_of(STRING),
    }
)
EVENTS = record({"events": list_of(EVENT)})
ACCESS = record({"enforced": BOOLEAN, "role": or_null(choice(*ROLES))})


class DashboardRoutes:
    """The page, the latest events, and what the asking key may do."""

    def __init__(self, events: EventRing, access: Access) -> None:
        self._events = events
        self._access = access

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            Route(
                "GET",
                "/dashboard",
                self.dashboard,
                "This node, for people to look at.",
                answers={200: STRING},
                media_type=HTML,
            ),
            Route(
                "GET",
                "/dashboard/access",
                self.access,
                "What the key of this request may do.",
                answers={200: ACCESS},
            ),
            Route(
                "GET",
                "/events",
                self.events,
                "The latest events of this process.",
                query=AFTER,
                answers={200: EVENTS},
            ),
        ]

    def dashboard(self, request: Request) -> Answer:
        """The page, which is the same for everybody."""
        page, headers = self._page
        return Answer(body=page, headers=headers)

    def access(self, request: Request) -> Answer:
        """Where no keys are asked for, everybody is an admin."""
        level = self._access.level(request.environ)
        role = None if level is None else level.word
        return Answer(
            {"enforced": self._access.enforced, "role": role}, headers={"Cache-Control": "no-store"}
        )

    def events(self, request: Request) -> Answer:
        """Oldest first."""
        found = self._events.after(request.parameters["after"], request.parameters["limit"])
        return Answer(
            {"events": [_document(event) for event in found]}, headers={"Cache-Control": "no-store"}
        )

    @cached_property
    def _page(self) -> tuple[bytes, dict[str, str]]:
        return assembled()


def assembled() -> tuple[bytes, dict[str, str]]:
    """The page and its headers, which allow exactly the style and the script that are in it."""
    style, script = _file("dashboard.css"), _file("dashboard.js")
    page = _file("dashboard.html").replace("{{style}}", style).replace("{{script}}", script)
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), {
        "Content-Type": HTML,
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _file(name: str) -> str:
    return resources.files("vectorizer.rest").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _document(event: Event) -> dict[str, Any]:
    created = datetime.fromtimestamp(event.created, UTC).isoformat(timespec="milliseconds")
    return {
        "number": event.number,
        "time": created.replace("+00:00", "Z"),
        "level": event.level,
        "event": event.name,
        "fields": event.fields,
    }
