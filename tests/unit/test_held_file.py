"""Files in memory: read in pieces of any size, they are what would have been written."""

from __future__ import annotations

from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from vectorizer.storage.held_file import JOINED_BYTES, HeldFile

SIZES = st.sampled_from([0, 1, 128, 1000, JOINED_BYTES - 1, JOINED_BYTES, 2 * JOINED_BYTES + 1])
COUNTS = st.sampled_from([7000, 64 << 10, JOINED_BYTES, 1 << 20])


def pieces_of(file: HeldFile, count: int) -> list[bytes]:
    pieces: list[bytes] = []
    while (piece := file.read(sum(map(len, pieces)), count)).data:
        pieces.append(bytes(piece.data))
        assert piece.crc32 in (None, crc32(piece.data))
    return pieces


@given(st.lists(SIZES, max_size=6), COUNTS)
def test_all_pieces_together_are_the_file(sizes: list[int], count: int) -> None:
    buffers = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    file, content = HeldFile(buffers, 1 << 20), b"".join(buffers)
    pieces = pieces_of(file, count)
    assert b"".join(pieces) == content
    assert all(len(piece) <= count for piece in pieces)
    assert (file.bytes, file.checksum) == (len(content), crc32(content))


def test_the_header_of_an_array_is_no_piece_of_its_own() -> None:
    file = HeldFile([bytes(128), bytes(4 * JOINED_BYTES)], 2 * JOINED_BYTES)
    assert [len(piece) for piece in pieces_of(file, 2 * JOINED_BYTES)] == [
        JOINED_BYTES,
        2 * JOINED_BYTES,
        JOINED_BYTES + 128,
    ]


def test_a_whole_piece_has_its_checksum_a_part_of_it_none() -> None:
    file = HeldFile([bytes(3 * JOINED_BYTES)], 2 * JOINED_BYTES)
    assert file.read(0, 2 * JOINED_BYTES).crc32 == crc32(bytes(2 * JOINED_BYTES))
    assert file.read(2 * JOINED_BYTES, JOINED_BYTES + 1).crc32 == crc32(bytes(JOINED_BYTES))
    assert file.read(0, JOINED_BYTES).crc32 is None
    assert file.read(1, 2 * JOINED_BYTES).crc32 is None
