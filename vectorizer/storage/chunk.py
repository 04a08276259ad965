"""Chunks and views: how a collection's rows are seen by searches, snapshots, merges, scans and digests.

A collection is a list of chunks: sealed segments, memory-mapped, and growing ones in memory. Rows are
append-only. Each row has ``deleted_at``, the offset at which it died, so a view (chunks, rows of each,
offset) stays true while the writer goes on: whatever is written later has a larger offset. Views are read
in native threads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from vectorizer.operations import CollectionConfig, Vectors

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Graph

LIVE = 2**63 - 1
"""``deleted_at`` of a row that is not deleted."""


def hash_ids(ids: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """XXH3-64 of each id, uint64 of shape (n,)."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter(map(digest, ids), np.uint64, len(ids))


def order_of(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Row numbers in the order of their hashes, equal ones ascending; int32 of shape (n,).

    Hashes hardly ever agree in their upper bits, so the row's number takes the place of the lower ones and
    the numbers are sorted as they are: 10,000 in 0.12 ms instead of 0.54 for a stable argsort.
    """
    low = np.uint64(2 ** len(hashes).bit_length() - 1)
    packed = np.sort(hashes & ~low | np.arange(len(hashes), dtype=np.uint64))
    order: npt.NDArray[np.int32] = (packed & low).astype(np.int32)
    ordered = hashes[order]
    if (ordered[1:] <= ordered[:-1]).any():
        order = np.argsort(hashes, kind="stable").astype(np.int32)
    return order


class Chunk(Protocol):
    """Rows that look alike whether they are sealed on disk or growing in memory."""

    name: str
    """Unique in the collection: ``s`` and the first row's number, or ``m`` and the offset of a merge."""
    vectors: Vectors
    """(capacity, d) float32."""
    norms: npt.NDArray[np.float32]
    """(capacity,) float32, the L2 norm of each vector."""
    hashes: npt.NDArray[np.uint64]
    """Hashes of ids: in row order while growing, sorted in a segment (see ``order`` there)."""
    deleted_at: npt.NDArray[np.int64]
    """(capacity,) int64: LIVE or the offset at which the row died."""
    dead_rows: int
    """How many rows have died by now."""
    graph: Graph | None
    cache: dict[str, object]
    """Derived data that filters and search keep with a sealed chunk."""
    sealed: bool

    def id_at(self, row: int) -> bytes:
        """The row's id, UTF-8."""

    def ids_at(self, rows: Sequence[int]) -> list[bytes]:
        """The ids of these rows."""

    def payload_at(self, row: int) -> bytes:
        """The row's payload, canonical BSON or ``b""``."""

    def payloads_at(self, rows: Sequence[int]) -> list[bytes]:
        """The payloads of these rows."""


@dataclass(frozen=True, slots=True, eq=False)
class ChunkView:
    """The first ``rows`` rows of a chunk as they were at ``offset``."""

    chunk: Chunk
    rows: int
    offset: int

    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """(rows,) bool: which rows were not deleted at the view's offset."""
        return self.chunk.deleted_at[: self.rows] > self.offset


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A collection at one offset."""

    config: CollectionConfig
    identity: int
    chunks: tuple[ChunkView, ...]
    offset: int

    @property
    def live_count(self) -> int:
        """Rows not deleted at the view's offset."""
        return sum(int(np.count_nonzero(chunk.live)) for chunk in self.chunks)
