"""Segments: rows that no longer change, in files that are mapped into memory.

A segment is a directory of open formats; n rows, d dimensions:

- vectors.npy (n, d) float32; norms.npy (n,) float32, the L2 norm of each vector.
- rows.bson: one BSON document a row, {id: string, payload: document or null}, one after the other;
  offsets.npy (n + 1,) int64: where each begins, and where the last ends.
- hashes.npy (n,) uint64: the hashes of the ids, sorted; order.npy (n,) int32: the row of each of them.

The same rows give the same bytes on every node. Deletions are not in the files: they are in memory
(`SealedSegment.deleted_at`) and in manifests. The graph is derived and lies beside these files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vectorizer.errors import DamageError
from vectorizer.operations import Vectors
from vectorizer.storage.chunk import LIVE, order_of
from vectorizer.storage.disk import SLICE_BYTES, Buffer, Disk, checksum_of
from vectorizer.storage.id_filter import IdFilter
from vectorizer.storage.npy import NpyError, npy_parts, open_npy
from vectorizer.storage.row_documents import (
    ID_ELEMENT,
    ID_LENGTH_PLACE,
    ID_START,
    NULL_ELEMENT,
    PAYLOAD_ELEMENT,
    Documents,
    documents_of,
)

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Graph

VECTORS = "vectors.npy"
NORMS = "norms.npy"
ROWS = "rows.bson"
OFFSETS = "offsets.npy"
HASHES = "hashes.npy"
ORDER = "order.npy"
FILES = (VECTORS, NORMS, ROWS, OFFSETS, HASHES, ORDER)

_ADVICE = "restore it from a backup; a replica syncs it anew"

_LENGTH = Struct("<i")
_ROW_BYTES_MIN = ID_START + 1 + len(NULL_ELEMENT)
_DOCUMENT_BYTES_MIN = 5
_CHECKED_ROWS = 16384
_WRITTEN_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a manifest knows of a file."""

    bytes: int
    crc32: int


class SealedSegment:
    """A segment as a chunk of its collection. The arrays are read-only and backed by the files.

    `deleted_at` (n,) int64 and `dead_rows` are the writer's, as in a growing chunk.
    """

    sealed = True

    def __init__(
        self,
        name: str,
        directory: str,
        files: Mapping[str, FileInfo],
        *,
        vectors: Vectors,
        norms: npt.NDArray[np.float32],
        rows_bson: memoryview,
        offsets: npt.NDArray[np.int64],
        hashes: npt.NDArray[np.uint64],
        order: npt.NDArray[np.int32],
    ) -> None:
        self.name = name
        self.directory = directory
        self.files = dict(files)
        """All files that belong to it, those of its graph too once it is attached."""
        self.rows = len(norms)
        self.vectors = vectors
        self.norms = norms
        self.offsets = offsets
        self._places = offsets.data
        """The same: an item of it is an int, in half the time that numpy takes."""
        self.rows_bson = rows_bson
        self.hashes = hashes
        """Sorted; `order` holds the row of each."""
        self.order = order
        self.deleted_at: npt.NDArray[np.int64] = np.full(self.rows, LIVE, np.int64)
        self.dead_rows = 0
        self.graph: Graph | None = None
        self.cache: dict[str, object] = {}
        self._filter = IdFilter(self.rows)
        for start in range(0, self.rows, _CHECKED_ROWS):
            self._filter.add(hashes[start : start + _CHECKED_ROWS])

    @property
    def directory_name(self) -> str:
        """Its directory's name below `segments/`."""
        return self.directory.rpartition("/")[2]

    @property
    def disk_bytes(self) -> int:
        """Bytes of its files."""
        return sum(info.bytes for info in self.files.values())

    def id_at(self, row: int) -> bytes:
        """The row's id, UTF-8."""
        return self.ids_at((row,))[0]

    def ids_at(self, rows: Sequence[int]) -> list[bytes]:
        """The ids of these rows."""
        content, places, length = self.rows_bson, self._places, _LENGTH.unpack_from
        ids = []
        for row in rows:
            start = places[row] + ID_START
            ids.append(bytes(content[start : start + length(content, start - 4)[0] - 1]))
        return ids

    def payload_at(self, row: int) -> bytes:
        """The row's payload, canonical BSON or `b""`."""
        return self.payloads_at((row,))[0]

    def ids_and_payloads(self) -> tuple[list[bytes], list[bytes]]:
        """All of them, in the order of rows: a sixth of what it takes row by row. Copies the documents."""
        content = bytes(self.rows_bson)
        begins = self.offsets[:-1]
        numbers = np.frombuffer(content, np.uint8)
        id_bytes = _integers(numbers, begins + ID_LENGTH_PLACE) - 1
        id_ends = begins + ID_START + id_bytes
        ids = [content[start : start + size] for start, size in _pairs(begins + ID_START, id_bytes)]
        payload_ends = np.where(numbers[id_ends + 1] == PAYLOAD_ELEMENT[1], self.offsets[1:] - 1, 0)
        payloads = [content[start:end] for start, end in _pairs(id_ends + len(PAYLOAD_ELEMENT), payload_ends)]
        return ids, payloads

    def payloads_at(self, rows: Sequence[int]) -> list[bytes]:
        """The payloads of these rows."""
        content, places, length = self.rows_bson, self._places, _LENGTH.unpack_from
        payloads = []
        for row in rows:
            start = places[row] + ID_START
            element = start + length(content, start - 4)[0] - 1
            if content[element + 1] == PAYLOAD_ELEMENT[1]:
                payloads.append(bytes(content[element + len(PAYLOAD_ELEMENT) : places[row + 1] - 1]))
            else:
                payloads.append(b"")
        return payloads

    def row_hashes(self) -> npt.NDArray[np.uint64]:
        """(n,) uint64: the hash of each row's id, in the order of rows."""
        hashes = np.empty(self.rows, np.uint64)
        hashes[self.order] = self.hashes
        return hashes

    def find(self, hashes: npt.NDArray[np.uint64], ids: Sequence[bytes]) -> npt.NDArray[np.int32]:
        """The live row of each id, -1 where there is none; int32 of shape (len(ids),)."""
        found = np.full(len(ids), -1, np.int32)
        candidates = self._filter.candidates(hashes)
        if not len(candidates):
            return found
        hashes = hashes[candidates]
        left = np.searchsorted(self.hashes, hashes, side="left")
        counts = np.searchsorted(self.hashes, hashes, side="right") - left
        if not counts.any():
            return found
        # An id may have many rows here, all but one dead: look at all of them at once.
        owners = np.repeat(candidates, counts)
        places = np.arange(len(owners)) + np.repeat(left - (np.cumsum(counts) - counts), counts)
        rows = self.order[places]
        live = self.deleted_at[rows] == LIVE
        for row, owner in zip(rows[live].tolist(), owners[live].tolist(), strict=True):
            if self.id_at(row) == ids[owner]:
                found[owner] = row
        return found

    def kill(self, rows: npt.NDArray[np.int32], offset: int | npt.NDArray[np.int64]) -> None:
        """Mark live rows as dead from `offset` on."""
        self.deleted_at[rows] = offset
        self.dead_rows += len(rows)


# -- writing ---------------------------------------------------------------------------------


def write_segment(
    disk: Disk,
    directory: str,
    ids: Sequence[bytes],
    vectors: Vectors,
    norms: npt.NDArray[np.float32],
    payloads: Sequence[bytes],
    hashes: npt.NDArray[np.uint64],
) -> dict[str, FileInfo]:
    """Write n >= 0 rows to a directory, durably, and return its files. Blocking, memory bounded.

    The directory's own name is durable when the caller has synced the one above. On an OSError (disk full)
    nothing is left of it.
    """
    documents = _parts_of(ids, payloads)
    return _write(disk, directory, _contents(vectors.shape, [vectors], [norms], documents, hashes))


def segment_buffers(
    ids: Sequence[bytes],
    vectors: Vectors,
    norms: npt.NDArray[np.float32],
    payloads: Sequence[bytes],
    hashes: npt.NDArray[np.uint64],
) -> Iterator[tuple[str, list[Buffer]]]:
    """What ``write_segment`` would write, by file; vectors and norms are not copied."""
    documents = _parts_of(ids, payloads)
    for name, buffers in _contents(vectors.shape, [vectors], [norms], documents, hashes):
        yield name, list(buffers())


def merge_segments(
    disk: Disk, directory: str, sources: Sequence[tuple[SealedSegment, npt.NDArray[np.int32]]]
) -> dict[str, FileInfo]:
    """Write chosen rows (ascending row numbers) of segments, one after the other, like `write_segment`."""
    count = sum(len(rows) for _, rows in sources)
    dimension = sources[0][0].vectors.shape[1]
    vector_rows = max(1, SLICE_BYTES // (4 * dimension))

    def vectors() -> Iterator[Vectors]:
        for segment, rows in sources:
            for start in range(0, len(rows), vector_rows):
                yield segment.vectors[_selection(rows[start : start + vector_rows])]

    def documents() -> Iterator[Documents]:
        for segment, rows in sources:
            for part in _parts(segment.offsets[rows + 1] - segment.offsets[rows]):
                yield _copied_documents(segment, rows[part])

    contents = _contents(
        (count, dimension),
        vectors(),
        (segment.norms[rows] for segment, rows in sources),
        documents(),
        np.concatenate([segment.row_hashes()[rows] for segment, rows in sources]),
    )
    return _write(disk, directory, contents)


def _parts_of(ids: Sequence[bytes], payloads: Sequence[bytes]) -> Iterator[Documents]:
    sizes = np.zeros(len(payloads), np.int64)
    if any(payloads):
        sizes = np.fromiter(map(len, payloads), np.int64, len(payloads))
    for part in _parts(sizes):
        yield documents_of(ids[part], payloads[part])


def _parts(sizes: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Cut rows of these sizes into parts of at most _WRITTEN_ROWS rows and about SLICE_BYTES bytes."""
    ends = np.cumsum(sizes)
    start = before = 0
    while start < len(ends):
        stop = int(np.searchsorted(ends, before + SLICE_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + _WRITTEN_ROWS, len(ends))
        yield slice(start, stop)
        start, before = stop, int(ends[stop - 1])


def _selection(rows: npt.NDArray[np.int32]) -> slice | npt.NDArray[np.int32]:
    """Ascending row numbers, as a slice if there are no gaps: then nothing is copied."""
    whole = len(rows) > 0 and int(rows[-1]) - int(rows[0]) == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows


def _copied_documents(segment: SealedSegment, rows: npt.NDArray[np.int32]) -> Documents:
    starts, ends = segment.offsets[rows], segment.offsets[rows + 1]
    if isinstance(_selection(rows), slice):
        return Documents(segment.rows_bson[int(starts[0]) : int(ends[-1])], ends - starts)
    pieces = [segment.rows_bson[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return Documents(b"".join(pieces), ends - starts)


def _contents(
    shape: tuple[int, ...],
    vectors: Iterable[Vectors],
    norms: Iterable[npt.NDArray[np.float32]],
    documents: Iterable[Documents],
    hashes: npt.NDArray[np.uint64],
) -> list[tuple[str, Callable[[], Iterable[Buffer]]]]:
    """The files of a segment, to be made in this order: name, and what gives the content."""
    count = shape[0]
    offsets = np.zeros(count + 1, np.int64)  # filled while `rows` runs

    def rows() -> Iterator[Buffer]:
        row = 0
        for part in documents:
            after = row + len(part.lengths)
            offsets[row + 1 : after + 1] = offsets[row] + np.cumsum(part.lengths)
            row = after
            yield part.content

    order = order_of(hashes)
    return [
        (VECTORS, lambda: npy_parts(vectors, np.float32, shape)),
        (NORMS, lambda: npy_parts(norms, np.float32, (count,))),
        (ROWS, rows),
        (OFFSETS, lambda: npy_parts([offsets], np.int64, (count + 1,))),
        (HASHES, lambda: npy_parts([hashes[order]], np.uint64, (count,))),
        (ORDER, lambda: npy_parts([order], np.int32, (count,))),
    ]


def _write(
    disk: Disk, directory: str, contents: Iterable[tuple[str, Callable[[], Iterable[Buffer]]]]
) -> dict[str, FileInfo]:
    files = {}
    disk.make_directory(directory)
    try:
        for name, buffers in contents:
            path = f"{directory}/{name}"
            crc32 = disk.write_file(path, buffers())
            files[name] = FileInfo(disk.size(path), crc32)
        disk.sync_directory(directory)
    except OSError:
        disk.remove_tree(directory)
        raise
    return files


# -- opening ---------------------------------------------------------------------------------


def open_segment(
    disk: Disk, directory: str, name: str, files: Mapping[str, FileInfo], *, verify: bool
) -> SealedSegment:
    """Map the files; with `verify`, read all of them and check checksums and consistency. Blocking.

    DamageError names the file that is missing, damaged, or does not fit the others.
    """
    views = {file: _map(disk, f"{directory}/{file}", files.get(file), verify) for file in FILES}

    def array(file: str, dtype: npt.DTypeLike, dimensions: int = 1) -> npt.NDArray[np.generic]:
        try:
            return open_npy(views[file], dtype, dimensions)
        except NpyError as error:
            raise DamageError(f"{directory}/{file}", f"{error}; {_ADVICE}") from error

    segment = SealedSegment(
        name,
        directory,
        files,
        vectors=array(VECTORS, np.float32, 2),  # type: ignore[arg-type]
        norms=array(NORMS, np.float32),  # type: ignore[arg-type]
        rows_bson=views[ROWS],
        offsets=array(OFFSETS, np.int64),  # type: ignore[arg-type]
        hashes=array(HASHES, np.uint64),  # type: ignore[arg-type]
        order=array(ORDER, np.int32),  # type: ignore[arg-type]
    )
    _check_lengths(segment)
    if verify:
        _check_content(segment)
    return segment


def _map(disk: Disk, path: str, info: FileInfo | None, verify: bool) -> memoryview:
    if info is None:
        raise DamageError(path, f"the manifest does not name it; {_ADVICE}")
    try:
        view = disk.map(path)
    except FileNotFoundError as error:
        raise DamageError(path, f"the file is missing; {_ADVICE}") from error
    if len(view) != info.bytes:
        raise DamageError(path, f"it has {len(view)} bytes, it was written with {info.bytes}; {_ADVICE}")
    if verify:
        computed = checksum_of(view)
        if computed != info.crc32:
            raise DamageError(
                path, f"its CRC32 is {computed:08x}, it was written with {info.crc32:08x}; {_ADVICE}"
            )
    return view


def _check_lengths(segment: SealedSegment) -> None:
    """Whether the arrays fit each other, as far as that is quick."""
    rows = segment.rows
    lengths = {
        VECTORS: (len(segment.vectors), rows),
        OFFSETS: (len(segment.offsets), rows + 1),
        HASHES: (len(segment.hashes), rows),
        ORDER: (len(segment.order), rows),
    }
    for file, (found, expected) in lengths.items():
        if found != expected:
            raise _unfit(segment, file, f"it has {found} entries, {NORMS} asks for {expected}")
    first, last = int(segment.offsets[0]), int(segment.offsets[-1])
    if first != 0 or last != len(segment.rows_bson):
        raise _unfit(
            segment, OFFSETS, f"it spans {first} to {last}, {ROWS} has {len(segment.rows_bson)} bytes"
        )


def _check_content(segment: SealedSegment) -> None:
    """Whether what the arrays say can be followed blindly."""
    sizes = np.diff(segment.offsets)
    if len(sizes) and sizes.min() < _ROW_BYTES_MIN:
        raise _unfit(segment, OFFSETS, "its offsets do not rise from row to row")
    if (segment.hashes[1:] < segment.hashes[:-1]).any():
        raise _unfit(segment, HASHES, "its hashes are not sorted")
    if not np.array_equal(np.sort(segment.order), np.arange(segment.rows, dtype=np.int32)):
        raise _unfit(segment, ORDER, "it does not name each row once")
    for start in range(0, segment.rows, _CHECKED_ROWS):
        stop = min(start + _CHECKED_ROWS, segment.rows)
        malformed = np.flatnonzero(_malformed(segment, start, stop))
        if len(malformed):
            row = start + int(malformed[0])
            raise _unfit(segment, ROWS, f"row {row} at byte {segment.offsets[row]} is malformed")


def _malformed(segment: SealedSegment, start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Which of the rows' documents are not as `_row` makes them; bool of shape (stop - start,)."""
    content = np.frombuffer(segment.rows_bson, np.uint8)
    begins = segment.offsets[start:stop]
    sizes = np.diff(segment.offsets[start : stop + 1])

    id_bytes = _integers(content, begins + ID_LENGTH_PLACE) - 1
    bad: npt.NDArray[np.bool_] = _integers(content, begins) != sizes
    bad |= (id_bytes < 1) | (id_bytes > sizes - _ROW_BYTES_MIN + 1)
    bad |= (content[begins[:, None] + np.arange(4, 8)] != np.frombuffer(ID_ELEMENT, np.uint8)).any(axis=1)
    elements = np.where(bad, begins, begins + ID_START + id_bytes)
    left = sizes - ID_START - id_bytes - len(PAYLOAD_ELEMENT) - 1  # bytes of the payload's document
    kinds = content[elements + 1]
    null = (kinds == NULL_ELEMENT[1]) & (left == 0)
    document = (kinds == PAYLOAD_ELEMENT[1]) & (left >= _DOCUMENT_BYTES_MIN)
    payloads = np.where(document & ~bad, elements + len(PAYLOAD_ELEMENT), begins)
    document &= _integers(content, payloads) == left
    bad |= (content[elements] != 0) | ~(null | document)
    return bad


def _integers(content: npt.NDArray[np.uint8], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The 32-bit integers that begin at these places."""
    values: npt.NDArray[np.int64] = content[places[:, None] + np.arange(4)].view("<i4")[:, 0].astype(np.int64)
    return values


def _pairs(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    return zip(first.tolist(), second.tolist(), strict=True)


def _unfit(segment: SealedSegment, file: str, what: str) -> DamageError:
    return DamageError(f"{segment.directory}/{file}", f"{what}; {_ADVICE}")
