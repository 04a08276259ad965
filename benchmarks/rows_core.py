"""Snapshot and log without processes around them: measured inside one process of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import orjson

from benchmarks.measurement import Bench, Figure, Row, at_least, at_most
from benchmarks.nodes import ROOT

TIMEOUT_SECS = 120.0


@dataclass
class Inside:
    """Where the process of each run has its data."""

    bench: Bench
    directories: Iterator[Path]

    def measure(self, what: str, count_: int) -> Mapping[str, float]:
        """The figures that ``benchmarks.in_process`` prints."""
        directory = next(self.directories)
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.in_process", what, str(count_), str(directory)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            timeout=TIMEOUT_SECS,
            check=True,
        )
        figures: Mapping[str, float] = orjson.loads(done.stdout)
        return figures


@contextlib.contextmanager
def inside(bench: Bench) -> Iterator[Inside]:
    """The scene of these rows."""
    yield Inside(bench, (bench.directory / f"inside-{number}" for number in count()))


def _snapshot(scene: Inside) -> Mapping[str, float]:
    return scene.measure("snapshot", scene.bench.scaled(10_000))


def capture(scene: Inside) -> Figure:
    """From the capture to the last chunk in the socket."""
    figures = _snapshot(scene)
    return Figure(figures["sent ms"], {name: figures[name] for name in ("capture ms", "MB")})


def apply(scene: Inside) -> Figure:
    """From the first chunk to data that can be searched, without graph and fsync."""
    return Figure(_snapshot(scene)["apply ms"])


def log_append(scene: Inside) -> Figure:
    """Frames of a single vector each."""
    return Figure(scene.measure("log", scene.bench.scaled(500_000, 20_000))["append /s"])


def log_read(scene: Inside) -> Figure:
    """1,000 entries from somewhere in the middle."""
    return Figure(scene.measure("log", scene.bench.scaled(500_000, 20_000))["read µs"])


ROWS = (
    Row(
        "snapshot-capture",
        "snapshot of 10,000 × 128: capture to last chunk handed to the socket",
        "ms",
        inside,
        capture,
        ("disk",),
        at_most("10 ms", lambda beside: 10.0),
    ),
    Row(
        "snapshot-apply",
        "the same applied, without graph and fsync",
        "ms",
        inside,
        apply,
        (),
        at_most("20 ms", lambda beside: 20.0),
    ),
    Row(
        "log-append",
        "append to the replication log, in process",
        "entries/s",
        inside,
        log_append,
        (),
        at_least("1,000,000", lambda beside: 1e6),
    ),
    Row(
        "log-read",
        "retrieve 1,000 entries of the replication log",
        "µs",
        inside,
        log_read,
        (),
        at_most("100 µs", lambda beside: 100.0),
    ),
)
