"""Planned switchovers of whole servers in this process, cut after each step; deposed masters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.served import Cluster, Served, cluster_at, wait_until
from vectorizer.errors import insufficient_storage
from vectorizer.replication import messages
from vectorizer.replication.link import ReplicaLink
from vectorizer.replication.master import ReplicaLine
from vectorizer.roles import Roles

LISTENING = {"replication.bind_address": "127.0.0.1:0"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def trio(cluster: Cluster, **settings: Any) -> tuple[Served, Served, Served]:
    """A master and two replicas that listen, with some data."""
    master = cluster.master("one", **settings)
    master.create()
    master.put(*range(20))
    others = [cluster.replica(master, name, **LISTENING, **settings) for name in ("two", "three")]
    for other in others:
        other.follows(master)
    keep_addresses(master)
    return master, others[0], others[1]


def trio_left_waiting(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> tuple[Served, Served, Served]:
    """The same after a switchover to the second, which stopped before its promotion came: the first waits."""
    one, two, three = trio(cluster)
    monkeypatch.setattr("vectorizer.switchover.ANSWER_SECS", 0.5)
    monkeypatch.setattr(ReplicaLine, "promote", lambda line, switchover, offset: two.stop())
    code, answer = switch(one, two, timeout_ms=500)
    assert (code, answer["error_type"]) == (503, "switchover_waiting"), answer
    return one, two, three


def keep_addresses(*nodes: Served) -> None:
    """Their next start finds the port that the system has chosen."""
    for node in nodes:
        node.values = {**node.values, "replication.bind_address": node.address}


def node_id(served: Served) -> str:
    return served.server.database.node.node_id


def switch(master: Served, target: Served | None = None, **more: Any) -> tuple[int, Any]:
    body = {} if target is None else {"target": node_id(target)}
    return master.request("POST", "/replication/switchover", {**body, **more})


def linked(master: Served, replica: Served) -> bool:
    """Whether the master has the replica streaming, and so as a possible target."""
    rows = master.status()["replicas"]
    return any(row["id"] == node_id(replica) and row["phase"] == "streaming" for row in rows)


def writable(*nodes: Served) -> list[Served]:
    return [node for node in nodes if node.server.database.node.writable]


def full_syncs(*nodes: Served) -> int:
    return sum(node.status()["counters"]["full_syncs"] for node in nodes)


@pytest.mark.parametrize("fsync", ["always", "everysec", "never"])
def test_the_mastership_moves_and_the_others_follow(cluster: Cluster, fsync: str) -> None:
    one, two, three = trio(cluster, **{"storage.fsync": fsync})
    code, answer = switch(one, two)
    assert code == 200, answer
    assert answer["master"]["node_id"] == node_id(two)
    assert answer["master"]["replication_address"] == two.address
    assert (answer["offset"], answer["repointed"]) == (two.offset, 1)
    assert writable(one, two, three) == [two]
    two.put(30, 31)
    one.follows(two)
    three.follows(two)
    assert three.status()["link"]["master_address"] == two.address
    assert full_syncs(one, two, three) == 0, "since each took its role"
    assert one.status()["switchover"]["last"]["success"]
    # All of it survives restarts.
    for node in (one, three):
        node.restart()
        node.follows(two)
    wait_until(lambda: linked(two, one), "one to be a possible target")
    assert switch(two, one)[0] == 200
    one.put(40)
    two.follows(one)
    three.follows(one)


def test_the_target_can_be_named_in_three_ways_or_left_out(cluster: Cluster) -> None:
    one, two, _ = trio(cluster)
    rest = "{}:{}".format(*two.server.rest_address)
    nodes = [one, two]
    for name in (rest, f"http://{rest}/", None):
        body = None if name is None else {"target": name}
        code, answer = nodes[0].request("POST", "/replication/switchover", body)
        assert code == 200, answer
        by_id = {node_id(node): node for node in nodes}
        if name is not None:
            nodes = [two, one]
            assert answer["master"]["node_id"] == node_id(two)
            wait_until(lambda: linked(two, one), "one to follow")
            assert switch(two, one)[0] == 200
            nodes = [one, two]
            wait_until(lambda: linked(one, two), "two to follow again")
        else:
            assert answer["master"]["node_id"] in by_id.keys() | {node_id(cluster._served[2])}
    assert len(writable(*cluster._served)) == 1


def test_what_cannot_be_done_changes_nothing(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    deaf = cluster.replica(master, "deaf")
    deaf.follows(master)
    for node, body, kind in [
        (master, {}, "no_target"),
        (master, {"target": "nobody"}, "no_target"),
        (master, {"timeout_ms": 0}, "validation_error"),
        (deaf, {}, "not_a_master"),
    ]:
        code, answer = node.request("POST", "/replication/switchover", body)
        assert (code, answer["error_type"]) == (400 if kind == "validation_error" else 409, kind)
    code, answer = switch(master, deaf)
    assert "bind_address" in answer["message"]
    assert master.request("POST", "/replication/switchover/abort")[1]["error_type"] == "no_switchover"
    assert master.server.database.node.manifest.stored == {}
    master.put(1)


def test_a_role_said_by_a_flag_is_stronger(cluster: Cluster) -> None:
    master = cluster.start(
        "master", **{"replication.role": "master", "replication.bind_address": "127.0.0.1:0"}
    )
    master.create()
    replica = cluster.replica(master, **LISTENING)
    replica.follows(master)
    code, answer = switch(master)
    assert (code, answer["error_type"]) == (409, "conflict"), answer
    assert writable(master, replica) == [master]


def silence(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """This replica acknowledges nothing new."""
    assert served.server.roles.replica is not None
    link = served.server.roles.replica.link
    sign = ReplicaLink._sign_of_life
    monkeypatch.setattr(
        ReplicaLink, "_sign_of_life", lambda self, now: None if self is link else sign(self, now)
    )


def test_a_target_that_does_not_catch_up_in_time_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)
    with monkeypatch.context() as patch:
        silence(two, patch)
        one.put(50)
        code, answer = switch(one, two, timeout_ms=200)
    assert (code, answer["error_type"]) == (503, "switchover_timeout"), answer
    assert answer["details"] == {"offset": one.offset, "target_durable_offset": one.offset - 1}
    assert writable(one, two, three) == [one]
    one.put(51)
    assert one.server.database.node.manifest.stored == {}
    assert switch(one, two)[0] == 200


def test_writes_are_held_a_second_and_an_abort_lets_them_in(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)
    silence(two, monkeypatch)
    one.put(50)
    switching = gevent.spawn(switch, one, two, timeout_ms=20_000)
    wait_until(lambda: one.server.database.node.fenced, "the switchover to hold writes")
    began = time.monotonic()
    code, answer = one.upsert([51])
    assert (code, answer["error_type"]) == (503, "writes_held")
    assert 0.9 < time.monotonic() - began < 5
    for path, body in (("configure", {"role": "standalone"}), ("switchover", None)):
        code, answer = one.request("POST", f"/replication/{path}", body)
        assert (code, answer["error_type"]) == (409, "switchover_under_way")
    assert one.status()["switchover"]["current"]["step"] == "draining"
    held = gevent.spawn(one.upsert, [52])
    gevent.sleep(0.05)
    assert one.request("POST", "/replication/switchover/abort")[0] == 200
    assert held.get(timeout=10)[0] == 200
    assert switching.get(timeout=10)[1]["error_type"] == "switchover_aborted"
    assert writable(one, two, three) == [one]


def test_a_target_that_cannot_store_its_role_declines(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)
    with monkeypatch.context() as patch:

        def full(roles: Roles, settings: Any) -> None:
            if roles is two.server.roles:
                raise insufficient_storage("no room")
            store(roles, settings)

        store = Roles._store
        patch.setattr(Roles, "_store", full)
        code, answer = switch(one, two)
    assert (code, answer["error_type"]) == (409, "switchover_declined"), answer
    assert "no room" in answer["message"]
    assert writable(one, two, three) == [one]
    one.put(60)
    two.follows(one)
    assert full_syncs(two) == 0, "its new link"
    one.restart()
    assert one.role == "master", "the stored role was put back"
    two.follows(one)


def cut_after_promotion_was_sent(
    monkeypatch: pytest.MonkeyPatch, target: Served, act: Callable[[], None]
) -> None:
    """Do something to the target at the moment at which the promotion comes."""
    promote = ReplicaLink._promote

    def cut(link: ReplicaLink, promotion: messages.Promote, now: float, now_ms: int) -> None:
        monkeypatch.undo()
        act()
        if target.server.database.node.failure is None:
            promote(link, promotion, now, now_ms)

    monkeypatch.setattr(ReplicaLink, "_promote", cut)


def lose_line(one: Served, target: Served) -> None:
    """The connection of the target is gone at once, on this side."""
    assert one.server.roles.master is not None
    for line in one.server.roles.master.lines:
        if line.session.hello is not None and line.session.hello.node_id == node_id(target):
            line.abandon()


@pytest.mark.parametrize("secret", ["", "a secret of thirty-two characters"])
def test_the_answer_is_lost_and_the_master_finds_out_by_asking(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    one, two, three = trio(cluster, **{"security.replication_secret": secret})
    cut_after_promotion_was_sent(monkeypatch, two, lambda: lose_line(one, two))
    code, answer = switch(one, two)
    assert code == 200, answer
    assert writable(one, two, three) == [two]
    two.put(70)
    one.follows(two)
    three.follows(two)
    assert full_syncs(one, two, three) == 0


def test_the_promotion_is_lost_and_the_master_takes_writes_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)

    def never_sent(line: ReplicaLine, switchover: str, offset: int) -> None:
        line.abandon()

    monkeypatch.setattr(ReplicaLine, "promote", never_sent)
    code, answer = switch(one, two)
    assert (code, answer["error_type"]) == (503, "target_lost"), answer
    assert writable(one, two, three) == [one]
    one.put(80)
    two.follows(one)
    one.restart()
    assert one.role == "master"


def test_while_nobody_knows_the_old_master_stays_read_only(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio_left_waiting(cluster, monkeypatch)
    assert writable(one, three) == []
    assert one.status()["switchover"]["current"]["step"] == "waiting"
    code, answer = one.upsert([1])
    assert (code, answer["error_type"]) == (503, "writes_held")
    assert one.request("POST", "/replication/switchover/abort")[1]["error_type"] == "too_late"
    assert one.request("POST", "/replication/promote")[1]["error_type"] == "switchover_under_way"
    two.start()
    wait_until(lambda: writable(one) == [one], "the target to come back and be found a replica")
    one.put(90)
    two.follows(one)
    assert not one.status()["switchover"]["last"]["success"]


def test_an_operator_may_take_the_mastership_back_by_force(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio_left_waiting(cluster, monkeypatch)
    epoch = one.status()["epoch"]
    code, answer = one.request("POST", "/replication/promote", {"force": True})
    assert code == 200, answer
    assert one.status()["epoch"] == epoch + 1
    one.put(91)
    three.follows(one)
    one.restart()
    assert one.role == "master"
    two.start()
    three.follows(one)


def test_what_cannot_be_taken_back_is_still_found_out(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio_left_waiting(cluster, monkeypatch)
    body = {"force": True, "bind_address": "192.0.2.1:7001"}
    code, answer = one.request("POST", "/replication/promote", body)
    assert code == 400, answer
    assert one.status()["switchover"]["current"]["step"] == "waiting"
    two.start()
    wait_until(lambda: writable(one, two, three) == [one], "the target to be found a replica")
    two.follows(one)


def test_a_write_that_waits_meanwhile_is_answered_when_the_mastership_has_moved(cluster: Cluster) -> None:
    one, two, _ = trio(cluster)
    body = {"vectors": [{"id": "late", "vector": [1, 2, 3, 4]}]}
    path = "/collections/things/vectors?wait=9&timeout_ms=60000"
    waiting = gevent.spawn(one.request, "POST", path, body)
    wait_until(lambda: two.offset == 3, "the write to be at the target")
    assert switch(one, two)[0] == 200
    code, answer = waiting.get(timeout=10)
    assert (code, answer["offset"]) == (200, 3)
    assert answer["replicas_durable"] >= 1


def test_a_restart_of_the_old_master_finds_a_replica(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when the promotion is sent: the target is the master, the old one follows."""
    one, two, three = trio(cluster)
    answer = ReplicaLine.promote

    def then_die(line: ReplicaLine, switchover: str, offset: int) -> None:
        answer(line, switchover, offset)
        gevent.spawn(one.server.roles.switchover._current.greenlet.kill)  # type: ignore[union-attr]

    monkeypatch.setattr(ReplicaLine, "promote", then_die)
    switching = gevent.spawn(switch, one, two, timeout_ms=300)
    wait_until(lambda: writable(two), "the promotion")
    assert writable(one, two) == [two]
    one.stop()
    switching.kill()
    one.start()
    assert one.role == "replica"
    two.put(92)
    one.follows(two)
    three.follows(two)
    assert full_syncs(one, two) == 0


def test_killed_between_storing_and_sending_nobody_is_master_until_one_is_promoted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)

    def die(line: ReplicaLine, switchover: str, offset: int) -> None:
        gevent.getcurrent().kill()

    with monkeypatch.context() as patch:
        patch.setattr(ReplicaLine, "promote", die)
        patch.setattr("vectorizer.switchover.ANSWER_SECS", 0.1)
        switch(one, two, timeout_ms=100)
    one.restart()
    assert one.role == "replica"
    errors = [one, two]
    wait_until(
        lambda: any((node.status()["link"]["last_error"] or {}).get("reason") == "cycle" for node in errors),
        "the circle to be noticed",
    )
    assert writable(one, two, three) == []
    assert two.request("POST", "/replication/promote")[0] == 200
    two.put(99)
    one.follows(two)
    three.follows(two)
    assert (full_syncs(one, two), full_syncs(three)) == (0, 1), "the first one of all"


def test_a_replica_that_cannot_be_repointed_follows_through_the_old_master(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = trio(cluster)
    monkeypatch.setattr("vectorizer.switchover.REPOINT_SECS", 0.2)
    monkeypatch.setattr(Roles, "follow_another", lambda *arguments: None)
    code, answer = switch(one, two)
    assert (code, answer["repointed"]) == (200, 0)
    two.put(95)
    three.follows(two)
    assert three.status()["link"]["master_address"] == one.address


def test_twenty_switchovers_under_writes_lose_nothing(cluster: Cluster) -> None:
    one, two, three = trio(cluster)
    nodes = [one, two, three]
    acknowledged: dict[int, int] = {}
    stopped = False

    def write(first: int) -> None:
        number = first
        while not stopped:
            for node in nodes:
                if node.role != "replica" and node.upsert([number])[0] == 200:
                    acknowledged[number] = 200
                    break
            number += 10
            gevent.sleep(0)

    writers = [gevent.spawn(write, 1000 + number) for number in range(3)]
    master = one
    for turn in range(20):
        target = nodes[(nodes.index(master) + 1 + turn % 2) % 3]
        wait_until(lambda target=target: target.streams, "the target to stream")
        code, answer = switch(master, target)
        assert code == 200, answer
        assert len(writable(*nodes)) == 1
        master = target
        wanted = len(acknowledged) + 10
        wait_until(lambda wanted=wanted: len(acknowledged) >= wanted, "more writes")
    stopped = True
    gevent.joinall(writers, raise_error=True)
    for node in nodes:
        if node is not master:
            node.follows(master)
    collection = master.server.database.node.store.get("things")
    held = collection.existing([f"id-{number}".encode() for number in acknowledged])
    assert len(held) == len(acknowledged) > 200
    assert full_syncs(*nodes) == 0


# -- deposed masters ---------------------------------------------------------------------------------------


def deposed(cluster: Cluster) -> tuple[Served, Served, Served]:
    """A master that hears of a newer mastership: its replica was promoted behind its back, another tells."""
    one, two, three = trio(cluster)
    assert two.request("POST", "/replication/promote")[0] == 200
    two.put(100)
    assert three.request("POST", "/replication/follow", {"master_address": two.address})[0] == 200
    three.follows(two)
    assert writable(one, two) == [one, two], "nobody has told it yet"
    assert three.request("POST", "/replication/follow", {"master_address": one.address})[0] == 200
    wait_until(lambda: not writable(one), "the old master to stop writing")
    return one, two, three


def test_a_deposed_master_stops_writing_and_says_so(cluster: Cluster) -> None:
    one, two, three = deposed(cluster)
    code, answer = one.upsert([1])
    assert (code, answer["error_type"]) == (503, "deposed")
    assert one.status()["writes"] == {
        "taken": False,
        "held": None,
        "deposed_by": {
            "node_id": node_id(three),
            "replication_id": two.status()["replication_id"],
            "epoch": 2,
        },
    }
    wait_until(lambda: three.status()["link"]["last_error"], "a refusal")
    assert three.status()["link"]["last_error"]["reason"] == "stale_master"
    code, answer = switch(one)
    assert answer["error_type"] == "deposed"
    for node in (one, three):
        assert node.request("POST", "/replication/follow", {"master_address": two.address})[0] == 200
        node.follows(two)
    assert one.status()["writes"]["deposed_by"] is None


def test_a_deposed_master_is_the_newest_again_by_force(cluster: Cluster) -> None:
    one, _, _ = deposed(cluster)
    code, answer = one.request("POST", "/replication/promote")
    assert (code, answer["error_type"]) == (409, "deposed")
    assert one.configure(heartbeat_interval=0.06)[0] == 200, "other settings may change"
    assert writable(one) == []
    assert one.request("POST", "/replication/promote", {"force": True})[0] == 200
    assert one.status()["epoch"] == 3
    one.put(1)


def test_only_a_newer_mastership_of_the_same_history_deposes(cluster: Cluster) -> None:
    one, two, _ = trio(cluster)
    stranger = cluster.master("stranger")
    stranger.create("other")
    for _ in range(3):
        nowhere = {"master_address": "127.0.0.1:1"}
        assert stranger.request("POST", "/replication/follow", nowhere)[0] == 200
        assert stranger.request("POST", "/replication/promote", {"bind_address": "127.0.0.1:0"})[0] == 200
    stranger.create("another")
    assert stranger.status()["epoch"] > one.status()["epoch"]
    assert stranger.request("POST", "/replication/follow", {"master_address": one.address})[0] == 200
    wait_until(lambda: one.status()["counters"]["refusals"].get("foreign_history"), "a refusal")
    # Promoted and taken back without a write: nobody is deposed.
    assert two.request("POST", "/replication/promote")[0] == 200
    assert two.request("POST", "/replication/follow", {"master_address": one.address})[0] == 200
    one.put(5)
    two.follows(one)
    assert writable(one) == [one]
