"""Rows out of items and columns."""

from __future__ import annotations

import re
import struct
import warnings
from typing import Any

import bson
import numpy as np
import pytest
from bson.binary import Binary
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer import codec
from vectorizer.errors import RequestError
from vectorizer.operations import Metric
from vectorizer.rest.rows import (
    RowLimits,
    columns_table,
    read_id,
    read_matrix,
    read_vector,
    rows_of_columns,
    rows_of_items,
)

LIMITS = RowLimits(dimension=3, metric="cosine", id_bytes=8, payload_bytes=64)
GOOD = [1.0, 2, 3.5]
UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def nothing() -> None:
    """A breath that nobody takes."""


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def through_bson(value: Any) -> Any:
    return codec.decode(bson.encode({"value": value}))["value"]


def test_items() -> None:
    items = [
        {"id": "a", "vector": GOOD, "payload": {"b": 1, "a": 2}},
        {"id": "é", "vector": [1, 2, 3]},
        {"vector": [0.1, 0, 0], "payload": None},
        {"id": None, "vector": [1e-3, 2, 3]},
    ]
    rows = rows_of_items(items, LIMITS, nothing)
    assert rows.ids[:2] == [b"a", "é".encode()]
    assert all(UUID.fullmatch(id_) for id_ in rows.ids[2:]) and rows.ids[2] != rows.ids[3]
    assert rows.vectors.dtype == np.float32 and rows.vectors.flags.c_contiguous
    expected = np.array([item["vector"] for item in items], np.float32)
    assert rows.vectors.tobytes() == expected.tobytes()
    assert rows.payloads == [codec.encode_payload({"a": 2, "b": 1}), b"", b"", b""]


def test_payloads_of_many_items_are_those_of_each() -> None:
    items = [{"vector": GOOD, "payload": {"b": index, "a": "é" * (index % 20)}} for index in range(200)]
    expected = [codec.encode_payload(item["payload"]) for item in items]
    assert rows_of_items(items, LIMITS, nothing).payloads == expected
    for bad, words in (
        ({"a": "x" * 64}, r"vectors\[170\].payload has 77 bytes, the limit is 64"),
        ({"a": float("inf")}, r"vectors\[170\].payload: payload field 'a' is inf"),
        ([1], r"vectors\[170\].payload must be an object or null, not a list"),
    ):
        items[170]["payload"] = bad
        with pytest.raises(RequestError, match=words):
            rows_of_items(items, LIMITS, nothing)


def test_items_of_bson_may_mix_binary_and_lists() -> None:
    values = [packed(1, 2, 3), Binary(b"\x27\x00" + packed(4, 5, 6), 9), [7.0, 8, bson.Int64(9)]]
    items = [{"vector": through_bson(value)} for value in values]
    rows = rows_of_items(items, LIMITS, nothing)
    assert rows.vectors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("item", "status", "sentence"),
    [
        (3, 400, "vectors[1] must be an object, not 3"),
        ({}, 400, "vectors[1].vector is missing"),
        ({"vector": GOOD, "vectr": 1}, 400, "unknown field 'vectr' in vectors[1]; did you mean vector?"),
        (
            {"vector": None},
            400,
            "vectors[1].vector must be a list of numbers, or in BSON packed float32, not null",
        ),
        ({"vector": [1, 2]}, 400, "vectors[1].vector has 2 dimensions, the collection has 3"),
        ({"vector": [1, 2, 3, 4]}, 400, "vectors[1].vector has 4 dimensions"),
        ({"vector": [1, True, 3]}, 400, "vectors[1].vector[1] must be a number, not a boolean"),
        ({"vector": [1, "2", 3]}, 400, "vectors[1].vector[1] must be a number, not a string"),
        ({"vector": [1, None, 3]}, 400, "vectors[1].vector[1] must be a number, not null"),
        ({"vector": [1, [2], 3]}, 400, "vectors[1].vector[1] must be a number, not a list"),
        ({"vector": [1, 2, 1e39]}, 400, "vectors[1].vector[2] is 1e+39, not a finite float32"),
        ({"vector": [1, 2, float("nan")]}, 400, "vectors[1].vector[2] is nan, not a finite float32"),
        ({"vector": [1, float("-inf"), 3]}, 400, "vectors[1].vector[1] is -inf"),
        ({"vector": [1, 10**400, 3]}, 400, "vectors[1].vector[1] is 1000"),
        ({"vector": [0, 0, -0.0]}, 400, "vectors[1].vector is all zeros; under cosine"),
        ({"vector": [0, 0, 1e-60]}, 400, "vectors[1].vector is all zeros"),
        ({"vector": b"1234567"}, 400, "vectors[1].vector has 7 bytes, not a multiple of 4"),
        ({"vector": packed(1, 2)}, 400, "vectors[1].vector has 2 dimensions"),
        ({"vector": packed(1, 2, float("nan"))}, 400, "vectors[1].vector[2] is nan"),
        ({"vector": Binary(packed(1, 2, 3), 5)}, 400, "binary of subtype 5; accepted: 0 and 9"),
        ({"vector": Binary(b"\x03\x00abc", 9)}, 400, "BSON vector with header 0300; accepted: float32"),
        ({"vector": Binary(b"\x27\x01" + packed(1, 2, 3), 9)}, 400, "header 2701"),
        ({"vector": Binary(b"", 9)}, 400, "header of no bytes"),
        ({"vector": GOOD, "id": 7}, 400, "vectors[1].id must be a string of 1 to 8 bytes of UTF-8, not 7"),
        ({"vector": GOOD, "id": ""}, 400, "it has 0 bytes"),
        ({"vector": GOOD, "id": "é" * 5}, 400, "it has 10 bytes"),
        ({"vector": GOOD, "id": "a"}, 400, "vectors[0].id and vectors[1].id are the same id 'a'"),
        ({"vector": GOOD, "payload": [1]}, 400, "vectors[1].payload must be an object or null, not a list"),
        ({"vector": GOOD, "payload": {"a": 2**63}}, 400, "vectors[1].payload: payload field 'a' is 9223"),
        ({"vector": GOOD, "payload": {"a\0": 1}}, 400, "contains a zero byte"),
        ({"vector": GOOD, "payload": {"a": "x" * 64}}, 413, "vectors[1].payload has"),
    ],
)
def test_the_first_bad_item_is_named(item: Any, status: int, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        rows_of_items([{"id": "a", "vector": GOOD}, item, {"vector": 1}][:2], LIMITS, nothing)
    assert caught.value.status_code == status
    assert sentence in caught.value.message


def test_zeros_have_no_direction_but_a_place() -> None:
    for metric in ("euclidean", "dot"):
        assert read_vector([0, 0, 0], "vector", 3, metric).tolist() == [0, 0, 0]


def test_long_vectors_are_taken_and_too_long_ones_refused_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        long = read_vector([1e20, 1.0, 3e38], "vector", 3, "cosine", booleans=False)
        assert long.tolist() == np.array([1e20, 1.0, 3e38], np.float32).tolist()
        with pytest.raises(RequestError):
            read_vector([1e39, 1.0, 1e300], "vector", 3, "cosine", booleans=False)


def test_ids() -> None:
    assert read_id("é" * 4, "id", 8) == ("é" * 4).encode()
    for bad in (None, "", "x" * 9, 3, b"x"):
        with pytest.raises(RequestError, match="id must be a string of 1 to 8 bytes"):
            read_id(bad, "id", 8)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_lists_columns_and_binaries_give_the_same_rows(vectors: list[list[float]]) -> None:
    limits = RowLimits(3, "dot", 8, 64)
    expected = np.array(vectors, np.float32)
    lists = rows_of_items([{"vector": vector} for vector in vectors], limits, nothing)
    binaries = rows_of_items([{"vector": packed(*vector)} for vector in vectors], limits, nothing)
    columns = columns_table(10).read({"vectors": expected.tobytes()})
    in_columns = rows_of_columns(columns, limits, 10, nothing)
    for rows in (lists, binaries, in_columns):
        assert rows.vectors.tobytes() == expected.tobytes()
        assert len(set(rows.ids)) == len(vectors)


def columns(**given: Any) -> Any:
    return rows_of_columns(columns_table(2).read(given), LIMITS, 2, nothing)


def test_columns() -> None:
    vectors = packed(1, 2, 3, 4, 5, 6)
    rows = columns(ids=["a", "b"], vectors=vectors, payloads=[{"x": 1}, None])
    assert rows.ids == [b"a", b"b"]
    assert rows.vectors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows.payloads == [codec.encode_payload({"x": 1}), b""]
    assert columns(vectors=Binary(b"\x27\x00" + vectors, 9)).payloads == [b"", b""]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "vectors is missing"),
        ({"vectors": [1]}, "vectors must be n x d packed little-endian float32, not a list"),
        ({"vectors": b""}, "vectors must be 1 to 2 rows, they are 0"),
        ({"vectors": packed(*[1] * 9)}, "they are 3"),
        ({"vectors": packed(1, 2)}, "vectors has 8 bytes, not a multiple of the 12 bytes of a row"),
        ({"vectors": Binary(b"ab", 4)}, "vectors is binary of subtype 4"),
        ({"vectors": packed(1, 2, 3, 0, 0, 0)}, "vectors[1] is all zeros"),
        ({"vectors": packed(1, 2, 3, 4, float("inf"), 6)}, "vectors[1][1] is inf"),
        ({"vectors": packed(1, 2, 3), "ids": ["a", "b"]}, "ids has 2 items, vectors has 1 rows"),
        ({"vectors": packed(1, 2, 3), "payloads": [{}, {}]}, "payloads has 2 items, vectors has 1 rows"),
        ({"vectors": packed(1, 2, 3), "payloads": [3]}, "payloads[0] must be an object or null"),
        ({"vectors": packed(*[1] * 6), "ids": ["a", "a"]}, "ids[0] and ids[1] are the same id"),
        ({"vectors": packed(1, 2, 3), "id": ["a"]}, "did you mean ids?"),
    ],
)
def test_bad_columns(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        columns(**given)
    assert sentence in caught.value.message


def test_long_batches_breathe() -> None:
    breaths = []
    items = [{"vector": [1.0, 2, 3], "payload": {"a": 1}}] * 30_000
    rows_of_items(items, LIMITS, lambda: breaths.append(1))
    assert len(breaths) > 100


def test_matrix_of_queries() -> None:
    assert read_matrix(packed(1, 2, 3, 4, 5, 6), "vectors", 2, "dot", nothing).shape == (3, 2)


EDGES = [0, 1, -1, 1e-31, 1e-29, 1e-46, 1e-300, 9e37, 1.1e38, 3.4e38, 3.5e38, 1e300, 2**62, -(2**100)]


@given(st.lists(st.sampled_from(EDGES), min_size=2, max_size=2), st.sampled_from(["cosine", "euclidean"]))
def test_the_quick_look_at_numbers_decides_as_the_slow_one(row: list[float], metric: Metric) -> None:
    with np.errstate(all="ignore"):
        exact = np.array(row, np.float64).astype(np.float32)
    good = bool(np.isfinite(exact).all()) and (metric != "cosine" or bool(exact.any()))
    limits = RowLimits(2, metric, 256, 1000)
    for items in ([{"vector": row}], [{"vector": [1, 2]}, {"vector": row}]):
        if good:
            read = rows_of_items(items, limits, nothing, booleans=False).vectors[-1]
            assert read.tobytes() == exact.tobytes()
        else:
            with pytest.raises(RequestError, match=r"not a finite float32|is all zeros"):
                rows_of_items(items, limits, nothing, booleans=False)
    if good and np.isfinite(exact).all():
        assert read_matrix(exact.tobytes(), "vectors", 2, metric, nothing).tobytes() == exact.tobytes()
