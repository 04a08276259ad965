"""Lag: from a write's answer on the master to its answer by a read on the replica."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter

import orjson

from benchmarks import data
from benchmarks.load import BackgroundLoad, paced
from benchmarks.measurement import Bench, Figure, Row, Target, at_most, percentile
from benchmarks.nodes import Cluster
from benchmarks.rest_client import BSON, request_bytes
from benchmarks.rows_ingest import BATCH_CLIENTS, ROWS_OF_A_BATCH, ingest

INGEST_SHARE = 0.5
SAMPLES = 1000
FAR = 500_000_000
"""Rows from here on are written in the background."""
DISTINCT_BATCHES = 20
READ_TIMEOUT_MS = 10_000


@dataclass
class Followed:
    """A master and a replica with one collection, at ``path``."""

    bench: Bench
    cluster: Cluster
    path: str
    numbers: Iterator[int] = field(default_factory=count)

    def lags_ms(self, samples: int) -> tuple[list[float], list[float]]:
        """Milliseconds of so many writes, one after the other, and of the lags after them.

        The read names the offset that the write was given, so it is answered when the replica has it.
        """
        master, replica = self.cluster.nodes
        vectors = data.clusters(samples)
        writes: list[float] = []
        lags: list[float] = []
        with master.client() as writer, replica.client() as reader:
            for vector in vectors:
                name = f"lag{next(self.numbers)}"
                body = orjson.dumps({"vectors": [{"id": name, "vector": vector.tolist()}]})
                request = request_bytes("POST", self.path, body)
                began = perf_counter()
                answer = writer.exchange(request)
                written = perf_counter()
                offset = orjson.loads(answer)["offset"]
                query = f"?min_offset={offset}&timeout_ms={READ_TIMEOUT_MS}"
                reader.exchange(request_bytes("GET", f"{self.path}/{name}{query}"))
                lags.append((perf_counter() - written) * 1e3)
                writes.append((written - began) * 1e3)
        return writes, lags


@contextlib.contextmanager
def followed(bench: Bench) -> Iterator[Followed]:
    """The scene of these rows."""
    with Cluster(bench.directory / "lag") as cluster:
        cluster.replica()
        yield Followed(bench, cluster, cluster.create_collection())


def idle(scene: Followed) -> Figure:
    """Nothing else goes on."""
    writes, lags = scene.lags_ms(scene.bench.scaled(SAMPLES, 100))
    details = {"p99 ms": percentile(lags, 99), "write p50 ms": percentile(writes, 50)}
    return Figure(percentile(lags, 50), details)


def batches_without_end(path: str, batches_per_second: float) -> Iterator[bytes]:
    """Requests with BSON columns, at that rate; the vectors repeat, the rows do not."""
    distinct = [vectors for _, vectors in data.batches(DISTINCT_BATCHES * ROWS_OF_A_BATCH, ROWS_OF_A_BATCH)]
    requests = (
        request_bytes(
            "POST",
            path,
            data.columns_body(distinct[number % DISTINCT_BATCHES], FAR + number * ROWS_OF_A_BATCH),
            BSON,
        )
        for number in count()
    )
    return paced(requests, batches_per_second)


def ingest_rate(cluster: Cluster, path: str, total: int) -> float:
    """Vectors per second of an ingest of BSON columns until the replica has all: the maximum."""
    requests = [
        request_bytes("POST", path, data.columns_body(vectors, FAR + first), BSON)
        for first, vectors in data.batches(total, ROWS_OF_A_BATCH)
    ]
    return total / ingest(cluster, requests, BATCH_CLIENTS).seconds


def while_ingesting(scene: Followed) -> Figure:
    """Columns come in at half the maximal rate meanwhile."""
    path = scene.cluster.create_collection(f"background{next(scene.numbers)}")
    maximum = ingest_rate(scene.cluster, path, scene.bench.scaled(50_000))
    per_second = INGEST_SHARE * maximum / ROWS_OF_A_BATCH
    port = scene.cluster.master.port
    with BackgroundLoad(port, 1, batches_without_end, path, per_second) as background:
        writes, lags = scene.lags_ms(scene.bench.scaled(SAMPLES, 100))
    details = {
        "p50 ms": percentile(lags, 50),
        "write p99 ms": percentile(writes, 99),
        "ingest at most /s": maximum,
        "ingest meanwhile /s": background.load.rate * ROWS_OF_A_BATCH,
    }
    return Figure(percentile(lags, 99), details)


def _idle_bound(beside: Mapping[str, float]) -> float:
    return 2 * beside["http1 p50 ms"] + beside["fdatasync ms"]


ROWS = (
    Row(
        "lag-idle",
        "lag, idle: p50 from the master's answer to a write to the replica's answer to a read of it",
        "ms",
        followed,
        idle,
        ("http1", "disk"),
        Target(
            "2 x http1 p50 + fdatasync, p99 3 x that",
            _idle_bound,
            at_least=False,
            limits=[lambda details, beside: details["p99 ms"] <= 3 * _idle_bound(beside)],
        ),
    ),
    Row(
        "lag-ingesting",
        "the same at half of maximal ingest: p99",
        "ms",
        followed,
        while_ingesting,
        (),
        at_most("7 ms", lambda beside: 7.0),
    ),
)
