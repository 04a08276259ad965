"""Frames: the envelope of everything that rests in the journal or travels a replication link.

    0        4        8
    +--------+--------+------------------------+
    | length | CRC32  | body (a BSON document) |
    +--------+--------+------------------------+
      u32be    u32be    length - 4 bytes, at least one

`length` counts what follows it (the checksum and the body); the checksum is the CRC32 of the body. A length
of 0 is never a frame: in the journal it ends the written part, on a link it is malformed.

Rules of this room:
1. Frames know bytes, connections know sockets: nothing here reads, waits or knows the time.
2. The ceiling is checked as soon as four bytes are there, before anything is allocated for what they
   announce.
3. Three outcomes are kept apart: not enough yet (None), malformed (FrameError), a whole verified frame
   (bytes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from io import BytesIO
from struct import Struct
from zlib import crc32

from vectorizer.errors import PeerError

HEADER = Struct(">II")
_LENGTH = Struct(">I")

LENGTH_BYTES = 4
HEADER_BYTES = 8
FOLLOWING_BYTES_MIN = 5  # the checksum and one byte of body
FOLLOWING_BYTES_MAX = 2**32 - 1

MALFORMED = "frame_malformed"
TOO_LARGE = "frame_too_large"
CORRUPT = "frame_corrupt"
TRUNCATED = "frame_truncated"


class FrameError(PeerError):
    """Bytes that are no frame; `code` is one of the constants above. The stream they came from cannot go
    on.
    """


def encode(body: bytes) -> bytes:
    """Return `body` in its envelope; raises FrameError for a body no frame can hold (empty, or 4 GiB)."""
    return join([body])


def join(pieces: Sequence[bytes | memoryview]) -> bytes:
    """As `encode`, of a body in pieces (views of bytes), which are copied once."""
    size, checksum = 0, 0
    for piece in pieces:
        size, checksum = size + len(piece), crc32(piece, checksum)
    following = size + LENGTH_BYTES
    if following < FOLLOWING_BYTES_MIN:
        raise FrameError(MALFORMED, "a frame cannot have an empty body")
    if following > FOLLOWING_BYTES_MAX:
        raise FrameError(TOO_LARGE, f"a body of {size} bytes does not fit a frame")
    return b"".join((HEADER.pack(following, checksum), *pieces))


def body_of(frame: bytes | memoryview) -> memoryview:
    """Return a view of the body of one whole frame, without a copy; raises FrameError unless length and
    CRC32 fit.
    """
    view = memoryview(frame)
    if len(view) < HEADER_BYTES + 1:
        raise FrameError(TRUNCATED, f"a frame has at least {HEADER_BYTES + 1} bytes, here are {len(view)}")
    following, stored = HEADER.unpack_from(view)
    if following != len(view) - LENGTH_BYTES:
        raise FrameError(
            MALFORMED,
            f"the frame announces {following} bytes after its length, {len(view) - LENGTH_BYTES} follow",
        )
    body = view[HEADER_BYTES:]
    computed = crc32(body)
    if computed != stored:
        raise _corrupt(stored, computed)
    return body


def checksum(frame: bytes | memoryview) -> int:
    """Return the CRC32 that the frame states, unverified."""
    _, stored = HEADER.unpack_from(frame)
    return int(stored)


class FrameDecoder:
    """Takes a stream in pieces of any size, gives back whole verified frames, in order.

    `frame_bytes_max` bounds a whole frame, header included. After an error the decoder stays failed: every
    further `next` raises the same error, since nobody knows where the next frame would begin.

    Cost: many frames in one piece are sliced out of it (one copy each); a frame that arrives in many pieces
    grows in one buffer, its checksum following piece by piece, so that neither is quadratic nor stalls the
    loop at the end.
    """

    def __init__(self, frame_bytes_max: int) -> None:
        self._following_max = min(frame_bytes_max - LENGTH_BYTES, FOLLOWING_BYTES_MAX)
        self._pieces: deque[bytes] = deque()  # fed, not yet looked at
        self._current = b""  # the piece being cut up
        self._position = 0  # first byte of _current not yet handed out
        self._assembly = BytesIO()  # the beginning of a frame that is larger than what was there
        self._missing = 0  # bytes that _assembly still lacks; 0 = not assembling
        self._stored = 0  # the checksum that frame announced
        self._computed = 0  # of its body so far
        self._error: FrameError | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream; the caller may reuse the memory of a view."""
        if len(data) < self._missing and not self._pieces:
            self._add(memoryview(data))  # into the unfinished frame at once: a copy less
        elif data:
            self._pieces.append(bytes(data))

    def raise_ceiling(self, frame_bytes_max: int) -> None:
        """Frames looked at from now on may be this large: the peer has shown who it is."""
        self._following_max = min(frame_bytes_max - LENGTH_BYTES, FOLLOWING_BYTES_MAX)

    def next(self) -> bytes | None:
        """Return the next whole frame (header included), or None: not enough yet; raises FrameError."""
        if self._error is not None:
            raise self._error
        if self._missing:
            return self._assemble()
        start = self._position
        current = self._current
        while len(current) - start < HEADER_BYTES:
            if not self._pieces:
                if len(current) - start >= LENGTH_BYTES:
                    self._check(_LENGTH.unpack_from(current, start)[0])
                return None
            # The rest is shorter than a header, so this copies a piece at most once.
            self._current = current = current[start:] + self._pieces.popleft()
            self._position = start = 0
        following, stored = HEADER.unpack_from(current, start)
        end = start + LENGTH_BYTES + following
        if following < FOLLOWING_BYTES_MIN or following > self._following_max:
            self._check(following)
        if end > len(current):
            return self._begin_assembly(end - len(current), stored)
        frame = current[start:end]
        computed = crc32(memoryview(frame)[HEADER_BYTES:])
        if computed != stored:
            raise self._failed(_corrupt(stored, computed))
        self._position = end
        return frame

    def finish(self) -> None:
        """The stream has ended: raises FrameError (`frame_truncated`) if it ended inside a frame."""
        if self._error is not None:
            raise self._error
        left = self._assembly.tell() + len(self._current) - self._position + sum(map(len, self._pieces))
        if left:
            raise FrameError(TRUNCATED, f"the stream ended inside a frame, after {left} bytes of it")

    def _check(self, following: int) -> None:
        """Raise unless `following` is a length that a frame may announce here."""
        if following < FOLLOWING_BYTES_MIN:
            raise self._failed(
                FrameError(
                    MALFORMED,
                    f"a frame announces {following} bytes, at least {FOLLOWING_BYTES_MIN} must follow",
                )
            )
        if following > self._following_max:
            size, limit = following + LENGTH_BYTES, self._following_max + LENGTH_BYTES
            raise self._failed(FrameError(TOO_LARGE, f"a frame announces {size} bytes, the limit is {limit}"))

    def _begin_assembly(self, missing: int, stored: int) -> bytes | None:
        beginning = memoryview(self._current)[self._position :]
        self._assembly.write(beginning)
        self._computed = crc32(beginning[HEADER_BYTES:])
        self._stored = stored
        self._missing = missing
        self._current = b""
        self._position = 0
        return self._assemble()

    def _add(self, part: memoryview) -> None:
        self._assembly.write(part)
        self._computed = crc32(part, self._computed)
        self._missing -= len(part)

    def _assemble(self) -> bytes | None:
        """Add pieces to the unfinished frame; return it once it is whole."""
        while self._pieces:
            piece = self._pieces.popleft()
            part = memoryview(piece)[: self._missing]
            self._add(part)
            if self._missing:
                continue
            self._current = piece
            self._position = len(part)
            if self._computed != self._stored:
                raise self._failed(_corrupt(self._stored, self._computed))
            frame = (
                self._assembly.getvalue()
            )  # hands over its own memory: no copy, no stall for a large frame
            self._assembly = BytesIO()
            return frame
        return None

    def _failed(self, error: FrameError) -> FrameError:
        self._error = error
        return error


def _corrupt(stored: int, computed: int) -> FrameError:
    return FrameError(CORRUPT, f"a frame states the CRC32 {stored:08x}, its body has {computed:08x}")
