"""The store: all collections, and the one way in which operations change them.

The master's own writes, a replica's stream and crash recovery all go through ``check`` and ``apply``.
"""

from __future__ import annotations

import numpy as np

from vectorizer.errors import conflict, not_found, validation
from vectorizer.operations import Create, Delete, Drop, Entry, Merge, Operation, Upsert
from vectorizer.runs import Run
from vectorizer.storage.collection import Collection


class Store:
    """Collections by name."""

    def __init__(self) -> None:
        self.collections: dict[str, Collection] = {}

    def get(self, name: str) -> Collection:
        """The collection, or RequestError 404."""
        collection = self.collections.get(name)
        if collection is None:
            raise not_found("collection", name)
        return collection

    def check(self, operation: Operation) -> None:
        """Whether the operation can be applied now; RequestError says why not. After it, ``apply`` cannot
        fail.
        """
        if isinstance(operation, Create):
            if operation.collection in self.collections:
                raise conflict(f"collection {operation.collection!r} exists already", "collection_exists")
            return
        collection = self.get(operation.collection)
        match operation:
            case Upsert(_, rows):
                dimension = rows.vectors.shape[1]
                if dimension != collection.config.dimension:
                    raise validation(
                        f"vectors have {dimension} dimensions, collection {operation.collection!r} has "
                        f"{collection.config.dimension}"
                    )
                if len(set(rows.ids)) != len(rows.ids):
                    raise validation("an id occurs twice in one batch")
            case Merge(_, segments):
                if not collection.can_merge(segments):
                    raise conflict(f"segments {list(segments)} of {operation.collection!r} cannot be merged")

    def takes(self, run: Run) -> bool:
        """Whether each operation of the run can be applied now; if not, ``check`` says why."""
        collection = self.collections.get(run.collection)
        return collection is not None and collection.config.dimension == run.rows.vectors.shape[1]

    def apply_run(self, run: Run) -> None:
        """Carry out a run that it takes: the same as to apply one operation after the other."""
        offsets = np.arange(run.offset, run.last_offset + 1, dtype=np.int64)
        self.collections[run.collection].upsert(run.rows, run.last_offset, offsets)

    def apply(self, entry: Entry) -> None:
        """Carry out a checked operation."""
        operation, offset = entry.operation, entry.offset
        match operation:
            case Create(config):
                self.collections[config.name] = Collection(config, offset, entry.timestamp_ms)
            case Drop(name):
                del self.collections[name]
            case Upsert(name, rows):
                self.collections[name].upsert(rows, offset)
            case Delete(name, ids):
                self.collections[name].delete(ids, offset)
            case Merge(name, segments):
                self.collections[name].merge(segments, offset)
