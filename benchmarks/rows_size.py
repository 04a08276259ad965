"""What size costs: searching and ingest as data grows, memory, and a restart. Default segments."""

from __future__ import annotations

import contextlib
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import data
from benchmarks.exact import nearest
from benchmarks.filled import FAST_BUILDER, ask, fill, measured_recall, searches, wait_indexed
from benchmarks.measurement import Bench, Figure, Point, Row, Watch, at_most, percentile
from benchmarks.nodes import COLLECTION, Cluster, Node
from benchmarks.rest_client import RequestFailed

STEPS = (10_000, 100_000, 300_000)
FILL_ROWS = 50_000
BURST_ROWS = 16_000
"""Ingest at a size is measured when all is indexed: a builder beside it would count as growth."""
QUERIES = 500
PIECE_BYTES = 1 << 20
GROWTH_MAX = 3.0
RATE_MIN = 0.8
MB = 1e6
MEMORY_SPARE_MB = 200
MEMORY_FACTOR = 2
RESTART_FACTOR = 3.0


@dataclass
class Growing:
    """A master that gets as many rows as a row of the table asks for; what it cost on the way."""

    bench: Bench
    node: Node
    rows: int = 0
    points: list[Point] = field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        """Where the growth is measured."""
        most = self.bench.scaled(self.bench.size, 20_000)
        return [*(step for step in STEPS if step < most), most]

    def grow(self) -> None:
        """Fill the collection to the last size; a second call does nothing."""
        queries = data.queries(self.bench.scaled(QUERIES, 100))
        for size in self.sizes:
            if size <= self.rows:
                continue
            watch, added = Watch(), size - self.rows
            while self.rows < size:
                self._ingest(min(FILL_ROWS, size - self.rows))
            wait_indexed(self.node)
            seconds = watch.seconds
            requests = searches(queries)
            times = ask(self.node, requests * 2).latencies_ms
            point = {
                "vectors": float(size),
                "search p50 ms": percentile(times, 50),
                "search p99 ms": percentile(times, 99),
                "recall@10": measured_recall(self.node, requests, nearest(data.clusters, size, queries)),
                "ingest /s": self._ingest(self.bench.scaled(BURST_ROWS)),
                "stored and indexed /s": added / seconds,
            }
            self.points.append(point)
            shown = ", ".join(f"{name} {value:,.5g}" for name, value in point.items())
            print(f"  {shown}", file=sys.stderr, flush=True)
        wait_indexed(self.node)

    def _ingest(self, count: int) -> float:
        rate = fill(self.node, COLLECTION, data.clusters, count, self.rows)
        self.rows += count
        return rate


@contextlib.contextmanager
def growing(bench: Bench) -> Iterator[Growing]:
    """The scene of these rows."""
    with Cluster(bench.directory / "size", FAST_BUILDER) as cluster:
        cluster.create_collection()
        yield Growing(bench, cluster.master)


def growth(scene: Growing) -> Figure:
    """Search p50 of the largest size by that of the smallest."""
    scene.grow()
    first, last = scene.points[0], scene.points[-1]
    details = {
        "p50 ms of the smallest": float(first["search p50 ms"]),
        "p50 ms of the largest": float(last["search p50 ms"]),
        "ingest of it": float(last["ingest /s"]) / float(first["ingest /s"]),
        "vectors": float(last["vectors"]),
        "recall@10": min(float(point["recall@10"]) for point in scene.points),
    }
    ratio = details["p50 ms of the largest"] / details["p50 ms of the smallest"]
    return Figure(ratio, details, points=tuple(scene.points))


def _ingests_on(details: Mapping[str, float], _: Mapping[str, float]) -> bool:
    return details["ingest of it"] >= RATE_MIN


def memory(scene: Growing) -> Figure:
    """Anonymous memory of the node once all graphs are loaded."""
    scene.grow()
    raw = scene.rows * data.DIMENSION * 4 / MB
    details = {"vectors": float(scene.rows)}
    return Figure(scene.node.anonymous_bytes() / MB, details, {"raw vectors MB": raw})


def restart(scene: Growing) -> Figure:
    """From the start of the process to the first answer of a search; the node was stopped cleanly."""
    scene.grow()
    [request] = searches(data.queries(1))
    scene.node.stop()
    reference = {"read and checksum s": read_secs(scene.node.directory / "data")}
    watch = Watch()
    scene.node.start(ready=False)
    _first_answer(scene.node, request)
    stopped = watch.seconds
    scene.node.kill()
    watch = Watch()
    scene.node.start(ready=False)
    _first_answer(scene.node, request)
    details = {"after kill -9 s": watch.seconds, "vectors": float(scene.rows)}
    return Figure(stopped, details, reference)


def _first_answer(node: Node, request: bytes) -> None:
    deadline = time.monotonic() + 120.0
    while True:
        try:
            with node.client() as client:
                client.exchange(request)
                return
        except (OSError, RequestFailed):
            if time.monotonic() > deadline or not node.running:
                raise
            time.sleep(0.005)


def read_secs(directory: Path) -> float:
    """Seconds to read and checksum every file, one after the other."""
    watch = Watch()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                checksum = 0
                while piece := file.read(PIECE_BYTES):
                    checksum = zlib.crc32(piece, checksum)
    return watch.seconds


def _memory_mb(beside: Mapping[str, float]) -> float:
    return MEMORY_FACTOR * beside["raw vectors MB"] + MEMORY_SPARE_MB


ROWS = (
    Row(
        "growth",
        "search p50 as data grows, largest size by smallest",
        "times",
        growing,
        growth,
        (),
        replace(at_most("3, ingest falls less than 20 %", lambda _: GROWTH_MAX), limits=(_ingests_on,)),
        once=True,
    ),
    Row(
        "memory",
        "memory (RssAnon), built",
        "MB",
        growing,
        memory,
        (),
        at_most("2 x raw vectors + 200 MB", _memory_mb),
        once=True,
    ),
    Row(
        "restart",
        "restart → first search answered",
        "s",
        growing,
        restart,
        (),
        at_most("3 x reading the files", lambda beside: RESTART_FACTOR * beside["read and checksum s"]),
    ),
)
