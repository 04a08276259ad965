"""The body of a request as it arrives: every byte once, whatever the pieces; nothing behind its end."""

from __future__ import annotations

import io
from itertools import chain, repeat

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.rest.incoming import CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX, BrokenBody, IncomingBody

AFTER = b"GET / HTTP/1.1\r\n\r\n"


def chunked(data: bytes) -> IncomingBody:
    return IncomingBody(io.BytesIO(data), None, chunked=True)


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=300), st.sampled_from(["%x", "%X", "00%x", "%x;a=b", "%x \t"])
        )
    ),
    st.sampled_from([b"", b"A: b\r\n", b"a:\r\nb: c:d\r\n"]),
    st.lists(st.integers(1, 200), min_size=1),
)
def test_chunks_are_what_they_hold(
    chunks: list[tuple[bytes, str]], trailers: bytes, sizes: list[int]
) -> None:
    line = b"".join((form % len(data)).encode() + b"\r\n" + data + b"\r\n" for data, form in chunks)
    reader = io.BytesIO(line + b"0\r\n" + trailers + b"\r\n" + AFTER)
    body = IncomingBody(reader, None, chunked=True)
    parts = []
    for size in chain(sizes, repeat(1000)):
        parts.append(body.read(size))
        assert len(parts[-1]) == size or body.ended
        if not parts[-1]:
            break
    assert b"".join(parts) == b"".join(data for data, _ in chunks)
    assert body.ended and not body.broken and reader.read() == AFTER


@given(st.binary(max_size=300), st.lists(st.integers(0, 200)))
def test_a_body_of_a_known_length(data: bytes, sizes: list[int]) -> None:
    reader = io.BytesIO(data + AFTER)
    body = IncomingBody(reader, len(data), chunked=False)
    read = b"".join(map(body.read, [*sizes, len(data)]))
    assert read == data and body.ended and reader.read() == AFTER


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "not the size of a chunk: b''"),
        (b"\r\n", "not the size of a chunk"),
        (b"zz\r\n", "not the size of a chunk"),
        (b"0x2\r\n{}\r\n", "not the size of a chunk"),
        (b"+2\r\n{}\r\n", "not the size of a chunk"),
        (b" 2\r\n{}\r\n", "not the size of a chunk"),
        (b"2\n{}\r\n", "not the size of a chunk"),
        (b"2;a\nb\r\n{}\r\n", "not the size of a chunk"),
        (b"2;a\rb\r\n{}\r\n", "not the size of a chunk"),
        (b"1" * 16 + b"\r\n", "not the size of a chunk"),
        (b"2;" + b"a" * CHUNK_LINE_BYTES_MAX + b"\r\n{}\r\n", "not the size of a chunk"),
        (b"2\r\n{}X", "a chunk is longer than it says"),
        (b"2\r\n{}\n", "a chunk is longer than it says"),
        (b"3\r\n{}", "1 bytes are missing"),
        (b"0\r\n", "not a trailer: b''"),
        (b"0\r\n folded\r\n\r\n", "not a trailer"),
        (b"0\r\na: b\n\r\n", "not a trailer"),
        (b"0\r\n" + b"a: b\r\n" * TRAILER_BYTES_MAX + b"\r\n", f"more than {TRAILER_BYTES_MAX} bytes"),
    ],
)
def test_broken_chunks(line: bytes, sentence: str) -> None:
    body = chunked(line)
    with pytest.raises(BrokenBody, match=sentence):
        body.read(1000)
    assert body.broken
    with pytest.raises(BrokenBody, match="an earlier part"):
        body.read(1000)


def test_a_body_that_ends_early() -> None:
    body = IncomingBody(io.BytesIO(b"abc"), 5, chunked=False)
    with pytest.raises(BrokenBody, match="2 bytes are missing"):
        body.read(10)
    assert body.broken


class Endless(io.RawIOBase):
    """A client whose next chunk of one byte is always there."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        buffer[:6] = b"1\r\n \r\n"
        return 6


def test_chunks_without_an_end_leave_others_their_turn() -> None:
    body = IncomingBody(io.BufferedReader(Endless()), None, chunked=True)
    with gevent.Timeout(0.05, TimeoutError()), pytest.raises(TimeoutError):
        body.read(1 << 40)
    assert body.broken, "what was read is lost"
