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
from benchmarks.measurement import Bench, Figure, Point, Row, at_least
from benchmarks.nodes import COLLECTION, Cluster, Node

ROWS_MAX = 100_000
QUERIES = 300
EFS = (16, 32, 64, 128, 256, 512, 1024)
EXACT = "exact"
NOISE = 0.95
"""Where the automatic choice is the exact scan, both are the same but for chance."""


@dataclass(frozen=True)
class Unstructured:
    """A node with the same Gaussian rows twice: with a graph, and never sealed, so that it is scanned."""

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
        cluster.create_collection(EXACT, segment_rows=count + 1, recall=1.0)
        for name in (COLLECTION, EXACT):
            fill(cluster.master, name, rows, count)
        wait_indexed(cluster.master)
        truth = nearest(rows, count, queries)
        yield Unstructured(cluster.master, vectors, queries, truth)


def recall_and_rate(scene: Unstructured) -> Figure:
    """Several ef, the automatic choice, and the exact scan."""
    asked = partial(searches, scene.queries, limit=LIMIT)
    points = [_point(scene, f"ef {ef}", asked(ef=ef)) for ef in EFS]
    automatic = _point(scene, "automatic", asked())
    exact = _point(scene, "exact scan", asked(name=EXACT))
    numpy = {"numpy /s": scan_rate(scene.vectors, scene.queries)}
    details = {"recall@10": float(automatic["recall@10"])}
    references = {"exact scan /s": float(exact["searches /s"]), **numpy}
    return Figure(float(automatic["searches /s"]), details, references, (*points, automatic, exact))


def _point(scene: Unstructured, way: str, requests: list[bytes]) -> Point:
    rate = ask(scene.node, requests).rate
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
