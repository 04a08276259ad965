"""Guards: what a replica refuses, by role and not by path."""

from __future__ import annotations

import time

import pytest

from tests.cluster.harness import Answer, Cluster, Node, same_digest, vector_of, wait_until

WRITES = [
    ("POST", "/collections", {"name": "new", "dimension": 4}),
    ("DELETE", "/collections/alpha", None),
    ("POST", "/collections/alpha/vectors", {"vectors": [{"id": "x", "vector": vector_of(1)}]}),
    ("PUT", "/collections/alpha/vectors/x", {"payload": {"a": 1}}),
    ("DELETE", "/collections/alpha/vectors/x", None),
    ("POST", "/collections/alpha/vectors/delete", {"ids": ["x"]}),
    (
        "POST",
        "/collections/alpha/vectors/delete",
        {"filter": {"must": [{"key": "a", "match": {"value": 1}}]}},
    ),
]
READS = [
    ("GET", "/collections", None),
    ("GET", "/collections/alpha", None),
    ("GET", "/collections/alpha/vectors?limit=5", None),
    ("GET", "/collections/alpha/digest", None),
    ("POST", "/collections/alpha/search", {"vector": vector_of(1)}),
    ("POST", "/collections/alpha/search/batch", {"searches": [{"vector": vector_of(1)}]}),
    ("GET", "/health", None),
    ("GET", "/replication/status", None),
]


@pytest.mark.parametrize(("method", "path", "document"), WRITES)
def test_a_write_on_a_replica_is_refused_with_the_masters_address(
    quiet_cluster: Cluster, method: str, path: str, document: dict[str, object] | None
) -> None:
    replica, master = quiet_cluster.replicas[0], quiet_cluster.master
    before = replica.offset
    answer = replica.request(method, path, document)
    assert answer.status == 403
    assert answer.body["error_type"] == "read_only_replica"
    assert f"127.0.0.1:{master.port}" in answer.body["details"]["master"]
    assert f"127.0.0.1:{master.port}" in answer.headers["x-vectorizer-master"]
    assert replica.offset == before


def test_no_route_that_changes_data_is_missing_above(quiet_cluster: Cluster) -> None:
    described = {
        (method.upper(), path)
        for path, methods in quiet_cluster.master.get("/openapi.json")["paths"].items()
        for method, route in methods.items()
        if method not in ("get", "head") and not {"search", "replication"} & set(route["tags"])
    }
    asked = {
        (method, path.replace("alpha", "{name}").replace("vectors/x", "vectors/{id}"))
        for method, path, _ in WRITES
    }
    assert asked == described


@pytest.mark.parametrize(("method", "path", "document"), READS)
def test_every_read_is_served_by_a_replica(
    quiet_cluster: Cluster, method: str, path: str, document: dict[str, object] | None
) -> None:
    assert quiet_cluster.replicas[1].request(method, path, document).status == 200


def test_a_replica_may_redirect_writes_to_its_master(cluster: Cluster) -> None:
    cluster.start(replicas=1, replication={"replica_writes": "redirect"})
    [replica] = cluster.replicas
    path = "/collections/alpha/vectors"
    answer = replica.request("POST", path, {"vectors": [{"id": "x", "vector": vector_of(1)}]})
    assert answer.status == 307
    assert answer.headers["location"] == f"http://127.0.0.1:{cluster.master.port}{path}"


def test_a_refused_write_changes_nothing_and_takes_no_offset(quiet_cluster: Cluster) -> None:
    master = quiet_cluster.master
    before = master.offset
    path = "/collections/alpha/vectors"
    good, bad = {"id": "good", "vector": vector_of(1)}, {"id": "bad", "vector": [1.0]}
    assert master.request("POST", path, {"vectors": [good, bad]}).status == 400
    assert master.request("POST", path, {"vectors": []}).status == 400
    assert master.request("POST", "/collections", {"name": "alpha", "dimension": 8}).status == 409
    assert master.request("GET", f"{path}/good").status == 404
    assert master.offset == before


def test_a_replica_without_complete_data_says_so_on_data_routes(cluster: Cluster) -> None:
    cluster.start(replicas=0)
    link = cluster.proxy_to(cluster.master)
    link.swallow()
    replica = cluster.replica_node(link.address).start()
    for method, path, document in READS[:6]:
        assert replica.request(method, path, document).status == 503
    assert replica.request("GET", "/health").status == 200
    link.heal()
    wait_until(lambda: replica.request("GET", "/collections/alpha").status == 200, "the first sync is done")


def put_one(master: Node, vector_id: str, query: str = "") -> Answer:
    row = {"id": vector_id, "vector": vector_of(1)}
    return master.request("POST", f"/collections/alpha/vectors{query}", {"vectors": [row]})


def test_too_few_replicas_refuse_writes_serve_reads_and_let_replicas_apply(cluster: Cluster) -> None:
    needed = {"min_replicas_to_write": 1, "min_replicas_max_lag_secs": 2}
    cluster.start(replicas=1, collections=(), proxied=True, replication=needed)
    [replica], [link] = cluster.replicas, cluster.links
    cluster.master.post("/collections", {"name": "alpha", "dimension": 8})
    same_digest(cluster.master, replica)  # which has no replicas itself, and applies all the same
    assert put_one(cluster.master, "before").status == 200
    link.refuse()
    refused = wait_until(lambda: (answer := put_one(cluster.master, "x")).status == 503 and answer, "refused")
    assert refused.body["error_type"] == "not_enough_replicas"
    assert refused.body["details"] == {"replicas": 0, "min_replicas_to_write": 1}
    assert cluster.master.get("/collections/alpha/vectors/before")["id"] == "before"
    link.heal()
    wait_until(lambda: put_one(cluster.master, "after").status == 200, "writes are taken again")
    cluster.wait_connected()
    same_digest(cluster.master, replica)


def test_a_write_may_wait_for_replicas_and_is_told_how_many_have_it(cluster: Cluster) -> None:
    cluster.start(replicas=2, proxied=True)
    answer = put_one(cluster.master, "both", "?wait=2&timeout_ms=5000")
    assert (answer.status, answer.body["replicas_durable"]) == (200, 2)
    for replica in cluster.replicas:
        assert replica.status()["durable_offset"] >= answer.body["offset"]
    cluster.links[0].swallow("down")
    began = time.monotonic()
    answer = put_one(cluster.master, "one", "?wait=2&timeout_ms=500")
    assert (answer.status, answer.body["replicas_durable"]) == (200, 1)
    assert 0.4 < time.monotonic() - began < 10
    cluster.links[0].heal()


def test_a_read_on_a_replica_may_ask_for_an_offset(cluster: Cluster) -> None:
    cluster.start(replicas=1, proxied=True)
    [replica], [link] = cluster.replicas, cluster.links
    link.delay_secs = 0.2
    offset = put_one(cluster.master, "fresh").body["offset"]
    path = f"/collections/alpha/vectors/fresh?min_offset={offset}"
    assert replica.request("GET", f"{path}&timeout_ms=5000").status == 200
    link.heal()
    link.swallow("down")
    offset = put_one(cluster.master, "later").body["offset"]
    answer = replica.request("GET", f"/collections/alpha/vectors/later?min_offset={offset}&timeout_ms=200")
    assert answer.status == 412
    link.heal()
    cluster.wait_connected()
