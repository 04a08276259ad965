"""``/openapi.json`` and ``/docs``: the API described to programs and to people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vectorizer.rest.bodies import encode_json
from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.openapi import document
from vectorizer.rest.reference import page
from vectorizer.rest.shapes import STRING, map_of
from vectorizer.sections import Limits

HTML = "text/html; charset=utf-8"
PAGE_HEADERS = {
    "Content-Type": HTML,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class DocumentRoutes:
    """Made when they are first asked for, from the table as it is then: these two are in it."""

    def __init__(self, table: Sequence[Route], limits: Limits) -> None:
        self._table = table
        self._limits = limits

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        return [
            Route(
                "GET",
                "/openapi.json",
                self.openapi,
                "This interface, for programs: OpenAPI 3.1.",
                answers={200: map_of({})},
            ),
            Route(
                "GET",
                "/docs",
                self.docs,
                "This interface, for people.",
                answers={200: STRING},
                media_type=HTML,
            ),
        ]

    def openapi(self, request: Request) -> Answer:
        """The document."""
        return Answer(body=self._encoded)

    def docs(self, request: Request) -> Answer:
        """The page."""
        return Answer(body=self._page, headers=PAGE_HEADERS)

    @cached_property
    def described(self) -> dict[str, Any]:
        """The document about all routes."""
        return document(self._table, self._limits)

    @cached_property
    def _encoded(self) -> bytes:
        return encode_json(self.described)

    @cached_property
    def _page(self) -> bytes:
        return page(self.described).encode()
