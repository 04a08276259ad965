"""What the status routes show, made from facts that a test sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pair import START_MS, Pair, TwinNode
from tests.unit.stored import StoredNode
from vectorizer.errors import RequestError
from vectorizer.node import Role
from vectorizer.replication.progress import Phase, Progress, ReplicaTable, SyncProgress
from vectorizer.replication.status import SILENT_SECS, StatusView, status_of, sync_document

NOW = 100.0

# The requirements' own fields: each must be there, whatever stands beside it.
STATS = {
    "role",
    "lag_ms",
    "bytes_sent",
    "bytes_received",
    "last_sync",
    "operations_pending",
    "snapshot_size",
    "connected_replicas",
    "master_offset",
    "replica_offset",
    "lag_operations",
    "total_replicated",
}
ROW = {
    "id",
    "host",
    "port",
    "status",
    "lag_ms",
    "last_heartbeat",
    "operations_synced",
    "address",
    "offset",
    "lag_operations",
}


def row(phase: Phase = Phase.STREAMING, heard_at: float = NOW) -> Progress:
    return Progress(
        "r", "10.0.0.2", 7001, "h:1", NOW, phase=phase, last_heard_at=heard_at, last_heard_ms=START_MS
    )


@pytest.mark.parametrize(
    ("progress", "lag_ms", "now", "status"),
    [
        (row(), 0, NOW, "Connected"),
        (row(), 1000, NOW, "Connected"),
        (row(), 1001, NOW, "Lagging"),
        (row(Phase.SYNCING), 5000, NOW, "Syncing"),
        (row(Phase.HANDSHAKE), 0, NOW, "Syncing"),
        (row(Phase.GONE), 0, NOW, "Disconnected"),
        (row(), 0, NOW + SILENT_SECS - 0.1, "Connected"),
        (row(), 0, NOW + SILENT_SECS, "Disconnected"),
    ],
)
def test_the_requirements_word_for_a_replica(
    progress: Progress, lag_ms: int, now: float, status: str
) -> None:
    assert status_of(progress, lag_ms, now) == status


def test_a_running_full_sync() -> None:
    assert sync_document(None, NOW) is None
    sync = SyncProgress(9, "diverged", NOW, bytes_total=200, bytes_sent=100, bytes_received=50)
    document = sync_document(sync, NOW + 2)
    assert document is not None
    assert (document["percent"], document["eta_secs"], document["seconds"]) == (25.0, 6.0, 2.0)
    assert sync_document(SyncProgress(9, "", NOW), NOW) == {
        "kind": "full",
        "reason": "",
        "offset": 9,
        "bytes_total": 0,
        "bytes_sent": 0,
        "bytes_received": 0,
        "percent": 0.0,
        "seconds": 0.0,
        "eta_secs": None,
    }


@pytest.fixture
def stored(tmp_path: Path) -> StoredNode:
    return StoredNode(tmp_path)


def view(node: StoredNode, table: ReplicaTable | None = None, pair: Pair | None = None) -> StatusView:
    return StatusView(node.node, table, None if pair is None else pair.link, "m:7001", NOW)


def test_a_master_shows_its_replicas_and_their_slowest(stored: StoredNode) -> None:
    table = ReplicaTable()
    table.totals.bytes_sent, table.totals.last_sync_ms, table.totals.snapshot_bytes = 77, 5_000, 88
    table.totals.refusals["cycle"] += 1
    table.attach(row(), NOW)
    document = view(stored, table).status()
    assert (document["role"], document["enabled"]) == ("Master", True)
    stats = document["stats"]
    assert set(stats) >= STATS
    assert (stats["role"], stats["connected_replicas"], stats["bytes_sent"]) == ("master", 1, 77)
    assert (stats["last_sync"], stats["snapshot_size"]) == (5, 88)
    [shown] = document["replicas"]
    assert set(shown) >= ROW
    assert (shown["address"], shown["status"]) == ("10.0.0.2:7001", "Connected")
    assert shown["last_heartbeat"] == START_MS // 1000
    assert document["counters"]["refusals"] == {"cycle": 1}
    assert document["link"] is None
    assert document["metrics"]["replication.replicas_connected"] == 1
    assert view(stored, table).stats() == stats
    replicas = view(stored, table).replicas()
    assert (replicas["count"], replicas["connected_replicas"]) == (1, 1)
    assert replicas["replicas"] == [shown]


def test_a_row_that_is_gone_counts_in_count_and_not_in_connected_replicas(stored: StoredNode) -> None:
    table = ReplicaTable()
    progress = row()
    table.attach(progress, NOW)
    table.detach(progress, "replica_timeout", NOW)
    replicas = view(stored, table).replicas()
    assert (replicas["count"], replicas["connected_replicas"]) == (1, 0)
    assert replicas["replicas"][0]["status"] == "Disconnected"
    assert replicas["replicas"][0]["disconnected_reason"] == "replica_timeout"
    stats = view(stored, table).stats()
    assert (stats["lag_ms"], stats["connected_replicas"]) == (0, 0)


def test_a_standalone_node_has_a_status_and_neither_statistics_nor_replicas(stored: StoredNode) -> None:
    stored.node.role = Role.STANDALONE
    document = view(stored).status()
    assert (document["role"], document["enabled"], document["replicas"]) == ("Standalone", False, [])
    assert set(document["stats"]) >= STATS
    for ask in (view(stored).stats, view(stored).replicas):
        with pytest.raises(RequestError) as caught:
            ask()
        assert caught.value.status_code == 400


def test_a_replica_shows_its_link(stored: StoredNode) -> None:
    stored.node.role = Role.REPLICA
    pair = Pair(TwinNode("m").lead("A").commit(5), TwinNode("r"))
    pair.link.node = stored.node
    document = view(stored, pair=pair).status()
    assert document["link"]["state"] == "down"
    assert document["link"]["heartbeat_age_ms"] is None
    assert document["link"]["last_error"] is None
    assert document["metrics"]["replication.connected"] is False
    pair.link.node = pair.replica
    pair.connect().run()
    document = view(stored, pair=pair).status()
    link = document["link"]
    assert (link["state"], link["connected"], link["master_node_id"]) == ("streaming", True, "m")
    assert (link["master_offset"], link["master_rest_address"]) == (5, "m:15002")
    assert document["counters"]["full_syncs"] == 1
    assert document["counters"]["reconnects"] == 0
    assert set(document["stats"]) >= STATS
    assert document["stats"]["master_offset"] == 5
    assert document["metrics"]["replication.connected"] is True
    pair.cut()
    link = view(stored, pair=pair).status()["link"]
    assert (link["state"], link["last_error"]["reason"], link["attempts"]) == ("down", "connection_lost", 1)
    with pytest.raises(RequestError, match="only a node that takes replicas"):
        view(stored, pair=pair).replicas()


def test_a_full_sync_shows_its_progress_on_both_sides(stored: StoredNode) -> None:
    pair = Pair(TwinNode("m").lead("A").commit(5), TwinNode("r")).connect()
    for _ in range(20):
        pair.speak()
        pair.deliver_up(len(pair.up))
        if pair.down:
            pair.deliver_down(40)
        if pair.link.sync is not None and pair.link.sync.bytes_total:
            break
    document = view(stored, pair.table, pair).status()
    assert document["sync"]["bytes_total"] > 0
    assert document["replicas"][0]["status"] == "Syncing"
    assert document["replicas"][0]["sync"]["bytes_total"] == document["sync"]["bytes_total"]
