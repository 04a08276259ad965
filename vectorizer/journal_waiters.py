"""Who waits for the journal: each is woken by the batch that has his operation, not by the one before it.

Of many writers, half commit while a batch is being synced: its end would wake that half in vain.
"""

from __future__ import annotations

from gevent.event import Event


class JournalWaiters:
    """Greenlets that wait until an operation is written, or durable. A wait may end before it is time: who
    waits looks at the journal again.
    """

    def __init__(self) -> None:
        self._under_way = Event()
        self._later = Event()
        self._taken_offset = -1

    def wait(self, offset: int, timeout_secs: float | None = None) -> None:
        """Return when the batch that has this operation is done, or anything else has happened to it."""
        event = self._under_way if offset <= self._taken_offset else self._later
        event.wait(timeout_secs)

    def taken(self, last_offset: int) -> None:
        """A batch is being written now, up to this operation."""
        # Who still waits for the batch before waits for a sync, or has seen another journal.
        self._under_way.set()
        self._under_way, self._later = self._later, Event()
        self._taken_offset = last_offset

    def done(self) -> None:
        """The batch under way is written, and durable if it was synced."""
        before, self._under_way = self._under_way, Event()
        before.set()

    def wake_all(self) -> None:
        """A sync is done, or there is another journal, or none that can be written."""
        self.done()
        later, self._later = self._later, Event()
        later.set()
