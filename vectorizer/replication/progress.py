"""The master's passport of each replica: where it stands, and the table of all of them.

House rules
-----------
1. Every question about a replica (its lag, its state, must it be dropped) is asked of one `Progress`; nobody
   keeps a second copy of a fact that stands here.
2. Facts only. What is shown of them is derived on each read (vectorizer.replication.status).
3. One `Progress` a link. When a replica comes back, its row is replaced by a new one that inherits the
   totals, so that an old link that has not noticed its end can no longer change what is shown.

Theory
------
For a replica that streams: acked_durable <= acked_applied <= sent_offset <= the master's offset. During a
full sync the three stand where they stood when the replica came (they may then belong to a branch that is
given up); at its end all three jump to the snapshot's offset.

Caveats
-------
Times are monotonic seconds of this process (`..._at`); `last_heard_ms` is the wall clock, for people. The lag
of a replica that misses operations older than this process is counted from the moment it connected: when they
were committed is not known any more.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from vectorizer.histogram import TRANSFER_BYTES, TRANSFER_SECS, Histogram

FLAP_WINDOW_SECS = 60.0
FLAP_LINKS = 3
ROWS_MAX = 1000  # a peer that makes up node ids must not fill the memory
REASONS_MAX = 100  # nor one that makes up reasons; there are about forty
OTHER_REASONS = "other"


class Phase(StrEnum):
    """Where a replica's link is, seen from the master."""

    HANDSHAKE = "handshake"
    SYNCING = "syncing"
    STREAMING = "streaming"
    GONE = "gone"


class CommitTimes(Protocol):
    """The part of the replication log that lag is computed from."""

    def committed_at(self, offset: int) -> float | None:
        """Monotonic time of the operation's commit, None if unknown."""


@dataclass(slots=True)
class SyncProgress:
    """One running full sync. bytes_received <= bytes_sent <= bytes_total."""

    offset: int  # what the replica will stand at when it is done
    reason: str
    started_at: float
    bytes_total: int = 0  # of the files that travel; 0 until the snapshot is captured
    bytes_sent: int = 0  # handed to the socket
    bytes_received: int = 0  # said by the replica to be written

    def percent(self) -> float:
        """0 to 100, by what the replica confirmed."""
        return 100.0 * self.bytes_received / self.bytes_total if self.bytes_total else 0.0

    def eta_secs(self, now: float) -> float | None:
        """Seconds still to go at the mean rate so far; None before the first confirmation."""
        if self.bytes_received == 0:
            return None
        return (now - self.started_at) * (self.bytes_total - self.bytes_received) / self.bytes_received


@dataclass(slots=True)
class Progress:
    """What the master knows of one replica."""

    node_id: str  # the key of the table; chosen by the replica's data directory, so it survives its restarts
    host: str  # where the link comes from
    port: int  # the port it comes from, or the one it says it listens on (hello's listen_port)
    rest_address: str  # where the replica's REST can be reached, "" unknown
    connected_at: float  # when this link said hello
    listens_at: str = ""  # host:port where it takes replicas of its own, "" nowhere
    phase: Phase = Phase.HANDSHAKE
    last_heard_at: float = 0.0  # any message counts; >= connected_at
    last_heard_ms: int = 0  # the same moment by the wall clock
    gone_at: float | None = None  # set exactly when phase is GONE
    gone_reason: str = ""
    sent_offset: int = 0  # newest operation handed to the socket; >= acked_applied
    acked_applied: int = 0  # newest operation the replica says it has applied; >= acked_durable
    acked_durable: int = 0  # newest operation the replica says would survive its power loss
    bytes_sent: int = 0  # totals of all links of this replica since the master started
    bytes_received: int = 0
    full_syncs: int = 0  # full syncs finished
    partial_syncs: int = 0  # partial syncs begun
    last_reason: str = ""  # why the last sync was of its kind
    last_sync_ms: int = 0  # wall clock of the last sync's end (full) or beginning (partial), 0 = never
    snapshot_bytes: int = 0  # size of the last snapshot sent, 0 = none
    sync: SyncProgress | None = None  # while phase is SYNCING
    links: int = 1  # links of this replica since the master started
    replaced: deque[float] = field(
        default_factory=lambda: deque(maxlen=FLAP_LINKS)
    )  # when a living link was replaced

    def acknowledge(self, applied: int, durable: int) -> bool:
        """Take an ack; whether it brought news. Offsets never go back on one link."""
        news = applied > self.acked_applied or durable > self.acked_durable
        self.acked_applied = max(self.acked_applied, applied)
        self.acked_durable = max(self.acked_durable, durable)
        return news

    def stand_at(self, offset: int, *, durable: int | None = None) -> None:
        """The replica's position as of now, whatever was known before: the beginning of a stream."""
        self.sent_offset = self.acked_applied = offset
        self.acked_durable = offset if durable is None else durable

    def lag_operations(self, newest: int) -> int:
        """Operations that the replica has not acknowledged as applied; `newest` is the master's offset."""
        return max(0, newest - self.acked_applied)

    def lag_ms(self, newest: int, log: CommitTimes, now: float) -> int:
        """Age of the oldest operation not acknowledged, in milliseconds; 0 if there is none."""
        if self.acked_applied >= newest:
            return 0
        committed_at = log.committed_at(self.acked_applied + 1)
        since = self.connected_at if committed_at is None else committed_at
        return max(0, round((now - since) * 1000))

    def flapping(self, now: float) -> bool:
        """Whether two nodes seem to use one node id: several living links replaced within a minute."""
        return len(self.replaced) == FLAP_LINKS and now - self.replaced[0] <= FLAP_WINDOW_SECS


class Reasons(Counter[str]):
    """How often, by reason. Peers say some of them: what comes after REASONS_MAX counts as ``other``."""

    def note(self, reason: str) -> None:
        """Once more."""
        self[reason if reason in self or len(self) < REASONS_MAX else OTHER_REASONS] += 1


@dataclass(slots=True)
class Totals:
    """Counters since this node became master, or replica. They outlive the rows."""

    full_syncs: int = 0
    partial_syncs: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    last_sync_ms: int = 0
    snapshot_bytes: int = 0
    refusals: Reasons = field(default_factory=Reasons)
    full_sync_reasons: Reasons = field(default_factory=Reasons)
    disconnects: Reasons = field(default_factory=Reasons)
    full_sync_secs: Histogram = field(default_factory=lambda: Histogram(TRANSFER_SECS))  # of those finished
    full_sync_bytes: Histogram = field(default_factory=lambda: Histogram(TRANSFER_BYTES))

    def full_sync_finished(self, seconds: float, size: int) -> None:
        """A full sync is installed; `size` bytes of files travelled."""
        self.full_syncs += 1
        self.full_sync_secs.observe(seconds)
        self.full_sync_bytes.observe(size)


class ReplicaTable:
    """All replicas a master knows, by node id: those linked, and those gone for less than
    `replica_forget_secs`.

    Shared by all sessions of one master, which add and change their own row; read by status. Not shared by
    threads.
    """

    def __init__(self) -> None:
        self.totals = Totals()
        self._rows: dict[str, Progress] = {}

    def __iter__(self) -> Iterator[Progress]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, node_id: str) -> Progress | None:
        """The replica's row."""
        return self._rows.get(node_id)

    def attach(self, progress: Progress, now: float) -> Progress | None:
        """Make this the replica's row. Returns the row of its living link, which is to be closed, or None.

        The newest link wins: a replica that lost its link without the master's noticing must get in at once.
        """
        if len(self._rows) >= ROWS_MAX:
            self._drop_oldest_gone()
        previous = self._rows.get(progress.node_id)
        self._rows[progress.node_id] = progress
        if previous is None or previous is progress:
            return None
        for total in (
            "bytes_sent",
            "bytes_received",
            "full_syncs",
            "partial_syncs",
            "last_sync_ms",
            "snapshot_bytes",
        ):
            setattr(progress, total, getattr(progress, total) + getattr(previous, total))
        progress.links = previous.links + 1
        progress.replaced = previous.replaced
        if previous.phase is Phase.GONE:
            return None
        progress.replaced.append(now)
        self.detach(previous, "replaced", now)
        return previous

    def detach(self, progress: Progress, reason: str, now: float) -> None:
        """The link of this row is gone. The row stays until it is forgotten."""
        if progress.phase is not Phase.GONE:
            self.totals.disconnects.note(reason)
            progress.phase, progress.gone_at, progress.gone_reason = Phase.GONE, now, reason
        progress.sync = None

    def forget(self, now: float, forget_secs: float) -> list[str]:
        """Drop the rows whose link has been gone for that long; returns their node ids."""
        old = [row.node_id for row in self if row.gone_at is not None and now - row.gone_at >= forget_secs]
        for node_id in old:
            del self._rows[node_id]
        return old

    def _drop_oldest_gone(self) -> None:
        gone = [row for row in self if row.gone_at is not None]
        if gone:
            oldest = min(gone, key=lambda row: row.gone_at or 0.0)
            del self._rows[oldest.node_id]

    def linked(self) -> list[Progress]:
        """Rows whose link is alive, whatever it does."""
        return [row for row in self if row.phase is not Phase.GONE]

    def acknowledged(self, offset: int, *, durable: bool = True) -> int:
        """How many linked, streaming replicas have that operation (durably)."""
        return sum(
            (row.acked_durable if durable else row.acked_applied) >= offset
            for row in self
            if row.phase is Phase.STREAMING
        )
