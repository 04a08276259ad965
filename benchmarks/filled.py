"""A node that holds vectors, as the rows about searching and size need it: filled, indexed, asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import bson
import orjson

from benchmarks import data
from benchmarks.data import Vectors
from benchmarks.exact import Numbers, Rows, recall
from benchmarks.load import Load, drive
from benchmarks.measurement import Watch
from benchmarks.nodes import COLLECTION, Node, indexed, wait_until
from benchmarks.rest_client import BSON, request_bytes

BATCH_ROWS = 1000
INGEST_CLIENTS = 2
RECALL_MIN = 0.95
INDEX_SECS = 1200.0
SETTLED_SECS = 2.5
"""So long nothing must be left to index: merges are planned a moment after what they merge is sealed."""

FAST_BUILDER: Mapping[str, Mapping[str, Any]] = {"index": {"builder_threads": 2, "builder_niceness": 0}}
"""Where the graph is not what is measured, it is built in half the time."""

Payload = Callable[[int], Mapping[str, Any]]


def upserts(
    name: str, rows: Rows, count: int, first: int = 0, payload: Payload | None = None
) -> Iterator[bytes]:
    """Requests that store rows ``first`` onwards of ``rows`` in batches of 1,000, as BSON columns."""
    path = f"/collections/{name}/vectors"
    for start in range(first, first + count, BATCH_ROWS):
        vectors = rows(min(BATCH_ROWS, first + count - start), start)
        yield request_bytes("POST", path, _columns(vectors, start, payload), BSON)


def _columns(vectors: Vectors, first: int, payload: Payload | None) -> bytes:
    if payload is None:
        return data.columns_body(vectors, first)
    numbers = range(first, first + len(vectors))
    return bytes(
        bson.encode(
            {
                "ids": [data.identity(row) for row in numbers],
                "vectors": vectors.tobytes(),
                "payloads": [payload(row) for row in numbers],
            }
        )
    )


def fill(
    node: Node, name: str, rows: Rows, count: int, first: int = 0, payload: Payload | None = None
) -> float:
    """Store rows and return how many a second were acknowledged. The requests are made beforehand."""
    requests = list(upserts(name, rows, count, first, payload))
    watch = Watch()
    drive(node.port, requests, INGEST_CLIENTS)
    return count / watch.seconds


def wait_indexed(node: Node, name: str = COLLECTION) -> None:
    """Return when nothing has been left to seal, merge or build for a while."""
    since = time.monotonic()

    def settled() -> bool:
        nonlocal since
        if building(node) or not indexed(node, name):
            since = time.monotonic()
        return time.monotonic() - since > SETTLED_SECS

    wait_until(settled, f"all of {name} is indexed", INDEX_SECS)


def building(node: Node) -> bool:
    """Whether a graph is being built."""
    return bool(node.get("/replication/status")["graphs"]["building"])


def searches(queries: Vectors, name: str = COLLECTION, **options: Any) -> list[bytes]:
    """A request for each query."""
    path = f"/collections/{name}/search"
    return [
        request_bytes("POST", path, orjson.dumps({"vector": query.tolist(), **options})) for query in queries
    ]


def measured_recall(node: Node, requests: Sequence[bytes], truth: Numbers) -> float:
    """recall@10 of the answers to these requests, by ids of ``data.identity``."""
    answers = []
    with node.client() as client:
        for request in requests:
            answer = orjson.loads(client.exchange(request))
            answers.append([int(result["id"][1:]) for result in answer["results"]])
    return recall(answers, truth)


def finds_enough(details: Mapping[str, float], _: Mapping[str, float]) -> bool:
    """A limit of targets: the recall that every search figure must have."""
    return details["recall@10"] >= RECALL_MIN


def ask(node: Node, requests: Sequence[bytes], clients: int = 1) -> Load:
    """All requests, by so many clients, after a few that warm up."""
    drive(node.port, requests[: max(1, len(requests) // 10)], clients)
    return drive(node.port, requests, clients)
