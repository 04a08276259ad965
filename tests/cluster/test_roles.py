"""Live changes of role: promotion, following, the return of an old master, foreign histories."""

from __future__ import annotations

import random
import shutil

import pytest

from tests.cluster.harness import (
    Cluster,
    Node,
    replication_address,
    same_digest,
    stays_true,
    vector_path,
    wait_until,
)
from tests.cluster.harness.node import newest_journal, written_bytes


def follow(node: Node, master: Node, **more: object) -> None:
    node.configure(role="replica", master_address=replication_address(master), **more)


def write_one(master: Node, vector_id: str) -> None:
    row = {"id": vector_id, "vector": [1.0] * 8, "payload": {"by": master.name}}
    master.post("/collections/alpha/vectors", {"vectors": [row]})


def holds(node: Node, vector_id: str) -> bool:
    return node.request("GET", vector_path("alpha", vector_id)).status == 200


def test_a_promoted_replica_keeps_all_data_and_its_sibling_follows_it_partially(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    old, [chosen, sibling] = cluster.master, cluster.replicas
    cluster.write(200)
    cluster.converged()
    old.stop()
    cluster.promote(chosen)
    assert chosen.role == "master"
    follow(sibling, chosen)
    cluster.wait_connected()
    cluster.write(100, seed=2)
    cluster.converged()
    assert (sibling.syncs().full, sibling.syncs().partial) == (0, 1), "since it follows its new master"
    assert chosen.status()["epoch"] == sibling.status()["epoch"]


def test_a_sibling_that_slept_through_two_promotions_syncs_partially(cluster: Cluster) -> None:
    cluster.start(replicas=3)
    first, [second, third, sleeper] = cluster.master, list(cluster.replicas)
    cluster.write(100)
    cluster.converged()
    sleeper.stop()
    cluster.replicas.remove(sleeper)
    for old, chosen, others in [(first, second, [third]), (second, third, [])]:
        old.stop()
        cluster.promote(chosen)
        for other in others:
            follow(other, chosen)
        cluster.write(50, seed=chosen.port)
        if others:
            cluster.converged()
    sleeper.settings["replication"]["master_address"] = replication_address(third)
    sleeper.start()
    cluster.replicas = [sleeper]
    cluster.wait_connected()
    cluster.converged()
    assert (sleeper.syncs().full, sleeper.syncs().partial) == (0, 1)


def test_an_old_master_that_missed_nothing_joins_partially(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    old, [chosen] = cluster.master, cluster.replicas
    cluster.write(100)
    cluster.converged()
    old.stop()
    cluster.promote(chosen)
    cluster.write(50, seed=2)
    old.start()
    follow(old, chosen)
    cluster.wait_connected(old)
    cluster.converged(old)
    assert (old.syncs().full, old.syncs().partial) == (0, 1)


def test_an_old_master_saves_its_extra_writes_aside_before_it_joins(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    old, [chosen], [link] = cluster.master, cluster.replicas, cluster.links
    cluster.write(100)
    cluster.converged()
    link.refuse()
    for number in range(5):
        write_one(old, f"only-on-old-{number}")
    cluster.promote(chosen)
    cluster.write(30, seed=2)
    follow(old, chosen)
    cluster.wait_connected(old)
    cluster.converged(old)
    assert not holds(old, "only-on-old-0")
    saved = [path for path in old.data_directory.rglob("diverged/**/*") if path.is_file()]
    assert any(b"only-on-old-4" in path.read_bytes() for path in saved), saved
    assert "diverged" in old.log()
    assert old.syncs().full + old.syncs().partial == 1, "fully, or from a state of its own before the fork"
    assert [file["operations"] for file in old.status()["diverged"]] == [5]


def test_a_branch_overwritten_by_as_many_operations_is_never_continued_silently(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    old, [chosen], [link] = cluster.master, cluster.replicas, cluster.links
    cluster.write(40)
    cluster.converged()
    link.refuse()
    cluster.promote(chosen)
    for number in range(7):
        write_one(old, f"branch-{number}")
        write_one(chosen, f"trunk-{number}")
    assert old.offset == chosen.offset
    follow(old, chosen)
    cluster.wait_connected(old)
    same_digest(chosen, old)
    assert holds(old, "trunk-6")
    assert not holds(old, "branch-6")
    assert [file["operations"] for file in old.status()["diverged"]] == [7]


def test_a_replica_ahead_of_a_master_that_lost_its_tail_saves_what_is_more_and_joins(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=1)
    master, [replica] = cluster.master, cluster.replicas
    for vector_id in ("first", "lost"):
        write_one(master, vector_id)
    same_digest(master, replica)
    replica.freeze()
    master.kill()
    journal = newest_journal(master)
    master.corrupt(journal, written_bytes(journal) - 5)
    master.start()
    write_one(master, "instead")
    assert master.offset == 5, "as many operations as the replica has"
    replica.thaw()
    same_digest(master, replica)
    assert holds(replica, "instead") and not holds(replica, "lost")
    assert [file["operations"] for file in replica.status()["diverged"]] == [1]


def test_a_master_restored_from_a_backup_is_refused_by_a_replica_with_newer_writes_until_forced(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=1)
    master, [replica] = cluster.master, cluster.replicas
    cluster.write(30)
    master.stop()
    backup = cluster.directory / "backup"
    shutil.copytree(master.data_directory, backup)
    master.start()
    cluster.write(30, seed=2)
    cluster.converged()
    digests = replica.digests()
    master.kill()
    master.forget_data()
    shutil.copytree(backup, master.data_directory)
    master.start()
    wait_until(lambda: replica.syncs().refusals, "the replica refuses to go back")
    stays_true(lambda: replica.digests() == digests, "the replica's data is untouched", 0.5)
    follow(replica, master, force=True)
    same_digest(master, replica)


def test_a_foreign_master_is_refused_until_an_operator_forces_it(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(60)
    cluster.converged()
    foreign = cluster.start_master("foreign")
    foreign.post("/collections", {"name": "other", "dimension": 2})
    digests = replica.digests()
    follow(replica, foreign)
    wait_until(
        lambda: replica.syncs().refusals.get("foreign_history"), "the refusal is counted on the replica"
    )
    stays_true(lambda: replica.digests() == digests, "the replica's data is untouched", 1.0)
    assert "foreign_history" in replica.log()
    follow(replica, foreign, force=True)
    cluster.wait_connected(replica)
    same_digest(foreign, replica)


def test_a_reborn_empty_master_does_not_wipe_its_replicas(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    [replica] = cluster.replicas
    cluster.write(60)
    cluster.converged()
    digests = replica.digests()
    cluster.master.kill()
    cluster.master.forget_data()
    cluster.master.start()
    wait_until(
        lambda: replica.syncs().refusals.get("foreign_history"), "the refusal is counted on the replica"
    )
    stays_true(lambda: replica.digests() == digests, "the replica's data is untouched", 1.0)
    follow(replica, cluster.master, force=True)
    same_digest(cluster.master, replica)
    assert replica.collections() == []


def test_a_standalone_with_data_is_not_wiped_by_becoming_a_replica(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    node = cluster.node("node", {}).start()
    node.post("/collections", {"name": "mine", "dimension": 2})
    follow(node, cluster.master)
    wait_until(lambda: node.syncs().refusals.get("foreign_history"), "the refusal is counted")
    assert node.collections() == ["mine"]


def test_a_node_that_is_told_to_follow_itself_keeps_its_data_and_never_links(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    cluster.write(20)
    itself = cluster.proxy_to(cluster.master).address
    cluster.master.request("POST", "/replication/configure", {"role": "replica", "master_address": itself})
    stays_true(lambda: not cluster.master.connected, "no link to itself comes up", 1.0)
    cluster.ledger.assert_holds(cluster.master)


def test_roles_made_by_rest_survive_a_restart(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    old, [chosen, sibling] = cluster.master, cluster.replicas
    cluster.write(50)
    cluster.converged()
    old.stop()
    cluster.promote(chosen)
    follow(sibling, chosen)
    cluster.wait_connected()
    chosen.restart(kill=True)
    sibling.restart(kill=True)
    assert (chosen.role, sibling.role) == ("master", "replica")
    cluster.wait_connected()
    cluster.write(20, seed=3)
    cluster.converged()


def test_a_new_replica_of_a_master_promoted_without_writes_can_follow_it(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    old, [chosen] = cluster.master, cluster.replicas
    cluster.write(30)
    cluster.converged()
    cluster.start_replica()
    cluster.wait_connected()
    old.stop()
    cluster.replicas[1].stop()
    cluster.promote(chosen)
    cluster.replicas = []
    for seed in (2, 3):
        newcomer = cluster.start_replica()
        cluster.wait_connected()
        cluster.write(20, seed=seed)
        cluster.converged()
        assert (newcomer.syncs().full, newcomer.syncs().partial) == (1, 0)


@pytest.mark.timeout(120)
def test_mastership_goes_round_with_and_without_extra_writes_and_all_agree_again(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    chance = random.Random(3)
    with cluster.readers():
        for turn in range(6):
            old, [chosen, other] = cluster.master, chance.sample(cluster.replicas, 2)
            with cluster.load(writers=3, seed=10 + turn) as load:
                load.wait_sent(60)
            clean = turn % 2 == 0
            if clean:
                cluster.converged()
            else:
                other.freeze()
                cluster.write(20, seed=100 + turn)
            old.kill()
            cluster.promote(chosen)
            other.thaw()
            if not clean:
                cluster.ledger.forget(chosen)  # what only the old master had is given up by this promotion
            cluster.replicas = [other, old]
            follow(other, chosen)
            old.start()
            if chance.random() < 0.5:
                write_one(old, f"extra-{turn}")
            cluster.write(20, seed=200 + turn)
            follow(old, chosen)
            cluster.wait_connected()
            cluster.converged()
    epochs = {node.status()["epoch"] for node in (cluster.master, *cluster.replicas)}
    assert epochs == {7}
    assert "foreign" not in "".join(node.log() for node in cluster.nodes)
