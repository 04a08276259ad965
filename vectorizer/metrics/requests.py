"""How long requests take, by route, method and class of status."""

from __future__ import annotations

from collections.abc import Iterator

from vectorizer.histogram import LATENCY_SECS, Histogram

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
OTHER = "other"
"""In place of a method or path that no route has: labels must not be made up by clients."""


class RequestDurations:
    """One histogram for each (route, method, class of status) that was seen: at most the table of routes
    times 6 methods times 5 classes, in practice two or three for each route.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self._histograms: dict[tuple[str, str, str], Histogram] = {}

    def observe(self, route: str, method: str, status: str, secs: float) -> None:
        """Enter a request; ``route`` is a template of the table of routes, ``status`` the answer's line."""
        key = (route, method if method in METHODS else OTHER, status[:1] + "xx")
        histogram = self._histograms.get(key)
        if histogram is None:
            histogram = self._histograms[key] = Histogram(LATENCY_SECS)
        histogram.observe(secs)

    def __iter__(self) -> Iterator[tuple[tuple[str, str, str], Histogram]]:
        """What was seen, as ((route, method, class), histogram)."""
        return iter(list(self._histograms.items()))
