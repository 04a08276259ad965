"""Partial sync: what was missed, and nothing else, by counters."""

from __future__ import annotations

import random

import pytest

from tests.cluster.harness import Cluster, same_digest, wait_until

CUTS = 6


def test_links_cut_again_and_again_under_load_only_ever_sync_partially(cluster: Cluster) -> None:
    cluster.start(replicas=2, proxied=True)
    with cluster.readers(), cluster.load() as load:
        for number in range(1, CUTS + 1):
            load.wait_sent(60)
            for link in cluster.links:
                link.cut()
            for replica in cluster.replicas:
                wait_until(lambda node=replica, goal=number: node.syncs().partial >= goal, "it is back")
    cluster.converged()
    assert [replica.syncs().full for replica in cluster.replicas] == [1, 1], "the first ones"


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


def test_an_operation_over_the_replicas_limit_arrives_by_a_full_sync(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(20)
    replica = cluster.start_replica(limits={"frame_bytes_max": 128 << 10})
    cluster.wait_connected()
    cluster.bulk()
    cluster.write(20, seed=2)
    cluster.converged()
    assert "operation_too_large" in cluster.master.log()
    assert replica.syncs().full >= 2


@pytest.mark.parametrize("fsync", ["everysec", "never"])
def test_without_fsync_a_killed_master_and_its_replicas_agree_again(cluster: Cluster, fsync: str) -> None:
    cluster.start(replicas=2, storage={"fsync": fsync})
    for _ in range(3):
        with cluster.load() as load:
            load.wait_sent(100)
            load.pause_secs = 0.0
            cluster.master.kill()
            load.stop()
        cluster.master.start()
        cluster.wait_connected()
        same_digest(cluster.master, *cluster.replicas)
        cluster.ledger.forget(cluster.master)
