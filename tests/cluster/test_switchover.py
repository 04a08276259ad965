"""The mastership is handed over between real processes: under load, and with either side killed anywhere."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, replication_address, wait_until

TURNS = int(os.environ.get("SWITCHOVERS", "20"))
RANDOM_CUTS = 8


def switch(master: Node, target: Node, **more: Any) -> dict[str, Any]:
    """The answer of a switchover, with its HTTP status."""
    body = {"target": f"127.0.0.1:{target.port}", **more}
    answer = master.request("POST", "/replication/switchover", body)
    return {"status": answer.status, **answer.body}


def handed_over(cluster: Cluster, target: Node) -> None:
    """The harness's own book-keeping of who is who."""
    old = cluster.master
    cluster.replicas = [node for node in [*cluster.replicas, old] if node is not target]
    cluster.master = target


def full_syncs(cluster: Cluster) -> int:
    """Full syncs that any node ever gave."""
    return sum(node.log().count("full_sync_started") for node in cluster.nodes)


def takes_writes(node: Node) -> bool:
    try:
        return bool(node.status()["writes"]["taken"])
    except (OSError, AssertionError):
        return False


@contextmanager
def never_two_masters(cluster: Cluster) -> Iterator[None]:
    """Somebody who looks at all nodes meanwhile."""
    stopped, seen = threading.Event(), list[list[str]]()

    def watch() -> None:
        while not stopped.is_set():
            masters = [node for node in cluster.nodes if node.running and takes_writes(node)]
            # Asked one after the other: only who still takes writes counts.
            if len(masters) > 1 and sum(takes_writes(node) for node in masters) > 1:
                seen.append([node.name for node in masters])
            time.sleep(0.002)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join(20)
    assert seen == []


class Asked(threading.Thread):
    """A switchover that is asked for beside the test."""

    def __init__(self, master: Node, target: Node, **more: Any) -> None:
        super().__init__(daemon=True)
        self._ask = lambda: switch(master, target, **more)
        self.answer: dict[str, Any] | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._ask()
        except OSError:  # the master was killed
            self.answer = None


def step(node: Node) -> str | None:
    current = node.status()["switchover"]["current"]
    return None if current is None else current["step"]


@pytest.mark.timeout(60 + 10 * TURNS)
def test_switchovers_under_writes_lose_nothing_and_make_no_full_sync(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    before = full_syncs(cluster)
    chance = random.Random(5)
    held = []
    with never_two_masters(cluster), cluster.load() as load:
        for _ in range(TURNS):
            load.wait_sent(chance.randrange(10, 60))
            target = chance.choice(cluster.replicas)
            answer = switch(cluster.master, target)
            assert answer["status"] == 200, answer
            held.append(answer["held_ms"])
            handed_over(cluster, target)
            cluster.wait_connected()
        load.wait_sent(50)
    cluster.converged()
    cluster.ledger.assert_none_doubled(cluster.master.offset)
    assert full_syncs(cluster) == before
    assert cluster.master.status()["epoch"] == TURNS + 1
    assert sorted(held)[TURNS // 2] < 2000, held


def test_a_chain_whose_middle_takes_over(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    first, [middle] = cluster.master, cluster.replicas
    last = cluster.replica_node(replication_address(middle)).start()
    cluster.replicas.append(last)
    cluster.wait_connected()
    before = full_syncs(cluster)
    with never_two_masters(cluster), cluster.load(writers=2) as load:
        load.wait_sent(50)
        assert switch(first, middle)["status"] == 200
        handed_over(cluster, middle)
        load.wait_sent(50)
    cluster.wait_connected()
    cluster.converged()
    assert {row["id"] for row in middle.replicas()} >= {node.status()["node_id"] for node in (first, last)}
    # The middle dies; its replicas are told by hand.
    middle.kill()
    last.post("/replication/promote", {})
    handed_over(cluster, last)
    first.post("/replication/follow", {"master_address": replication_address(last)})
    cluster.replicas = [first]
    cluster.write(20, seed=7)
    cluster.converged()
    assert full_syncs(cluster) == before


def freeze_acknowledged(master: Node, target: Node) -> None:
    """Freeze a replica when its master has heard that it holds everything: there is nothing to drain."""

    def heard() -> bool:
        [row] = master.status()["replicas"]
        return bool(row["durable_offset"] == master.offset)

    wait_until(heard, "the master to hear that its replica holds everything")
    target.freeze()


def test_a_target_that_is_killed_while_writes_are_held(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    master, target = cluster.master, cluster.replicas[0]
    cluster.write(30)
    target.freeze()
    cluster.write(5, seed=2)
    asked = Asked(master, target)
    wait_until(lambda: step(master) == "draining", "writes to be held")
    target.kill()
    asked.join(10)
    assert asked.answer is not None
    assert (asked.answer["status"], asked.answer["error_type"]) == (503, "target_lost")
    cluster.write(10, seed=3)
    target.start()
    cluster.wait_connected()
    cluster.converged()


def test_a_master_that_is_killed_while_writes_are_held(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    master, [target] = cluster.master, cluster.replicas
    cluster.write(30)
    target.freeze()
    cluster.write(5, seed=2)
    Asked(master, target)
    wait_until(lambda: step(master) == "draining", "writes to be held")
    master.restart(kill=True)
    target.thaw()
    assert master.role == "master"
    cluster.wait_connected()
    cluster.write(10, seed=3)
    cluster.converged()


def test_a_target_that_is_killed_before_the_promotion_reached_it(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    master, [target] = cluster.master, cluster.replicas
    cluster.write(30)
    cluster.converged()
    freeze_acknowledged(master, target)
    asked = Asked(master, target)
    wait_until(lambda: step(master) == "promoting", "the promotion to be sent")
    target.kill()
    wait_until(lambda: step(master) == "waiting", "the master to wait")
    assert not takes_writes(master)
    target.start()
    wait_until(lambda: takes_writes(master), "the master to take writes again")
    asked.join(20)
    cluster.wait_connected()
    cluster.write(10, seed=3)
    cluster.converged()
    assert master.restart().role == "master"


def test_a_master_that_is_killed_after_the_promotion_was_sent(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    master, [target] = cluster.master, cluster.replicas
    cluster.write(30)
    cluster.converged()
    freeze_acknowledged(master, target)
    Asked(master, target)
    wait_until(lambda: step(master) == "promoting", "the promotion to be sent")
    master.kill()
    target.thaw()
    wait_until(lambda: takes_writes(target), "the target to take over")
    master.start()
    assert master.role == "replica"
    handed_over(cluster, target)
    cluster.wait_connected()
    cluster.write(10, seed=3)
    cluster.converged()
    assert full_syncs(cluster) == 1


def test_a_target_that_is_silent_for_long_takes_over_when_it_wakes(cluster: Cluster) -> None:
    """The link is given up meanwhile; the old master finds out by asking, or hears that it goes on."""
    cluster.start(replicas=1)
    master, [target] = cluster.master, cluster.replicas
    cluster.write(30)
    cluster.converged()
    with never_two_masters(cluster):
        freeze_acknowledged(master, target)
        Asked(master, target)
        wait_until(lambda: step(master) == "waiting", "the master to wait")
        target.thaw()
        wait_until(lambda: takes_writes(target) or takes_writes(master), "one of them to take writes")
    if takes_writes(target):
        handed_over(cluster, target)
    cluster.wait_connected()
    cluster.write(10, seed=3)
    cluster.converged()
    assert full_syncs(cluster) == 1


@pytest.mark.timeout(180)
def test_kills_at_any_moment_of_a_switchover_leave_one_master_and_every_write(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    before = full_syncs(cluster)
    chance = random.Random(9)
    with never_two_masters(cluster):
        for turn in range(RANDOM_CUTS):
            cluster.write(20, seed=100 + turn)
            master, target = cluster.master, chance.choice(cluster.replicas)
            Asked(master, target)
            time.sleep(chance.random() * 0.06)  # the point of the kill, not a wait
            victim = chance.choice([master, target])
            victim.restart(kill=True)
            settle(cluster, master, target)
            cluster.wait_connected()
    cluster.converged()
    assert full_syncs(cluster) == before


def settle(cluster: Cluster, master: Node, target: Node) -> None:
    """Until one of the two takes writes; if both are replicas, an operator promotes one."""

    def decided() -> Callable[[], Node] | None:
        takes = [node for node in (master, target) if takes_writes(node)]
        if takes and step(master) is None:
            return lambda: takes[0]
        if master.role == target.role == "replica" and "cycle" in (last_error(master), last_error(target)):
            return lambda: promoted(target)
        return None

    new = wait_until(decided, "it to be clear who is the master")()
    if new is target:
        handed_over(cluster, target)
    for node in cluster.replicas:
        if node.status()["link"]["master_address"] != replication_address(new):
            node.post("/replication/follow", {"master_address": replication_address(new)})


def last_error(node: Node) -> str:
    link = node.status()["link"] or {}
    return (link.get("last_error") or {}).get("reason", "")


def promoted(node: Node) -> Node:
    node.post("/replication/promote", {})
    return node


def test_an_old_master_that_hears_of_a_newer_one_stops_writing(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    old, [chosen, sibling] = cluster.master, cluster.replicas
    cluster.write(40)
    cluster.converged()
    old.freeze()
    chosen.post("/replication/promote", {})
    sibling.post("/replication/follow", {"master_address": replication_address(chosen)})
    wait_until(lambda: sibling.connected, "the sibling to follow")
    cluster.master = chosen
    cluster.replicas = [sibling]
    cluster.write(10, seed=2)
    old.thaw()
    assert takes_writes(old), "nobody has told it yet"
    sibling.post("/replication/follow", {"master_address": replication_address(old)})
    wait_until(lambda: not takes_writes(old), "the old master to stop")
    refused = old.request("POST", "/collections", {"name": "late", "dimension": 2})
    assert (refused.status, refused.body["error_type"]) == (503, "deposed")
    assert "deposed" in old.log()
    for node in (old, sibling):
        node.post("/replication/follow", {"master_address": replication_address(chosen)})
    cluster.replicas = [sibling, old]
    cluster.wait_connected()
    cluster.converged()
