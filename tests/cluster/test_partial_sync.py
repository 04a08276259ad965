"""Partial sync: what was missed, and nothing else, by counters."""

from __future__ import annotations

import random

import pytest

from tests.cluster.harness import Cluster, wait_until

CUTS = 6


def test_links_cut_again_and_again_under_load_only_ever_sync_partially(cluster: Cluster) -> None:
    cluster.start(replicas=2, proxied=True)
    first = [replica.syncs() for replica in cluster.replicas]
    with cluster.load() as load:
        for _ in range(CUTS):
            load.wait_sent(60)
            for link in cluster.links:
                link.cut()
            cluster.wait_connected()
    cluster.converged()
    for replica, before in zip(cluster.replicas, first, strict=True):
        full, partial = replica.syncs().since(before)
        assert full == 0
        assert partial >= CUTS - 1  # two cuts may fall into one handshake


def test_links_cut_in_the_middle_of_a_frame_lose_nothing_and_double_nothing(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [link], [replica] = cluster.links, cluster.replicas
    before = replica.syncs()
    position = random.Random(7)
    with cluster.load() as load:
        for number in range(1, CUTS + 1):
            link.cut_after(position.randrange(600, 20_000))
            link.cut()
            wait_until(lambda goal=number: link.faults_met >= goal, "the stream is cut in mid-frame")
            load.wait_sent(20)
    cluster.converged()
    cluster.ledger.assert_none_doubled(replica.offset)
    full, partial = replica.syncs().since(before)
    assert full == 0
    assert partial >= CUTS


def test_away_for_longer_than_the_window_in_memory_is_partial_from_the_journal(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"log_bytes_max": 65536})
    [link], [replica] = cluster.links, cluster.replicas
    before = replica.syncs()
    link.refuse()
    cluster.write(600)
    link.heal()
    cluster.converged()
    assert replica.syncs().since(before) == (0, 1)


def test_away_for_longer_than_the_window_is_full_and_the_reason_is_told(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"log_size": 10})
    [link], [replica] = cluster.links, cluster.replicas
    cluster.write(5)
    cluster.converged()
    before = replica.syncs()
    link.refuse()
    cluster.write(50)
    link.heal()
    cluster.converged()
    assert replica.syncs().since(before) == (1, 0)
    assert "outside_window" in cluster.master.log()
    assert "outside_window" in replica.log()


@pytest.mark.parametrize("kill", [False, True], ids=["sigterm", "kill9"])
def test_a_restarted_replica_goes_on_from_its_stored_offset(cluster: Cluster, kill: bool) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    with cluster.load() as load:
        load.wait_sent(100)
        replica.restart(kill=kill)
        load.wait_sent(100)
        cluster.wait_connected()
    cluster.converged()
    assert (replica.syncs().full, replica.syncs().partial) == (0, 1)


@pytest.mark.parametrize("kill", [False, True], ids=["sigterm", "kill9"])
def test_after_a_restart_of_the_master_all_replicas_sync_partially(cluster: Cluster, kill: bool) -> None:
    cluster.start(replicas=2)
    before = [replica.syncs() for replica in cluster.replicas]
    with cluster.load() as load:
        load.wait_sent(150)
        cluster.master.restart(kill=kill)
        load.wait_sent(50)
    cluster.converged()
    cluster.ledger.assert_none_doubled(cluster.master.offset)
    for replica, earlier in zip(cluster.replicas, before, strict=True):
        full, partial = replica.syncs().since(earlier)
        assert full == 0
        assert partial >= 1
    assert cluster.master.syncs().full == 0
