"""What the two state machines of the stream ask for. Whoever drives one carries these out, in order.

The machines (session.py on the master, link.py on the replica) neither send, read nor wait. They answer with
these, so that the same code runs behind sockets, in tests of two machines joined by a list, and in the
simulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vectorizer.replication.history import History
    from vectorizer.replication.messages import FileEntry, Message
    from vectorizer.replication.progress import Progress
    from vectorizer.runs import Run
    from vectorizer.storage.disk import Buffer


# -- of both -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Put this message on the wire."""

    message: Message


@dataclass(frozen=True, slots=True)
class Report:
    """Something a person should read, with the numbers of both sides."""

    event: str
    facts: Mapping[str, Any]
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; the last thing that is asked for on it."""

    reason: str
    message: str


# -- of a session ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendFrames:
    """Put these operations on the wire, in one call."""

    frames: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class ReadJournal:
    """Read operations from the journal, in a native thread, and say what it gave by `journal_read`."""

    after_offset: int
    bytes_max: int
    through_offset: int


@dataclass(frozen=True, slots=True)
class CaptureSnapshot:
    """Capture a snapshot, without the files that the replica has; then `snapshot_captured` or `fail`.

    `fresh`: it must be of now. The replica could not take an operation that an older one would not hold.
    """

    have: Mapping[str, int]
    fresh: bool


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Read a piece of the snapshot's file of this number, in a native thread; then `chunk_read` or `fail`."""

    number: int
    position: int
    count: int


@dataclass(frozen=True, slots=True)
class ReleaseSnapshot:
    """The snapshot and the journal it pins are not needed any more.

    Not said when the link ends: release it then too.
    """


@dataclass(frozen=True, slots=True)
class CloseReplaced:
    """A newer link of the same node came: `close` the session of this older row, reason `replaced`."""

    progress: Progress


SessionIntention = (
    Send
    | SendFrames
    | ReadJournal
    | CaptureSnapshot
    | ReadChunk
    | ReleaseSnapshot
    | CloseReplaced
    | Report
    | Close
)


# -- of a link: work on the replica's own data, done before the next message is looked at ------------


@dataclass(frozen=True, slots=True)
class AdoptHistory:
    """Take over the master's history; its record precedes the first operation in the journal."""

    history: History


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply this operation (`node.apply_frame`), or the whole run; then `applied`, or `apply_failed`."""

    offset: int
    frame: bytes
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Before a full sync: save the operations after the fork aside, and go back to an own state at or before
    it.

    `fork_offset` None = nothing has diverged: only tell which files are held. `rewind` False = save, but do
    not go back. Answer by `prepared`.
    """

    fork_offset: int | None
    rewind: bool


@dataclass(frozen=True, slots=True)
class BeginSnapshot:
    """Make room aside for a snapshot. `keep_aside`: a foreign history was forced, keep the old data."""

    offset: int
    manifest: Mapping[str, Any]
    files: Sequence[FileEntry]
    keep_aside: bool


@dataclass(frozen=True, slots=True)
class WriteChunk:
    """Write a piece of a file of the snapshot, then `written`; or `snapshot_failed`."""

    name: str
    position: int
    data: Buffer
    crc32: int | None = None  # of the data, if it is known


@dataclass(frozen=True, slots=True)
class Install:
    """All of the snapshot is here: verify it, install it; then `installed`, or `snapshot_failed`."""

    offset: int


@dataclass(frozen=True, slots=True)
class AbortSnapshot:
    """The transfer has ended early: drop what was received. Said at most once for each BeginSnapshot."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The master hands its mastership to this node, which holds everything up to `offset`; then `settle`."""

    switchover: str
    offset: int


@dataclass(frozen=True, slots=True)
class FollowAnother:
    """The mastership has moved to the node that takes its replicas at this address (host:port)."""

    master_address: str


LinkWork = (
    AdoptHistory
    | Apply
    | Prepare
    | BeginSnapshot
    | WriteChunk
    | Install
    | AbortSnapshot
    | TakeOver
    | FollowAnother
)
LinkIntention = Send | Report | Close
