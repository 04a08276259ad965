"""What a second and a third replica cost the master."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, pairwise

from benchmarks import data
from benchmarks.measurement import Bench, Figure, Row, at_most
from benchmarks.nodes import Cluster, Node
from benchmarks.rest_client import BSON, request_bytes
from benchmarks.rows_ingest import BATCH_CLIENTS, ROWS_OF_A_BATCH, Ingest, ingest

REPLICAS = (1, 2, 3)
SAMPLE_SECS = 0.05


@dataclass
class Counted:
    """The same ingest with one, two and three replicas."""

    bench: Bench
    names: Iterator[int] = field(default_factory=count)
    memory: Mapping[int, float] = field(default_factory=dict)
    """Of the run before: bytes that the master needed more than before the ingest, at most."""


@contextlib.contextmanager
def counted(bench: Bench) -> Iterator[Counted]:
    """The scene of these rows."""
    yield Counted(bench)


class Highest:
    """The most anonymous memory that a node had while this was entered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = node.anonymous_bytes()
        self.bytes = self.before

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECS):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._node.anonymous_bytes())


def cost(scene: Counted) -> Figure:
    """The rate at which the master acknowledges, with each number of replicas."""
    total = scene.bench.scaled(100_000)
    done: dict[int, Ingest] = {}
    memory: dict[int, float] = {}
    for replicas in REPLICAS:
        with Cluster(scene.bench.directory / f"replicas-{next(scene.names)}") as cluster:
            for _ in range(replicas):
                cluster.replica()
            path = cluster.create_collection()
            requests = [
                request_bytes("POST", path, data.columns_body(vectors, first), BSON)
                for first, vectors in data.batches(total, ROWS_OF_A_BATCH)
            ]
            with Highest(cluster.master) as highest:
                done[replicas] = ingest(cluster, requests, BATCH_CLIENTS)
            memory[replicas] = highest.bytes - highest.before
    scene.memory = memory
    falls = [
        100 * (1 - done[more].load.seconds ** -1 / done[fewer].load.seconds ** -1)
        for fewer, more in pairwise(REPLICAS)
    ]
    used = {
        f"master µs of CPU each, {replicas} replicas": ingested.master_cpu_secs / total * 1e6
        for replicas, ingested in done.items()
    }
    rates = {
        f"acknowledged /s, {replicas}": total / ingested.load.seconds for replicas, ingested in done.items()
    }
    return Figure(max(falls), {**rates, **used})


def memory(scene: Counted) -> Figure:
    """Memory of the run before."""
    fewest, most = scene.memory[REPLICAS[0]], scene.memory[REPLICAS[-1]]
    details = {f"MB more, {replicas} replicas": size / 1e6 for replicas, size in scene.memory.items()}
    return Figure(most / max(fewest, 1), details)


ROWS = (
    Row(
        "replicas-cost",
        "the most that a second or a third replica takes off the rate at which the master acknowledges",
        "%",
        counted,
        cost,
        (),
        at_most("15 %", lambda beside: 15.0),
    ),
    Row(
        "replicas-memory",
        "memory that the master needs for the same ingest with three replicas, in terms of one",
        "x",
        counted,
        memory,
        (),
        at_most("1.2 x", lambda beside: 1.2),
    ),
)
