"""What a replica knows of its master, and how old that makes its own data."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectorizer.address import seen_from_elsewhere
from vectorizer.replication.history import History
from vectorizer.replication.messages import Heartbeat, Welcome

OVERDUE_SECS = 1.0
"""How much later than its interval a heartbeat may come on a link that is well."""


@dataclass(slots=True)
class MasterFacts:
    """From welcome, heartbeats and frames; kept while the link is down. durable <= offset.

    The lag is what the master measured, on its clock, from the commit of the oldest operation that was not
    acknowledged. Between its heartbeats, and while the link is down, local time is added. A link on which
    a heartbeat is overdue may be a dead one: the data is then taken to be as old as the last heartbeat.
    """

    aging_since: float  # when the data began to age: link lost, or this object's creation (monotonic seconds)
    node_id: str = ""
    rest_address: str = ""
    history: History = field(default_factory=History)
    path: tuple[str, ...] = ()  # of node ids: the master's, then those above it
    writes_address: str = ""  # REST of the node at the end of the path
    offset: int = 0
    durable: int = 0
    heartbeat_interval_secs: float = 5.0
    heartbeat_at: float | None = None
    heartbeat_ms: int = 0
    heartbeat_gap_secs: float = 0.0  # between the last two: the master's interval may have changed meanwhile
    streams: bool = False
    streams_since: float = 0.0
    lag_told_ms: int = 0
    lag_told_at: float = 0.0
    above_lag_ms: int = 0  # how old the master's own data was at that time, if it follows somebody

    def welcomed(self, welcome: Welcome, host: str, now: float, now_ms: int) -> None:
        """A new connection's first facts. ``host``: at which the master was reached."""
        self.node_id, self.path = welcome.node_id, welcome.path
        self.rest_address = seen_from_elsewhere(welcome.rest_address, host)
        self.writes_address = welcome.writes_address or self.rest_address
        self.history, self.offset, self.durable = welcome.history, welcome.offset, welcome.offset
        self.heartbeat_interval_secs = welcome.heartbeat_interval_secs
        self.heartbeat_at, self.heartbeat_ms, self.heartbeat_gap_secs = now, now_ms, 0.0

    def beats(self, heartbeat: Heartbeat, now: float, now_ms: int) -> None:
        """A heartbeat came."""
        self.heartbeat_gap_secs = 0.0 if self.heartbeat_at is None else now - self.heartbeat_at
        self.heartbeat_at, self.heartbeat_ms = now, now_ms
        self.offset = max(heartbeat.offset, self.offset)
        self.durable = max(heartbeat.durable, self.durable)
        if self.streams:
            self.lag_told_ms, self.lag_told_at = heartbeat.lag_ms, now
            self.above_lag_ms = heartbeat.above_lag_ms

    def stream_begins(self, own_offset: int, now: float) -> None:
        """From here on operations arrive; until the master tells its lag, it is what it was."""
        self.lag_told_ms, self.lag_told_at = self.lag_ms(own_offset, now), now
        self.streams, self.streams_since, self.above_lag_ms = True, now, 0

    def stream_ends(self, own_offset: int, now: float) -> None:
        """The link is lost: from here on the data ages."""
        if self.streams:
            self.lag_told_ms, self.aging_since = self.lag_ms(own_offset, now), now
            self.streams = False

    def lag_ms(self, own_offset: int, now: float) -> int:
        """Age of this node's data in milliseconds; 0 while it streams and has all that is known of.

        In a chain, the age of the followed node's own data is added, as its last heartbeat told it.
        """
        if not self.streams:
            return self.lag_told_ms + max(0, round((now - self.aging_since) * 1000))
        overdue_ms = self._overdue_ms(now)
        if overdue_ms:
            return self.lag_told_ms + overdue_ms + self.above_lag_ms
        if own_offset >= self.offset:
            return self.above_lag_ms
        return self.lag_told_ms + max(0, round((now - self.lag_told_at) * 1000)) + self.above_lag_ms

    def _overdue_ms(self, now: float) -> int:
        """Time since the last heartbeat if the next one is overdue, else 0."""
        assert self.heartbeat_at is not None, "it streams, so it was welcomed"
        age = now - max(self.heartbeat_at, self.streams_since)
        interval = max(self.heartbeat_interval_secs, self.heartbeat_gap_secs)
        return round(age * 1000) if age > interval + max(interval / 2, OVERDUE_SECS) else 0

    def heartbeat_age_ms(self, now: float) -> int | None:
        """Time since the master's last heartbeat, None before the first."""
        return None if self.heartbeat_at is None else max(0, round((now - self.heartbeat_at) * 1000))
