"""BSON bodies and canonical payloads."""

from __future__ import annotations

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
