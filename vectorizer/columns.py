"""Columns of payload fields: what filters compare, one array a type instead of one document a row.

A path is keys joined by dots. On its way a list stands for its items, at every level, so ``tags`` of
``{"tags": ["a", "b"]}`` has the values a and b, and ``parts.size`` of ``{"parts": [{"size": 1}, {"size":
2}]}`` has 1 and 2. A row may therefore have several values at one path; ``owners`` says to which row each
value belongs.

Columns of a sealed chunk are made once and kept with the chunk; those of a growing chunk are made in blocks,
each as soon as its rows are there. At most COLUMNS_MAX of them are kept for each chunk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from vectorizer import codec
from vectorizer.storage.chunk import Chunk, ChunkView

Mask = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.int32]
Breathe = Callable[[], None]

COLUMNS_MAX = 16
BLOCK_ROWS = 1024
"""Rows in a block of a growing chunk."""
SLICE_ROWS = 256
"""Payloads decoded between two breaths: about 1 ms."""
SLICE_VALUES = 4096
"""Values put into a column between two breaths."""
SAMPLE_STEP = 256
"""Of so many sorted words one is looked at to find pivots."""
CACHE_KEY = "column "

T = TypeVar("T")
K = TypeVar("K", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values at one path in ``rows`` rows, numbered from 0."""

    rows: int
    present: Mask
    """(rows,) whether the path leads to anything, be it null or an empty list."""
    null: Mask
    true: Mask
    false: Mask
    integer_owners: Owners
    integers: npt.NDArray[np.int64]
    float_owners: Owners
    floats: npt.NDArray[np.float64]
    word_owners: Owners
    words: npt.NDArray[np.int32]
    """Of each string its place in ``dictionary``."""
    dictionary: Sequence[str]
    """The different strings, sorted."""
    integers_dense: bool
    """Whether each row owns exactly one integer: then what holds for the values holds for the rows."""
    floats_dense: bool
    words_dense: bool


@dataclass(slots=True)
class ColumnBuilder:
    """Collects the values at one path, row by row."""

    path: tuple[str, ...]
    rows: int = 0
    present: list[int] = field(default_factory=list)
    null: list[int] = field(default_factory=list)
    true: list[int] = field(default_factory=list)
    false: list[int] = field(default_factory=list)
    integers: list[tuple[int, int]] = field(default_factory=list)
    floats: list[tuple[int, float]] = field(default_factory=list)
    words: list[tuple[int, str]] = field(default_factory=list)

    def add(self, document: Mapping[str, Any] | None) -> None:
        """The next row's payload."""
        if document is not None and self._walk(document, 0):
            self.present.append(self.rows)
        self.rows += 1

    def _walk(self, value: Any, depth: int) -> bool:
        if isinstance(value, list):
            found = [self._walk(item, depth) for item in value]
            return depth == len(self.path) or any(found)
        if depth == len(self.path):
            self._leaf(value)
            return True
        if isinstance(value, Mapping) and self.path[depth] in value:
            return self._walk(value[self.path[depth]], depth + 1)
        return False

    def _leaf(self, value: Any) -> None:
        if value is None:
            self.null.append(self.rows)
        elif value is True:
            self.true.append(self.rows)
        elif value is False:
            self.false.append(self.rows)
        elif isinstance(value, int):
            self.integers.append((self.rows, value))
        elif isinstance(value, float):
            self.floats.append((self.rows, value))
        elif isinstance(value, str):
            self.words.append((self.rows, value))

    def column(self, breathe: Breathe) -> Column:
        """All rows so far as one column."""
        different: set[str] = set()
        for words in _slices(self.words, breathe):
            different.update(word for _, word in words)
        dictionary = _sorted(list(different), breathe)
        place: dict[str, int] = {}
        for part in _slices(dictionary, breathe):
            place.update(zip(part, range(len(place), len(place) + len(part)), strict=True))
        integer_owners = _array(self.integers, np.int32, _owner, breathe)
        float_owners = _array(self.floats, np.int32, _owner, breathe)
        word_owners = _array(self.words, np.int32, _owner, breathe)
        return Column(
            self.rows,
            self._mask(self.present),
            self._mask(self.null),
            self._mask(self.true),
            self._mask(self.false),
            integer_owners,
            _array(self.integers, np.int64, _value, breathe),
            float_owners,
            _array(self.floats, np.float64, _value, breathe),
            word_owners,
            _array(self.words, np.int32, lambda pair: place[pair[1]], breathe),
            dictionary,
            self._dense(integer_owners),
            self._dense(float_owners),
            self._dense(word_owners),
        )

    def _dense(self, owners: Owners) -> bool:
        return len(owners) == self.rows and bool((owners[1:] > owners[:-1]).all())

    def _mask(self, rows: list[int]) -> Mask:
        mask = np.zeros(self.rows, np.bool_)
        mask[rows] = True
        return mask


_owner, _value = itemgetter(0), itemgetter(1)


def _slices(values: Sequence[T], breathe: Breathe) -> Iterator[Sequence[T]]:
    """The values in slices, with a breath after each."""
    for start in range(0, len(values), SLICE_VALUES):
        yield values[start : start + SLICE_VALUES]
        breathe()


def _array(
    pairs: Sequence[tuple[int, T]], kind: type[K], of: Callable[[tuple[int, T]], Any], breathe: Breathe
) -> npt.NDArray[K]:
    parts = [np.array(list(map(of, part)), kind) for part in _slices(pairs, breathe)]
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _sorted(words: Sequence[str], breathe: Breathe) -> list[str]:
    """The words in order: sorted in slices, which are cut at common pivots and put together range by range.

    All at once would hold the event loop: 0.4 s for 250,000 words.
    """
    runs = [sorted(part) for part in _slices(words, breathe)]
    samples = sorted(word for run in runs for word in run[::SAMPLE_STEP])
    step = SLICE_VALUES // SAMPLE_STEP
    starts = [0] * len(runs)
    result: list[str] = []
    for pivot in [*samples[step::step], None]:
        stops = [
            len(run) if pivot is None else bisect_left(run, pivot, start)
            for run, start in zip(runs, starts, strict=True)
        ]
        parts = (run[start:stop] for run, start, stop in zip(runs, starts, stops, strict=True))
        result.extend(sorted(chain.from_iterable(parts)))
        starts = stops
        breathe()
    return result


Block = dict[str, Column]
"""Columns of the same rows, by path."""


def block_of_payload(payload: bytes, paths: Sequence[str]) -> Block:
    """The columns of a single payload."""
    document = codec.decode_payload(payload)
    block = {}
    for path in paths:
        builder = ColumnBuilder(tuple(path.split(".")))
        builder.add(document)
        block[path] = builder.column(go_on)
    return block


def go_on() -> None:
    """A single row needs no breath."""


def blocks_of(view: ChunkView, paths: Sequence[str], breathe: Breathe) -> Iterator[tuple[int, Block]]:
    """(number of rows, columns at these paths) over all rows of a view, in order.

    Kept columns are used, missing ones are made. A kept column may go beyond the rows of the view.
    """
    step = view.rows if view.chunk.sealed else BLOCK_ROWS
    for start in range(0, view.rows, step or 1):
        stop = min(start + step, view.rows)
        yield stop - start, _block(view.chunk, start, stop, paths, keep=stop - start == step, breathe=breathe)


def _block(
    chunk: Chunk, start: int, stop: int, paths: Sequence[str], *, keep: bool, breathe: Breathe
) -> Block:
    kept = {path: _kept(chunk, path) for path in paths}
    block = {path: columns[start] for path, columns in kept.items() if start in columns}
    missing = [path for path in paths if path not in block]
    if missing:
        made = _make(chunk, start, stop, missing, breathe)
        block.update(made)
        if keep:
            for path, column in made.items():
                kept[path][start] = column
    return block


def _kept(chunk: Chunk, path: str) -> dict[int, Column]:
    """The kept columns of a path by their first row.

    A path used again moves to the end of those to be dropped.
    """
    key = CACHE_KEY + path
    columns = chunk.cache.pop(key, None)
    if not isinstance(columns, dict):
        columns = {}
        # A copy, since searches in native threads keep things there too.
        ours = [name for name in list(chunk.cache) if name.startswith(CACHE_KEY)]
        for name in ours[: max(0, len(ours) - COLUMNS_MAX + 1)]:
            del chunk.cache[name]
    chunk.cache[key] = columns
    return columns


def _make(chunk: Chunk, start: int, stop: int, paths: Sequence[str], breathe: Breathe) -> Block:
    builders = {path: ColumnBuilder(tuple(path.split("."))) for path in paths}
    for row in range(start, stop):
        document = codec.decode_payload(chunk.payload_at(row))
        for builder in builders.values():
            builder.add(document)
        if row % SLICE_ROWS == 0:
            breathe()
    block: Block = {}
    for path, builder in builders.items():
        block[path] = builder.column(breathe)
    return block
