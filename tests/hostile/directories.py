"""A data directory with every kind of file in it, and what a start on it must find."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.unit.stored import LIMITS, StoredNode, config
from vectorizer.config import Settings, Source
from vectorizer.digest import digest_of
from vectorizer.identity import give_new_identity
from vectorizer.index import build
from vectorizer.node import Node
from vectorizer.operations import Create
from vectorizer.storage.graph_files import GRAPH_FILE, graph_file_infos, load_graph
from vectorizer.storage.recovery import StorageOptions

KIB = 1024
OPTIONS = StorageOptions(8 * KIB, 256 * KIB, 1000, 1 << 20)
STORED: dict[str, Any] = {"replication.log_size": 777}
"""Made by REST, so it is in the newest manifest and nowhere else."""
GRAPH_ROWS = 600
REPLICA_ID = "a-replica"

Digests = dict[str, tuple[str, int]]
"""By collection."""


@dataclass(slots=True)
class Original:
    """The undamaged directory. ``digests``: the data after each of the last operations."""

    root: Path
    stopped: bool
    node_id: str = ""
    offset: int = 0
    digests: dict[int, Digests] = field(default_factory=dict)
    stored: dict[str, Any] = field(default_factory=lambda: dict(STORED))
    graphs: set[int] = field(default_factory=set)
    """CRC32 of the graphs' files."""

    def copy(self, target: Path) -> Path:
        """The directory again, to be damaged: no file is to be written in place. Only what a node writes in
        place itself, the journal, is copied at once.
        """
        shutil.copytree(self.root, target, copy_function=_copy)
        return target

    def replica(self, target: Path) -> Original:
        """The directory of a replica that has the same data."""
        copy = replace(self, root=self.copy(target), node_id=REPLICA_ID, stored={})
        assert give_new_identity(str(target), REPLICA_ID, io.StringIO()) == 0
        return copy


def _copy(source: str, target: str) -> None:
    if source.endswith(".journal"):
        shutil.copyfile(source, target)
    else:
        os.link(source, target)


def digests_of(node: Node) -> Digests:
    """Of all collections."""
    return {
        name: digest_of(collection.view(node.offset), lambda: None)
        for name, collection in node.store.collections.items()
    }


def make(root: Path, *, stopped: bool) -> Original:
    """A master's directory: sealed, merged and growing rows, a graph, two manifests, many journal files,
    stored settings, operations saved aside. ``stopped``: in order; else its process was killed.
    """
    stored = StoredNode(root, limits=replace(LIMITS, frame_bytes_max=1 << 18), options=OPTIONS)
    original = Original(root, stopped, stored.node.node_id)
    stored.create()
    stored.commit(Create(config("graphed", segment_rows=GRAPH_ROWS)))
    stored.upsert(0, payload="larger than a file of the journal" * 5000)
    for number in range(20):
        stored.upsert(*range(number, number + 3), seed=number, payload="x" * 100)
    for number in range(0, GRAPH_ROWS + 40, 80):
        stored.upsert(*range(number, number + 80), name="graphed")
    stored.seal()
    _build_graph(stored, original)
    stored.checkpoint()
    for number in range(10):
        stored.upsert(*range(number, number + 5), seed=100 + number, payload=number)
    stored.delete(1, 2, 3)
    stored.seal()
    stored.node.manifest = stored.node.manifest.with_stored(dict(STORED))
    stored.checkpoint()
    for number in range(6):
        stored.upsert(*range(50 + number, 53 + number), seed=number, payload="newer than the manifest")
        original.digests[stored.node.offset] = digests_of(stored.node)
    (root / "diverged").mkdir()
    (root / "diverged" / "1700000000000-after-3.journal").write_bytes(bytes(range(256)) * 4)
    original.offset = stored.node.offset
    if stopped:
        stored.checkpoint()
        stored.stop()
    else:
        stored.crash()
    return original


def _build_graph(stored: StoredNode, original: Original) -> None:
    collection = stored.node.store.get("graphed")
    (segment,) = collection.segments
    path = Path(segment.directory)
    build.build(path, collection.config.metric, 8, 50, 1)
    files = graph_file_infos(stored.directory.disk, segment.directory)
    segment.graph = load_graph(
        stored.directory.disk, segment.directory, collection.config, files, verify=True
    )
    assert segment.graph is not None
    segment.files = {**segment.files, **files}
    original.graphs.add(crc32((path / GRAPH_FILE).read_bytes()))


def settings_at(root: Path, **more: Any) -> Settings:
    """Settings of a node in this directory."""
    values: dict[str, Any] = {
        "storage.data_dir": str(root),
        "storage.journal_file_bytes": OPTIONS.journal_file_bytes,
        "storage.journal_bytes_max": OPTIONS.journal_bytes_max,
        "server.host": "127.0.0.1",
        "server.port": 0,
        "replication.heartbeat_interval_secs": 0.2,
        "replication.reconnect_interval_secs": 0.1,
        "server.shutdown_timeout_secs": 0,
    }
    roles = {
        "replication.role": "master",
        "replication.bind_address": "127.0.0.1:0",
    }
    return Settings().replaced({**values, **roles, **more}, source=Source.YAML)
