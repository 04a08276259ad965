"""A segment's graph, held by nmslib in its compact form: vectors and links once, no second copy of the
points.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorizer.errors import DamageError
from vectorizer.index.calibration import Calibration
from vectorizer.native_lock import NativeLock
from vectorizer.operations import Metric, Vectors


def _import_nmslib() -> Any:
    """nmslib, without the lines about the processor that its C++ part writes to file descriptor 2 when it is
    loaded.
    """
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import nmslib  # type: ignore[import-not-found]
    finally:
        os.dup2(saved, 2)
        os.close(null)
        os.close(saved)
    return nmslib


nmslib = _import_nmslib()

SPACES: dict[Metric, str] = {"cosine": "cosinesimil", "euclidean": "l2", "dot": "negdotprod"}
FEED_ROWS = 16_384
Found = npt.NDArray[np.int32]
Distances = npt.NDArray[np.float32]


class Graph:
    """A loaded graph. Queries may come from several threads; nmslib releases the GIL while it searches.

    nmslib keeps ef in the index, not in the query. So concurrent queries share it: it is raised at once when
    one needs more (safe in the middle of another's search, which then looks further than it must) and lowered
    only when no other query is under way. A query never runs with less than it asked for.
    """

    def __init__(self, index: Any, calibration: Calibration, size: int) -> None:
        self.calibration = calibration
        self.bytes = size
        """Bytes of memory, which is the size of the file."""
        self._index = index
        self._lock = NativeLock()
        self._ef = 0  # what the index is set to; guarded by _lock, as is the next
        self._queries = 0  # queries under way

    @classmethod
    def load(cls, path: str | Path, calibration: Calibration, metric: Metric, dimension: int) -> Graph:
        """The graph in this file. The GIL is released meanwhile.

        Raises DamageError if the file has another size than the one that was built, or nmslib refuses it.
        Other damage nmslib does not notice, or dies of: the caller verifies the checksum first.
        """
        name = str(path)
        try:
            size = os.path.getsize(name)
            if size != calibration.graph_bytes:
                raise DamageError(
                    name, f"{size} bytes, the graph that was built has {calibration.graph_bytes}"
                )
            index = nmslib.init(method="hnsw", space=SPACES[metric])
            index.loadIndex(name, load_data=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise DamageError(
                name, f"the graph cannot be loaded ({error}); remove it and it is built again"
            ) from error
        return cls(index, calibration, size)

    @property
    def rows(self) -> int:
        """Rows in the graph."""
        return self.calibration.graph_rows

    def query(self, vector: Vectors, k: int, ef: int) -> Found:
        """Numbers of up to k rows near a (d,) vector, int32, nearest first by nmslib's float32 distances."""
        return self.query_distances(vector, k, ef)[0]

    def query_distances(self, vector: Vectors, k: int, ef: int) -> tuple[Found, Distances]:
        """The same, and their distances, float32: 1 - cosine, the product negated, the squared euclidean."""
        self._enter(ef)
        try:
            found: tuple[Found, Distances] = self._index.knnQuery(vector, k=k)
        finally:
            self._leave()
        return found

    def query_batch(self, vectors: Vectors, k: int, ef: int) -> list[Found]:
        """The same for each of (n, d) vectors, in the calling thread."""
        self._enter(ef)
        try:
            answers = self._index.knnQueryBatch(vectors, k=k, num_threads=1)
        finally:
            self._leave()
        return [answer[0] for answer in answers]

    def _enter(self, ef: int) -> None:
        with self._lock:
            self._queries += 1
            if ef > self._ef or (ef != self._ef and self._queries == 1):
                self._index.setQueryTimeParams({"efSearch": ef})
                self._ef = ef

    def _leave(self) -> None:
        with self._lock:
            self._queries -= 1


def create(
    path: Path,
    vectors: Vectors,
    rows: npt.NDArray[np.int64],
    metric: Metric,
    m: int,
    ef_construction: int,
    threads: int,
) -> None:
    """Builds a graph of these rows, which keep their numbers, and saves it in the compact form.

    Raises OSError if the file cannot be written. Needs about three times the memory of the vectors meanwhile.
    """
    index = nmslib.init(method="hnsw", space=SPACES[metric])
    for start in range(0, len(rows), FEED_ROWS):
        some = rows[start : start + FEED_ROWS]
        index.addDataPointBatch(np.ascontiguousarray(vectors[some]), some.astype(np.int32))
    index.createIndex({"M": m, "efConstruction": ef_construction, "indexThreadQty": threads, "post": 0})
    try:
        index.saveIndex(str(path), save_data=False)
    except RuntimeError as error:  # a C++ stream that failed; it does not say why
        raise OSError(errno.ENOSPC, "writing failed, most likely for lack of room", str(path)) from error
