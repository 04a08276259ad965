"""Slices of BSON give what the whole gives, or leave it to the decoder."""

from __future__ import annotations

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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bson_slices, "SLICE_BYTES", 8)
        sliced = decode_in_slices(bytes(body), nothing)
    try:
        whole = codec.decode(bytes(body))
    except codec.CodecError:
        assert sliced is None
    else:
        assert sliced is None or repr(sliced) == repr(whole)


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


def test_what_cannot_be_measured_is_left_to_the_decoder() -> None:
    regex = {"a": bson.Regex("x"), "ids": ["x" * 100] * 9000}
    assert decode_in_slices(bson.encode(regex), nothing) is None
    twice = bson.encode({"ab": 1, "ac": 2}).replace(b"ac", b"ab")
    assert decode_in_slices(twice, nothing) is None
    assert decode_in_slices(b"", nothing) is None
    assert decode_in_slices(b"\x05\0\0\0\1", nothing) is None
