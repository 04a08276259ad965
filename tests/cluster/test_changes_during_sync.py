"""What changes while a full sync is under way: data, role, master; nothing is lost, nothing is half."""

from __future__ import annotations

import pytest

from tests.cluster.harness import Cluster, Node, Proxy, replication_address, wait_until
from tests.cluster.harness.cluster import BULK_ROWS
from tests.cluster.test_full_sync_under_fire import LOAD_BYTES, SMALL_CHUNKS, complete_or_refused, syncing


@pytest.fixture
def receiving(cluster: Cluster) -> tuple[Node, Proxy]:
    """A new replica in the middle of its first full sync, behind a slow link."""
    cluster.start(replicas=0, **SMALL_CHUNKS)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = LOAD_BYTES / 2
    replica = cluster.replica_node(link.address, **SMALL_CHUNKS).start()
    cluster.replicas.append(replica)
    wait_until(lambda: syncing(replica), "the full sync is under way")
    return replica, link


def test_a_collection_that_is_dropped_and_made_anew_during_the_transfer_is_the_new_one(
    cluster: Cluster, receiving: tuple[Node, Proxy]
) -> None:
    replica, link = receiving
    cluster.master.delete("/collections/bulk")
    cluster.master.post("/collections", {"name": "bulk", "dimension": 1})
    cluster.master.post("/collections/bulk/vectors", {"vectors": [{"id": "new", "vector": [1.5]}]})
    assert complete_or_refused(replica, BULK_ROWS)
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    assert replica.vectors("bulk") == {"new": ((1.5,), None)}
    assert replica.syncs().full == 1


def test_collections_come_and_go_while_replicas_attach(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    with cluster.load() as load:
        for writer in load.writers[:2]:
            writer.step = writer.turn_over  # type: ignore[method-assign]
        load.wait_sent(60)
        for _ in range(2):
            cluster.start_replica()
            load.wait_sent(60)
    cluster.converged()
    assert [replica.syncs().full for replica in cluster.replicas] == [1, 1]


def test_a_replica_without_data_cannot_be_promoted_during_its_first_sync(
    cluster: Cluster, receiving: tuple[Node, Proxy]
) -> None:
    replica, link = receiving
    answer = replica.request("POST", "/replication/configure", {"role": "master"})
    assert (answer.status, answer.body["error_type"]) == (409, "not_ready")
    assert replica.role == "replica"
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1, "the sync was not disturbed"


def test_a_promotion_during_a_later_full_sync_gives_it_up_and_keeps_the_old_data(cluster: Cluster) -> None:
    small = {"log_size": 10, "snapshot_chunk_bytes": 65536}
    cluster.start(replicas=1, proxied=True, replication=small)
    [replica], [link] = cluster.replicas, cluster.links
    cluster.write(20)
    cluster.converged()
    digests = replica.digests()
    link.refuse()
    cluster.bulk()
    cluster.write(20, seed=2)
    link.bytes_per_sec = LOAD_BYTES / 2
    link.accept()
    wait_until(lambda: syncing(replica), "the full sync is under way")
    cluster.promote(replica)
    assert replica.digests() == digests
    replica.restart(kill=True)
    assert (replica.role, replica.digests()) == ("master", digests)


def test_a_replica_pointed_elsewhere_during_a_full_sync_gets_all_from_there(
    cluster: Cluster, receiving: tuple[Node, Proxy]
) -> None:
    replica, _ = receiving
    sibling = cluster.start_replica(**SMALL_CHUNKS)
    cluster.wait_connected(sibling)
    replica.configure(role="replica", master_address=replication_address(sibling))
    cluster.wait_connected()
    cluster.converged()
    assert (replica.syncs().full, cluster.master.syncs().full) == (1, 1), "the slow one was given up"


def test_a_replica_stopped_during_a_full_sync_ends_well_and_starts_clean(
    cluster: Cluster, receiving: tuple[Node, Proxy]
) -> None:
    replica, link = receiving
    assert replica.stop() == 0
    link.heal()
    replica.start()
    cluster.wait_connected()
    cluster.converged()
    assert replica.syncs().full == 1


def test_a_replica_killed_between_its_full_sync_and_its_first_ack_resumes_partially(
    cluster: Cluster, receiving: tuple[Node, Proxy]
) -> None:
    replica, link = receiving
    link.swallow("up")
    link.bytes_per_sec = None
    wait_until(lambda: "full_sync_installed" in replica.log(), "it has everything")
    assert cluster.master.syncs().full == 0, "the master does not know"
    replica.kill()
    link.heal()
    replica.start()
    cluster.wait_connected()
    cluster.converged()
    assert (replica.syncs().full, replica.syncs().partial) == (0, 1)


def test_writes_beyond_the_window_during_a_slow_transfer_do_not_make_it_begin_again(
    cluster: Cluster,
) -> None:
    small = {"log_size": 10, "log_bytes_max": 65536, "snapshot_chunk_bytes": 65536}
    often = {"journal_file_bytes": 1 << 20, "checkpoint_bytes": 1 << 16}
    cluster.start(replicas=0, replication=small, storage=often)
    cluster.bulk()
    link = cluster.proxy_to(cluster.master)
    link.bytes_per_sec = LOAD_BYTES / 2
    with cluster.load() as load:
        replica = cluster.replica_node(link.address).start()
        cluster.replicas.append(replica)
        cluster.wait_connected()
        load.wait_sent(20)
        link.heal()
    cluster.converged()
    assert replica.syncs().reasons == {"empty_replica": 1}
