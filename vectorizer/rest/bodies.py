"""Bodies: bytes of the request to a document, and documents to bytes of the answer.

JSON everywhere; BSON where a route says so. The limit stands before the reading, the depth before the
meaning. A large JSON list is parsed in slices, because one call of the parser would hold the event loop too
long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import NoneType
from typing import Any, Protocol

import gevent
import numpy as np
import orjson

from vectorizer import codec
from vectorizer.errors import RequestError, too_large, unsupported_media_type, validation
from vectorizer.rest.bson_slices import decode_in_slices
from vectorizer.rest.incoming import ARRIVED

JSON = "application/json"
BSON = "application/bson"

READ_BYTES = 256 * 1024
SLICE_BYTES = 512 * 1024
"""Size of the slices in which a large JSON list is parsed: about 4 ms each."""
CONTAINERS_MAX = 300_000
"""Lists and objects in a JSON body: a few megabytes can hold millions, each of them 64 bytes and more."""
COSTS_NS = {b",": 55, b":": 250, b"[": 200, b"{": 200}
"""What the parser takes at most for a value, a key, a list and an object, as measured. It is by far more than
it takes for the bytes of ordinary vectors: 8 MiB of ``1,1,1`` held the event loop for 80 ms, of keys 150 ms.
"""
PARSE_NS_MAX = 45_000_000
"""Longest that one call of the parser may take: it cannot be interrupted, and holds the event loop."""
CHEAP_BYTES = 320 * 1024
"""Below this size no JSON takes long: at most 100 ns a byte, for lists in lists."""
SPLIT_TRIES = 64
"""Commas tried in vain as ends of slices before a body is parsed as a whole."""

_FEW_TEXTS = 100
"""So many are left to the encoder."""

Breathe = Callable[[], None]
"""Lets others run if the caller has held the event loop long enough."""


class Stream(Protocol):
    """``wsgi.input``."""

    def read(self, length: int, /) -> bytes:
        """At most so many bytes; fewer only at the end, or OSError."""


@dataclass(frozen=True)
class BodyLimits:
    """Largest body in bytes, by format, and how long it may take to arrive."""

    json_bytes: int
    bson_bytes: int
    seconds: float

    def of(self, kind: str) -> int:
        """The limit of a content type."""
        return self.bson_bytes if kind == BSON else self.json_bytes


def announced(environ: Mapping[str, Any], limits: BodyLimits, *, bson: bool) -> tuple[str, int]:
    """(content type, largest possible size in bytes) of a body that is still to be read.

    RequestError: 415 for another format, 413 with both numbers if it is announced too large.
    """
    kind = _content_type(environ, bson=bson)
    limit = limits.of(kind)
    length = environ.get("CONTENT_LENGTH")
    size = limit if "HTTP_TRANSFER_ENCODING" in environ else int(length or 0)
    if size > limit:
        raise too_large("the body", size, limit)
    return kind, size


def read_body(environ: Mapping[str, Any], kind: str, limits: BodyLimits) -> bytes:
    """The bytes of a body.

    RequestError: 413 as soon as it is known to be too large, 400 where the client ended it early, 408 if it
    does not come.
    """
    stream: Stream = environ["wsgi.input"]
    if ARRIVED in environ:  # a timer would take 3 us, in vain
        return stream.read(int(environ["CONTENT_LENGTH"]))
    try:
        with gevent.Timeout(limits.seconds, TimeoutError()):
            if "HTTP_TRANSFER_ENCODING" in environ:
                return _read_all(stream, limits.of(kind))
            # At once, without parts to join. What was announced is within the limit.
            return stream.read(int(environ.get("CONTENT_LENGTH") or 0))
    except TimeoutError as error:
        raise RequestError(
            408, "request_timeout", f"the body did not arrive within {limits.seconds:g} s"
        ) from error
    except OSError as error:
        raise validation(f"the body ended early or its chunks are malformed: {error}") from error


def decode_body(kind: str, body: bytes, breathe: Breathe, list_key: str | None = None) -> Any:
    """The document in a body.

    ``list_key``: the only key of a document whose value may be a very long list.
    """
    if not body:
        raise validation("the body is empty; a document is expected")
    if kind == BSON:
        if len(body) > 2 * SLICE_BYTES:
            return decode_in_slices(body, breathe)
        try:
            return codec.decode_document(body)
        except codec.CodecError as error:
            raise validation(f"the body is not valid BSON: {error}") from error
    if len(body) > 2 * CONTAINERS_MAX:
        containers = body.count(b"[") + body.count(b"{")
        if containers > CONTAINERS_MAX:
            raise validation(
                f"the body has {containers} lists and objects, the limit is {CONTAINERS_MAX}",
                limit=CONTAINERS_MAX,
            )
    if list_key is not None and len(body) > 2 * SLICE_BYTES:
        items = _list_in_slices(body, list_key, breathe)
        if items is not None:
            return {list_key: items}
    try:
        return _loads(body)
    except orjson.JSONDecodeError as error:
        raise validation(f"the body is not valid JSON in UTF-8: {error}") from error


def wants_bson(accept: str) -> bool:
    """Whether an Accept header prefers BSON: it names it, with a weight not below JSON's."""
    if BSON not in accept.lower():
        return False
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, _, parameters = part.strip().partition(";")
        found = re.search(r"q=([0-9.]{1,5})", parameters)
        try:
            weights[name.strip()] = float(found.group(1)) if found else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    return 0 < weights.get(BSON, 0) >= weights.get(JSON, 0)


def encode_json(document: Any) -> bytes:
    """JSON bytes; float32 arrays with the shortest digits that read back as the same float32."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def json_texts(texts: Sequence[bytes]) -> Any:
    """A list of texts in UTF-8, for ``encode_json``.

    Many are put together as they are where nothing in them must be escaped: an answer with 1,000 ids takes 26
    us, not 56.
    """
    if len(texts) > _FEW_TEXTS:
        together = b"".join(texts)
        lowest = int(np.frombuffer(together, np.uint8).min(initial=255))
        if lowest >= ord(" ") and b'"' not in together and b"\\" not in together:
            return orjson.Fragment(b'["' + b'","'.join(texts) + b'"]')
    return [text.decode() for text in texts]


def _read_all(stream: Stream, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := stream.read(READ_BYTES):
        size += len(part)
        if size > limit:
            raise too_large("the body", size, limit)
        parts.append(part)
    return b"".join(parts)


def _content_type(environ: Mapping[str, Any], *, bson: bool) -> str:
    accepted = f"{JSON} or {BSON}" if bson else JSON
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding.lower() != "identity":
        raise RequestError(
            415,
            "unsupported_media_type",
            f"Content-Encoding {encoding[:64]!r} is not supported; send the body as it is",
        )
    given = environ.get("CONTENT_TYPE") or JSON
    kind = given.partition(";")[0].strip().lower()
    if kind == JSON or (bson and kind == BSON):
        return str(kind)
    raise unsupported_media_type(given[:64], accepted)


def _list_in_slices(body: bytes, key: str, breathe: Breathe) -> list[Any] | None:
    """The items of ``{"key": [...]}``, parsed in slices; None if the body does not have this shape.

    A slice ends before a comma. If ``[slice]`` is valid JSON, then that comma stood between two items: the
    grammar is deterministic, so after the same bytes any parser is in the same state. A comma inside a string
    or an object leaves brackets or quotes open, the slice does not parse, and the next comma is tried.
    """
    head = re.match(rb'\s*\{\s*"' + key.encode() + rb'"\s*:\s*\[', body)
    tail = re.search(rb"\]\s*\}\s*\Z", body[-64:])
    if head is None or tail is None:
        return None
    position, stop = head.end(), max(len(body) - 64, 0) + tail.start()
    items: list[Any] = []
    tries = SPLIT_TRIES
    while position < stop:
        end = body.find(b"},", min(position + SLICE_BYTES, stop), stop) + 1 or stop
        part = _parsed(body[position:end])
        while part is None and end < stop and tries > 0:
            tries -= 1
            breathe()
            end = body.find(b"},", end, stop) + 1 or stop
            part = _parsed(body[position:end])
        if not part:
            return None
        items.extend(part)
        position = end + 1
        breathe()
    # One beyond the end: the last slice reached it. A comma just before it would leave the position there.
    return items if position == stop + 1 else None


def _loads(text: bytes) -> Any:
    """Parse at once; RequestError 400 if that could hold the event loop for too long."""
    if len(text) > CHEAP_BYTES:
        cost_ns = sum(_count(text, mark) * each for mark, each in COSTS_NS.items())
        if cost_ns > PARSE_NS_MAX:
            raise validation(
                f"a part of the body ({len(text)} bytes) has so many values, keys, lists and objects that "
                f"reading it could take {cost_ns // 1_000_000} ms, the limit is "
                f"{PARSE_NS_MAX // 1_000_000} ms; send less in one request, or BSON",
                limit_ms=PARSE_NS_MAX // 1_000_000,
            )
    return orjson.loads(text)


def _count(text: bytes, mark: bytes) -> int:
    """How often a byte occurs: with the commas of vectors 12 times as fast as ``count`` of bytes, which takes
    a third of the time of parsing.
    """
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == mark[0]))


def may_have_booleans(text: bytes) -> bool:
    """Whether ``true`` or ``false`` can be in a JSON text.

    One byte is looked for first, for the words are found no faster than the text is parsed.
    """
    return (b"u" in text and b"true" in text) or (b"f" in text and b"false" in text)


def _parsed(part: bytes) -> list[Any] | None:
    try:
        items: list[Any] = _loads(b"[" + part + b"]")
    except orjson.JSONDecodeError:
        return None
    return items


def check_depth(document: Any, depth_max: int, breathe: Breathe, list_key: str | None = None) -> None:
    """RequestError 400 if objects and lists are nested deeper than that.

    What is called ``vector`` in the items of the list under ``list_key`` is left to its reader, which takes
    flat lists only and does not go into others: it is most of a batch, and looking at it took half as long as
    parsing it.
    """
    level: list[Any] = [document]
    for number in range(depth_max):
        flat_key = "vector" if list_key is not None and number == _ITEMS_LEVEL else None
        level = _containers(level, breathe, flat_key)
        if not level:
            return
    raise validation(f"the body is nested more than {depth_max} levels deep", limit=depth_max)


_ITEMS_LEVEL = 2
"""Of the items of a list in a document, which is level 0."""
_OBJECTS_AT_ONCE = 64
_CONTAINERS = (dict, list, Mapping)
_SCALARS = frozenset({int, float, str, bool, NoneType, bytes})


def _containers(values: list[Any], breathe: Breathe, flat_key: str | None) -> list[Any]:
    """The objects and lists directly inside these values.

    Objects are looked at together: 100 items with a payload each take 40 us instead of 120.
    """
    found: list[Any] = []
    only_objects = set(map(type, values)) == {dict}  # as nearly always
    objects: list[Mapping[str, Any]] = values if only_objects else []
    for value in () if only_objects else values:
        if isinstance(value, list):
            breathe()
            found += _only_containers(value)
        elif isinstance(value, (dict, Mapping)):  # a dict is recognised without asking the abstract class
            objects.append(value)
    for start in range(0, len(objects), _OBJECTS_AT_ONCE):
        part = objects[start : start + _OBJECTS_AT_ONCE]
        if flat_key is None:
            inside = list(chain.from_iterable([value.values() for value in part]))
        else:
            inside = [item for value in part for key, item in value.items() if key != flat_key]
        found += _only_containers(inside)
        breathe()
    return found


def _only_containers(values: list[Any]) -> list[Any]:
    # A list of numbers, such as a vector, is recognised at the speed of C.
    kinds = set(map(type, values)) - _SCALARS
    if not kinds:
        return []
    # Types are asked, not values: the abstract class takes 0.4 us for each text.
    wanted = {kind for kind in kinds if issubclass(kind, _CONTAINERS)}
    return [value for value in values if type(value) in wanted]
