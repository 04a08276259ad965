"""The builder: a short-lived, niced child process that makes a segment's graph and measures it.

``python -m vectorizer.index.builder 10 <segment directory> --metric cosine --m 16 --ef-construction 200``

It reads ``vectors.npy``, ``norms.npy`` and ``order.npy`` and writes ``graph.nmslib`` and ``graph.json``, each
aside, synced, and renamed; the description last, so that a graph without one is unfinished and may be
removed. It can be killed at any point: what it leaves are files that end in ``.tmp``, which the next build
replaces. In a process of its own because nmslib holds the GIL while it takes vectors in, keeps the memory of
a freed builder, and could crash.

Exit codes, for the caller: see ExitCode. The message is on stderr, one line.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorizer.errors import DamageError
from vectorizer.index import flat
from vectorizer.index.calibration import EF_LADDER, NEIGHBOURS, Calibration, Point, holdout_rows
from vectorizer.index.flat import Mask, Queries, Selection
from vectorizer.index.hnsw import Graph, create
from vectorizer.operations import METRICS, Metric, Vectors
from vectorizer.storage.disk import SLICE_BYTES, WriteBehind

GRAPH_FILE = "graph.nmslib"
DESCRIPTION_FILE = "graph.json"
TIMED_QUERIES = 16
BATCH_QUERIES = 64
PR_SET_PDEATHSIG = 1
RECALL_COMPLETE = 0.998
"""About the largest recall that so few queries can prove."""


class ExitCode(IntEnum):
    """Why the builder ended. A negative code, as subprocess gives it, is the signal that killed it."""

    BUILT = 0
    FAILED = 1
    """Not expected; a traceback on stderr says what."""
    USAGE = 2
    UNREADABLE = 3
    """The segment's files are missing or damaged."""
    NO_ROOM = 4
    """The disk is full; try again when it is not."""
    TOO_FEW_ROWS = 5
    """Not more rows than those that stay out of the graph."""
    ORPHANED = 6
    """The process that started it is gone."""


class TooFewRows(Exception):
    """There is nothing to build a graph of."""


def command(
    directory: str | Path, metric: Metric, m: int, ef_construction: int, threads: int, niceness: int
) -> list[str]:
    """The command line of a builder for this segment, which ends when the calling process does."""
    options = {
        "metric": metric,
        "m": m,
        "ef-construction": ef_construction,
        "threads": threads,
    }
    flags = [f"--{name}={value}" for name, value in {**options, "parent": os.getpid()}.items()]
    return [sys.executable, "-m", "vectorizer.index.builder", str(niceness), str(directory), *flags]


def build(directory: Path, metric: Metric, m: int, ef_construction: int, threads: int) -> Calibration:
    """Builds, measures and installs the graph of the segment in this directory.

    Raises OSError or ValueError for files that cannot be read or written, TooFewRows, DamageError.
    """
    vectors: Vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    norms = np.load(directory / "norms.npy", mmap_mode="r")
    holdout = holdout_rows(np.load(directory / "order.npy", mmap_mode="r"))
    if len(vectors) <= len(holdout):
        raise TooFewRows(f"{len(vectors)} rows, of which {len(holdout)} would stay out of the graph")
    in_graph = np.ones(len(vectors), np.bool_)
    in_graph[holdout] = False
    aside = directory / (GRAPH_FILE + ".tmp")
    create(aside, vectors, np.flatnonzero(in_graph), metric, m, ef_construction, threads)
    rows, dimension = int(in_graph.sum()), vectors.shape[1]
    unmeasured = Calibration(rows, aside.stat().st_size, tuple(holdout.tolist()), (), 0.0, 0.0)
    graph = Graph.load(aside, unmeasured, metric, dimension)
    calibration = measure(graph, metric, vectors, norms, in_graph)
    description = {
        **calibration.to_document(),
        "metric": metric,
        "dimension": dimension,
        "m": m,
        "ef_construction": ef_construction,
    }
    _install(directory, description)
    return calibration


def measure(
    graph: Graph, metric: Metric, vectors: Vectors, norms: npt.NDArray[np.float32], in_graph: Mask
) -> Calibration:
    """Recall and cost of the graph for unseen queries, which are the rows outside of it, and the cost of a
    scan.

    Time is that of this thread on the processor, so that other processes do not count.
    """
    queries = Queries(metric, vectors[~in_graph])
    exact = _scan(queries, vectors, norms, in_graph)
    truths = [
        np.sort(flat.ranks(queries, query, vectors, rows))[:NEIGHBOURS] for query, rows in enumerate(exact)
    ]
    scan_us = _median_us(lambda query: _scan(queries.one(query), vectors, norms, in_graph), TIMED_QUERIES)
    some = Queries(metric, queries.raw[:BATCH_QUERIES])
    batch_scan_us = _median_us(lambda _: _scan(some, vectors, norms, in_graph), 3) / len(some)
    points: list[Point] = []
    for ef in EF_LADDER:
        points.append(_measure_point(graph, queries, truths, vectors, norms, ef))
        if points[-1].safe_recall >= RECALL_COMPLETE or points[-1].query_us > 1.2 * max(
            scan_us, batch_scan_us
        ):
            break
    points = without_disturbances(points)
    return replace(graph.calibration, points=tuple(points), scan_us=scan_us, batch_scan_us=batch_scan_us)


def without_disturbances(points: Sequence[Point]) -> list[Point]:
    """The points with no cost above that of a larger ef, which looks at more.

    Other processes share caches and memory with this one: measured costs of 53, 140, 191 and 114 us for ef of
    16, 24, 48 and 96 would let a scan win where it is slower.
    """
    calm: list[Point] = []
    least = float("inf")
    for point in reversed(points):
        least = min(least, point.query_us)
        calm.insert(0, replace(point, query_us=least))
    return calm


def _measure_point(
    graph: Graph,
    queries: Queries,
    truths: Sequence[flat.Scores],
    vectors: Vectors,
    norms: npt.NDArray[np.float32],
    ef: int,
) -> Point:
    """One ef. A found row counts if its score is as good as the last true neighbour's: ties are no loss."""
    recalls: flat.Scores = np.empty(len(queries))
    for query, truth in enumerate(truths):
        ranks = flat.ranks(queries, query, vectors, graph.query(queries.raw[query], NEIGHBOURS, ef))
        recalls[query] = min(int(np.count_nonzero(ranks <= truth[-1])), len(truth)) / len(truth)

    def search(query: int) -> None:
        """What a search does with the graph's answer, up to the selection."""
        found = graph.query(queries.raw[query], NEIGHBOURS, ef)
        flat.Keys(queries.one(query), flat.Block(vectors[found], norms[found]))

    # Few misses say little about their spread: count at least one neighbour lost in all queries together.
    error = max(float(recalls.std()) / len(recalls) ** 0.5, 1.0 / (len(recalls) * NEIGHBOURS))
    return Point(ef, float(recalls.mean()), error, _median_us(search, len(queries)))


def _scan(
    queries: Queries, vectors: Vectors, norms: npt.NDArray[np.float32], in_graph: Mask
) -> list[npt.NDArray[np.int64]]:
    """For each query the rows of the graph that can be among its nearest."""
    selections = [Selection(NEIGHBOURS) for _ in range(len(queries))]
    flat.scan_arrays(
        queries, vectors, norms, len(vectors), lambda start, stop: in_graph[start:stop], 0, selections
    )
    return [selection.rows() for selection in selections]


def _median_us(work: Any, times: int) -> float:
    taken = np.empty(times)
    for number in range(times):
        start = time.thread_time_ns()
        work(number)
        taken[number] = time.thread_time_ns() - start
    return float(np.median(taken)) / 1000


def _install(directory: Path, description: dict[str, Any]) -> None:
    """Both files in place and on disk, the description last; an older one goes first, it fits no longer."""
    graph, text = directory / GRAPH_FILE, directory / DESCRIPTION_FILE
    text.unlink(missing_ok=True)
    text_aside = directory / (DESCRIPTION_FILE + ".tmp")
    text_aside.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    for aside, final in ((directory / (GRAPH_FILE + ".tmp"), graph), (text_aside, text)):
        _sync(aside)
        os.replace(aside, final)
        _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        behind, size = WriteBehind(descriptor), os.fstat(descriptor).st_size
        for start in range(0, size, SLICE_BYTES):
            behind.wrote(min(SLICE_BYTES, size - start))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone: its successor would build the same graph."""
    if sys.platform == "linux":  # at once; elsewhere it is noticed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(ExitCode.ORPHANED)


def main(arguments: Sequence[str] | None = None) -> int:
    """The child process; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="vectorizer.index.build", description="Build and measure a segment's graph."
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--metric", choices=METRICS, required=True)
    parser.add_argument("--m", type=int, required=True, help="links of a node")
    parser.add_argument("--ef-construction", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parent", type=int, help="process id: end when this is no longer the parent")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        _end_with(options.parent)
    try:
        build(options.directory, options.metric, options.m, options.ef_construction, options.threads)
    except TooFewRows as error:
        return _refuse(ExitCode.TOO_FEW_ROWS, error)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return _refuse(ExitCode.NO_ROOM if full else ExitCode.UNREADABLE, error)
    except (ValueError, DamageError) as error:
        return _refuse(ExitCode.UNREADABLE, error)
    return ExitCode.BUILT


def _refuse(code: ExitCode, error: Exception) -> int:
    sys.stderr.write(f"no graph was built: {error}\n")
    return code
