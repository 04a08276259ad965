"""The body of one request as it arrives: as long as announced, or in chunks.

pywsgi has a reader of its own. It goes on behind a chunk that is malformed, so that what follows would pass
for the next request, and it reads chunks byte by byte without ever letting others run: a client with endless
trailers, or with chunks of one byte, had the event loop for himself.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from vectorizer.breathing import Breather

ARRIVED = "vectorizer.arrived"
"""Key in the WSGI environment of a request whose whole body was there with its head."""
CHUNK_LINE_BYTES_MAX = 1024
"""Size of a chunk and its extensions, which nobody asks for."""
TRAILER_BYTES_MAX = 8 * 1024
"""All headers behind the last chunk, which nobody asks for either."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r\n")


class Reader(Protocol):
    """What a socket gives, buffered."""

    def read(self, size: int, /) -> bytes:
        """So many bytes; fewer only at the end."""

    def readline(self, size: int, /) -> bytes:
        """A line with its end, or its first ``size`` bytes."""


class BrokenBody(OSError):
    """The body ended early, or its chunks are not as they should be."""


class IncomingBody:
    """``wsgi.input``: its bytes in order, once.

    ``waiting`` is the socket of a client that sends nothing before it is told to continue; None afterwards.
    """

    __slots__ = ("_reader", "broken", "chunked", "ended", "left", "waiting")

    def __init__(self, reader: Reader, length: int | None, *, chunked: bool, waiting: Any = None) -> None:
        self.chunked = chunked
        self.left = length or 0
        """Bytes to come: of the body, or of the present chunk."""
        self.ended = not (chunked or self.left)
        self.broken = False
        """A read has failed: where the body ends is unknown, and so where the next request begins."""
        self.waiting = waiting
        self._reader = reader

    def read(self, size: int) -> bytes:
        """At most so many bytes; fewer only at the end. OSError if they do not come."""
        if self.ended or size == 0:
            return b""
        if self.broken:
            raise BrokenBody("an earlier part of it could not be read")
        if self.waiting is not None:
            self.waiting.sendall(_CONTINUE)
            self.waiting = None
        self.broken = True  # until this read has ended well: an interrupted one has lost bytes
        data = self._read_chunks(size) if self.chunked else self._read_piece(size)
        self.broken = False
        self.ended = self.ended or not (self.chunked or self.left)
        return data

    def _discard(self) -> None:
        """pywsgi asks for it after each request; what is unread was dealt with by then."""

    def _read_piece(self, size: int) -> bytes:
        """Of the body, or of the present chunk."""
        wanted = min(size, self.left)
        data = self._reader.read(wanted)
        if len(data) < wanted:
            raise BrokenBody(f"{self.left - len(data)} bytes are missing")
        self.left -= wanted
        return data

    def _read_chunks(self, size: int) -> bytes:
        parts: list[bytes] = []
        breathe = Breather()
        while size > 0:
            if self.left == 0 and not self._begin_chunk():
                break
            parts.append(self._read_piece(size))
            size -= len(parts[-1])
            if self.left == 0 and self._reader.read(2) != b"\r\n":
                raise BrokenBody("a chunk is longer than it says")
            breathe()
        return b"".join(parts)

    def _begin_chunk(self) -> bool:
        """Read the size of the next chunk; False if it is the end."""
        line = self._reader.readline(CHUNK_LINE_BYTES_MAX)
        found = _CHUNK_SIZE.fullmatch(line)
        if found is None:
            raise BrokenBody(f"not the size of a chunk: {line[:64]!r}")
        self.left = int(found.group(1), 16)
        if self.left == 0:
            self._pass_trailers()
            self.ended = True
        return not self.ended

    def _pass_trailers(self) -> None:
        left = TRAILER_BYTES_MAX
        while (line := self._reader.readline(left)) != b"\r\n":
            left -= len(line)
            if left <= 0:
                raise BrokenBody(f"the trailers have more than {TRAILER_BYTES_MAX} bytes")
            if not _TRAILER.fullmatch(line):
                raise BrokenBody(f"not a trailer: {line[:64]!r}")
