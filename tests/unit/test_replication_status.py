"""The documents of ``/replication/...`` of whole nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.served import Cluster, cluster_at, wait_until
from vectorizer.loop_delay import LoopDelay
from vectorizer.replication.progress import SyncProgress
from vectorizer.replication.status import sync_document
from vectorizer.service_notification import notify


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def test_a_standalone_node(cluster: Cluster) -> None:
    node = cluster.start("node")
    status = node.status()
    assert (status["role"], status["enabled"], status["replication_address"]) == ("Standalone", False, None)
    assert status["link"] is None
    assert status["fsync"] == "always"
    assert status["settings"]["log_size"] == {"value": 1_000_000, "source": "default", "where": "default"}
    for path, kind in [("stats", "replication_disabled"), ("replicas", "not_a_master")]:
        code, answer = node.request("GET", f"/replication/{path}")
        assert (code, answer["error_type"]) == (400, kind)


def test_a_master_and_its_replica_tell_the_same(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    master.put(1)
    replica.follows(master)
    wait_until(lambda: master.status()["replicas"][0]["offset"] == 2, "the ack")
    of_master, of_replica = master.status(), replica.status()
    assert of_master["replication_address"] == master.address
    assert (of_master["offset"], of_replica["offset"]) == (2, 2)
    assert of_master["replication_id"] == of_replica["replication_id"]
    assert of_master["history"] == of_replica["history"]
    assert of_master["replicas"][0]["id"] == of_replica["node_id"]
    assert of_master["journal"]["bytes"] > 0
    assert of_master["log"]["operations"] == 2
    code, answer = master.request("GET", "/replication/replicas")
    assert (code, answer["connected_replicas"], answer["count"]) == (200, 1, 1)
    assert master.request("GET", "/replication/stats")[1]["role"] == "master"
    assert replica.request("GET", "/replication/stats")[1]["role"] == "replica"
    assert replica.request("GET", "/replication/replicas")[0] == 400
    wait_until(lambda: master.status()["event_loop"]["max_ms"] > 0, "a sample")


def keys_of(document: object) -> set[str]:
    """All keys of a document, at any depth; what stands under a reason or a setting's name is no key."""
    found: set[str] = set()
    if isinstance(document, dict):
        for key, value in document.items():
            found |= {key} | (
                set().union(*map(keys_of, value.values())) if key == "settings" else keys_of(value)
            )
    elif isinstance(document, list):
        for item in document:
            found |= keys_of(item)
    return found


def test_each_field_is_defined_in_the_document(cluster: Cluster) -> None:
    defined = set(
        re.findall(r"`([a-z0-9_.]+)`", Path("docs/REST.md").read_text().partition("### What status")[2])
    )
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    assert master.configure(role="replica", master_address=master.address)[0] == 200, "it refuses itself"
    wait_until(lambda: replica.status()["counters"]["disconnects"], "a reason")
    for node in (master, replica):
        document = node.status()
        for counted in ("full_sync_reasons", "refusals", "disconnects"):
            document["counters"][counted] = {}
        assert keys_of(document) - defined == set()
    sync = SyncProgress(5, "empty_replica", 0.0)
    assert set(sync_document(sync, 1.0) or {}) - defined == set()
    handover = {
        "id",
        "step",
        "target",
        "target_durable_offset",
        "held_ms",
        "node_id",
        "operations",
        "complete",
    }
    assert handover - defined == set()


def test_a_replica_that_is_gone_is_forgotten_though_nothing_else_happens(cluster: Cluster) -> None:
    master = cluster.master(**{"replication.replica_forget_secs": 0.3})
    replica = cluster.replica(master)
    wait_until(lambda: master.request("GET", "/replication/replicas")[1]["count"] == 1, "the replica")
    replica.stop()
    wait_until(lambda: master.request("GET", "/replication/replicas")[1]["count"] == 0, "forgetting", 5)


def test_a_loop_that_was_never_measured() -> None:
    assert LoopDelay().document() == {"p99_ms": 0.0, "recent_max_ms": 0.0, "max_ms": 0.0}


def test_nobody_is_told_outside_a_service(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert capfd.readouterr().err == ""
