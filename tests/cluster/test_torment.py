"""Kill everything in turn, cut everything between, while everybody writes; then compare."""

from __future__ import annotations

import random

import pytest

from tests.cluster.harness import Cluster, wait_until

KILLS = 20


@pytest.mark.timeout(180)
def test_twenty_kills_in_turn_and_links_cut_in_mid_frame_lose_and_double_nothing(cluster: Cluster) -> None:
    cluster.start(replicas=0, storage={"checkpoint_bytes": 4 << 20})
    chance = random.Random(11)
    with cluster.load() as load:
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
