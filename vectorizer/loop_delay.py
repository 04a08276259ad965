"""How long the event loop is held: a greenlet that wants to run at fixed times, and how late it gets to."""

from __future__ import annotations

import time
from collections import deque

import gevent

from vectorizer.histogram import LATENCY_SECS, Histogram

INTERVAL_SECS = 0.02
RECENT_SAMPLES = 3000


class LoopDelay:
    """Delays of the event loop in milliseconds: the latest minute's maximum and p99, and the maximum ever."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT_SAMPLES)
        self.max_ms = 0.0
        self.histogram = Histogram(LATENCY_SECS)
        """All delays, in seconds."""

    def run(self) -> None:
        """Measure for ever."""
        while True:
            due = time.monotonic() + INTERVAL_SECS
            gevent.sleep(INTERVAL_SECS)
            delay_ms = max(0.0, (time.monotonic() - due) * 1000)
            self._recent.append(delay_ms)
            self.histogram.observe(delay_ms / 1000)
            self.max_ms = max(self.max_ms, delay_ms)

    def document(self) -> dict[str, float]:
        """As status shows it."""
        recent = sorted(self._recent)
        if not recent:
            return {"p99_ms": 0.0, "recent_max_ms": 0.0, "max_ms": 0.0}
        return {
            "p99_ms": round(recent[int(len(recent) * 0.99)], 3),
            "recent_max_ms": round(recent[-1], 3),
            "max_ms": round(self.max_ms, 3),
        }
