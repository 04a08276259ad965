"""The latest events of a node, kept in memory for whoever looks at it now; the log on disk is for later."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from vectorizer.native_lock import NativeLock

EVENTS_MAX = 256
FIELDS_MAX = 24
FIELD_CHARACTERS_MAX = 400
ROUTINE = frozenset({"graph_built"})
"""Events that come by themselves in any number, and would push out the others."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event; numbers rise, ``created`` is in Unix seconds."""

    number: int
    created: float
    level: str
    name: str
    fields: dict[str, str]


class EventRing:
    """The newest events, a bounded number of bounded ones. Native threads may add to it and read it.

    Numbers begin at ``first``: with the time in milliseconds, those of a restarted process go on rising.
    """

    def __init__(self, first: int, events_max: int = EVENTS_MAX) -> None:
        self._next = first
        self._lock = NativeLock()
        self._events: deque[Event] = deque(maxlen=events_max)

    def note(self, created: float, level: str, name: str, fields: dict[str, str]) -> None:
        """Keep an event; the oldest one makes room."""
        if name in ROUTINE:
            return
        kept = {key: _cut(value) for key, value in islice(fields.items(), FIELDS_MAX)}
        with self._lock:
            self._events.append(Event(self._next, created, level, _cut(name), kept))
            self._next += 1

    def after(self, number: int, limit: int) -> list[Event]:
        """The newest ``limit`` of the events with a higher number, oldest first."""
        with self._lock:
            found = [event for event in self._events if event.number > number]
        return found[-limit:]


def _cut(text: str) -> str:
    return text if len(text) <= FIELD_CHARACTERS_MAX else f"{text[: FIELD_CHARACTERS_MAX - 1]}…"
