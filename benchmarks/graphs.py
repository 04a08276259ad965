"""References for searches: the node's own graphs, asked by nmslib in this process, by one thread."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Vectors
from benchmarks.exact import LIMIT
from benchmarks.measurement import percentile
from benchmarks.nodes import Node
from vectorizer.index.calibration import Calibration
from vectorizer.index.hnsw import nmslib

BATCH = 100


@dataclass(frozen=True)
class _Graph:
    index: Any
    ef: int


class Graphs:
    """All graphs of a node's data directory, each with the ef by which the node searches it."""

    def __init__(self, graphs: Sequence[_Graph]) -> None:
        self._graphs = graphs

    @classmethod
    def of(cls, node: Node, recall: float = 0.95) -> Graphs:
        """Those on the disk now, except any that the node does not use because a scan is faster."""
        graphs = []
        for description in sorted(node.directory.glob("data/*/segments/*/graph.json")):
            ef = Calibration.from_document(json.loads(description.read_text())).choose(recall)
            if ef is not None:
                graphs.append(_Graph(_load(description.with_name("graph.nmslib"), ef), ef))
        return cls(graphs)

    def query_us(self, queries: Vectors) -> float:
        """Median microseconds to ask every graph for one query."""
        micros = []
        for query in queries:
            began = time.perf_counter()
            for graph in self._graphs:
                graph.index.knnQuery(query, k=LIMIT)
            micros.append((time.perf_counter() - began) * 1e6)
        return percentile(micros, 50)

    def batch_rate(self, queries: Vectors) -> float:
        """Queries per second in batches of 100."""
        batches = [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]
        began = time.perf_counter()
        for batch in batches:
            for graph in self._graphs:
                graph.index.knnQueryBatch(np.ascontiguousarray(batch), k=LIMIT, num_threads=1)
        return len(queries) / (time.perf_counter() - began)


def _load(path: Path, ef: int) -> Any:
    index = nmslib.init(method="hnsw", space="cosinesimil")
    index.loadIndex(str(path), load_data=False)
    index.setQueryTimeParams({"efSearch": ef})
    return index
