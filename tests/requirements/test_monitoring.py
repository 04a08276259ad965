"""Monitoring: the key metrics of master and replica, and the health checks."""

from __future__ import annotations

import subprocess

import pytest

from tests.cluster.harness import Cluster, stays_true, wait_until


def metrics(status: dict[str, object]) -> dict[str, object]:
    """The metrics `replication.*` as JSON keys of /replication/status."""
    found = status["metrics"]
    assert isinstance(found, dict)
    return found


def test_master_metrics(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10)
    found = metrics(quiet_cluster.master.status())
    assert found["replication.master_offset"] == quiet_cluster.master.offset
    assert found["replication.replicas_connected"] == 2
    assert 0 < int(str(found["replication.log_size"])) <= quiet_cluster.master.offset


def test_replica_metrics(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(10, seed=2)
    quiet_cluster.converged()
    found = metrics(quiet_cluster.replicas[0].status())
    assert found["replication.replica_offset"] == quiet_cluster.master.offset
    assert found["replication.lag_operations"] == 0
    assert float(str(found["replication.lag_ms"])) < 1000
    assert found["replication.connected"] in (1, True)


def test_the_time_since_the_last_heartbeat_stays_short_while_the_link_is_up(quiet_cluster: Cluster) -> None:
    [replica, _] = quiet_cluster.replicas
    stays_true(lambda: replica.stats()["heartbeat_age_ms"] < 2000, "heartbeats come every 200 ms", 1.0)


def test_the_connection_status_turns_when_the_master_is_gone(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.master.kill()
    wait_until(lambda: not metrics(replica.status())["replication.connected"], "the metric turns")
    first = replica.stats()["lag_ms"]
    wait_until(lambda: replica.stats()["lag_ms"] > first, "the lag grows while the link is down")


@pytest.mark.needs("curl")
def test_health_checks_with_curl(quiet_cluster: Cluster) -> None:
    [replica, _] = quiet_cluster.replicas
    for url in (
        f"http://127.0.0.1:{quiet_cluster.master.port}/replication/status",
        f"http://127.0.0.1:{replica.port}/replication/stats",
    ):
        done = subprocess.run(["curl", "-fsS", url], capture_output=True, text=True, check=True, timeout=10)
        assert '"role"' in done.stdout
