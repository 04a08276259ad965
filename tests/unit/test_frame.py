"""Frames and their decoder: not enough yet, malformed and whole are three outcomes, however the bytes
arrive.
"""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer import frame
from vectorizer.errors import PeerError
from vectorizer.frame import FrameDecoder, FrameError

CEILING = 1 << 20

bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=12)


def drain(decoder: FrameDecoder) -> list[bytes]:
    frames = []
    while (one := decoder.next()) is not None:
        frames.append(one)
    return frames


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(FrameError) as caught:
        call()
    assert isinstance(caught.value, PeerError)
    assert str(caught.value)
    return caught.value.code


def test_a_frame_is_length_checksum_body() -> None:
    encoded = frame.encode(b"hello")
    assert encoded == struct.pack(">II", 9, crc32(b"hello")) + b"hello"
    assert bytes(frame.body_of(encoded)) == b"hello"
    assert frame.checksum(encoded) == frame.checksum(memoryview(encoded)) == crc32(b"hello")


def test_a_body_in_pieces_is_the_same_frame() -> None:
    assert frame.join([b"one", memoryview(b"two"), b"", b"three"]) == frame.encode(b"onetwothree")
    assert code_of(lambda: frame.join([])) == "frame_malformed"


def test_an_empty_body_is_refused_on_both_sides() -> None:
    assert code_of(lambda: frame.encode(b"")) == "frame_malformed"
    decoder = FrameDecoder(CEILING)
    decoder.feed(struct.pack(">II", 4, 0))
    assert code_of(decoder.next) == "frame_malformed"


def test_a_body_that_no_length_word_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "FOLLOWING_BYTES_MAX", 100)
    assert len(frame.encode(b"x" * 96)) == 104
    assert code_of(lambda: frame.encode(b"x" * 97)) == "frame_too_large"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: f[:8], "frame_truncated"),
        (lambda f: f[:-1], "frame_malformed"),
        (lambda f: f + b"x", "frame_malformed"),
        (lambda f: f[:-1] + bytes([f[-1] ^ 1]), "frame_corrupt"),
        (lambda f: f[:4] + bytes([f[4] ^ 1]) + f[5:], "frame_corrupt"),
    ],
)
def test_body_of_verifies_the_whole_frame(damage: Callable[[bytes], bytes], code: str) -> None:
    damaged = damage(frame.encode(b"hello"))
    assert code_of(lambda: frame.body_of(damaged)) == code


@given(bodies, st.randoms(use_true_random=False), st.booleans())
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(
    sent: list[bytes], random: object, drain_often: bool
) -> None:
    frames = [frame.encode(body) for body in sent]
    stream = b"".join(frames)
    decoder = FrameDecoder(CEILING)
    received: list[bytes] = []
    position = 0
    while position < len(stream):
        piece = random.choice((1, 2, 5, 9, 64, 700))  # type: ignore[attr-defined]
        decoder.feed(memoryview(stream)[position : position + piece])
        position += piece
        if drain_often:
            received += drain(decoder)
    received += drain(decoder)
    assert received == frames
    decoder.finish()


@given(bodies.filter(bool), st.data())
def test_a_flipped_bit_never_gives_a_wrong_frame(sent: list[bytes], data: st.DataObject) -> None:
    frames = [frame.encode(body) for body in sent]
    stream = bytearray(b"".join(frames))
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= 1 << data.draw(st.integers(0, 7))
    decoder = FrameDecoder(CEILING)
    received: list[bytes] = []
    try:
        decoder.feed(bytes(stream))
        while (one := decoder.next()) is not None:
            received.append(one)
        decoder.finish()
    except FrameError:
        pass
    assert received == frames[: len(received)]
    assert len(received) < len(frames)


@given(bodies.filter(bool), st.data())
def test_a_stream_cut_inside_a_frame_is_truncated(sent: list[bytes], data: st.DataObject) -> None:
    frames = [frame.encode(body) for body in sent]
    stream = b"".join(frames)
    cut = data.draw(st.integers(0, len(stream) - 1))
    ends = {0}
    for one in frames:
        ends.add(max(ends) + len(one))
    decoder = FrameDecoder(CEILING)
    decoder.feed(stream[:cut])
    drain(decoder)
    if cut in ends:
        decoder.finish()
    else:
        assert code_of(decoder.finish) == "frame_truncated"


@pytest.mark.parametrize("announced", [CEILING - 3, 2**31, 2**32 - 1])
@pytest.mark.parametrize("header", [4, 8])
def test_a_length_over_the_ceiling_is_refused_after_four_bytes(announced: int, header: int) -> None:
    decoder = FrameDecoder(CEILING)
    decoder.feed((struct.pack(">I", announced) + b"\0\0\0\0")[:header])
    tracemalloc.start()
    try:
        assert code_of(decoder.next) == "frame_too_large"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_ceiling_counts_the_header() -> None:
    largest = frame.encode(b"x" * 92)
    decoder = FrameDecoder(len(largest))
    decoder.feed(largest)
    assert decoder.next() == largest
    decoder.feed(frame.encode(b"x" * 93))
    assert code_of(decoder.next) == "frame_too_large"


def test_an_http_request_is_too_large_and_the_decoder_stays_failed() -> None:
    decoder = FrameDecoder(CEILING)
    decoder.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert code_of(decoder.next) == "frame_too_large"
    decoder.feed(frame.encode(b"good"))
    assert code_of(decoder.next) == "frame_too_large"
    assert code_of(decoder.finish) == "frame_too_large"


def test_a_large_frame_in_pieces_is_verified_too() -> None:
    encoded = bytearray(frame.encode(bytes(range(256)) * 2000))
    encoded[-1] ^= 1
    decoder = FrameDecoder(CEILING)
    for start in range(0, len(encoded), 1000):
        if start:
            assert decoder.next() is None
        decoder.feed(bytes(encoded[start : start + 1000]))
    assert code_of(decoder.next) == "frame_corrupt"


def test_memory_of_a_frame_in_tiny_pieces_stays_near_its_size() -> None:
    encoded = frame.encode(b"x" * 400_000)
    decoder = FrameDecoder(CEILING)
    tracemalloc.start()
    try:
        for start in range(0, len(encoded) - 2, 2):
            decoder.feed(memoryview(encoded)[start : start + 2])
            assert decoder.next() is None
        assert tracemalloc.get_traced_memory()[1] < 1.5 * len(encoded)
    finally:
        tracemalloc.stop()
    decoder.feed(encoded[-2:])
    assert decoder.next() == encoded
