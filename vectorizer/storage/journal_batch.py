"""What is written to the journal in one go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vectorizer.storage.journal_file import JournalFile


@dataclass(slots=True, eq=False)
class Part:
    """What a batch has in one file: a mark at `start`, then the frames, up to `end`."""

    file: JournalFile
    start: int
    before: int
    """Offset of the last operation before it."""
    history_position: int
    """Of the newest history record before it, 0 if there is none."""
    history_offset: int
    end: int
    last_offset: int
    """Offset of its last operation, `before` if it has none."""
    frames: list[bytes] = field(default_factory=list)
    index: list[tuple[int, int]] = field(default_factory=list)
    """(offset, place in the file) of some of its operations, the file's first among them."""


class Batch:
    """What was buffered when it was taken; to be written in a native thread, then completed."""

    def __init__(self, write: Callable[[Batch, bool], None], parts: list[Part], crowded: bool) -> None:
        self._write = write
        self.parts = parts
        self.crowded = crowded
        """Whether the next file should be made now."""

    @property
    def last_offset(self) -> int:
        """The newest operation in it, or before it if it has none."""
        return self.parts[-1].last_offset

    def write(self, sync: bool) -> None:
        """Write, and sync if told to, file by file in order. Blocking; an OSError is final."""
        self._write(self, sync)
