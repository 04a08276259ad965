"""CRC32 of parts: the same as of all bytes together."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer import crc

BYTES = st.binary(max_size=300)


@given(BYTES, BYTES)
def test_two_parts_have_the_checksum_of_both_together(first: bytes, second: bytes) -> None:
    whole = crc32(first + second)
    assert crc.joined(crc32(first), crc32(second), len(second)) == whole
    assert crc.behind(whole, crc32(first), len(second)) == crc32(second)
    assert crc.before_zero_byte(crc32(first + b"\0")) == crc32(first)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 200_000)), max_size=4))
def test_parts_of_any_length_add_up(parts: list[tuple[int, int]]) -> None:
    whole = added = 0
    for value, count in parts:
        part = bytes([value]) * count
        whole, added = crc32(part, whole), crc.joined(added, crc32(part), count)
    assert added == whole


@pytest.mark.parametrize("bit", [0, 7, 100, 2399])
def test_a_bit_that_differs_anywhere_gives_another_checksum(bit: int) -> None:
    content = bytearray(300)
    honest = crc.joined(crc32(content[:100]), crc32(content[100:]), 200)
    content[bit // 8] ^= 1 << bit % 8
    assert crc.joined(crc32(content[:100]), crc32(content[100:]), 200) == crc32(content) != honest
