"""How safe a write, how fresh a read: through REST, on real links."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from tests.unit.served import Cluster, Served, cluster_at, vector, wait_until
from vectorizer.errors import RequestError
from vectorizer.guarantees import Guarantees

NOWHERE = "0" * 32


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as cluster:
        yield cluster


def write(node: Served, query: str, number: int = 1, name: str = "things") -> tuple[int, Any]:
    body = {"vectors": [{"id": f"id-{number}", "vector": vector(number)}]}
    return node.request("POST", f"/collections/{name}/vectors?{query}", body)


def hold_acknowledgements(replica: Served) -> None:
    """End the replica's link, for good: it acknowledges nothing more."""
    assert replica.server.roles.replica is not None
    replica.server.roles.replica.stop()


def test_a_write_waits_until_replicas_have_it_durably(cluster: Cluster) -> None:
    master = cluster.master()
    replicas = [cluster.replica(master, f"replica-{number}") for number in range(2)]
    master.create()
    for replica in replicas:
        replica.follows(master)
    code, answer = write(master, "wait=2&timeout_ms=10000")
    assert (code, answer["replicas_durable"]) == (200, 2)
    for replica in replicas:
        assert replica.server.database.node.durable_offset >= answer["offset"]


def test_a_write_of_a_mastership_that_was_given_up_is_on_no_replica(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    offset = master.put(1)
    cluster.replica(master).follows(master)
    guarantees, node = Guarantees(master.server.database), master.server.database.node
    assert guarantees.durable_replicas(offset, 1, 10_000, node.replication_id) == 1
    assert guarantees.durable_replicas(offset, 1, 10_000, NOWHERE) == 0  # another one wrote what is there
    assert guarantees.durable_replicas(offset + 1, 1, 0, node.replication_id) == 0


def test_too_few_replicas_are_told_in_time_and_the_write_stays(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    replica = cluster.replica(master)
    replica.follows(master)
    started = time.monotonic()
    code, answer = write(master, "wait=2&timeout_ms=150")
    assert (code, answer["replicas_durable"]) == (200, 1)
    assert 0.1 < time.monotonic() - started < 5
    assert master.digest()[1] == 1


@pytest.mark.parametrize("replicas", [0, 1])
def test_who_is_a_master_no_longer_waits_for_no_replica(cluster: Cluster, replicas: int) -> None:
    master = cluster.master()
    master.create()
    for _ in range(replicas):
        cluster.replica(master).follows(master)
    waiting = gevent.spawn(write, master, "wait=2&timeout_ms=60000")
    asking = gevent.spawn(master.request, "GET", "/replication/wait?replicas=2&timeout_ms=60000")
    wait_until(lambda: master.server.roles.master.table.acknowledged(2) == replicas)  # type: ignore[union-attr]
    assert master.configure(role="standalone")[0] == 200
    for answer in (waiting.get(timeout=10), asking.get(timeout=10)):
        assert (answer[0], answer[1]["replicas_durable"]) == (200, replicas)


def test_a_write_without_wait_says_nothing_of_replicas(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    assert "replicas_durable" not in write(master, "")[1]


def test_every_kind_of_write_may_wait(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master)
    wait_until(lambda: replica.streams)
    body: dict[str, Any] = {"name": "things", "dimension": 4}
    assert master.request("POST", "/collections?wait=1&timeout_ms=9000", body)[1]["replicas_durable"] == 1
    assert write(master, "wait=1&timeout_ms=9000")[1]["replicas_durable"] == 1
    one = "/collections/things/vectors/id-1?wait=1&timeout_ms=9000"
    assert master.request("PUT", one, {"payload": {"k": 1}})[1]["replicas_durable"] == 1
    many = "/collections/things/vectors/delete?wait=1&timeout_ms=9000"
    assert master.request("POST", many, {"ids": ["none"]})[1]["replicas_durable"] == 1
    assert master.request("DELETE", one)[1]["replicas_durable"] == 1
    assert master.request("DELETE", "/collections/things?wait=1&timeout_ms=9000")[1]["replicas_durable"] == 1


def test_the_default_of_the_server(cluster: Cluster) -> None:
    master = cluster.master(**{"replication.wait_replicas": 1, "replication.wait_timeout_ms": 10000})
    replica = cluster.replica(master)
    wait_until(lambda: replica.streams)
    master.create()
    assert write(master, "")[1]["replicas_durable"] == 1
    assert "replicas_durable" not in write(master, "wait=0")[1]


def test_waiting_on_its_own(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    offset = master.put(1)
    assert master.request("GET", "/replication/wait?replicas=1&timeout_ms=50")[1] == {
        "offset": offset,
        "replicas_durable": 0,
        "replicas": 1,
        "reached": False,
    }
    replica = cluster.replica(master)
    code, answer = master.request("GET", f"/replication/wait?replicas=1&offset={offset}&timeout_ms=10000")
    assert (code, answer["reached"], answer["replicas_durable"]) == (200, True, 1)
    assert replica.request("GET", "/replication/wait?replicas=1")[0] == 400
    assert master.request("GET", "/replication/wait")[0] == 400


def test_writes_are_refused_without_enough_replicas_and_reads_go_on(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    master.put(1)
    assert master.configure(min_replicas_to_write=1, min_replicas_max_lag_secs=5)[0] == 200
    code, answer = write(master, "")
    assert (code, answer["error_type"]) == (503, "not_enough_replicas")
    assert answer["details"] == {"replicas": 0, "min_replicas_to_write": 1}
    assert master.digest()[1] == 1
    replica = cluster.replica(master)
    wait_until(lambda: write(master, "", 2)[0] == 200, "a write with enough replicas")
    replica.follows(master)
    replica.stop()
    wait_until(lambda: write(master, "", 3)[1].get("error_type") == "not_enough_replicas", "a refusal")


def test_a_replica_that_misses_what_is_of_before_the_start_is_not_well(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    master.put(1)
    master.configure(min_replicas_to_write=1, min_replicas_max_lag_secs=60)
    master.restart()
    replica = cluster.replica(master)
    replica.follows(master)
    guarantees = Guarantees(master.server.database)
    guarantees.guard_replicas()
    assert master.server.roles.master is not None
    (row,) = master.server.roles.master.table
    row.stand_at(row.acked_applied - 1)
    with pytest.raises(RequestError, match="0 replicas are connected"):
        guarantees.guard_replicas()


def test_a_replica_that_misses_what_memory_holds_no_more_is_not_well(cluster: Cluster) -> None:
    master = cluster.master(**{"replication.log_size": 2})
    master.create()
    for number in range(6):
        master.put(number)
    master.configure(min_replicas_to_write=1, min_replicas_max_lag_secs=60)
    cluster.replica(master).follows(master)
    guarantees, log = Guarantees(master.server.database), master.server.database.node.log
    assert master.server.roles.master is not None
    (row,) = master.server.roles.master.table
    row.stand_at(log.first_offset - 1)
    guarantees.guard_replicas()
    row.stand_at(log.first_offset - 2)
    with pytest.raises(RequestError, match="0 replicas are connected"):
        guarantees.guard_replicas()


def test_a_read_waits_for_the_write_it_must_see(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master)
    master.create()
    replica.follows(master)
    for number in range(20):
        _, answer = write(master, "", number)
        query = f"min_offset={answer['offset']}&replication_id={answer['replication_id']}&timeout_ms=10000"
        assert replica.request("GET", f"/collections/things/vectors/id-{number}?{query}")[0] == 200
        body = {"vector": vector(number), "limit": 1}
        code, found = replica.request("POST", f"/collections/things/search?{query}", body)
        assert (code, found["results"][0]["id"]) == (200, f"id-{number}")


def test_a_read_is_woken_when_the_write_comes(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master)
    master.create()
    replica.follows(master)
    offset = master.offset + 1
    path = f"/collections/things/vectors/id-7?min_offset={offset}&timeout_ms=10000"
    reader = gevent.spawn(replica.request, "GET", path)
    gevent.sleep(0.05)
    assert not reader.ready()
    master.put(7)
    assert reader.get(timeout=10)[0] == 200


def test_an_offset_that_does_not_come(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    code, answer = master.request("GET", "/collections/things?min_offset=100&timeout_ms=50")
    assert (code, answer["error_type"]) == (412, "offset_not_reached")
    assert answer["details"] == {"offset": 1, "min_offset": 100}


def test_a_mastership_that_the_history_has_forgotten_stands(cluster: Cluster) -> None:
    master = cluster.master()
    master.create()
    path = f"/collections/things?replication_id={NOWHERE}&timeout_ms=0&min_offset="
    assert master.request("GET", path + "0")[0] == 200, "the history starts after offset 0"
    assert master.request("GET", path + "1")[1]["error_type"] == "lost_branch"


def test_a_write_of_a_lost_branch_is_told_at_once(cluster: Cluster) -> None:
    old, new = cluster.master("old"), None
    old.create()
    new = cluster.replica(old, "new")
    new.follows(old)
    hold_acknowledgements(new)
    _, lost = write(old, "", 1)
    assert new.configure(role="master", bind_address="127.0.0.1:0")[0] == 200
    _, kept = write(new, "", 2)
    tokens = [
        (lost, 412, "lost_branch"),
        ({**lost, "replication_id": NOWHERE}, 412, "lost_branch"),
        (kept, 200, None),
    ]
    for token, status, kind in tokens:
        query = f"min_offset={token['offset']}&replication_id={token['replication_id']}&timeout_ms=60000"
        started = time.monotonic()
        code, answer = new.request("GET", f"/collections/things?{query}")
        assert (code, answer.get("error_type")) == (status, kind)
        assert time.monotonic() - started < 10
    # A token from before the fork is good on both sides.
    query = f"min_offset=1&replication_id={lost['replication_id']}"
    assert new.request("GET", f"/collections/things?{query}")[0] == 200


def test_a_stale_replica_says_so(cluster: Cluster) -> None:
    master = cluster.master()
    replica = cluster.replica(master)
    master.create()
    replica.follows(master)
    assert replica.request("GET", "/collections/things?max_lag_ms=10000")[0] == 200
    master.stop()
    wait_until(lambda: not replica.streams)
    wait_until(lambda: replica.request("GET", "/collections/things?max_lag_ms=50")[0] == 503)
    _, answer = replica.request("GET", "/collections/things?max_lag_ms=50")
    assert answer["error_type"] == "too_stale"
    assert answer["details"]["lag_ms"] > 50
    assert replica.request("GET", "/collections/things")[0] == 200


def test_a_standalone_node_is_never_stale_and_has_no_replicas(cluster: Cluster) -> None:
    node = cluster.start("node")
    node.create()
    assert node.request("GET", "/collections/things?max_lag_ms=0&min_offset=1")[0] == 200
    assert write(node, "wait=1&timeout_ms=10000")[1]["replicas_durable"] == 0


@pytest.mark.parametrize("query", ["wait=-1", "wait=x", "timeout_ms=-5", "min_offset=1", "wait=1&wait=2"])
def test_parameters_of_a_write_are_checked(cluster: Cluster, query: str) -> None:
    node = cluster.start("node")
    node.create()
    code, answer = write(node, query)
    assert (code, answer["error_type"]) == (400, "validation_error")
    assert node.offset == 1
