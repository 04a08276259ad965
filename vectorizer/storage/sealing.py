"""Sealing: a full growing chunk becomes a segment on disk.

The job is made on the event loop, ``run`` works in a native thread on rows that no longer change,
``finish`` puts the result in place on the loop, unless the collection is gone meanwhile.
"""

from __future__ import annotations

from vectorizer.storage.collection import Collection
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.growing import GrowingChunk
from vectorizer.storage.segment import SealedSegment, open_segment, write_segment
from vectorizer.storage.store import Store


def segment_directory_name(collection: Collection, segment: str) -> str:
    """Directory of a sealed segment: the collection's identity and the segment's name."""
    return f"{collection.identity:020d}-{segment}"


class Seal:
    """One full chunk on its way to disk."""

    kind = "seal"

    def __init__(
        self, directory: DataDirectory, generation: int, collection: Collection, chunk: GrowingChunk
    ) -> None:
        self.collection = collection
        self.chunk = chunk
        self._disk = directory.disk
        self._name = segment_directory_name(collection, chunk.name)
        self._path = f"{directory.segments_path(generation)}/{self._name}"
        self._segment: SealedSegment | None = None

    def run(self) -> None:
        """Write the segment. Blocking; OSError if the disk has no room; nothing is lost then."""
        if self._disk.exists(self._path):
            self._disk.remove_tree(self._path)
        chunk = self.chunk
        files = write_segment(
            self._disk, self._path, chunk.ids, chunk.vectors, chunk.norms, chunk.payloads, chunk.hashes
        )
        self._segment = open_segment(self._disk, self._path, chunk.name, files, verify=False)

    def finish(self, store: Store) -> None:
        """Serve the rows from the segment from here on."""
        assert self._segment is not None
        if store.collections.get(self.collection.config.name) is self.collection:
            self.collection.install_sealed(self.chunk, self._segment)


def next_seal(directory: DataDirectory, generation: int, store: Store) -> Seal | None:
    """The next chunk that is full, if any."""
    for collection in store.collections.values():
        for chunk in collection.growing:
            if chunk.is_full:
                return Seal(directory, generation, collection, chunk)
    return None
