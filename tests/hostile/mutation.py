"""Mutations that keep an input looking like one: frames with right checksums, documents with wrong fields.

An input of most targets is a stream of frames (length | CRC32 | BSON); of REST, a head of lines and a body.
Bytes changed at random would fail at the first checksum; here a document is taken apart, changed at some
place, and put together again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from zlib import crc32

import bson
from bson.errors import BSONError

FRAMES_MAX = 64
_FRAME = struct.Struct(">II")
Mutate = Callable[[bytes, int], bytes]
"""The fuzzer's own: bytes, size at most."""

_STRANGE: tuple[Any, ...] = (
    None,
    True,
    0,
    1,
    -1,
    255,
    65_536,
    2**31 - 1,
    -(2**31),
    2**40,
    2**63 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "things",
    "../../etc",
    "a\0b",
    "\ud7ff\U0010ffff",
    "x" * 300,
    b"",
    b"\0" * 32,
    b"\xff" * 64,
    [],
    [[]],
    {},
    {"": None},
    {"$x": 1},
)


def frames(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of what looks like frames; the last may be cut."""
    place = 0
    for _ in range(FRAMES_MAX):
        if place + _FRAME.size >= len(data):
            return
        following, _ = _FRAME.unpack_from(data, place)
        end = place + 4 + following
        if following < 5 or end > len(data):
            return
        yield place, end
        place = end


def resealed(data: bytes) -> bytes:
    """The same with the right CRC32 in each frame; what is behind the last whole one stays as it is."""
    content = bytearray(data)
    for start, end in frames(data):
        content[start + 4 : start + 8] = struct.pack(">I", crc32(content[start + 8 : end]))
    return bytes(content)


def sealed(body: bytes) -> bytes:
    """A frame of this body."""
    return _FRAME.pack(len(body) + 4, crc32(body)) + body


def mutated_frames(data: bytes, size_max: int, seed: int, mutate: Mutate) -> bytes:
    """A custom mutator for streams of frames."""
    random = Random(seed)
    if random.random() < 0.25:
        return resealed(mutate(data, size_max))
    pieces = [data[start:end] for start, end in frames(data)]
    if not pieces:
        return mutate(data, size_max)
    tail = data[sum(map(len, pieces)) :]
    number = random.randrange(len(pieces))
    act = random.random()
    if act < 0.08:
        del pieces[number]
    elif act < 0.16:
        pieces.insert(random.randrange(len(pieces) + 1), pieces[number])
    elif act < 0.22:
        other = random.randrange(len(pieces))
        pieces[number], pieces[other] = pieces[other], pieces[number]
    else:
        pieces[number] = sealed(mutated_document(pieces[number][8:], random, mutate))
    return b"".join([*pieces, tail])[:size_max]


def mutated_document(body: bytes, random: Random, mutate: Mutate) -> bytes:
    """BSON with one to three changes; bytes that are none are changed as such."""
    try:
        document = bson.decode(body)
        for _ in range(random.randint(1, 3)):
            document = changed(document, random, mutate)
        return bson.encode(document) if isinstance(document, dict) else mutate(body, 1 << 16)
    except (BSONError, OverflowError, ValueError, TypeError, RecursionError):
        return mutate(body, 1 << 16)


def changed(value: Any, random: Random, mutate: Mutate) -> Any:
    """The value with one change somewhere in it."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        act = random.random()
        if act < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if act < 0.15:
            return {**value, random.choice(["x", "m", "o", key + "x"]): random.choice(_STRANGE)}
        if act < 0.2:
            return {**value, key: value[random.choice(list(value))]}
        return {**value, key: changed(value[key], random, mutate)}
    if isinstance(value, list) and value and random.random() < 0.9:
        index = random.randrange(len(value))
        act = random.random()
        if act < 0.1:
            return value[:index] + value[index + 1 :]
        if act < 0.2:
            return [*value, *value[index:]]
        return [*value[:index], changed(value[index], random, mutate), *value[index + 1 :]]
    return _changed_leaf(value, random, mutate)


def _changed_leaf(value: Any, random: Random, mutate: Mutate) -> Any:
    if random.random() < 0.4:
        return random.choice(_STRANGE)
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return int(value) + random.choice((-1, 1, 7, -int(value) * 2, 1 << random.randrange(62)))
    if isinstance(value, bytes):
        return mutate(value, len(value) + 16) if random.random() < 0.7 else value * 2
    if isinstance(value, str):
        return mutate(value.encode("utf-8", "surrogatepass"), len(value) + 16).decode("utf-8", "replace")
    return random.choice((value, value, *_STRANGE))


def mutated_request(data: bytes, size_max: int, seed: int, mutate: Mutate) -> bytes:
    """A custom mutator for requests: head, empty line, body of JSON or BSON."""
    random = Random(seed)
    head, _, body = data.partition(b"\n\n")
    act = random.random()
    if act < 0.15:
        head = mutate(head, 2000)
    elif act < 0.25:
        body = mutate(body, size_max)
    elif b"application/bson" in head:
        body = mutated_document(body, random, mutate)
    else:
        try:
            document = json.loads(body or b"null")
            for _ in range(random.randint(1, 3)):
                document = changed(document, random, mutate)
            body = json.dumps(document, default=lambda value: value.hex()).encode()
        except (ValueError, RecursionError):
            body = mutate(body, size_max)
    return (head + b"\n\n" + body)[:size_max]
