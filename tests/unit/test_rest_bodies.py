"""Bodies: limits, formats, slices."""

from __future__ import annotations

import io
from typing import Any

import bson
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorizer.errors import RequestError
from vectorizer.rest import bodies
from vectorizer.rest.bodies import (
    BSON,
    JSON,
    SLICE_BYTES,
    BodyLimits,
    announced,
    check_depth,
    decode_body,
    encode_json,
    json_texts,
    may_have_booleans,
    read_body,
    wants_bson,
)

LIMITS = BodyLimits(json_bytes=100, bson_bytes=200, seconds=5)


def nothing() -> None:
    """A breath that nobody takes."""


def environ(body: bytes, kind: str | None = JSON, length: int | None = -1, **more: str) -> dict[str, Any]:
    given = {"wsgi.input": io.BytesIO(body), **more}
    if kind is not None:
        given["CONTENT_TYPE"] = kind
    if length is not None:
        given["CONTENT_LENGTH"] = str(len(body) if length < 0 else length)
    return given


def read(given: dict[str, Any], *, bson: bool = False) -> tuple[str, bytes]:
    kind, size = announced(given, LIMITS, bson=bson)
    body = read_body(given, kind, LIMITS)
    assert len(body) <= size
    return kind, body


def refused(status: int, given: dict[str, Any], *, bson: bool = False) -> str:
    with pytest.raises(RequestError) as caught:
        read(given, bson=bson)
    assert caught.value.status_code == status
    return caught.value.message


def test_formats() -> None:
    assert read(environ(b"{}")) == (JSON, b"{}")
    assert read(environ(b"{}", None)) == (JSON, b"{}")
    assert read(environ(b"{}", "Application/JSON; charset=utf-8"), bson=True) == (JSON, b"{}")
    assert read(environ(b"x", BSON), bson=True) == (BSON, b"x")
    assert read(environ(b"", length=None)) == (JSON, b"")
    assert "accepted: application/json" in refused(415, environ(b"x", BSON))
    assert "accepted: application/json or application/bson" in refused(
        415, environ(b"", "text/plain"), bson=True
    )
    assert "Content-Encoding 'gzip'" in refused(415, environ(b"", HTTP_CONTENT_ENCODING="gzip"))


def test_limits_are_named_with_both_numbers() -> None:
    assert "101 bytes, the limit is 100" in refused(413, environ(b"x" * 101))
    assert "101 bytes, the limit is 100" in refused(
        413, environ(b"x" * 101, length=None, HTTP_TRANSFER_ENCODING="chunked")
    )
    assert "201 bytes, the limit is 200" in refused(413, environ(b"x" * 201, BSON), bson=True)
    assert read(environ(b"x" * 100))[1] == b"x" * 100


class Broken:
    """A stream that ends in an error."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def read(self, length: int) -> bytes:
        raise self.error


def test_streams_that_break() -> None:
    assert "ended early" in refused(400, {**environ(b""), "wsgi.input": Broken(OSError("gone"))})
    assert "did not arrive within 5 s" in refused(408, {**environ(b""), "wsgi.input": Broken(TimeoutError())})


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        (JSON, b"", "the body is empty"),
        (JSON, b"{", "not valid JSON"),
        (JSON, b'{"a":NaN}', "not valid JSON"),
        (JSON, b'{"a":1e999}', "not valid JSON"),
        (JSON, b'{"a":"\xff"}', "not valid JSON"),
        (JSON, b'{"a":"\\ud800"}', "not valid JSON"),
        (JSON, b"[" * 5000 + b"]" * 5000, "not valid JSON"),
        (BSON, b"", "the body is empty"),
        (BSON, b"\x05\x00\x00\x00", "not valid BSON"),
        (BSON, bson.encode({"a": "x"}).replace(b"x", b"\xff"), "not valid BSON"),
        (BSON, b"{}", "not valid BSON"),
    ],
)
def test_what_is_not_a_document(kind: str, body: bytes, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode_body(kind, body, nothing)
    assert caught.value.status_code == 400
    assert sentence in caught.value.message


def test_number_of_containers_is_bounded() -> None:
    with pytest.raises(RequestError, match="the body has 300001 lists and objects, the limit is 300000"):
        decode_body(JSON, b"[" + b"[]," * 299_999 + b"{}]", nothing)


@pytest.mark.parametrize(
    ("item", "count"),
    [
        (b"1", 4_000_000),
        (b'"a"', 2_000_000),
        (b"[1]", 250_000),
        (b"[" * 100 + b"]" * 100, 2_500),
        (b'{"a":1}', 200_000),
    ],
)
@pytest.mark.parametrize("list_key", [None, "vectors"])
def test_what_takes_the_parser_long_is_refused(item: bytes, count: int, list_key: str | None) -> None:
    body = b'{"vectors":[{"x":[' + b",".join([item] * count) + b"]},{}]}"
    with pytest.raises(RequestError, match=r"could take \d+ ms, the limit is 45 ms; send less"):
        decode_body(JSON, body, nothing, list_key)


def test_a_large_body_of_ordinary_numbers_is_read_at_once() -> None:
    numbers = [index / 8_000_001 for index in range(390_000)]
    body = orjson.dumps({"a": numbers})
    assert 7 << 20 < len(body) < 8 << 20
    assert decode_body(JSON, body, nothing) == {"a": numbers}


def test_depth() -> None:
    def nested(levels: int) -> Any:
        value: Any = 1
        for level in range(levels):
            value = [1, value] if level % 2 else {"a": value}
        return value

    check_depth(1, 1, nothing)
    check_depth(nested(5), 5, nothing)
    check_depth([[1, 2], {"a": [1]}], 3, nothing)
    for value in (nested(6), nested(900)):
        with pytest.raises(RequestError, match="nested more than 5 levels"):
            check_depth(value, 5, nothing)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/bson", True),
        ("Application/BSON", True),
        ("application/bson, application/json", True),
        ("application/json, application/bson;q=0.5", False),
        ("application/json;q=0.1, application/bson;q=0.5", True),
        ("application/bson;q=0", False),
        ("application/bson;q=.", False),
        ("application/bsonx", False),
    ],
)
def test_accept(accept: str, expected: bool) -> None:
    assert wants_bson(accept) is expected


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_float32_goes_out_and_comes_back_the_same(value: float) -> None:
    stored = np.array([value], np.float32)
    again = np.array(orjson.loads(encode_json(stored)), np.float64).astype(np.float32)
    assert again.tobytes() == stored.tobytes()


# -- slices --------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(-9, 9), st.sampled_from(["},", '"},{"', "]}", "},\\", "a"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(VALUES, max_size=12), st.integers(0, 2), st.booleans())
def test_slices_give_what_the_whole_gives(items: list[Any], indent: int, cut: bool) -> None:
    body = orjson.dumps({"k": items}, option=orjson.OPT_INDENT_2 if indent == 1 else 0)
    body = body.replace(b",", b" ,\n") if indent == 2 else body
    body = body[:-3] + body[-2:] if cut else body
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "SLICE_BYTES", 4)
        try:
            whole = orjson.loads(body)
        except orjson.JSONDecodeError:
            whole = None
        sliced = None
        if len(body) > 8:
            try:
                sliced = decode_body(JSON, body, nothing, "k")
            except RequestError:
                sliced = None
            assert sliced == whole


@pytest.mark.parametrize(
    "body", [b'{"k":[{},]}', b'{"k":[{},{}],"k":[{}]}', b'{"k":[{},{}]}}', b'{"j":[{},{}]}']
)
def test_odd_bodies_are_never_taken_for_lists(body: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "SLICE_BYTES", 1)
        try:
            assert decode_body(JSON, body, nothing, "k") == orjson.loads(body)
        except RequestError:
            with pytest.raises(orjson.JSONDecodeError):
                orjson.loads(body)


def test_a_long_list_is_parsed_with_breaths() -> None:
    breaths = []
    items = [
        {"id": f"{index}", "vector": [0.5] * 64, "payload": {"a": {"b": "},"}}} for index in range(12_000)
    ]
    body = orjson.dumps({"vectors": items})
    assert len(body) > 5 * SLICE_BYTES
    assert decode_body(JSON, body, lambda: breaths.append(1), "vectors") == {"vectors": items}
    assert len(breaths) >= len(body) // SLICE_BYTES


def test_a_list_that_cannot_be_sliced_is_parsed_as_a_whole() -> None:
    items = [{"a": [{"b": index}, {"c": "x" * 100}] * 8_000} for index in range(3)]
    body = orjson.dumps({"vectors": items})
    assert len(body) > 4 * SLICE_BYTES
    assert decode_body(JSON, body, nothing, "vectors") == {"vectors": items}


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"[1]", False), (b'["u", "f"]', False), (b"[true]", True), (b"[false]", True), (b'["true"]', True)],
)
def test_whether_there_may_be_booleans(text: bytes, expected: bool) -> None:
    assert may_have_booleans(text) is expected


def test_the_depth_of_a_vector_in_a_list_is_left_to_its_reader() -> None:
    deep: Any = [[[[[[[[1]]]]]]]]

    def items(key: str) -> Any:
        return {"vectors": [{"id": "a", key: deep}]}

    check_depth(items("vector"), 5, nothing, "vectors")
    for document, list_key in ((items("vector"), None), (items("payload"), "vectors"), ([[items("x")]], "x")):
        with pytest.raises(RequestError, match="nested more than 5 levels"):
            check_depth(document, 5, nothing, list_key)
    deeper = {"vectors": [{"payload": {"vector": deep}}]}
    with pytest.raises(RequestError, match="nested more than 5 levels"):
        check_depth(deeper, 5, nothing, "vectors")


@pytest.mark.parametrize(
    "odd", ["plain", 'quo"te', "back\\slash", "line\nfeed", "\0", "\x1f", "\x7f", "é€😀", ""]
)
@pytest.mark.parametrize("count", [0, 1, 100, 101, 1000])
def test_texts_are_the_list_that_the_encoder_makes(odd: str, count: int) -> None:
    texts = [f"{number}{odd if number % 3 == 0 else ''}" for number in range(count)]
    assert encode_json({"a": json_texts([text.encode() for text in texts])}) == encode_json({"a": texts})


def test_many_empty_texts() -> None:
    assert encode_json(json_texts([b""] * 200)) == encode_json([""] * 200)
