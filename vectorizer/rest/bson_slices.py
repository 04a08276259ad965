"""Large BSON bodies, decoded in slices.

One call of the decoder on a list of ten thousand objects holds the event loop for tens of milliseconds, and
on millions of nulls, a few megabytes, for much longer. Here the elements of a long list are only measured,
which needs no more than the sizes of their types, and handed to the decoder a slice at a time. What does not
look as expected is left to the decoder as a whole, which says what is wrong with it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from vectorizer import codec
from vectorizer.errors import RequestError, validation

SLICE_BYTES = 256 * 1024
ITEMS_MAX = 300_000
"""Items of one list; a batch has far fewer."""
_MEASURED_BETWEEN_BREATHS = 2048

_LIST = 0x04
# Sizes of values by the type of the element: fixed, or a length that stands first (plus what it does not
# count).
_FIXED = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
_PREFIXED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5}
_LENGTH = struct.Struct("<i")


class Unmeasurable(ValueError):
    """Not the usual shape, or not BSON at all: for the decoder to judge."""


def decode_in_slices(body: bytes, breathe: Callable[[], None]) -> dict[str, Any] | None:
    """The document in a body; None if it cannot be measured. RequestError 400 for a list beyond ITEMS_MAX."""
    try:
        return _document(body, breathe)
    except (Unmeasurable, struct.error, IndexError, ValueError):
        return None


def _document(body: bytes, breathe: Callable[[], None]) -> dict[str, Any]:
    if _LENGTH.unpack_from(body)[0] != len(body) or body[-1] != 0:
        raise Unmeasurable
    document: dict[str, Any] = {}
    position, stop = 4, len(body) - 1
    while position < stop:
        kind, start, end = _element(body, position, stop)
        name = body[position + 1 : start - 1].decode()
        if name in document:
            raise Unmeasurable
        if kind == _LIST and end - start > SLICE_BYTES:
            document[name] = _list(body, start, end, name, breathe)
        else:
            document.update(_decoded(body[position:end]))
        position = end
    return document


def _list(body: bytes, start: int, end: int, name: str, breathe: Callable[[], None]) -> list[Any]:
    items: list[Any] = []
    first = position = start + 4
    stop = end - 1
    count = 0
    while position < stop:
        _, _, position = _element(body, position, stop)
        count += 1
        if count > ITEMS_MAX:
            raise _too_many(name)
        if position - first >= SLICE_BYTES or position >= stop:
            items.extend(_decoded_list(body[first:position]))
            first = position
            breathe()
        elif count % _MEASURED_BETWEEN_BREATHS == 0:
            breathe()
    if position != stop or body[stop] != 0:
        raise Unmeasurable
    return items


def _element(body: bytes, position: int, stop: int) -> tuple[int, int, int]:
    """(type, first byte of the value, first byte after it) of the element at a position."""
    kind = body[position]
    start = body.index(0, position + 1, stop) + 1
    size = _FIXED.get(kind)
    if size is None:
        extra = _PREFIXED.get(kind)
        if extra is None:
            raise Unmeasurable
        length = _LENGTH.unpack_from(body, start)[0]
        if length < 0:
            raise Unmeasurable
        size = length + extra
    if (size == 0 and kind in (0x03, 0x04)) or start + size > stop:
        raise Unmeasurable
    return kind, start, start + size


def _decoded(elements: bytes) -> dict[str, Any]:
    try:
        return codec.decode(_LENGTH.pack(len(elements) + 5) + elements + b"\0")
    except codec.CodecError as error:
        raise Unmeasurable from error


def _decoded_list(elements: bytes) -> list[Any]:
    inner = _LENGTH.pack(len(elements) + 5) + elements + b"\0"
    items: list[Any] = _decoded(b"\x04a\0" + inner)["a"]
    return items


def _too_many(name: str) -> RequestError:
    return validation(f"{name} has more than {ITEMS_MAX} items", field=name, limit=ITEMS_MAX)
