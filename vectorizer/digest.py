"""One number for everything a view holds, whatever the order and the chunks in which it lies.

The sum modulo 2^128 of XXH3-128 over each live row: id, vector bytes (little-endian float32) and canonical
payload, each of id and payload preceded by its length (u32, little-endian). Equal on nodes that hold the same
rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import xxhash

from vectorizer.storage.chunk import ChunkView, View

SLICE_ROWS = 128
_LENGTHS = struct.Struct("<II")


def digest_of(view: View, breathe: Callable[[], None]) -> tuple[str, int]:
    """(32 hexadecimal digits, live rows) of a view; ``breathe`` is called every few rows."""
    total = count = 0
    for chunk in view.chunks:
        part, rows = _chunk_sum(chunk, breathe)
        total += part
        count += rows
    return f"{total % 2**128:032x}", count


def _chunk_sum(view: ChunkView, breathe: Callable[[], None]) -> tuple[int, int]:
    chunk = view.chunk
    rows = np.flatnonzero(view.live)
    total = 0
    for start in range(0, len(rows), SLICE_ROWS):
        part = rows[start : start + SLICE_ROWS]
        vectors = chunk.vectors[part].astype("<f4", copy=False)
        for row, vector in zip(part.tolist(), vectors, strict=True):
            id_, payload = chunk.id_at(row), chunk.payload_at(row)
            lengths = _LENGTHS.pack(len(id_), len(payload))
            total += xxhash.xxh3_128_intdigest(b"".join((lengths, id_, vector.data, payload)))
        breathe()
    return total, len(rows)
