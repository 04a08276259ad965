"""Rows on their way into a collection: batches of columns, cut so that the server takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vectorizer import codec
from vectorizer.client.failures import CommandError
from vectorizer.errors import RequestError

BATCH_BYTES_MAX = 8 * 1024 * 1024
Vector = npt.NDArray[np.float32]


class InputError(CommandError):
    """The file holds something that cannot be imported; the text names the place."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands (``rows.jsonl line 7``). ``size``: about so many bytes in a request."""

    place: str
    id: str
    vector: Vector
    payload: dict[str, Any] | None
    size: int


@dataclass(slots=True)
class Batch:
    """Rows of different ids, in the order of the file."""

    places: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    payloads: list[dict[str, Any] | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def document(self) -> dict[str, Any]:
        """The body of an upsert in columns."""
        vectors = np.concatenate(self.vectors).astype("<f4", copy=False).tobytes()
        columns: dict[str, Any] = {"ids": self.ids, "vectors": vectors}
        if any(payload is not None for payload in self.payloads):
            columns["payloads"] = self.payloads
        return columns

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches, of at least one row each if this has two."""
        half = len(self) // 2
        return (
            Batch(self.places[:half], self.ids[:half], self.vectors[:half], self.payloads[:half]),
            Batch(self.places[half:], self.ids[half:], self.vectors[half:], self.payloads[half:]),
        )


def batches(rows: Iterable[Row], rows_max: int, dimension: int) -> Iterator[Batch]:
    """Batches of so many rows or fewer; no id is twice in one. InputError for a wrong dimension."""
    batch, seen, size = Batch(), set[str](), 0
    for row in rows:
        if len(row.vector) != dimension:
            raise InputError(
                f"{row.place}: vector has {len(row.vector)} dimensions, the collection has {dimension}"
            )
        if batch.ids and (len(batch) >= rows_max or row.id in seen or size + row.size > BATCH_BYTES_MAX):
            yield batch
            batch, seen, size = Batch(), set(), 0
        batch.places.append(row.place)
        batch.ids.append(row.id)
        batch.vectors.append(row.vector)
        batch.payloads.append(row.payload)
        seen.add(row.id)
        size += row.size
    if batch.ids:
        yield batch


def checked(place: str, id_: Any, vector: Any, payload: Any) -> Row:
    """A row of values as a file gives them. InputError says what is wrong with which."""
    if type(id_) is not str or not id_:
        raise InputError(f"{place}: id must be a string that is not empty, it is {_shown(id_)}")
    try:
        encoded = id_.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: id is not valid Unicode") from None
    numbers = _numbers(place, vector)
    if payload is None:
        return Row(place, id_, numbers, None, len(encoded) + 4 * len(numbers) + 32)
    if not isinstance(payload, dict):
        raise InputError(f"{place}: payload must be an object or null, it is {_shown(payload)}")
    try:
        size = len(codec.encode_payload(payload))
    except RequestError as error:
        raise InputError(f"{place}: {error.message}") from None
    return Row(place, id_, numbers, payload, len(encoded) + 4 * len(numbers) + size + 32)


def _numbers(place: str, vector: Any) -> Vector:
    if isinstance(vector, list) and not set(map(type, vector)) <= {int, float}:
        wrong = next(item for item in vector if type(item) not in (int, float))
        raise InputError(f"{place}: vector must hold numbers only, it holds {_shown(wrong)}")
    if not isinstance(vector, list | np.ndarray):
        raise InputError(f"{place}: vector must be a list of numbers, it is {_shown(vector)}")
    if not len(vector):
        raise InputError(f"{place}: vector is empty")
    with np.errstate(over="ignore"):
        numbers: Vector = np.asarray(vector, np.float64).astype(np.float32)
    if not np.isfinite(numbers).all():
        index = int(np.argmin(np.isfinite(numbers)))
        raise InputError(f"{place}: vector[{index}] is {vector[index]}, not a finite float32")
    return numbers


def _shown(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 64 else text[:61] + "..."
