"""Key Features, one test for each line of the list."""

from __future__ import annotations

import socket
import struct
import zlib

import bson

from tests.cluster.harness import Cluster, replication_address, vector_of, wait_until

HEADER_BYTES = 8


def test_tcp_communication_is_a_length_prefixed_binary_protocol(quiet_cluster: Cluster) -> None:
    """u32 big-endian length of what follows, CRC32 of the body, a BSON body (in place of bincode)."""
    host, port = replication_address(quiet_cluster.master).rsplit(":", 1)
    wrong = bson.encode({"m": "nothing"})
    with socket.create_connection((host, int(port)), timeout=5) as peer:
        peer.sendall(struct.pack(">II", len(wrong) + 4, zlib.crc32(wrong)) + wrong)
        answer = b""
        while data := peer.recv(65536):
            answer += data
    length, checksum = struct.unpack(">II", answer[:HEADER_BYTES])
    body = answer[HEADER_BYTES : 4 + length]
    assert zlib.crc32(body) == checksum
    assert "m" in bson.decode(body)


def test_full_sync_transfers_a_snapshot_that_is_verified_by_crc32(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(200)
    link = cluster.proxy_to(cluster.master)
    link.corrupt(2000)
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    cluster.wait_connected()
    cluster.converged()
    assert link.faults_met == 1
    assert link.connections >= 2, "the damaged transfer was given up"
    assert replica.syncs().full == 1


def test_partial_sync_sends_incremental_updates_from_the_offset(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    before = replica.syncs()
    link.refuse()
    cluster.write(30)
    link.heal()
    cluster.converged()
    assert replica.syncs().since(before) == (0, 1)


def test_auto_reconnect_chooses_between_full_and_partial_resync(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"log_size": 50})
    [replica], [link] = cluster.replicas, cluster.links
    for writes, expected in [(20, (0, 1)), (120, (1, 0))]:
        before = replica.syncs()
        link.refuse()
        cluster.write(writes, seed=writes)
        link.heal()
        cluster.converged()
        assert replica.syncs().since(before) == expected


def test_lag_monitoring_tracks_offsets_and_calculates_lag(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    cluster.write(20)
    cluster.converged()
    link.swallow("down")
    cluster.write(20, seed=2)
    row = wait_until(
        lambda: (found := cluster.master.replica_row(replica)) and found["lag_ms"] > 100 and found,
        "the lag is shown",
    )
    assert row["lag_operations"] == cluster.master.offset - row["offset"] == 20
    link.heal()
    cluster.converged()
    wait_until(lambda: cluster.master.replica_row(replica)["lag_operations"] == 0, "the lag is gone")


def test_write_protection_replicas_are_strictly_read_only(quiet_cluster: Cluster) -> None:
    [replica, _] = quiet_cluster.replicas
    before = replica.offset, replica.digests()
    for method, path, document in [
        ("POST", "/collections", {"name": "mine", "dimension": 2}),
        ("DELETE", "/collections/alpha", None),
        ("POST", "/collections/alpha/vectors", {"vectors": [{"id": "x", "vector": vector_of(1)}]}),
        ("PUT", "/collections/alpha/vectors/x", {"payload": None}),
        ("DELETE", "/collections/alpha/vectors/x", None),
        ("POST", "/collections/alpha/vectors/delete", {"ids": ["x"]}),
    ]:
        assert replica.request(method, path, document).body["error_type"] == "read_only_replica"
    assert (replica.offset, replica.digests()) == before


def test_circular_replication_log_keeps_the_newest_operations(cluster: Cluster) -> None:
    cluster.start(replicas=0, replication={"log_size": 30})
    cluster.write(100)
    window = cluster.master.status()["window"]
    assert window["last_offset"] == cluster.master.offset
    assert window["last_offset"] - window["first_offset"] + 1 == 30


def test_the_log_buffers_a_million_operations_by_default(quiet_cluster: Cluster) -> None:
    settings = quiet_cluster.master.status()["settings"]
    assert settings["log_size"]["value"] == 1_000_000


def test_eventual_consistency_is_reached_with_low_latency(quiet_cluster: Cluster) -> None:
    quiet_cluster.write(50, seed=9)
    offset = quiet_cluster.master.offset
    for replica in quiet_cluster.replicas:
        wait_until(lambda node=replica: node.offset >= offset, "the replica has the newest write", 1.0)
    quiet_cluster.converged()
