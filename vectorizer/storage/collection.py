"""A collection: sealed segments plus growing rows, and the operations that change them.

House rules:

1. Applying an operation never fails after its check, and touches nothing but memory.
2. Which rows a segment contains is a function of the operations alone: a chunk is sealed when it has exactly
   ``segment_rows`` rows, dead ones included, and merged as a merge operation says, with the rows live at
   its offset.
3. What happens in the background (sealing, merging, graphs) only changes how the same rows are held.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectorizer.operations import CollectionConfig, Rows, Vectors
from vectorizer.storage.chunk import LIVE, Chunk, ChunkView, View, hash_ids, order_of
from vectorizer.storage.growing import GrowingChunk
from vectorizer.storage.segment import SealedSegment

AnyChunk = SealedSegment | GrowingChunk
Cursor = tuple[int, bytes]
"""Place in the fixed order of all rows: hash of the id, then the id."""
_SQUARED_NUMBERS = 15 * 1024
"""So many are converted to float64 at a time: 120 KB, which malloc has at hand and the caches hold."""


@dataclass(frozen=True, slots=True)
class PendingMerge:
    """A merge operation that is committed but whose segment is not made yet."""

    offset: int
    segments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the segment that it makes."""
        return f"m{self.offset:016d}"


@dataclass(slots=True, eq=False)
class MadeMerge:
    """The segment of the oldest pending merge, written but not in place: until it has a graph, its sources
    are searched by theirs. In memory only; after a restart it is made again.
    """

    merge: PendingMerge
    segment: SealedSegment
    kept: list[npt.NDArray[np.int32]]
    """The rows taken over from each source, in order."""
    graph_failed: bool = False
    """Whether building the graph has failed: nothing is waited for then."""


def norms_of(vectors: Vectors) -> npt.NDArray[np.float32]:
    """L2 norm of each vector (n, d), accumulated in float64 so that it does not overflow, float32 of shape
    (n,).
    """
    count, dimension = vectors.shape
    squares = np.empty(count)
    # NumPy's own conversion within the product takes 122 us for 1,000 x 128, slices before it 96.
    rows = max(1, _SQUARED_NUMBERS // dimension)
    for start in range(0, count, rows):
        part = vectors[start : start + rows].astype(np.float64)
        np.vecdot(part, part, out=squares[start : start + rows])
    return np.sqrt(squares).astype(np.float32)


class Collection:
    """The rows of one collection. ``identity`` is the offset of the operation that created it."""

    def __init__(
        self, config: CollectionConfig, identity: int, created_ms: int, offset: int | None = None
    ) -> None:
        self.config = config
        self.identity = identity
        self.created_ms = created_ms
        self.offset = identity if offset is None else offset
        self.segments: list[SealedSegment] = []
        self.growing: list[GrowingChunk] = []
        self.merges: list[PendingMerge] = []
        self.made: MadeMerge | None = None
        self.appended_rows = 0
        self.vector_count = 0

    @property
    def chunks(self) -> list[AnyChunk]:
        """All chunks, oldest rows first."""
        return [*self.segments, *self.growing]

    def view(self, offset: int) -> View:
        """The collection as it is now; ``offset`` is the node's."""
        views = [ChunkView(segment, segment.rows, offset) for segment in self.segments]
        views.extend(ChunkView(chunk, chunk.rows, offset) for chunk in self.growing)
        return View(self.config, self.identity, tuple(views), offset)

    # -- applying operations ----------------------------------------------------------------------------

    def upsert(self, rows: Rows, offset: int, offsets: npt.NDArray[np.int64] | None = None) -> None:
        """Add rows; those with the same ids die at ``offset``.

        ``offsets``, one for each row and the last of them ``offset``: of a run, whose rows die one by one.
        """
        hashes = hash_ids(rows.ids)
        self._kill(rows.ids, hashes, offset if offsets is None else offsets)
        norms = norms_of(rows.vectors)
        start, count = 0, len(rows)
        while start < count:
            chunk = self._chunk_with_room()
            stop = min(count, start + chunk.capacity - chunk.rows)
            part = slice(start, stop)
            chunk.append(rows.ids[part], rows.vectors[part], norms[part], hashes[part], rows.payloads[part])
            self.appended_rows += stop - start
            start = stop
        self.vector_count += count
        self.offset = offset

    def delete(self, ids: Sequence[bytes], offset: int) -> None:
        """End the rows with these ids."""
        self._kill(ids, hash_ids(ids), offset)
        self.offset = offset

    def merge(self, segments: tuple[str, ...], offset: int) -> None:
        """Note that these segments are to become one."""
        self.merges.append(PendingMerge(offset, segments))
        self.offset = offset

    def can_merge(self, segments: tuple[str, ...]) -> bool:
        """Whether these are full chunks (or results of merges to come) that no other merge has taken."""
        known = {segment.name for segment in self.segments}
        known.update(chunk.name for chunk in self.growing if chunk.is_full)
        known.update(merge.name for merge in self.merges)
        taken = {name for merge in self.merges for name in merge.segments}
        return len(segments) > 0 and len(set(segments)) == len(segments) and set(segments) <= known - taken

    def _chunk_with_room(self) -> GrowingChunk:
        if not self.growing or self.growing[-1].is_full:
            name = f"s{self.appended_rows:016d}"
            self.growing.append(GrowingChunk(name, self.config.segment_rows, self.config.dimension))
        return self.growing[-1]

    def _kill(
        self, ids: Sequence[bytes], hashes: npt.NDArray[np.uint64], offset: int | npt.NDArray[np.int64]
    ) -> None:
        for chunk in self.chunks:
            found = chunk.find(hashes, ids)
            held = found >= 0
            rows = found[held]
            if len(rows):
                chunk.kill(rows, offset if isinstance(offset, int) else offset[held])
                self.vector_count -= len(rows)

    # -- what background work gives back ----------------------------------------------------------------

    def install_sealed(self, chunk: GrowingChunk, segment: SealedSegment) -> None:
        """The segment takes the place of the growing chunk it was written from; deletions are shared, not
        copied.
        """
        segment.deleted_at = chunk.deleted_at
        segment.dead_rows = chunk.dead_rows
        self.growing.remove(chunk)
        self.segments.append(segment)
        self.segments.sort(key=lambda item: _order_of(item.name))

    def install_merged(
        self, merge: PendingMerge, segment: SealedSegment | None, kept: list[npt.NDArray[np.int32]]
    ) -> list[SealedSegment]:
        """The merged segment (None if no row was left) takes the place of its sources, which are given back.

        ``kept`` are the rows taken over from each source, in order; deletions since then are carried over.
        """
        by_name = {item.name: item for item in self.segments}
        sources = [by_name[name] for name in merge.segments if name in by_name]
        if segment is not None:
            deleted = [source.deleted_at[rows] for source, rows in zip(sources, kept, strict=True)]
            segment.deleted_at = np.concatenate(deleted)
            segment.dead_rows = int(np.count_nonzero(segment.deleted_at != LIVE))
        self.segments = [item for item in self.segments if item.name not in merge.segments]
        if segment is not None:
            self.segments.append(segment)
            self.segments.sort(key=lambda item: _order_of(item.name))
        self.merges.remove(merge)
        self.made = None
        return sources

    # -- reading ----------------------------------------------------------------------------------------

    def locate(self, id_: bytes) -> tuple[AnyChunk, int] | None:
        """Where the row with this id is."""
        hashes = hash_ids([id_])
        for chunk in reversed(self.chunks):
            row = int(chunk.find(hashes, [id_])[0])
            if row >= 0:
                return chunk, row
        return None

    def existing(self, ids: Sequence[bytes]) -> list[bytes]:
        """Those of the ids that have a row, in the order given."""
        hashes = hash_ids(ids)
        present = np.zeros(len(ids), np.bool_)
        for chunk in self.chunks:
            present |= chunk.find(hashes, ids) >= 0
        return [id_ for id_, there in zip(ids, present.tolist(), strict=True) if there]

    def disk_bytes(self) -> int:
        """Bytes of the collection's sealed files."""
        return sum(segment.disk_bytes for segment in self.segments)

    def memory_bytes(self) -> int:
        """Bytes of anonymous memory: growing rows, deletions and graphs."""
        size = sum(chunk.memory_bytes for chunk in self.growing)
        for segment in self.segments:
            size += segment.deleted_at.nbytes + (segment.graph.bytes if segment.graph else 0)
        return size


def page(view: View, after: Cursor | None, limit: int) -> list[tuple[Chunk, int]]:
    """The next ``limit`` live rows of a view in the order of (hash of id, id).

    Neither sealing nor merging nor an update of a row changes its place in that order.
    """
    streams = [_rows_in_hash_order(chunk, after, limit) for chunk in view.chunks]
    merged = heapq.nsmallest(limit, (item for stream in streams for item in stream), key=lambda item: item[0])
    return [(chunk, row) for _, chunk, row in merged]


def cursor_of(chunk: Chunk, row: int) -> Cursor:
    """The place of a row in the order of pages."""
    id_ = chunk.id_at(row)
    return int(hash_ids([id_])[0]), id_


def _rows_in_hash_order(view: ChunkView, after: Cursor | None, limit: int) -> list[tuple[Cursor, Chunk, int]]:
    chunk, live = view.chunk, view.live
    if chunk.sealed:
        assert isinstance(chunk, SealedSegment)
        hashes, order = chunk.hashes, chunk.order
    else:
        order = order_of(chunk.hashes[: view.rows])
        hashes = chunk.hashes[: view.rows][order]
    start = 0 if after is None else int(np.searchsorted(hashes, np.uint64(after[0]), side="left"))
    found: list[tuple[Cursor, Chunk, int]] = []
    step = max(limit * 2, 256)
    while start < len(order):
        rows = order[start : start + step]
        values = hashes[start : start + step]
        keep = live[rows]
        for value, row in zip(values[keep].tolist(), rows[keep].tolist(), strict=True):
            if len(found) >= limit and value != found[-1][0][0]:
                return sorted(found, key=lambda item: item[0])
            place = (value, chunk.id_at(row))
            if after is None or place > after:
                found.append((place, chunk, row))
        start += step
    return sorted(found, key=lambda item: item[0])


def _order_of(name: str) -> tuple[str, int]:
    """Merged segments first, then sealed ones; oldest first."""
    return name[0], int(name[1:])
