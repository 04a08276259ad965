"""The edges of what may be stored: as it was written on every node, by the stream and by a full sync."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, same_digest, vector_path, wait_until

IDS = [
    "é composed",
    "e\u0301 decomposed",
    "日本語",
    "👩‍👩‍👧‍👦",
    "שלום",
    " ",
    "..",
    "a/b?c#d%2Fe",
    "line\nbreak\ttab",
    "\ufeff",
    "ü" * 128,
]
PAYLOADS: list[dict[str, Any] | None] = [
    None,
    {},
    {"": "", "ключ": "значение", "a.b": 1, "$c": 2},
    {"ints": [0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]},
    {"floats": [-0.0, 5e-324, 1.7976931348623157e308, 0.1]},
    {"deep": {"er": {"and": [{"deeper": [[[None, True, False]]]}]}}},
]
PAYLOAD_BYTES_MAX = 1 << 20
TEXT_MAX = PAYLOAD_BYTES_MAX - 13  # of {"t": text} as BSON
VECTORS = [[1e-45], [-0.0], [3.4028235e38], [1.0], [-1e-20]]  # as float32 is written shortest


def put(node: Node, collection: str, *rows: dict[str, Any]) -> None:
    node.post(f"/collections/{collection}/vectors", {"vectors": list(rows)})


def write_all(master: Node) -> None:
    """Collections of dimension 1, without rows, and with every odd id, payload and vector."""
    for name, metric in (("empty", "cosine"), ("one", "dot"), ("emptied", "euclidean")):
        master.post("/collections", {"name": name, "dimension": 1, "metric": metric})
    for number, vector_id in enumerate(IDS):
        payload = PAYLOADS[number % len(PAYLOADS)]
        row = {"id": vector_id, "vector": VECTORS[number % len(VECTORS)]}
        put(master, "one", row if payload is None else {**row, "payload": payload})
        put(master, "emptied", {"id": vector_id, "vector": [1.0]})
        master.delete(vector_path("emptied", vector_id))
    put(master, "one", {"id": "huge", "vector": [1.0], "payload": {"t": "x" * TEXT_MAX}})
    for number in range(20):
        master.put(vector_path("one", "é composed"), {"payload": {"only the payload": number}})


def shown(node: Node, vector_id: str) -> tuple[list[float], Any]:
    row = node.get(vector_path("one", vector_id))
    return row["vector"], row.get("payload")


@pytest.mark.parametrize("road", ["stream", "full sync"])
def test_odd_content_is_the_same_everywhere(cluster: Cluster, road: str) -> None:
    cluster.start(replicas=1 if road == "stream" else 0, collections=())
    write_all(cluster.master)
    replica = cluster.replicas[0] if road == "stream" else cluster.start_replica()
    same_digest(cluster.master, replica)
    assert sorted(replica.vectors("one")) == sorted([*IDS, "huge"])
    assert replica.vectors("empty") == replica.vectors("emptied") == {}
    for number, vector_id in enumerate(IDS):
        wanted = {"only the payload": 19} if number == 0 else PAYLOADS[number % len(PAYLOADS)]
        for node in (cluster.master, replica):
            assert shown(node, vector_id) == (VECTORS[number % len(VECTORS)], wanted)
    assert replica.get(vector_path("one", "huge"))["payload"] == {"t": "x" * TEXT_MAX}
    for name in ("empty", "emptied"):
        assert replica.post(f"/collections/{name}/search", {"vector": [1.0]})["results"] == []
    cluster.master.restart(kill=True)
    replica.restart(kill=True)
    same_digest(cluster.master, replica)
    assert replica.syncs().full == 0


def test_a_payload_over_the_limit_is_refused_whole_and_one_at_the_limit_is_replicated(
    cluster: Cluster,
) -> None:
    cluster.start(replicas=1, collections=())
    master, [replica] = cluster.master, cluster.replicas
    master.post("/collections", {"name": "one", "dimension": 1})
    before = master.offset
    rows: list[dict[str, Any]] = [{"id": "small", "vector": [1.0]}]
    rows.append({"id": "huge", "vector": [1.0], "payload": {"t": "x" * (TEXT_MAX + 1)}})
    answer = master.request("POST", "/collections/one/vectors", {"vectors": rows})
    assert answer.status in (400, 413)
    assert str(PAYLOAD_BYTES_MAX) in answer.body["message"]
    assert str(PAYLOAD_BYTES_MAX + 1) in answer.body["message"]
    assert (master.offset, master.vectors("one")) == (before, {})
    largest = {"vector": [1.0], "payload": {"t": "y" * TEXT_MAX}}
    put(master, "one", *({"id": f"h{number}", **largest} for number in range(7)))
    wait_until(lambda: replica.offset == master.offset, "seven MiB in one operation")
    same_digest(master, replica)


def test_a_replica_with_the_smallest_limits_takes_what_its_master_took(cluster: Cluster) -> None:
    limits = {"batch_rows_max": 1, "dimension_max": 1, "id_bytes_max": 1, "payload_bytes_max": 16}
    more = {"collections_max": 1, "json_body_bytes_max": 1024, "json_depth_max": 4}
    tiny = {"journal_file_bytes": 4096, "journal_bytes_max": 8192, "checkpoint_bytes": 1024}
    cluster.start(replicas=0, collections=())
    replica = cluster.start_replica(limits={**limits, **more}, storage=tiny)
    cluster.wait_connected()
    write_all(cluster.master)
    same_digest(cluster.master, replica)
    replica.restart(kill=True)
    same_digest(cluster.master, replica)
    assert replica.syncs().full == 0
    assert replica.status()["counters"]["apply_failures"] == 0
