"""Writing: until the replica has everything, durable on both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

import orjson

from benchmarks import data
from benchmarks.load import Load, drive
from benchmarks.measurement import Bench, Figure, Row, Watch, at_least
from benchmarks.nodes import Cluster
from benchmarks.rest_client import BSON, request_bytes

ROWS_OF_A_BATCH = 1000
OBJECTS_OF_A_BATCH = 100
BATCH_CLIENTS = 4
SINGLE_CLIENTS = 32


@dataclass
class Pair:
    """A master and a replica that streams; each run gets a collection of its own."""

    bench: Bench
    cluster: Cluster
    names: Iterator[int]

    def collection(self) -> str:
        """The path of the vectors of a new collection."""
        return self.cluster.create_collection(f"bench{next(self.names)}")


@contextlib.contextmanager
def pair(bench: Bench) -> Iterator[Pair]:
    """The scene of these rows."""
    with Cluster(bench.directory / "ingest") as cluster:
        cluster.replica()
        yield Pair(bench, cluster, count())


@dataclass
class Ingest:
    """What one ingest cost, from the first byte sent to the last durable on the replica."""

    seconds: float
    load: Load
    written_bytes: int
    """By both nodes."""
    master_cpu_secs: float
    replica_cpu_secs: float


def ingest(cluster: Cluster, requests: list[bytes], clients: int) -> Ingest:
    """Send all requests and wait until the replicas have everything."""
    nodes = cluster.nodes
    written = sum(node.written_bytes() for node in nodes)
    cpu = [node.cpu_secs() for node in nodes]
    watch = Watch()
    load = drive(cluster.master.port, requests, clients)
    cluster.wait_replicas(len(nodes) - 1)
    seconds = watch.seconds
    used = [node.cpu_secs() - before for node, before in zip(nodes, cpu, strict=True)]
    return Ingest(
        seconds,
        load,
        sum(node.written_bytes() for node in nodes) - written,
        used[0],
        max(used[1:], default=0.0),
    )


def details(done: Ingest, vectors: int) -> dict[str, float]:
    """What is worth seeing beside the rate."""
    return {
        "master µs of CPU each": done.master_cpu_secs / vectors * 1e6,
        "replica µs of CPU each": done.replica_cpu_secs / vectors * 1e6,
        "bytes written each": done.written_bytes / vectors,
    }


def columns(scene: Pair) -> Figure:
    """BSON columns of 1,000."""
    total = scene.bench.scaled(100_000)
    path = scene.collection()
    requests = [
        request_bytes("POST", path, data.columns_body(vectors, first), BSON)
        for first, vectors in data.batches(total, ROWS_OF_A_BATCH)
    ]
    done = ingest(scene.cluster, requests, BATCH_CLIENTS)
    return Figure(total / done.seconds, details(done, total))


def objects(scene: Pair) -> Figure:
    """JSON objects of 100."""
    total = scene.bench.scaled(20_000)
    path = scene.collection()
    bodies = [
        orjson.dumps(
            {
                "vectors": [
                    {
                        "id": data.identity(first + row),
                        "vector": vector.tolist(),
                        "payload": {"row": first + row},
                    }
                    for row, vector in enumerate(vectors)
                ]
            }
        )
        for first, vectors in data.batches(total, OBJECTS_OF_A_BATCH)
    ]
    watch = Watch()
    for body in bodies:
        orjson.loads(body)
    parsed = total / watch.seconds
    requests = [request_bytes("POST", path, body) for body in bodies]
    done = ingest(scene.cluster, requests, BATCH_CLIENTS)
    return Figure(total / done.seconds, details(done, total), {"orjson /s": parsed})


def singles(scene: Pair) -> Figure:
    """One vector a request."""
    total = scene.bench.scaled(10_000)
    path = scene.collection()
    requests = [
        request_bytes(
            "POST",
            path,
            orjson.dumps({"vectors": [{"id": data.identity(first), "vector": vectors[0].tolist()}]}),
        )
        for first, vectors in data.batches(total, 1)
    ]
    done = ingest(scene.cluster, requests, SINGLE_CLIENTS)
    return Figure(total / done.seconds, details(done, total))


def share_of_disk(
    value: float, details: Mapping[str, float], beside: Mapping[str, float]
) -> Mapping[str, float]:
    """How many vectors a second the disk could take, and how much of that is reached."""
    allows = beside["disk MB/s"] * 1e6 / max(details["bytes written each"], 1)
    return {"disk allows /s": allows, "share of disk": value / allows}


ROWS = (
    Row(
        "ingest-columns",
        "batch ingest, BSON columns of 1,000, until the replica has all durably",
        "vectors/s",
        pair,
        columns,
        ("redis", "disk"),
        at_least("2 x redis", lambda beside: 2 * beside.get("redis /s", 150_000)),
        derived=share_of_disk,
    ),
    Row(
        "ingest-objects",
        "the same as JSON objects of 100",
        "vectors/s",
        pair,
        objects,
        (),
        at_least("half of orjson", lambda beside: beside["orjson /s"] / 2),
    ),
    Row(
        "ingest-singles",
        "single-vector writes, 32 keep-alive clients, until the replica has all durably",
        "writes/s",
        pair,
        singles,
        ("http8",),
        at_least("half of http8", lambda beside: beside["http8 /s"] / 2),
    ),
)
