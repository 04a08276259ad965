"""Promote and follow over REST."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.served import Cluster, cluster_at, wait_until
from vectorizer.replication.states import LinkState


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def test_promote_and_follow_are_two_words_for_configure(cluster: Cluster) -> None:
    old = cluster.master("old")
    old.create()
    old.put(*range(5))
    new = cluster.replica(old, "new", **{"replication.bind_address": "127.0.0.1:0"})
    new.follows(old)
    epoch = new.status()["epoch"]
    code, answer = new.request("POST", "/replication/promote")
    assert (code, answer["role"], answer["restart_required"]) == (200, "Master", False), answer
    assert new.status()["epoch"] == epoch + 1
    code, answer = old.request("POST", "/replication/follow", {"master_address": new.address})
    assert (code, answer["role"]) == (200, "Replica"), answer
    new.put(6)
    old.follows(new)
    assert old.counters.full_syncs == 0


def test_promote_says_where_it_would_listen(cluster: Cluster) -> None:
    alone = cluster.start("alone")
    code, answer = alone.request("POST", "/replication/promote")
    assert (code, answer["error_type"]) == (400, "validation_error")
    assert "bind_address" in answer["message"]
    code, _ = alone.request("POST", "/replication/promote", {"bind_address": "127.0.0.1:0"})
    assert code == 200
    assert alone.role == "master"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("promote", {"role": "replica"}),
        ("promote", {"force": 1}),
        ("follow", {}),
        ("follow", None),
        ("follow", {"master_address": "nowhere"}),
    ],
)
def test_what_is_not_understood_is_told(cluster: Cluster, path: str, body: object) -> None:
    alone = cluster.start("alone")
    code, answer = alone.request("POST", f"/replication/{path}", body)
    assert (code, answer["error_type"]) == (400, "validation_error"), answer
    assert alone.role == "standalone"


def test_a_foreign_history_is_followed_by_force(cluster: Cluster) -> None:
    alone = cluster.start("alone")
    alone.create("own")
    master = cluster.master()
    master.create()
    follow = {"master_address": master.address}
    assert alone.request("POST", "/replication/follow", follow)[0] == 200
    wait_until(lambda: alone.link_state is LinkState.REFUSED, "a refusal")
    assert alone.request("POST", "/replication/follow", {**follow, "force": True})[0] == 200
    alone.follows(master)
