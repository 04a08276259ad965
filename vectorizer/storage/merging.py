"""Merging: which segments should become one, and making it.

The master plans (``plan``) and commits a merge operation; every node then makes the same segment from the
rows that were live at the operation's offset (``Merge``), in the background, and carries over what was
deleted since. Few large graphs answer faster than many small ones, so segments of similar size are merged
up to ``segment_rows_max`` rows, and segments with many dead rows are rewritten.

What has been made takes the place of its sources at once, or, if searches would lose the graphs of these,
when its own graph is there (``waits_for_graph``). Until then it counts for nothing: not in a view, not in a
manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vectorizer.operations import CollectionConfig
from vectorizer.storage.collection import Collection, MadeMerge, PendingMerge
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.sealing import segment_directory_name
from vectorizer.storage.segment import SealedSegment, merge_segments, open_segment
from vectorizer.storage.store import Store

FAN_IN = 4
"""So many segments of one size class become one of the next."""


def plan(collection: Collection, dead_fraction_max: float) -> tuple[str, ...] | None:
    """Names of the segments that should be merged next, oldest first; None if all is well.

    Only when the merges before are done, so that a plan sees what it works on.
    """
    if collection.merges or any(chunk.is_full for chunk in collection.growing):
        return None
    segments = collection.segments
    for segment in segments:
        if segment.dead_rows > dead_fraction_max * segment.rows:
            return (segment.name,)
    return _of_one_size(collection.config, segments)


def _of_one_size(config: CollectionConfig, segments: Sequence[SealedSegment]) -> tuple[str, ...] | None:
    """Names of FAN_IN segments of one size class that fit into one segment."""
    by_class: dict[int, list[SealedSegment]] = {}
    for segment in segments:
        size_class = _size_class(segment.rows, config.segment_rows)
        by_class.setdefault(size_class, []).append(segment)
    for _, group in sorted(by_class.items()):
        chosen: list[SealedSegment] = []
        rows = 0
        for segment in group:
            if rows + segment.rows - segment.dead_rows <= config.segment_rows_max:
                chosen.append(segment)
                rows += segment.rows - segment.dead_rows
            if len(chosen) == FAN_IN:
                return tuple(item.name for item in chosen)
    return None


def plan_idle(collection: Collection) -> tuple[str, ...] | None:
    """Names of the segments of a collection at rest that should become one, oldest first, or None.

    The smallest ones that fit into one segment, so that a search asks fewer graphs: one instead of three at
    100,000 rows. Only where the others have half as many rows as the largest of them: what is merged grows by
    half at least, so a row is rewritten a few times at most, however often a collection comes to rest.
    """
    if collection.merges or any(chunk.is_full for chunk in collection.growing):
        return None
    rows_of = {segment.name: segment.rows - segment.dead_rows for segment in collection.segments}
    chosen: list[str] = []
    rows = 0
    for name in sorted(rows_of, key=rows_of.__getitem__):
        if rows + rows_of[name] > collection.config.segment_rows_max:
            break
        chosen.append(name)
        rows += rows_of[name]
    while chosen and 2 * (rows - rows_of[chosen[-1]]) < rows_of[chosen[-1]]:
        rows -= rows_of[chosen.pop()]
    if len(chosen) < 2:
        return None
    return tuple(name for name in rows_of if name in chosen)


def waits_for_graph(collection: Collection, graph_rows_min: int) -> bool:
    """Whether the merged segment that is made, but not in place, waits for its graph any longer.

    Otherwise searches would scan: 33,000 rows in 4.9 ms (p50 beside the builder) instead of 2.0. No waiting
    where nothing is gained, where the build has failed, or where the next merge is due: so segments never
    pile up while rows come in faster than graphs are built.
    """
    made = collection.made
    if made is None or made.graph_failed or made.segment.graph is not None:
        return False
    if made.segment.rows < graph_rows_min or len(collection.merges) > 1:
        return False
    sources = set(made.merge.segments)
    others = [segment for segment in collection.segments if segment.name not in sources]
    if _of_one_size(collection.config, others) is not None:
        return False
    return any(segment.graph is not None for segment in collection.segments if segment.name in sources)


def install_made(store: Store, graph_rows_min: int) -> bool:
    """Put merged segments in place that wait no longer; whether there were any."""
    ready = [
        collection
        for collection in store.collections.values()
        if collection.made is not None and not waits_for_graph(collection, graph_rows_min)
    ]
    for collection in ready:
        assert collection.made is not None
        collection.install_merged(collection.made.merge, collection.made.segment, collection.made.kept)
    return bool(ready)


def _size_class(rows: int, segment_rows: int) -> int:
    """0 for less than two freshly sealed segments, then one more for each factor of FAN_IN."""
    size_class, bound = 0, segment_rows * 2
    while rows >= bound:
        size_class, bound = size_class + 1, bound * FAN_IN
    return size_class


class Merge:
    """One merge operation on its way to a segment."""

    kind = "merge"

    def __init__(
        self, directory: DataDirectory, generation: int, collection: Collection, merge: PendingMerge
    ) -> None:
        self.collection = collection
        self.merge = merge
        by_name = {segment.name: segment for segment in collection.segments}
        self._sources = [by_name[name] for name in merge.segments if name in by_name]
        self._disk = directory.disk
        self._path = f"{directory.segments_path(generation)}/{segment_directory_name(collection, merge.name)}"
        self._kept: list[npt.NDArray[np.int32]] = []
        self._segment: SealedSegment | None = None

    def run(self) -> None:
        """Write the segment. Blocking; OSError if the disk has no room: try again."""
        if self._disk.exists(self._path):
            self._disk.remove_tree(self._path)
        self._kept = [
            np.flatnonzero(source.deleted_at > self.merge.offset).astype(np.int32) for source in self._sources
        ]
        if not any(len(rows) for rows in self._kept):
            return
        files = merge_segments(self._disk, self._path, list(zip(self._sources, self._kept, strict=True)))
        self._segment = open_segment(self._disk, self._path, self.merge.name, files, verify=False)

    def finish(self, store: Store) -> None:
        """Made: ``install_made`` puts it in place, at once or later. Sources without rows are gone now."""
        if store.collections.get(self.collection.config.name) is not self.collection:
            return
        if self._segment is None:
            self.collection.install_merged(self.merge, None, self._kept)
        else:
            self.collection.made = MadeMerge(self.merge, self._segment, self._kept)


def next_merge(directory: DataDirectory, generation: int, store: Store) -> Merge | None:
    """The next merge whose sources are all sealed, if any; one at a time of each collection."""
    for collection in store.collections.values():
        if collection.merges and collection.made is None:
            names = {segment.name for segment in collection.segments}
            merge = collection.merges[0]
            waiting = {chunk.name for chunk in collection.growing}
            if not waiting.intersection(merge.segments) and names.intersection(merge.segments):
                return Merge(directory, generation, collection, merge)
            if not waiting.intersection(merge.segments):
                collection.merges.pop(0)  # all sources were merged away without rows: nothing is left to make
    return None
