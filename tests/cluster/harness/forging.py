"""Frames changed on their way, with a right checksum: what a replica finds wrong only when it applies it."""

from __future__ import annotations

from struct import Struct
from zlib import crc32

HEADER = Struct(">II")
CHECKSUM_BYTES = 4


class Forger:
    """One direction of one connection, from its first byte on, as bytes that come in any pieces."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes, old: bytes, new: bytes) -> bytes:
        """The frames that are whole now, `new` put for `old` in each body; the rest is held back."""
        self._held += data
        frames = []
        while len(self._held) >= HEADER.size:
            following, _ = HEADER.unpack_from(self._held)
            end = HEADER.size - CHECKSUM_BYTES + following
            if len(self._held) < end:
                break
            line, self._held = self._held[:end], self._held[end:]
            if old and old in line:
                body = line[HEADER.size :].replace(old, new)
                line = HEADER.pack(len(body) + CHECKSUM_BYTES, crc32(body)) + body
            frames.append(line)
        return b"".join(frames)
