"""How many greenlets have begun and not ended: one that nobody ends is a leak, as a thread is."""

from __future__ import annotations

from weakref import WeakSet

import gevent


class Greenlets:
    """Hears of each greenlet when it is spawned, by whomever; holds none of them alive."""

    def __init__(self) -> None:
        self._spawned: WeakSet[gevent.Greenlet[..., object]] = WeakSet()

    def start(self) -> None:
        """Count those that are spawned from now on."""
        gevent.Greenlet.add_spawn_callback(self._spawned.add)

    def close(self) -> None:
        """Hear of no more; harmless if it was never started."""
        gevent.Greenlet.remove_spawn_callback(self._spawned.add)

    def count(self) -> int:
        """Those that live now."""
        return sum(not greenlet.dead for greenlet in self._spawned)
