"""Syncs: an empty replica gets everything, one that was away gets what it missed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from time import sleep, time

import orjson

from benchmarks import data
from benchmarks.load import BackgroundLoad, drive
from benchmarks.measurement import Bench, Figure, Row, Target, at_least, percentile
from benchmarks.nodes import COLLECTION, Cluster, Node, wait_settled, wait_until
from benchmarks.rest_client import BSON, RequestFailed, request_bytes
from benchmarks.rows_ingest import BATCH_CLIENTS, ROWS_OF_A_BATCH, SINGLE_CLIENTS

QUIET_SECS = 2.0
SEARCH_POLL_SECS = 0.005
SYNC_SECS_MAX = 1.0
WRITE_P99_FACTOR = 3
NOBODY = "127.0.0.1:1"
"""Nobody listens there: a replica of it waits until it is told whom to follow."""


@dataclass
class Filled:
    """A master with data and graphs."""

    bench: Bench
    cluster: Cluster
    path: str
    names: Iterator[int]


@contextlib.contextmanager
def filled(bench: Bench) -> Iterator[Filled]:
    """The scene of a full sync."""
    total = bench.scaled(100_000, 5000)
    with Cluster(bench.directory / "full", {"index": {"builder_threads": 2}}) as cluster:
        # With little data, segments must be small to get a graph at all.
        path = cluster.create_collection(segment_rows=4096 if bench.quick else 16384)
        drive(
            cluster.master.port,
            (
                request_bytes("POST", path, data.columns_body(vectors, first), BSON)
                for first, vectors in data.batches(total, ROWS_OF_A_BATCH)
            ),
            BATCH_CLIENTS,
        )
        wait_settled(cluster.master)
        yield Filled(bench, cluster, path, count())


def writes_without_end(path: str, prefix: str) -> Iterator[bytes]:
    """Single writes, as one client sends them."""
    vectors = [vector.tolist() for vector in data.clusters(100)]
    for number in count():
        row = {"id": f"{prefix}{number}", "vector": vectors[number % len(vectors)]}
        yield request_bytes("POST", path, orjson.dumps({"vectors": [row]}))


def full_sync(scene: Filled) -> Figure:
    """An empty replica: from the link's handshake to its first search by graph."""
    cluster, run = scene.cluster, next(scene.names)
    port = cluster.master.port
    with BackgroundLoad(port, 1, writes_without_end, scene.path, f"quiet{run}-") as quiet:
        sleep(QUIET_SECS / (10 if scene.bench.quick else 1))
    replica = cluster.replica(start=False)
    replica.settings["replication"]["master_address"] = NOBODY
    replica.start()
    with BackgroundLoad(port, 1, writes_without_end, scene.path, f"busy{run}-") as busy:
        follow(replica, cluster)
        wait_searched_by_graph(replica)
        seconds = time() - replica.logged_at("full_sync_offered")
    synced = cluster.master.get("/replication/stats")["snapshot_size"]
    retire(cluster, replica)
    before, meanwhile = percentile(quiet.load.latencies_ms, 99), percentile(busy.load.latencies_ms, 99)
    details = {
        "seconds": seconds,
        "MB": synced / 1e6,
        "write p99 ms before": before,
        "write p99 ms meanwhile": meanwhile,
    }
    return Figure(synced / seconds / 1e6, details)


def follow(replica: Node, cluster: Cluster) -> None:
    """Tell a replica of nobody to follow the master."""
    with replica.client() as client:
        client.post("/replication/follow", {"master_address": cluster.replication_address})


def wait_searched_by_graph(replica: Node) -> None:
    """Return when a search is answered and what is sealed has its graph."""
    query = {"vector": data.queries(1)[0].tolist(), "limit": 10}
    request = request_bytes("POST", f"/collections/{COLLECTION}/search", orjson.dumps(query))
    with replica.client() as client:

        def searched() -> bool:
            try:
                client.exchange(request)
            except RequestFailed:  # 503 while it syncs, 404 before it has the collection
                sleep(SEARCH_POLL_SECS)
                return False
            status = client.get(f"/collections/{COLLECTION}")["indexing_status"]
            return bool(status["segments"] > 0 and status["graphs"] == status["segments"])

        wait_until(searched, "the replica searches by graph")


def retire(cluster: Cluster, replica: Node) -> None:
    """End a replica for good."""
    replica.kill()
    shutil.rmtree(replica.directory)
    cluster.nodes.remove(replica)


# -- partial sync --------------------------------------------------------------------------------------------


@dataclass
class Missed:
    """A master with many writes that a stopped replica has missed; its directory is copied for each run."""

    bench: Bench
    cluster: Cluster
    replica: Node
    missed: int


@contextlib.contextmanager
def missed(bench: Bench) -> Iterator[Missed]:
    """The scene of a partial sync."""
    total = bench.scaled(100_000)
    with Cluster(bench.directory / "partial") as cluster:
        replica = cluster.replica()
        path = cluster.create_collection()
        cluster.wait_replicas()
        replica.stop()
        requests = (
            request_bytes(
                "POST",
                path,
                orjson.dumps({"vectors": [{"id": data.identity(first), "vector": vectors[0].tolist()}]}),
            )
            for first, vectors in data.batches(total, 1)
        )
        drive(cluster.master.port, requests, SINGLE_CLIENTS)
        replica.settings["replication"]["master_address"] = NOBODY
        yield Missed(bench, cluster, replica, total)


def partial_sync(scene: Missed) -> Figure:
    """From the link's handshake until the replica holds all durably."""
    replica, cluster = scene.replica, scene.cluster
    kept = replica.directory / "kept"
    shutil.copytree(replica.directory / "data", kept)
    replica.start()
    used = replica.cpu_secs()
    follow(replica, cluster)
    cluster.wait_replicas()
    seconds = time() - replica.logged_at("link_up")
    counters = replica.get("/replication/status")["counters"]
    if counters["full_syncs"]:
        raise RequestFailed(f"the replica was synced in full: {counters}")
    cpu = {"replica s of CPU": replica.cpu_secs() - used}
    replica.kill()
    shutil.rmtree(replica.directory / "data")
    kept.rename(replica.directory / "data")
    return Figure(scene.missed / seconds, {"seconds": seconds, **cpu})


ROWS = (
    Row(
        "sync-full",
        "empty replica: link up → first search by graph on 100,000",
        "MB/s",
        filled,
        full_sync,
        ("disk", "pipe"),
        Target(
            "60 % of disk, and 1 s, and the master's write p99 3 x",
            lambda beside: 0.6 * beside["disk MB/s"],
            at_least=True,
            limits=[
                lambda details, beside: details["seconds"] <= SYNC_SECS_MAX,
                lambda details, beside: (
                    details["write p99 ms meanwhile"] <= WRITE_P99_FACTOR * details["write p99 ms before"]
                ),
            ],
        ),
    ),
    Row(
        "sync-partial",
        "partial sync after 100,000 missed single writes, until all is durable",
        "operations/s",
        missed,
        partial_sync,
        (),
        at_least("100,000", lambda beside: 100_000.0),
    ),
)
