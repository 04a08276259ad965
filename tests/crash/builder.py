"""The child process that builds graphs, and nmslib, as the crash sweep knows them.

The child writes what the real one writes, in its order, on the disk of its machine: a file without a sync,
then both files synced, renamed and their directory synced. A graph is a pattern here; nmslib dies of a file
that is not one, so a torn file that reaches it ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tests.simulation import virtual_gevent
from tests.simulation.machine import PacedDisk, disk_of_current_process

if TYPE_CHECKING:
    from tests.simulation.kernel import Task

GRAPH = b"a graph, as nmslib would write it. " * 40
HALF = len(GRAPH) // 2
SYNCED = ["graph.nmslib", "graph.json"]
"""The files that the builder syncs."""


class Builder:
    """In the place of ``ChildProcess``: builds at once, on the disk of the process that started it."""

    def __init__(self, line: list[str], environment: Mapping[str, str]) -> None:
        place = line.index("vectorizer.index.builder") + 2
        disk, path = disk_of_current_process(), line[place]
        self._code: int | None = None
        self._said = b""
        self._ended = virtual_gevent.Event()
        process = virtual_gevent.here().process
        self._task: Task = process.kernel.spawn(process, lambda: build(disk, path), native=True)
        self._task.watched = True
        self._task.on_done.append(self._end)

    def _end(self) -> None:
        self._code = 0 if self._task.exception is None else 3
        self._said = b"" if self._task.exception is None else repr(self._task.exception).encode()
        self._ended.set()

    @property
    def errors(self) -> Builder:
        """What it says: nothing, unless it fails."""
        return self

    def read(self, count: int) -> bytes:
        """Wait until it says no more."""
        self._ended.wait()
        said, self._said = self._said, b""
        return said

    def close(self) -> None:
        """Nobody listens any more."""

    def wait(self) -> int:
        """Wait for its end."""
        self._ended.wait()
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """End it."""
        self._task.die()
        self._end()


def build(disk: PacedDisk, path: str) -> None:
    """As ``vectorizer.index.builder``."""
    graph, text = f"{path}/graph.nmslib", f"{path}/graph.json"
    _write_unsynced(disk, f"{graph}.tmp", [GRAPH[:HALF], GRAPH[HALF:]])
    if disk.exists(text):
        disk.remove(text)
    document = {"format": 1, "graph_rows": 256, "graph_bytes": len(GRAPH), "holdout": [], "points": []}
    content = json.dumps({**document, "scan_us": 1.0, "batch_scan_us": 1.0}).encode()
    _write_unsynced(disk, f"{text}.tmp", [content])
    for final in (graph, text):
        if final.rpartition("/")[2] in SYNCED:
            file = disk.open(f"{final}.tmp")
            file.sync()
            file.close()
        disk.replace(f"{final}.tmp", final)
        disk.sync_directory(path)


def _write_unsynced(disk: PacedDisk, path: str, pieces: list[bytes]) -> None:
    if disk.exists(path):
        disk.remove(path)
    file, position = disk.create(path, 0), 0
    for piece in pieces:
        file.write_at(position, [piece])
        position += len(piece)
    file.close()


class Graph:
    """In the place of ``index.hnsw.Graph``; nobody searches here."""

    def __init__(self, calibration: Any) -> None:
        self.calibration = calibration
        self.rows = calibration.graph_rows
        self.bytes = calibration.graph_bytes

    @classmethod
    def load(cls, path: str, calibration: Any, metric: str, dimension: int) -> Graph:
        """The graph in this file. The real one may end the process if the file is damaged."""
        from vectorizer.errors import DamageError

        content = disk_of_current_process().read(path)
        if len(content) != calibration.graph_bytes:
            raise DamageError(path, "another size")
        assert content == GRAPH, f"nmslib was given the damaged file {path}"
        return cls(calibration)


def stand_in() -> None:
    """Put both in their places, in a process whose gevent is the virtual one."""
    from vectorizer import graphs
    from vectorizer.storage import graph_files

    graphs.ChildProcess = Builder  # type: ignore[misc,assignment]
    graph_files.Graph = Graph  # type: ignore[misc,assignment]
