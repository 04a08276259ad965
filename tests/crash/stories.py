"""The stories whose every step on disk is a place to crash: together they take every procedure that writes.

Sizes are small, so that a few dozen operations seal and merge segments, fill and trim journal files and
leave windows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.crash.stage import KIB, Stage
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from vectorizer.config import Settings
    from vectorizer.operations import Operation

NAME = "things"
DIMENSION = 3
SEED = 20
ADDRESSES = ("10.0.0.1:7001", "10.0.0.2:7001")


def settings(machine: Machine, **more: Any) -> Settings:
    """Of each node: the first is the master, the second its replica, until stored settings say otherwise."""
    from vectorizer.config import Settings
    from vectorizer.settings import Source

    first = machine.number == 0
    roles: dict[str, Any] = (
        {"replication.role": "master", "replication.bind_address": machine.address}
        if first
        else {"replication.role": "replica", "replication.master_address": ADDRESSES[0]}
    )
    sizes: dict[str, Any] = {
        "storage.fsync": "always",
        "storage.journal_file_bytes": 4 * KIB,
        "storage.journal_bytes_max": 16 * KIB,
        "storage.checkpoint_bytes": 4 * KIB,
        "storage.checkpoint_interval_secs": 5.0,
        "replication.log_size": 12,
        "replication.log_bytes_max": 8 * KIB,
        "replication.heartbeat_interval_secs": 1.0,
        "replication.replica_timeout_secs": 5.0,
        "replication.reconnect_interval_secs": 0.5,
        "replication.connect_timeout_secs": 0.5,
        "replication.snapshot_chunk_bytes": 4 * KIB,
        "index.graph_rows_min": 512,
        "index.merge_dead_fraction": 0.3,
    }
    return Settings().replaced(
        {"storage.data_dir": machine.root, **sizes, **roles, **more}, source=Source.YAML
    )


def create(name: str = NAME, segment_rows: int = 16) -> Operation:
    """A collection of small segments."""
    from vectorizer.operations import CollectionConfig, Create

    return Create(
        CollectionConfig(
            name=name,
            dimension=DIMENSION,
            metric="cosine",
            recall=0.95,
            segment_rows=segment_rows,
            segment_rows_max=max(64, segment_rows),
            hnsw_m=8,
            ef_construction=50,
        )
    )


def upsert(first: int, count: int, text: str = "", name: str = NAME) -> Operation:
    """Rows with these numbers; equal ids are replaced."""
    import numpy as np

    from vectorizer import codec
    from vectorizer.operations import Rows, Upsert

    numbers = range(first, first + count)
    ids = [b"id-%04d" % number for number in numbers]
    vectors = np.array([[1.0, number + 1.0, len(text)] for number in numbers], np.float32)
    payloads = [
        codec.encode_payload({"n": number, "text": text} if number % 3 else None) for number in numbers
    ]
    return Upsert(name, Rows(ids, vectors, payloads))


def delete(*numbers: int, name: str = NAME) -> Operation:
    """Delete rows by number."""
    from vectorizer.operations import Delete

    return Delete(name, [b"id-%04d" % number for number in numbers])


def one_node(stage: Stage) -> None:
    """A master alone: first start, all kinds of writes, checkpoints, merges, settings, a restart."""
    from vectorizer.operations import Drop

    node = stage.machines[0]
    stage.start(node)
    stage.write(node, create())
    for number in range(10):
        stage.write(node, upsert(number * 6, 6))
    _wait_for(stage, node, "seals", lambda held: len(held.segments) >= 3)
    stage.write(node, delete(*range(0, 30, 2)))
    stage.write(node, upsert(0, 12, "again"))
    _wait_for(stage, node, "merges", lambda held: any(item.name.startswith("m") for item in held.segments))
    stage.configure(node, {"log_size": 20})
    stage.write(node, create("others"))
    for number in range(8):
        stage.write(node, upsert(number, 3, "x" * 150, "others"))
    stage.write(node, Drop("others"))
    stage.write(node, create("others"))
    stage.write(node, upsert(0, 3, "anew", "others"))
    assert stage.kernel.run(stage.kernel.now + 6.0) is False  # a checkpoint by time
    stage.stop(node)
    stage.start(node)
    stage.write(node, upsert(0, 5, "after the restart"))
    node.crash(power=False)
    stage.start(node)
    stage.write(node, upsert(3, 5, "after being killed"))
    stage.stop(node)


def replica(stage: Stage) -> None:
    """A replica's first full sync, the stream, and another full sync that takes over files it has."""
    master, follower = stage.machines
    stage.start(master)
    stage.write(master, create())
    for number in range(12):
        stage.write(master, upsert(number * 5, 5, "x" * 40))
    stage.start(follower)
    _caught_up(stage, master, follower)
    for number in range(4):
        stage.write(master, upsert(number * 7, 4, "streamed"))
    _caught_up(stage, master, follower)
    stage.stop(follower)
    for number in range(14):
        stage.write(master, upsert(60 + number * 3, 3, "y" * 30))
    stage.start(follower)
    _caught_up(stage, master, follower)
    stage.write(master, delete(1, 2, 3))
    _caught_up(stage, master, follower)
    stage.stop(master)
    stage.stop(follower)


def promotion(stage: Stage) -> None:
    """A replica is promoted; the old master, which went on, goes back to the fork and follows; then it is
    made a master of its own and, by force, a replica again, whose data is kept aside.
    """
    old, new = stage.machines
    stage.start(old)
    stage.write(old, create())
    stage.start(new)
    for number in range(5):
        stage.write(old, upsert(number * 5, 5))
    _caught_up(stage, old, new)
    stage.configure(new, {"role": "master", "bind_address": new.address})
    for number in range(3):
        stage.write(old, upsert(100 + number, 2, "nobody else has this"))
        stage.write(new, upsert(200 + number, 3, "under the new mastership"))
    stage.configure(old, {"role": "replica", "master_address": ADDRESSES[1]})
    _caught_up(stage, new, old)
    stage.write(new, upsert(220, 3, "followed"))
    _caught_up(stage, new, old)
    stage.configure(old, {"role": "standalone"})
    stage.write(old, upsert(300, 2, "alone"))
    for number in range(14):
        stage.write(new, upsert(230 + number, 2, "z" * 40))
    stage.configure(old, {"role": "replica", "master_address": ADDRESSES[1], "force": True})
    _caught_up(stage, new, old)
    stage.stop(old)
    stage.stop(new)


def graphs(stage: Stage) -> None:
    """A segment large enough for a graph is sealed, its graph built and named by a checkpoint; some of its
    rows are replaced, and the node starts again with the graph. The segment is rewritten: its graph serves
    until the new one has one, rows die meanwhile.
    """
    node = stage.machines[0]
    stage.start(node)
    stage.write(node, create(segment_rows=800))
    for number in range(5):
        stage.write(node, upsert(number * 170, 170))
    _wait_for(stage, node, "builds a graph", _has_graph)
    stage.wait(lambda: len(_named_graphs(node)) == 1, "a manifest names the graph")
    stage.write(node, upsert(0, 200, "replaced"))
    stage.stop(node)
    stage.start(node)
    assert _has_graph(_collection(node)), "the graph is not loaded"
    stage.write(node, delete(*range(300, 345)))
    _wait_for(stage, node, "has written the segment anew", lambda held: held.made is not None)
    stage.write(node, delete(*range(345, 350)))
    assert _has_graph(_collection(node)), "the graph went before there was another"
    _wait_for(stage, node, "merges", lambda held: held.segments[0].name.startswith("m"))
    assert _has_graph(_collection(node)), "the new segment came without its graph"
    stage.wait(lambda: _named_graphs(node)[0].startswith("m"), "a manifest names the new one")
    stage.stop(node)
    stage.start(node)
    assert _has_graph(_collection(node)), "the new graph is not loaded"
    stage.stop(node)


STORIES: dict[str, tuple[Callable[[Stage], None], int, dict[str, Any]]] = {
    "one node": (one_node, 1, {}),
    "replica": (replica, 2, {}),
    "promotion": (promotion, 2, {}),
    "graphs": (graphs, 1, {"storage.journal_file_bytes": 64 * KIB, "storage.journal_bytes_max": 256 * KIB}),
}
"""Each with the number of its machines and settings of its own."""


def _collection(machine: Machine) -> Any:
    assert machine.node is not None
    return machine.node.store.collections[NAME]


def _wait_for(stage: Stage, machine: Machine, what: str, done: Callable[[Any], bool]) -> None:
    stage.wait(lambda: done(_collection(machine)), f"{machine.name} {what}")


def _has_graph(collection: Any) -> bool:
    return any(segment.graph is not None for segment in collection.segments)


def _named_graphs(machine: Machine) -> list[str]:
    assert machine.node is not None
    return [
        segment.name
        for record in machine.node.manifest.collections
        for segment in record.segments
        if "graph.json" in segment.files
    ]


def _caught_up(stage: Stage, master: Machine, replica: Machine) -> None:
    def done() -> bool:
        one, other = master.node, replica.node
        if one is None or other is None:
            return False
        same = other.offset == one.offset and other.history == one.history
        return same and other.durable_offset == other.offset

    stage.wait(done, f"{replica.name} has what {master.name} has")
