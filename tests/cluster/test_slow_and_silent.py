"""Slow, frozen and unreachable peers: dropped in time, bounded in memory, resumed partially."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, same_digest, wait_until
from tests.cluster.harness.cluster import BULK_DIMENSION

STREAM_BYTES_MAX = 4 << 20


def live_replicas(master: Node) -> int:
    count: int = master.stats()["connected_replicas"]
    return count


def test_a_frozen_replica_is_dropped_and_resumes_partially(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    frozen, healthy = cluster.replicas
    before = frozen.syncs()
    frozen.freeze()
    with cluster.load() as load:
        wait_until(lambda: live_replicas(cluster.master) == 1, "the frozen replica is dropped", 10)
        load.wait_sent(100)
    cluster.converged(healthy)
    frozen.thaw()
    cluster.converged()
    assert frozen.syncs().since(before) == (0, 1)


def test_a_frozen_master_is_noticed_and_resumed_from_partially(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(50)
    cluster.converged()
    before = replica.syncs()
    cluster.master.freeze()
    wait_until(lambda: not replica.connected, "the replica misses the heartbeats", 10)
    cluster.master.thaw()
    cluster.wait_connected()
    cluster.write(50, seed=2)
    cluster.converged()
    assert replica.syncs().since(before) == (0, 1)


@pytest.mark.parametrize("direction", ["down", "up", "both"])
def test_a_half_open_link_is_noticed_on_both_sides(cluster: Cluster, direction: str) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    before = replica.syncs()
    link.swallow(*({"down": ["down"], "up": ["up"]}.get(direction, [])))
    wait_until(lambda: live_replicas(cluster.master) == 0, "the master drops it", 10)
    wait_until(lambda: not replica.connected, "the replica drops it", 10)
    cluster.write(50)
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    full, partial = replica.syncs().since(before)
    assert full == 0
    assert partial >= 1


def test_a_slow_replica_costs_the_master_no_memory_and_the_others_no_time(cluster: Cluster) -> None:
    cluster.start(
        replicas=2, proxied=True, replication={"log_bytes_max": STREAM_BYTES_MAX, "replica_timeout_secs": 20}
    )
    slow, healthy = cluster.replicas
    cluster.bulk("warm")
    cluster.converged()
    before = cluster.master.anonymous_bytes()
    cluster.links[0].bytes_per_sec = 50_000
    cluster.bulk(rows=16_000)
    cluster.converged(healthy)
    assert slow.offset < cluster.master.offset
    held = 16_000 * BULK_DIMENSION * 4 * 2  # rows being written, and their copies on the way to a segment
    assert cluster.master.anonymous_bytes() - before < held + 4 * STREAM_BYTES_MAX + (16 << 20)
    cluster.links[0].heal()
    cluster.converged()
    assert slow.syncs().full == 1  # its first one, the window held on disk


def test_a_delayed_link_shows_its_lag_and_catches_up(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    link.delay_secs = 0.4
    with cluster.load() as load:
        load.wait_sent(100)
        wait_until(
            lambda: (cluster.master.replica_row(replica) or {}).get("lag_ms", 0) > 100,
            "the master shows the lag",
        )
    link.heal()
    cluster.converged()
    wait_until(lambda: (cluster.master.replica_row(replica) or {}).get("lag_ms") == 0, "no lag any more")


def test_a_replica_too_slow_for_the_window_is_told_so_and_syncs_fully(cluster: Cluster) -> None:
    short = {"journal_file_bytes": 1 << 20, "checkpoint_bytes": 1 << 16}
    patient = {"log_size": 20, "replica_timeout_secs": 10}
    cluster.start(replicas=1, proxied=True, replication=patient, storage=short)
    [replica], [link] = cluster.replicas, cluster.links
    link.bytes_per_sec = 200_000
    cluster.bulk(rows=24_000)  # more than the sockets on the way take
    with (
        cluster.load()
    ):  # the journal is trimmed at checkpoints only, and these only come while something is written
        wait_until(lambda: disconnects(cluster.master).get("window_overrun"), "it is told")
    link.heal()
    cluster.converged()
    assert replica.status()["counters"]["full_sync_reasons"] == {"empty_replica": 1, "outside_window": 1}


def disconnects(node: Node) -> dict[str, int]:
    """How many replicas this node lost, by reason."""
    counted: dict[str, int] = node.status()["counters"]["disconnects"]
    return counted


def test_lag_is_a_true_time_also_after_a_restart_of_the_master(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    link.refuse()
    cluster.write(20)
    cluster.master.restart(kill=True)
    link.heal()
    link.delay_secs = 0.5
    row = wait_until(lambda: lagging_row(cluster.master, replica), "the master shows that it lags")
    assert row["lag_ms"] < 60_000
    link.heal()
    cluster.converged()


def lagging_row(master: Node, replica: Node) -> dict[str, Any] | None:
    """The replica's row while the master misses its acknowledgement of something."""
    row = master.replica_row(replica)
    return row if row and row["lag_operations"] and row["phase"] == "streaming" else None


def test_a_second_stream_costs_the_master_next_to_no_memory(tmp_path: Path) -> None:
    peaks = []
    for replicas in (1, 2):
        made = Cluster(tmp_path / str(replicas))
        try:
            made.start(replicas=replicas, replication={"log_bytes_max": 16 << 20})
            made.bulk(rows=40_000)
            same_digest(made.master, *made.replicas)
            peaks.append(made.master.anonymous_bytes())
        finally:
            made.close()
    assert peaks[1] < 1.2 * peaks[0]
