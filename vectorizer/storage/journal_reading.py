"""Operations read back from a file of the journal."""

from __future__ import annotations

from zlib import crc32

from vectorizer import frame
from vectorizer.errors import DamageError
from vectorizer.storage.disk import Disk
from vectorizer.storage.journal_file import INDEX_BYTES, operation_offset


def read_frames(
    disk: Disk, path: str, offset: int, place: int, used: int, after: int, last: int, budget: int
) -> list[bytes]:
    """Return frames of the operations after `after` through `last`, about `budget` bytes but at least one.

    Operation `offset` is at `place`, the content ends at `used`, `last` is in this file. DamageError if a
    record that must be there is not.
    """
    frames: list[bytes] = []
    wanted = budget + INDEX_BYTES
    while True:
        count = min(wanted, used - place)
        chunk = disk.read(path, place, count)
        if len(chunk) < count:
            raise _unreadable(path, place)
        start, size = 0, frame.HEADER_BYTES
        while len(chunk) - start >= frame.HEADER_BYTES:
            following = int.from_bytes(chunk[start : start + frame.LENGTH_BYTES], "big")
            size = frame.LENGTH_BYTES + following
            if start + size > len(chunk):
                break
            found = operation_offset(chunk, start, start + size)
            if found >= 0:
                encoded = chunk[start : start + size]
                if found != offset or crc32(memoryview(encoded)[frame.HEADER_BYTES :]) != frame.checksum(
                    encoded
                ):
                    raise _unreadable(path, place + start)
                offset += 1
                if found > after:
                    frames.append(encoded)
                    budget -= len(encoded)
                    if found == last or budget <= 0:
                        return frames
            start, size = start + size, frame.HEADER_BYTES
        place += start
        if place + size > used:
            raise _unreadable(path, place)
        wanted = max(wanted, size)


def _unreadable(path: str, position: int) -> DamageError:
    return DamageError(
        path, "a record that was written cannot be read back; check the disk", position=position
    )
