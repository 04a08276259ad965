"""Crash and recovery: kill -9, torn tails, damage, full disks, orderly ends."""

from __future__ import annotations

import random
import signal
import socket
import subprocess

import orjson
import pytest

from tests.cluster.harness import Cluster, Node, NotStarted, vector_path, wait_until
from tests.cluster.harness.node import COMMAND, clean_environment, newest_journal, written_bytes
from tests.cluster.harness.tmpfs import mounted_tmpfs, room_bytes

KILLS = 50
MIB = 1 << 20


@pytest.mark.timeout(240)
def test_killed_at_any_moment_under_load_it_holds_all_that_was_acknowledged(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=0, storage={"checkpoint_bytes": MIB, "journal_file_bytes": MIB})
    moment = random.Random(5)
    with cluster.load() as load:
        for _ in range(KILLS):
            load.wait_sent(moment.randrange(1, 60))
            cluster.master.restart(kill=True)
    cluster.ledger.assert_holds(cluster.master)
    cluster.ledger.assert_none_doubled(cluster.master.offset)


def test_a_torn_tail_is_cut_and_reported(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(50)
    master = cluster.master
    for vector_id in ("first", "last"):
        master.post("/collections/alpha/vectors", {"vectors": [{"id": vector_id, "vector": [1.0] * 8}]})
    offset = master.offset
    master.kill()
    journal = newest_journal(master)
    master.corrupt(journal, written_bytes(journal) - 5)
    master.start()
    assert master.offset == offset - 1
    assert master.request("GET", vector_path("alpha", "first")).status == 200
    assert master.request("GET", vector_path("alpha", "last")).status == 404
    assert journal.name in master.log()
    master.post("/collections/alpha/vectors", {"vectors": [{"id": "again", "vector": [1.0] * 8}]})
    master.restart(kill=True)
    assert master.request("GET", vector_path("alpha", "again")).status == 200


def test_damage_before_a_later_mark_stops_the_start_with_a_sentence(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(200)
    cluster.master.kill()
    journal = newest_journal(cluster.master)
    cluster.master.corrupt(journal, written_bytes(journal) // 2)
    with pytest.raises(NotStarted) as stopped:
        cluster.master.start()
    said = str(stopped.value)
    assert cluster.master.exit_code() not in (0, None)
    assert journal.name in said
    assert "Traceback" not in said


def test_damage_on_a_replica_is_moved_aside_and_synced_anew(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(200)
    cluster.converged()
    replica.kill()
    journal = newest_journal(replica)
    replica.corrupt(journal, written_bytes(journal) // 2)
    replica.start()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1


def test_a_full_disk_refuses_writes_serves_reads_and_needs_no_restart(cluster: Cluster) -> None:
    node = cluster.master_node(
        "master", storage={"journal_file_bytes": 2 * MIB, "journal_bytes_max": 8 * MIB}
    )
    cluster.master = node
    with mounted_tmpfs(node.data_directory, 16 * MIB):
        node.start()
        cluster.ledger.created("alpha", node.post("/collections", {"name": "alpha", "dimension": 8}))
        cluster.write(50)
        filler = node.data_directory / "filler"
        filler.write_bytes(bytes(room_bytes(node.data_directory) - 64 * 1024))
        refused = fill_until_refused(node)
        assert refused["error_type"] == "insufficient_storage"
        assert node.get("/collections/alpha/vectors?limit=1")["vectors"]
        offset = node.offset
        filler.unlink()
        wait_until(lambda: try_write(node) == 200, "writes are taken again when there is room")
        assert node.offset > offset
        node.restart(kill=True)
        assert node.request("GET", vector_path("alpha", "filling")).status == 200
        node.end()


def try_write(node: Node) -> int:
    row = {"id": "filling", "vector": [1.0] * 8, "payload": {"text": "x" * 50_000}}
    return node.request("POST", "/collections/alpha/vectors", {"vectors": [row]}).status


def fill_until_refused(node: Node) -> dict[str, object]:
    """Overwrite one row until the journal has no room; the refusal."""
    row = {"id": "filling", "vector": [1.0] * 8, "payload": {"text": "x" * 50_000}}
    for _ in range(1000):
        answer = node.request("POST", "/collections/alpha/vectors", {"vectors": [row]})
        if answer.status != 200:
            assert answer.status == 507, answer
            body: dict[str, object] = answer.body
            return body
    raise AssertionError("never refused")


def test_sigterm_finishes_what_runs_gives_replicas_the_rest_and_exits_0(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    with cluster.load() as load:
        load.wait_sent(100)
        code = cluster.master.stop()
    assert code == 0
    offset = max(number for _, number in cluster.ledger.offsets)
    wait_until(lambda: replica.offset >= offset, "the replica got the rest")
    cluster.ledger.assert_holds(replica)


def test_sigterm_takes_no_new_requests_and_answers_the_one_that_runs(cluster: Cluster) -> None:
    cluster.start(replicas=0, collections=("alpha",))
    master = cluster.master
    body = orjson.dumps({"vectors": [{"id": f"r{number}", "vector": [1.0] * 8} for number in range(5000)]})
    head = "POST /collections/alpha/vectors HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((master.host, master.port), timeout=10) as peer:
        peer.sendall(head.encode() + body[: len(body) // 2])
        master.get("/health")  # the request above was accepted before this one
        master.signal(signal.SIGTERM)
        wait_until(lambda: refuses_connections(master), "no new requests")
        peer.sendall(body[len(body) // 2 :])
        assert peer.recv(64).startswith(b"HTTP/1.1 200")
    assert master.wait_ended() == 0
    master.start()
    assert master.get("/collections/alpha")["vector_count"] == 5000


def refuses_connections(node: Node) -> bool:
    try:
        socket.create_connection((node.host, node.port), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_second_process_on_the_same_data_directory_exits_2(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    second = cluster.node("second", {"storage": {"data_dir": str(cluster.master.data_directory)}})
    second.data_directory = cluster.master.data_directory
    with pytest.raises(NotStarted):
        second.start()
    assert second.exit_code() == 2
    assert str(cluster.master.data_directory) in second.log()
    assert "Traceback" not in second.log()


def test_check_verifies_a_data_directory_offline(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(100)
    cluster.master.stop()
    assert check(cluster.master).returncode == 0
    files = [path for path in cluster.master.data_directory.rglob("*") if path.suffix in {".npy", ".bson"}]
    journal = newest_journal(cluster.master)
    damaged = files[0] if files else journal
    cluster.master.corrupt(damaged, written_bytes(damaged) // 2)
    found = check(cluster.master)
    assert found.returncode != 0
    assert damaged.name in found.stdout + found.stderr


def check(node: Node) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "check", str(node.data_directory)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
        timeout=30,
    )


def test_a_killed_builder_is_replaced_and_the_server_unharmed(cluster: Cluster) -> None:
    cluster.start(replicas=0, collections=(), index={"segment_rows": 8192, "ef_construction": 800})
    master = cluster.master
    cluster.bulk(rows=9000)
    [builder] = wait_until(master.builders, "a graph is being built")
    builder.kill()
    query = {"vector": [1.0] * 64, "limit": 10}
    assert len(master.post("/collections/bulk/search", query)["results"]) == 10
    wait_until(
        lambda: master.get("/collections/bulk")["indexing_status"]["graphs"] == 1, "another one did it", 40
    )


def test_sigterm_while_a_graph_is_built_leaves_no_process_behind(cluster: Cluster) -> None:
    cluster.start(replicas=0, collections=(), index={"segment_rows": 8192, "ef_construction": 800})
    cluster.bulk(rows=9000)
    [builder] = wait_until(cluster.master.builders, "a graph is being built")
    assert cluster.master.stop() == 0
    wait_until(lambda: not builder.is_running() or builder.status() == "zombie", "the builder is gone", 5)
    cluster.master.start()
    path = "/collections/bulk"
    assert cluster.master.get(path)["vector_count"] == 9000
    wait_until(
        lambda: cluster.master.get(path)["indexing_status"]["graphs"] == 1, "the graph is built after all", 40
    )
