"""A head that comes again on its connection: recognised, it says what it would say if it were parsed."""

from __future__ import annotations

from typing import Any

import pytest

from vectorizer.rest.head import (
    REPEATED_BYTES_MAX,
    RepeatedHead,
    finish_head,
    read_fields,
    read_request_line,
    whole_head,
)

FIRST = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nX-Key: 1\r\n\r\n"
LAST = b"POST /a HTTP/1.0\r\nHost: h\r\ncontent-length:7\r\n\r\n"


def parsed(window: bytes) -> dict[str, Any]:
    """The environment of a head, read line by line."""
    lines = whole_head(window)
    assert lines is not None
    environ: dict[str, Any] = {"common": 1}
    read_request_line(lines[0], environ)
    read_fields(lines[1:], environ)
    finish_head(environ)
    return environ


def repeated(window: bytes) -> RepeatedHead | None:
    lines = whole_head(window)
    assert lines is not None
    return RepeatedHead.of(lines, parsed(window))


@pytest.mark.parametrize("window", [FIRST, LAST])
@pytest.mark.parametrize("digits", [b"0", b"007", b"12", b"1" * 18])
def test_with_any_length_it_is_what_parsing_gives(window: bytes, digits: bytes) -> None:
    head = repeated(window)
    assert head is not None
    again = window.replace(b"12", digits).replace(b":7", b":" + digits)
    for behind in (b"", b"body", again):
        assert head.match(again + behind) == (parsed(again), len(again))


@pytest.mark.parametrize("window", [FIRST, LAST])
def test_each_request_has_an_environment_of_its_own(window: bytes) -> None:
    head = repeated(window)
    assert head is not None
    match = head.match(window)
    assert match is not None
    match[0]["HTTP_HOST"] = "other"
    assert head.match(window) == (parsed(window), len(window))


@pytest.mark.parametrize(
    "other",
    [
        FIRST.replace(b"POST", b"PUT"),
        FIRST.replace(b"/a", b"/aa"),
        FIRST.replace(b"Key: 1", b"Key: 2"),
        FIRST.replace(b": 12\r", b": \r"),
        FIRST.replace(b": 12\r", b": 1x\r"),
        FIRST.replace(b": 12\r", b": -1\r"),
        FIRST.replace(b": 12\r", b": " + b"1" * 19 + b"\r"),
        FIRST.replace(b"12\r\n", b"12\n"),
        FIRST.replace(b"12\r\n", b"12\r\nContent-Length: 13\r\n"),
        FIRST[:-2] + b"X-More: 1\r\n\r\n",
    ],
)
def test_any_other_head_is_parsed(other: bytes) -> None:
    head = repeated(FIRST)
    assert head is not None
    assert head.match(other) is None


@pytest.mark.parametrize("length", range(len(FIRST)))
def test_a_part_of_it_is_not_it(length: int) -> None:
    head = repeated(FIRST)
    assert head is not None
    assert head.match(FIRST[:length]) is None


@pytest.mark.parametrize(
    "window",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 12 \r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 12\r\nX-Long: " + b"x" * REPEATED_BYTES_MAX + b"\r\n\r\n",
    ],
)
def test_what_is_not_kept(window: bytes) -> None:
    assert repeated(window) is None
