"""The circular replication log: the newest operations' frames in memory, shared by all replicas.

One buffer, many readers: a replica's send queue is a cursor into this log. Older operations of the window
are read from the journal. A native lock protects it, because the journal's threads read it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from vectorizer.native_lock import NativeLock

_COMPACT_ENTRIES = 4096


class ReplicationLog:
    """The newest operations, at most ``entries_max`` of them and ``bytes_max`` bytes (but always the newest
    one).
    """

    def __init__(self, entries_max: int, bytes_max: int, base_offset: int = 0) -> None:
        self._lock = NativeLock()
        self._frames: list[bytes] = []
        self._times: list[float | None] = []
        self._ends: list[int] = []  # bytes appended up to and with each operation
        self._head = 0
        self._first = base_offset + 1
        self._bytes = 0
        self._appended = 0
        self._entries_max = entries_max
        self._bytes_max = bytes_max

    @property
    def first_offset(self) -> int:
        """The oldest operation held (the next one's offset if none is)."""
        return self._first

    @property
    def last_offset(self) -> int:
        """The newest operation held (the one before the first if none is)."""
        return self._first + len(self._frames) - self._head - 1

    @property
    def bytes_held(self) -> int:
        """Sum of the frames' sizes."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._frames) - self._head

    def append(self, offset: int, frame: bytes, now: float | None) -> None:
        """Add the operation that follows the newest one; ``now`` is the monotonic time of its commit in
        seconds.
        """
        with self._lock:
            if offset != self._first + len(self._frames) - self._head:
                raise ValueError(f"operation {offset} does not follow {self.last_offset}")
            self._frames.append(frame)
            self._times.append(now)
            self._appended += len(frame)
            self._ends.append(self._appended)
            self._bytes += len(frame)
            if self._bytes > self._bytes_max or len(self._frames) - self._head > self._entries_max:
                self._shrink()

    def extend(self, offset: int, frames: Sequence[bytes], now: float | None) -> None:
        """Add operations from ``offset`` on, committed at the same time."""
        with self._lock:
            if offset != self._first + len(self._frames) - self._head:
                raise ValueError(f"operation {offset} does not follow {self.last_offset}")
            before = self._appended
            for frame in frames:
                self._appended += len(frame)
                self._ends.append(self._appended)
            self._frames.extend(frames)
            self._times.extend([now] * len(frames))
            self._bytes += self._appended - before
            self._shrink()

    def read(self, after_offset: int, bytes_max: int, through_offset: int) -> list[bytes] | None:
        """Frames after an offset, in order: at least one if there is one, then as many as fit in
        ``bytes_max``.

        None if the first of them is no longer in memory.
        """
        with self._lock:
            if after_offset + 1 < self._first:
                return None
            start = after_offset + 1 - self._first + self._head
            stop = min(len(self._frames), through_offset - self._first + 1 + self._head)
            size = 0
            for index in range(start, stop):
                size += len(self._frames[index])
                if size > bytes_max and index > start:
                    return self._frames[start:index]
            return self._frames[start:stop]

    def frame_at(self, offset: int) -> bytes | None:
        """The operation's frame, None if it is not in memory."""
        with self._lock:
            index = offset - self._first + self._head
            return self._frames[index] if self._head <= index < len(self._frames) else None

    def committed_at(self, offset: int) -> float | None:
        """Monotonic time at which the operation was added here; the oldest one's for operations older than
        memory.
        """
        with self._lock:
            index = max(offset - self._first, 0) + self._head
            return self._times[index] if index < len(self._times) else None

    def bytes_after(self, offset: int) -> int:
        """Bytes of the operations after an offset, as far as they are in memory."""
        with self._lock:
            index = max(offset + 1 - self._first, 0) + self._head
            if index >= len(self._frames):
                return 0
            return self._appended - self._ends[index] + len(self._frames[index])

    def set_limits(self, entries_max: int, bytes_max: int) -> None:
        """Change the limits; what no longer fits is dropped at once."""
        with self._lock:
            self._entries_max = entries_max
            self._bytes_max = bytes_max
            self._shrink()

    def _shrink(self) -> None:
        last = len(self._frames) - 1
        while self._head < last and (
            self._bytes > self._bytes_max or len(self._frames) - self._head > self._entries_max
        ):
            self._bytes -= len(self._frames[self._head])
            self._frames[self._head] = b""  # the bytes go now, the slot with the next compaction
            self._head += 1
            self._first += 1
        if self._head >= _COMPACT_ENTRIES and self._head * 2 >= len(self._frames):
            del self._frames[: self._head]
            del self._times[: self._head]
            del self._ends[: self._head]
            self._head = 0
