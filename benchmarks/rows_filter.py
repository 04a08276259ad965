"""Filtered searches over payloads, beside the same searches without a filter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks import data
from benchmarks.data import Vectors
from benchmarks.exact import Numbers, nearest
from benchmarks.filled import FAST_BUILDER, ask, fill, finds_enough, measured_recall, searches, wait_indexed
from benchmarks.measurement import Bench, Figure, Row, at_most, percentile
from benchmarks.nodes import COLLECTION, Cluster, Node

QUERIES = 1000
FACTOR = 3.0


def payload(row: int) -> Mapping[str, Any]:
    """``percent`` has nothing to do with where a row lies: any value of it matches 1 %."""
    return {"percent": row % 100, "name": f"row {row}"}


@dataclass(frozen=True)
class Payloads:
    """A node with payloads, one graph over all rows."""

    bench: Bench
    node: Node
    rows: int
    queries: Vectors


@contextlib.contextmanager
def payloads(bench: Bench) -> Iterator[Payloads]:
    """The scene of these rows."""
    rows, queries = bench.scaled(bench.size, 5000), data.queries(bench.scaled(QUERIES, 100))
    with Cluster(bench.directory / "filter", FAST_BUILDER) as cluster:
        cluster.create_collection(segment_rows=rows)
        fill(cluster.master, COLLECTION, data.clusters, rows, payload=payload)
        wait_indexed(cluster.master)
        yield Payloads(bench, cluster.master, rows, queries)


def filtered(scene: Payloads, percent: int) -> Figure:
    """``percent`` of the rows match."""
    condition = {"key": "percent", "range": {"lt": percent}}
    requests = searches(scene.queries, filter={"must": [condition]})
    free = ask(scene.node, searches(scene.queries)).latencies_ms
    times = ask(scene.node, requests).latencies_ms

    def keep(numbers: Numbers) -> Numbers:
        kept: Numbers = numbers[numbers % 100 < percent]
        return kept

    truth = nearest(data.clusters, scene.rows, scene.queries, keep)
    details = {
        "p99 ms": percentile(times, 99),
        "recall@10": measured_recall(scene.node, requests, truth),
    }
    return Figure(percentile(times, 50), details, {"unfiltered p50 ms": percentile(free, 50)})


_TARGET = replace(
    at_most("3 x the unfiltered", lambda beside: FACTOR * beside["unfiltered p50 ms"]), limits=(finds_enough,)
)
ROWS = tuple(
    Row(
        f"filter-{percent}",
        f"filtered search, {percent} % of the payloads match, p50",
        "ms",
        payloads,
        partial(filtered, percent=percent),
        (),
        _TARGET,
    )
    for percent in (1, 50)
)
