"""Replicas of replicas: the same offsets and history, passed on once they are durable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import socket

from tests.unit.served import Cluster, Served, cluster_at, free_port, replica_settings, wait_until
from vectorizer.replication.states import LinkState

LISTENING = {"replication.bind_address": "127.0.0.1:0"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def chain(cluster: Cluster, **settings: Any) -> tuple[Served, Served, Served]:
    """A master, its replica, and the replica of that one."""
    master = cluster.master(**settings)
    master.create()
    master.put(*range(20))
    middle = cluster.replica(master, "middle", **LISTENING, **settings)
    last = cluster.replica(middle, "last", **settings)
    last.follows(master)
    return master, middle, last


@pytest.mark.parametrize("fsync", ["always", "everysec", "never"])
def test_a_chain_holds_the_same_and_each_node_lists_its_own_replicas(cluster: Cluster, fsync: str) -> None:
    master, middle, last = chain(cluster, **{"storage.fsync": fsync})
    master.put(*range(20, 40))
    last.follows(master)
    for above, below in ((master, middle), (middle, last)):
        code, answer = above.request("GET", "/replication/replicas")
        assert code == 200
        assert [row["id"] for row in answer["replicas"]] == [below.status()["node_id"]]
        assert above.status()["stats"]["connected_replicas"] == 1
    assert last.request("GET", "/replication/replicas")[0] == 400
    assert master.status()["replicas"][0]["replication_address"] == middle.address
    histories = [node.status()["history"] for node in (master, middle, last)]
    assert histories[0] == histories[1] == histories[2]
    assert middle.status()["counters"]["full_syncs"] == 1, "of its own link"


def test_writers_are_sent_to_the_master_from_everywhere(cluster: Cluster) -> None:
    master, middle, last = chain(cluster)
    url = "http://{}:{}".format(*master.server.rest_address)
    for node in (middle, last):
        code, answer = node.upsert([1])
        assert (code, answer["details"]["master"]) == (403, url)


def test_restarts_in_the_middle_and_of_the_master_need_no_full_sync(cluster: Cluster) -> None:
    master, middle, last = chain(cluster)
    address = middle.address
    middle.stop()
    master.put(*range(50, 60))
    middle.values = {**middle.values, "replication.bind_address": address}
    middle.start()
    last.follows(master)
    master.put(77)
    last.follows(master)
    assert (middle.counters.full_syncs, last.counters.full_syncs) == (0, 1)


def test_the_middle_is_promoted_and_its_own_replicas_go_on(cluster: Cluster) -> None:
    master, middle, last = chain(cluster)
    address = middle.address
    assert middle.request("POST", "/replication/promote")[0] == 200
    assert middle.address == address
    middle.put(100, 101)
    last.follows(middle)
    assert last.counters.full_syncs == 1, "the first one"
    assert master.request("POST", "/replication/follow", {"master_address": address})[0] == 200
    middle.put(102)
    master.follows(middle)
    assert last.status()["epoch"] == master.status()["epoch"] == 2
    # Back again: now it is the other way round.
    assert master.server.roles.master is not None, "a replica with an address goes on listening"
    assert last.request("POST", "/replication/follow", {"master_address": master.address})[0] == 200
    middle.put(103)
    last.follows(middle)


def test_data_that_is_replaced_in_the_middle_reaches_the_last(cluster: Cluster) -> None:
    """The middle goes back to a fork; who follows it says hello again."""
    master, middle, last = chain(cluster)
    other = cluster.replica(master, "other", **LISTENING)
    other.follows(master)
    assert middle.server.roles.replica is not None
    middle.server.roles.replica.stop()
    assert middle.request("POST", "/replication/promote")[0] == 200
    middle.put(500, 501)
    middle.put(502)
    last.follows(middle)
    assert other.request("POST", "/replication/promote")[0] == 200
    assert other.request("POST", "/replication/promote")[0] == 200
    for number in range(600, 605):
        other.put(number)
    restart_with_higher_epoch(other, master)
    other.put(700)
    assert middle.request("POST", "/replication/follow", {"master_address": other.address})[0] == 200
    middle.follows(other)
    last.follows(other)
    assert middle.status()["diverged"][0]["operations"] == 2


def restart_with_higher_epoch(node: Served, master: Served) -> None:
    """Two promotions beat one: this node's branch is the newer one."""
    address = f"127.0.0.1:{free_port()}"
    assert node.request("POST", "/replication/follow", {"master_address": address})[0] == 200
    assert node.request("POST", "/replication/promote")[0] == 200
    assert node.status()["epoch"] > master.status()["epoch"] + 1


def test_a_circle_never_closes(cluster: Cluster) -> None:
    master, middle, last = chain(cluster)
    elsewhere = {"bind_address": f"127.0.0.1:{free_port()}"}
    assert last.configure(**elsewhere)[0] == 200
    wait_until(lambda: last.streams, "the last to come back")
    assert middle.request("POST", "/replication/follow", {"master_address": last.address})[0] == 200
    wait_until(lambda: middle.link_state is LinkState.REFUSED, "a refusal")
    assert middle.status()["link"]["last_error"]["reason"] == "cycle"
    assert middle.request("POST", "/replication/follow", {"master_address": master.address})[0] == 200
    master.put(5, 6)
    last.follows(master)


def test_a_replica_whose_address_is_taken_follows_all_the_same(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        values = {**replica_settings(master.address), "replication.bind_address": address}
        replica = cluster.start("replica", values)
        replica.follows(master)
        assert replica.status()["replication_address"] is None
    assert replica.configure(bind_address=f"127.0.0.1:{free_port()}")[0] == 200
    assert replica.status()["replication_address"] is not None
    master.put(1)
    replica.follows(master)
    wait_until(lambda: master.status()["replicas"][0]["replication_address"], "the master to hear of it")


def test_data_ages_along_the_chain(cluster: Cluster) -> None:
    """The middle has lost its master: who follows it knows that its own data is old."""
    master, _, last = chain(cluster)
    wait_until(lambda: last.status()["stats"]["lag_ms"] == 0, "no lag")
    master.stop()
    wait_until(lambda: last.status()["stats"]["lag_ms"] > 300, "the lag to grow")
    assert last.streams
