"""Which masterships a node's data went through, as PostgreSQL's timelines.

A history is a list of entries (replication id, epoch, start offset). Every start as master and every
promotion opens one at the node's offset; the operations after that offset, up to the next entry's start,
were written under it. An entry without operations equals its parent: a position is decided by the entry
that holds the operation at its offset. Masterships are ordered by (epoch, replication id); a promotion
raises the epoch, a restart does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

ENTRIES_MAX = 1000
ID_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True, order=True)
class HistoryEntry:
    """One mastership: operations start_offset + 1 and on, up to the next entry's start."""

    replication_id: str
    epoch: int
    start_offset: int


@dataclass(frozen=True, slots=True)
class History:
    """Masterships, oldest first; start offsets never fall. Empty for a node that never held anything."""

    entries: tuple[HistoryEntry, ...] = ()

    @property
    def current(self) -> HistoryEntry | None:
        """The newest mastership."""
        return self.entries[-1] if self.entries else None

    @property
    def epoch(self) -> int:
        """The highest epoch seen, 0 at first."""
        return max((entry.epoch for entry in self.entries), default=0)

    @property
    def replication_id(self) -> str:
        """Id of the newest mastership, ``""`` without one."""
        return self.entries[-1].replication_id if self.entries else ""

    def opened(self, replication_id: str, epoch: int, offset: int) -> History:
        """This history with a mastership opened at the offset; entries that began later are cut off."""
        kept = [entry for entry in self.entries if entry.start_offset <= offset]
        kept.append(HistoryEntry(replication_id, epoch, offset))
        return History(_bounded(kept))

    def end_of(self, index: int, offset: int) -> int:
        """The last offset of entry number ``index`` in a node at ``offset``."""
        if index + 1 < len(self.entries):
            return min(self.entries[index + 1].start_offset, offset)
        return offset

    def index_at(self, offset: int) -> int | None:
        """Number of the entry that holds the operation at this offset; None for 0 and what was forgotten."""
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].start_offset < offset:
                return index
        return None

    def entry_at(self, offset: int) -> HistoryEntry | None:
        """The entry that holds the operation at this offset."""
        index = self.index_at(offset)
        return None if index is None else self.entries[index]

    def truncated(self, offset: int) -> History:
        """Only the entries that hold operations at or before the offset, or begin there."""
        return History(tuple(entry for entry in self.entries if entry.start_offset <= offset))

    def shares_entry(self, other: History) -> bool:
        """Whether any mastership is in both."""
        return not {entry.replication_id for entry in self.entries}.isdisjoint(
            entry.replication_id for entry in other.entries
        )

    def to_document(self) -> list[list[Any]]:
        """As BSON and JSON carry it: [[replication_id, epoch, start_offset], ...]."""
        return [[entry.replication_id, entry.epoch, entry.start_offset] for entry in self.entries]

    @classmethod
    def from_document(cls, document: Any) -> History:
        """The history in a document from disk or a peer. ValueError with a sentence if it is none."""
        if not isinstance(document, list) or len(document) > ENTRIES_MAX:
            raise ValueError(f"a history is a list of at most {ENTRIES_MAX} entries")
        entries = []
        for item in document:
            if not isinstance(item, list) or len(item) != 3:
                raise ValueError("a history entry is [replication_id, epoch, start_offset]")
            replication_id, epoch, start_offset = item
            if type(replication_id) is not str or not 0 < len(replication_id) <= ID_LENGTH_MAX:
                raise ValueError(f"a replication id is a string of 1 to {ID_LENGTH_MAX} characters")
            for number in (epoch, start_offset):
                if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                    raise ValueError("epoch and start offset of a history entry are whole numbers from 0")
            entries.append(HistoryEntry(replication_id, int(epoch), int(start_offset)))
        if any(later.start_offset < sooner.start_offset for sooner, later in pairwise(entries)):
            raise ValueError("start offsets of a history fall")
        if len({entry.replication_id for entry in entries}) != len(entries):
            raise ValueError("a history names one replication id twice")
        return cls(tuple(entries))


def _bounded(entries: Iterable[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """At most ENTRIES_MAX: first the oldest entries without operations go, then the oldest."""
    kept = list(entries)
    excess = len(kept) - ENTRIES_MAX
    if excess > 0:
        empty = {i for i in range(len(kept) - 1) if kept[i].start_offset == kept[i + 1].start_offset}
        dropped = set(sorted(empty)[:excess])
        kept = [entry for index, entry in enumerate(kept) if index not in dropped]
    return tuple(kept[-ENTRIES_MAX:])
