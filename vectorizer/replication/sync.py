"""How a replica is brought up to date: the one decision, as a pure function.

Rules of the house:

1. Nothing silent: a full sync or a refusal always has a reason and the fork offset, and both sides' numbers
   are shown.
2. A partial sync only from a position that lies on the master's own history, inside its window, with the
   same bytes.
3. Data is never overwritten by a history that shares nothing with it (the wipe guard).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vectorizer.replication.history import History


class SyncKind(StrEnum):
    """What a replica gets."""

    PARTIAL = "partial"
    FULL = "full"
    REFUSE = "refuse"


class Reason(StrEnum):
    """Why."""

    CONTINUES = "continues"
    """The replica's position lies on the master's history and inside its window."""
    EMPTY_REPLICA = "empty_replica"
    """The replica holds nothing yet."""
    OUTSIDE_WINDOW = "outside_window"
    """The replica's position is older than the master's window."""
    DIVERGED = "diverged"
    """The replica has operations that the master's history does not have."""
    AHEAD = "ahead"
    """The replica has more operations of the master's newest history than the master itself."""
    CHECKSUM_MISMATCH = "checksum_mismatch"
    """The operation at the replica's offset has other bytes on the master."""
    REQUESTED = "requested"
    """The replica asked for it, its last operations could not be applied."""
    FOREIGN_HISTORY = "foreign_history"
    """The two nodes' data have no common origin; only an operator may force it."""
    STALE_MASTER = "stale_master"
    """The replica has operations of a newer mastership than the master's."""
    TWO_MASTERS = "two_masters"
    """Both nodes took writes as masters of the same epoch."""
    NO_HISTORY = "no_history"
    """The master itself holds no complete data."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a node stands: its history, its newest offset, and the frame's checksum there if it has it."""

    history: History
    offset: int
    checksum: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The kind of sync, why, and the last offset both nodes have in common."""

    kind: SyncKind
    reason: Reason
    fork_offset: int


def fork_offset_of(master: Position, replica: Position) -> int | None:
    """The last offset up to which both have the same operations; None if they share no entry."""
    numbers = {entry.replication_id: index for index, entry in enumerate(master.history.entries)}
    for index in range(len(replica.history.entries) - 1, -1, -1):
        entry = replica.history.entries[index]
        number = numbers.get(entry.replication_id)
        if number is None or entry.start_offset > replica.offset:
            continue
        mine = master.history.end_of(number, master.offset)
        return min(mine, replica.history.end_of(index, replica.offset))
    return None


def decide(
    master: Position,
    replica: Position,
    window_first: int,
    *,
    master_checksum: int | None = None,
    full_requested: bool = False,
    force: bool = False,
) -> Decision:
    """How the master answers a replica's position.

    ``window_first`` is the first operation the master can still send (offset + 1 if none).
    ``master_checksum`` is that of the master's own frame at the replica's offset, None where it no longer
    has it. ``force`` is an operator's word that the replica's own data may be given up.
    """
    if master.history.current is None:
        return Decision(SyncKind.REFUSE, Reason.NO_HISTORY, 0)
    if replica.offset == 0:
        if master.offset == 0 and not full_requested:
            return Decision(SyncKind.PARTIAL, Reason.CONTINUES, 0)
        return Decision(SyncKind.FULL, Reason.REQUESTED if full_requested else Reason.EMPTY_REPLICA, 0)
    fork = fork_offset_of(master, replica)
    if fork is None:
        return _guarded(Reason.FOREIGN_HISTORY, 0, force)
    if fork < replica.offset:
        return _diverged(master, replica, fork, force)
    if full_requested:
        return Decision(SyncKind.FULL, Reason.REQUESTED, fork)
    if None not in (replica.checksum, master_checksum) and replica.checksum != master_checksum:
        return Decision(SyncKind.FULL, Reason.CHECKSUM_MISMATCH, fork)
    if replica.offset + 1 < window_first:
        return Decision(SyncKind.FULL, Reason.OUTSIDE_WINDOW, fork)
    return Decision(SyncKind.PARTIAL, Reason.CONTINUES, fork)


def _diverged(master: Position, replica: Position, fork: int, force: bool) -> Decision:
    """The replica has operations beyond the fork: whose mastership is newer decides."""
    newest = replica.history.entry_at(replica.offset)
    known = {entry.replication_id for entry in master.history.entries}
    if newest is not None and newest.replication_id not in known:
        current = master.history.current
        assert current is not None
        if newest.epoch > current.epoch:
            return _guarded(Reason.STALE_MASTER, fork, force)
        if newest.epoch == current.epoch:
            return _guarded(Reason.TWO_MASTERS, fork, force)
        return Decision(SyncKind.FULL, Reason.DIVERGED, fork)
    if newest is not None and newest.replication_id == master.history.replication_id:
        return Decision(SyncKind.FULL, Reason.AHEAD, fork)
    return Decision(SyncKind.FULL, Reason.DIVERGED, fork)


def _guarded(reason: Reason, fork: int, force: bool) -> Decision:
    return Decision(SyncKind.FULL if force else SyncKind.REFUSE, reason, fork)
