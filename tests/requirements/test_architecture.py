"""Architecture: the responsibilities of master and replica nodes."""

from __future__ import annotations

from typing import Any

from tests.cluster.harness import Cluster, Node, same_digest, vector_path, wait_until


def test_the_master_maintains_the_log_of_all_operations(quiet_cluster: Cluster) -> None:
    before = quiet_cluster.master.status()["window"]["last_offset"]
    quiet_cluster.write(10, seed=21)
    assert quiet_cluster.master.status()["window"]["last_offset"] == before + 10


def test_the_master_sends_operations_to_all_connected_replicas(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10, seed=22)
    offset = quiet_cluster.master.offset
    for replica in quiet_cluster.replicas:
        wait_until(lambda node=replica: node.offset == offset, f"{replica.name} has them")


def test_the_master_tracks_replica_offsets_and_lag(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10, seed=23)
    offset = quiet_cluster.master.offset
    for replica in quiet_cluster.replicas:
        row = wait_until(lambda node=replica: row_at(quiet_cluster, node, offset), "the master knows")
        assert (row["lag_operations"], row["lag_ms"]) == (0, 0)


def row_at(cluster: Cluster, replica: Node, offset: int) -> dict[str, Any] | None:
    """The master's row of a replica once it shows `offset`."""
    row = cluster.master.replica_row(replica)
    return row if row and row["offset"] == offset else None


def test_the_master_provides_full_or_partial_sync(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(20)
    replica = cluster.start_replica()
    cluster.wait_connected()
    cluster.converged()
    assert (cluster.master.syncs().full, cluster.master.syncs().partial) == (1, 0)
    replica.restart()
    cluster.wait_connected()
    assert (cluster.master.syncs().full, cluster.master.syncs().partial) == (1, 1)


def test_a_replica_connects_to_its_master_and_maintains_the_connection(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    link.cut()
    wait_until(lambda: link.connections == 2, "it connects again")
    cluster.wait_connected()
    assert replica.stats()["role"] == "replica"


def test_a_replica_applies_create_collection_insert_update_and_delete(quiet_cluster: Cluster) -> None:
    master, [replica, _] = quiet_cluster.master, quiet_cluster.replicas
    answers = [
        master.post("/collections", {"name": "applied", "dimension": 2}),
        master.post("/collections/applied/vectors", {"vectors": [{"id": "a", "vector": [1, 2]}]}),
        master.put(vector_path("applied", "a"), {"vector": [2, 1], "payload": {"updated": True}}),
    ]
    same_digest(master, replica)
    found = replica.get(vector_path("applied", "a"))
    assert (found["vector"], found["payload"]) == ([2.0, 1.0], {"updated": True})
    answers.append(master.delete(vector_path("applied", "a")))
    answers.append(master.delete("/collections/applied"))
    same_digest(master, replica)
    offsets = [answer["offset"] for answer in answers]
    assert offsets == list(range(offsets[0], offsets[0] + 5))
    assert replica.request("GET", "/collections/applied").status == 404


def test_a_replica_tracks_its_local_offset(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(5, seed=24)
    quiet_cluster.converged()
    for replica in quiet_cluster.replicas:
        assert replica.stats()["replica_offset"] == quiet_cluster.master.offset


def test_a_replica_reconnects_by_itself_when_its_master_returns(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.master.kill()
    wait_until(lambda: not replica.connected, "the link is down")
    cluster.master.start()
    cluster.wait_connected()
