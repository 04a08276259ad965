"""BSON bodies and canonical payloads."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from vectorizer import codec
from vectorizer.errors import RequestError

KEYS = st.text().filter(lambda key: "\0" not in key) | st.sampled_from(["$ref", "$id", "$db", "_id", "$date"])
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(codec.INT64_MIN, codec.INT64_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
PAYLOADS = st.dictionaries(KEYS, JSON_VALUES, max_size=5)


@given(PAYLOADS)
def test_payloads_go_there_and_back(payload: dict[str, object]) -> None:
    assert codec.decode_payload(codec.encode_payload(payload)) == payload


@given(st.binary(max_size=300), PAYLOADS)
def test_a_document_in_pieces_is_the_same_document(value: bytes, fields: dict[str, object]) -> None:
    before = {"o": 1, "c": "things"}
    after = {"p": b"", "more": fields}
    pieces = codec.encode_around(before, "v", memoryview(value), after)
    assert b"".join(pieces) == codec.encode({**before, "v": value, **after})


def test_what_looks_like_a_reference_of_mongodb_is_an_object() -> None:
    payload = {
        "a": {"$ref": "x", "$id": 1},
        "b": [[{"$ref": "y", "$id": {"$ref": "z", "$id": None}}]],
        "$ref": "c",
    }
    assert codec.decode_payload(codec.encode_payload(payload)) == payload
    for document in (
        payload,
        payload | {"large": bytes(5000)},
        {"l": [1, {"$ref": "x", "$id": 1}], "s": "s" * 5000},
    ):
        assert codec.decode_document(bson.encode(document)) == document
    nested = bson.encode({"$ref": 1})
    for _ in range(700):
        nested = (len(nested) + 8).to_bytes(4, "little") + b"\3a\0" + nested + b"\0"
    with pytest.raises(codec.CodecError, match="not a BSON document"):
        codec.decode_document(nested)


def test_the_order_of_keys_does_not_matter() -> None:
    one = {"b": 1, "a": {"y": [{"k": 1, "j": 2}], "x": 2}}
    other = {"a": {"x": 2, "y": [{"j": 2, "k": 1}]}, "b": 1}
    assert codec.encode_payload(one) == codec.encode_payload(other)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(max_size=3),
    st.binary(max_size=2),
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "Z", "_id", "", "n\0"]), SCALARS | PAYLOADS, max_size=3)
    )
)
def test_flat_payloads_are_encoded_together_as_one_by_one_or_not_at_all(
    payloads: list[dict[str, Any]],
) -> None:
    together = codec.encode_flat_payloads(payloads)
    if together is not None:
        assert together == [codec.encode_payload(payload) for payload in payloads]
    assert codec.encode_flat_payloads([{"b": 1.5, "a": "x"}, {"c": None}] * 60) is not None
    for bad in (
        {"_id": 1},
        {"a": 2**63},
        {"a": float("nan")},
        {"a\0": 1},
        {"a": {}},
        {1: 2},
        {"a": "\ud800"},
    ):
        assert codec.encode_flat_payloads([{"a": 1}, bad]) is None


def test_no_payload_is_no_bytes() -> None:
    assert codec.encode_payload(None) == b""
    assert codec.decode_payload(b"") is None
    assert codec.encode_payload({}) != b""
    assert codec.decode_payload(codec.encode_payload({})) == {}


def test_types_stay_what_they_are() -> None:
    payload = {"one": 1, "real": 1.0, "true": True, "large": 2**40}
    back = codec.decode_payload(codec.encode_payload(payload))
    assert back is not None
    assert [type(back[key]) for key in ("one", "real", "true", "large")] == [
        int,
        float,
        bool,
        bson.int64.Int64,
    ]


def deep(levels: int) -> dict[str, object]:
    document: dict[str, object] = {}
    for _ in range(levels):
        document = {"a": document}
    return document


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"a": float("nan")}, "NaN"),
        ({"a": {"b": [float("inf")]}}, "a.b"),
        ({"a": 2**63}, "64-bit"),
        ({"a": ObjectId()}, "ObjectId"),
        ({"a": b"x"}, "bytes"),
        ({1: 2}, "not a string"),
        ({"a\0b": 1}, "zero byte"),
        (deep(codec.PAYLOAD_DEPTH_MAX + 1), "nested"),
        ({"a": [[[[]]]] * 2, "b": "\ud800"}, "cannot be stored"),
    ],
)
def test_what_json_could_not_give_back_is_refused(payload: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        codec.encode_payload(payload)
    assert caught.value.status_code == 400


def test_lists_are_nested_no_deeper_than_objects() -> None:
    nested: object = 1
    for _ in range(codec.PAYLOAD_DEPTH_MAX + 1):
        nested = [nested]
    with pytest.raises(RequestError, match="nested"):
        codec.encode_payload({"a": nested})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_a_codec_error(content: bytes) -> None:
    try:
        document = codec.decode(content)
    except codec.CodecError:
        return
    assert isinstance(document, dict)


def test_what_bson_cannot_carry_is_a_codec_error() -> None:
    with pytest.raises(codec.CodecError):
        codec.encode({"a": 2**70})
    with pytest.raises(codec.CodecError):
        codec.encode({"a": object()})
