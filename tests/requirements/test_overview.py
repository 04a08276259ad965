"""Overview: one master that accepts writes, N read-only replicas, asynchronous, failover by hand."""

from __future__ import annotations

from tests.cluster.harness import Cluster, stays_true, vector_of, wait_until


def test_one_master_node_accepts_writes_and_replicates_to_replicas(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(20)
    quiet_cluster.converged()


def test_n_replica_nodes_are_read_only_and_receive_from_the_master(quiet_cluster: Cluster) -> None:
    row = {"id": "x", "vector": vector_of(1)}
    for replica in quiet_cluster.replicas:
        assert replica.request("POST", "/collections/alpha/vectors", {"vectors": [row]}).status == 403
        assert replica.request("POST", "/collections/alpha/search", {"vector": vector_of(1)}).status == 200


def test_async_replication_does_not_block_the_master(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    replica.freeze()
    cluster.write(50)
    replica.thaw()
    cluster.converged()


def test_manual_failover_a_replica_stays_one_until_it_is_promoted(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(20)
    cluster.converged()
    cluster.master.kill()
    wait_until(lambda: not replica.connected, "the replica misses its master")
    stays_true(lambda: replica.role == "replica", "the replica is a replica", 1.0)
    cluster.promote(replica)
    cluster.write(20, seed=2)
    cluster.ledger.assert_holds(replica)
