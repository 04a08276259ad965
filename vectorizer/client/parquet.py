"""Parquet files of rows, where pyarrow is installed.

``id`` is a column of strings, ``vector`` one of lists of numbers. ``payload`` is a column of structs or of
JSON; without it all other columns make the payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import orjson

from vectorizer.client.failures import MisuseError
from vectorizer.client.rows import InputError, Row, checked

ROWS_AT_ONCE = 512


class Parquet:
    """See RowSource. MisuseError where pyarrow is missing."""

    def __init__(self, path: Path) -> None:
        try:
            self._reader: Any = import_module("pyarrow.parquet")
            self._error: type[Exception] = import_module("pyarrow").ArrowException
        except ImportError:
            raise MisuseError(f"{path}: reading parquet takes pyarrow; pip install pyarrow") from None
        self.paths = [path]
        with path.open("rb") as file:
            try:
                description = self._reader.ParquetFile(file)
                self.count = int(description.metadata.num_rows)
                names = list(description.schema_arrow.names)
            except self._error:
                raise InputError(f"{path.name} is not a parquet file, or it is damaged") from None
        for name in ("id", "vector"):
            if name not in names:
                raise InputError(f"{path.name} has no column {name}; it has {', '.join(map(str, names))}")
        self._others = [name for name in names if name not in ("id", "vector")]
        if "payload" in self._others and len(self._others) > 1:
            others = ", ".join(name for name in self._others if name != "payload")
            raise InputError(f"{path.name} has a column payload and others beside it: {others}")

    def rows(self, start: int) -> Iterator[Row]:
        """See RowSource."""
        (path,) = self.paths
        number = 0
        with path.open("rb") as file:
            try:
                for batch in self._reader.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
                    if number + batch.num_rows > start:
                        for index, document in enumerate(batch.to_pylist(), number):
                            if index >= start:
                                yield self._row(f"{path.name} row {index + 1}", document)
                    number += batch.num_rows
            except (self._error, OSError) as error:
                raise InputError(f"{path.name} is damaged after row {number}: {error}") from None

    def _row(self, place: str, document: dict[str, Any]) -> Row:
        if self._others == ["payload"]:
            payload = document["payload"]
            if isinstance(payload, str):
                try:
                    payload = orjson.loads(payload)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"{place}: payload is not JSON: {error}") from None
        else:
            payload = {name: document[name] for name in self._others} or None
        return checked(place, document["id"], document["vector"], payload)
