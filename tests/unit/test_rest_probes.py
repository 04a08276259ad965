"""Probes: the status is the answer, by GET and HEAD, in each role and in each trouble."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer.node import Deposed, NodeFailure

PROBES = ("/primary", "/replica", "/readiness", "/liveness")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def answers(served: Served) -> dict[str, str | None]:
    """Path → reason, None for yes; status and body agree."""
    found: dict[str, str | None] = {}
    for path in PROBES:
        status, body = served.request("GET", path)
        assert status == (200 if body["ok"] else 503)
        assert body["ok"] == (body["reason"] is None)
        assert (body["role"], body["offset"]) == (served.role, served.offset)
        found[path] = body["reason"]
    return found


def says(primary: str | None, replica: str | None, readiness: str | None = None) -> dict[str, str | None]:
    return {"/primary": primary, "/replica": replica, "/readiness": readiness, "/liveness": None}


def test_a_standalone_node_takes_writes(cluster: Cluster) -> None:
    assert answers(cluster.start("node")) == says(None, "not_a_replica")


def test_a_master_and_its_replica_change_their_answers_with_a_promotion(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master, **{"replication.bind_address": "127.0.0.1:0"})
    master.create()
    replica.follows(master)
    assert answers(master) == says(None, "not_a_replica")
    assert answers(replica) == says("read_only_replica", None)
    master.stop()
    assert replica.configure(role="master")[0] == 200
    assert answers(replica) == says(None, "not_a_replica")


def test_a_replica_without_data_is_not_ready(cluster: Cluster) -> None:
    master = cluster.master()
    address = master.address
    master.stop()
    replica = cluster.start("replica", {"replication.role": "replica", "replication.master_address": address})
    assert answers(replica) == says("read_only_replica", "syncing", "syncing")


def test_a_replica_is_fresh_enough_until_its_data_is_too_old(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    assert replica.request("GET", "/replica?max_lag_ms=0")[1]["lag_ms"] == 0
    master.stop()
    wait_until(lambda: replica.request("GET", "/replica?max_lag_ms=100")[0] == 503)
    status, body = replica.request("GET", "/replica?max_lag_ms=100")
    assert (status, body["reason"]) == (503, "too_stale")
    assert body["lag_ms"] > 100
    assert replica.request("GET", "/replica?max_lag_ms=3600000")[0] == 200
    assert answers(replica) == says("read_only_replica", None)


def test_a_node_that_keeps_itself_from_writing_says_why(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.server.database.node.fence("switchover")
    assert answers(node)["/primary"] == "switchover"
    node.server.database.node.fence(None)
    assert answers(node)["/primary"] is None
    node.server.database.node.deposed = Deposed("n2", "m2", 2)
    assert answers(node)["/primary"] == "deposed"


def test_a_node_that_has_failed_says_no_to_everything(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.server.database.node.failure = NodeFailure("the disk is gone")
    found = {path: node.request("GET", path) for path in PROBES}
    node.server.database.node.failure = None
    assert {path: body["reason"] for path, (_, body) in found.items()} == {
        "/primary": "failed",
        "/replica": "not_a_replica",
        "/readiness": "failed",
        "/liveness": "failed",
    }


@pytest.mark.parametrize("path", [*PROBES, "/health"])
def test_head_answers_as_get_without_a_body_and_keeps_the_connection(cluster: Cluster, path: str) -> None:
    node = cluster.start("node")
    connection = HTTPConnection(*node.server.rest_address, timeout=10)
    try:
        for _ in range(2):
            connection.request("HEAD", path)
            response = connection.getresponse()
            assert response.read() == b""
            assert response.status == node.request("GET", path)[0]
            assert not response.will_close
    finally:
        connection.close()


def test_a_limit_that_makes_no_sense_is_refused(cluster: Cluster) -> None:
    node = cluster.start("node")
    for query in ("max_lag_ms=soon", "max_lag_ms=-1", "max_lags=1"):
        assert node.request("GET", f"/replica?{query}")[0] == 400
