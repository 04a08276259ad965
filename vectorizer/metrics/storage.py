"""What storage, graphs and the process's work show to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from vectorizer.histogram import Histogram
from vectorizer.metrics.families import counter, counters, gauge, histograms
from vectorizer.node import Node
from vectorizer.storage.collection import Collection


@dataclass(slots=True)
class StoreNumbers:
    """Sums over all collections: no label is the name of a collection, clients could make up thousands."""

    collections: int = 0
    vectors: int = 0
    indexed_vectors: int = 0
    growing_rows: int = 0
    dead_rows: int = 0
    segments: int = 0
    graphs: int = 0
    pending_merges: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0

    def add(self, collection: Collection) -> None:
        """Add one collection."""
        self.collections += 1
        self.vectors += collection.vector_count
        self.growing_rows += sum(chunk.rows for chunk in collection.growing)
        self.segments += len(collection.segments)
        self.pending_merges += len(collection.merges)
        self.memory_bytes += collection.memory_bytes()
        for segment in collection.segments:
            self.dead_rows += segment.dead_rows
            self.disk_bytes += segment.disk_bytes
            if segment.graph is not None:
                self.graphs += 1
                self.indexed_vectors += segment.rows - segment.dead_rows


def count_store(collections: Iterable[Collection], breathe: Callable[[], None]) -> StoreNumbers:
    """The sums; ``breathe`` is called after each collection."""
    numbers = StoreNumbers()
    for collection in collections:
        numbers.add(collection)
        breathe()
    return numbers


def store_families(numbers: StoreNumbers) -> Iterator[Metric]:
    """Collections and their files."""
    yield gauge("collections", "Collections.", numbers.collections)
    yield gauge("vectors", "Live vectors in all collections.", numbers.vectors)
    yield gauge("indexed_vectors", "Live vectors in segments with a graph.", numbers.indexed_vectors)
    yield gauge("growing_rows", "Rows in memory that are not in a segment yet.", numbers.growing_rows)
    yield gauge(
        "dead_rows", "Deleted or replaced rows in segments, until they are merged.", numbers.dead_rows
    )
    yield gauge("segments", "Sealed segments.", numbers.segments)
    yield gauge("segments_with_graph", "Sealed segments that have their graph.", numbers.graphs)
    yield gauge("pending_merges", "Merges of segments that are decided and not done.", numbers.pending_merges)
    yield gauge("store_memory_bytes", "Memory of growing rows, deletions and graphs.", numbers.memory_bytes)
    yield gauge("store_disk_bytes", "Files of sealed segments.", numbers.disk_bytes)


def journal_families(node: Node, bytes_max: int, syncs: Histogram) -> Iterator[Metric]:
    """The journal, and the checkpoint that lets it be trimmed."""
    journal = node.journal
    yield gauge("journal_bytes", "Journal files, preallocated room included.", journal.bytes_held)
    yield gauge("journal_limit_bytes", "What the journal may take (journal_bytes_max).", bytes_max)
    yield gauge(
        "journal_unwritten_bytes",
        "Committed operations not written yet.",
        journal.appended_bytes - journal.written_bytes,
    )
    yield gauge("journal_first_offset", "Oldest operation that the journal holds.", journal.first_offset)
    yield gauge("checkpoint_offset", "Newest operation in the last checkpoint.", node.manifest.offset)
    yield histograms(
        "journal_sync_duration_seconds",
        "Duration of each fdatasync of the journal.",
        [],
        [((), syncs)],
    )


def graph_families(document: Mapping[str, object]) -> Iterator[Metric]:
    """Graph builds; ``document`` is what status shows of them."""
    yield counters(
        "graph_builds",
        "Graphs that were built, or could not be.",
        ["outcome"],
        [((outcome,), float(str(document[outcome]))) for outcome in ("built", "failed")],
    )
    yield counter("graph_build_seconds", "Time spent building graphs.", float(str(document["build_secs"])))
    yield gauge("graph_builder_running", "1 while a graph is being built.", bool(document["building"]))
