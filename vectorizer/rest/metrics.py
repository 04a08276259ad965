"""``/metrics``: what Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Callable

from vectorizer.rest.exchange import Answer, Request, Route
from vectorizer.rest.shapes import STRING


class MetricsRoutes:
    """Both paths give the same; ``exposition`` makes the text, ``kind`` is its media type."""

    def __init__(self, exposition: Callable[[], bytes], kind: str) -> None:
        self._exposition = exposition
        self._kind = kind

    def routes(self) -> list[Route]:
        """The rows for the table of routes."""
        text = "All numbers of this node in the text format of Prometheus."
        paths = "/metrics", "/prometheus/metrics"
        answers = {200: STRING}
        return [
            Route("GET", path, self.metrics, text, answers=answers, media_type=self._kind) for path in paths
        ]

    def metrics(self, request: Request) -> Answer:
        """The text."""
        return Answer(body=self._exposition(), headers={"Content-Type": self._kind})
