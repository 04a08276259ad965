"""Two hosts: the cable is pulled, the master moves, clients are sent where they can reach somebody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.harness import Cluster, Node, create_collections, wait_until
from tests.cluster.harness.namespaces import Host, two_hosts

pytestmark = pytest.mark.needs("ip")
REPLICATION_PORT = 7001


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as made:
        yield made


def live_on(host: Host, node: Node) -> Node:
    """Not started yet: the node lives on this host, listens everywhere, and is asked from there."""
    node.prefix = host.prefix
    node.connect = host.connect
    node.settings["server"]["host"] = "0.0.0.0"
    return node


def start(cluster: Cluster, hosts: tuple[Host, Host]) -> tuple[Node, Node]:
    """Master and replica, joined by the master's name."""
    here, there = hosts
    there.know("master.example", here.address)
    bind = {"bind_address": f"0.0.0.0:{REPLICATION_PORT}"}
    cluster.master = live_on(here, cluster.master_node("master", replication=bind)).start()
    create_collections(cluster.master, cluster.ledger, ["alpha"])
    replica = cluster.replica_node(f"master.example:{REPLICATION_PORT}", replication=bind)
    cluster.replicas.append(live_on(there, replica).start())
    cluster.wait_connected()
    return cluster.master, replica


def test_nodes_tell_addresses_that_others_can_reach(cluster: Cluster, hosts: tuple[Host, Host]) -> None:
    master, replica = start(cluster, hosts)
    cluster.write(20)
    cluster.converged()
    [row] = master.replicas()
    assert (row["host"], row["port"]) == ("10.77.0.2", REPLICATION_PORT)
    assert row["rest_address"] == f"10.77.0.2:{replica.port}"
    refused = replica.request("DELETE", "/collections/alpha")
    assert refused.headers["x-vectorizer-master"] == f"http://master.example:{master.port}"


def test_a_pulled_cable_is_noticed_on_both_sides_and_resumed_from_partially(
    cluster: Cluster, hosts: tuple[Host, Host]
) -> None:
    master, replica = start(cluster, hosts)
    cluster.write(20)
    cluster.converged()
    hosts[0].pull_cable()
    wait_until(lambda: not replica.connected, "the replica misses the master")
    wait_until(lambda: master.stats()["connected_replicas"] == 0, "the master drops the replica")
    cluster.write(50, seed=2)
    hosts[0].plug_cable()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1 and replica.syncs().partial >= 1


def test_a_master_that_moves_is_found_by_its_name(cluster: Cluster, hosts: tuple[Host, Host]) -> None:
    master, replica = start(cluster, hosts)
    cluster.write(20)
    cluster.converged()
    hosts[0].move("10.77.0.9")
    hosts[1].know("master.example", "10.77.0.9")
    wait_until(lambda: replica.syncs().partial == 1, "the master is found at its new address")
    cluster.write(50, seed=2)
    cluster.converged()
    assert (replica.syncs().full, replica.syncs().partial) == (1, 1)
    assert replica.status()["link"]["master_rest_address"] == f"master.example:{master.port}"
