"""BSON, in one place: bodies of frames, and payloads in canonical form.

``bson`` comes with pymongo, whose C code encodes ten times faster than the stand-alone package of that name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from types import NoneType
from typing import Any

import bson
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from vectorizer.errors import VectorizerError, validation

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
PAYLOAD_DEPTH_MAX = 32

_FLAT = frozenset({str, bool, int, float, NoneType})
"""What is stored as it is; of numbers, those that BSON and JSON can hold."""
_LENGTH = Struct("<i")
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(document_class=dict)
_REFERENCE = b"$ref\0"
_SCALARS = frozenset({NoneType, bool, int, Int64, float, str, bytes, Binary})
_SOON_SEARCHED_BYTES = 4096
"""To search 512 KiB of packed vectors takes 240 microseconds, three times as long as to decode them."""


class CodecError(VectorizerError):
    """Bytes that are not a BSON document, or a document that BSON cannot carry."""


def encode(document: Mapping[str, Any]) -> bytes:
    """The document as BSON bytes."""
    try:
        return bson.encode(document)
    except (BSONError, OverflowError, ValueError, TypeError) as error:
        raise CodecError(f"cannot be written as BSON: {error}") from error


def encode_around(
    before: Mapping[str, Any], key: str, value: bytes | memoryview, after: Mapping[str, Any]
) -> list[bytes | memoryview]:
    """The pieces of one document: the fields before, a large binary, the fields after. The binary is not
    copied here; whoever joins the pieces copies it once.
    """
    first, last = encode(before), encode(after)
    name = b"\x05" + key.encode() + b"\0" + _LENGTH.pack(len(value)) + b"\0"  # binary of subtype 0
    size = len(first) + len(name) + len(value) + len(last) - _LENGTH.size - 1
    return [_LENGTH.pack(size) + first[_LENGTH.size : -1] + name, value, last[_LENGTH.size :]]


def encoded(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The document as BSON already, to be put into another one: so a large one is encoded in pieces."""
    return RawBSONDocument(encode(document))


def decode(body: bytes | memoryview) -> dict[str, Any]:
    """The BSON document in these bytes; binary of subtype 0 comes back as ``bytes``."""
    try:
        return bson.decode(body, _OPTIONS)
    except (BSONError, OverflowError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CodecError(f"not a BSON document: {error}") from error


def decode_document(body: bytes) -> dict[str, Any]:
    """As ``decode``, of a document that a client wrote.

    pymongo takes an object with the keys ``$ref`` and ``$id`` for a reference of MongoDB; here it stays an
    object.
    """
    document = decode(body)
    if (len(body) > _SOON_SEARCHED_BYTES and _is_flat(document)) or _REFERENCE not in body:
        return document
    try:
        return {key: _plain(value) for key, value in RawBSONDocument(body).items()}
    except (BSONError, RecursionError) as error:
        raise CodecError(f"not a BSON document: {error}") from error


def _is_flat(document: dict[str, Any]) -> bool:
    """Whether there is no object in it, as far as can be told without going deeper than two levels."""
    lists = [value for value in document.values() if type(value) is list]
    return {*map(type, document.values())} <= {*_SCALARS, list} and all(
        {*map(type, items)} <= _SCALARS for items in lists
    )


def _plain(value: Any) -> Any:
    if isinstance(value, RawBSONDocument):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def encode_payload(payload: Mapping[str, Any] | None) -> bytes:
    """Canonical BSON of a payload: keys sorted at every level. ``None`` is ``b""``.

    Equal payloads have equal bytes, in whatever order a client wrote their keys, so that digests compare.
    Raises RequestError 400 for values that JSON could not give back.
    """
    if payload is None:
        return b""
    try:
        return bson.encode(_canonical_document(payload, 1, ""))
    except (BSONError, OverflowError, ValueError, TypeError) as error:
        raise validation(f"payload cannot be stored: {error}") from error


def encode_flat_payloads(payloads: Sequence[dict[str, Any]]) -> list[bytes] | None:
    """``encode_payload`` of each, if all are flat and can be stored; None: one by one, which says why not.

    One call of the encoder for all, and checks of all values together: 0.5 us a payload instead of 1.7.
    """
    shapes = set(map(tuple, payloads))
    for shape in shapes:
        # The encoder puts _id first, but only in a document that is in no other.
        if set(map(type, shape)) - {str} or "\0" in "".join(shape) or "_id" in shape:
            return None
    values = list(chain.from_iterable([payload.values() for payload in payloads]))
    kinds = set(map(type, values))
    if not kinds <= _FLAT:
        return None
    if int in kinds:
        whole = [value for value in values if type(value) is int]
        if min(whole) < INT64_MIN or max(whole) > INT64_MAX:
            return None
    if float in kinds and not all(map(math.isfinite, [value for value in values if type(value) is float])):
        return None
    if any(list(shape) != sorted(shape) for shape in shapes):
        payloads = [dict(sorted(payload.items())) for payload in payloads]
    try:
        together = bson.encode({"": payloads})
    except (BSONError, OverflowError, ValueError, TypeError):
        return None
    return _documents_of_list(together, len(payloads))


def _documents_of_list(together: bytes, count: int) -> list[bytes]:
    """The objects of the list that is the only element, of no name, of a document."""
    place = _LENGTH.size + 2 + _LENGTH.size  # of the document, type and name of its element, of the list
    documents, length = [], _LENGTH.unpack_from
    for name_bytes in _names_bytes(count):
        place += name_bytes
        end = place + length(together, place)[0]
        documents.append(together[place:end])
        place = end
    return documents


@lru_cache(64)
def _names_bytes(count: int) -> tuple[int, ...]:
    """Of the first elements of a list: bytes of type and name, which is the number."""
    return tuple(2 + len(str(index)) for index in range(count))


def decode_payload(payload: bytes) -> dict[str, Any] | None:
    """The payload of these canonical bytes, ``None`` for ``b""``."""
    return decode_document(payload) if payload else None


def _canonical_document(document: Mapping[str, Any], depth: int, path: str) -> dict[str, Any]:
    if depth > PAYLOAD_DEPTH_MAX:
        raise validation(f"payload is nested {depth} levels deep, the limit is {PAYLOAD_DEPTH_MAX}")
    for key in document:
        if type(key) is not str:
            raise validation(f"payload key {key!r} is not a string")
        if "\0" in key:
            raise validation(f"payload key {key!r} contains a zero byte")
    return {
        key: _canonical(document[key], depth, f"{path}.{key}" if path else key) for key in sorted(document)
    }


def _canonical(value: Any, depth: int, path: str) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int or kind is Int64:
        if not INT64_MIN <= value <= INT64_MAX:
            raise validation(f"payload field {path!r} is {value}, outside the range of 64-bit integers")
        return int(value)
    if kind is float:
        if not math.isfinite(value):
            raise validation(f"payload field {path!r} is {value}; NaN and infinities are not stored")
        return value
    if isinstance(value, Mapping):
        return _canonical_document(value, depth + 1, path)
    if isinstance(value, list):
        if depth >= PAYLOAD_DEPTH_MAX:
            raise validation(f"payload is nested deeper than the limit of {PAYLOAD_DEPTH_MAX} levels")
        return [_canonical(item, depth + 1, f"{path}[{index}]") for index, item in enumerate(value)]
    raise validation(
        f"payload field {path!r} is a {kind.__name__}; "
        "accepted: null, booleans, numbers, strings, lists, objects"
    )
