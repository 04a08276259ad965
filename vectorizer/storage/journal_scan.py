"""What is in a file of the journal after a crash, or after worse: its runs of whole records.

A run begins with a mark and ends before the first byte that is not a whole, fitting record. Behind such a
place the scan goes on at the next mark of this file, found by its pattern: so a file is seen as runs with
damage between them. Whether that damage is a torn tail or a loss is not decided here (see
`journal_recovery`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from vectorizer import codec, frame
from vectorizer.errors import DamageError
from vectorizer.storage.disk import Disk
from vectorizer.storage.journal_file import (
    FILE_ID_BYTES,
    INDEX_BYTES,
    INDEX_OPERATIONS,
    VERSION,
    JournalFile,
    Mark,
    decode_history,
    decode_mark,
    mark_pattern,
    name_of,
    operation_offset,
)

CAPACITY_BYTES_MAX = 1 << 40
"""Of one file: far more than any setting allows."""
POSITION_MAX = 1 << 62
"""So that the positions of the files behind it are numbers that a mark can hold."""
_SEARCH_BYTES = 4 << 20


@dataclass(slots=True, eq=False)
class Run:
    """Whole records from a mark on; `start` and `end` are places in the file."""

    start: int
    end: int
    mark: Mark
    last_offset: int
    """The last operation in it, `mark.before` if it has none."""
    durable: int
    """The highest position that one of its marks claims to be durable."""
    unmarked: bool = False
    """Whether records follow its last mark."""
    histories: list[tuple[int, int]] = field(default_factory=list)
    """(place, offset) of its history records."""
    index_offsets: list[int] = field(default_factory=list)
    index_places: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Scan:
    """One file. `damage` says what is wrong with the file itself, whatever its runs are."""

    path: str
    position: int
    file: JournalFile | None
    runs: list[Run]
    damage: str | None
    content_end: int
    """Place behind the last byte that is not zero."""
    size: int
    """Bytes that the file was given; those that it has if its header does not say."""

    @property
    def end(self) -> int:
        """Position of the file behind it."""
        return self.position + self.size


def scan_file(disk: Disk, directory: str, position: int) -> Scan:
    """Read one file. DamageError only for a version of the format that this program does not know."""
    path = f"{directory}/{name_of(position)}"
    view = disk.map(path)
    file = _read_header(view, path, position)
    if file is None:
        return Scan(path, position, None, [], "its header is damaged", content_end(view, 0), len(view))
    if len(view) < file.capacity:
        damage = f"it has {len(view)} bytes of {file.capacity}: it was truncated"
    else:
        damage = None
    runs: list[Run] = []
    view = view[: file.capacity]
    place: int | None = file.header_bytes
    filled = content_end(view, file.header_bytes)
    pattern = re.compile(re.escape(mark_pattern(file.file_id)))
    while place is not None:
        run = _scan_run(view, place, file)
        if run is None:
            place = _next_mark(view, place + 1, filled, pattern)
        else:
            runs.append(run)
            place = _next_mark(view, run.end, filled, pattern)
    return Scan(path, position, file, runs, damage, max([filled, *(run.end for run in runs)]), file.capacity)


def content_end(view: memoryview, start: int) -> int:
    """The place behind the last byte from `start` on that is not zero; `start` if there is none."""
    stop = len(view)
    while stop > start:
        begin = max(start, stop - _SEARCH_BYTES)
        block = np.frombuffer(view[begin:stop], np.uint8)
        if block.max():  # 30 times as fast as to look for places where there are none: 0.1 s a file
            return begin + int(np.flatnonzero(block)[-1]) + 1
        stop = begin
    return start


def _read_header(view: memoryview, path: str, position: int) -> JournalFile | None:
    document = _document_at(view, 0, len(view))
    if document is None or document.get("m") != "journal":
        return None
    version = document.get("version")
    if version != VERSION:
        raise DamageError(
            path, f"it has version {version!r} of the journal's format, this program reads version {VERSION}"
        )
    file_id, capacity = document.get("file_id"), document.get("bytes")
    if not isinstance(file_id, bytes) or len(file_id) != FILE_ID_BYTES:
        return None
    if not isinstance(capacity, int) or not 0 < capacity <= CAPACITY_BYTES_MAX:
        return None
    if document.get("position") != position or position > POSITION_MAX:
        return None
    header_bytes = frame.LENGTH_BYTES + int.from_bytes(view[: frame.LENGTH_BYTES], "big")
    return JournalFile(path, position, int(capacity), file_id, header_bytes)


def _document_at(view: memoryview, place: int, limit: int) -> dict[str, Any] | None:
    """The document of the frame at a place, None if there is no whole one."""
    if place + frame.HEADER_BYTES > limit:
        return None
    end = place + frame.LENGTH_BYTES + int.from_bytes(view[place : place + frame.LENGTH_BYTES], "big")
    if end > limit:
        return None
    try:
        return codec.decode(frame.body_of(view[place:end]))
    except (frame.FrameError, codec.CodecError):
        return None


def _next_mark(view: memoryview, place: int, stop: int, pattern: re.Pattern[bytes]) -> int | None:
    """The place of the next frame that looks like a mark of this file, from `place` to before `stop`."""
    found = pattern.search(view, place + frame.HEADER_BYTES, stop)
    return None if found is None else found.start() - frame.HEADER_BYTES


def _scan_run(view: memoryview, start: int, file: JournalFile) -> Run | None:
    """The run that begins with a mark at `start`; None if there is no mark."""
    document = _document_at(view, start, len(view))
    mark = None if document is None else decode_mark(document, file.file_id)
    if mark is None or mark.durable > file.position + start:
        return None
    run = Run(start, start, mark, mark.before, mark.durable)
    place, limit, expected = start, len(view), mark.before + 1
    index_offset = index_place = 0  # where the next index entry is due
    header = frame.HEADER.unpack_from
    while place + frame.HEADER_BYTES < limit:
        following, stored = header(view, place)
        end = place + frame.LENGTH_BYTES + following
        if following < frame.FOLLOWING_BYTES_MIN or end > limit:
            break
        if crc32(view[place + frame.HEADER_BYTES : end]) != stored:
            break
        offset = operation_offset(view, place, end)
        if offset >= 0:
            if offset != expected:
                break
            if offset >= index_offset or place >= index_place:
                run.index_offsets.append(offset)
                run.index_places.append(place)
                index_offset, index_place = offset + INDEX_OPERATIONS, place + INDEX_BYTES
            expected += 1
            run.unmarked = True
        elif not _take_other(view, place, end, file, run, expected - 1):
            break
        place = end
    run.end = place
    run.last_offset = expected - 1
    return run


def _take_other(
    view: memoryview, place: int, end: int, file: JournalFile, run: Run, last_offset: int
) -> bool:
    """Take a record that is no operation into the run; False if it does not belong there."""
    document = _document_at(view, place, end)
    if document is None:
        return False
    mark = decode_mark(document, file.file_id)
    if mark is not None:
        if mark.before != last_offset or mark.durable > file.position + place:
            return False
        run.durable = max(run.durable, mark.durable)
        run.unmarked = False
        return True
    history = decode_history(document)
    if history is None or history[1] != last_offset:
        return False
    run.histories.append((place, history[1]))
    run.unmarked = True
    return True
