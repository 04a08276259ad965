"""Vectors to measure with: the same ones in every run, the first n of them whatever the total."""

from __future__ import annotations

from collections.abc import Sequence

import bson
import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

DIMENSION = 128
CENTRES = 200
SPREAD = np.float32(0.4)
"""Standard deviation around a centre; the centres themselves have 1 in each dimension."""
BLOCK_ROWS = 10_000
_CENTRES, _ROWS, _QUERIES = 1, 2, 3


def clusters(count: int, first: int = 0) -> Vectors:
    """Rows ``first`` to ``first + count`` of the clustered data, (count, 128) float32, in 200 clusters."""
    return _blocks(_ROWS, count, first)


def queries(count: int) -> Vectors:
    """Vectors of the same clusters that are not among the rows, (count, 128) float32."""
    return _blocks(_QUERIES, count, 0)


def gaussian(count: int, stream: int = 0) -> Vectors:
    """Rows without any structure, (count, 128) float32: the hardest case for a graph. Another ``stream``
    gives other ones, for queries."""
    return np.random.default_rng([9, stream]).standard_normal((count, DIMENSION), np.float32)


def _blocks(kind: int, count: int, first: int) -> Vectors:
    centres = np.random.default_rng([_CENTRES]).standard_normal((CENTRES, DIMENSION), np.float32)
    rows: Vectors = np.empty((count, DIMENSION), np.float32)
    done = 0
    while done < count:
        block, start = divmod(first + done, BLOCK_ROWS)
        chance = np.random.default_rng([kind, block])
        chosen = chance.integers(0, CENTRES, BLOCK_ROWS)
        noise = chance.standard_normal((BLOCK_ROWS, DIMENSION), np.float32)
        noise *= SPREAD
        noise += centres[chosen]
        stop = min(BLOCK_ROWS, start + count - done)
        rows[done : done + stop - start] = noise[start:stop]
        done += stop - start
    return rows


def identity(row: int) -> str:
    """The id of a row."""
    return f"v{row:09d}"


def columns_body(vectors: Vectors, first: int) -> bytes:
    """BSON body of an upsert in columns; the ids are those of rows ``first`` onwards."""
    ids = [identity(row) for row in range(first, first + len(vectors))]
    return bytes(bson.encode({"ids": ids, "vectors": vectors.tobytes()}))


def batches(count: int, rows: int, first: int = 0) -> Sequence[tuple[int, Vectors]]:
    """The clustered rows in batches: (number of its first row, its vectors)."""
    vectors = clusters(count, first)
    return [(first + start, vectors[start : start + rows]) for start in range(0, count, rows)]
