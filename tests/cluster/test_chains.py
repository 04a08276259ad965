"""M → R → S: a replica of a replica, when the one in the middle is killed, syncs fully, or is emptied."""

from __future__ import annotations

from tests.cluster.harness import Cluster, Node, replication_address, wait_until

SHORT_WINDOW = {"log_size": 10, "snapshot_chunk_bytes": 65536}


def start_last(cluster: Cluster, **settings: dict[str, object]) -> Node:
    """A replica of the replica that there is."""
    last = cluster.replica_node(replication_address(cluster.replicas[0]), "last", **settings).start()
    cluster.replicas.append(last)
    cluster.wait_connected()
    return last


def test_the_middle_is_killed_under_load_and_both_links_resume_partially(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [middle] = cluster.replicas
    with cluster.readers(), cluster.load() as load:
        last = start_last(cluster)
        for _ in range(2):
            load.wait_sent(60)
            middle.restart(kill=True)
            cluster.wait_connected()
    cluster.converged()
    assert (middle.syncs().full, last.syncs().full) == (0, 1), "the first one of the last"
    assert last.syncs().partial >= 2


def test_what_the_middle_gets_by_a_full_sync_reaches_the_last_too(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True, replication=SHORT_WINDOW)
    [middle], [link] = cluster.replicas, cluster.links
    last = start_last(cluster, replication=SHORT_WINDOW)
    cluster.write(20)
    cluster.converged()
    link.refuse()
    cluster.bulk()
    cluster.write(30, seed=2)
    link.accept()
    cluster.converged()
    assert middle.syncs().reasons["outside_window"] == 1
    assert last.syncs().full == 2, "its history is the same, its position is not in the window any more"


def test_the_last_keeps_its_data_while_the_middle_begins_again_from_nothing(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [middle], [link] = cluster.replicas, cluster.links
    last = start_last(cluster)
    cluster.write(40)
    cluster.converged()
    digests = last.digests()
    middle.kill()
    middle.forget_data()
    link.refuse()
    middle.start()
    wait_until(lambda: last.syncs().refusals.get("not_ready"), "the middle has nothing to give")
    assert last.digests() == digests
    link.heal()
    cluster.wait_connected()
    cluster.converged()
    assert (middle.syncs().full, last.syncs().full) == (1, 1)
