"""A hundred thousand vectors: load, replicate, search, restart, within the memory that was promised."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.cluster.harness import Cluster, Node, wait_until

ROWS = int(os.environ.get("VECTORIZER_TEST_ROWS", "100000"))
DIMENSION = 128
BATCH_ROWS = 2000
CLUSTERS = 64
RAW_BYTES = ROWS * DIMENSION * 4
ANONYMOUS_BYTES_MAX = int(2.5 * RAW_BYTES) + 120 * 10**6
FIRST_SEARCH_SECS = 5.0
SAMPLE_SECS = 0.1
RECALL = 0.95
QUERIES = 100
FEW_FILES = 128
SEGMENTS = 64


def clustered(rows: int, seed: int) -> np.ndarray:
    """(rows, DIMENSION) float32 around the same CLUSTERS centres for every seed."""
    centres = np.random.default_rng(1).standard_normal((CLUSTERS, DIMENSION))
    random = np.random.default_rng(seed)
    chosen = centres[random.integers(0, CLUSTERS, rows)]
    return (chosen + 0.3 * random.standard_normal((rows, DIMENSION))).astype("<f4")


@contextmanager
def peaks(nodes: list[Node]) -> Iterator[dict[str, int]]:
    """The highest RssAnon of each server process, sampled while the context lasts."""
    highest: dict[str, int] = {node.name: 0 for node in nodes}
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for node in nodes:
                # A process that is just ending has no memory any more, and no line about it.
                with contextlib.suppress(AssertionError, FileNotFoundError):
                    if node.running:
                        highest[node.name] = max(highest[node.name], node.anonymous_bytes())
            time.sleep(SAMPLE_SECS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield highest
    assert watcher.is_alive(), "memory was not watched to the end"
    done.set()
    watcher.join()


def indexed(node: Node) -> bool:
    """Do all sealed segments have their graphs?"""
    status = node.get("/collections/big")["indexing_status"]
    sealed = status["growing_vectors"] < status["segment_rows"] <= ROWS
    return bool(sealed and status["graphs"] == status["segments"]) and not node.builders()


def nearest(vectors: np.ndarray, queries: np.ndarray, limit: int) -> list[set[str]]:
    """The ids of the nearest rows of each query."""
    distances = (vectors**2).sum(axis=1) - 2 * queries @ vectors.T
    rows = np.argpartition(distances, limit, axis=1)[:, :limit]
    return [{f"v{row}" for row in found} for found in rows.tolist()]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_hundred_thousand_vectors_replicate_and_are_searched_in_bounded_memory(
    cluster: Cluster,
) -> None:
    index = {"merge_idle_secs": 3600}  # a merge of what is at rest would begin a new graph
    cluster.start(replicas=2, collections=(), replication={"replica_timeout_secs": 10}, index=index)
    nodes = [cluster.master, *cluster.replicas]
    vectors, queries = clustered(ROWS, seed=2), clustered(QUERIES, seed=3)
    with peaks(nodes) as highest:
        cluster.master.post("/collections", {"name": "big", "dimension": DIMENSION, "metric": "euclidean"})
        for start in range(0, ROWS, BATCH_ROWS):
            part = vectors[start : start + BATCH_ROWS]
            ids = [f"v{start + row}" for row in range(len(part))]
            cluster.master.post_bson("/collections/big/vectors", {"ids": ids, "vectors": part.tobytes()})
        wait_until(lambda: len({node.offset for node in nodes}) == 1, "the replicas have everything", 60)
        for node in nodes:
            wait_until(lambda node=node: indexed(node), f"{node.name} has built its graphs", 200)
        expected = nearest(vectors, queries, 10)
        for node in nodes:
            assert mean_recall(node, queries, expected) >= RECALL
        restarted = cluster.replicas[0]
        restarted.stop()
        began = time.monotonic()
        restarted.start()
        answer = restarted.post("/collections/big/search", {"vector": queries[0].tolist(), "limit": 10})
        assert time.monotonic() - began < FIRST_SEARCH_SECS
        assert len(answer["results"]) == 10
        assert indexed(restarted), "the graphs were loaded, not rebuilt"
    digests = {node.get("/collections/big/digest")["digest"] for node in nodes}
    assert len(digests) == 1
    delays = {node.name: node.status()["event_loop"] for node in nodes}
    print(f"event loop {delays}")
    print(f"raw {RAW_BYTES >> 20} MiB, peaks { ({name: size >> 20 for name, size in highest.items()}) } MiB")
    assert max(highest.values()) < ANONYMOUS_BYTES_MAX, highest


def mean_recall(node: Node, queries: np.ndarray, expected: list[set[str]]) -> float:
    """recall@10 of unseen queries."""
    found = []
    for query, truth in zip(queries, expected, strict=True):
        answer = node.post("/collections/big/search", {"vector": query.tolist(), "limit": 10})
        ids = {hit["id"] for hit in answer["results"]}
        found.append(len(ids & truth) / 10)
    return float(np.mean(found))


def test_segments_are_not_limited_by_how_many_files_a_shell_lets_a_process_open(cluster: Cluster) -> None:
    node = cluster.master_node("many-files", index={"segment_rows": 16, "segment_rows_max": 16})
    node.start(ready=False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (FEW_FILES, most))
    node.wait_ready()
    node.post("/collections", {"name": "many", "dimension": 2})
    for first in range(0, 16 * SEGMENTS, 512):
        rows = [{"id": str(first + number), "vector": [1.0, float(number)]} for number in range(512)]
        node.post("/collections/many/vectors", {"vectors": rows})

    def segments() -> int:
        return int(node.get("/collections/many")["indexing_status"]["segments"])

    wait_until(lambda: segments() == SEGMENTS, "all rows are sealed")
    assert node.get("/health")["status"] == "ok"
