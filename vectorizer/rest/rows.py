"""Rows out of bodies: items or columns to ``Rows`` that an operation can carry.

Everything is checked before anything is changed, column by column where that is possible; which item is to
blame is looked for only when a check has failed. Long bodies are converted in slices, with a breath between
them.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, starmap
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from vectorizer import codec
from vectorizer.errors import RequestError, too_large, validation
from vectorizer.operations import Metric, Rows, Vectors
from vectorizer.rest.schema import Field, Items, Raw, Table, wrong
from vectorizer.rest.shapes import ID, STRING, or_null
from vectorizer.rest.shapes import PAYLOAD as PAYLOAD_SHAPE
from vectorizer.rest.shapes import VECTOR as VECTOR_SHAPE

Breathe = Callable[[], None]

VECTOR = Raw("a list of numbers, or in BSON packed float32", VECTOR_SHAPE)
PAYLOAD = Raw("an object or null", PAYLOAD_SHAPE)
MATRIX = Raw("packed float32", {**STRING, "contentMediaType": "application/octet-stream"})
PACKED_FLOAT32 = b"\x27\x00"
"""Header of BSON's vector binary (subtype 9) for float32 without padding."""
VECTOR_SUBTYPE = 9
SLICE_VALUES = 32 * 1024
"""Numbers of JSON converted between two breaths: about 2 ms."""
SLICE_PACKED = 1024 * 1024
"""Packed numbers checked between two breaths: about 2 ms."""
SLICE_ITEMS = 256
SLICE_PAYLOADS = 64
"""Payloads encoded between two breaths: each may have a megabyte."""
_SQUARES_MIN, _SQUARES_MAX = 0.0, float("inf")
"""Where the sum of a row's squares, made in float32, is between these, it is finite and has a direction."""


@dataclass(frozen=True)
class RowLimits:
    """The limits of one collection's rows."""

    dimension: int
    metric: Metric
    id_bytes: int
    payload_bytes: int


def items_table(rows_max: int) -> Table:
    """Body of an upsert in items."""
    return Table(
        "UpsertItems",
        {"vectors": Field(Items(rows_max, of=ITEM.named), "the rows, each with a vector", required=True)},
    )


ITEM = Table(
    "Item",
    {
        "id": Field(Raw("a string", ID), "made if it is left out"),
        "vector": Field(VECTOR, "the row's vector", required=True),
        "payload": Field(PAYLOAD, "what is stored beside the vector"),
    },
)


def columns_table(rows_max: int) -> Table:
    """Body of an upsert in columns (BSON only)."""
    return Table(
        "UpsertColumns",
        {
            "ids": Field(Items(rows_max, of=or_null(ID)), "one for each row; made if they are left out"),
            "vectors": Field(MATRIX, "n x d packed little-endian float32", required=True),
            "payloads": Field(Items(rows_max, of=PAYLOAD_SHAPE), "one object or null for each row"),
        },
        packed=True,
    )


def rows_of_items(
    items: Sequence[Any], limits: RowLimits, breathe: Breathe, *, booleans: bool = True
) -> Rows:
    """Rows of ``[{id?, vector, payload?}]``. RequestError names the first bad item as ``vectors[i]``.

    ``booleans``: whether there may be any among the numbers.
    """
    ids: list[Any] = []
    vectors: list[Any] = []
    payloads: list[Any] = []
    for start in range(0, len(items), SLICE_ITEMS):
        part = items[start : start + SLICE_ITEMS]
        # The table is asked only about items that do not look as usual.
        if set(map(type, part)) != {dict} or not set().union(*part) <= ITEM.fields.keys():
            for index, item in enumerate(part, start):
                ITEM.read(item, f"vectors[{index}]")
        ids += [item.get("id") for item in part]
        vectors += [item.get("vector") for item in part]
        payloads += [item.get("payload") for item in part]
        breathe()
    if None in vectors:
        index = vectors.index(None)
        ITEM.read(items[index], f"vectors[{index}]")
    where = "vectors[{}]."
    return Rows(
        read_ids(ids, where + "id", limits.id_bytes),
        read_vectors(vectors, where + "vector", limits.dimension, limits.metric, breathe, booleans=booleans),
        read_payloads(payloads, where + "payload", limits.payload_bytes, breathe),
    )


def rows_of_columns(columns: Mapping[str, Any], limits: RowLimits, rows_max: int, breathe: Breathe) -> Rows:
    """Rows of ``{ids?, vectors, payloads?}`` as the table of columns gives them."""
    vectors = read_matrix(columns["vectors"], "vectors", limits.dimension, limits.metric, breathe)
    count = len(vectors)
    if not 1 <= count <= rows_max:
        raise validation(
            f"vectors must be 1 to {rows_max} rows, they are {count}", count=count, limit=rows_max
        )
    for name in ("ids", "payloads"):
        column = columns[name]
        if column is not None and len(column) != count:
            raise validation(f"{name} has {len(column)} items, vectors has {count} rows")
    ids = read_ids(columns["ids"] or [None] * count, "ids[{}]", limits.id_bytes)
    payloads = columns["payloads"]
    if payloads is None:
        return Rows(ids, vectors, [b""] * count)
    return Rows(ids, vectors, read_payloads(payloads, "payloads[{}]", limits.payload_bytes, breathe))


# -- ids -----------------------------------------------------------------------------------------------------


def read_ids(values: Sequence[Any], where: str, bytes_max: int) -> list[bytes]:
    """UTF-8 of each id; ``None`` gets a new one.

    Raises for the first bad one and for one that occurs twice.
    """
    ids = _usual_ids(values, bytes_max) or []
    for index, value in enumerate(() if ids else values):
        if type(value) is str:
            id_ = value.encode()
            if not 1 <= len(id_) <= bytes_max:
                raise _bad_id(value, where.format(index), bytes_max)
            ids.append(id_)
        elif value is None:
            ids.append(str(uuid.uuid4()).encode())
        else:
            raise _bad_id(value, where.format(index), bytes_max)
    if len(set(ids)) != len(ids):
        _blame_duplicate(ids, where)
    return ids


def _usual_ids(values: Sequence[Any], bytes_max: int) -> list[bytes] | None:
    """UTF-8 of each id if all are strings of a good length, else None: 123 us for 1,000 instead of 161."""
    if set(map(type, values)) != {str}:
        return None
    ids = list(map(str.encode, values))
    sizes = set(map(len, ids))
    return ids if min(sizes) >= 1 and max(sizes) <= bytes_max else None


def read_id(value: Any, where: str, bytes_max: int) -> bytes:
    """UTF-8 of an id that must be there."""
    if value is None:
        raise _bad_id(value, where, bytes_max)
    return read_ids([value], where, bytes_max)[0]


def _bad_id(value: Any, where: str, bytes_max: int) -> RequestError:
    expected = f"a string of 1 to {bytes_max} bytes of UTF-8"
    if not isinstance(value, str):
        return wrong(where, expected, value)
    size = len(value.encode())
    return validation(f"{where} must be {expected}, it has {size} bytes", field=where, size_bytes=size)


def _blame_duplicate(ids: Sequence[bytes], where: str) -> NoReturn:
    first: dict[bytes, int] = {}
    second = next(index for index, id_ in enumerate(ids) if first.setdefault(id_, index) != index)
    id_ = ids[second]
    raise validation(
        f"{where.format(first[id_])} and {where.format(second)} are the same id {id_.decode()!r}",
        first=first[id_],
        second=second,
        id=id_.decode(),
    )


# -- payloads ------------------------------------------------------------------------------------------------


def read_payloads(values: Sequence[Any], where: str, bytes_max: int, breathe: Breathe) -> list[bytes]:
    """Canonical BSON of each payload, ``b""`` for null."""
    payloads: list[bytes] = []
    for start in range(0, len(values), SLICE_PAYLOADS):
        part = values[start : start + SLICE_PAYLOADS]
        flat = codec.encode_flat_payloads(part) if set(map(type, part)) == {dict} else None
        if flat is None or max(map(len, flat)) > bytes_max:
            flat = [
                b"" if value is None else read_payload(value, where.format(index), bytes_max)
                for index, value in enumerate(part, start)
            ]
        payloads += flat
        breathe()
    return payloads


def read_payload(value: Any, where: str, bytes_max: int) -> bytes:
    """Canonical BSON of one payload, ``b""`` for null."""
    if value is None:
        return b""
    if not isinstance(value, Mapping):
        raise wrong(where, PAYLOAD.expected, value)
    try:
        payload = codec.encode_payload(value)
    except RequestError as error:
        raise validation(f"{where}: {error.message}", field=where, **error.details) from error
    if len(payload) > bytes_max:
        raise too_large(where, len(payload), bytes_max)
    return payload


# -- vectors -------------------------------------------------------------------------------------------------


def read_vectors(
    values: Sequence[Any],
    where: str,
    dimension: int,
    metric: Metric,
    breathe: Breathe,
    *,
    booleans: bool = True,
) -> Vectors:
    """Vectors as lists of numbers or packed float32, to (n, d) float32."""
    vectors: Vectors = np.empty((len(values), dimension), np.float32)
    step = max(1, SLICE_VALUES // dimension)
    for start in range(0, len(values), step):
        part = values[start : start + step]
        if not _fill(vectors[start : start + len(part)], part, metric, booleans):
            for index, value in enumerate(part, start):
                if not _fill(vectors[index : index + 1], [value], metric, booleans):
                    raise _bad_vector(value, where.format(index), dimension, metric)
        breathe()
    return vectors


def read_vector(value: Any, where: str, dimension: int, metric: Metric, *, booleans: bool = True) -> Vectors:
    """One vector, to (d,) float32."""
    if type(value) is list and len(value) == dimension and not booleans:
        # The usual case at once: 9 us within a request instead of 26.
        numbers = _numbers([value], dimension)
        if numbers is not None:
            vector: Vectors = numbers[0]
            with np.errstate(over="ignore"):  # else a good vector of 1e20 is a warning in the log
                square = vector.dot(vector)
            if _SQUARES_MIN < square < _SQUARES_MAX:
                return vector
    vectors: Vectors = np.empty((1, dimension), np.float32)
    if not _fill(vectors, [value], metric, booleans):
        raise _bad_vector(value, where, dimension, metric)
    row: Vectors = vectors[0]
    return row


def read_matrix(value: Any, where: str, dimension: int, metric: Metric, breathe: Breathe) -> Vectors:
    """Packed n x d float32, to (n, d) float32. Raises for the first bad row."""
    if not isinstance(value, bytes):
        raise wrong(where, "n x d packed little-endian float32", value)
    packed = _unpacked(value, where)
    if len(packed) % (4 * dimension):
        raise validation(
            f"{where} has {len(packed)} bytes, not a multiple of the {4 * dimension} bytes of a row "
            f"of {dimension} dimensions",
            field=where,
            expected_dimension=dimension,
        )
    vectors: Vectors = np.frombuffer(packed, "<f4").reshape(-1, dimension).astype(np.float32, copy=False)
    step = max(1, SLICE_PACKED // dimension)
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step]
        if not _surely_good(part):
            bad = _bad_rows(part, metric)
            if bad.any():
                index = start + int(np.argmax(bad))
                raise _bad_vector(vectors[index].tolist(), f"{where}[{index}]", dimension, metric)
        breathe()
    return vectors


def _bad_rows(vectors: Vectors, metric: Metric) -> npt.NDArray[np.bool_]:
    good: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
    if metric == "cosine":
        good &= np.logical_or.reduce(vectors != 0, axis=1)
    return ~good


def _fill(vectors: Vectors, values: Sequence[Any], metric: Metric, booleans: bool) -> bool:
    """Write the values into (n, d) float32; False if one of them is not a good vector."""
    count, dimension = vectors.shape
    kinds = set(map(type, values))
    if kinds == {list}:
        if set(map(len, values)) != {dimension} or (booleans and not _all_numbers(values)):
            return False
        numbers = _numbers(values, dimension)
        if numbers is None:
            return False
        vectors[:] = numbers
        if _surely_good(vectors):
            return True
    elif all(issubclass(kind, bytes) for kind in kinds):
        for index, value in enumerate(values):
            packed = value if getattr(value, "subtype", 0) == 0 else value[2:] if _is_packed(value) else b""
            if len(packed) != 4 * dimension:
                return False
            vectors[index] = np.frombuffer(packed, "<f4")
    else:
        # Both forms in one batch, or neither.
        return count > 1 and all(
            _fill(vectors[i : i + 1], [value], metric, booleans) for i, value in enumerate(values)
        )
    return not _bad_rows(vectors, metric).any()


def _numbers(values: Sequence[list[Any]], dimension: int) -> Vectors | None:
    """Lists of d numbers, to (n, d) float32, read-only; None if one is something else.

    Booleans pass for numbers. ``struct`` takes 7 ns a number, ``array`` 18, NumPy 30; all round alike, and
    make infinity of what is too large.
    """
    try:
        packed = b"".join(starmap(_packing(dimension).pack, values))
    except struct.error:
        return None
    return np.frombuffer(packed, np.float32).reshape(len(values), dimension)


@lru_cache(64)
def _packing(dimension: int) -> struct.Struct:
    return struct.Struct(f"{dimension}f")


def _surely_good(vectors: Vectors) -> bool:
    """Whether all (n, d) numbers are finite, and no row is zero: true of nearly all.

    The sum of squares tells, for 20 us instead of 68 for looking at each number of 1,000 x 128.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors)
    low, high = (squares[0],) * 2 if len(squares) == 1 else (squares.min(initial=1), squares.max(initial=1))
    return bool(low > _SQUARES_MIN and high < _SQUARES_MAX)  # False if one is NaN


def _all_numbers(values: Sequence[list[Any]]) -> bool:
    kinds = set(map(type, chain.from_iterable(values)))
    return all(issubclass(kind, int | float) and kind is not bool for kind in kinds)


def _is_packed(value: Any) -> bool:
    return bool(value.subtype == VECTOR_SUBTYPE and value[:2] == PACKED_FLOAT32)


def _unpacked(value: bytes, where: str) -> bytes:
    """The packed float32 in a BSON binary, or RequestError that says what is wrong with it."""
    subtype = getattr(value, "subtype", 0)
    if subtype == 0:
        return value
    if subtype != VECTOR_SUBTYPE:
        raise validation(
            f"{where} is binary of subtype {subtype}; accepted: 0 and {VECTOR_SUBTYPE}", field=where
        )
    if value[:2] != PACKED_FLOAT32:
        raise validation(
            f"{where} is a BSON vector with header {value[:2].hex() or 'of no bytes'}; accepted: float32 "
            f"without padding ({PACKED_FLOAT32.hex()})",
            field=where,
        )
    return value[2:]


def _bad_vector(value: Any, where: str, dimension: int, metric: Metric) -> RequestError:
    """What is wrong with a vector that was refused."""
    if isinstance(value, bytes):
        packed = _unpacked(value, where)
        if len(packed) % 4:
            return validation(f"{where} has {len(packed)} bytes, not a multiple of 4", field=where)
        value = np.frombuffer(packed, "<f4").tolist()
    if not isinstance(value, list):
        return wrong(where, VECTOR.expected, value)
    if len(value) != dimension:
        return validation(
            f"{where} has {len(value)} dimensions, the collection has {dimension}",
            field=where,
            dimension=len(value),
            expected_dimension=dimension,
        )
    for index, number in enumerate(value):
        place = f"{where}[{index}]"
        if not isinstance(number, int | float) or isinstance(number, bool):
            return wrong(place, "a number", number)
        if not _is_float32(number):
            return validation(f"{place} is {number!r:.64}, not a finite float32", field=place)
    return validation(f"{where} is all zeros; under {metric} a vector must have a direction", field=where)


def _is_float32(number: float) -> bool:
    try:
        with np.errstate(over="ignore"):
            return bool(np.isfinite(np.float32(float(number))))
    except OverflowError:
        return False
