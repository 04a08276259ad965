"""The set checker in short, and its judge on made-up stories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import payload_of, vector_of, wait_until
from tests.torture.clients import SET, Outcome, SetClients, Write, id_of
from tests.torture.faults import Event
from tests.torture.operating import Look
from tests.torture.set_checker import SETTINGS, Mode, check_set
from tests.torture.trio import Trio
from tests.torture.verdict import announced, judge, longest_stalls_ms

SECS = 22.0
HISTORY = [
    {"replication_id": "a", "epoch": 1, "start_offset": 0},
    {"replication_id": "b", "epoch": 2, "start_offset": 3},
]


@pytest.mark.timeout(240)
@pytest.mark.cluster
def test_waited_writes_survive_and_a_failover_loses_no_more_than_the_status_showed(tmp_path: Path) -> None:
    for seed, mode in enumerate(Mode):
        found = check_set(mode, tmp_path / mode.name, secs=SECS, seed=seed)
        print(*found.notes, *(kind.cells() for kind in found.kinds), sep="\n")
        assert not found.wrong, "\n".join(found.failures)


@pytest.mark.timeout(90)
@pytest.mark.cluster
def test_a_failover_to_a_replica_that_lags_is_told_as_a_loss(tmp_path: Path) -> None:
    """The checker's own check: the rule of the docs is broken, so waited writes are lost."""
    trio = Trio(tmp_path, SETTINGS)
    try:
        one, two, three = trio.start().nodes
        one.post("/collections", {"name": SET, "dimension": 8, "metric": "dot"})
        with SetClients(trio.nodes, clients=2, writes_per_sec=60, wait=1, seed=1) as clients:
            wait_until(lambda: len(clients.acknowledged()) >= 20, "writes that both replicas have")
            trio.way(two, one).swallow("down")
            wait_until(lambda: len(clients.acknowledged()) >= 40, "writes that one replica has")
            one.kill()
            two.post("/replication/promote", {})
            three.post("/replication/follow", {"master_address": trio.address(three, two)})
            wait_until(lambda: three.connected, "the other one follows")
        verdict = judge(clients.writes, two.vectors(SET), two.status()["history"])
    finally:
        trio.close()
    assert verdict.lost
    assert not verdict.unexplained
    assert not verdict.unexpected


def acknowledged(offset: int, *serials: int, by: str = "a") -> Write:
    return Write(serials, Outcome.ACKNOWLEDGED, float(offset), by, offset)


def held(*serials: int) -> dict[str, tuple[tuple[float, ...], Any]]:
    return {id_of(serial): (tuple(vector_of(serial)), payload_of(serial)) for serial in serials}


def test_what_an_ended_mastership_acknowledged_beyond_its_end_is_lost_and_nothing_else_may_be() -> None:
    writes = [acknowledged(2, 1), acknowledged(3, 2), acknowledged(4, 3), acknowledged(4, 4, by="b")]
    verdict = judge(writes, held(1, 4), HISTORY)
    assert verdict.lost == [writes[1], writes[2]]
    assert verdict.unexplained == [writes[1]]
    assert not verdict.unexpected
    verdict = judge(writes, held(1, 2, 3, 4), HISTORY)
    assert len(verdict.unexpected) == 1, "what was overruled is there"


def test_what_was_refused_or_never_written_or_is_there_by_half_is_unexpected() -> None:
    writes = [Write((1,), Outcome.REFUSED, 0.0), Write((2, 3), Outcome.IN_DOUBT, 0.0)]
    assert len(judge(writes, held(1), HISTORY).unexpected) == 1
    assert len(judge(writes, held(2), HISTORY).unexpected) == 1
    assert len(judge(writes, held(9), HISTORY).unexpected) == 1
    assert judge(writes, held(2, 3), HISTORY).unexpected == []
    assert judge(writes, {}, HISTORY).unexpected == []
    other = {id_of(2): (tuple(vector_of(3)), payload_of(2)), **held(3)}
    assert len(judge(writes, other, HISTORY).unexpected) == 1


def test_one_place_in_the_history_for_two_writes_is_doubled() -> None:
    assert len(judge([acknowledged(2, 1), acknowledged(2, 2)], held(1, 2), HISTORY).doubled) == 1


def test_a_loss_is_announced_as_far_as_a_status_showed_that_lag() -> None:
    lost = [acknowledged(4, 1), acknowledged(5, 2), acknowledged(8, 3)]
    look = Look("failover", "a", 6, {"node-b": 3}, "node-b")
    found = announced(lost, [look])
    assert (found.lost["failover"], found.lag_operations["failover"], found.after["failover"]) == (3, 3, 1)
    assert found.failures == []
    assert len(announced(lost, [Look("failover", "a", 6, {"node-b": 1}, "node-b")]).failures) == 1
    assert len(announced(lost, []).failures) == 1


def test_a_stall_belongs_to_every_fault_that_it_touches() -> None:
    events = [Event("cut", 1.0, 1.0), Event("kill", 2.0, 3.5), Event("cut", 9.0, 9.0)]
    assert longest_stalls_ms([0.5, 0.9, 1.2, 2.1, 4.1], events) == pytest.approx({"cut": 300, "kill": 2000})
