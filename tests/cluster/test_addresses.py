"""Addresses: ports chosen by the system, names, IPv6, one identity in two places."""

from __future__ import annotations

import re
import shutil
import socket

import pytest

from tests.cluster.harness import Cluster, Node, wait_until


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def read_back(node: Node) -> None:
    """Learn the port that the system chose from the node's log."""
    found = wait_until(
        lambda: re.search(r" rest=http://127\.0\.0\.1:(\d+)", node.log()), "the port is logged"
    )
    node.port = int(found[1])
    node.wait_ready()


def test_port_0_is_chosen_by_the_system_logged_and_told_to_peers(cluster: Cluster) -> None:
    master = cluster.master_node("master", server={"port": 0}, replication={"bind_address": "127.0.0.1:0"})
    master.start(ready=False)
    read_back(master)
    replica = cluster.replica_node(master.status()["replication_address"], server={"port": 0})
    replica.start(ready=False)
    read_back(replica)
    wait_until(lambda: replica.connected, "the replica is connected")
    [row] = master.replicas()
    assert row["rest_address"] == f"127.0.0.1:{replica.port}"
    answer = replica.request("DELETE", "/collections/x")
    assert answer.headers["x-vectorizer-master"] == f"http://127.0.0.1:{master.port}"


@pytest.mark.parametrize("host", ["localhost", *(["[::1]"] if has_ipv6() else [])])
def test_master_addresses_may_be_names_or_ipv6(cluster: Cluster, host: str) -> None:
    bind_address = f"{host if host.startswith('[') else '127.0.0.1'}:0"
    master = cluster.start_master(replication={"bind_address": bind_address})
    port = master.status()["replication_address"].rpartition(":")[2]
    replica = cluster.replica_node(f"{host}:{port}").start()
    wait_until(lambda: replica.connected, "the replica is connected")


def test_two_processes_with_one_identity_are_reported_and_end_with_one(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [first] = cluster.replicas
    cluster.write(30)
    cluster.converged()
    first.stop()
    twin = cluster.replica_node(first.settings["replication"]["master_address"], "twin")
    shutil.copytree(first.data_directory, twin.data_directory)
    first.start()
    twin.start()
    wait_until(lambda: cluster.master.replicas()[0]["flapping"], "the master reports it")
    assert len(cluster.master.replicas()) == 1
    twin.stop()
    cluster.wait_connected()
    cluster.write(30, seed=2)
    cluster.converged()


def test_a_replica_pointed_at_something_that_is_no_master_says_so_and_goes_on(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    replica = cluster.replica_node(f"127.0.0.1:{cluster.master.port}").start()  # its REST port
    wait_until(lambda: (replica.status()["link"]["last_error"] or {}).get("reason"), "the reason is told")
    assert replica.request("GET", "/health").status == 200
    assert "Traceback" not in replica.log() + cluster.master.log()
