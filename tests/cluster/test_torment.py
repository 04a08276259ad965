"""Kill everything in turn, cut everything between, while everybody writes; then compare."""

from __future__ import annotations

import random

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.harness.cluster import COLLECTIONS

KILLS = 20


@pytest.mark.timeout(180)
def test_twenty_kills_in_turn_and_links_cut_in_mid_frame_lose_and_double_nothing(cluster: Cluster) -> None:
    cluster.start(replicas=0, storage={"checkpoint_bytes": 4 << 20})
    chance = random.Random(11)
    with cluster.readers(), cluster.load() as load:
        load.wait_sent(100)
        for _ in range(2):
            cluster.start_replica(proxied=True)
        cluster.wait_connected()
        full = [replica.syncs().full for replica in cluster.replicas]
        restarts_partial = 0
        for number in range(KILLS):
            link = chance.choice(cluster.links)
            link.cut_after(chance.randrange(500, 30_000))
            link.cut()
            load.wait_sent(chance.randrange(20, 80))
            victim = [cluster.master, *cluster.replicas][number % 3]
            victim.restart(kill=True)
            cluster.wait_connected()
            restarts_partial += victim is not cluster.master and victim.syncs().partial >= 1
    cluster.converged(deadline_secs=30)
    cluster.ledger.assert_none_doubled(cluster.master.offset)
    assert full == [1, 1], "each replica attached by one full sync, under five writers"
    assert [replica.syncs().full for replica in cluster.replicas] == [0, 0], "all later syncs were partial"
    assert restarts_partial == sum(1 for number in range(KILLS) if number % 3)


@pytest.mark.timeout(180)
def test_kills_while_segments_are_sealed_merged_and_checkpointed_lose_and_double_nothing(
    cluster: Cluster,
) -> None:
    small = {"segment_rows": 64, "segment_rows_max": 1024, "merge_dead_fraction": 0.1}
    often = {"checkpoint_bytes": 65536, "checkpoint_interval_secs": 0.5, "journal_file_bytes": 65536}
    cluster.start(replicas=2, index=small, storage=often)
    chance = random.Random(12)
    with cluster.readers(), cluster.load() as load:
        for number in range(KILLS // 2):
            load.wait_sent(chance.randrange(50, 250))
            [cluster.master, *cluster.replicas][number % 3].restart(kill=True)
            cluster.wait_connected()
    for node in (cluster.master, *cluster.replicas):
        wait_until(lambda node=node: few_large_segments(node), f"{node.name} has sealed and merged", 40)
    cluster.converged(deadline_secs=30)
    cluster.ledger.assert_offsets_differ()


def few_large_segments(node: Node) -> bool:
    """Has every collection segments, and none of them so many that merges are due?"""
    status = [node.get(f"/collections/{name}")["indexing_status"] for name in COLLECTIONS]
    return all(0 < row["segments"] < 12 and row["growing_vectors"] < 64 for row in status)


@pytest.mark.timeout(120)
def test_cuts_and_kills_with_a_tiny_window_end_equal_by_full_syncs_with_a_reason(cluster: Cluster) -> None:
    cluster.start(replicas=2, proxied=True, replication={"log_size": 20})
    with cluster.load() as load:
        for link, replica in zip(cluster.links, cluster.replicas, strict=True):
            link.refuse()
            load.wait_sent(60)
            replica.restart(kill=True)
            link.heal()
            wait_until(lambda node=replica: node.syncs().full >= 1, f"{replica.name} synced fully")
    cluster.converged()
    assert "outside_window" in cluster.master.log()
    assert all("outside_window" in replica.log() for replica in cluster.replicas)
