"""The manual failover by script, with real processes: refused, planned, done, interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, Node, replication_address, wait_until
from tests.cluster.harness.node import clean_environment
from tests.scripts.shell import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.start(replicas=2)
        made.write(40)
        made.converged()
        yield made
    finally:
        made.close()


def url(node: Node) -> str:
    return f"http://127.0.0.1:{node.port}"


def urls(cluster: Cluster) -> list[str]:
    return [url(replica) for replica in cluster.replicas]


def lose_master(cluster: Cluster) -> Node:
    """Kill the master; wait until its replicas have noticed."""
    lost = cluster.master
    lost.kill()
    for replica in cluster.replicas:
        wait_until(lambda replica=replica: not replica.connected, f"{replica.name} has lost its link")
    return lost


def promoted(cluster: Cluster, replica: Node) -> None:
    """The harness's own book-keeping of who is who."""
    cluster.replicas.remove(replica)
    cluster.master = replica


def test_status_shows_roles_offsets_and_links(cluster: Cluster) -> None:
    told = run("status", url(cluster.master), *urls(cluster))
    assert told.returncode == 0, told.stdout + told.stderr
    master, *replicas = told.stdout.splitlines()[1:]
    assert "Master" in master
    assert "2 replicas connected" in master
    assert str(cluster.master.offset) in master
    for line in replicas:
        assert "Replica" in line
        assert replication_address(cluster.master) in line
    lose_master(cluster)
    told = run("status", url(cluster.master), *urls(cluster))
    assert told.returncode == 1
    assert "does not answer" in told.stdout


def test_a_node_that_wants_a_key_is_not_called_dead(cluster: Cluster) -> None:
    words = [sys.executable, "-m", "vectorizer", "keys", "add", "--role", "admin"]
    made = subprocess.run(
        [*words, "--data-dir", str(cluster.replicas[0].data_directory)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=30,
        check=True,
    )
    guarded, other = urls(cluster)
    wait_until(lambda: run("status", guarded).returncode == 1, "the key to count")
    key = "answers, but not to this key"
    assert key in run("status", guarded).stdout
    for words in (
        ("promote", "--yes", guarded),
        ("follow", "--yes", guarded, other),
        ("switchover", "--yes", guarded),
        ("failover", "--yes", other, guarded),
    ):
        told = run(*words)
        assert (told.returncode, key in told.stderr) == (1, True), told.stderr
    assert run("status", guarded, environment={"VECTORIZER_API_KEY": made.stdout.strip()}).returncode == 0


def test_nothing_is_promoted_while_the_old_master_lives(cluster: Cluster) -> None:
    refused = run("promote", "--yes", urls(cluster)[0])
    assert refused.returncode == 1
    assert "still has its link to the master" in refused.stderr
    planned = run("failover", "--dry-run", *urls(cluster))
    assert planned.returncode == 0, planned.stderr
    assert "is alive: it hands over" in planned.stdout
    assert [node.role for node in cluster.nodes] == ["master", "replica", "replica"]


def test_a_living_master_hands_over_instead(cluster: Cluster) -> None:
    master, (first, second) = cluster.master, cluster.replicas
    moved = run("failover", "--yes", "--promote", url(second), *urls(cluster))
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert [node.role for node in cluster.nodes] == ["replica", "replica", "master"]
    promoted(cluster, second)
    cluster.replicas.append(master)
    cluster.write(10, seed=5)
    cluster.converged()
    assert (master.syncs().full, first.syncs().full) == (0, 0)


def test_an_old_master_that_comes_back_joins(cluster: Cluster) -> None:
    lost = lose_master(cluster)
    words = ("failover", "--yes", "--old-master", url(lost))
    done = run(*words, *urls(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"scripts/follow {url(lost)}" in done.stdout
    [new] = [node for node in cluster.replicas if node.role == "master"]
    both = urls(cluster)
    promoted(cluster, new)
    back = threading.Timer(1.0, lost.start)
    back.start()
    joined = run(*words, "--wait", "30", *both)
    back.join()
    assert joined.returncode == 0, joined.stdout + joined.stderr
    assert "The old master is back" in joined.stdout
    cluster.replicas.append(lost)
    cluster.write(10, seed=6)
    cluster.converged()
    assert lost.syncs().full == 0


def test_an_old_master_that_only_lost_its_links_is_noticed(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.start(replicas=2, proxied=True)
        for link in cluster.links:
            link.close()
        for replica in cluster.replicas:
            wait_until(lambda replica=replica: not replica.connected, f"{replica.name} has lost its link")
        refused = run("failover", "--yes", *urls(cluster))
        assert refused.returncode == 1
        assert "still answers" in refused.stderr
        assert [node.role for node in cluster.nodes] == ["master", "replica", "replica"]
    finally:
        cluster.close()


def test_a_dry_run_tells_the_plan_and_changes_nothing(cluster: Cluster) -> None:
    lose_master(cluster)
    planned = run("failover", "--dry-run", *urls(cluster))
    assert planned.returncode == 0, planned.stderr
    assert f"promote {urls(cluster)[0]}" in planned.stdout
    assert f"make {urls(cluster)[1]} follow it" in planned.stdout
    assert [replica.role for replica in cluster.replicas] == ["replica", "replica"]


def test_without_a_terminal_somebody_must_have_said_yes(cluster: Cluster) -> None:
    lose_master(cluster)
    refused = run("failover", *urls(cluster))
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert [replica.role for replica in cluster.replicas] == ["replica", "replica"]


def test_the_most_advanced_replica_becomes_master_and_the_other_follows_partially(cluster: Cluster) -> None:
    behind, ahead = cluster.replicas
    behind.stop()
    cluster.write(20, seed=2)
    wait_until(lambda: ahead.offset == cluster.master.offset, "one replica has everything")
    old_master = lose_master_of(cluster, ahead)
    behind.start()
    done = run("failover", "--yes", *urls(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Most advanced: {url(ahead)}" in done.stdout
    promoted(cluster, ahead)
    assert (ahead.role, behind.role) == ("master", "replica")
    assert behind.syncs().full == 0
    cluster.write(20, seed=3)
    cluster.converged()
    # The old master comes back, and is made to follow.
    old_master.start()
    followed = run("follow", "--yes", url(old_master), replication_address(ahead))
    assert followed.returncode == 0, followed.stdout + followed.stderr
    cluster.replicas.append(old_master)
    assert old_master.syncs().full == 0
    cluster.converged()


def lose_master_of(cluster: Cluster, replica: Node) -> Node:
    lost = cluster.master
    lost.kill()
    wait_until(lambda: not replica.connected, f"{replica.name} has lost its link")
    return lost


def test_an_interrupted_failover_goes_on_from_where_it_was(cluster: Cluster) -> None:
    lose_master(cluster)
    first, second = cluster.replicas
    by_hand = run("promote", "--yes", url(second))
    assert by_hand.returncode == 0, by_hand.stderr
    done = run("failover", "--yes", *urls(cluster))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted already" in done.stdout
    promoted(cluster, second)
    assert (first.role, second.role) == ("replica", "master")
    epoch = second.status()["epoch"]
    again = run("failover", "--yes", *urls(cluster), url(second))
    assert again.returncode == 0, again.stdout + again.stderr
    assert second.status()["epoch"] == epoch
    cluster.write(10, seed=4)
    cluster.converged()


def test_a_replica_that_does_not_answer_stops_it_until_it_is_left_out(cluster: Cluster) -> None:
    lose_master(cluster)
    first, second = cluster.replicas
    second.kill()
    refused = run("failover", "--yes", *urls(cluster))
    assert refused.returncode == 1
    assert f"{url(second)} does not answer" in refused.stderr
    assert first.role == "replica"
    done = run("failover", "--yes", url(first))
    assert done.returncode == 0, done.stdout + done.stderr
    assert first.role == "master"


def test_a_foreign_history_is_followed_only_by_force(cluster: Cluster) -> None:
    stranger = cluster.start_master("stranger")
    stranger.post("/collections", {"name": "own", "dimension": 2})
    words = ("follow", "--yes", url(stranger), replication_address(cluster.master))
    refused = run(*words)
    assert refused.returncode == 1
    assert "foreign_history" in refused.stderr
    assert stranger.get("/collections/own")["name"] == "own"
    forced = run("follow", "--force", *words[1:])
    assert forced.returncode == 0, forced.stdout + forced.stderr
    cluster.replicas.append(stranger)
    cluster.converged()


def test_a_planned_change_of_master_loses_nothing_and_everybody_follows(cluster: Cluster) -> None:
    master, (first, second) = cluster.master, cluster.replicas
    planned = run("switchover", "--dry-run", url(master))
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("0 operations behind") == 2
    assert [node.role for node in cluster.nodes] == ["master", "replica", "replica"]
    moved = run("switchover", "--yes", "--to", url(second), url(master))
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert [node.role for node in cluster.nodes] == ["replica", "replica", "master"]
    assert (master.syncs().full, first.syncs().full) == (0, 0)
    promoted(cluster, second)
    cluster.replicas.append(master)
    cluster.write(10, seed=5)
    cluster.converged()
    refused = run("switchover", "--yes", url(master))
    assert refused.returncode == 1
    assert "is no master" in refused.stderr


def test_follow_by_a_dry_run_or_twice_changes_nothing(cluster: Cluster) -> None:
    replica = cluster.replicas[0]
    before = replica.status()["counters"]
    for words in (("--dry-run",), ()):
        told = run("follow", *words, url(replica), replication_address(cluster.master))
        assert told.returncode == 0, told.stderr
        assert "follows that master already" in told.stdout
    assert replica.status()["counters"] == before
