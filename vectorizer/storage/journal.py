"""The journal: all that was committed, in files: the log's long memory and the way back after a crash.

House rules:

1. `append`, `has_room`, `take_batch` and `complete` are pure: arithmetic and memory on the event loop, no
   I/O. Room is preallocated ahead of need, so what was told yes can be written.
2. `Batch.write`, `sync` and `ensure_room` block in native threads; one batch is under way at a time. A write
   or sync that failed is never retried, what it did is unknown: the error goes up and the process stops.
3. A mark claims only what was synced when it was written: recovery relies on that (see `journal_recovery`).
4. The lock guards what threads share (list of files, what is written, what is synced) and is never held
   across I/O. Only `_making` is, between two threads that block anyway.

Layout is decided by `append`: each frame gets its place in the current file or, if it does not fit, in the
next one. What is buffered forms groups of about BATCH_BYTES; each group becomes a batch, each batch begins
with a mark, and again with one in each further file that it reaches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from vectorizer.errors import VectorizerError
from vectorizer.native_lock import NativeLock
from vectorizer.replication.history import History
from vectorizer.storage.disk import Disk, is_disk_full
from vectorizer.storage.journal_batch import Batch, Part
from vectorizer.storage.journal_file import (
    HEADER_BYTES_MAX,
    INDEX_BYTES,
    INDEX_OPERATIONS,
    MARK_BYTES,
    FileSpan,
    JournalFile,
    Mark,
    create_file,
    encode_history,
    encode_mark,
    history_reserve,
)
from vectorizer.storage.journal_reading import read_frames

BATCH_BYTES = 8 << 20


class JournalFullError(VectorizerError):
    """A frame was appended without room; whoever appends asks `has_room` first."""


class Journal:
    """See the module. Made by `create` or by `journal_recovery.recover`."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        files: list[JournalFile],
        ready: list[JournalFile],
        *,
        file_bytes: int,
        bytes_max: int,
        last_offset: int,
        history: tuple[int, int],
        unmarked: bool,
    ) -> None:
        self.directory = directory
        self.file_bytes = file_bytes
        self.bytes_max = bytes_max
        """The cap that the caller of `trim` keeps; the journal itself never drops anything on its own."""
        self.appended_offset = last_offset
        self._disk = disk
        self._lock = NativeLock()
        self._making = NativeLock()
        self._files = files  # guarded: oldest first; the last is the one being filled
        self._ready = ready  # guarded: made ahead, still empty
        self._end = max(file.position + file.capacity for file in [*files, *ready])  # guarded
        self._tail = files[-1]  # the event loop's, with the next lines
        self._tail_used = self._tail.used
        self._indexed = (0, 0)  # last index entry: offset, place; 0 = none in this file yet
        self._history = history  # (position, offset) of the newest history record
        self._groups: deque[list[Part]] = deque()
        self._group_bytes = 0
        self._under_way: Batch | None = None
        self._completed_offset = last_offset  # guarded
        self._completed_file = self._tail  # guarded
        self._written = (self._tail.end, last_offset)  # guarded: position, offset
        self._synced = (self._tail.end, last_offset)  # guarded
        self._dirty: list[JournalFile] = []  # the writing thread's: written since their last sync
        self._filling = self._tail  # the writing thread's: the file of the newest write
        self._unmarked = unmarked  # whether there are records that no mark claims to be durable
        self._failed = False

    @classmethod
    def create(
        cls, disk: Disk, directory: str, *, file_bytes: int, bytes_max: int, base_offset: int
    ) -> Journal:
        """A durable journal in an existing, empty directory; its first operation is `base_offset` + 1."""
        file = create_file(disk, directory, 0, file_bytes, Mark(0, base_offset, base_offset, 0, 0, 0))
        return cls(
            disk,
            directory,
            [file],
            [],
            file_bytes=file_bytes,
            bytes_max=bytes_max,
            last_offset=base_offset,
            history=(0, 0),
            unmarked=False,
        )

    # -- what it knows --------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether anything appended is not yet completed."""
        return bool(self._groups) or self._under_way is not None

    @property
    def written_bytes(self) -> int:
        """How much of `appended_bytes` is written; the rest is in memory."""
        with self._lock:
            return self._written[0]

    @property
    def durable_offset(self) -> int:
        """The newest operation that is completed and synced."""
        with self._lock:
            return min(self._synced[1], self._completed_offset)

    @property
    def first_offset(self) -> int:
        """The oldest operation that can be read, `appended_offset` + 1 if there is none."""
        with self._lock:
            return next(
                (file.first_offset for file in self._files if file.first_offset), self.appended_offset + 1
            )

    @property
    def bytes_held(self) -> int:
        """Bytes on disk, preallocated ones included."""
        with self._lock:
            return sum(file.capacity for file in self._files) + sum(file.capacity for file in self._ready)

    @property
    def appended_bytes(self) -> int:
        """Bytes appended since the journal of this generation began."""
        return self._tail.position + self._tail_used

    def files(self) -> list[FileSpan]:
        """The files with their operations, oldest first; the last is the one being filled."""
        with self._lock:
            return [
                FileSpan(file.path, file.first_offset, file.last_offset, file.capacity)
                for file in self._files
            ]

    # -- the event loop's half --------------------------------------------------------------

    def has_room(self, frame_bytes: int) -> bool:
        """Whether a frame of this size fits into what is preallocated, marks and headers included."""
        return self._fit(frame_bytes, False) is not None

    def append(self, encoded: bytes, offset: int) -> None:
        """Buffer an operation's frame. JournalFullError if there is no room for it."""
        self.append_run([encoded], offset)

    def append_run(self, frames: Sequence[bytes], offset: int) -> None:
        """Buffer the frames of operations from ``offset`` on, together. JournalFullError if there is no room
        for all of them in one file.
        """
        if offset != self.appended_offset + 1:
            raise ValueError(f"operation {offset} cannot follow operation {self.appended_offset}")
        part = self._part_for(sum(map(len, frames)), False)
        for current, encoded in enumerate(frames, start=offset):
            place = part.end
            number, indexed = self._indexed
            if not indexed or current - number >= INDEX_OPERATIONS or place - indexed >= INDEX_BYTES:
                self._indexed = (current, place)
                part.index.append(self._indexed)
            self._add(part, encoded)
        self.appended_offset = part.last_offset = offset + len(frames) - 1

    def append_history(self, history: History, offset: int) -> None:
        """Buffer a history record as of the newest operation. JournalFullError if there is no room for it."""
        if offset != self.appended_offset:
            raise ValueError(f"a history as of {offset} cannot follow operation {self.appended_offset}")
        encoded = encode_history(history, offset)
        part = self._part_for(len(encoded), True)
        self._history = (part.file.position + part.end, offset)
        self._add(part, encoded)

    def take_batch(self) -> Batch | None:
        """The oldest group of what is buffered; None if there is nothing, or a batch is still under way."""
        if self._under_way is not None or not self._groups:
            return None
        with self._lock:
            crowded = not self._ready and 2 * self._tail_used > self._tail.capacity
        self._under_way = Batch(self._write, self._groups.popleft(), crowded)
        return self._under_way

    def complete(self, batch: Batch) -> None:
        """The batch is written: what it holds can be read, and is durable if it was synced."""
        assert batch is self._under_way, "a batch is completed once, and in its turn"
        self._under_way = None
        self._unmarked = True
        with self._lock:
            for part in batch.parts:
                file = part.file
                if part.last_offset > part.before:
                    file.first_offset = file.first_offset or part.before + 1
                    file.last_offset = part.last_offset
                    file.index_offsets.extend(offset for offset, _ in part.index)
                    file.index_places.extend(place for _, place in part.index)
                file.used = part.end
            self._completed_offset = batch.last_offset
            self._completed_file = batch.parts[-1].file

    def _fit(self, frame_bytes: int, is_history: bool) -> JournalFile | None:
        """The file that takes the next frame, None if there is none."""
        mark = MARK_BYTES if self._starts_group() else 0
        end = self._tail_used + mark + frame_bytes
        if end <= (self._tail.room_end if is_history else self._tail.operations_end):
            return self._tail
        with self._lock:
            for file in self._ready:
                if file.header_bytes + MARK_BYTES + frame_bytes <= file.operations_end:
                    return file
        return None

    def _starts_group(self) -> bool:
        return not self._groups or self._group_bytes >= BATCH_BYTES

    def _part_for(self, frame_bytes: int, is_history: bool) -> Part:
        """The part that takes the next frame, opening group and file as needed."""
        file = self._fit(frame_bytes, is_history)
        if file is None:
            raise JournalFullError(f"the journal has no room for {frame_bytes} bytes more")
        if self._starts_group():
            self._groups.append([])
            self._group_bytes = 0
        elif file is self._tail:
            return self._groups[-1][-1]
        if file is not self._tail:
            self._open_next(file)
        start = self._tail_used
        self._tail_used += MARK_BYTES
        offset = self.appended_offset
        part = Part(file, start, offset, *self._history, end=start + MARK_BYTES, last_offset=offset)
        self._groups[-1].append(part)
        return part

    def _open_next(self, file: JournalFile) -> None:
        file.previous = self._tail.position + self._tail_used
        with self._lock:
            number = self._ready.index(file)
            self._files.extend(self._ready[: number + 1])  # those before it are too small and stay empty
            del self._ready[: number + 1]
        self._tail = file
        self._tail_used = file.header_bytes
        self._indexed = (0, 0)

    def _add(self, part: Part, encoded: bytes) -> None:
        part.frames.append(encoded)
        part.end += len(encoded)
        self._tail_used = part.end
        self._group_bytes += len(encoded)

    # -- the native threads' half --------------------------------------------------------------

    def ensure_room(self, frame_bytes: int) -> bool:
        """Whether there is room for a frame of this size, after making another file if need be. Blocking."""
        if self.has_room(frame_bytes):
            return True
        needed = HEADER_BYTES_MAX + 2 * MARK_BYTES + frame_bytes
        return self._make_file(max(self.file_bytes, needed + history_reserve(2 * needed)))

    def sync(self) -> None:
        """Make durable all that is written. Blocking, never beside `Batch.write`; an OSError is final."""
        with self._lock:
            written = self._written
        try:
            for file in self._dirty:
                assert file.handle is not None, "a file has its handle until all of it is synced"
                file.handle.sync()
                if file is not self._filling:
                    file.close()
        except BaseException:
            self._failed = True
            raise
        self._dirty.clear()
        with self._lock:
            self._synced = written

    def close(self) -> None:
        """Sync, say in a last mark that all is durable, and close. What is still buffered is dropped."""
        try:
            if not self._failed and self._under_way is None:
                self.sync()
                if self._unmarked and not self._groups:
                    tail = self._tail
                    assert tail.handle is not None
                    mark = encode_mark(tail.file_id, self._mark(tail, self.appended_offset, self._history))
                    tail.handle.write_at(self._tail_used, [mark])
                    tail.handle.sync()
        finally:
            self._failed = True  # nothing more is written
            for file in [*self._files, *self._ready]:
                file.close()

    def trim(self, through_offset: int) -> list[str]:
        """Remove the oldest files while they hold nothing after `through_offset`; their paths. Blocking.

        A durable manifest must have it all. The file being filled stays, and one whose follower is not synced
        yet: recovery expects a whole mark in what is left.
        """
        with self._lock:
            count = 0
            for file, follower in pairwise(self._files):
                if file is self._completed_file or file.last_offset > through_offset:
                    break
                if self._synced[0] < follower.position + follower.header_bytes + MARK_BYTES:
                    break
                count += 1
            removed, self._files = self._files[:count], self._files[count:]
        for file in removed:
            file.close()
            self._disk.remove(file.path)
            self._disk.sync_directory(self.directory)  # each on its own: what is left has no gap
        return [file.path for file in removed]

    def read(self, after_offset: int, bytes_max: int, through_offset: int) -> list[bytes] | None:
        """Frames of the operations after an offset: about `bytes_max`, but at least one. Blocking.

        Only what is completed is seen, up to `through_offset`; [] if there is nothing more, None if the
        oldest of them is no longer held. DamageError if a frame on disk is damaged.
        """
        frames: list[bytes] = []
        budget = max(bytes_max, 1)
        while budget > 0:
            with self._lock:
                through = min(through_offset, self._completed_offset)
                if after_offset >= through:
                    break
                file = next((file for file in self._files if file.last_offset > after_offset), None)
                if file is None or file.first_offset > after_offset + 1:
                    return frames or None
                number, place = file.place_before(after_offset + 1)
                used, last = file.used, min(file.last_offset, through)
            try:
                found = read_frames(self._disk, file.path, number, place, used, after_offset, last, budget)
            except FileNotFoundError:  # trimmed meanwhile
                return frames or None
            frames += found
            after_offset += len(found)
            budget -= sum(map(len, found))
        return frames

    def _write(self, batch: Batch, sync: bool) -> None:
        try:
            for part in batch.parts:
                file = part.file
                assert file.handle is not None, "a file has its handle while it is being filled"
                if file is not self._filling:
                    if self._filling not in self._dirty:
                        self._filling.close()
                    self._filling = file
                history = (part.history_position, part.history_offset)
                mark = encode_mark(file.file_id, self._mark(file, part.before, history))
                file.handle.write_at(part.start, [mark, *part.frames])
                if file not in self._dirty:
                    self._dirty.append(file)
                with self._lock:
                    self._written = (file.position + part.end, part.last_offset)
                if sync:
                    self.sync()
        except BaseException:
            self._failed = True
            raise
        if batch.crowded:
            self._make_file(self.file_bytes)

    def _mark(self, file: JournalFile, before: int, history: tuple[int, int]) -> Mark:
        with self._lock:
            position, offset = self._synced
        return Mark(position, offset, before, file.previous, *history)

    def _make_file(self, size: int) -> bool:
        """Make an empty file ready; False if the disk is full.

        There are no gaps between files, so one is made at a time: whoever waits for `_making` would wait as
        long for a file of his own.
        """
        with self._making:
            with self._lock:
                position = self._end
            try:
                file = create_file(self._disk, self.directory, position, size)
            except OSError as error:
                if is_disk_full(error):
                    return False
                raise
            with self._lock:
                self._ready.append(file)
                self._end = position + size
            return True
