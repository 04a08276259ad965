"""The true nearest neighbours, by BLAS over everything, and how many of them an answer has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.data import Vectors

LIMIT = 10
BLOCK_ROWS = 20_000
TIMED_QUERIES = 100

Numbers = npt.NDArray[np.int64]
Rows = Callable[[int, int], Vectors]
"""(count, first) to vectors, as ``data.clusters``."""


def unit(vectors: Vectors) -> Vectors:
    """The vectors with length 1."""
    scaled: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def nearest(
    rows: Rows, count: int, queries: Vectors, keep: Callable[[Numbers], Numbers] | None = None
) -> Numbers:
    """Numbers of the ten rows most like each query by cosine, best first, (n, 10).

    ``keep`` gives those of some row numbers that count.
    """
    asked = unit(queries)
    best = np.full((len(queries), LIMIT), -np.inf, np.float32)
    numbers = np.full((len(queries), LIMIT), -1, np.int64)
    for first, block in _blocks(rows, count):
        some = np.arange(first, first + len(block))
        if keep is not None:
            kept = keep(some)
            some, block = kept, block[kept - first]
        likeness = asked @ unit(block).T
        for query in np.flatnonzero(likeness.max(axis=1) > best[:, -1]):
            better = np.flatnonzero(likeness[query] > best[query, -1])
            all_likeness = np.concatenate([best[query], likeness[query, better]])
            all_numbers = np.concatenate([numbers[query], some[better]])
            order = np.argsort(-all_likeness, kind="stable")[:LIMIT]
            best[query], numbers[query] = all_likeness[order], all_numbers[order]
    return numbers


def _blocks(rows: Rows, count: int) -> Iterator[tuple[int, Vectors]]:
    for first in range(0, count, BLOCK_ROWS):
        yield first, rows(min(BLOCK_ROWS, count - first), first)


def recall(answers: Sequence[Sequence[int]], truth: Numbers) -> float:
    """The share of the true neighbours that the answers have."""
    found = sum(
        len(set(answer).intersection(true.tolist())) for answer, true in zip(answers, truth, strict=True)
    )
    return found / truth.size


def scan_rate(vectors: Vectors, queries: Vectors) -> float:
    """Exact searches per second: all products by BLAS in this thread, then the ten best of them."""
    rows, asked = unit(vectors), unit(queries[:TIMED_QUERIES])
    began = time.perf_counter()
    for query in asked:
        likeness = rows @ query
        best = np.argpartition(-likeness, LIMIT)[:LIMIT]
        best[np.argsort(-likeness[best])]
    return len(asked) / (time.perf_counter() - began)
