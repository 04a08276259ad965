"""Raw paths and query strings."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorizer.errors import RequestError
from vectorizer.rest.paths import decode_part, query_pairs, split_target


@given(st.text(min_size=1, max_size=40))
def test_whatever_was_encoded_once_is_decoded_once(text: str) -> None:
    path, query = split_target("/v/" + quote(text, safe="") + "?a=" + quote(text, safe=""))
    assert decode_part(path.removeprefix("/v/"), "the id") == text
    assert query_pairs(query) == [("a", text)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a/b?x=1?2", ("/a/b", "x=1?2")),
        ("/a", ("/a", "")),
        ("http://host:1/a?x", ("/a", "x")),
        ("http://host", ("", "")),
        ("/caf\xc3\xa9", ("/caf%C3%A9", "")),
        ("/a b", ("/a%20b", "")),
        ("*", ("*", "")),
    ],
)
def test_targets(target: str, expected: tuple[str, str]) -> None:
    assert split_target(target) == expected


@pytest.mark.parametrize("part", ["%", "%4", "a%zz", "%%41"])
def test_malformed_escapes(part: str) -> None:
    with pytest.raises(RequestError, match="the id is not correctly percent-encoded"):
        decode_part(part, "the id")


def test_invalid_utf8_is_refused_and_not_dropped() -> None:
    with pytest.raises(RequestError, match="the id is not UTF-8"):
        decode_part("a%FFb", "the id")
    with pytest.raises(RequestError, match="the query string is not UTF-8"):
        query_pairs("a=%FF")


def test_query_strings() -> None:
    assert query_pairs("") == []
    assert query_pairs("a=1+2&b&c=") == [("a", "1 2"), ("b", ""), ("c", "")]
    assert query_pairs("a=%2B") == [("a", "+")]
    assert decode_part("a%252Fb", "the id") == "a%2Fb"
