"""Content: whatever is written, all nodes hold and answer the same."""

from __future__ import annotations

import threading

import pytest

from tests.cluster.harness import Cluster, Node, payload_of, vector_of

OPERATIONS = 10_000
BATCH_ROWS = 50
BATCHES = 60


@pytest.mark.timeout(120)
def test_ten_thousand_random_mixed_operations_leave_equal_digests(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    with cluster.load(pause_secs=0.0) as load:
        load.wait_sent(OPERATIONS, deadline_secs=90)
    cluster.converged(deadline_secs=30)
    cluster.ledger.assert_none_doubled(cluster.master.offset)
    assert [replica.syncs().full for replica in cluster.replicas] == [1, 1]


def test_quiet_nodes_of_one_history_answer_every_exact_search_alike(cluster: Cluster) -> None:
    cluster.start(replicas=2)
    cluster.write(400)
    cluster.converged()
    filters = [
        None,
        {"must": [{"key": "even", "match": {"value": True}}]},
        {"must_not": [{"key": "kind", "match": {"value": "k3"}}]},
    ]
    for name in cluster.ledger.collections():
        for serial in range(0, 400, 40):
            for chosen in filters:
                query = {
                    "vector": vector_of(serial + 1),
                    "limit": 30,
                    **({"filter": chosen} if chosen else {}),
                }
                answers = [
                    node.post(f"/collections/{name}/search", query)
                    for node in (cluster.master, *cluster.replicas)
                ]
                assert answers[0] == answers[1] == answers[2]


def test_no_search_ever_sees_half_a_batch(cluster: Cluster) -> None:
    cluster.start(replicas=1)
    done = threading.Event()
    seen: dict[str, set[int]] = {}

    def read(node: Node) -> None:
        query = {"vector": vector_of(1), "limit": BATCH_ROWS}
        while not done.is_set():
            found = node.post("/collections/alpha/search", query)["results"]
            serials = {hit["payload"]["serial"] for hit in found}
            seen.setdefault(node.name, set()).update(serials)
            if len(found) not in (0, BATCH_ROWS) or len(serials) > 1:
                raise AssertionError(f"half a batch: {len(found)} rows of batches {serials}")

    errors: list[BaseException] = []

    def reading(node: Node) -> None:
        try:
            read(node)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    readers = [
        threading.Thread(target=reading, args=(node,)) for node in (cluster.master, cluster.replicas[0])
    ]
    for reader in readers:
        reader.start()
    for batch in range(1, BATCHES + 1):
        rows = [
            {"id": f"b{number}", "vector": vector_of(number + 1), "payload": payload_of(batch)}
            for number in range(BATCH_ROWS)
        ]
        cluster.master.post("/collections/alpha/vectors", {"vectors": rows})
    done.set()
    for reader in readers:
        reader.join()
    assert not errors, errors
    assert len(seen["master"]) > 3
