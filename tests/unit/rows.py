"""Rows in memory that look like chunks, and seeded data, for the tests of search and index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vectorizer.index.build import GRAPH_FILE, build
from vectorizer.index.hnsw import Graph
from vectorizer.operations import CollectionConfig, Metric, Vectors
from vectorizer.storage.chunk import LIVE, Chunk, ChunkView, View, hash_ids


@dataclass
class ArrayChunk:
    """A chunk of plain arrays; ``sealed`` ones may carry a graph."""

    ids: list[bytes]
    vectors: Vectors
    name: str = "s0000000000000000"
    graph: Graph | None = None
    sealed: bool = True
    cache: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.norms: npt.NDArray[np.float32] = np.linalg.norm(self.vectors.astype(np.float64), axis=1).astype(
            np.float32
        )
        self.hashes = hash_ids(self.ids)
        self.deleted_at = np.full(len(self.ids), LIVE, np.int64)

    @property
    def dead_rows(self) -> int:
        """Rows that have died by now."""
        return int(np.count_nonzero(self.deleted_at != LIVE))

    def id_at(self, row: int) -> bytes:
        """The row's id."""
        return self.ids[row]

    def ids_at(self, rows: Sequence[int]) -> list[bytes]:
        """The ids of these rows."""
        return [self.ids[row] for row in rows]

    def payload_at(self, row: int) -> bytes:
        """No payloads here."""
        return b""

    def payloads_at(self, rows: Sequence[int]) -> list[bytes]:
        """None of these either."""
        return [b"" for _ in rows]


def config_of(dimension: int, metric: Metric, recall: float = 0.95) -> CollectionConfig:
    """A collection's configuration where only these matter."""
    return CollectionConfig("rows", dimension, metric, recall, 1024, 65_536, 16, 200)


def view_of(config: CollectionConfig, *chunks: Chunk, offset: int = 1) -> View:
    """All rows of these chunks at an offset."""
    views = tuple(ChunkView(chunk, len(chunk.deleted_at), offset) for chunk in chunks)
    return View(config, 1, views, offset)


def chunked(
    vectors: Vectors, sizes: list[int], order: npt.NDArray[np.int64] | None = None
) -> list[ArrayChunk]:
    """The vectors, named by their number, in chunks of these sizes, optionally in another order."""
    numbers = np.arange(len(vectors)) if order is None else order
    assert sum(sizes) == len(vectors)
    chunks, start = [], 0
    for size in sizes:
        part = numbers[start : start + size]
        ids = [b"%06d" % number for number in part.tolist()]
        chunks.append(ArrayChunk(ids, np.ascontiguousarray(vectors[part]), f"s{start:016d}"))
        start += size
    return chunks


def write_segment_files(chunk: ArrayChunk, directory: Path) -> None:
    """What the builder reads."""
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "vectors.npy", chunk.vectors)
    np.save(directory / "norms.npy", chunk.norms)
    np.save(directory / "order.npy", np.argsort(chunk.hashes, kind="stable").astype(np.int32))


def with_graph(
    chunk: ArrayChunk, directory: Path, metric: Metric, m: int = 16, ef_construction: int = 200
) -> ArrayChunk:
    """Build, measure and load the chunk's graph."""
    write_segment_files(chunk, directory)
    calibration = build(directory, metric, m, ef_construction, threads=2)
    chunk.graph = Graph.load(directory / GRAPH_FILE, calibration, metric, chunk.vectors.shape[1])
    return chunk


def gaussian(rows: int, dimension: int, seed: int) -> Vectors:
    """Independent components: without structure, the hardest case for a graph."""
    return np.random.default_rng(seed).standard_normal((rows, dimension), dtype=np.float32)


def clustered(rows: int, dimension: int, seed: int, clusters: int = 50, spread: float = 0.3) -> Vectors:
    """Clouds around random centres."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((clusters, dimension), dtype=np.float32)
    noise = generator.standard_normal((rows, dimension), dtype=np.float32)
    return centres[generator.integers(0, clusters, rows)] + np.float32(spread) * noise


def low_dimensional(rows: int, dimension: int, seed: int, inner: int = 12) -> Vectors:
    """Gaussian in a subspace of few dimensions, plus a little noise: between clusters and no structure."""
    generator = np.random.default_rng(seed)
    basis = generator.standard_normal((inner, dimension), dtype=np.float32)
    inside = generator.standard_normal((rows, inner), dtype=np.float32)
    return inside @ basis + np.float32(0.1) * generator.standard_normal((rows, dimension), dtype=np.float32)
