"""Handshake and first sync."""

from __future__ import annotations

import socket
import struct
import zlib

import bson
import pytest

from tests.cluster.harness import (
    Cluster,
    replication_address,
    same_digest,
    vector_of,
    vector_path,
    wait_until,
)

GARBAGE = {
    "an HTTP request": b"GET /replication/status HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(range(256)) * 16,
    "a frame that announces 4 GiB": struct.pack(">II", 0xFFFFFFFF, 0) + b"x" * 64,
    "a frame with a wrong checksum": struct.pack(">II", 12, 1) + b"\x08\x00\x00\x00xxxx",
    "an empty frame": struct.pack(">II", 4, 0),
    "half a frame": struct.pack(">II", 1000, 0) + b"x",
}
MEMORY_MOVES_BYTES_MAX = 16 << 20


def test_a_listener_that_never_answers_is_given_up_and_tried_again(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    link = cluster.proxy_to(cluster.master)
    link.swallow()
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    wait_until(lambda: replica.status()["link"]["state"] == "handshake", "the replica shows where it stands")
    wait_until(lambda: link.connections >= 2, "the replica tries again after its handshake timed out")
    assert not replica.connected
    assert "timeout" in replica.log().lower() or "timed out" in replica.log().lower()
    link.heal()
    cluster.wait_connected()
    cluster.converged()


def test_told_to_replicate_the_role_is_replica_at_once_the_link_comes_later(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(50)
    link = cluster.proxy_to(cluster.master)
    link.refuse()
    node = cluster.node("node", {}).start()
    assert node.configure(role="replica", master_address=link.address)["success"]
    assert node.role == "replica"
    assert not node.connected
    link.heal()
    cluster.wait_connected(node)
    cluster.converged(node)


def test_after_the_first_sync_vectors_payloads_and_searches_are_the_masters(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(300)
    replica = cluster.start_replica()
    cluster.wait_connected()
    cluster.converged()
    assert (replica.syncs().full, replica.syncs().partial) == (1, 0)
    query = {"vector": vector_of(77), "limit": 20, "with_vector": True}
    for name in cluster.ledger.collections():
        path = f"/collections/{name}/search"
        assert replica.post(path, query) == cluster.master.post(path, query)


def test_every_kind_of_write_reaches_a_linked_replica_without_being_asked_for(cluster: Cluster) -> None:
    cluster.start(replicas=1, collections=())
    master, replica = cluster.master, cluster.replicas[0]
    rows = [
        {"id": f"v{number}", "vector": [1.0, float(number)], "payload": {"n": number}} for number in range(9)
    ]
    steps = [
        lambda: master.post("/collections", {"name": "c", "dimension": 2, "metric": "euclidean"}),
        lambda: master.post("/collections/c/vectors", {"vectors": rows[:1]}),
        lambda: master.post("/collections/c/vectors", {"vectors": rows}),
        lambda: master.put(vector_path("c", "v3"), {"payload": {"n": "three"}}),
        lambda: master.put(vector_path("c", "v4"), {"payload": None}),
        lambda: master.put(vector_path("c", "v5"), {"vector": [5.5, 5.5]}),
        lambda: master.delete(vector_path("c", "v6")),
        lambda: master.post("/collections/c/vectors/delete", {"ids": ["v7", "missing"]}),
        lambda: master.post(
            "/collections/c/vectors/delete", {"filter": {"must": [{"key": "n", "match": {"value": 8}}]}}
        ),
        lambda: master.delete("/collections/c"),
        lambda: master.post("/collections", {"name": "c", "dimension": 3}),
        lambda: master.post("/collections/c/vectors", {"vectors": [{"id": "/ ü", "vector": [1, 2, 3]}]}),
    ]
    before, synced = master.offset, replica.syncs()
    for step in steps:
        step()
        same_digest(master, replica)
    assert replica.offset == before + len(steps)
    assert replica.syncs() == synced, "no sync was needed"
    assert replica.get(vector_path("c", "/ ü"))["vector"] == [1.0, 2.0, 3.0]


def test_three_replicas_attach_at_once_while_five_writers_write(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    with cluster.readers(), cluster.load() as load:
        load.wait_sent(200)
        replicas = [
            cluster.replica_node(replication_address(cluster.master), f"replica{n}") for n in range(3)
        ]
        cluster.replicas = [replica.start(ready=False) for replica in replicas]
        for replica in replicas:
            replica.wait_ready()
        cluster.wait_connected()
        load.wait_sent(200)
    cluster.converged()
    assert [replica.syncs().full for replica in replicas] == [1, 1, 1]
    assert cluster.master.syncs().full == 3


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_on_the_replication_port_hurts_nobody(quiet_cluster: Cluster, kind: str) -> None:
    master = quiet_cluster.master
    before = master.anonymous_bytes()
    for _ in range(5):
        assert answered_and_dropped(master_address(quiet_cluster), GARBAGE[kind])
    assert master.anonymous_bytes() - before < MEMORY_MOVES_BYTES_MAX
    assert master.get("/health")["status"]
    assert all(replica.connected for replica in quiet_cluster.replicas)


@pytest.mark.parametrize("offset", [-1, 2**62, 2**63 - 1, "7", None, 1.5])
def test_a_hello_with_an_impossible_offset_is_refused(quiet_cluster: Cluster, offset: object) -> None:
    hello = {"m": "hello", "protocol": 1, "node_id": "0" * 32, "offset": offset, "history": [], "path": []}
    body = bson.encode(hello)
    frame = struct.pack(">II", len(body) + 4, zlib.crc32(body)) + body
    assert answered_and_dropped(master_address(quiet_cluster), frame)
    assert all(replica.connected for replica in quiet_cluster.replicas)


def master_address(cluster: Cluster) -> tuple[str, int]:
    host, port = replication_address(cluster.master).rsplit(":", 1)
    return host, int(port)


def answered_and_dropped(address: tuple[str, int], data: bytes) -> bool:
    """Send `data`, then read until the other side ends the connection; False if it never does."""
    with socket.create_connection(address, timeout=8) as peer:
        try:
            peer.sendall(data)
            while peer.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
    return True
