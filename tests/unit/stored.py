"""A node on a real disk, small enough that a few operations seal, merge and checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vectorizer import codec
from vectorizer.node import Node, NodeLimits, Role
from vectorizer.operations import CollectionConfig, Create, Delete, Metric, Operation, Rows, Upsert
from vectorizer.storage import merging, sealing
from vectorizer.storage.checkpoint import capture
from vectorizer.storage.collection import Collection
from vectorizer.storage.data_directory import DataDirectory
from vectorizer.storage.disk import RealDisk
from vectorizer.storage.manifest import Manifest
from vectorizer.storage.recovery import Recovered, StorageOptions, open_data

OPTIONS = StorageOptions(
    journal_file_bytes=1 << 20, journal_bytes_max=1 << 24, log_size=1000, log_bytes_max=1 << 20
)
LIMITS = NodeLimits(
    log_size=1000, log_bytes_max=1 << 20, frame_bytes_max=1 << 19, collections_max=10, durable_only=True
)
DIMENSION = 4


def config(name: str = "things", metric: Metric = "cosine", segment_rows: int = 8) -> CollectionConfig:
    return CollectionConfig(name, DIMENSION, metric, 0.95, segment_rows, 8 * segment_rows, 8, 50)


def rows(ids: Sequence[int | str], seed: int = 0, payload: object = None) -> Rows:
    """Rows whose vectors follow from id and seed."""
    names = [f"id-{item}".encode() if isinstance(item, int) else item.encode() for item in ids]
    vectors = np.stack(
        [np.random.default_rng([seed, *name]).standard_normal(DIMENSION).astype(np.float32) for name in names]
    )
    content = codec.encode_payload(None if payload is None else {"value": payload})
    return Rows(names, vectors, [content] * len(names))


@dataclass
class StoredNode:
    """A node, its data directory, and the background work done when a test says so."""

    root: Path
    role: Role = Role.MASTER
    limits: NodeLimits = LIMITS
    options: StorageOptions = OPTIONS
    prefix: str = "m"
    node: Node = field(init=False)
    directory: DataDirectory = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self.start()

    def new_id(self) -> str:
        return f"{self.prefix}-{next(self._numbers)}"

    def start(self) -> Recovered:
        self.directory = DataDirectory(RealDisk(), str(self.root))
        recovered = open_data(self.directory, self.options, self.new_id)
        self.node = Node(recovered, self.role, self.limits, self.new_id)
        self.write_journal()
        return recovered

    def stop(self) -> None:
        self.write_journal()
        self.node.journal.close()

    def crash(self) -> None:
        """End without a last mark, as a killed process does."""
        for file in [*self.node.journal._files, *self.node.journal._ready]:
            file.close()

    def restart(self) -> Recovered:
        self.stop()
        return self.start()

    def commit(self, operation: Operation) -> int:
        offset = self.node.commit(operation, 1.0, 1_700_000_000_000)
        self.write_journal()
        return offset

    def create(self, name: str = "things", metric: Metric = "cosine") -> int:
        return self.commit(Create(config(name, metric)))

    def upsert(self, *ids: int | str, seed: int = 0, name: str = "things", payload: object = None) -> int:
        return self.commit(Upsert(name, rows(ids, seed, payload)))

    def delete(self, *ids: int, name: str = "things") -> int:
        return self.commit(Delete(name, [f"id-{item}".encode() for item in ids]))

    def write_journal(self) -> None:
        while (batch := self.node.journal.take_batch()) is not None:
            batch.write(True)
            self.node.journal.complete(batch)

    def seal(self) -> int:
        """Seal what is full; how many chunks."""
        count = 0
        while (job := sealing.next_seal(self.directory, self.node.generation, self.node.store)) is not None:
            job.run()
            job.finish(self.node.store)
            count += 1
        return count

    def merge(self) -> int:
        """Make the segments of committed merges; how many."""
        count = 0
        while (job := merging.next_merge(self.directory, self.node.generation, self.node.store)) is not None:
            job.run()
            job.finish(self.node.store)
            merging.install_made(self.node.store, graph_rows_min=0)
            count += 1
        return count

    def checkpoint(self) -> Manifest:
        node = self.node
        base = replace(
            node.manifest,
            offset=node.offset,
            checksum=node.last_checksum,
            timestamp_ms=node.last_timestamp_ms,
            history=node.history,
        )
        node.manifest = capture(self.directory, node.generation, base, node.store, set()).write()
        return node.manifest

    @property
    def things(self) -> Collection:
        return self.node.store.get("things")


def content(collection: Collection, offset: int = 2**60) -> dict[str, tuple[bytes, object]]:
    """id → (vector bytes, payload) of all live rows; fails if an id is there twice."""
    found: dict[str, tuple[bytes, object]] = {}
    for view in collection.view(offset).chunks:
        for row in np.flatnonzero(view.live).tolist():
            name = view.chunk.id_at(row).decode()
            assert name not in found, f"{name} is there twice"
            payload = codec.decode_payload(bytes(view.chunk.payload_at(row)))
            found[name] = view.chunk.vectors[row].tobytes(), None if payload is None else payload["value"]
    assert len(found) == collection.vector_count
    return found


def expected(*groups: tuple[Sequence[int], int, object]) -> dict[str, tuple[bytes, object]]:
    """What rows of (ids, seed, payload) hold; later groups win."""
    found: dict[str, tuple[bytes, object]] = {}
    for ids, seed, payload in groups:
        made = rows(ids, seed)
        for name, vector in zip(made.ids, made.vectors, strict=True):
            found[name.decode()] = vector.tobytes(), payload
    return found


def replica_of(master: StoredNode, root: Path) -> StoredNode:
    """A replica that has received everything by operations."""
    made = StoredNode(root, Role.REPLICA, prefix="r")
    made.node.adopt_history(master.node.history)
    follow(made, master)
    return made


def follow(replica: StoredNode, master: StoredNode) -> None:
    for encoded in master.node.journal.read(replica.node.offset, 1 << 30, master.node.offset) or []:
        replica.node.apply_frame(encoded, 1.0)
    replica.write_journal()
