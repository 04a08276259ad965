"""Checkpoints: all data of one offset as files, named by a manifest.

In two breaths: ``capture`` on the event loop notes views and files (nothing is copied),
``Checkpoint.write`` in a native thread writes the growing rows and the manifest and lets ``CURRENT`` name
it. It is called when the journal is durable through the captured offset, so that a manifest never contains
what the journal could lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vectorizer.storage.chunk import LIVE, ChunkView
from vectorizer.storage.collection import Collection
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.growing import GrowingChunk
from vectorizer.storage.manifest import CollectionRecord, Manifest, SegmentRecord
from vectorizer.storage.segment import FileInfo, SealedSegment, write_segment
from vectorizer.storage.store import Store


@dataclass(frozen=True, slots=True)
class _Captured:
    collection: Collection
    record: CollectionRecord  # without segments
    views: tuple[ChunkView, ...]
    files: tuple[dict[str, FileInfo] | None, ...]  # of each view, None while growing


class Checkpoint:
    """What one manifest will say, captured at one offset."""

    def __init__(
        self,
        directory: DataDirectory,
        generation: int,
        manifest: Manifest,
        captured: list[_Captured],
        pinned: set[str],
    ) -> None:
        self.generation = generation
        self.offset = manifest.offset
        self.manifest = manifest
        self._directory = directory
        self._captured = captured
        self._pinned = pinned

    def write(self) -> Manifest:
        """Write growing rows and manifest, make it count, remove what is no longer needed. Blocking; the
        manifest.
        """
        collections = tuple(self._collection_record(captured) for captured in self._captured)
        manifest = Manifest(
            node_id=self.manifest.node_id,
            offset=self.manifest.offset,
            checksum=self.manifest.checksum,
            timestamp_ms=self.manifest.timestamp_ms,
            history=self.manifest.history,
            stored=self.manifest.stored,
            collections=collections,
        )
        disk = self._directory.disk
        disk.sync_directory(self._directory.segments_path(self.generation))
        name = self._directory.write_manifest(self.generation, manifest)
        self._directory.set_current(self.generation, name)
        self._directory.collect_garbage(self.generation, manifest, self._pinned)
        return manifest

    def _collection_record(self, captured: _Captured) -> CollectionRecord:
        record = captured.record
        segments = tuple(
            self._segment_record(record.identity, view, files)
            for view, files in zip(captured.views, captured.files, strict=True)
            if view.rows
        )
        return CollectionRecord(
            record.config,
            record.identity,
            record.created_ms,
            record.offset,
            record.appended_rows,
            segments,
            record.merges,
        )

    def _segment_record(
        self, identity: int, view: ChunkView, files: dict[str, FileInfo] | None
    ) -> SegmentRecord:
        chunk = view.chunk
        if files is None:
            assert isinstance(chunk, GrowingChunk)
            directory = f"{identity:020d}-{chunk.name}-{view.rows}"
            files = self._write_growing(directory, chunk, view.rows)
        else:
            assert isinstance(chunk, SealedSegment)
            directory = chunk.directory_name
        deleted_at = chunk.deleted_at[: view.rows]
        rows = np.flatnonzero(deleted_at <= view.offset).astype(np.int32)
        return SegmentRecord(chunk.name, directory, view.rows, chunk.sealed, files, rows, deleted_at[rows])

    def _write_growing(self, directory: str, chunk: GrowingChunk, rows: int) -> dict[str, FileInfo]:
        """The first rows of a growing chunk never change, so an earlier checkpoint's files of as many serve
        again.
        """
        written = chunk.cache.get("written")
        if isinstance(written, tuple) and written[0] == (self.generation, rows):
            return dict(written[1])
        path = f"{self._directory.segments_path(self.generation)}/{directory}"
        if self._directory.disk.exists(path):
            self._directory.disk.remove_tree(path)
        files = write_segment(
            self._directory.disk,
            path,
            chunk.ids[:rows],
            chunk.vectors[:rows],
            chunk.norms[:rows],
            chunk.payloads[:rows],
            chunk.hashes[:rows],
        )
        remember_written(chunk, self.generation, rows, files)
        return files


def capture(
    directory: DataDirectory,
    generation: int,
    base: Manifest,
    store: Store,
    pinned: set[str],
) -> Checkpoint:
    """Note all that a manifest at ``base``'s offset needs. Pure and quick.

    ``base`` carries node id, offset, checksum, time and history as of now; ``pinned`` are directories of
    segments that running syncs still read.
    """
    captured = []
    for collection in store.collections.values():
        view = collection.view(base.offset)
        files = tuple(
            dict(item.chunk.files) if isinstance(item.chunk, SealedSegment) else None for item in view.chunks
        )
        record = CollectionRecord(
            collection.config,
            collection.identity,
            collection.created_ms,
            collection.offset,
            collection.appended_rows,
            (),
            tuple((merge.offset, merge.segments) for merge in collection.merges),
        )
        captured.append(_Captured(collection, record, view.chunks, files))
        pinned = pinned | {segment.directory_name for segment in collection.segments}
        if collection.made is not None:
            pinned.add(collection.made.segment.directory_name)
    return Checkpoint(directory, generation, base, captured, pinned)


def remember_written(chunk: GrowingChunk, generation: int, rows: int, files: Mapping[str, FileInfo]) -> None:
    """A manifest names files with the first ``rows`` rows: they are used again, never written over."""
    chunk.cache["written"] = ((generation, rows), dict(files))


def restore_deletions(chunk: SealedSegment | GrowingChunk, record: SegmentRecord) -> None:
    """Deletions of a record back into a chunk."""
    if isinstance(chunk, GrowingChunk):
        chunk.restore_deletions(record.deleted_rows, record.deleted_at)
    else:
        chunk.deleted_at[record.deleted_rows] = record.deleted_at
        chunk.dead_rows = int(np.count_nonzero(chunk.deleted_at != LIVE))
