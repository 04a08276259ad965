"""The rows that are not in a graph, side by side, so that a search looks at them with one product.

Kept with their chunk: 256 rows, which a merge takes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from vectorizer.index.flat import Block, RowNumbers
from vectorizer.operations import Metric
from vectorizer.storage.chunk import Chunk

if TYPE_CHECKING:
    from vectorizer.index.hnsw import Graph

_ONE, _JOINED = "holdout", "holdouts"


def of(chunk: Chunk, graph: Graph, metric: Metric) -> tuple[RowNumbers, Block]:
    """Those of one chunk: their numbers, ascending, and their vectors."""
    kept = chunk.cache.get(_ONE)
    if kept is None:
        rows = np.array(graph.calibration.holdout, np.int64)
        block = Block(chunk.vectors[rows], chunk.norms[rows]).for_metric(metric)
        kept = chunk.cache[_ONE] = (rows, block)
    return cast("tuple[RowNumbers, Block]", kept)


def joined(graphs: Sequence[tuple[Chunk, Graph]], metric: Metric) -> Block:
    """Those of several chunks, one after the other; made again when the chunks are other ones.

    Kept with the first chunk: what is asked together changes only with a seal, a merge or a built graph.
    """
    if len(graphs) == 1:
        return of(*graphs[0], metric)[1]
    blocks = [of(chunk, graph, metric)[1] for chunk, graph in graphs]
    cache = graphs[0][0].cache
    kept = cast("tuple[list[Block], Block] | None", cache.get(_JOINED))
    if kept is None or kept[0] != blocks:  # by identity
        held = [(chunk, of(chunk, graph, metric)[0]) for chunk, graph in graphs]
        vectors = np.concatenate([chunk.vectors[rows] for chunk, rows in held])
        norms = np.concatenate([chunk.norms[rows] for chunk, rows in held])
        kept = cache[_JOINED] = (blocks, Block(vectors, norms).for_metric(metric))
    return kept[1]
