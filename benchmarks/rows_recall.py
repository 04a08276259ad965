"""Recall against rate on data without structure, where graphs do worst: does the automatic choice pay?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from benchmarks import data
from benchmarks.data import Vectors
from benchmarks.exact import LIMIT, Numbers, nearest, scan_rate
from benchmarks.filled import FAST_BUILDER, ask, fill, measured_recall, searches, wait_indexed
from benchmarks.measurement import Bench, Figure, Point, Row, at_least, percentile
from benchmarks.nodes import COLLECTION, Cluster, Node

ROWS_MAX = 100_000
QUERIES = 300
EFS = (16, 32, 64, 128, 256, 512, 1024)
EXACT = "exact"
NOISE = 0.95
"""Where the automatic choice is the exact scan, both are the same but for chance."""


@dataclass(frozen=True)
class Unstructured:
    """A node with the same Gaussian rows twice, each in one segment; where all must be found it is scanned.

    Both are sealed: a scan of rows that grow in memory takes 7 % less than one of the same rows in a file.
    """

    node: Node
    vectors: Vectors
    queries: Vectors
    truth: Numbers


@contextlib.contextmanager
def unstructured(bench: Bench) -> Iterator[Unstructured]:
    """The scene of this row."""
    count = bench.scaled(min(bench.size, ROWS_MAX), 5000)
    vectors = data.gaussian(count)
    queries = data.gaussian(bench.scaled(QUERIES, 50), stream=1)

    def rows(some: int, first: int) -> Vectors:
        return vectors[first : first + some]

    with Cluster(bench.directory / "recall", FAST_BUILDER) as cluster:
        cluster.create_collection(segment_rows=count)
        cluster.create_collection(EXACT, segment_rows=count, recall=1.0)
        for name in (COLLECTION, EXACT):
            fill(cluster.master, name, rows, count)
            wait_indexed(cluster.master, name)
        truth = nearest(rows, count, queries)
        yield Unstructured(cluster.master, vectors, queries, truth)


def recall_and_rate(scene: Unstructured) -> Figure:
    """Several ef; then the automatic choice and the exact scan in turns: both see the same machine."""
    asked = partial(searches, scene.queries, limit=LIMIT)
    points = [
        _point(scene, f"ef {ef}", requests := asked(ef=ef), ask(scene.node, requests).rate) for ef in EFS
    ]
    ways = {"automatic": asked(), "exact scan": asked(name=EXACT)}
    rates = rates_in_turns(scene.node, *ways.values())
    automatic, exact = (
        _point(scene, way, requests, rate) for (way, requests), rate in zip(ways.items(), rates, strict=True)
    )
    numpy = {"numpy /s": scan_rate(scene.vectors, scene.queries)}
    details = {"recall@10": float(automatic["recall@10"])}
    references = {"exact scan /s": float(exact["searches /s"]), **numpy}
    return Figure(float(automatic["searches /s"]), details, references, (*points, automatic, exact))


def rates_in_turns(node: Node, *ways: list[bytes]) -> list[float]:
    """Searches per second of each way, all with as many requests, by one client that asks them in turns.

    By the median: what holds the machine for a moment falls upon one of them.
    """
    times = ask(node, [request for turn in zip(*ways, strict=True) for request in turn]).latencies_ms
    return [1e3 / percentile(times[way :: len(ways)], 50) for way in range(len(ways))]


def _point(scene: Unstructured, way: str, requests: list[bytes], rate: float) -> Point:
    return {
        "way": way,
        "recall@10": measured_recall(scene.node, requests, scene.truth),
        "searches /s": rate,
    }


def _bound(beside: Mapping[str, float]) -> float:
    return NOISE * beside["exact scan /s"]


ROWS = (
    Row(
        "recall-gaussian",
        "Gaussian data: searches by the automatic choice, one client",
        "/s",
        unstructured,
        recall_and_rate,
        (),
        at_least("the exact scan (5 % for chance)", _bound),
    ),
)
