"""REST API: each answer as the requirements show it, every field with a true value."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster.harness import Cluster, free_port, replication_address, wait_until

STATS_FIELDS = {
    "role": str,
    "lag_ms": (int, float),
    "bytes_sent": int,
    "bytes_received": int,
    "last_sync": int,
    "operations_pending": int,
    "snapshot_size": int,
    "connected_replicas": int,
    "master_offset": int,
    "replica_offset": int,
    "lag_operations": int,
    "total_replicated": int,
}
REPLICA_FIELDS = {
    "id": str,
    "host": str,
    "port": int,
    "status": str,
    "lag_ms": (int, float),
    "last_heartbeat": int,
    "operations_synced": int,
    "address": str,
    "offset": int,
    "lag_operations": int,
}


def assert_fields(document: dict[str, Any], fields: dict[str, Any]) -> None:
    missing = fields.keys() - document.keys()
    assert not missing, f"missing: {sorted(missing)}"
    for name, kind in fields.items():
        assert isinstance(document[name], kind) and not isinstance(document[name], bool), (
            name,
            document[name],
        )


def test_get_replication_status_of_the_master(quiet_cluster: Cluster) -> None:
    master = quiet_cluster.master
    quiet_cluster.write(10)
    quiet_cluster.converged()
    wait_until(lambda: master.stats()["operations_pending"] == 0, "all is acknowledged")
    status = master.status()
    assert (status["role"], status["enabled"]) == ("Master", True)
    assert len(status["replicas"]) == 2
    stats = status["stats"]
    assert_fields(stats, STATS_FIELDS)
    assert stats["role"] == "master"
    assert stats["lag_ms"] == 0
    assert stats["connected_replicas"] == 2
    assert stats["master_offset"] == quiet_cluster.replicas[0].offset
    assert stats["replica_offset"] == 0
    assert stats["lag_operations"] == 0
    assert stats["bytes_sent"] > 0
    assert abs(stats["last_sync"] - time.time()) < 300
    for field in ("replication_id", "epoch", "history", "window", "counters", "settings"):
        assert field in status


def test_get_replication_status_counts_snapshot_and_sync_after_a_full_sync(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(100)
    began = int(time.time())
    replica = cluster.start_replica()
    cluster.wait_connected()
    cluster.converged()
    sent, received = cluster.master.stats(), replica.stats()
    assert sent["snapshot_size"] == received["snapshot_size"] > 0
    assert sent["bytes_sent"] >= received["bytes_received"] > sent["snapshot_size"]
    assert began <= received["last_sync"] <= time.time()


def test_get_replication_status_of_a_replica(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10, seed=2)
    quiet_cluster.converged()
    [replica, _] = quiet_cluster.replicas
    status = replica.status()
    assert (status["role"], status["enabled"]) == ("Replica", True)
    assert_fields(status["stats"], STATS_FIELDS)
    assert status["stats"]["role"] == "replica"
    assert status["stats"]["replica_offset"] == quiet_cluster.master.offset
    assert status["stats"]["bytes_received"] > 0
    assert status["stats"]["connected_replicas"] == 0
    assert status["replication_id"] == quiet_cluster.master.status()["replication_id"]


def test_get_replication_status_is_always_there(cluster: Cluster) -> None:
    status = cluster.node("alone", {}).start().status()
    assert (status["role"], status["enabled"]) == ("Standalone", False)
    assert_fields(status["stats"], STATS_FIELDS)
    assert status["replicas"] == []


def test_configure_replication_of_the_example(cluster: Cluster) -> None:
    node = cluster.node("node", {}).start()
    bind_address = f"127.0.0.1:{free_port()}"
    answer = node.configure(role="master", bind_address=bind_address, heartbeat_interval=5, log_size=1000000)
    assert (answer["success"], answer["role"]) == (True, "Master")
    assert answer["message"].startswith("Replication configured successfully.")
    assert answer["restart_required"] is False
    settings = node.status()["settings"]
    assert settings["heartbeat_interval_secs"]["value"] == 5
    assert settings["bind_address"]["value"] == bind_address
    assert node.role == "master"


def test_configure_keeps_what_is_not_named_and_survives_a_restart(cluster: Cluster) -> None:
    node = cluster.node("node", {}).start()
    node.configure(role="master", bind_address=f"127.0.0.1:{free_port()}", log_size=777)
    node.configure(heartbeat_interval=3)
    node.restart()
    settings = node.status()["settings"]
    assert settings["log_size"]["value"] == 777
    assert settings["heartbeat_interval_secs"]["value"] == 3
    assert settings["log_size"]["source"] == "rest"


@pytest.mark.parametrize(
    "document",
    [
        {"role": "emperor"},
        {"role": "replica"},
        {"role": "master"},
        {"role": "master", "bind_address": "nowhere"},
        {"heartbeat_interval": -1},
        {"log_size": "many"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_configure_refuses_what_makes_no_sense(quiet_alone: Cluster, document: dict[str, Any]) -> None:
    node = quiet_alone.nodes[0]
    before = node.status()["settings"]
    answer = node.request("POST", "/replication/configure", document)
    assert answer.status == 400
    assert answer.body["error_type"] == "validation_error"
    assert node.status()["settings"] == before


@pytest.fixture(scope="module")
def quiet_alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Cluster(tmp_path_factory.mktemp("alone"))
    made.node("alone", {}).start()
    yield made
    made.close()


def test_configure_says_when_the_address_is_in_use_and_stores_nothing(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    node = cluster.node("node", {}).start()
    taken = replication_address(cluster.master)
    answer = node.request("POST", "/replication/configure", {"role": "master", "bind_address": taken})
    assert answer.status == 409
    assert taken in answer.body["message"]
    assert node.role == "standalone"


def test_get_replication_statistics_of_master_and_replica(quiet_cluster: Cluster) -> None:
    for node in (quiet_cluster.master, *quiet_cluster.replicas):
        assert_fields(node.stats(), STATS_FIELDS)


def test_get_replication_statistics_is_400_on_a_standalone(quiet_alone: Cluster) -> None:
    assert quiet_alone.nodes[0].request("GET", "/replication/stats").status == 400


def test_list_connected_replicas(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10, seed=3)
    quiet_cluster.converged()
    offset = quiet_cluster.master.offset
    wait_until(
        lambda: all(row["offset"] == offset for row in quiet_cluster.master.replicas()),
        "all have acknowledged",
    )
    answer = quiet_cluster.master.get("/replication/replicas")
    assert answer["count"] == len(answer["replicas"]) == 2
    assert isinstance(answer["message"], str)
    for row in answer["replicas"]:
        assert_fields(row, REPLICA_FIELDS)
        assert row["host"] == "127.0.0.1"
        assert row["address"] == f"{row['host']}:{row['port']}"
        assert (row["status"], row["lag_ms"], row["lag_operations"]) == ("Connected", 0, 0)
        assert abs(row["last_heartbeat"] - time.time()) < 10
        assert row["operations_synced"] >= 10
    assert {row["id"] for row in answer["replicas"]} == {
        replica.status()["node_id"] for replica in quiet_cluster.replicas
    }


def test_list_connected_replicas_is_for_nodes_that_take_replicas(
    quiet_alone: Cluster, cluster: Cluster
) -> None:
    master = cluster.start(replicas=0).master
    only_follows = cluster.replica_node(replication_address(master), replication={"bind_address": ""}).start()
    for node in (quiet_alone.nodes[0], only_follows):
        assert node.request("GET", "/replication/replicas").status == 400


def test_replica_status_value_syncing(cluster: Cluster) -> None:
    cluster.start(replicas=0, replication={"snapshot_chunk_bytes": 65536})
    cluster.write(100)
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = 20_000
    cluster.replica_node(link.address).start()
    wait_until(lambda: statuses(cluster) == {"Syncing"}, "the row says Syncing")
    link.heal()
    wait_until(lambda: statuses(cluster) == {"Connected"}, "the row says Connected")


def test_replica_status_value_lagging(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"replica_timeout_secs": 10})
    cluster.links[0].swallow("down")
    cluster.write(5)
    wait_until(lambda: statuses(cluster) == {"Lagging"}, "the row says Lagging after 1000 ms")
    cluster.links[0].heal()
    wait_until(lambda: statuses(cluster) == {"Connected"}, "the row says Connected")


def test_replica_status_value_disconnected(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    cluster.replicas[0].kill()
    wait_until(lambda: statuses(cluster) == {"Disconnected"}, "the row says Disconnected")


def statuses(cluster: Cluster) -> set[str]:
    return {row["status"] for row in cluster.master.replicas()}
