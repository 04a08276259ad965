"""Searching what is indexed: one graph over all rows, asked by one client, by eight, in batches, beside
ingest and beside a builder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import bson

from benchmarks import data
from benchmarks.data import Vectors
from benchmarks.exact import LIMIT, Numbers, nearest
from benchmarks.filled import (
    FAST_BUILDER,
    ask,
    building,
    fill,
    finds_enough,
    measured_recall,
    searches,
    upserts,
    wait_indexed,
)
from benchmarks.graphs import BATCH, Graphs
from benchmarks.load import BackgroundLoad, Load, drive, paced
from benchmarks.measurement import Bench, Figure, Row, at_least, at_most, percentile
from benchmarks.nodes import COLLECTION, Cluster, Node, wait_until
from benchmarks.rest_client import BSON, request_bytes

QUERIES = 1000
CLIENTS = 8
REPEATS = 4
"""The queries are asked so many times over."""
P99_FACTOR = 5.0
SHARE_OF_INGEST = 0.5
INGEST_ROWS = 50_000


@dataclass
class Indexed:
    """A master with one collection of ``bench.size`` rows in a single graph."""

    bench: Bench
    node: Node
    cluster: Cluster
    queries: Vectors
    truth: Numbers
    graphs: Graphs
    recall: float
    others: list[str] = field(default_factory=list)
    names: Iterator[int] = field(default_factory=count)
    quiet: Load = field(default_factory=Load)

    @property
    def requests(self) -> list[bytes]:
        """A search for each query."""
        return searches(self.queries)

    def nmslib(self) -> Mapping[str, float]:
        """The reference: what a query of the same graph costs in process."""
        return {"nmslib µs": self.graphs.query_us(self.queries)}

    def beside(self, **options: Any) -> str:
        """A new collection, for work that goes on beside the searches."""
        name = f"beside{next(self.names)}"
        self.cluster.create_collection(name, **options)
        self.others.append(name)
        return name

    def calm(self) -> None:
        """Drop the other collections, and return when no graph is being built for them any more."""
        with self.node.client() as client:
            for name in self.others:
                client.exchange(request_bytes("DELETE", f"/collections/{name}"))
        self.others.clear()
        wait_until(lambda: not building(self.node), "no graph is being built")


@contextlib.contextmanager
def indexed(bench: Bench) -> Iterator[Indexed]:
    """The scene of these rows. The graph is built in a hurry, then the node starts anew with its defaults."""
    rows, queries = bench.scaled(bench.size, 5000), data.queries(bench.scaled(QUERIES, 100))
    with Cluster(bench.directory / "search", FAST_BUILDER) as cluster:
        node = cluster.master
        cluster.create_collection(segment_rows=rows)
        fill(node, COLLECTION, data.clusters, rows)
        wait_indexed(node)
        node.stop()
        del node.settings["index"]
        node.start()
        truth = nearest(data.clusters, rows, queries)
        recall = measured_recall(node, searches(queries), truth)
        yield Indexed(bench, node, cluster, queries, truth, Graphs.of(node), recall)


def one(scene: Indexed) -> Figure:
    """One keep-alive client."""
    times = ask(scene.node, scene.requests * REPEATS).latencies_ms
    details = {"p99 ms": percentile(times, 99), "recall@10": scene.recall}
    return Figure(percentile(times, 50), details, scene.nmslib())


def eight(scene: Indexed) -> Figure:
    """Eight keep-alive clients."""
    load = ask(scene.node, scene.requests * REPEATS, CLIENTS)
    details = {"p99 ms": percentile(load.latencies_ms, 99), "recall@10": scene.recall}
    return Figure(load.rate, details, scene.nmslib())


def batch(scene: Indexed) -> Figure:
    """Batches of 100 in one request of packed vectors, one client."""
    path, queries = f"/collections/{COLLECTION}/search/batch", scene.queries
    requests = [
        request_bytes(
            "POST",
            path,
            bson.encode({"vectors": queries[start : start + BATCH].tobytes(), "limit": LIMIT}),
            BSON,
        )
        for start in range(0, len(queries), BATCH)
    ]
    load = ask(scene.node, requests * REPEATS)
    rate = len(queries) * REPEATS / load.seconds
    details = {"ms a batch": percentile(load.latencies_ms, 50), "recall@10": scene.recall}
    return Figure(rate, details, {"nmslib batch /s": scene.graphs.batch_rate(queries)})


def _beside(scene: Indexed, quiet: Load, busy: Load, more: Mapping[str, float]) -> Figure:
    details = {
        "p50 ms": percentile(busy.latencies_ms, 50),
        "quiet p50 ms": percentile(quiet.latencies_ms, 50),
        "recall@10": scene.recall,
        **more,
    }
    references = {"quiet p99 ms": percentile(quiet.latencies_ms, 99)}
    return Figure(percentile(busy.latencies_ms, 99), details, references)


def ingesting(scene: Indexed) -> Figure:
    """While half as many vectors come in as can, into another collection, so that what is searched stays."""
    node, total = scene.node, scene.bench.scaled(INGEST_ROWS)
    scene.calm()
    most = fill(node, scene.beside(), data.clusters, total)
    scene.calm()
    quiet = ask(node, scene.requests * REPEATS)
    per_second = SHARE_OF_INGEST * most / 1000
    with BackgroundLoad(node.port, 1, ingest_requests, scene.beside(), per_second) as load:
        busy = drive(node.port, scene.requests * REPEATS, 1)
    more = {"vectors/s": 1000 * load.load.rate, "vectors/s at most": most}
    return _beside(scene, quiet, busy, more)


def ingest_requests(name: str, per_second: float) -> Iterable[bytes]:
    """Batches without end, so many a second. Of the process in the background."""
    return paced(upserts(name, _repeated, 1 << 40), per_second)


def _repeated(rows: int, first: int) -> Vectors:
    """The same vectors again and again: making new ones would cost the machine more than ingesting them."""
    return _SOME[:rows]


_SOME = data.clusters(1000)


def while_building(scene: Indexed) -> Figure:
    """While a graph of as many rows is built, by the builder as it is unless told otherwise.

    One such build outlasts all runs: only the first can see the node quiet.
    """
    node = scene.node
    if not scene.quiet.latencies_ms or not building(node):
        scene.calm()
        scene.quiet = ask(node, scene.requests * REPEATS)
        rows = scene.bench.scaled(scene.bench.size, 5000)
        fill(node, scene.beside(segment_rows=rows), data.clusters, rows)
        wait_until(lambda: building(node), "a graph is being built")
    busy = drive(node.port, scene.requests * REPEATS, 1)
    return _beside(scene, scene.quiet, busy, {"still building": float(building(node))})


def _p50(beside: Mapping[str, float]) -> float:
    return 1.4 * (beside["http1 p50 ms"] + beside["nmslib µs"] / 1000)


def _rate_of_eight(beside: Mapping[str, float]) -> float:
    return 0.8 / (1 / beside["http8 /s"] + beside["nmslib µs"] / 1e6)


_FIVE_TIMES = at_most("5 x its quiet p99", lambda beside: P99_FACTOR * beside["quiet p99 ms"])
ROWS = (
    Row(
        "search-one",
        "one search, one keep-alive client, p50",
        "ms",
        indexed,
        one,
        ("http1",),
        replace(at_most("1.4 x (http1 p50 + nmslib)", _p50), limits=(finds_enough,)),
    ),
    Row(
        "search-eight",
        "searches, eight clients",
        "/s",
        indexed,
        eight,
        ("http8",),
        replace(at_least("0.8 / (1/http8 + nmslib)", _rate_of_eight), limits=(finds_enough,)),
    ),
    Row(
        "search-batch",
        "batch search of 100, one client",
        "queries/s",
        indexed,
        batch,
        (),
        replace(
            at_least("60 % of nmslib's batch call", lambda beside: 0.6 * beside["nmslib batch /s"]),
            limits=(finds_enough,),
        ),
    ),
    Row(
        "search-ingesting",
        "search while ingesting at 50 %, p99",
        "ms",
        indexed,
        ingesting,
        (),
        _FIVE_TIMES,
    ),
    Row(
        "search-building",
        "search while a graph is built, p99",
        "ms",
        indexed,
        while_building,
        (),
        _FIVE_TIMES,
    ),
)
