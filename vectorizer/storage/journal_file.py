"""One file of the journal: its name, its records, and what the journal remembers of it.

A journal is a directory of preallocated files named `<position, 20 digits>.journal`. A file's position is
the number of bytes that all files before it were given; a byte's position in the journal is its file's
position plus its place in the file. Every record is a frame. In a file:

    header | mark, records of a batch | mark, records of a batch | ... | zeros

- The header {m: "journal", version, position, file_id (8 random bytes), bytes (size of the file)} is written
  and synced under another name, then the file is renamed. So a file of this name always has a whole header
  and its full size, whatever crashed when: anything else is damage.
- A mark {m: "mark", file_id, n} begins what a batch has in this file. `n` packs six u64be: the position
  durable when it was written; the offset durable; the offset of the last operation before it; where the
  content of the file before this one ended; position and offset of the newest history record before it.
  Marks have one size, MARK_BYTES.
- Operations are the frames of `operations.py`; their body begins with the offset ("o"), so it is read
  without decoding.
- A history record {m: "history", entries, offset} is the whole history as of an offset.

`file_id` never leaves the directory: bytes of a client that look like a mark cannot be taken for one.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from vectorizer import codec, frame
from vectorizer.replication.history import History
from vectorizer.storage.disk import Disk, File

VERSION = 1
SUFFIX = ".journal"
UNFINISHED_SUFFIX = ".journal.new"
FILE_ID_BYTES = 8
HEADER_BYTES_MAX = 256
HISTORY_RESERVE_BYTES = 128 << 10

INDEX_OPERATIONS = 64
INDEX_BYTES = 64 << 10

_NUMBERS = Struct(">6Q")
_FIRST_INT64 = Struct("<B2sq")
_FIRST_ELEMENT = frame.HEADER_BYTES + 4  # behind the document's own length
_FIRST_ELEMENT_END = _FIRST_ELEMENT + _FIRST_INT64.size


@dataclass(frozen=True, slots=True)
class Mark:
    """What a batch's first record says; positions are the journal's."""

    durable: int
    durable_offset: int
    before: int
    """Offset of the last operation before the mark."""
    previous: int
    """Where the content of the file before this one ended."""
    history_position: int
    """Of the newest history record before the mark, 0 if there is none."""
    history_offset: int


@dataclass(slots=True, eq=False)
class JournalFile:
    """What the journal knows of one file. Guarded by the journal's lock once the journal is in use."""

    path: str
    position: int
    capacity: int
    file_id: bytes
    header_bytes: int
    previous: int = 0
    used: int = 0
    """Bytes that are completely written; 0 before the first batch."""
    handle: File | None = None
    first_offset: int = 0
    """First operation held, 0 if none."""
    last_offset: int = 0
    index_offsets: list[int] = field(default_factory=list)
    index_places: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Position in the journal where the content ends."""
        return self.position + self.used

    @property
    def room_end(self) -> int:
        """Place in the file where records must end: a closing mark always fits behind them."""
        return self.capacity - MARK_BYTES

    @property
    def operations_end(self) -> int:
        """Place where operations must end: histories fit behind them when a full disk ends all other room."""
        return self.room_end - history_reserve(self.capacity)

    def place_before(self, offset: int) -> tuple[int, int]:
        """(offset, place) of an operation held at or shortly before `offset`."""
        number = bisect_right(self.index_offsets, offset) - 1
        return self.index_offsets[number], self.index_places[number]

    def close(self) -> None:
        """Give the handle back, if there is one."""
        if self.handle is not None:
            self.handle.close()
            self.handle = None


@dataclass(frozen=True, slots=True)
class FileSpan:
    """A file as the operator sees it; offsets are 0 if it holds no operations."""

    path: str
    first_offset: int
    last_offset: int
    bytes: int


def operation_offset(content: bytes | memoryview, start: int, end: int) -> int:
    """The offset of the operation whose frame is content[start:end], -1 if the frame holds something else.

    Reads the first element of the BSON body, {"o": int32 or int64, ...}, without decoding the rest.
    """
    if end - start < _FIRST_ELEMENT_END:
        return -1
    kind, name, value = _FIRST_INT64.unpack_from(content, start + _FIRST_ELEMENT)
    if name != b"o\0":
        return -1
    if kind == 0x12:
        return int(value)
    return int(value) & 0x7FFFFFFF if kind == 0x10 else -1


def history_reserve(capacity: int) -> int:
    """Bytes of a file that only history records may take."""
    return min(capacity // 16, HISTORY_RESERVE_BYTES)


def name_of(position: int) -> str:
    """The name of the file at a position."""
    return f"{position:020d}{SUFFIX}"


def position_of(name: str) -> int | None:
    """The position in a file's name; None for a name that is not a journal file's."""
    digits = name.removesuffix(SUFFIX)
    return int(digits) if name.endswith(SUFFIX) and len(digits) == 20 and digits.isdecimal() else None


def encode_mark(file_id: bytes, mark: Mark) -> bytes:
    """The frame of a mark, MARK_BYTES long."""
    numbers = _NUMBERS.pack(
        mark.durable,
        mark.durable_offset,
        mark.before,
        mark.previous,
        mark.history_position,
        mark.history_offset,
    )
    return frame.encode(codec.encode({"m": "mark", "file_id": file_id, "n": numbers}))


def decode_mark(document: dict[str, Any], file_id: bytes) -> Mark | None:
    """The mark in a record's document; None unless it is one of this file."""
    if document.get("m") != "mark" or document.get("file_id") != file_id:
        return None
    numbers = document.get("n")
    if not isinstance(numbers, bytes) or len(numbers) != _NUMBERS.size:
        return None
    return Mark(*_NUMBERS.unpack(numbers))


MARK_BYTES = len(encode_mark(bytes(FILE_ID_BYTES), Mark(0, 0, 0, 0, 0, 0)))


def mark_pattern(file_id: bytes) -> bytes:
    """Bytes by which marks of a file are found in damaged content; they begin HEADER_BYTES into the frame."""
    whole = encode_mark(file_id, Mark(0, 0, 0, 0, 0, 0))
    return whole[frame.HEADER_BYTES : whole.index(file_id) + FILE_ID_BYTES]


def encode_history(history: History, offset: int) -> bytes:
    """The frame of a history record."""
    return frame.encode(codec.encode({"m": "history", "entries": history.to_document(), "offset": offset}))


def decode_history(document: dict[str, Any]) -> tuple[History, int] | None:
    """(history, offset) in a record's document; None if it is not a history record."""
    if document.get("m") != "history":
        return None
    offset = document.get("offset")
    if not isinstance(offset, int) or offset < 0:
        return None
    try:
        return History.from_document(document.get("entries")), int(offset)
    except ValueError:
        return None


def create_file(
    disk: Disk, directory: str, position: int, capacity: int, first_mark: Mark | None = None
) -> JournalFile:
    """Make a file durably, with a mark if it is a journal's first; raises OSError, then nothing is left of
    it.
    """
    file_id = secrets.token_bytes(FILE_ID_BYTES)
    header = frame.encode(
        codec.encode(
            {"m": "journal", "version": VERSION, "position": position, "file_id": file_id, "bytes": capacity}
        )
    )
    path = f"{directory}/{name_of(position)}"
    unfinished = path.removesuffix(SUFFIX) + UNFINISHED_SUFFIX
    content = [header] if first_mark is None else [header, encode_mark(file_id, first_mark)]
    if disk.exists(unfinished):
        disk.remove(unfinished)
    handle = disk.create(unfinished, capacity)
    try:
        handle.write_at(0, content)
        handle.sync()
        disk.replace(unfinished, path)
        disk.sync_directory(directory)
    except OSError:
        handle.close()
        raise
    file = JournalFile(path, position, capacity, file_id, len(header), previous=position, handle=handle)
    file.used = sum(map(len, content)) if first_mark is not None else 0
    return file
