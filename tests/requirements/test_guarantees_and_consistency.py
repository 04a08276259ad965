"""Guarantees & Consistency."""

from __future__ import annotations

import time

from tests.cluster.harness import Cluster, stays_true, wait_until

TYPICAL_LAG_SECS_MAX = 0.05


def test_the_master_does_not_wait_for_replica_acknowledgment(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    replica.freeze()
    began = time.monotonic()
    cluster.write(20)
    assert time.monotonic() - began < 1.0, "shorter than the timeout that would drop the replica"
    replica.thaw()
    cluster.converged()


def test_eventual_consistency_typically_within_milliseconds(quiet_cluster: Cluster) -> None:
    [replica, _] = quiet_cluster.replicas
    lags = []
    for number in range(30):
        quiet_cluster.write(1, seed=100 + number)
        offset, began = quiet_cluster.master.offset, time.monotonic()
        wait_until(lambda goal=offset: replica.offset >= goal, "the replica has it", 2.0)
        lags.append(time.monotonic() - began)
    assert sorted(lags)[len(lags) // 2] < TYPICAL_LAG_SECS_MAX


def test_replicas_eventually_reflect_the_masters_state(quiet_cluster: Cluster) -> None:
    with quiet_cluster.load(seed=31) as load:
        load.wait_sent(200)
    quiet_cluster.converged()


def test_operations_are_applied_in_the_same_order_on_all_replicas(quiet_cluster: Cluster) -> None:
    path = "/collections/alpha/vectors"
    for number in range(100):
        row = {"id": "contended", "vector": [1.0] * 8, "payload": {"n": number}}
        answer = quiet_cluster.master.post(path, {"vectors": [row]})
    for replica in quiet_cluster.replicas:
        wait_until(lambda node=replica: node.offset >= answer["offset"], "the replica has all")
        assert replica.get(f"{path}/contended")["payload"] == {"n": 99}
    quiet_cluster.master.delete(f"{path}/contended")


def test_no_strict_consistency_a_replica_that_lags_serves_what_it_has(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    before = replica.digests()
    link.swallow("down")
    cluster.write(10)
    assert replica.digests() == before
    assert replica.digests() != cluster.master.digests()
    link.heal()
    cluster.converged()


def test_crc32_verification_snapshots_with_a_wrong_byte_are_never_installed(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.corrupt(500_000)
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    wait_until(lambda: link.faults_met, "a byte of the snapshot was changed")
    cluster.wait_connected()
    cluster.converged()
    assert link.connections == 2
    assert replica.syncs().full == 1


def test_no_automatic_failover_replicas_without_a_master_stay_read_only(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    cluster.write(10)
    cluster.converged()
    cluster.master.kill()
    for replica in cluster.replicas:
        wait_until(lambda node=replica: not node.connected, "the replica misses its master")

    def all_read_only() -> bool:
        answers = [replica.request("POST", "/collections", {}) for replica in cluster.replicas]
        return {answer.status for answer in answers} == {403}

    stays_true(all_read_only, "replicas are read-only", 1.0)
    cluster.ledger.assert_holds(*cluster.replicas)
