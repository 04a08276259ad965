"""Failure Handling: the steps of each procedure, in their order."""

from __future__ import annotations

import time

from tests.cluster.harness import Cluster, replication_address, wait_until


def live(cluster: Cluster) -> int:
    count: int = cluster.master.stats()["connected_replicas"]
    return count


def test_replica_disconnect_the_master_detects_the_timeout_and_removes_it(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    silent, _ = cluster.replicas
    row = cluster.master.replica_row(silent)
    silent.freeze()
    began = time.monotonic()
    wait_until(lambda: live(cluster) == 1, "it is removed from the active list", 8)
    assert time.monotonic() - began > 2.0, "not before the timeout of 3 s since its last heartbeat"
    shown = {found["id"]: found["status"] for found in cluster.master.replicas()}
    assert shown[row["id"]] == "Disconnected"
    silent.thaw()
    wait_until(lambda: live(cluster) == 2, "it reconnects by itself")


def test_replica_disconnect_the_timeout_is_thirty_and_the_interval_five_seconds_by_default(
    cluster: Cluster,
) -> None:
    node = cluster.node("node", {})
    node.settings = {}
    settings = node.start().status()["settings"]
    assert settings["replica_timeout_secs"]["value"] == 30
    assert settings["reconnect_interval_secs"]["value"] == 5


def test_replica_disconnect_offset_in_the_log_is_a_partial_sync_else_full(cluster: Cluster) -> None:
    cluster.start(replicas=1, replication={"log_size": 40})
    [replica] = cluster.replicas
    for missed, expected in [(30, (0, 1)), (60, (1, 0))]:
        replica.stop()
        cluster.write(missed, seed=missed)
        replica.start()
        cluster.wait_connected()
        cluster.converged()
        assert (replica.syncs().full, replica.syncs().partial) == expected


def test_master_failure_the_manual_failover_process(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    chosen, other = cluster.replicas
    cluster.write(50)
    cluster.converged()

    # 1. Stop the master node
    assert cluster.master.stop() == 0

    # 2. Promote a replica, then restart it
    answer = chosen.configure(role="master", bind_address=replication_address(chosen))
    assert answer["success"]
    chosen.restart()
    assert chosen.role == "master"

    # 3. Reconfigure the other replicas
    answer = other.configure(role="replica", master_address=replication_address(chosen))
    assert answer["success"]

    cluster.master, cluster.replicas = chosen, [other]
    cluster.wait_connected()
    cluster.write(50, seed=2)
    cluster.converged()
    assert (other.syncs().full, other.syncs().partial) == (0, 1), "since it follows its new master"


def test_master_failure_promotion_needs_no_restart(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(10)
    cluster.converged()
    cluster.master.kill()
    answer = replica.configure(role="master", bind_address=replication_address(replica))
    assert answer["restart_required"] is False
    cluster.master, cluster.replicas = replica, []
    cluster.write(10, seed=2)
    cluster.start_replica()
    cluster.wait_connected()
    cluster.converged()
