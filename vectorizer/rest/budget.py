"""A bound on the memory of all large bodies together.

One connection may send a body up to a limit; a thousand of them must not fill the memory. Who wants to read a
large body reserves its room first, all at once, so that two half-read bodies never wait for each other.
"""

from __future__ import annotations

import gevent
from gevent.event import Event

from vectorizer.errors import RequestError

SMALL_BYTES = 64 * 1024
"""Bodies up to this size are not counted: the number of connections bounds them."""


class Budget:
    """Room in bytes, shared by all requests of one server."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._released = Event()

    def reserve(self, size: int, seconds: float) -> int:
        """Wait for room; what was reserved, to be given back. RequestError 503 if there is none in time."""
        if size <= SMALL_BYTES:
            return 0
        with gevent.Timeout(seconds, _busy()):
            while self._left < size:
                self._released.clear()
                self._released.wait()
        self._left -= size
        return size

    def release(self, size: int) -> None:
        """Give room back."""
        self._left += size
        self._released.set()


def _busy() -> RequestError:
    return RequestError(
        503,
        "busy",
        "too many large requests are being read at the moment; send it again",
        headers={"Retry-After": "1"},
    )
