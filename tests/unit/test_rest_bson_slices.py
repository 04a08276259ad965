"""Slices of BSON give what the whole gives, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson.binary import Binary
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer import codec
from vectorizer.errors import RequestError
from vectorizer.rest import bson_slices
from vectorizer.rest.bodies import BSON, decode_body
from vectorizer.rest.bson_slices import decode_in_slices


def nothing() -> None:
    """A breath that nobody takes."""


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.binary(max_size=5).map(lambda data: Binary(data, 9)),
    st.datetimes(),
    st.just(bson.ObjectId()),
)
KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3))
)
DOCUMENTS = st.dictionaries(KEYS, st.one_of(VALUES, st.lists(VALUES, max_size=12)), max_size=4)


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, st.integers(0, 30))
def test_slices_give_what_the_whole_gives(document: dict[str, Any], size: int) -> None:
    body = bson.encode(document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bson_slices, "SLICE_BYTES", size)
        assert decode_in_slices(body, nothing) == codec.decode(body)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.data())
def test_damaged_bodies_are_never_misread(document: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(bson.encode(document))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        whole = codec.decode_document(bytes(body))
    except codec.CodecError:
        whole = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bson_slices, "SLICE_BYTES", 8)
        try:
            sliced = decode_in_slices(bytes(body), nothing)
        except RequestError as error:
            assert error.status_code == 400
        else:
            assert repr(sliced) == repr(whole)


def test_long_lists_are_decoded_with_breaths() -> None:
    breaths = []
    items = [{"id": f"{n}", "vector": bytes(64), "payload": {"n": n}} for n in range(20_000)]
    body = bson.encode({"vectors": items, "other": 1})
    assert decode_body(BSON, body, lambda: breaths.append(1)) == {"vectors": items, "other": 1}
    assert len(breaths) >= len(body) // bson_slices.SLICE_BYTES


def test_number_of_items_is_bounded() -> None:
    body = bson.encode({"ids": [None] * (bson_slices.ITEMS_MAX + 1)})
    with pytest.raises(RequestError, match="ids has more than 300000 items"):
        decode_body(BSON, body, nothing)


def element(kind: int, name: bytes, value: bytes) -> bytes:
    return bytes([kind]) + name + b"\0" + value


def document_of(elements: bytes) -> bytes:
    return (len(elements) + 5).to_bytes(4, "little") + elements + b"\0"


@pytest.mark.parametrize(
    "wrap", [lambda elements: elements, lambda elements: element(3, b"a", document_of(elements))]
)
@pytest.mark.parametrize("inner", [3, 4])
def test_whatever_is_large_is_decoded_with_breaths(inner: int, wrap: Callable[[bytes], bytes]) -> None:
    """Not only the lists of the body itself: 12 MB of fields held the event loop for 7.8 s."""
    breaths = []
    nulls = b"".join(element(0x0A, b"%d" % number, b"") for number in range(200_000))
    body = document_of(wrap(element(inner, b"x", document_of(nulls)) + nulls))
    assert decode_in_slices(body, lambda: breaths.append(1)) == codec.decode(body)
    assert len(breaths) >= len(body) // bson_slices.SLICE_BYTES


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not valid BSON"),
        (b"\x05\0\0\0\1", "the body does not end where it says"),
        (b"\x06\0\0\0\0", "it has 5 bytes, and says 6"),
        (bson.encode({"a": bson.Regex("x")}), "a value of type 0x0b, which no request takes"),
        (document_of(element(2, b"a", b"\xff" * 4)), "a value of -1 bytes"),
        (document_of(element(4, b"a", b"\4\0\0\0")), "a value of 4 bytes"),
        (document_of(element(5, b"a", b"\x09\0\0\0\0")), "longer than what it is in"),
        (document_of(element(8, b"a", b"\7")), "not a BSON document"),
        (document_of(b"\x0aa"), "not valid BSON"),
    ],
)
def test_what_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        decode_in_slices(body, nothing)


def test_depth_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bson_slices, "SLICE_BYTES", 1)
    document: dict[str, Any] = {"a": 1}
    for _ in range(bson_slices.DEPTH_MAX - 1):
        document = {"b": document}
    assert decode_in_slices(bson.encode(document), nothing) == document
    with pytest.raises(RequestError, match="c is nested more than 64 levels deep"):
        decode_in_slices(bson.encode({"c": document}), nothing)


def test_of_a_key_that_occurs_twice_the_last_value_counts() -> None:
    twice = bson.encode({"ab": 1, "ac": 2}).replace(b"ac", b"ab")
    assert decode_in_slices(twice, nothing) == codec.decode(twice) == {"ab": 2}
