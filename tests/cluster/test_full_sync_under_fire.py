"""Full sync under fire: cut, flipped, killed, throttled, without room; never half a data set."""

from __future__ import annotations

import time

import pytest

from tests.cluster.harness import Cluster, Node, Proxy, replication_address, wait_until
from tests.cluster.harness.cluster import BULK_DIMENSION, BULK_ROWS
from tests.cluster.harness.tmpfs import mounted_tmpfs, room_bytes

CUT_POINTS = 100
FLIP_POINTS = 50
LOAD_BYTES = BULK_ROWS * BULK_DIMENSION * 4
SMALL_CHUNKS = {"replication": {"snapshot_chunk_bytes": 65536}}


def complete_or_refused(replica: Node, vector_count: int) -> bool:
    """A replica in the middle of its first sync serves everything or says 503, nothing between."""
    answer = replica.request("GET", "/collections/bulk")
    return answer.status == 503 or (answer.status == 200 and answer.body["vector_count"] == vector_count)


def syncing(replica: Node) -> bool:
    """Is a full sync under way, with some of it received?"""
    return bool((replica.status().get("sync") or {}).get("bytes_received"))


def transfer_bytes(cluster: Cluster, link: Proxy) -> int:
    """What one full sync of the present data sends down, measured on a replica that is given up again."""
    measured = cluster.replica_node(link.address, "measured").start()
    cluster.wait_connected(measured)
    size = link.bytes["down"]
    measured.stop()
    return size


def attach_under_fire(cluster: Cluster, link: Proxy, faults: int) -> Node:
    """A new replica, up once so many faults were met; it served everything or nothing all the time."""
    quick = {"reconnect_interval_secs": 0.02, "replica_timeout_secs": 1}
    replica = cluster.replica_node(link.address, replication=quick).start()
    cluster.replicas.append(replica)

    def met() -> bool:
        assert complete_or_refused(replica, BULK_ROWS)
        return link.faults_met >= faults

    wait_until(met, f"{faults} faults were met", 50)
    cluster.wait_connected()
    cluster.converged()
    return replica


@pytest.mark.timeout(120)
def test_cut_at_a_hundred_points_spread_over_the_transfer_then_it_succeeds(cluster: Cluster) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    size = transfer_bytes(cluster, link)
    link.cut_after(*(number * size // CUT_POINTS for number in range(CUT_POINTS)))
    replica = attach_under_fire(cluster, link, CUT_POINTS)
    assert replica.running and "Traceback" not in replica.log() + cluster.master.log()
    assert (replica.syncs().full, cluster.master.syncs().full) == (1, 2), "and one for the measure"


@pytest.mark.timeout(120)
def test_a_flipped_bit_anywhere_is_refused_by_checksum_and_asked_for_anew(cluster: Cluster) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    size = transfer_bytes(cluster, link)
    link.corrupt(*(number * size // FLIP_POINTS for number in range(FLIP_POINTS)))
    replica = attach_under_fire(cluster, link, FLIP_POINTS)
    assert (replica.syncs().full, cluster.master.syncs().full) == (1, 2), "and one for the measure"
    assert replica.log().count("reason=frame_corrupt") + replica.log().count("reason=frame_too_large") >= 3


def test_old_data_of_the_same_history_is_served_until_the_new_is_complete(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"log_size": 10, "snapshot_chunk_bytes": 65536})
    [replica], [link] = cluster.replicas, cluster.links
    cluster.write(20)
    cluster.converged()
    before = replica.digests()
    link.refuse()
    cluster.bulk()
    cluster.write(20, seed=2)
    link.corrupt(LOAD_BYTES // 2)
    link.bytes_per_sec = LOAD_BYTES / 2
    link.accept()
    wait_until(lambda: syncing(replica), "the full sync is under way")
    assert replica.digests() == before
    wait_until(lambda: link.faults_met, "a bit was flipped")
    assert replica.digests() == before
    link.heal()
    cluster.converged()
    assert replica.syncs().full == 2


def test_a_replica_killed_while_receiving_starts_clean(cluster: Cluster) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = LOAD_BYTES / 2
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    wait_until(lambda: syncing(replica), "the full sync is under way")
    replica.kill()
    link.heal()
    replica.start()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1


def test_a_master_killed_while_sending_leaves_the_replica_its_data(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication={"log_size": 10, "snapshot_chunk_bytes": 65536})
    [replica], [link] = cluster.replicas, cluster.links
    cluster.write(20)
    cluster.converged()
    before = replica.digests()
    link.refuse()
    cluster.bulk()
    cluster.write(20, seed=2)
    link.heal()
    link.bytes_per_sec = LOAD_BYTES / 2
    wait_until(lambda: syncing(replica), "the full sync is under way")
    cluster.master.kill()
    assert replica.digests() == before
    link.heal()
    cluster.master.start()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 2


def test_writes_go_on_during_the_transfer_and_are_not_slowed_much(cluster: Cluster) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    without = slowest_but_one_percent(cluster, 300, seed=2)
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = LOAD_BYTES / 2
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    wait_until(lambda: syncing(replica), "the full sync is under way")
    during = slowest_but_one_percent(cluster, 300, seed=3)
    assert during < 3 * without + 0.025
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1


def test_one_slow_and_one_dropped_replica_do_not_hinder_the_others(cluster: Cluster) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    for number in range(4):
        cluster.bulk(f"bulk{number}" if number else "bulk")
    before = cluster.master.anonymous_bytes()
    links = [cluster.proxy_to(cluster.master) for _ in range(3)]
    slow, dropped, _ = links
    slow.bytes_per_sec = LOAD_BYTES / 4
    dropped.cut_after(LOAD_BYTES)
    cluster.replicas = [cluster.replica_node(link.address, f"r{link.port}").start() for link in links]
    cluster.wait_connected(cluster.replicas[2])
    cluster.converged(cluster.replicas[2])
    wait_until(lambda: dropped.faults_met, "the second one was cut")
    cluster.converged(cluster.replicas[1])
    assert syncing(cluster.replicas[0])
    assert cluster.master.anonymous_bytes() - before < 4 * LOAD_BYTES + (24 << 20)
    slow.heal()
    cluster.converged()
    assert [replica.syncs().full for replica in cluster.replicas] == [1, 1, 1]


def test_a_full_disk_on_the_replica_keeps_old_data_and_is_tried_again(cluster: Cluster) -> None:
    cluster.start(replicas=0, collections=("alpha",), replication={"log_size": 10})
    cluster.write(20)
    replica = cluster.replica_node(
        replication_address(cluster.master),
        storage={"journal_file_bytes": 1 << 20, "journal_bytes_max": 4 << 20},
    )
    with mounted_tmpfs(replica.data_directory, 16 << 20):
        cluster.replicas.append(replica.start())
        cluster.wait_connected()
        cluster.converged()
        before = replica.digests()
        filler = replica.data_directory / "filler"
        replica.stop()
        filler.write_bytes(bytes(8 << 20))
        for number in range(8):
            cluster.bulk(f"bulk{number}")
        replica.start()
        wait_until(lambda: "space" in replica.log().lower(), "the full disk is told")
        assert replica.digests() == before
        assert cluster.master.get("/health")["status"]
        filler.unlink()
        cluster.wait_connected()
        cluster.converged()
        replica.end()


def test_a_full_disk_on_the_master_does_not_keep_a_replica_from_its_full_sync(cluster: Cluster) -> None:
    small = {"journal_file_bytes": 2 << 20, "journal_bytes_max": 8 << 20}
    master = cluster.master = cluster.master_node("master", storage=small)
    with mounted_tmpfs(master.data_directory, 24 << 20):
        master.start()
        cluster.bulk(rows=12_000)
        filler = master.data_directory / "filler"
        filler.write_bytes(bytes(room_bytes(master.data_directory) - 4096))
        before = room_bytes(master.data_directory)
        replica = cluster.start_replica()
        cluster.wait_connected()
        assert replica.digests() == master.digests()
        assert master.request("GET", "/collections/bulk").body["vector_count"] == 12_000
        assert room_bytes(master.data_directory) == before < 1 << 20
        filler.unlink()
        cluster.bulk("more", rows=100)
        cluster.converged()
        assert (replica.syncs().full, replica.syncs().partial) == (1, 0)
        master.end()


@pytest.mark.parametrize("frozen", ["master", "replica"])
def test_a_freeze_in_the_middle_of_the_transfer_is_outlived(cluster: Cluster, frozen: str) -> None:
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = LOAD_BYTES / 8
    replica = cluster.replica_node(link.address).start()
    cluster.replicas.append(replica)
    wait_until(lambda: syncing(replica), "the full sync is under way")
    node = cluster.master if frozen == "master" else replica
    node.freeze()
    tried = link.connections
    if frozen == "replica":
        wait_until(lambda: cluster.master.stats()["connected_replicas"] == 0, "the master drops it")
    else:
        link.cut()
        wait_until(lambda: link.connections > tried + 1, "the replica tries again, and again")
    node.thaw()
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1


def slowest_but_one_percent(cluster: Cluster, count: int, seed: int) -> float:
    """The 99th percentile of the time of single writes, in seconds."""
    writer = cluster.load(writers=1, seed=seed).writers[0]
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        writer.upsert()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[int(count * 0.99) - 1]
