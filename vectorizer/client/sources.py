"""Files of rows, read in order and in bounded memory: jsonl, a pair of npy and jsonl, parquet."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import orjson

from vectorizer.client.failures import MisuseError
from vectorizer.client.rows import InputError, Row, checked

LINE_BYTES_MAX = 32 * 1024 * 1024
VECTORS = "vectors.npy"
ROWS = "rows.jsonl"
SLICE_BYTES = 1024 * 1024
"""Of vectors read at once."""


class RowSource(Protocol):
    """A file, or files, of rows."""

    paths: list[Path]
    count: int

    def rows(self, start: int) -> Iterator[Row]:
        """The rows from this one on, counted from 0. InputError for what is wrong, at the row it is in."""


def open_source(path: Path) -> RowSource:
    """The reader for this name. MisuseError if there is none, InputError if the file is not what it says."""
    try:
        if path.is_dir():
            return NpyPair(path / VECTORS)
        kind = path.suffix.lower()
        if kind == ".npy":
            return NpyPair(path)
        if kind in (".jsonl", ".ndjson"):
            return JsonLines(path)
        if kind in (".parquet", ".pq"):
            # Not imported before it is needed: pyarrow is large, and need not be there.
            from vectorizer.client.parquet import Parquet

            return Parquet(path)
    except OSError as error:
        raise MisuseError(f"{error.filename or path} cannot be read: {error.strerror or error}") from None
    raise MisuseError(f"{path}: what is in it? Known are .jsonl, .npy (with {ROWS} beside it) and .parquet")


class JsonLines:
    """One object a line: id, vector, and payload or not. Empty lines count as lines, not as rows."""

    def __init__(self, path: Path) -> None:
        self.paths = [path]
        self.count = sum(1 for _ in _lines(path))

    def rows(self, start: int) -> Iterator[Row]:
        """See RowSource."""
        (path,) = self.paths
        for number, line in islice(_lines(path), start, None):
            place = f"{path.name} line {number}"
            document = _object(place, line, {"id", "vector"}, {"payload"})
            yield checked(place, document["id"], document["vector"], document.get("payload"))


class NpyPair:
    """An array of vectors, and a line of id and payload for each of its rows."""

    def __init__(self, path: Path) -> None:
        self._lines = path.with_name(ROWS)
        self.paths = [path, self._lines]
        with path.open("rb") as file:
            self._dtype, (self.count, self._dimension) = _header(path, file)
            self._start = file.tell()
        size = path.stat().st_size - self._start
        expected = self.count * self._dimension * self._dtype.itemsize
        if size != expected:
            raise InputError(f"{path.name}: its header speaks of {expected} bytes of vectors, it has {size}")
        lines = sum(1 for _ in _lines(self._lines))
        if lines != self.count:
            raise InputError(f"{ROWS} has {lines} rows, {path.name} has {self.count}")

    def rows(self, start: int) -> Iterator[Row]:
        """See RowSource."""
        vectors = self._vectors(start)
        for (number, line), vector in zip(islice(_lines(self._lines), start, None), vectors, strict=True):
            place = f"{ROWS} line {number}"
            document = _object(place, line, {"id"}, {"payload"})
            yield checked(place, document["id"], vector, document.get("payload"))

    def _vectors(self, start: int) -> Iterator[npt.NDArray[Any]]:
        row_bytes = self._dimension * self._dtype.itemsize
        step = max(1, SLICE_BYTES // row_bytes)
        with self.paths[0].open("rb") as file:
            file.seek(self._start + start * row_bytes)
            for first in range(start, self.count, step):
                data = file.read(min(step, self.count - first) * row_bytes)
                if len(data) % row_bytes:
                    raise InputError(f"{self.paths[0].name}: it became shorter while it was read")
                yield from np.frombuffer(data, self._dtype).reshape(-1, self._dimension)


def _header(path: Path, file: BinaryIO) -> tuple[np.dtype[Any], tuple[int, int]]:
    """Type and shape of an array file; the file is then at its first number."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
        shape, fortran, dtype = (read or np.lib.format.read_array_header_2_0)(file)
    except (ValueError, EOFError, SyntaxError, MemoryError, RecursionError):
        raise InputError(f"{path.name} is not a .npy file, or its header is damaged") from None
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InputError(f"{path.name} holds {dtype}; accepted: float16, float32, float64")
    if len(shape) != 2 or shape[1] < 1:
        raise InputError(f"{path.name} has the shape {shape}; accepted: rows x dimensions")
    if fortran and min(shape) > 1:
        raise InputError(f"{path.name} is in Fortran order; save np.ascontiguousarray of it")
    return dtype, (shape[0], shape[1])


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers from 1."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise InputError(f"{path.name} line {number} is longer than {LINE_BYTES_MAX} bytes")
            if not line.isspace():
                yield number, line


def _object(place: str, line: bytes, required: set[str], optional: set[str]) -> dict[str, Any]:
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{place} is not an object")
    for name in sorted(required - document.keys()):
        raise InputError(f"{place} has no {name}")
    for name in document.keys() - required - optional:
        accepted = ", ".join([*sorted(required), *sorted(optional)])
        raise InputError(f"{place} has the unknown field {name!r}; accepted: {accepted}")
    return document
